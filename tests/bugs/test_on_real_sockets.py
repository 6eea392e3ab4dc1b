"""Some bugs again over real sockets, where the fast HTTP/1.1 engine serves too: B1, B9, B10, B14, B19, B20.

The tests beside this file have a network without sockets, over which only h11 speaks. The cancellations (B1, B2, B17,
B18) are also swept over real sockets, at every suspension: `tests/integration/test_cancellation.py`.
"""

from __future__ import annotations

import gc
import itertools
import socket
import struct
import warnings
from typing import Any

import httpx
import pytest

from tests.bugs.stock import Stack
from tests.engine.raw import Peer, raw_server
from tests.support.servers import Server
from tests.support.worlds import World, cancel_at

POOL = {"connect": 5.0, "read": 5.0, "write": 5.0, "pool": 0.5}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.in_loops
async def test_b01_cancelled_at_every_step_of_opening(world: World, stack: Stack, server: Server) -> None:
    """On httpx it passes: where it is suspended over real sockets, it bears a cancellation of this kind."""
    transport = stack.transport(is_sync=False, max_total_sockets=1)
    async with world.client(transport=transport) as client:

        async def get() -> None:
            await client.get(f"{server.url}/close")

        for step in itertools.count(1):
            if not await cancel_at(step, get):
                break
            response = await client.get(f"{server.url}/close", timeout=httpx.Timeout(5.0, pool=0.5))
            assert response.status_code == 200
    server.wait_closed()


@pytest.mark.parametrize("how", ["unread", "half read"])
async def test_b09_and_b14_a_dropped_response(world: World, stack: Stack, server: Server, how: str) -> None:
    """httpx: `PoolTimeout`."""
    transport = stack.transport(is_sync=world.is_sync, max_total_sockets=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(5):
            await drop(world, transport, f"{server.url}/bytes/3000000", how)
            gc.collect()
            await world.settle()  # the loop ends httpx's own generator, which held it
    assert len(transport._pool._requests) == 0
    await world.close(transport)
    server.wait_closed()


async def drop(world: World, transport: Any, url: str, how: str) -> None:
    """Asks for a response, in this thread, and forgets it."""
    request = httpx.Request("GET", url, extensions={"timeout": POOL})
    if world.is_sync:
        response = transport.handle_request(request)
        if how == "half read":
            assert next(iter(response.stream))
    else:
        response = await transport.handle_async_request(request)
        if how == "half read":
            assert await anext(aiter(response.stream))


@pytest.mark.parametrize("end", ["FIN", "RST"])
async def test_b10_a_socket_that_the_server_closes_as_the_request_comes(world: World, stack: Stack, end: str) -> None:
    """httpx: `RemoteProtocolError`, or `ReadError` after a reset."""

    def serve(peer: Peer) -> None:
        peer.read_head()
        peer.send(OK)
        peer.read_head()  # and hangs up
        if end == "RST":
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with raw_server(serve) as url:
        transport = stack.transport(is_sync=world.is_sync)
        async with world.client(transport=transport) as client:
            for _ in range(2):
                assert (await client.get(url)).text == "ok"


async def test_b19_a_socket_counts_until_it_is_closed(world: World, stack: Stack, server: Server) -> None:
    """On httpx it passes: closing takes no time here."""
    transport = stack.transport(is_sync=world.is_sync, max_total_sockets=2)
    async with world.client(transport=transport, timeout=30) as client:
        for path in ("echo", "close"):
            urls = [f"http://{host}:{server.port}/{path}" for host in ("127.0.0.1", "localhost")]
            responses = await world.gather(*[lambda url=url: client.get(url) for url in urls * 10])
            assert [response.status_code for response in responses] == [200] * 20
        if not stack.is_stock:
            assert len(transport.agent.sockets()) <= 2
    server.wait_closed()


async def test_b20_closing_fails_those_that_wait(world: World, stack: Stack, server: Server) -> None:
    """httpx: they go on waiting, and then open sockets in the closed pool."""
    transport = stack.transport(is_sync=world.is_sync, max_total_sockets=1)
    async with world.client(transport=transport, timeout=5) as client, world.tasks() as tasks:
        in_flight = tasks.start(client.get, f"{server.url}/hold/a")
        await world.until(lambda: len(server.requests) == 1)
        waiting = [tasks.start(client.get, f"{server.url}/echo") for _ in range(2)]
        await world.until(lambda: stack.waiting(transport) == 2)
        await world.close(transport)
        server.gate("a").open()
        for job in waiting:
            assert isinstance((await job.wait()).exception, httpx.ConnectError)
        assert isinstance((await in_flight.wait()).exception, httpx.ReadError)
    assert server.accepted == 1
    server.wait_closed()
