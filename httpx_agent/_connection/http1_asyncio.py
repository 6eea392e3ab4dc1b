"""The fast HTTP/1.1 connection for asyncio and compatible loops (uvloop).

Data is parsed as soon as the event loop delivers it; a request waits once, for the head of its response.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

from .._network.asyncio import HIGH_WATER
from .._network.upload import TURNS
from .._network.wire import CLOSED
from .._protocol.http1 import PIECE
from .._runtime.flows import arun
from .http1 import Http1Connection, Parts, Phase, TracedParts

if TYPE_CHECKING:
    from .._protocol.http1 import Incoming

#: Seconds within which the loop delivers data that has arrived, unless it is half a TLS record.
_ARRIVED = 0.05


class AsyncioHttp1Connection(Http1Connection):
    """See `Http1Connection`."""

    is_async = True
    _stream: Any = None  # the stream for the caller
    _io: Any = None  # the `AsyncioStream` inside it
    _waiting_bytes = 0

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request; wait until its response begins."""
        if self._stream is None:
            await self._connect(request)
        trace = self._begin(request)
        timeouts = request.extensions.get("timeout", {})
        try:
            if trace is None:
                incoming = await self._exchange(request, timeouts)
            else:
                incoming = await arun(self._exchange_traced(request, timeouts, trace))
        except GeneratorExit:  # nothing can be awaited now
            self._trace = None
            self._end()
            raise
        except BaseException:
            if trace is None:
                self._end()
            else:
                await arun(self._end_traced(trace))
            raise
        if incoming.switches:
            self._io.take_over(incoming.rest)
        timeout = timeouts.get("read")
        body = Body(self, incoming, timeout) if trace is None else TracedBody(self, incoming, timeout, request, trace)
        return self._answer(incoming, body, self._stream)

    async def aclose(self) -> None:
        """Close the connection, whatever it is doing."""
        self.phase = Phase.CLOSED
        if self._stream is not None:
            await self._stream.aclose()

    def _has_news(self) -> bool:
        return self.wire.unsolicited or bool(self._io.is_readable())

    def _close_soon(self) -> None:
        self.phase = Phase.CLOSED
        self._io.close_soon()

    async def _connect(self, request: Any) -> None:
        try:
            self._stream = await arun(self._open(request))
        except BaseException:
            self._has_failed = True
            raise
        self._io = self._stream.inner
        self._io.consumer = self

    # Hearing from the stream ------------------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """Take bytes that have arrived."""
        incoming = self._incoming
        if incoming is None or (incoming.is_complete and not incoming.switches):
            self._hear_unsolicited()
            return
        self.wire.received += len(data)
        incoming.feed(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes > HIGH_WATER and not incoming.is_complete:
            self._io.pause_reading()
        self._io.wake()

    def ended(self, error: Exception | None) -> None:
        """Note that the server closed the connection, or that the connection broke."""
        incoming = self._incoming
        if incoming is None:
            self.wire.ended = True
            self.wire.listener.lost()
        elif incoming.failure is None:  # otherwise something went wrong before the end
            if self.phase is Phase.CLOSED:  # closed by this side: the body is incomplete, whatever its framing says
                incoming.failure = self.httpcore.ReadError(CLOSED)
            elif error is None:
                self.wire.ended = True
                incoming.feed_end()
            else:
                incoming.failure = failure = self.httpcore.ReadError(str(error))
                failure.__cause__ = error

    def _hear_unsolicited(self) -> None:
        """Note unsolicited bytes: they are not the response to the next request (R20)."""
        self.wire.unsolicited = True
        self._io.pause_reading()
        incoming = self._incoming
        if incoming is None:
            self.wire.listener.lost()
        else:
            incoming.stays_open = False

    # Sending ----------------------------------------------------------------------------------------------------------

    async def _exchange(self, request: Any, timeouts: dict[str, float | None]) -> Incoming:
        """Send the request and receive the head of its response."""
        outgoing = self._encode(request)
        timeout = timeouts.get("write")
        if type(request.stream) is self._plain_body:
            data = b"".join(request.stream)
            if len(data) <= PIECE:
                io = self._io
                if not io.is_closing():  # otherwise the server may have responded before it closed
                    self.wire.wrote = True
                    io.send(outgoing.whole(data))
                    self._is_sent = io.can_write or await self._drain(timeout)
                return await self._receive_head(timeouts.get("read"))
        if await self._write(outgoing.head, timeout):
            await self._send_body(request, timeout)
        return await self._receive_head(timeouts.get("read"))

    async def _send_head(self, request: Any, timeout: float | None) -> bool:
        return await self._write(self._encode(request).head, timeout)

    async def _send_body(self, request: Any, timeout: float | None) -> None:
        outgoing = self._outgoing
        assert outgoing is not None
        async for data in request.stream:
            for part in outgoing.parts(data):
                if not await self._write(part, timeout, looks_first=True):
                    return
        self._is_sent = await self._write(outgoing.end(), timeout, looks_first=True)

    async def _write(self, data: bytes, timeout: float | None, *, looks_first: bool = False) -> bool:
        """Write all of it; return false if the connection broke, or the server responded early."""
        io, incoming = self._io, self._incoming
        assert incoming is not None
        rest = data if len(data) <= PIECE else memoryview(data)
        while rest:
            if looks_first and not io.is_closing() and io.is_readable():
                # The response arrives within the loop's next turns. A write might find a broken connection and lose it.
                for _ in range(TURNS):
                    await asyncio.sleep(0)
            if io.is_closing() or incoming.ends_upload:
                return False  # the server may have responded before it closed
            self.wire.wrote = True
            io.send(rest[:PIECE])
            rest = rest[PIECE:]
            if not io.can_write and not await self._drain(timeout):
                return False
        return True

    async def _drain(self, timeout: float | None) -> bool:
        """Wait until there is room for more; return false if the connection broke, or the server responded."""
        io, incoming = self._io, self._incoming
        assert incoming is not None
        while not io.can_write:
            if io.is_lost or incoming.ends_upload:
                return False
            self._waiting_bytes = 0  # these are interim responses, which nothing reads
            io.resume_reading()
            try:
                await io.news(timeout)
            except TimeoutError as error:
                raise self.httpcore.WriteTimeout(str(error)) from error
        return True

    # Receiving --------------------------------------------------------------------------------------------------------

    async def _receive_head(self, timeout: float | None) -> Incoming:
        incoming = self._incoming
        assert incoming is not None
        while not incoming.has_head:
            await self.receive(incoming, timeout)
        return incoming

    async def receive(self, incoming: Incoming, timeout: float | None) -> None:
        """Wait for more data."""
        io = self._io
        if incoming is not self._incoming:  # another task closed the response; the socket may serve another request
            raise self.httpcore.ReadError(CLOSED)
        if io.has_ended and incoming.failure is None:  # it ended before there was a request
            self.ended(io.error)
        if incoming.failure is not None:
            raise incoming.failure
        self._waiting_bytes = 0
        io.resume_reading()
        if self.wire.impatient:
            if not io.get_extra_info("is_readable"):
                raise self.httpcore.ReadError("the rest of the response has not arrived")
            timeout = _ARRIVED
        try:
            await io.news(timeout)
        except TimeoutError as error:
            raise self.httpcore.ReadTimeout(str(error)) from error


class Body(Parts):
    """The body of a response without trace events."""

    __slots__ = ()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            part = await self.read()
        except BaseException:
            await self.aclose()
            raise
        if not part:
            raise StopAsyncIteration
        return part

    async def read(self) -> bytes:
        incoming = self.incoming
        while not incoming.pieces:
            if incoming.is_complete:
                return b""
            await self._connection.receive(incoming, self._timeout)
        return incoming.pieces.pop(0)

    async def aclose(self) -> None:
        """End the response, whether or not it was read to the end; this never waits."""
        if self.incoming is self._connection._incoming:
            self._connection._end()


class TracedBody(Body, TracedParts):
    """The body of a response with trace events."""

    __slots__ = ()

    async def __anext__(self) -> bytes:
        part: bytes = await arun(self._connection._read_traced(self))
        if not part:
            raise StopAsyncIteration
        return part

    async def aclose(self) -> None:
        if self.incoming is self._connection._incoming:
            await arun(self._connection._end_traced(self.trace))
