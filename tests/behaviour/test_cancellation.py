"""A request is cancelled at every step of its way: no slot and no socket is lost, and the next request is served."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import FIN, HANG, REFUSED, Network, Script, chunked, respond

CONTEXT = ssl.create_default_context()
URL = "http://a.test/"
SECURE = "https://a.test/"
Scenario = Callable[[httpx.AsyncClient], Awaitable[Any]]


async def get(client: httpx.AsyncClient) -> None:
    await client.get(URL)


async def get_securely(client: httpx.AsyncClient) -> None:
    await client.get(SECURE)


async def post_a_stream(client: httpx.AsyncClient) -> None:
    await client.post(URL, content=Parts())


class Parts:
    """A body; not an async generator, because trio warns of one that is dropped half-way."""

    left = 3

    def __aiter__(self) -> Parts:
        return self

    async def __anext__(self) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise StopAsyncIteration
        return b"part"


async def read_half(client: httpx.AsyncClient) -> None:
    async with client.stream("GET", URL) as response:
        async for _ in response.aiter_raw(1):
            break


async def read_nothing(client: httpx.AsyncClient) -> None:
    async with client.stream("GET", URL):
        pass


async def reuse(client: httpx.AsyncClient) -> None:
    await client.get(URL)
    await client.get(URL)


async def go_elsewhere(client: httpx.AsyncClient) -> None:
    """The free socket of one origin is closed for another."""
    await client.get(URL)
    await client.get("http://b.test/")


async def wait_in_line(client: httpx.AsyncClient) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(client.get, URL)


async def wait_for_another_origin(client: httpx.AsyncClient) -> None:
    async with anyio.create_task_group() as group:
        for host in "abca":
            group.start_soon(get_and_ignore, client, f"http://{host}.test/")


async def close_while_in_flight(client: httpx.AsyncClient) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(get_and_ignore, client)
        await anyio.lowlevel.checkpoint()
        await client._transport.agent.aclose()  # type: ignore[attr-defined]


async def get_and_ignore(client: httpx.AsyncClient, url: str = URL) -> None:
    with suppress(httpx.TransportError):
        await client.get(url)


ok = respond(b"ok")
CASES: dict[str, tuple[Scenario, Callable[[], Network], dict[str, Any]]] = {
    "a request": (get, lambda: Network(default=Script(then=ok)), {}),
    "a request over TLS": (get_securely, lambda: Network(default=Script(then=ok)), {}),
    "a body that streams up": (post_a_stream, lambda: Network(default=Script(then=ok)), {}),
    "a chunked response": (get, lambda: Network(default=Script(then=chunked(b"a", b"b", b"c"))), {}),
    "a response that ends with the connection": (
        get,
        lambda: Network(default=Script(then=[respond(b"abc", length=False), FIN])),
        {},
    ),
    "a response read half": (read_half, lambda: Network(default=Script(then=chunked(b"ab", b"cd", b"ef"))), {}),
    "a response not read": (read_nothing, lambda: Network(default=Script(then=chunked(b"ab", HANG, end=False))), {}),
    "a free socket": (reuse, lambda: Network(default=Script(then=ok)), {}),
    "a stale socket": (reuse, lambda: Network(Script(ok, FIN), default=Script(then=ok)), {}),
    "a socket for another origin": (go_elsewhere, lambda: Network(default=Script(then=ok)), {}),
    "three in line": (wait_in_line, lambda: Network(default=Script(then=ok)), {}),
    "three in line, sockets not kept": (
        wait_in_line,
        lambda: Network(default=Script(then=respond(b"ok", headers=[("Connection", "close")]))),
        {},
    ),
    "three origins in line": (wait_for_another_origin, lambda: Network(default=Script(then=ok)), {}),
    "three origins, connections refused": (
        wait_for_another_origin,
        lambda: Network(Script(connect=REFUSED), default=Script(then=ok)),
        {},
    ),
    "an agent that closes": (close_while_in_flight, lambda: Network(default=Script(then=ok)), {}),
    "retries": (get, lambda: Network(*[Script(connect=REFUSED)] * 2, default=Script(then=ok)), {"retries": 2}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("way", ["asyncio scope", "asyncio task", "trio scope"])
def test_cancelled_at_every_step(case: str, way: str) -> None:
    """Cancelled after 0, 1, 2 … steps of the scheduler, until it was too late to cancel."""
    scenario, make_network, options = CASES[case]
    backend = way.split()[0]
    for steps in range(1000):
        if anyio.run(cancel_after, steps, scenario, make_network, options, way, backend=backend):
            assert steps > 1
            return
    raise AssertionError("never came to its end")


async def cancel_after(
    steps: int, scenario: Scenario, make_network: Callable[[], Network], options: dict[str, Any], way: str
) -> bool:
    network = make_network()
    agent = Agent(max_sockets=1, max_total_sockets=1, verify=CONTEXT, **network.options, **options)
    async with httpx.AsyncClient(transport=AgentTransport(agent=agent), timeout=5, trust_env=False) as client:
        cancelled = await (cancel_task if way == "asyncio task" else cancel_scope)(scenario, client, steps)
        await anyio.wait_all_tasks_blocked()
        check_the_books(agent, network)
        assert len(client._transport._pool._requests) == 0  # type: ignore[attr-defined]
        network.scripts, network.default = (), Script(then=ok)
        for connection in network.connections:
            if connection.is_open:
                connection.script = network.default
        for url in (URL, "http://c.test/", URL):
            response = await client.get(url, timeout=httpx.Timeout(5, pool=0.5))
            assert response.text in ("ok", "abc")
        check_the_books(agent, network)
    await agent.aclose()
    check_the_books(agent, network)
    assert network.open == 0
    assert network.peak <= 1
    return not cancelled


def check_the_books(agent: Agent, network: Network) -> None:
    """The agent's numbers agree with each other and with the network."""
    status = agent.status()
    held = sum(status.sockets.values()) + sum(status.free_sockets.values())
    assert status.create_socket_count == (
        status.create_socket_error_count + status.close_socket_count + status.detached_socket_count + held
    )
    assert network.open == held, (network.ops, status)
    assert not status.sockets
    assert not status.requests
    assert len(network.connections) <= status.create_socket_count + 10
    assert agent._dispatcher._tickets == {}
    assert len(agent._dispatcher._sockets) == held


async def cancel_scope(scenario: Scenario, client: httpx.AsyncClient, steps: int) -> bool:
    finished = False

    async def run() -> None:
        nonlocal finished
        with scope:
            try:
                await scenario(client)
                finished = True
            except httpx.TransportError:
                finished = True

    scope = anyio.CancelScope()
    async with anyio.create_task_group() as group:
        group.start_soon(run)
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        scope.cancel()
    return not finished


async def cancel_task(scenario: Scenario, client: httpx.AsyncClient, steps: int) -> bool:
    task = asyncio.ensure_future(scenario(client))
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return True
    except (httpx.TransportError, BaseExceptionGroup):
        pass
    return False
