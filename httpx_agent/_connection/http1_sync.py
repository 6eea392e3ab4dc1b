"""The fast HTTP/1.1 connection of the sync world: a non-blocking socket, and a poll whenever it would block."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from .._network.poll import Poll
from .._network.upload import WOULD_BLOCK, NoRoomError, send_listening
from .._network.wire import CLOSED
from .._protocol.http1 import PIECE
from .._runtime.flows import run
from .http1 import Http1Connection, Parts, Phase, TracedParts

if TYPE_CHECKING:
    from .._protocol.http1 import Incoming

#: The maximum number of bytes to read at once. A head is small, and allocating more memory takes time.
_HEAD_READ = 64 * 1024
_BODY_READ = 256 * 1024


class SyncHttp1Connection(Http1Connection):
    """See `Http1Connection`."""

    is_async = False
    _stream: Any = None
    _socket: Any = None
    _poll: Any = None

    def handle_request(self, request: Any) -> Any:
        """Send a request; block until its response begins."""
        if self._stream is None:
            self._connect(request)
        trace = self._begin(request)
        timeouts = request.extensions.get("timeout", {})
        try:
            if trace is None:
                incoming = self._exchange(request, timeouts)
            else:
                incoming = run(self._exchange_traced(request, timeouts, trace))
        except BaseException:
            if trace is None:
                self._end()
            else:
                run(self._end_traced(trace))
            raise
        stream = SwitchedStream(self._stream, incoming.rest) if incoming.switches else self._stream
        timeout = timeouts.get("read")
        body = Body(self, incoming, timeout) if trace is None else TracedBody(self, incoming, timeout, request, trace)
        return self._answer(incoming, body, stream)

    def close(self) -> None:
        """Close the connection, whatever it is doing."""
        self.phase = Phase.CLOSED
        if self._stream is not None:
            self._stream.close()

    def _has_news(self) -> bool:
        return self.wire.unsolicited or bool(self._poll.is_readable())

    def _close_soon(self) -> None:
        self.close()

    def _connect(self, request: Any) -> None:
        try:
            self._stream = run(self._open(request))
            self._socket = self._stream.get_extra_info("socket")
            self._socket.setblocking(False)
            self._poll = Poll(self._socket)
        except BaseException:
            self._has_failed = True
            raise

    # Sending ----------------------------------------------------------------------------------------------------------

    def _exchange(self, request: Any, timeouts: dict[str, float | None]) -> Incoming:
        """Send the request and receive the head of its response."""
        self._encode(request)
        with suppress(self.httpcore.WriteError):  # the server may have responded before it closed
            self._send(request, timeouts.get("write"))
        return self._receive_head(timeouts.get("read"))

    def _send(self, request: Any, timeout: float | None) -> None:
        """Send all of it, in one write if it is small."""
        outgoing = self._outgoing
        assert outgoing is not None
        if type(request.stream) is self._plain_body:
            data = b"".join(request.stream)
            if len(data) <= PIECE:
                self._is_sent = self._write(outgoing.whole(data), timeout)
                return
        if self._write(outgoing.head, timeout):
            self._send_body(request, timeout)

    def _send_head(self, request: Any, timeout: float | None) -> bool:
        return self._write(self._encode(request).head, timeout)

    def _send_body(self, request: Any, timeout: float | None) -> None:
        outgoing = self._outgoing
        assert outgoing is not None
        for data in request.stream:
            for part in outgoing.parts(data):
                if not self._write(part, timeout, looks_first=True):
                    return
        self._is_sent = self._write(outgoing.end(), timeout, looks_first=True)

    def _write(self, data: bytes, timeout: float | None, *, looks_first: bool = False) -> bool:
        """Write all of it; return false if the server responded early."""
        stream = self._stream
        stream.enter()
        try:
            self.wire.wrote = self.wire.wrote or bool(data)
            return send_listening(self._socket, self._poll, data, timeout, self._hear_early, looks_first=looks_first)
        except NoRoomError as error:
            raise self.httpcore.WriteTimeout(str(error)) from None
        except OSError as error:
            if not self.wire.family.is_of_network(error):  # no system timeout applies here
                raise
            raise self.httpcore.WriteError(str(error)) from error
        finally:
            stream.leave()

    def _hear_early(self, data: bytes) -> bool:
        """Take data that arrived while sending the request; return whether it ends the upload."""
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
        """Receive more data."""
        if incoming.failure is not None:
            raise incoming.failure
        if incoming is not self._incoming:  # another thread closed the response; the socket may serve another request
            raise self.httpcore.ReadError(CLOSED)
        wire, sock, stream = self.wire, self._socket, self._stream
        size = _BODY_READ if incoming.has_head else _HEAD_READ
        # Within a body, the next bytes are usually there, perhaps inside TLS; a new response takes time.
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
            if not self.wire.family.is_of_network(error):  # no system timeout applies here
                raise
            raise self.httpcore.ReadError(str(error)) from error
        finally:
            stream.leave()
        if wire.broken:  # closed by another thread: this end closed, not the server
            raise self.httpcore.ReadError(CLOSED)
        self._take(incoming, data)

    def _take(self, incoming: Incoming, data: bytes) -> None:
        if data:
            self.wire.received += len(data)
            incoming.feed(data)
        else:
            self.wire.ended = True
            incoming.feed_end()


class Body(Parts):
    """The body of a response without trace events."""

    __slots__ = ()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        try:
            part = self.read()
        except BaseException:
            self.close()
            raise
        if not part:
            raise StopIteration
        return part

    def read(self) -> bytes:
        incoming = self.incoming
        while not incoming.pieces:
            if incoming.is_complete:
                return b""
            self._connection.receive(incoming, self._timeout)
        return incoming.pieces.pop(0)

    def close(self) -> None:
        """End the response, whether or not it was read to the end."""
        if self.incoming is self._connection._incoming:
            self._connection._end()


class TracedBody(Body, TracedParts):
    """The body of a response with trace events."""

    __slots__ = ()

    def __next__(self) -> bytes:
        part: bytes = run(self._connection._read_traced(self))
        if not part:
            raise StopIteration
        return part

    def close(self) -> None:
        if self.incoming is self._connection._incoming:
            run(self._connection._end_traced(self.trace))


class SwitchedStream:
    """The stream of a connection that has switched to another protocol; its first bytes came with the response."""

    def __init__(self, stream: Any, leading: bytes) -> None:
        self._stream = stream
        self._leading = leading

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read at least one byte, or none at the end."""
        data: bytes
        if self._leading:
            data, self._leading = self._leading[:max_bytes], self._leading[max_bytes:]
        else:
            data = self._stream.read(max_bytes, timeout)
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write all of it."""
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        """Close it."""
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> Any:
        """Secure the stream with TLS."""
        return self._stream.start_tls(ssl_context, server_hostname, timeout)

    def get_extra_info(self, info: str) -> Any:
        """Return the same information as httpcore's streams."""
        return self._stream.get_extra_info(info)
