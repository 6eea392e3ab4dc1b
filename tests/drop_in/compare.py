"""Send the same request through httpx's own transport and through the agent's, and compare the responses."""

from __future__ import annotations

import functools
import gc
import ssl
import warnings
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from httpx_agent import AgentTransport
from tests.support.worlds import AwaitableStream, World

Factory = Callable[..., Any]
"""Makes a transport of the arguments that both kinds share."""

TIMEOUT = httpx.Timeout(5.0)

CONTEXT = ssl.create_default_context()
"""For the transports that get no `verify`: a context of httpx's own takes 30 ms each time."""


def stock(world: World) -> Factory:
    """Httpx's transport for this world."""
    return functools.partial(httpx.HTTPTransport if world.is_sync else httpx.AsyncHTTPTransport, verify=CONTEXT)


def agent(world: World) -> Factory:
    """The agent's, which is the same for all worlds."""
    return functools.partial(AgentTransport, verify=CONTEXT)


def both(world: World) -> list[Factory]:
    """First httpx's own, then the agent's."""
    return [stock(world), agent(world)]


@dataclass
class Answer:
    """All that a caller can see of a response, except what differs by nature (`agent`, `network_stream`)."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    extensions: dict[str, Any]
    has_network_stream: bool
    history: list[int] = field(default_factory=list)
    cookies: dict[str, str] = field(default_factory=dict)


@dataclass
class Failure:
    """All that a caller can rely on of an exception."""

    kind: type[BaseException]
    url: str | None


async def describe(response: Any) -> Answer:
    """What a response that was read looks like."""
    extensions = dict(response.extensions)
    extensions.pop("agent", None)
    stream = extensions.pop("network_stream", None)
    return Answer(
        response.status_code,
        response.headers.raw,
        response.content,
        extensions,
        stream is not None,
        [earlier.status_code for earlier in response.history],
        dict(response.cookies),
    )


async def attempt(call: Callable[[], Awaitable[Any]]) -> Answer | Failure:
    """What becomes of a request."""
    try:
        response = await call()
    except Exception as exc:
        request = getattr(exc, "_request", None)
        return Failure(type(exc), None if request is None else str(request.url))
    return await describe(response)


async def outcomes(
    world: World,
    method: str,
    url: str,
    *,
    options: Callable[[], Mapping[str, Any]] = dict,
    content: Callable[[World], Any] | None = None,
    client: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> list[Answer | Failure]:
    """What httpx's own transport makes of a request, and what the agent's makes of it.

    Args:
        world: Where.
        method: The method.
        url: The URL.
        options: Makes the constructor's arguments; called for each transport, since contexts are changed by use.
        content: Makes the body; called for each transport, since some can be read only once.
        client: Arguments of the client.
        **kwargs: Those of the request.
    """
    found = []
    for number, factory in enumerate(both(world)):

        async def send(factory: Factory = factory) -> Answer | Failure:
            body = {} if content is None else {"content": content(world)}
            async with world.client(
                **{"timeout": TIMEOUT, **(client or {}), "transport": factory(**options())}
            ) as session:
                return await attempt(lambda: session.request(method, url, **body, **kwargs))

        # Where httpx leaves a socket open, its warning must not fail the test; the agent's must.
        with warnings.catch_warnings():
            if number == 0:
                warnings.simplefilter("ignore", ResourceWarning)
            found.append(await send())
            gc.collect()
    return found


async def same(world: World, method: str, url: str, **kwargs: Any) -> Any:
    """The outcome, once it is clear that it is the same both ways."""
    expected, actual = await outcomes(world, method, url, **kwargs)

    assert expected == actual

    return actual


def network_stream(world: World, response: Any) -> AwaitableStream:
    """The stream that a response came over."""
    return AwaitableStream(world, response.extensions["network_stream"])
