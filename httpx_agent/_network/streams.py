"""Between httpcore's connections and the network: one backend for each socket.

httpcore lets anyone pass a network backend. Ours wraps another one, for three reasons. TCP keep-alive and the local
address hold through proxies too, where httpcore drops them. What was opened is known from the first moment, so that it
can be closed whatever becomes of the handshake. And the agent learns what only the wire tells: when a socket is usable,
which protocol was negotiated, whether a request left and whether an answer began.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
import traceback
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from .._protocol.http1 import MAX_BEFORE_RESPONSE, PIECE
from .._runtime import process
from .._runtime.causes import walk_causes
from .._runtime.contexts import TimeLimit
from .._runtime.locks import Signal
from .opening import NO_TIME, Opening
from .poll import Poll
from .trio_tls import keep_readable
from .upload import NoRoomError, Overheard, awrite_listening, send_listening, write_listening

if TYPE_CHECKING:
    from .._family import Family
    from .._protocol.http2 import Frames
    from .._values.options import AgentOptions

#: The error for a caller whose socket this side has closed under them.
CLOSED = "the connection was closed by this side"

#: The error that ends an upload of httpcore's; it reads the response then.
_ANSWERED = "the server answered before it had the whole request"

#: Bytes of a request that fit into the buffers on the way: there is no need to listen while they are sent.
_UNLISTENED = 16 * 1024

#: Seconds until a stream that has not finished closing is aborted, and a thread that uses it no longer waited for.
CLOSE_TIMEOUT = 1.0

#: An item of our asyncio streams' `get_extra_info`: whether data or the end came that nobody read.
LEFT_UNREAD = "left_unread"


class Listener(Protocol):
    """Receives what happens on the wire of one socket."""

    multiplexed: bool
    """Whether several requests share it."""

    def connected(self, stream: Any) -> None:
        """Note that the other end, or the proxy, accepted the connection."""

    def secured(self, stream: Any) -> None:
        """Note that a TLS handshake is done."""

    async def load_certificates(self, context: ssl.SSLContext, timeout: float | None) -> None:
        """Have a TLS context ready within some seconds, without blocking the event loop."""

    def handshake(
        self, context: ssl.SSLContext, name: str | None
    ) -> AbstractContextManager[tuple[ssl.SSLContext, str | None]]:
        """Wrap a TLS handshake; yield the context for it, and the server's name to ask for and to check."""
        raise NotImplementedError

    def settings(self, max_concurrent_streams: int | None) -> None:
        """Note how many streams the other end of an HTTP/2 connection takes, if it said so."""

    def lost(self) -> None:
        """Note that the other end has closed, or wrote unasked, while nothing was due."""


class Wire:
    """The network side of one socket: what is known of it, and how to break it.

    Args:
        family: The libraries.
        listener: Receives connection events.
        options: The options that apply to it.
        proxy: The proxy's URL without credentials; empty where there is none.
    """

    def __init__(self, family: Family, listener: Listener, options: AgentOptions, *, proxy: str = "") -> None:
        self.family = family
        self.listener = listener
        self.options = options
        self.stream: Any = None  # the outermost stream so far
        self.wrote = False  # since `begin_request`
        self.sent = 0  # bytes since `begin_request`, where httpcore sends
        self.cut_off = False  # a request was not sent to its end
        self.overheard: Overheard | None = None  # what came while a request was sent
        self.received = 0  # bytes since `begin_request`
        self.awaits_response = True  # no response has begun since `begin_request`, where httpcore sends
        self.ended = False  # the other end has closed
        self.unasked = False  # bytes came in that no request had asked for
        self.tells_of_loss = False  # its stream reports the end itself: the descriptor needs no watching
        self.impatient = False  # read what has arrived, and do not wait
        self.frames: Frames | None = None  # where httpcore speaks HTTP/2: what goes out and comes in
        self.broken = False
        self.inherited = False  # by a forked child: the socket is the parent's
        self.descriptors = process.Descriptors()
        self.opening = Opening(proxy)
        self._tls: list[Any] = []  # what does TLS; with an HTTPS proxy, one over the other
        self._opened: tuple[socket.socket, ...] = ()  # until one has become its stream
        #: What wakes the threads that use the socket. By thread: none uses it twice at once, and one that was
        #: interrupted in the middle of leaving does not find itself here.
        self._breakers: dict[int, Any] = {}
        self._wake: Signal | None = None  # of the thread that sleeps
        self._left: Signal | None = None

    def begin_request(self) -> None:
        """Reset `wrote`, `received` and `awaits_response` for another request."""
        self.wrote = False
        self.awaits_response = True
        self.received = self.sent = 0
        self.overheard = None

    def break_off(self) -> None:
        """Wake whoever waits for this socket, from any thread; what they do next fails."""
        self.broken = True
        if self._wake is not None:
            self._wake.set()
        for breaker in list(self._breakers.values()):
            breaker()

    def wait_until_left(self, timeout: float) -> None:
        """Wait, after `break_off`, until no other thread uses the socket; the last one closes what it held."""
        if self.is_in_use():
            self._left = Signal()
            self._left.wait(timeout if self.is_in_use() else 0)  # a thread that left before it existed did not set it

    def is_readable(self) -> bool:
        """Return whether the other end has closed, or written. Costs one poll; what can be read may be lost by it."""
        return self.unasked or bool(self.stream.get_extra_info("is_readable")) or self._has_unread()

    def _has_unread(self) -> bool:
        """Return whether TLS holds data that came in together with what was read; the system no longer knows of it.

        In event loops TLS reads from a memory BIO that already holds everything received. Skip HTTP/2: pending bytes
        may be a legitimate frame, and nothing in it can be taken for an answer to another request.
        """
        if self.tells_of_loss or self.listener.multiplexed:
            return False
        return any(_holds_data(tls) for tls in self._tls)

    def secured(self, stream: Any) -> None:
        """Note that a TLS handshake is done."""
        self.opening.secured()
        self._tls.append(stream.get_extra_info("ssl_object"))
        self.begin_request()  # what a proxy was asked, and said, is over
        self.listener.secured(stream)

    def descriptor(self) -> int | None:
        """Return the file descriptor, if there is one to watch."""
        number = -1
        # It may be closed meanwhile, which uvloop and backends of users tell by a `RuntimeError`.
        with self.family.suppress_network_errors(), suppress(RuntimeError):
            sock = self.stream.get_extra_info("socket") if self.stream is not None else None
            number = sock.fileno() if sock is not None else -1
        return number if number >= 0 else None

    def close_raw(self) -> None:
        """Close the descriptor and nothing else, for a socket whose event loop is gone."""
        sock = self._system_socket()
        if sock is not None:
            sock.close()

    def disown(self) -> None:
        """Close our copies of the descriptors in a forked child, and nothing else."""
        self.broken = self.inherited = True
        sock = self._system_socket()
        if sock is not None:
            sock.detach()  # it must not close whatever has its number later
        for opened in self._opened:
            opened.detach()
        self.descriptors.close()

    def _system_socket(self) -> socket.socket | None:
        """Return Python's own socket object, if there is one."""
        sock = self.stream.get_extra_info("socket") if self.stream is not None else None
        sock = getattr(sock, "_sock", sock)  # asyncio and trio hide it
        return sock if isinstance(sock, socket.socket) else None

    def new_socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Make a socket object to connect, known from its first moment."""
        sock = process.open_noted(lambda: socket.socket(family, kind, protocol), self.descriptors)
        self._opened = (*self._opened, sock)
        return sock

    def close_unused(self) -> None:
        """Close what was opened and never became a stream, because its thread was interrupted before."""
        for sock in self._opened:
            sock.close()

    def begin_anew(self) -> None:
        """Prepare a closed socket to be opened once more, within the time of the attempt before."""
        self.opening.begin_anew()
        self._tls.clear()
        self.ended = self.unasked = self.tells_of_loss = False

    def connected(self) -> None:
        """Note that its stream exists: the other end, or the proxy, accepted the connection."""
        self._opened = ()
        self.opening.connected()
        descriptor = self.descriptor()
        if descriptor is not None:
            self.descriptors.note(descriptor)
        self.listener.connected(self.stream)

    def abort(self) -> None:
        """Reset the connection; whoever is stuck in closing it is woken, and nothing more is sent."""
        sock = self._system_socket()
        if sock is not None:
            with suppress(OSError):  # closed after all
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            shut_down(sock)

    # For the backends and streams ---------------------------------------------------------------------------------

    def enter(self, breaker: Any, error: type[Exception] | None = None) -> None:
        """Have `break_off` call ``breaker`` until `leave`; raise if the socket was broken, ``error`` if given."""
        self._breakers[get_ident()] = breaker
        if self.broken:
            self.leave()
            if error is not None:
                raise error(CLOSED)
            self.check()

    def leave(self) -> None:
        """End what `enter` began, if it did."""
        self._breakers.pop(get_ident(), None)
        if self._left is not None:
            self._left.set()

    @contextmanager
    def breakable(self, breaker: Any) -> Iterator[None]:
        """Wrap what happens between `enter` and `leave`."""
        self.enter(breaker)
        try:
            yield
        finally:
            self.leave()

    def is_in_use(self) -> bool:
        """Return whether another thread is between `enter` and `leave`."""
        users = self._breakers
        return bool(users) and (len(users) > 1 or get_ident() not in users)

    def check(self) -> None:
        """Raise if the socket was broken."""
        if self.broken:
            raise self.family.httpcore.ConnectError("the agent was closed")

    def sleep(self, seconds: float) -> None:
        """Wait, unless the socket is broken."""
        self._wake = wake = Signal()
        self.check()  # after the signal exists: whoever breaks the socket sets `broken` before looking for one
        wake.wait(seconds)
        self.check()

    def said(self, data: bytes) -> None:
        """Note that bytes go out."""
        self.wrote = self.wrote or bool(data)
        self.sent += len(data)
        if self.frames is not None:
            self.frames.sent(data)

    def heard(self, data: bytes) -> bytes | None:
        """Note what came in, nothing at the end; return what the connection may have of it, ``None`` if nothing yet."""
        if not data:
            self.ended = True
        else:
            self.received += len(data)
        return data if self.frames is None else self.frames.received(data)

    def due(self) -> bytes | None:
        """Return what the connection must get before anything more is read, if there is something."""
        if self.overheard is not None and self.overheard.data:
            return self.overheard.take()
        return None if self.frames is None else self.frames.due()

    def listens(self, data: bytes, stream: Any) -> bool:
        """Return whether to listen while a part of a request is sent: an answer may come before all of it has left.

        Not where several requests share the connection, and not when the caller has the response already: then what
        comes in belongs to the caller, too.
        """
        if not data or not self.awaits_response or self.frames is not None or not self.options.http1:
            return False
        is_large = self.sent + len(data) > _UNLISTENED
        return is_large or (self.wrote and bool(stream.get_extra_info("is_readable")))

    def overhear(self, data: bytes) -> bool:
        """Keep what came while a request is being sent, nothing at the end; return whether that ends the upload."""
        if self.overheard is None:
            self.overheard = Overheard()
        if data:
            self.received += len(data)
        else:
            self.ended = True
        return self.overheard.feed(data)

    def check_unanswered(self, data: bytes) -> None:
        """Raise if there is more to send of a request that the server has answered."""
        if data and self.awaits_response and self.overheard is not None and self.overheard.is_final:
            self.cut_off = True
            raise self.family.httpcore.WriteError(_ANSWERED)

    def check_head(self) -> None:
        """Raise if the server has sent too much without a response; h11 and h2 take any number of interim ones."""
        if self.frames is not None and self.frames.are_shared:
            found = self.frames.longest_heads
        else:
            found = self.received if self.awaits_response else 0
        if found > MAX_BEFORE_RESPONSE:
            raise self.family.httpcore.RemoteProtocolError(
                f"the server sent more than {MAX_BEFORE_RESPONSE} bytes before its response"
            )


def _holds_data(tls: Any) -> bool:
    if not isinstance(tls, ssl.SSLObject):  # it reads no more from its socket than it is asked for
        return False
    with suppress(ssl.SSLError):  # garbage is unasked data as well
        try:
            tls.read(1)  # nothing is the end
        except ssl.SSLWantReadError:
            return False
    return True


def shut_down(sock: socket.SocketType) -> None:
    """Wake a thread that waits for a socket: connecting, reading or writing."""
    with suppress(OSError):  # not connected, or closed in the meantime
        # Not the method of an `SSLSocket`: it takes TLS away first, and who writes then would write in the clear.
        socket.SocketType.shutdown(sock, socket.SHUT_RDWR)


def close_forgotten(error: BaseException, beside: Any = None) -> None:
    """Close the TLS socket that is left in the frames of a failed handshake.

    Where a connection was reset before its handshake began, Python before 3.13 does not close it, and nobody has it.

    Args:
        error: What the handshake raised.
        beside: The socket object that it began with, and that closes its descriptor if it still has it.
    """
    known = beside.fileno() if isinstance(beside, socket.socket) else -1
    for found in walk_causes(error):
        for frame, _ in traceback.walk_tb(found.__traceback__):
            sock = frame.f_locals.get("self")
            if isinstance(sock, ssl.SSLSocket):
                # It may be half made: its own methods need what it does not have yet.
                end = socket.SocketType.detach if sock.fileno() == known else socket.SocketType.close
                end(sock)


# Sync -----------------------------------------------------------------------------------------------------------------


class OsErrors:
    """Turn the system's errors into httpcore's."""

    def __init__(self, family: Family, *, connecting: bool) -> None:
        self._httpcore = family.httpcore
        self._timeout = self._httpcore.ConnectTimeout if connecting else self._httpcore.ReadTimeout
        self._error = self._httpcore.ConnectError if connecting else self._httpcore.ReadError

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, TimeoutError):
            raise self._timeout(str(error)) from error
        if isinstance(error, (OSError, UnicodeError)):
            raise self._error(str(error)) from error


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
            if inner is not None:  # nobody else has it
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
    """Give the wire a new stream; close it if the wire was broken meanwhile: nobody else knows of it."""
    wire.stream = stream
    if wire.broken:
        stream.close()
        wire.check()
    return stream


class SyncStream:
    """The `httpcore.NetworkStream` of one socket; one more after each TLS handshake."""

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
            if wire.broken:  # by another thread: the end is ours, not the server's
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
                raise httpcore.WriteError(_ANSWERED)
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
        """Write all of it; return false if the server answered meanwhile."""
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
        """Hear what has arrived, which may be nothing for us; return whether that ends the upload."""
        httpcore = self._wire.family.httpcore
        with suppress(httpcore.ReadTimeout, httpcore.ReadError):
            while not self._wire.overhear(self.inner.read(PIECE, NO_TIME)):
                pass  # TLS may hold more, of which the system knows nothing
            return True
        return False

    def close(self) -> None:
        """Close; if another thread uses the stream, it does so when it leaves: a descriptor in use must stay ours."""
        if self._wire.is_in_use():
            self._wire.break_off()
        elif not self._closed:
            self._close_inner()
            self._closed = True

    def _close_inner(self) -> None:
        with self._wire.family.suppress_network_errors():  # they must not replace a response, or an error before them
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
            close_forgotten(error, self.inner.get_extra_info("socket"))
            for opened in (handle, inner):
                if opened is not None:
                    opened.close()
            raise
        wire.secured(stream)
        return stream

    def get_extra_info(self, info: str) -> Any:
        """Return what httpcore's streams know."""
        return self.inner.get_extra_info(info)

    def enter(self, error: type[Exception] | None = None) -> None:
        """Use the socket in this thread until `leave`, to be woken if it is broken; see `Wire.enter`."""
        self._wire.enter(self._shut_down, error)

    def leave(self) -> None:
        """End what `enter` began."""
        self._wire.leave()
        if self._wire.broken:
            self.close()

    def _shut_down(self) -> None:
        sock = self.inner.get_extra_info("socket")
        if isinstance(sock, socket.socket):
            shut_down(sock)
        elif not self._closed:  # not the system's socket: closing is all that can wake who reads
            self.inner.close()
            self._closed = True

    def _duplicate(self) -> socket.SocketType | None:
        """Return a second descriptor to break a handshake by: TLS takes the first one away from its socket object."""
        sock = self.inner.get_extra_info("socket")
        if type(sock) is not socket.socket:
            return None
        with suppress(OSError):  # no descriptor is left: its timeout ends the handshake, not a close
            return process.open_noted(partial(_duplicate, sock), self._wire.descriptors)
        return None


def _duplicate(sock: socket.socket) -> socket.SocketType:
    """Return a second socket object for one of the system's sockets.

    A single call into C leads from the number to the object that will close it: if there were two, an exception that a
    signal's handler raises between them would leave the number without an owner.
    """
    made: list[socket.SocketType] = []
    made.extend(map(socket.SocketType, [sock.family], [sock.type], [sock.proto], map(os.dup, [sock.fileno()])))
    return made[0]


# Async ----------------------------------------------------------------------------------------------------------------


class AsyncBackend:
    """The `httpcore.AsyncNetworkBackend` of one socket.

    Args:
        wire: The socket's wire.
        inner: The backend that does the work.
        call_soon: Runs a function in the event loop, from any thread.
    """

    def __init__(self, wire: Wire, inner: Any, call_soon: Any) -> None:
        self._wire = wire
        self._inner = inner
        self._call_soon = call_soon

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> Any:
        """Open a TCP connection; the agent's own address and options apply, through proxies too."""
        options = self._wire.options
        timeout = self._wire.opening.begin(timeout, f"{host}:{port}")
        return await self._opened(
            await self._unless_broken(
                self._inner.connect_tcp, host, port, timeout, options.local_address, options.tcp_socket_options()
            )
        )

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> Any:
        """Open a connection to a Unix socket."""
        timeout = self._wire.opening.begin(timeout, path)
        return await self._opened(
            await self._unless_broken(self._inner.connect_unix_socket, path, timeout, socket_options or ())
        )

    async def sleep(self, seconds: float) -> None:
        """Wait between attempts to connect."""
        await self._unless_broken(self._inner.sleep, seconds)

    async def _unless_broken(self, function: Any, *args: Any) -> Any:
        wire = self._wire  # not `breakable`: hundreds may be opened at once, and memory counts
        with anyio.CancelScope() as scope:
            breaker = partial(self._call_soon, scope.cancel)
            wire.enter(breaker)
            try:
                return await function(*args)
            finally:
                wire.leave()
        wire.check()
        return None  # pragma: no cover - the scope is cancelled only when the wire is broken

    async def _opened(self, inner: Any) -> Any:
        kind = self._wire.family.dress(AsyncStream, "AsyncNetworkStream")
        stream = await _begin_async(self._wire, kind(self._wire, inner))
        self._wire.connected()
        return stream


async def _begin_async(wire: Wire, stream: Any) -> Any:
    """Give the wire a new stream, as `_begin_sync` does."""
    wire.stream = stream
    if wire.broken:
        with anyio.CancelScope(shield=True):
            await stream.aclose()
        wire.check()
    return stream


class AsyncStream:
    """The `httpcore.AsyncNetworkStream` of one socket; one more after each TLS handshake."""

    def __init__(self, wire: Wire, inner: Any) -> None:
        self._wire = wire
        self.inner = inner
        self._closed = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read at least one byte, or none at the end."""
        wire = self._wire
        if wire.opening.greets_proxy:
            with wire.opening.greeting(wire.family.httpcore) as left:
                return await self._read(max_bytes, left)
        return await self._read(max_bytes, timeout)

    async def _read(self, max_bytes: int, timeout: float | None) -> bytes:
        wire = self._wire
        if wire.impatient and not self.inner.get_extra_info("is_readable"):
            raise wire.family.httpcore.ReadError("the rest of the response has not arrived")
        data = wire.due()
        while data is None:
            data = wire.heard(await self.inner.read(max_bytes, timeout))
        wire.check_head()
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write all of it; if a shared connection is broken, the next read says so, after what has arrived."""
        wire = self._wire
        if wire.opening.greets_proxy and wire.opening.still_greets(buffer):
            with wire.opening.greeting(wire.family.httpcore) as left:
                await self._write(buffer, left)
        else:
            await self._write(buffer, timeout)

    async def _write(self, buffer: bytes, timeout: float | None) -> None:
        wire, httpcore = self._wire, self._wire.family.httpcore
        wire.check_unanswered(buffer)
        listens = wire.listens(buffer, self.inner)
        wire.said(buffer)
        try:
            if not listens:
                await self.inner.write(buffer, timeout)
            elif not await awrite_listening(self.inner, buffer, timeout, wire.overhear):
                raise httpcore.WriteError(_ANSWERED)
        except NoRoomError as error:
            wire.cut_off = True
            raise httpcore.WriteTimeout(str(error)) from None
        except httpcore.WriteError:
            wire.cut_off = True
            if wire.frames is None:
                raise

    async def aclose(self) -> None:
        """Close, once; not in a forked child, whose event loop is another."""
        if not self._closed and not self._wire.inherited:
            with suppress(Exception), TimeLimit(CLOSE_TIMEOUT, shield=True) as patience:
                await self.inner.aclose()
            self._closed = True
            if patience.cancelled_caught:
                self._wire.abort()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> Any:
        """Secure the connection."""
        wire = self._wire
        wire.opening.secure(server_hostname)
        try:
            await wire.listener.load_certificates(ssl_context, wire.opening.time_left(timeout))
        except Exception:
            await self.aclose()  # as a failed handshake does: another attempt may come
            raise
        with wire.listener.handshake(ssl_context, server_hostname) as (context, name):
            inner = await self.inner.start_tls(context, name, wire.opening.time_left(timeout))
        inner = keep_readable(inner, wire.family.httpcore)
        stream = await _begin_async(wire, type(self)(wire, inner))
        wire.secured(stream)
        return stream

    def get_extra_info(self, info: str) -> Any:
        """Return what httpcore's streams know."""
        return self.inner.get_extra_info(info)
