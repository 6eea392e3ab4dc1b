"""The fast HTTP/1.1 connection for asyncio, and for loops made like it (uvloop).

What comes in is parsed where the event loop delivers it; a request waits once, for the head of its response.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

from ._asyncio_streams import HIGH_WATER
from ._http1 import PIECE
from ._http1_connection import Http1Connection, Parts, Phase, TracedParts
from ._network import CLOSED
from ._steps import arun
from ._upload import TURNS

if TYPE_CHECKING:
    from ._http1 import Incoming
    from ._trace import Trace

#: What can be read comes in with the loop's next turns, unless it is half a record of TLS.
_ARRIVED = 0.05


class AsyncioHttp1Connection(Http1Connection):
    """See `Http1Connection`."""

    _stream: Any = None  # what the caller may use
    _io: Any = None  # the same without a shell: our `AsyncioStream`
    _waiting_bytes = 0

    async def handle_async_request(self, request: Any) -> Any:
        """Sends a request; waits until its response begins."""
        if self._stream is None:
            await self._connect(request)
        trace = self._begin(request)
        timeouts = request.extensions.get("timeout", {})
        try:
            if trace is None:
                incoming = await self._exchange(request, timeouts)
            else:
                incoming = await self._exchange_traced(request, timeouts, trace)
        except GeneratorExit:  # nothing can be awaited any more
            self.end_response()
            raise
        except BaseException:
            await self.end_traced(trace)
            raise
        if incoming.switches:
            self._io.take_over(incoming.rest)
        timeout = timeouts.get("read")
        body = Body(self, incoming, timeout) if trace is None else TracedBody(self, incoming, timeout, request, trace)
        return self._answer(incoming, body, self._stream)

    async def aclose(self) -> None:
        """Closes it, whatever it does."""
        self.phase = Phase.CLOSED
        if self._stream is not None:
            await self._stream.aclose()

    def end_response(self) -> None:
        """The response is over; a connection that cannot be used again is closed."""
        if not self._comes_to_rest():
            self.phase = Phase.CLOSED
            self._io.close_soon()

    async def end_traced(self, trace: Trace | None) -> None:
        if trace is None:
            self.end_response()
        else:
            async with trace.span("http11.response_closed", {}):
                self.end_response()

    async def _connect(self, request: Any) -> None:
        try:
            self._stream = await arun(self._open(request))
        except BaseException:
            self._has_failed = True
            raise
        self._io = self._stream.inner
        self._io.consumer = self
        self.wire.look = self._io.is_readable

    # Hearing from the stream ------------------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """Bytes came in."""
        incoming = self._incoming
        if incoming is None or (incoming.is_complete and not incoming.switches):
            self._hear_unasked()
            return
        self.wire.heard(data)
        incoming.feed(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes > HIGH_WATER and not incoming.is_complete:
            self._io.pause_reading()
        self._io.wake()

    def ended(self, error: Exception | None) -> None:
        """The server closed the connection, or it broke."""
        incoming = self._incoming
        if incoming is None:
            self.wire.ended = True
            self.wire.listener.lost()
        elif incoming.failure is None:  # else the end is not what went wrong
            if self.phase is Phase.CLOSED:  # by this side: what has come is not all, whatever its framing
                incoming.failure = self.httpcore.ReadError(CLOSED)
            elif error is None:
                self.wire.ended = True
                incoming.feed_end()
            else:
                incoming.failure = failure = self.httpcore.ReadError(str(error))
                failure.__cause__ = error

    def _hear_unasked(self) -> None:
        """What nobody asked for is not the next request's answer (R20)."""
        self.wire.unasked = True
        self._io.pause_reading()
        incoming = self._incoming
        if incoming is None:
            self.wire.listener.lost()
        else:
            incoming.stays_open = False

    # Sending ----------------------------------------------------------------------------------------------------------

    async def _exchange(self, request: Any, timeouts: dict[str, float | None]) -> Incoming:
        """Sends the request, and receives the head of its response."""
        outgoing = self._encode(request)
        timeout = timeouts.get("write")
        if type(request.stream) is self._plain_body:
            data = b"".join(request.stream)
            if len(data) <= PIECE:
                io = self._io
                if not io.is_closing():  # else the server may have answered before it closed
                    self.wire.wrote = True
                    io.send(outgoing.whole(data))
                    self._is_sent = io.can_write or await self._drain(timeout)
                return await self._receive_head(timeouts.get("read"))
        if await self._write(outgoing.head, timeout):
            await self._send_body(request, timeout)
        return await self._receive_head(timeouts.get("read"))

    async def _exchange_traced(self, request: Any, timeouts: dict[str, float | None], trace: Trace) -> Incoming:
        """The same with trace events."""
        info = {"request": request}
        timeout = timeouts.get("write")
        async with trace.span("http11.send_request_headers", info):
            goes_on = await self._write(self._encode(request).head, timeout)
        if goes_on:
            async with trace.span("http11.send_request_body", info):
                await self._send_body(request, timeout)
        async with trace.span("http11.receive_response_headers", info) as span:
            incoming = await self._receive_head(timeouts.get("read"))
            span.return_value = incoming.head()
        return incoming

    async def _send_body(self, request: Any, timeout: float | None) -> None:
        outgoing = self._outgoing
        assert outgoing is not None
        async for data in request.stream:
            for part in outgoing.parts(data):
                if not await self._write(part, timeout, looks_first=True):
                    return
        self._is_sent = await self._write(outgoing.end(), timeout, looks_first=True)

    async def _write(self, data: bytes, timeout: float | None, *, looks_first: bool = False) -> bool:
        """Write all of it; return false if the connection broke, or the server answered before it had the request."""
        io, incoming = self._io, self._incoming
        assert incoming is not None
        rest = data if len(data) <= PIECE else memoryview(data)
        while rest:
            if looks_first and not io.is_closing() and io.is_readable():
                # It comes in with the loop's next turns. A write may find the connection broken, and take it along.
                for _ in range(TURNS):
                    await asyncio.sleep(0)
            if io.is_closing() or incoming.ends_upload:
                return False  # the server may have answered before it closed
            self.wire.wrote = True
            io.send(rest[:PIECE])
            rest = rest[PIECE:]
            if not io.can_write and not await self._drain(timeout):
                return False
        return True

    async def _drain(self, timeout: float | None) -> bool:
        """Wait until there is room for more; return false if the connection broke, or the server answered."""
        io, incoming = self._io, self._incoming
        assert incoming is not None
        while not io.can_write:
            if io.is_lost or incoming.ends_upload:
                return False
            self._waiting_bytes = 0  # interim responses, which nobody takes
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
        """Waits for what comes next."""
        io = self._io
        if incoming is not self._incoming:  # another task closed the response; the socket may serve again
            raise self.httpcore.ReadError(CLOSED)
        if io.has_ended and incoming.failure is None:  # before there was a request
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


class _Parts(Parts):
    """The body of a response: an asynchronous iterator over its parts."""

    __slots__ = ()

    def __aiter__(self) -> Self:
        return self

    def _take(self) -> bytes | None:
        """The next part, if it has come; empty at the end, ``None`` if it is to be waited for."""
        incoming = self._incoming
        if incoming.pieces:
            return incoming.pieces.pop(0)
        return b"" if incoming.is_complete else None

    async def _next(self) -> bytes:
        while (part := self._take()) is None:
            await self._connection.receive(self._incoming, self._timeout)
        return part


class Body(_Parts):
    """The body of a response that nobody listens to."""

    __slots__ = ()

    take = _Parts._take

    async def __anext__(self) -> bytes:
        try:
            part = await self._next()
        except BaseException:
            self.close_now()
            raise
        if not part:
            raise StopAsyncIteration
        return part

    async def aclose(self) -> None:
        """The response is over, read to its end or not."""
        self.close_now()

    def close_now(self) -> None:
        """The same; nothing in it waits."""
        if not self._is_closed:
            self._is_closed = True
            self._connection.end_response()


class TracedBody(_Parts, TracedParts):
    """The body of a response with trace events."""

    __slots__ = ()

    async def __anext__(self) -> bytes:
        try:
            if self._span is None:
                span = self._trace.span("http11.receive_response_body", {"request": self._request})
                self._span = await span.__aenter__()
            part = await self._next()
            if not part:
                await self._end_span(None)
        except GeneratorExit:
            raise
        except BaseException as error:
            await self._end_span(error)
            await self.aclose()
            raise
        if not part:
            raise StopAsyncIteration
        return part

    async def _end_span(self, error: BaseException | None) -> None:
        span, self._span = self._span, False
        if span:
            await span.__aexit__(None, error, None)

    async def aclose(self) -> None:
        """The response is over, read to its end or not."""
        if not self._is_closed:
            self._is_closed = True
            await self._connection.end_traced(self._trace)
