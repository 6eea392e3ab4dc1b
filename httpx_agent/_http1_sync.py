"""The fast HTTP/1.1 connection of the sync world: a socket that does not block, and a poll where it would have to."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from ._http1 import PIECE
from ._http1_connection import Http1Connection, Parts, Phase, TracedParts
from ._network import CLOSED
from ._poll import Poll
from ._steps import run
from ._upload import WOULD_BLOCK, NoRoomError, send_listening

if TYPE_CHECKING:
    from ._http1 import Incoming
    from ._trace import Trace

#: Read at once, at most. A head is small, and memory for more costs time.
_HEAD_READ = 64 * 1024
_BODY_READ = 256 * 1024


class SyncHttp1Connection(Http1Connection):
    """See `Http1Connection`."""

    _stream: Any = None
    _socket: Any = None
    _poll: Any = None

    def handle_request(self, request: Any) -> Any:
        """Sends a request; blocks until its response begins."""
        if self._stream is None:
            self._connect(request)
        trace = self._begin(request)
        timeouts = request.extensions.get("timeout", {})
        try:
            if trace is None:
                incoming = self._exchange(request, timeouts)
            else:
                incoming = self._exchange_traced(request, timeouts, trace)
        except BaseException:
            self.end_traced(trace)
            raise
        stream = SwitchedStream(self._stream, incoming.rest) if incoming.switches else self._stream
        timeout = timeouts.get("read")
        body = Body(self, incoming, timeout) if trace is None else TracedBody(self, incoming, timeout, request, trace)
        return self._answer(incoming, body, stream)

    def close(self) -> None:
        """Closes it, whatever it does."""
        self.phase = Phase.CLOSED
        if self._stream is not None:
            self._stream.close()

    def end_response(self) -> None:
        """The response is over; a connection that cannot be used again is closed."""
        if not self._comes_to_rest():
            self.close()

    def end_traced(self, trace: Trace | None) -> None:
        if trace is None:
            self.end_response()
        else:
            with trace.span("http11.response_closed", {}):
                self.end_response()

    def _connect(self, request: Any) -> None:
        try:
            self._stream = run(self._open(request))
            self._socket = self._stream.get_extra_info("socket")
            self._socket.setblocking(False)
            self._poll = Poll(self._socket)
            self.wire.look = self._poll.is_readable
        except BaseException:
            self._has_failed = True
            raise

    # Sending ----------------------------------------------------------------------------------------------------------

    def _exchange(self, request: Any, timeouts: dict[str, float | None]) -> Incoming:
        """Sends the request, and receives the head of its response."""
        self._encode(request)
        with suppress(self.httpcore.WriteError):  # the server may have answered before it closed
            self._send(request, timeouts.get("write"))
        return self._receive_head(timeouts.get("read"))

    def _exchange_traced(self, request: Any, timeouts: dict[str, float | None], trace: Trace) -> Incoming:
        """The same with trace events."""
        info = {"request": request}
        try:
            with trace.span("http11.send_request_headers", info):
                goes_on = self._write(self._encode(request).head, timeouts.get("write"))
            if goes_on:
                with trace.span("http11.send_request_body", info):
                    self._send_body(request, timeouts.get("write"))
        except self.httpcore.WriteError:
            pass
        with trace.span("http11.receive_response_headers", info) as span:
            incoming = self._receive_head(timeouts.get("read"))
            span.return_value = incoming.head()
        return incoming

    def _send(self, request: Any, timeout: float | None) -> None:
        """Sends it all, in one write if it is small."""
        outgoing = self._outgoing
        assert outgoing is not None
        if type(request.stream) is self._plain_body:
            data = b"".join(request.stream)
            if len(data) <= PIECE:
                self._is_sent = self._write(outgoing.whole(data), timeout)
                return
        if self._write(outgoing.head, timeout):
            self._send_body(request, timeout)

    def _send_body(self, request: Any, timeout: float | None) -> None:
        outgoing = self._outgoing
        assert outgoing is not None
        for data in request.stream:
            for part in outgoing.parts(data):
                if not self._write(part, timeout, looks_first=True):
                    return
        self._is_sent = self._write(outgoing.end(), timeout, looks_first=True)

    def _write(self, data: bytes, timeout: float | None, *, looks_first: bool = False) -> bool:
        """Write all of it; return false if the server answered before it had the request."""
        stream = self._stream
        stream.enter()
        try:
            self.wire.wrote = self.wire.wrote or bool(data)
            return send_listening(self._socket, self._poll, data, timeout, self._hear_early, looks_first=looks_first)
        except NoRoomError as error:
            raise self.httpcore.WriteTimeout(str(error)) from None
        except OSError as error:
            if not self.wire.family.is_of_network(error):  # nothing here has a timeout of the system's
                raise
            raise self.httpcore.WriteError(str(error)) from error
        finally:
            stream.leave()

    def _hear_early(self, data: bytes) -> bool:
        """Take what came while the request is being sent; return whether that ends the upload."""
        incoming = self._incoming
        assert incoming is not None
        self._take(incoming, data)
        return incoming.ends_upload

    # Receiving --------------------------------------------------------------------------------------------------------

    def _receive_head(self, timeout: float | None) -> Incoming:
        incoming = self._incoming
        assert incoming is not None
        while not incoming.has_head:
            self.receive(incoming, timeout)
        return incoming

    def receive(self, incoming: Incoming, timeout: float | None) -> None:
        """Takes what comes next."""
        if incoming.failure is not None:
            raise incoming.failure
        if incoming is not self._incoming:  # another thread closed the response; the socket may serve again
            raise self.httpcore.ReadError(CLOSED)
        wire, sock, stream = self.wire, self._socket, self._stream
        size = _BODY_READ if incoming.has_head else _HEAD_READ
        # What is to come has come already, in the middle of a body; TLS may hold some; but a new response takes time.
        waits = not incoming.has_head and type(sock) is socket.socket
        stream.enter()
        try:
            while True:
                patience = 0.0 if wire.impatient else timeout
                if waits and not self._poll.wait_readable(patience):
                    raise self.httpcore.ReadTimeout("The read operation timed out")
                try:
                    data = sock.recv(size)
                    break
                except WOULD_BLOCK:
                    waits = True
        except OSError as error:
            if not self.wire.family.is_of_network(error):  # nothing here has a timeout of the system's
                raise
            raise self.httpcore.ReadError(str(error)) from error
        finally:
            stream.leave()
        if wire.broken:  # by another thread: an end that is ours is not the server's
            raise self.httpcore.ReadError(CLOSED)
        self._take(incoming, data)

    def _take(self, incoming: Incoming, data: bytes) -> None:
        self.wire.heard(data)
        if data:
            incoming.feed(data)
        else:
            incoming.feed_end()


class _Parts(Parts):
    """The body of a response: an iterator over its parts."""

    __slots__ = ()

    def __iter__(self) -> Self:
        return self

    def _next(self) -> bytes:
        """The next part; empty at the end."""
        incoming = self._incoming
        while not incoming.pieces:
            if incoming.is_complete:
                return b""
            self._connection.receive(incoming, self._timeout)
        return incoming.pieces.pop(0)


class Body(_Parts):
    """The body of a response that nobody listens to."""

    __slots__ = ()

    def __next__(self) -> bytes:
        try:
            part = self._next()
        except BaseException:
            self.close_now()
            raise
        if not part:
            raise StopIteration
        return part

    def close_now(self) -> None:
        """The response is over, read to its end or not."""
        if not self._is_closed:
            self._is_closed = True
            self._connection.end_response()

    close = close_now


class TracedBody(_Parts, TracedParts):
    """The body of a response with trace events."""

    __slots__ = ()

    def __next__(self) -> bytes:
        try:
            if self._span is None:
                self._span = self._trace.span("http11.receive_response_body", {"request": self._request}).__enter__()
            part = self._next()
            if not part:
                self._end_span(None)
        except BaseException as error:
            self._end_span(error)
            self.close()
            raise
        if not part:
            raise StopIteration
        return part

    def _end_span(self, error: BaseException | None) -> None:
        span, self._span = self._span, False
        if span:
            span.__exit__(None, error, None)

    def close(self) -> None:
        """The response is over, read to its end or not."""
        if not self._is_closed:
            self._is_closed = True
            self._connection.end_traced(self._trace)


class SwitchedStream:
    """The stream of a connection that speaks another protocol now, whose first bytes came with the response."""

    def __init__(self, stream: Any, leading: bytes) -> None:
        self._stream = stream
        self._leading = leading

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Reads at least one byte, or none at the end."""
        data: bytes
        if self._leading:
            data, self._leading = self._leading[:max_bytes], self._leading[max_bytes:]
        else:
            data = self._stream.read(max_bytes, timeout)
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Writes all of it."""
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        """Closes it."""
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> Any:
        """Secures it."""
        return self._stream.start_tls(ssl_context, server_hostname, timeout)

    def get_extra_info(self, info: str) -> Any:
        """What is known of it."""
        return self._stream.get_extra_info(info)
