"""The body of a response below the client: `response.stream`, which may be iterated more than once.

httpx itself does not, but others do: the OpenAI SDK reads the events that it wants, and then the rest of the body by a
second iteration, so that the socket comes free.
"""

from __future__ import annotations

import _thread
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpcore
import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent._runtime.flows import run
from httpx_agent.testing import FIN, HANG, Network, Script, chunked, respond
from tests.support.servers import Server
from tests.support.worlds import World

URL = "http://a.test/"

TIMEOUT = {"connect": 5, "read": 5, "write": 5, "pool": 1}


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


def request(method: str = "GET", url: str = URL) -> httpx.Request:
    return httpx.Request(method, url, extensions={"timeout": TIMEOUT})


async def test_a_body_that_is_left_half_way_can_still_be_closed(world: World) -> None:
    network = Network(Script(chunked(b"one", b"two", b"three")))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        if world.is_sync:
            with client.sync.stream("GET", URL) as response:
                for chunk in response.iter_raw():
                    assert chunk == b"one"
                    break
        else:
            async with client.stream("GET", URL) as response:
                async for chunk in response.aiter_raw():
                    assert chunk == b"one"
                    break
        assert agent.status().free_sockets == {"http://a.test:80": 1}  # the rest had arrived
    await world.close(agent)


@pytest.mark.parametrize("error", [RuntimeError("the file is gone"), OSError("disk")])
async def test_a_body_that_fails_is_the_users_own_error(world: World, error: Exception) -> None:
    """It comes out as it is, and the slot is free."""
    network = Network()
    agent = Agent(max_sockets=1, **network.options)

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            raise error

    class AsyncBody:
        def __aiter__(self) -> AsyncIterator[bytes]:
            raise error

    body = Body() if world.is_sync else AsyncBody()
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        with pytest.raises(type(error), match=str(error)):
            await client.put(URL, content=body)
        assert agent.sockets() == ()
        assert (await client.get(URL)).status_code == 200
    await world.close(agent)


async def test_what_is_not_the_networks_error_comes_out_of_a_body_as_it_is(world: World) -> None:
    network = Network(Script(chunked(b"one", RuntimeError("odd"), end=False)))
    agent = Agent(max_sockets=1, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        with pytest.raises(RuntimeError, match=r"^odd$"):
            await client.get(URL)
        assert (await client.get(URL)).status_code == 200
    await world.close(agent)


def test_a_body_that_fails_and_whose_end_fails() -> None:
    """The books are closed first."""
    network = Network(default=Script(then=chunked(b"one", HANG, end=False)))
    transport = AgentTransport(**network.options)
    response = transport.handle_request(request())
    body: Any = response.stream._httpcore_stream  # type: ignore[attr-defined]

    class Stream:
        def close(self) -> None:
            raise OSError("the end failed, too")

    with pytest.raises(OSError, match="too"):
        run(body._exchange.fail(Stream(), httpcore.ReadError("failed")))
    assert transport.agent.sockets() == ()
    assert transport.agent.status().request_error_count == 1
    transport.close()


@pytest.mark.rule("R23")
async def test_a_response_closed_early_costs_its_socket(world: World) -> None:
    """R23: what is on its way would be taken for the next response."""
    network = Network(Script(chunked(b"first", HANG, end=False)))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with client.stream("GET", URL):
            assert agent.status().sockets == {"http://a.test:80": 1}
        assert network.open == 0
        status = agent.status()
        assert (status.request_count, status.request_error_count) == (0, 1)
        assert (status.close_socket_count, status.error_socket_count) == (1, 0)
        assert not (await client.get(URL)).extensions["agent"].reused
    await world.close(agent)


@pytest.mark.rule("R18")
@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("HEAD", respond(b"", headers=[("Content-Length", "5")], length=False)),
        ("GET", respond(b"", 204, length=False)),
        ("GET", respond(b"", 304, headers=[("Content-Length", "5")], length=False)),
        ("GET", respond(b"")),
        ("GET", respond(b"short")),
    ],
    ids=["HEAD", "204", "304", "length 0", "all of it has arrived"],
)
async def test_a_response_whose_rest_has_arrived_keeps_its_socket(world: World, method: str, answer: bytes) -> None:
    network = Network(default=Script(then=answer))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        for turn in range(2):
            async with client.stream(method, URL) as response:
                assert response.extensions["agent"].reused is bool(turn)
        assert agent.status().free_sockets == {"http://a.test:80": 1}
        assert agent.status().request_count == 2
    await world.close(agent)


async def test_a_large_rest_is_not_read_to_save_a_socket(world: World) -> None:
    network = Network(default=Script(then=respond(b"x" * 1_000_000)))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with client.stream("GET", URL):
            pass
        assert network.open == 0
    await world.close(agent)


@pytest.mark.rule("R14", "R20", "N23")
async def test_what_comes_after_a_response_is_not_the_next_one(world: World) -> None:
    """N23: a second response, whether it came with the first or later."""
    network = Network(Script(respond(b"first") + respond(b"forged")), default=Script(then=respond(b"true")))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        assert (await client.get(URL)).text == "first"
        assert network.open == 0
        assert (await client.get(URL)).text == "true"
        network.connections[1].send(respond(b"forged"))
        assert (await client.get(URL)).text == "true"
        assert len(network.connections) == 3
    await world.close(agent)


async def test_a_response_without_length_costs_its_socket(world: World) -> None:
    """R11: a body that ends with the connection."""
    network = Network(default=Script(then=[respond(b"abc", length=False), FIN]))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        assert (await client.get(URL)).text == "abc"
        assert agent.sockets() == ()
        assert agent.status().error_socket_count == 0
        assert agent.status().request_count == 1
