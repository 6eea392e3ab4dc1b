"""The parts of the engine in isolation: the bytes sent, and the failures."""

from __future__ import annotations

import asyncio
import socket
from asyncio.trsock import TransportSocket
from types import SimpleNamespace
from typing import Any

import httpcore
import httpx
import pytest

from httpx_agent._protocol.http1 import RecentFields
from tests.unit.protocol.drivers import (
    KEY,
    OPTIONS,
    SYNC,
    URL,
    _Backend,
    _Socket,
    _SyncStream,
    connected,
    in_loop,
)
from tests.unit.protocol.drivers import _wire as new_wire

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Refusing(_Socket):
    """Takes nothing."""

    def send(self, data: bytes) -> int:
        raise BrokenPipeError("broken")


@pytest.mark.parametrize("traced", [False, True])
def test_a_socket_that_takes_nothing_and_has_an_answer(traced: bool) -> None:
    stream = _SyncStream(Refusing([OK]))
    connection: Any = SYNC(KEY, new_wire(), _Backend(stream), OPTIONS, None, RecentFields())
    extensions = {"trace": lambda name, info: None} if traced else {}
    request = httpcore.Request("GET", URL, headers=[("Host", "a")], extensions=extensions)

    response = connection.handle_request(request)

    assert (response.status, b"".join(response.stream)) == (200, b"ok")
    response.stream.close()
    assert connection.is_closed()


def test_a_response_that_is_closed_twice() -> None:
    """It is over once: the connection may be another request's by then. Whoever still reads it hears why not."""
    for traced in (False, True):
        stream = _SyncStream(_Socket([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", b"rest"]))
        connection: Any = SYNC(KEY, new_wire(), _Backend(stream), OPTIONS, None, RecentFields())
        told: list[str] = []
        listen = {"trace": lambda name, info, told=told: told.append(name)} if traced else {}
        response = connection.handle_request(httpcore.Request("GET", URL, headers=[("Host", "a")], extensions=listen))
        body = iter(response.stream)
        assert next(body) == b"hello"
        response.stream.close()
        assert connection.is_closed()
        told.clear()
        with pytest.raises(httpcore.ReadError, match="closed by this side"):
            next(body)
        response.stream.close()
        assert told == ["http11.receive_response_body.failed"] * traced


def test_a_close_that_fails_is_told() -> None:
    """And is not tried again by who ends the request."""
    stream = _SyncStream(_Socket([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"]))
    connection: Any = SYNC(KEY, new_wire(), _Backend(stream), OPTIONS, None, RecentFields())
    told: list[tuple[str, Any]] = []
    listen = {"trace": lambda name, info: told.append((name, info))}
    response = connection.handle_request(httpcore.Request("GET", URL, headers=[("Host", "a")], extensions=listen))
    error = OSError("the close failed")

    def fail() -> None:
        raise error

    stream.close = fail  # type: ignore[method-assign]
    told.clear()
    assert connection.end_now(response.stream) is None  # the listener may wait
    with pytest.raises(OSError, match="the close failed"):
        response.stream.close()
    assert told == [("http11.response_closed.started", {}), ("http11.response_closed.failed", {"exception": error})]
    assert connection.end_now(response.stream) is False
    assert not connection.is_reusable()


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
