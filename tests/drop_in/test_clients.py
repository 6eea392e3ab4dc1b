"""Everything that httpx's clients do with a transport works with the agent's as with httpx's own."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from httpx_agent import AgentTransport, RequestInfo
from tests.drop_in.compare import both, same
from tests.support.servers import Server
from tests.support.worlds import World

pytestmark = [pytest.mark.both_engines, pytest.mark.sweep(strength=1)]


async def test_redirects(world: World, server: Server) -> None:
    answer = await same(world, "GET", f"{server.url}/redirect/3", client={"follow_redirects": True})

    assert (answer.status, answer.history) == (200, [302, 302, 302])


async def test_too_many_redirects(world: World, server: Server) -> None:
    failure = await same(
        world, "GET", f"{server.url}/redirect/9", client={"follow_redirects": True, "max_redirects": 5}
    )

    assert failure.kind is httpx.TooManyRedirects


async def test_cookies(world: World, server: Server) -> None:
    answer = await same(world, "GET", f"{server.url}/cookies")

    assert answer.cookies == {"a": "1", "b": "2"}


async def test_cookies_come_back_with_the_next_request(world: World, server: Server) -> None:
    for factory in both(world):
        async with world.client(transport=factory()) as client:
            await client.get(f"{server.url}/cookies")
            await client.get(f"{server.url}/echo")
        assert server.requests[-1].get("cookie") == "a=1; b=2"


@pytest.mark.parametrize(
    ("path", "auth", "statuses"),
    [
        ("/basic", lambda: ("user", "pass"), (200, [])),
        ("/basic", lambda: ("user", "wrong"), (401, [])),
        ("/digest", lambda: httpx.DigestAuth("user", "pass"), (200, [401])),
    ],
)
async def test_authentication(
    world: World, server: Server, path: str, auth: Any, statuses: tuple[int, list[int]]
) -> None:
    found = []
    for factory in both(world):
        async with world.client(transport=factory(), auth=auth()) as client:
            response = await client.get(server.url + path)
        found.append((response.status_code, [earlier.status_code for earlier in response.history]))

    assert found == [statuses] * 2


async def test_event_hooks_see_the_response_before_its_body(world: World, server: Server) -> None:
    for factory in both(world):
        seen: list[Any] = []
        hooks = {
            "request": [world.callback(lambda request: seen.append(request.method))],  # noqa: B023
            "response": [world.callback(lambda response: seen.append(response.is_stream_consumed))],  # noqa: B023
        }
        async with world.client(transport=factory(), event_hooks=hooks) as client:
            response = await client.get(f"{server.url}/bytes/3")
        assert seen == ["GET", False]
        assert response.elapsed.total_seconds() > 0


async def test_one_transport_in_several_places_of_a_client(world: World, server: Server) -> None:
    """The client enters and closes it once for each."""
    for factory in both(world):
        transport = factory()
        before = server.accepted
        mounts = {"http://": transport, "all://127.0.0.1": transport}
        async with world.client(transport=transport, mounts=mounts) as client:
            assert (await client.get(f"{server.url}/bytes/3")).status_code == 200
        server.wait_closed()
        assert server.accepted == before + 1


async def test_closing_without_entering(world: World, server: Server) -> None:
    for factory in both(world):
        unused = factory()
        await world.close(unused)
        client = world.client(transport=factory())
        assert (await client.get(f"{server.url}/bytes/3")).status_code == 200
        await world.close(client)
        server.wait_closed()
        with pytest.raises(RuntimeError, match="closed"):
            await client.get(server.url)


async def test_a_transport_can_be_closed_twice_and_used_after(world: World, server: Server) -> None:
    for factory in both(world):
        transport = factory()
        for _ in range(2):
            request = httpx.Request("GET", f"{server.url}/bytes/3")
            response = await world.handle(transport, request)
            assert await response.aread() == b"\0\1\2"
            await response.aclose()
            await world.close(transport)
            await world.close(transport)
            server.wait_closed()


async def test_wrapped_by_another_transport(world: World, server: Server) -> None:
    """A wrapper calls `handle_request` and never enters the transport inside."""

    class Wrapper(httpx.BaseTransport, httpx.AsyncBaseTransport):
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            return self.inner.handle_request(request)

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return await self.inner.handle_async_request(request)

        def close(self) -> None:
            self.inner.close()

        async def aclose(self) -> None:
            await self.inner.aclose()

    for factory in both(world):
        async with world.client(transport=Wrapper(factory())) as client:
            assert (await client.get(f"{server.url}/bytes/3")).content == b"\0\1\2"
        server.wait_closed()


async def test_the_one_extension_that_the_agent_adds(world: World, server: Server) -> None:
    async with world.client(transport=AgentTransport(verify=False)) as client:
        infos = [(await client.get(f"{server.url}/bytes/3")).extensions["agent"] for _ in range(2)]

    assert all(isinstance(info, RequestInfo) for info in infos)
    assert [(info.socket_id, info.reused, info.requests_on_socket, info.retried) for info in infos] == [
        (0, False, 1, False),
        (0, True, 2, False),
    ]
    assert infos[0].idle_for is None
    assert infos[1].idle_for >= 0


def test_it_is_both_kinds_of_transport() -> None:
    transport = AgentTransport(verify=False)

    assert isinstance(transport, httpx.HTTPTransport)
    assert isinstance(transport, httpx.AsyncHTTPTransport)
    transport.close()


@pytest.mark.parametrize(
    "arguments",
    [
        (False,),
        (False, None, False),
        (False, None, True, True, True, httpx.Limits(), None, None, None, 2, []),
    ],
    ids=len,
)
def test_positional_arguments_keep_their_places(arguments: tuple[Any, ...]) -> None:
    for kind in (httpx.HTTPTransport, httpx.AsyncHTTPTransport, AgentTransport):
        kind(*arguments)


def test_arguments_against_the_rules() -> None:
    for kind in (httpx.HTTPTransport, AgentTransport):
        with pytest.raises(TypeError):
            kind(nonsense=1)
        with pytest.raises((TypeError, AttributeError)):
            kind(proxy=5)
