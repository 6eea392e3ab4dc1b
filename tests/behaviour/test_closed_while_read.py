"""A response or stream is closed while a caller waits for it: the caller is woken at once, and learns why.

What happens between the two ends of a connection and two tasks needs real sockets. No request here has a timeout: one
that is not woken hangs.
"""

from __future__ import annotations

import ssl
import threading
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import httpcore
import httpx
import pytest
import trio

from httpx_agent import Agent, AgentTransport
from tests.support.raw import Peer, raw_server
from tests.support.servers import Certificates, Server
from tests.support.worlds import ALL_WORLDS, AwaitableStream, World

everywhere = pytest.mark.parametrize("world", ALL_WORLDS, ids=[world.name for world in ALL_WORLDS])
CLOSED = "the response was closed while it was being read"
FRAMINGS = {
    "length": (b"Content-Length: 9\r\n\r\nhello", b"body"),
    "chunked": (b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", b"4\r\nbody\r\n0\r\n\r\n"),
    "to the end": (b"Connection: close\r\n\r\nhello", b"body"),
}
framings = pytest.mark.parametrize("framing", FRAMINGS)
schemes = pytest.mark.parametrize("scheme", ["http", "https"])


def tls(scheme: str, certificates: Certificates) -> ssl.SSLContext | None:
    return certificates.server() if scheme == "https" else None


async def until_it_waits(world: World, transport: AgentTransport) -> None:
    """Until the task or thread beside this one waits for the socket."""
    if world.is_sync:
        (socket,) = transport.agent._dispatcher._sockets.values()
        await world.until(socket.wire.is_in_use)
    else:
        await world.settle()


async def read(response: Any, parts: list[bytes]) -> None:
    async for part in response.aiter_raw():
        parts.append(part)


@everywhere
@framings
@schemes
async def test_a_response_closed_while_it_is_waited_for(
    world: World, certificates: Certificates, framing: str, scheme: str
) -> None:
    def serve(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\n" + FRAMINGS[framing][0])
        peer.wait_closed()

    parts: list[bytes] = []
    with raw_server(serve, tls=tls(scheme, certificates)) as url:
        transport = AgentTransport(verify=certificates.client())
        async with world.client(transport=transport, timeout=None) as client:
            async with client.stream("GET", url) as response, world.tasks() as tasks:
                job = tasks.start(read, response, parts)
                await world.until(lambda: parts)
                await until_it_waits(world, transport)
                await response.aclose()
                await job.wait()
            assert type(job.exception) is httpx.ReadError
            assert str(job.exception) == f"GET {url}: {CLOSED}"
            assert transport.agent.sockets() == ()
            assert parts == [b"hello"]
        status = transport.agent.status()
        assert (status.close_socket_count, status.error_socket_count, status.request_error_count) == (1, 0, 1)


@everywhere
@framings
async def test_a_response_closed_between_two_of_its_parts(world: World, framing: str) -> None:
    """As with httpx: what was read must not pass for the whole."""

    def serve(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\n" + FRAMINGS[framing][0])
        peer.wait_closed()

    with raw_server(serve) as url:
        async with world.client(transport=AgentTransport(), timeout=None) as client:
            async with client.stream("GET", url) as response:
                parts = response.aiter_raw()
                assert await anext(parts) == b"hello"
                await response.aclose()
                with pytest.raises(httpx.ReadError, match=CLOSED):
                    await anext(parts)


@everywhere
async def test_a_response_closed_when_all_of_it_has_been_read(world: World) -> None:
    """Nothing is missing, so the iteration ends as it should, and the socket is saved."""

    def serve(peer: Peer) -> None:
        for _ in range(2):
            peer.read_head()
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    with raw_server(serve) as url:
        async with world.client(transport=AgentTransport(), timeout=None) as client:
            async with client.stream("GET", url) as response:
                parts = response.aiter_raw()
                assert await anext(parts) == b"hello"
                await response.aclose()
                assert [part async for part in parts] == []
            assert (await client.get(url)).extensions["agent"].reused


@everywhere
async def test_a_response_closed_in_the_moment_in_which_its_rest_arrives(world: World) -> None:
    """Either the reader has it, or an error; and never anything of the next response, whoever gets the socket."""
    rounds = 30

    def serve(peer: Peer) -> None:
        while True:
            head = peer.read_head()
            body = head.split(b" ")[1]
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * len(body)) + body)
            if b"first" in body:
                go.wait(10)
                go.clear()
            peer.send(body)

    go = threading.Event()
    with raw_server(serve) as url:
        transport = AgentTransport(max_sockets=1)
        async with world.client(transport=transport, timeout=None) as client:
            for number in range(rounds):
                parts: list[bytes] = []
                async with client.stream("GET", f"{url}/first{number}") as response, world.tasks() as tasks:
                    job = tasks.start(read, response, parts)
                    await world.until(lambda parts=parts: parts)
                    go.set()
                    if number % 3:
                        await anyio.lowlevel.checkpoint()
                    await response.aclose()
                    following = await client.get(f"{url}/next{number}")
                    await job.wait()
                assert following.text == f"/next{number}" * 2
                whole = f"/first{number}".encode()
                if job.exception is None:
                    assert b"".join(parts) == whole * 2
                else:
                    assert type(job.exception) is httpx.ReadError
                    assert b"".join(parts) in (whole, whole * 2)
            assert not transport._pool._requests


@everywhere
@framings
async def test_an_agent_closed_while_a_response_is_waited_for(world: World, framing: str) -> None:
    """A body that ends with the connection is not whole because this side has closed it."""

    def serve(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\n" + FRAMINGS[framing][0])
        peer.wait_closed()

    parts: list[bytes] = []
    with raw_server(serve) as url:
        transport = AgentTransport()
        async with world.client(transport=transport, timeout=None) as client:
            async with client.stream("GET", url) as response, world.tasks() as tasks:
                job = tasks.start(read, response, parts)
                await world.until(lambda: parts)
                await until_it_waits(world, transport)
                await world.close(transport.agent)
                await job.wait()
    with pytest.raises(httpx.ReadError, match="the agent was closed while the request was in flight"):
        job.result()


def upgrade(peer: Peer) -> None:
    peer.read_head()
    peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n")


@everywhere
@schemes
@pytest.mark.parametrize("closes", ["response", "stream"])
@pytest.mark.parametrize("waits", ["read", "write"])
async def test_an_upgraded_stream_closed_while_it_is_used(
    world: World, certificates: Certificates, scheme: str, closes: str, waits: str
) -> None:
    def serve(peer: Peer) -> None:
        upgrade(peer)
        done.wait(10)

    done = threading.Event()
    with raw_server(serve, tls=tls(scheme, certificates)) as url:
        transport = AgentTransport(verify=certificates.client())
        async with world.client(transport=transport, timeout=None) as client:
            headers = {"Connection": "Upgrade", "Upgrade": "other"}
            async with client.stream("GET", url, headers=headers) as response, world.tasks() as tasks:
                inner = response.extensions["network_stream"]
                stream = AwaitableStream(world, inner)
                if waits == "read":
                    job = tasks.start(stream.read, 100, None)
                else:
                    job = tasks.start(partial(write_without_end, stream))
                if world.is_sync:
                    await world.until(lambda: has_thread_inside(inner))
                else:
                    await world.settle()
                await (response if closes == "response" else stream).aclose()
                await job.wait()
        assert type(job.exception) is (httpcore.ReadError if waits == "read" else httpcore.WriteError)
        with pytest.raises(httpcore.ReadError):
            await stream.read(100, None)
        done.set()


async def write_without_end(stream: AwaitableStream) -> None:
    while True:
        await stream.write(bytes(1 << 20), None)


def has_thread_inside(stream: Any) -> bool:
    while not hasattr(stream, "_wire"):
        stream = stream._stream
    return bool(stream._wire.is_in_use())


@pytest.mark.in_loops
@pytest.mark.both_engines
async def test_two_tasks_cannot_read_the_same_stream(world: World) -> None:
    """The second one is told so at once, as by anyio and trio; the first one goes on."""

    def serve(peer: Peer) -> None:
        upgrade(peer)
        go.wait(10)
        peer.send(b"said")

    go = threading.Event()
    with raw_server(serve) as url:
        async with world.client(transport=AgentTransport(), timeout=None) as client:
            headers = {"Connection": "Upgrade", "Upgrade": "other"}
            async with client.stream("GET", url, headers=headers) as response, world.tasks() as tasks:
                stream = response.extensions["network_stream"]
                job = tasks.start(stream.read, 100)
                await world.settle()
                with pytest.raises((anyio.BusyResourceError, trio.BusyResourceError)):
                    await stream.read(100)
                go.set()
                await job.wait()
            assert job.result() == b"said"


async def test_one_response_of_a_shared_connection(world: World, h2_server: Server, certificates: Certificates) -> None:
    """Over HTTP/2 the connection goes on; where it has no other request, it is closed."""
    transport = AgentTransport(http2=True, verify=certificates.client())
    parts: dict[str, list[bytes]] = {"stopped": [], "other": []}
    async with world.client(transport=transport, timeout=None) as client:
        h2_server.gate("warm").open()
        await client.get(f"{h2_server.url}/hold-body/warm")
        async with (
            client.stream("GET", f"{h2_server.url}/hold-body/stopped") as stopped,
            client.stream("GET", f"{h2_server.url}/hold-body/other") as other,
            world.tasks() as tasks,
        ):
            stopping = tasks.start(read, stopped, parts["stopped"])
            reading = tasks.start(read, other, parts["other"])
            await world.until(lambda: all(parts.values()))
            if world.is_sync:
                sockets = transport.agent._dispatcher._sockets.values()
                await world.until(lambda: all(socket.wire.is_in_use() for socket in sockets))
            else:
                await world.settle()
            await stopped.aclose()
            await stopping.wait()
            assert not reading.done
            h2_server.gate("other").open()
            await reading.wait()
        assert reading.exception is None
        assert b"".join(parts["other"]) == b"first last"
        with pytest.raises(httpx.ReadError, match=CLOSED):
            stopping.result()
        h2_server.gate("stopped").open()


@pytest.mark.in_loops
async def test_a_reader_of_a_shared_connection_whose_place_is_taken_over(
    world: World, h2_server: Server, certificates: Certificates
) -> None:
    """The one that reads for both is cancelled: the other one reads on by itself."""
    transport = AgentTransport(http2=True, verify=certificates.client())
    parts: dict[str, list[bytes]] = {"stopped": [], "other": []}
    async with world.client(transport=transport, timeout=None) as client:
        async with (
            client.stream("GET", f"{h2_server.url}/hold-body/stopped") as stopped,
            client.stream("GET", f"{h2_server.url}/hold-body/other") as other,
            world.tasks() as tasks,
        ):
            stopping = tasks.start(read, stopped, parts["stopped"])
            await world.until(lambda: parts["stopped"])
            reading = tasks.start(read, other, parts["other"])
            await world.until(lambda: parts["other"])
            stopping.cancel()
            await stopping.wait()
            h2_server.gate("other").open()
            await reading.wait()
        assert b"".join(parts["other"]) == b"first last"
        h2_server.gate("stopped").open()


class Stopper:
    """A `trace` callback that stops whoever comes to an event, until it may go on."""

    def __init__(self, world: World, event: str) -> None:
        self.event = event
        self.arrived = threading.Event()
        self.goes_on = threading.Event()
        self.callback = self.stop if world.is_sync else self.astop

    def stop(self, name: str, info: Any) -> None:
        if name == self.event:
            self.arrived.set()
            assert self.goes_on.wait(10)

    async def astop(self, name: str, info: Any) -> None:
        if name == self.event:
            self.arrived.set()
            while not self.goes_on.is_set():
                await anyio.sleep(0.001)


@everywhere
async def test_a_response_closed_while_it_is_read_to_its_end(world: World) -> None:
    """The reader ends the request, and the socket serves again; who closes has nothing to do, and does not wait."""

    def serve(peer: Peer) -> None:
        for _ in range(2):
            peer.read_head()
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    stopper = Stopper(world, "http11.response_closed.started")
    parts: list[bytes] = []
    with raw_server(serve) as url:
        async with world.client(transport=AgentTransport(), timeout=None) as client:
            extensions = {"trace": stopper.callback}
            async with client.stream("GET", url, extensions=extensions) as response, world.tasks() as tasks:
                reading = tasks.start(read, response, parts)
                await world.until(stopper.arrived.is_set)
                await response.aclose()
                assert not reading.done
                stopper.goes_on.set()
                await reading.wait()
            assert (reading.exception, parts) == (None, [b"hello"])
            assert (await client.get(url)).extensions["agent"].reused


@everywhere
async def test_a_reader_that_comes_to_the_end_while_the_response_is_closed(world: World) -> None:
    """It has all, so that is no error; who closes ends the request, and the socket."""

    def serve(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        go.wait(10)
        peer.send(b"0\r\n\r\n")
        peer.wait_closed()

    go = threading.Event()
    stopper = Stopper(world, "http11.response_closed.started")
    parts: list[bytes] = []
    with raw_server(serve) as url:
        transport = AgentTransport()
        async with world.client(transport=transport, timeout=None) as client:
            extensions = {"trace": stopper.callback}
            async with client.stream("GET", url, extensions=extensions) as response, world.tasks() as tasks:
                reading = tasks.start(read, response, parts)
                await world.until(lambda: parts)
                await until_it_waits(world, transport)
                closing = tasks.start(response.aclose)
                await world.until(stopper.arrived.is_set)
                go.set()
                await reading.wait()
                stopper.goes_on.set()
                await closing.wait()
            assert (reading.exception, closing.exception) == (None, None)
            assert parts == [b"hello"]
            assert transport.agent.sockets() == ()


@everywhere
async def test_a_reader_that_fails_while_the_response_is_closed(world: World) -> None:
    """It is told why, and leaves the rest to who closes."""

    def serve(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")
        peer.wait_closed()

    stopper = Stopper(world, "http11.response_closed.complete")
    parts: list[bytes] = []
    with raw_server(serve) as url:
        transport = AgentTransport()
        async with world.client(transport=transport, timeout=None) as client:
            extensions = {"trace": stopper.callback}
            async with client.stream("GET", url, extensions=extensions) as response, world.tasks() as tasks:
                reading = tasks.start(read, response, parts)
                await world.until(lambda: parts)
                await until_it_waits(world, transport)
                closing = tasks.start(response.aclose)
                await reading.wait()
                assert not closing.done
                stopper.goes_on.set()
                await closing.wait()
            assert str(reading.exception).endswith(CLOSED)
            assert closing.exception is None
            assert transport.agent.sockets() == ()


async def test_nothing_is_iterated_anew_after_the_close(world: World, server: Server) -> None:
    transport = AgentTransport()
    response = await world.handle(transport, httpx.Request("GET", f"{server.url}/bytes/3"))
    stream = getattr(response, "sync", response).stream
    await world.close(stream)
    if world.is_sync:
        assert await world.call(lambda: list(stream)) == []
    else:
        assert [part async for part in aiter(aiter(stream._httpcore_stream))] == []
    await world.close(transport)


def test_threads_that_close_and_read_at_the_same_time() -> None:
    """Whoever comes first ends the request, and alone: the socket is another's by then."""

    def serve(peer: Peer) -> None:
        with suppress(ConnectionError):
            while True:
                body = peer.read_head().split(b" ")[1]
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    failures: list[object] = []
    with raw_server(serve) as url, Agent(max_sockets=4) as agent:

        def work(number: int) -> None:
            with httpx.Client(transport=AgentTransport(agent=agent), timeout=10) as client:
                for turn in range(40):
                    path = f"/{number}-{turn}"
                    with client.stream("GET", url + path) as response:
                        closing = threading.Thread(target=response.close)
                        closing.start()
                        try:
                            body = b"".join(response.stream)  # type: ignore[arg-type]
                        except httpx.ReadError:
                            body = path.encode()
                        closing.join()
                        if body not in (b"", path.encode()):
                            failures.append((path, body))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert agent.status().requests == {}
        assert agent._dispatcher.tickets() == []
