"""The parts of the engine by themselves: what goes out, and what breaks when."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import ssl
import sys
import threading
from asyncio.trsock import TransportSocket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import httpcore
import httpx
import pytest

from httpx_agent import AgentTransport, _http1, _options
from httpx_agent._asyncio_streams import HIGH_WATER, AsyncioConnector
from httpx_agent._http1 import Incoming, Outgoing, RecentFields
from httpx_agent._mocks import Originals
from httpx_agent._poll import Poll
from tests.support.raw import Peer, raw_server
from tests.support.servers import Certificates
from tests.support.worlds import World
from tests.unit.protocol.drivers import (
    FAMILY,
    KEY,
    OPTIONS,
    URL,
    _AsyncBackend,
    _Backend,
    _Listener,
    _Shell,
    _Socket,
    _SyncStream,
)
from tests.unit.protocol.drivers import _Transport as Scripted
from tests.unit.protocol.drivers import _wire as new_wire

pytestmark = pytest.mark.fast_engine

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

# What goes out --------------------------------------------------------------------------------------------------------


def outgoing(*headers: tuple[str, str], method: str = "GET", target: str = "/") -> Outgoing:
    request = httpcore.Request(method, URL, headers=list(headers), extensions={"target": target.encode()})
    return Outgoing(httpcore, request)


def test_a_head() -> None:
    """Host comes first, as h11 has it; the rest keeps order, case and repetition."""
    head = outgoing(("X-b", "1"), ("hOst", "a"), ("x-B", ""), ("X-b", "2"), method="PUT", target="*").head

    assert head == b"PUT * HTTP/1.1\r\nhOst: a\r\nX-b: 1\r\nx-B: \r\nX-b: 2\r\n\r\n"


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ([], "Missing mandatory Host: header"),
        ([("Host", "a"), ("host", "a")], "Found multiple Host: headers"),
        ([("Host", "a"), ("X Y", "a")], "Illegal header name b'X Y'"),
        ([("Host", "a"), ("X", "a\r\nY: b")], "Illegal header value of X"),
        ([("Host", "a"), ("X", " a")], "Illegal header value of X"),
        ([("Host", "a"), ("Content-Length", "x")], "bad Content-Length"),
        ([("Host", "a"), ("Content-Length", "1, 2")], "conflicting Content-Length headers"),
        ([("Host", "a"), ("Content-Length", "1"), ("Content-Length", "2")], "conflicting Content-Length headers"),
        ([("Host", "a"), ("Transfer-Encoding", "gzip")], "Only Transfer-Encoding: chunked is supported"),
        ([("Host", "a"), *[("Transfer-Encoding", "chunked")] * 2], "multiple Transfer-Encoding headers"),
    ],
)
def test_headers_that_are_refused(headers: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(httpcore.LocalProtocolError, match=f"^{message}$"):
        outgoing(*headers)


def test_request_lines_that_are_refused() -> None:
    with pytest.raises(httpcore.LocalProtocolError, match="Illegal method characters"):
        outgoing(("Host", "a"), method="GE T")
    with pytest.raises(httpcore.LocalProtocolError, match="Illegal target characters"):
        outgoing(("Host", "a"), target="/a b")


def test_a_length_said_twice_is_sent_once() -> None:
    found = outgoing(("Host", "a"), ("Content-Length", "2, 2"), ("content-length", "2"))

    assert found.head.lower().count(b"content-length: 2\r\n") == 1
    assert found.whole(b"ok").endswith(b"\r\n\r\nok")


def test_bodies_must_fit() -> None:
    length = ("Content-Length", "2")
    with pytest.raises(httpcore.LocalProtocolError, match="Too much data"):
        outgoing(("Host", "a"), length).whole(b"oka")
    with pytest.raises(httpcore.LocalProtocolError, match="Too little data"):
        outgoing(("Host", "a"), length).whole(b"o")
    with pytest.raises(httpcore.LocalProtocolError, match="Too much data"):
        outgoing(("Host", "a")).whole(b"o")


def test_chunks() -> None:
    found = outgoing(("Host", "a"), ("Transfer-Encoding", "Chunked"))

    assert b"Transfer-Encoding: chunked\r\n" in found.head
    assert b"".join(found.parts(b"x" * 26)) == b"1a\r\n" + b"x" * 26 + b"\r\n"
    assert tuple(found.parts(b"")) == ()
    assert found.end() == b"0\r\n\r\n"


def test_names_of_headers_are_remembered_but_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http1, "_names", {})
    monkeypatch.setattr(_http1, "_MAX_NAMES", 3)
    for number in range(10):
        outgoing(("Host", "a"), (f"X-{number}", "a"))
        assert len(_http1._names) <= 3


def test_the_engine_by_name_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_options, "is_installed", lambda: False)
    with pytest.raises(ImportError, match=r"needs the package 'httptools': pip install .httpx-agent\[fast\]."):
        AgentTransport(http1_engine="httptools")


def test_httptools_that_is_not_there_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _http1._find_httptools() is not None
    old = SimpleNamespace(HttpResponseParser=object)
    for found in (None, old):
        monkeypatch.setitem(sys.modules, "httptools", found)
        assert _http1._find_httptools() is None


# Mocks ----------------------------------------------------------------------------------------------------------------


def test_methods_that_are_replaced() -> None:
    """Whatever it is called, and whenever it comes."""
    originals = Originals((httpcore.HTTPConnection,), "handle_request")
    own = httpcore.HTTPConnection.handle_request

    def handle_request(self: Any, request: Any) -> Any: ...

    handle_request.__module__ = own.__module__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpcore.HTTPConnection, "handle_request", handle_request)
        assert originals.are_replaced()
    assert not originals.are_replaced()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpcore.HTTPConnection, "handle_request", handle_request)
        assert originals.are_replaced()
    assert not originals.are_replaced()


async def test_a_mock_at_a_free_socket(world: World) -> None:
    """The engine steps aside, and no byte leaves: the mock stands on httpcore's connection, for a new socket."""
    requests: list[bytes] = []

    def serve(peer: Peer) -> None:
        while True:
            requests.append(peer.read_head())
            peer.send(OK)

    def mocked(self: Any, request: Any) -> Any:
        return httpcore.Response(299, content=b"")

    async def amocked(self: Any, request: Any) -> Any:
        return httpcore.Response(299, content=b"")

    with raw_server(serve) as url:
        async with world.client(transport=AgentTransport()) as client:
            assert (await client.get(url)).status_code == 200
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(httpcore.HTTPConnection, "handle_request", mocked)
                patch.setattr(httpcore.AsyncHTTPConnection, "handle_async_request", amocked)
                assert (await client.get(url)).status_code == 299
            assert (await client.get(url)).status_code == 200
    assert len(requests) == 2


@pytest.mark.parametrize("system", ["poll", "select"])
def test_waiting_for_a_socket(monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    """Where there is no `poll`, as on Windows, `select` does it."""
    if system == "select":
        monkeypatch.delattr(select, "poll")
    ours, theirs = socket.socketpair()
    with ours:
        poll = Poll(ours)
        assert not poll.is_readable()
        assert not poll.wait_readable(0.0)
        assert poll.wait_writable(0.0, or_readable=True) == (False, True)
        theirs.send(b"a")
        assert poll.is_readable()
        assert poll.wait_readable(None)
        assert poll.wait_writable(None, or_readable=True) == (True, True)
        assert poll.wait_writable(None, or_readable=False) == (False, True)
        ours.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                ours.send(bytes(1 << 20))
        assert poll.wait_writable(0.0, or_readable=False) == (False, False)
        theirs.close()
        assert poll.wait_writable(0.0, or_readable=False) == (False, True)


# Breaking in threads --------------------------------------------------------------------------------------------------


class Refusing(_Socket):
    """Takes nothing."""

    def send(self, data: bytes) -> int:
        raise BrokenPipeError("broken")


@pytest.mark.parametrize("traced", [False, True])
def test_a_socket_that_takes_nothing_and_has_an_answer(traced: bool) -> None:
    stream = _SyncStream(Refusing([OK]))
    connection: Any = FAMILY.sync_http1_connection(KEY, new_wire(), _Backend(stream), OPTIONS, None, RecentFields())
    extensions = {"trace": lambda name, info: None} if traced else {}
    request = httpcore.Request("GET", URL, headers=[("Host", "a")], extensions=extensions)

    response = connection.handle_request(request)

    assert (response.status, b"".join(response.stream)) == (200, b"ok")
    response.stream.close()
    assert connection.is_closed()


# Breaking in loops ----------------------------------------------------------------------------------------------------


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test in an event loop of its own."""

    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


def connected(*parts: bytes) -> tuple[Any, Any, Any]:
    """A connection, its stream and its transport."""
    stream = FAMILY.asyncio_stream(httpcore, _Listener())
    transport = Scripted(stream, parts)
    connection = FAMILY.asyncio_http1_connection(
        KEY, new_wire(), _AsyncBackend(_Shell(stream)), OPTIONS, None, RecentFields()
    )
    return connection, stream, transport


def request(**extensions: Any) -> httpcore.Request:
    return httpcore.Request("GET", URL, headers=[("Host", "a")], extensions=extensions)


def whole_request() -> httpcore.Request:
    """As httpx makes it if it knows the body: sent in one write."""
    headers = [("Host", "a"), ("Content-Length", "4")]
    return httpcore.Request("PUT", URL, headers=headers, content=httpx.ByteStream(b"body"))


@in_loop
async def test_a_connection_that_broke_before_the_request() -> None:
    """Nothing is written, so that any request may be sent again."""
    for error, kind in ((None, httpcore.RemoteProtocolError), (ConnectionResetError("reset"), httpcore.ReadError)):
        for sent in (request(), request(trace=_silent), whole_request()):
            connection, stream, transport = connected()
            stream.connection_lost(error)
            transport.closed = True
            with pytest.raises(kind):
                await connection.handle_async_request(sent)
            assert not connection.wire.wrote
            assert connection.is_closed()


@in_loop
async def test_a_whole_request_for_which_there_is_no_room() -> None:
    """A response may come before it is on its way; it is given, and ends the connection. An interim one does not."""
    for early in (OK, b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"):
        connection, stream, transport = connected(early, OK)
        stream._poll = SimpleNamespace(is_readable=lambda: False)
        transport.write = lambda data, stream=stream: stream.pause_writing()
        sending = asyncio.create_task(connection.handle_async_request(whole_request()))
        await asyncio.sleep(0)
        transport.parts, later = transport.parts[:1], transport.parts[1:]
        transport.protocol.eof_received = lambda: None
        transport.deliver()
        await asyncio.sleep(0)
        is_interim = b"100" in early
        assert sending.done() == (not is_interim)
        if is_interim:
            stream.resume_writing()
            transport.protocol.data_received(later[0])
        response = await sending
        assert response.status == (413 if b"413" in early else 200)
        async for _ in response.stream:
            pass
        await response.stream.aclose()
        assert connection.is_available() == is_interim


@in_loop
async def test_a_body_for_a_connection_that_broke() -> None:
    connection, stream, transport = connected(OK)
    stream._poll = SimpleNamespace(is_readable=lambda: False)

    async def body() -> Any:
        yield b"a"
        transport.closed = True
        yield b"b"

    headers = [("Host", "a"), ("Transfer-Encoding", "chunked")]
    sending = httpcore.Request("POST", URL, headers=headers, content=body())
    transport.loop.call_soon(transport.protocol.data_received, OK)
    response = await connection.handle_async_request(sending)
    assert response.status == 200
    await response.stream.aclose()
    assert connection.is_closed()


async def _silent(name: str, info: Any) -> None:
    pass


@in_loop
async def test_a_request_that_is_dropped() -> None:
    """Its connection is closed, though nothing can be awaited any more; a listener is not told."""
    for trace in ({}, {"trace": _silent}):
        connection, _, transport = connected()
        coroutine = connection.handle_async_request(request(**trace))
        coroutine.send(None)
        coroutine.close()
        assert connection.is_closed()
        assert transport.closed


@in_loop
async def test_a_body_that_is_dropped() -> None:
    for trace in ({}, {"trace": _silent}):
        connection, _, transport = connected(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        transport.protocol.eof_received = lambda: None
        response = await connection.handle_async_request(request(**trace))
        coroutine = response.stream.__anext__()
        coroutine.send(None)
        coroutine.close()
        await response.stream.aclose()
        await response.stream.aclose()
        assert connection.is_closed()


@in_loop
async def test_a_loop_that_is_over() -> None:
    """What is left to do there is nothing."""
    _, stream, transport = connected()
    stream._loop = asyncio.new_event_loop()
    stream._loop.close()
    stream.close_soon()
    assert not transport.closed


@in_loop
async def test_a_stream_that_the_caller_owns() -> None:
    _, stream, transport = connected()
    with pytest.raises(httpcore.ReadTimeout):
        await stream.read(10, timeout=0.01)
    stream.data_received(b"a" * HIGH_WATER)
    assert not transport.paused
    stream.data_received(b"a")
    stream.pause_reading()
    assert transport.paused
    assert await stream.read(10) == b"a" * 10
    assert not transport.paused
    assert len(await stream.read(HIGH_WATER)) == HIGH_WATER - 9
    stream.pause_writing()
    with pytest.raises(httpcore.WriteTimeout):
        await stream.write(b"abc", timeout=0.01)
    asyncio.get_running_loop().call_soon(stream.resume_writing)
    await stream.write(b"abc", timeout=5)
    stream.eof_received()
    stream.eof_received()
    assert await stream.read(10) == b""
    transport.closed = True
    with pytest.raises(httpcore.WriteError, match="the connection is closed"):
        await stream.write(b"abc")
    stream.resume_reading()


@in_loop
async def test_a_stream_that_breaks() -> None:
    _, stream, _ = connected()
    asyncio.get_running_loop().call_soon(stream.connection_lost, ConnectionResetError("reset"))
    with pytest.raises(httpcore.ReadError, match="reset"):
        await stream.read(10)
    _, stream, transport = connected()
    transport.pause_reading()
    stream._is_paused = transport.closed = True
    stream.resume_reading()  # nothing comes any more
    assert transport.paused


@in_loop
async def test_a_response_is_drained_as_far_as_it_has_come() -> None:
    """What the loop did not see yet is waited for; nothing else is."""
    for readable in (False, True):
        connection, stream, transport = connected(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        transport.protocol.eof_received = lambda: None
        response = await connection.handle_async_request(request())
        stream._poll = SimpleNamespace(is_readable=lambda readable=readable: readable)
        connection.wire.impatient = True
        if readable:
            transport.loop.call_soon(stream.data_received, b"ok")
            assert await anext(response.stream) == b"ok"
        else:
            with pytest.raises(httpcore.ReadError, match="has not arrived"):
                await anext(response.stream)
        stream.connection_lost(None)
        assert stream.get_extra_info("is_readable")


@in_loop
async def test_a_stream_with_unsent_data_is_not_waited_for() -> None:
    _, stream, transport = connected()
    aborted: list[bool] = []
    transport.get_write_buffer_size = lambda: 1
    transport.abort = lambda: aborted.append(True)
    stream.close_soon()
    assert aborted == [True]


@in_loop
async def test_what_came_before_a_failed_write_is_read() -> None:
    """Asyncio gives a connection up when a write fails; an answer may be waiting in the system."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.sendall(b"the answer")
        _, stream, transport = connected()
        transport.get_extra_info = lambda name: TransportSocket(ours)
        stream.connection_lost(BrokenPipeError())
        assert await stream.read(100) == b"the answer"
        with pytest.raises(httpcore.ReadError):
            await stream.read(100)
    _, stream, transport = connected()
    stream.connection_lost(BrokenPipeError())
    with pytest.raises(httpcore.ReadError):
        await stream.read(100)


@in_loop
async def test_an_answer_that_ends_with_the_connection_is_whole_if_the_server_closed_before_a_write_failed() -> None:
    """The system says so: a write after the end is a broken pipe, and one after a reset is not."""
    for error in (BrokenPipeError(), ConnectionResetError()):
        ours, theirs = socket.socketpair()
        with ours:
            ours.setblocking(False)
            theirs.sendall(b"the answer")
            theirs.close()
            _, stream, transport = connected()
            transport.get_extra_info = lambda name, ours=ours: TransportSocket(ours)
            stream.connection_lost(error)
            assert await stream.read(100) == b"the answer"
            if isinstance(error, BrokenPipeError):
                assert await stream.read(100) == b""
            else:
                with pytest.raises(httpcore.ReadError):
                    await stream.read(100)


@in_loop
async def test_a_timer_that_rings_late() -> None:
    """For nobody, for one who waits longer, for one who has the news already."""
    _, stream, _ = connected()
    stream._set_timer(0.0)
    stream._ring()
    assert stream._timer is None
    news = stream.news(60.0)
    stream._timer_at = 0.0
    stream._ring()
    assert stream._timer_at == stream._deadline
    stream.wake()
    stream._ring()
    await news
    stream.connection_lost(None)


@in_loop
async def test_many_wait_for_the_close() -> None:
    _, stream, _ = connected()
    asyncio.get_running_loop().call_later(0.01, stream.connection_lost, None)
    await asyncio.gather(stream.aclose(), stream.aclose())
    await stream.aclose()


@in_loop
async def test_an_end_in_the_handshake() -> None:
    _, stream, _ = connected()
    task = asyncio.create_task(stream.start_tls(ssl.create_default_context(), "a.test"))
    await asyncio.sleep(0)
    stream.eof_received()
    with pytest.raises(httpcore.ConnectError, match="EOF"):
        await task


@in_loop
async def test_garbage_before_the_end() -> None:
    """It is the garbage that went wrong: the socket ends with an error."""
    connection, stream, _ = connected()

    def deliver() -> None:
        stream.data_received(b"garbage\r\n\r\n")
        stream.eof_received()

    asyncio.get_running_loop().call_soon(deliver)
    with pytest.raises(httpcore.RemoteProtocolError, match="illegal status line"):
        await connection.handle_async_request(request())
    assert not connection.wire.ended


def test_nothing_is_read_after_garbage() -> None:
    incoming = Incoming(httpcore, b"GET", False)
    incoming.feed(b"garbage\r\n\r\n")
    failure = incoming.failure
    incoming.feed(OK)
    incoming.feed_end()
    assert failure is not None
    assert incoming.failure is failure
    assert not incoming.has_head


@in_loop
async def test_a_request_that_is_dropped_while_it_connects() -> None:
    class Slow:
        async def connect_tcp(self, **_: Any) -> Any:
            await asyncio.get_running_loop().create_future()

    connection: Any = FAMILY.asyncio_http1_connection(KEY, new_wire(), Slow(), OPTIONS, None, RecentFields())
    coroutine = connection.handle_async_request(request(trace=_silent))
    coroutine.send(None)
    coroutine.close()
    assert connection.is_idle()  # never opened: as httpcore's says it
    await connection.aclose()


async def test_a_listener_that_fails(world: World) -> None:
    """Its error comes out, and the socket is closed."""

    def serve(peer: Peer) -> None:
        peer.read_head()
        peer.send(OK)
        peer.wait_closed()

    def listen(name: str, info: Any) -> None:
        if name == "http11.receive_response_body.started":
            raise KeyError(name)

    with raw_server(serve) as url:
        transport = AgentTransport()
        async with world.client(transport=transport) as client:
            with pytest.raises(KeyError):
                await client.get(url, extensions={"trace": world.callback(listen)})
            assert transport.agent.sockets() == ()


@pytest.mark.parametrize("farewell", [True, False])
async def test_a_body_that_ends_with_the_connection_over_tls(
    world: World, certificates: Certificates, farewell: bool
) -> None:
    """As with httpcore, it ends where the connection does, whether TLS says farewell or not."""

    def serve(peer: Peer) -> None:
        secured = certificates.server().wrap_socket(peer.sock, server_side=True)
        secured.recv(65536)
        secured.sendall(b"HTTP/1.1 200 OK\r\n\r\nto the end")
        if farewell:
            secured.setblocking(False)
            with suppress(ssl.SSLWantReadError, ssl.SSLEOFError):  # the client's end may be there already
                secured.unwrap()
        os.close(secured.detach())

    with raw_server(serve) as url:
        async with world.client(transport=AgentTransport(verify=certificates.client())) as client:
            response = await client.get(url.replace("http", "https").replace("127.0.0.1", "localhost"))
            assert response.text == "to the end"


async def test_garbage_within_tls(world: World, certificates: Certificates) -> None:
    def serve(peer: Peer) -> None:
        secured = certificates.server().wrap_socket(peer.sock, server_side=True)
        secured.recv(65536)
        secured.setblocking(True)
        descriptor = secured.detach()
        os.write(descriptor, b"\x17\x03\x03\x00\x20" + bytes(32))
        os.read(descriptor, 100)
        os.close(descriptor)

    with raw_server(serve) as url:
        async with world.client(transport=AgentTransport(verify=certificates.client())) as client:
            with pytest.raises(httpx.ReadError):
                await client.get(url.replace("http", "https").replace("127.0.0.1", "localhost"))


# Connecting -----------------------------------------------------------------------------------------------------------


async def test_a_name_with_several_addresses(world: World) -> None:
    """The one that answers serves."""

    def serve(peer: Peer) -> None:
        peer.read_head()
        peer.send(OK)

    with raw_server(serve) as url:
        async with world.client(transport=AgentTransport()) as client:
            response = await client.get(url.replace("127.0.0.1", "localhost"))
            assert response.text == "ok"


async def test_a_zone_comes_to_the_socket(world: World) -> None:
    """For uvloop it must stand in the host; other loops take it from where the system has it."""
    async with world.client(transport=AgentTransport()) as client:
        with pytest.raises((httpx.ConnectError, httpx.ConnectTimeout)) as caught:
            await client.get("http://[fe80::1%251]:9/", timeout=0.05)
    assert "Invalid argument" not in str(caught.value)
    assert "tried [fe80::1%1]:9" in str(caught.value)


@in_loop
async def test_a_socket_that_cannot_be_prepared_is_closed() -> None:
    with raw_server(lambda peer: peer.wait_closed()) as url:
        port = httpx.URL(url).port
        assert port is not None
        connector = AsyncioConnector(new_wire(), asyncio.get_running_loop().call_soon)
        with pytest.raises(httpcore.ConnectError):
            await connector.connect_tcp("127.0.0.1", port, 5.0, None, [(-1, -1, 0)])


async def test_an_agent_closed_from_a_thread(world: World) -> None:
    """While a request waits for its head."""
    arrived = threading.Event()

    def serve(peer: Peer) -> None:
        peer.read_head()
        arrived.set()
        peer.wait_closed()

    with raw_server(serve) as url:
        transport = AgentTransport()
        async with world.client(transport=transport, timeout=5.0) as client:
            async with world.tasks() as tasks:
                job = tasks.start(client.get, url)
                await world.until(arrived.is_set)
                closing = threading.Thread(target=transport.agent.close)
                closing.start()
                await job.wait()
            closing.join(5)
    assert type(job.exception) is httpx.ReadError


@in_loop
async def test_one_task_reads_while_another_waits_to_write() -> None:
    """As on a WebSocket: what comes in reaches the reader, though the server takes nothing more."""
    _, stream, _ = connected()
    reading = asyncio.create_task(stream.read(100))
    await asyncio.sleep(0)
    stream.pause_writing()
    writing = asyncio.create_task(stream.write(b"more"))
    await asyncio.sleep(0)
    stream.data_received(b"said")
    assert await asyncio.wait_for(reading, 5) == b"said"
    assert not writing.done()
    stream.resume_writing()
    await asyncio.wait_for(writing, 5)
    stream.pause_writing()
    with pytest.raises(httpcore.WriteTimeout):
        await stream.write(b"more", timeout=0.0)
    stream.connection_lost(None)
