"""For threads: a network backend that opens one socket, and its stream.

httpcore accepts a network backend from its caller. Ours wraps another one, for three reasons. TCP keep-alive and the
local address also apply to proxies, where httpcore drops them. A new socket is known from the first moment, so that it
can be closed however the handshake ends. And the agent learns what only the wire can show: when a socket is usable,
which protocol was negotiated, whether a request was sent and whether a response has begun.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any

from .._protocol.http1 import PIECE
from .._runtime import process
from .opening import NO_TIME
from .poll import Poll
from .upload import NoRoomError, send_listening, write_listening
from .wire import ANSWERED, CLOSED, Wire, close_forgotten, shut_down


class SyncBackend:
    """The `httpcore.NetworkBackend` of one socket.

    Args:
        wire: The socket's wire.
        inner: The backend that does the work.
    """

    def __init__(self, wire: Wire, inner: Any) -> None:
        self._wire = wire
        self._inner = inner

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> Any:
        """Open a TCP connection; the agent's own address and options apply, through proxies too."""
        wire = self._wire
        wire.check()
        timeout = wire.opening.begin(timeout, f"{host}:{port}")
        options = wire.options
        inner = None
        try:
            inner = self._inner.connect_tcp(host, port, timeout, options.local_address, options.tcp_socket_options())
            return self._opened(inner)
        except BaseException:
            if inner is not None:  # nothing else refers to it
                inner.close()
            raise

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> Any:
        """Open a connection to a Unix socket."""
        self._wire.check()
        timeout = self._wire.opening.begin(timeout, path)
        inner = None
        try:
            inner = self._inner.connect_unix_socket(path, timeout, socket_options or ())
            return self._opened(inner)
        except BaseException:
            if inner is not None:
                inner.close()
            raise

    def sleep(self, seconds: float) -> None:
        """Wait between attempts to connect."""
        self._wire.sleep(seconds)

    def _opened(self, inner: Any) -> Any:
        kind = self._wire.family.dress(SyncStream, "NetworkStream")
        stream = _begin_sync(self._wire, kind(self._wire, inner))
        self._wire.connected()
        return stream


def _begin_sync(wire: Wire, stream: Any) -> Any:
    """Give the wire a new stream; close it if the wire was broken meanwhile, because nothing else refers to it."""
    wire.stream = stream
    if wire.broken:
        stream.close()
        wire.check()
    return stream


class SyncStream:
    """The `httpcore.NetworkStream` of one socket; each TLS handshake adds another around it."""

    def __init__(self, wire: Wire, inner: Any) -> None:
        self._wire = wire
        self.inner = inner
        self._closed = False

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read at least one byte, or none at the end."""
        wire = self._wire
        if wire.opening.greets_proxy:
            with wire.opening.greeting(wire.family.httpcore) as left:
                return self._read(max_bytes, left)
        return self._read(max_bytes, timeout)

    def _read(self, max_bytes: int, timeout: float | None) -> bytes:
        wire = self._wire
        if wire.impatient and not self.inner.get_extra_info("is_readable"):
            raise wire.family.httpcore.ReadError("the rest of the response has not arrived")
        data = wire.due()
        while data is None:
            self.enter(wire.family.httpcore.ReadError)
            try:
                incoming: bytes = self.inner.read(max_bytes, timeout)
            finally:
                self.leave()
            if wire.broken:  # closed by another thread: this end closed, not the server
                raise wire.family.httpcore.ReadError(CLOSED)
            data = wire.heard(incoming)
        wire.check_head()
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write all of it."""
        wire = self._wire
        if wire.opening.greets_proxy and wire.opening.still_greets(buffer):
            with wire.opening.greeting(wire.family.httpcore) as left:
                self._write(buffer, left)
        else:
            self._write(buffer, timeout)

    def _write(self, buffer: bytes, timeout: float | None) -> None:
        wire, httpcore = self._wire, self._wire.family.httpcore
        wire.check_unanswered(buffer)
        self.enter(httpcore.WriteError)
        try:
            listens = wire.listens(buffer, self.inner)
            wire.said(buffer)
            if not listens:
                self.inner.write(buffer, timeout)
            elif not self._write_listening(buffer, timeout):
                raise httpcore.WriteError(ANSWERED)
        except NoRoomError as error:
            wire.cut_off = True
            raise httpcore.WriteTimeout(str(error)) from None
        except OSError as error:
            wire.cut_off = True
            raise httpcore.WriteError(str(error)) from error
        except httpcore.WriteError:
            wire.cut_off = True
            raise
        finally:
            self.leave()

    def _write_listening(self, buffer: bytes, timeout: float | None) -> bool:
        """Write all of it; return false if the server responded meanwhile."""
        wire, inner = self._wire, self.inner
        sock = inner.get_extra_info("socket")
        if not isinstance(sock, socket.socket):  # nothing to wait for
            if inner.get_extra_info("is_readable") and self._overhear():
                return False
            inner.write(buffer, timeout)
            return True
        poll = Poll(sock)
        if wire.family.is_socket_stream(inner):
            sock.setblocking(False)  # httpcore's stream sets a timeout before each of its own operations
            return send_listening(sock, poll, buffer, timeout, wire.overhear, looks_first=True)
        return write_listening(inner, poll, buffer, timeout, self._overhear)

    def _overhear(self) -> bool:
        """Read what has arrived, which may be nothing for us; return whether it ends the upload."""
        httpcore = self._wire.family.httpcore
        with suppress(httpcore.ReadTimeout, httpcore.ReadError):
            while not self._wire.overhear(self.inner.read(PIECE, NO_TIME)):
                pass  # TLS may hold more data, which the system does not see
            return True
        return False

    def close(self) -> None:
        """Close; if another thread uses the stream, that thread closes it: a descriptor in use must stay ours."""
        if self._wire.is_in_use():
            self._wire.break_off()
        elif not self._closed:
            self._close_inner()
            self._closed = True

    def _close_inner(self) -> None:
        with self._wire.family.suppress_network_errors():  # they must not replace a response, or an earlier error
            self.inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> Any:
        """Secure the connection."""
        wire = self._wire
        wire.opening.secure(server_hostname)
        handle = inner = None
        try:
            handle = self._duplicate()
            with (
                wire.breakable(lambda: shut_down(handle) if handle is not None else None),
                wire.listener.handshake(ssl_context, server_hostname) as (context, name),
            ):
                inner = self.inner.start_tls(context, name, wire.opening.time_left(timeout))
            if handle is not None:
                handle.close()
            stream = _begin_sync(wire, type(self)(wire, inner))
        except BaseException as error:
            close_forgotten(error, self.inner.get_extra_info("socket"), wire.descriptors)
            for opened in (handle, inner):
                if opened is not None:
                    opened.close()
            raise
        wire.secured(stream)
        return stream

    def get_extra_info(self, info: str) -> Any:
        """Return the same information as httpcore's streams."""
        return self.inner.get_extra_info(info)

    def enter(self, error: type[Exception] | None = None) -> None:
        """Use the socket in this thread until `leave`; a break wakes the thread. See `Wire.enter`."""
        self._wire.enter(self._shut_down, error)

    def leave(self) -> None:
        """End the use that `enter` began."""
        self._wire.leave()
        if self._wire.broken:
            self.close()

    def _shut_down(self) -> None:
        sock = self.inner.get_extra_info("socket")
        if isinstance(sock, socket.socket):
            shut_down(sock)
        elif not self._closed:  # not a system socket: only closing it can wake a reader
            self.inner.close()
            self._closed = True

    def _duplicate(self) -> socket.SocketType | None:
        """Return a second descriptor for breaking a handshake: TLS takes the first one from its socket object."""
        sock = self.inner.get_extra_info("socket")
        if type(sock) is not socket.socket:
            return None
        with suppress(OSError):  # no descriptor available: a close cannot end the handshake, only its timeout can
            return process.open_noted(partial(_duplicate, sock), self._wire.descriptors)
        return None


def _duplicate(sock: socket.socket) -> socket.SocketType:
    """Return a second socket object for the same system socket.

    A single call into C creates the descriptor and the object that will close it. With two calls, an exception from a
    signal handler between them would leave the descriptor without an owner.
    """
    made: list[socket.SocketType] = []
    made.extend(map(socket.SocketType, [sock.family], [sock.type], [sock.proto], map(os.dup, [sock.fileno()])))
    return made[0]


# Async ----------------------------------------------------------------------------------------------------------------
