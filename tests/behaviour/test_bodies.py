"""The body of a response below the client: `response.stream`, which may be iterated more than once.

httpx itself does not, but others do: the OpenAI SDK reads the events that it wants, and then the rest of the body by a
second iteration, so that the socket comes free.
"""

from __future__ import annotations

import _thread
import threading
from typing import Any

import httpx
import pytest

from httpx_agent import AgentTransport
from tests.support.servers import Server
from tests.support.worlds import World


async def drain(world: World, response: Any) -> bytes:
    """What a new iteration of the body gives."""
    if world.is_sync:
        return await world.call(lambda: b"".join(response.sync.stream))
    return b"".join([part async for part in response.stream])


async def test_a_new_iteration_goes_on_where_the_first_one_stopped(world: World, server: Server) -> None:
    async with world.client(transport=AgentTransport(max_sockets=1)) as client:
        for turn in range(3):
            async with client.stream("GET", f"{server.url}/hold-body/{turn}") as response:
                parts = response.aiter_raw()
                assert await anext(parts) == b"first "
                await world.settle()  # what a dropped iterator would set off comes first
                server.gate(str(turn)).open()
                assert await drain(world, response) == b"last"
        assert response.extensions["agent"].requests_on_socket == 3
    assert server.requests_per_connection == [3]


@pytest.mark.parametrize("end", ["read", "closed"])
async def test_after_the_end_there_is_nothing_more(world: World, server: Server, end: str) -> None:
    """Even where the socket serves somebody else by now, whose answer this must not be."""
    server.gate("first").open()
    async with world.client(transport=AgentTransport(max_sockets=1)) as client:
        async with client.stream("GET", f"{server.url}/hold-body/first") as before:
            if end == "read":
                await before.aread()
        async with client.stream("GET", f"{server.url}/hold-body/second") as response:
            assert await drain(world, before) == b""
            server.gate("second").open()
            assert await response.aread() == b"first last"


class Stream(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A stream around another one."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.closed = threading.Event()

    def close(self) -> None:
        self.stream.close()
        self.closed.set()

    async def aclose(self) -> None:
        await self.stream.aclose()
        self.closed.set()


@pytest.mark.parametrize("depth", range(4))
async def test_a_body_may_be_closed_by_whoever_has_it(world: World, server: Server, depth: int) -> None:
    """Through any number of streams, and where nothing else is on the stack."""
    request = httpx.Request("GET", f"{server.url}/echo")
    transport = AgentTransport(max_sockets=1)
    for _ in range(2):
        response = await world.handle(transport, request)
        await response.aread() if depth % 2 else None
        stream = getattr(response, "sync", response).stream
        for _ in range(depth):
            stream = Stream(stream)
        outer = httpx.Response(200, stream=stream)
        if depth and world.is_sync:
            _thread.start_new_thread(stream.close, ())
            assert await world.call(stream.closed.wait, 10)
        elif world.is_sync:
            await world.call(outer.close)
        else:
            await outer.aclose()
            assert outer.stream is stream
    await world.close(transport)
    assert server.accepted == 1
