"""Events on an idle connection between two requests do as little harm as with httpx's own transport."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.drop_in.compare import agent, both
from tests.support.servers import Certificates, Server
from tests.support.worlds import World

pytestmark = [pytest.mark.both_engines, pytest.mark.sweep(strength=1)]


def https(certificates: Certificates) -> dict[str, Any]:
    return {"verify": certificates.client(), "http2": False}


@pytest.mark.parametrize("how", ["close_idle", "reset_idle", "send_idle"])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_a_server_that_ends_idle_connections(
    world: World, server: Server, tls_server: Server, certificates: Certificates, how: str, method: str, tls: bool
) -> None:
    target = tls_server if tls else server
    arguments = (b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n",) if how == "send_idle" else ()
    for factory in both(world):
        async with world.client(transport=factory(**https(certificates))) as client:
            for _ in range(3):
                content = world.body([b"123"]) if method == "POST" else None
                response = await client.request(method, f"{target.url}/echo", content=content)
                assert (response.status_code, response.json()["method"]) == (200, method)
                getattr(target, how)(*arguments)

    assert target.requests_per_connection == [1] * 6


@pytest.mark.parametrize(
    "extra", [b"x", b"\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"], ids=["byte", "newline", "response"]
)
async def test_bytes_behind_a_response_are_never_taken_for_the_next_one(
    world: World, server: Server, extra: bytes
) -> None:
    """Httpx's own pool takes them for it: there the second request fails, or gets a response that is not its own."""
    server.raw["/more"] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + extra
    async with world.client(transport=agent(world)()) as client:
        for _ in range(3):
            assert (await client.get(f"{server.url}/more")).content == b"ok"
            assert (await client.get(f"{server.url}/bytes/3")).content == b"\0\1\2"


async def test_an_http2_server_that_says_goodbye(world: World, h2_server: Server, certificates: Certificates) -> None:
    for factory in both(world):
        async with world.client(transport=factory(verify=certificates.client(), http2=True)) as client:
            for _ in range(3):
                assert (await client.get(f"{h2_server.url}/bytes/3")).http_version == "HTTP/2"
                h2_server.goaway()
                h2_server.wait_closed()

    assert h2_server.requests_per_connection == [1] * 6


async def test_many_requests_at_once_on_few_connections(world: World, server: Server) -> None:
    """Httpx's own pool, in threads, now and then closes a connection that it has given to a request (B7)."""
    transport = agent(world)(limits=httpx.Limits(max_connections=3))
    async with world.client(transport=transport, timeout=10.0) as client:
        calls = [lambda number=number: client.get(f"{server.url}/bytes/{number}") for number in range(60)]
        responses = await world.gather(*calls)

    assert [len(response.content) for response in responses] == list(range(60))
    assert sum(server.requests_per_connection) == 60
    assert server.accepted <= 3


def test_a_loop_may_end_while_the_server_hangs_up(world: World, server: Server) -> None:
    """Whoever watches the free sockets may hear of it at any moment of the loop's end."""

    async def main() -> None:
        async with world.client(transport=agent(world)()) as client:
            await client.get(f"{server.url}/bytes/3")
            server.close_idle()

    for _ in range(20):
        world.run(main)

    server.wait_closed()
    assert server.requests_per_connection == [1] * 20
