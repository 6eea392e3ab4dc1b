"""Streams of asyncio: how they break, and what is notified."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import httpcore
import pytest

from httpx_agent._network.asyncio import HIGH_WATER
from httpx_agent._protocol.http1 import Incoming
from tests.unit.protocol.drivers import (
    URL,
    connected,
    in_loop,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def request(**extensions: Any) -> httpcore.Request:
    return httpcore.Request("GET", URL, headers=[("Host", "a")], extensions=extensions)


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
async def test_a_stream_with_unsent_data_is_not_waited_for() -> None:
    _, stream, transport = connected()
    aborted: list[bool] = []
    transport.get_write_buffer_size = lambda: 1
    transport.abort = lambda: aborted.append(True)
    stream.close_soon()
    assert aborted == [True]


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
