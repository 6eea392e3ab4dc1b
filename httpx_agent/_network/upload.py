"""Send a request while listening to the server; a response that arrives early ends the upload.

A server may respond early and stop reading (RFC 9112, 9.5). A client that only writes would wait for room until the
write timeout, and never see the response. Both HTTP/1.1 engines listen while they send. Interim responses (RFC 9110,
15.2) do not end the upload.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any

import anyio
import sniffio

from .._protocol.http1 import MAX_BEFORE_RESPONSE, PIECE, find_end_of_head
from .._runtime.contexts import TimeLimit

if TYPE_CHECKING:
    from collections.abc import Callable

    from .poll import Poll

#: The maximum number of bytes to read at once while sending.
_READ = 64 * 1024

#: How many bytes a socket that polls as writable accepts, for a stream that can only write everything it is given.
_SURE_TO_FIT = 4 * 1024

#: The number of an event loop's turns within which it delivers data that has arrived.
TURNS = 3

#: "HTTP/1.1 200"
_STATUS_ENDS = 12

WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class NoRoomError(Exception):
    """Raised if no data could be sent in time. Not a `TimeoutError`, because the system raises that too."""


class Overheard:
    """Data that a server sent before it had the whole request, kept until the response is read."""

    __slots__ = ("_begins", "data", "is_final")

    def __init__(self) -> None:
        self.data = bytearray()
        self.is_final = False  # the final response has begun, or nothing more can arrive
        self._begins = 0  # the start of the first head that may not be that of an interim response

    def feed(self, data: bytes) -> bool:
        """Keep data that has arrived (empty at the end); return whether it ends the upload."""
        self.data += data
        self.is_final = self.is_final or not data or self._finds_answer()
        return self.is_final

    def take(self) -> bytes:
        """Return the data that was kept, and forget it."""
        data = bytes(self.data)
        self.data.clear()
        self._begins = 0
        return data

    def _finds_answer(self) -> bool:
        while len(self.data) - self._begins >= _STATUS_ENDS:
            status = self.data[self._begins + 9 : self._begins + _STATUS_ENDS]
            if status[:1] != b"1" or status == b"101":  # garbage also ends the upload; the reader reports it
                return True
            end = find_end_of_head(self.data, self._begins)
            if end is None:
                break
            self._begins = end.end()
        return len(self.data) > MAX_BEFORE_RESPONSE


def send_listening(
    sock: Any, poll: Poll, data: bytes, timeout: float | None, hear: Callable[[bytes], bool], *, looks_first: bool
) -> bool:
    """Send over a non-blocking socket; return false if data from the server ends the upload.

    Args:
        sock: The socket, with or without TLS.
        poll: The poll for this socket.
        data: The data to send.
        timeout: How many seconds may pass without progress.
        hear: Takes data that has arrived (empty at the end); returns whether it ends the upload.
        looks_first: Whether to check for a response before each piece, and not only when there is no room.

    Raises:
        NoRoomError: If no data could be sent in time.
        OSError: If the connection broke.
    """
    rest = data if len(data) <= PIECE else memoryview(data)
    while rest:
        if looks_first and poll.is_readable() and _hears(sock, hear):
            return False
        try:
            rest = rest[sock.send(rest[:PIECE]) :]
        except WOULD_BLOCK:
            readable, writable = poll.wait_writable(timeout, or_readable=True)
            if not readable and not writable:
                raise NoRoomError("The write operation timed out") from None
            if readable and _hears(sock, hear):
                return False
    return True


def _hears(sock: Any, hear: Callable[[bytes], bool]) -> bool:
    with suppress(*WOULD_BLOCK):  # the data may be for TLS itself, and not for us
        return hear(sock.recv(_READ))
    return False


def write_listening(stream: Any, poll: Poll, data: bytes, timeout: float | None, hear: Callable[[], bool]) -> bool:
    """Do the same over an httpcore stream whose socket cannot be written to directly: TLS within TLS.

    ``hear`` reads what has arrived. Raises `NoRoomError`, and any exception of the stream.
    """
    for at in range(0, len(data), _SURE_TO_FIT):
        writable = False
        while not writable:
            readable, writable = poll.wait_writable(timeout, or_readable=True)
            if not readable and not writable:
                raise NoRoomError("The write operation timed out")
            if readable and hear():
                return False
        stream.write(data[at : at + _SURE_TO_FIT], timeout)
    return True


async def awrite_listening(stream: Any, data: bytes, timeout: float | None, hear: Callable[[bytes], bool]) -> bool:
    """Do the same over a stream of an event loop.

    A waiting write cannot be cancelled before the response is read: that breaks trio's TLS. So leave it alone; it ends
    with the connection, which serves no other request.

    Args:
        stream: An httpcore stream.
        data: The data to send.
        timeout: How many seconds the whole may take.
        hear: Takes data that has arrived (empty at the end); returns whether it ends the upload.

    Raises:
        NoRoomError: If the data could not be sent in time.
        Exception: Any exception of the stream.
    """
    with TimeLimit(timeout) as scope:
        writing = _Writing(stream, data, scope)
        try:
            _start(writing.run)
            with suppress(Exception):  # nothing more will arrive; the write may fail as well, or not
                while not hear(await stream.read(_READ, None)):
                    pass
                writing.is_left = True
                await _take_turns()  # it may have ended without having reported it yet
            if not writing.is_left:
                await anyio.sleep_forever()
        finally:
            writing.is_left = True
    if writing.error is not None:
        raise writing.error
    if not writing.is_done and scope.cancelled_caught:
        raise NoRoomError("The write operation timed out")
    return writing.is_done


class _Writing:
    """A write that runs beside the task that started it."""

    def __init__(self, stream: Any, data: bytes, scope: anyio.CancelScope) -> None:
        self.is_done = False
        self.is_left = False  # by the task that started it: a write that has not begun is not sent
        self.error: Exception | None = None
        self._stream = stream
        self._data = data
        self._scope = scope
        self._is_readable = stream.get_extra_info("is_readable")  # before anything reads

    async def run(self) -> None:
        try:
            for at in range(0, len(self._data), PIECE):
                if self._is_readable or self._stream.get_extra_info("is_readable"):
                    # Let the listener have the data first: a write may find the connection broken and lose it.
                    self._is_readable = False
                    await _take_turns()
                if self.is_left:
                    return
                await self._stream.write(self._data[at : at + PIECE], None)
            self.is_done = True
        except Exception as error:
            self.error = error
        finally:
            if not self.is_left:
                self._scope.cancel()


async def _take_turns() -> None:
    for _ in range(TURNS):
        await anyio.sleep(0)


#: Keeps tasks alive: the loop refers to them weakly.
_tasks: set[asyncio.Task[None]] = set()


def _start(function: Callable[[], Any]) -> None:
    """Start a coroutine function in the running event loop; it may outlive the request."""
    if sniffio.thread_local.name == "trio":
        import trio

        trio.lowlevel.spawn_system_task(function, context=Context())
    else:
        task = asyncio.get_running_loop().create_task(function(), context=Context())
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)
