"""Sending a request with an ear on the server: an answer that comes before the request has left ends it.

A server may answer early and read no more (RFC 9112, 9.5): who only writes waits for room until the write timeout, and
never sees the answer. Both HTTP/1.1 engines listen while they send. Interim responses (RFC 9110, 15.2) end nothing.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any

import anyio
import sniffio

from ._contexts import TimeLimit
from ._http1 import MAX_BEFORE_RESPONSE, PIECE, find_end_of_head

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._poll import Poll

#: Read at once, at most, while sending.
_READ = 64 * 1024

#: What a socket takes that polls as writable, over a stream that can only be written to as a whole.
_SURE_TO_FIT = 4 * 1024

#: So many turns of an event loop bring in what can be read.
TURNS = 3

#: "HTTP/1.1 200"
_STATUS_ENDS = 12

WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class NoRoomError(Exception):
    """Nothing could be sent in time. Not a `TimeoutError`: that is an error of the system's, too."""


class Overheard:
    """What a server has said before it had the whole request; it is kept for who reads the response."""

    __slots__ = ("_begins", "data", "is_final")

    def __init__(self) -> None:
        self.data = bytearray()
        self.is_final = False  # a response that is not interim has begun, or nothing can come any more
        self._begins = 0  # where the head begins that is not known to be of an interim response

    def feed(self, data: bytes) -> bool:
        """Keep what came, nothing at the end; return whether it ends the upload."""
        self.data += data
        self.is_final = self.is_final or not data or self._finds_answer()
        return self.is_final

    def take(self) -> bytes:
        """Give what was kept."""
        data = bytes(self.data)
        self.data.clear()
        self._begins = 0
        return data

    def _finds_answer(self) -> bool:
        while len(self.data) - self._begins >= _STATUS_ENDS:
            status = self.data[self._begins + 9 : self._begins + _STATUS_ENDS]
            if status[:1] != b"1" or status == b"101":  # what makes no sense ends it as well: the reader says so
                return True
            end = find_end_of_head(self.data, self._begins)
            if end is None:
                break
            self._begins = end.end()
        return len(self.data) > MAX_BEFORE_RESPONSE


def send_listening(
    sock: Any, poll: Poll, data: bytes, timeout: float | None, hear: Callable[[bytes], bool], *, looks_first: bool
) -> bool:
    """Send over a socket that does not block; return false if what the server said meanwhile ends it.

    Args:
        sock: The socket, with or without TLS.
        poll: What looks at it.
        data: What to send.
        timeout: Seconds without progress.
        hear: Takes what came, nothing at the end; returns whether that ends the upload.
        looks_first: Whether to look for an answer before each piece, and not only where there is no room for it.

    Raises:
        NoRoomError: If nothing could be sent in time.
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
    with suppress(*WOULD_BLOCK):  # TLS may have something to say, and nothing for us
        return hear(sock.recv(_READ))
    return False


def write_listening(stream: Any, poll: Poll, data: bytes, timeout: float | None, hear: Callable[[], bool]) -> bool:
    """The same over one of httpcore's streams whose socket is not its own to write to: TLS within TLS.

    ``hear`` reads what has arrived. Raises what the stream does, and `NoRoomError`.
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
    """The same over a stream of an event loop.

    A write that waits cannot be cancelled and the answer then be read: trio's TLS breaks by it. So it is left alone; it
    ends with the connection, which serves no other request.

    Args:
        stream: One of httpcore's.
        data: What to send.
        timeout: Seconds for all of it.
        hear: Takes what came, nothing at the end; returns whether that ends the upload.

    Raises:
        NoRoomError: If it could not be sent in time.
        Exception: What the stream raises.
    """
    with TimeLimit(timeout) as scope:
        writing = _Writing(stream, data, scope)
        try:
            _start(writing.run)
            with suppress(Exception):  # nothing more is heard; the write fails as well, or does not
                while not hear(await stream.read(_READ, None)):
                    pass
                writing.is_left = True
                await _take_turns()  # it may have come to its end, and not to say so
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
    """A write beside the task that wants it."""

    def __init__(self, stream: Any, data: bytes, scope: anyio.CancelScope) -> None:
        self.is_done = False
        self.is_left = False  # by who wanted it: what was not begun is not sent
        self.error: Exception | None = None
        self._stream = stream
        self._data = data
        self._scope = scope
        self._is_readable = stream.get_extra_info("is_readable")  # before somebody reads

    async def run(self) -> None:
        try:
            for at in range(0, len(self._data), PIECE):
                if self._is_readable or self._stream.get_extra_info("is_readable"):
                    # Who listens hears it first: a write may find the connection broken, and take it along.
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


#: The loop refers to its tasks weakly.
_tasks: set[asyncio.Task[None]] = set()


def _start(function: Callable[[], Any]) -> None:
    """Run a coroutine function beside, in the running event loop; it may outlive the request."""
    if sniffio.thread_local.name == "trio":
        import trio

        trio.lowlevel.spawn_system_task(function, context=Context())
    else:
        task = asyncio.get_running_loop().create_task(function(), context=Context())
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)
