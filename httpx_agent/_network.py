"""Between httpcore's connections and the network: one backend for each socket.

httpcore lets anyone pass a network backend. Ours stands around another one, for these reasons: TCP keep-alive and the
local address hold through proxies too, where httpcore drops them; what was opened is known from the first moment, so
that it can be closed whatever becomes of the handshake; and the agent learns what only the wire tells: when a socket is
usable, which protocol was negotiated, whether a request left and whether an answer began.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from . import _fork
from ._causes import walk_causes
from ._contexts import TimeLimit
from ._goaway import GoawayHold
from ._http1 import MAX_BEFORE_RESPONSE, PIECE
from ._locks import Signal
from ._opening import Opening, Phase
from ._poll import Poll
from ._trio_tls import keep_readable
from ._upload import NoRoomError, Overheard, awrite_listening, send_listening, write_listening

if TYPE_CHECKING:
    from ._family import Family
    from ._options import AgentOptions

#: What is wrong with a socket that this side has closed under somebody who uses it.
CLOSED = "the connection was closed by this side"

#: What httpcore hears where it writes; it reads the response then.
_ANSWERED = "the server answered before it had the whole request"

#: So much of a request finds room in the buffers on the way: there is no need to listen while it is sent.
_UNLISTENED = 16 * 1024

#: A stream that has not finished closing after so many seconds is aborted; a thread that is in one is not waited for.
CLOSE_TIMEOUT = 1.0

#: What our streams of asyncio answer in `get_extra_info`: whether something came that nobody read, or the end.
LEFT_UNREAD = "left_unread"

#: A timeout that is over at once; to a socket of Python's, 0 would mean something else.
_NO_TIME = 1e-6

#: How the messages of a SOCKS5 client begin: with the version, and where it logs in with another one (RFC 1928, 1929).
_SOCKS_MESSAGES = (b"\x05", b"\x01")

#: RFC 9113, 6.5.2: SETTINGS_MAX_CONCURRENT_STREAMS.
_MAX_CONCURRENT_STREAMS = 3


class Listener(Protocol):
    """Hears what happens on the wire of one socket."""

    multiplexed: bool
    """Whether several requests share it."""

    def connected(self, stream: Any) -> None:
        """The other end, or the proxy, took the connection."""

    def secured(self, stream: Any) -> None:
        """A TLS handshake is done."""

    async def load_certificates(self, context: ssl.SSLContext, timeout: float | None) -> None:
        """Have a TLS context ready within some seconds, and without holding the event loop up."""

    def handshake(
        self, context: ssl.SSLContext, name: str | None
    ) -> AbstractContextManager[tuple[ssl.SSLContext, str | None]]:
        """Around a TLS handshake; yields the context for it, and the name of the server to ask for, and to check."""
        raise NotImplementedError

    def settings(self, max_concurrent_streams: int | None) -> None:
        """The other end of an HTTP/2 connection said how many streams it takes."""

    def count_no_streams(self) -> None:
        """Have an HTTP/2 connection that serves one request at a time not count them."""

    def lost(self) -> None:
        """The other end has closed, or wrote unasked, while nothing was to be heard."""


class Wire:
    """What is known of the network side of one socket, and how to break it.

    Args:
        family: The libraries.
        listener: Who wants to know.
        options: The options that hold for it.
        greets_proxy: Whether a SOCKS handshake comes first.
        proxy: The proxy's URL without credentials; empty where there is none.
    """

    def __init__(
        self,
        family: Family,
        listener: Listener,
        options: AgentOptions,
        *,
        greets_proxy: bool = False,
        proxy: str = "",
    ) -> None:
        self.family = family
        self.listener = listener
        self.options = options
        self.stream: Any = None  # the outermost stream so far
        self.wrote = False  # since `begin_request`
        self.sent = 0  # bytes since `begin_request`, where httpcore sends
        self.cut_off = False  # a request was not sent to its end
        self.overheard: Overheard | None = None  # what came while a request was sent
        self.received = 0  # bytes since `begin_request`
        self.answered = False  # a response has begun since `begin_request`
        self.ended = False  # the other end has closed
        self.unasked = False  # bytes came in that no request had asked for
        self.tells_of_loss = False  # its stream tells of the end by itself: nobody need watch the descriptor
        self.look: Callable[[], bool] | None = None  # how the connection tells whether something came, if it does
        self.impatient = False  # reads what has arrived, and does not wait
        self.preface: bytearray | None = None  # what came so far of the first HTTP/2 frame, while it is awaited
        self.goaway: GoawayHold | None = None  # where HTTP/2 is spoken
        self.broken = False
        self.inherited = False  # by a forked child: the socket is the parent's
        self.descriptors = _fork.Descriptors()
        self.opening = Opening(proxy)
        self.greets_proxy = self._by_socks = greets_proxy
        self._opening_ends: float | None = None  # one deadline for TCP, proxy and TLS
        self._goes_on = False  # the next attempt to open it has the deadline of the one before
        self._tls: list[Any] = []  # what does TLS; with an HTTPS proxy, one over the other
        self._opened: tuple[socket.socket, ...] = ()  # until one has become its stream
        #: What wakes the threads that are in here. By thread: none is in here twice, and whoever was thrown out in the
        #: middle of leaving is not there any more for itself.
        self._breakers: dict[int, Any] = {}
        self._wake: Signal | None = None  # of who sleeps
        self._left: Signal | None = None

    def begin_request(self) -> None:
        """From here on `wrote`, `received` and `answered` speak of another request."""
        self.wrote = self.answered = False
        self.received = self.sent = 0
        self.overheard = None

    def break_off(self) -> None:
        """Wakes whoever waits for this socket, from any thread; what they do next fails."""
        self.broken = True
        if self._wake is not None:
            self._wake.set()
        for breaker in list(self._breakers.values()):
            breaker()

    def wait_until_left(self, timeout: float) -> None:
        """After `break_off`: waits until no other thread is in here, which then has closed what it held."""
        if self.is_in_use():
            self._left = Signal()
            self._left.wait(timeout if self.is_in_use() else 0)  # who left before it was there did not set it

    def is_readable(self) -> bool:
        """Whether the other end has closed, or written. Costs one poll; what can be read may be lost by it."""
        look = self.look
        readable = self.unasked or (bool(self.stream.get_extra_info("is_readable")) if look is None else look())
        return readable or self._has_unread()

    def left_unread(self) -> bool:
        """Whether something came that nobody read, or the end, as far as a stream of ours was told."""
        return self.tells_of_loss and bool(self.stream.get_extra_info(LEFT_UNREAD))

    def _has_unread(self) -> bool:
        """Whether TLS holds something that came in together with what was read, of which the system knows nothing.

        In event loops TLS works on memory, into which everything is received that has come. HTTP/2 is let alone: there
        it may be a frame that is due, and nothing in it can be taken for an answer to another request.
        """
        if self.tells_of_loss or self.listener.multiplexed:
            return False
        return any(_holds_data(tls) for tls in self._tls)

    def secured(self, stream: Any) -> None:
        """A TLS handshake is done."""
        self.opening.secured()
        self._tls.append(stream.get_extra_info("ssl_object"))
        self.begin_request()  # what a proxy was asked, and said, is over
        self.listener.secured(stream)

    def descriptor(self) -> int | None:
        """The file descriptor, where there is one to watch."""
        number = -1
        # It may be closed meanwhile, which uvloop and backends of users tell by a `RuntimeError`.
        with self.family.suppress_network_errors(), suppress(RuntimeError):
            sock = self.stream.get_extra_info("socket") if self.stream is not None else None
            number = sock.fileno() if sock is not None else -1
        return number if number >= 0 else None

    def close_raw(self) -> None:
        """Closes the descriptor and nothing else: for sockets of an event loop that is no more."""
        sock = self._system_socket()
        if sock is not None:
            sock.close()

    def disown(self) -> None:
        """In a forked child: closes our copies of the descriptors, and nothing else."""
        self.broken = self.inherited = True
        sock = self._system_socket()
        if sock is not None:
            sock.detach()  # it must not close what its number stands for later
        for opened in self._opened:
            opened.detach()
        self.descriptors.close()

    def _system_socket(self) -> socket.socket | None:
        """Python's own socket object, where there is one."""
        sock = self.stream.get_extra_info("socket") if self.stream is not None else None
        sock = getattr(sock, "_sock", sock)  # asyncio and trio hide it
        return sock if isinstance(sock, socket.socket) else None

    def new_socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Python's socket object to connect, known from its first moment."""
        sock = _fork.open_noted(lambda: socket.socket(family, kind, protocol), self.descriptors)
        self._opened = (*self._opened, sock)
        return sock

    def close_unused(self) -> None:
        """Close what was opened and came to no stream, because its thread was thrown out before."""
        for sock in self._opened:
            sock.close()

    def begin_opening(self, timeout: float | None, to: str) -> float | None:
        """Begin an attempt to open it, which ends within the connect timeout, whatever steps it takes.

        Args:
            timeout: The connect timeout in seconds.
            to: What is connected to: ``host:port``, or a path.

        Returns:
            What is left of the timeout.
        """
        self.opening.begin(to, counts=not self._goes_on)
        self.greets_proxy = self._by_socks
        if self._goes_on:
            self._goes_on = False
            return self.time_left()
        self._opening_ends = None if timeout is None else time.monotonic() + timeout
        return timeout

    def begin_anew(self) -> None:
        """It is closed, to be opened once more within the time of the attempt before."""
        self._goes_on = True
        self._tls.clear()
        self.ended = self.unasked = self.tells_of_loss = False

    def opened(self) -> None:
        """It is usable: from here on each operation has a timeout of its own."""
        self.greets_proxy = False
        self._opening_ends = None
        self.opening.enter(Phase.DONE)

    def time_left(self, otherwise: float | None = None) -> float | None:
        """What is left of the connect timeout while it is being opened, and what it is ``otherwise``."""
        if self._opening_ends is None:
            return otherwise
        return max(_NO_TIME, self._opening_ends - time.monotonic())

    def still_greets(self, message: bytes) -> bool:
        """Whether a message belongs to the SOCKS handshake; the first that does not, ends it."""
        self.greets_proxy = message[:1] in _SOCKS_MESSAGES
        if not self.greets_proxy:
            self.opening.enter(Phase.DONE)
        return self.greets_proxy

    @contextmanager
    def shaking_hands(self) -> Iterator[float | None]:
        """Around what httpcore does of a SOCKS handshake, for which it has no timeout, or that of the response."""
        httpcore = self.family.httpcore
        try:
            yield self.time_left()
        except (httpcore.ReadTimeout, httpcore.WriteTimeout) as error:
            raise httpcore.ConnectTimeout(str(error)) from error

    def connected(self) -> None:
        """Its stream is there: the other end, or the proxy, took the connection."""
        self._opened = ()
        self.opening.connected()
        descriptor = self.descriptor()
        if descriptor is not None:
            self.descriptors.note(descriptor)
        self.listener.connected(self.stream)

    def abort(self) -> None:
        """Ends the connection, whoever is stuck in closing it: they are woken, and nothing is sent any more."""
        sock = self._system_socket()
        if sock is not None:
            with suppress(OSError):  # closed after all
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            shut_down(sock)

    # For the backends and streams ---------------------------------------------------------------------------------

    def enter(self, breaker: Any, error: type[Exception] | None = None) -> None:
        """Until `leave`, `break_off` calls ``breaker``. Raises if the socket was broken, ``error`` if that is given."""
        self._breakers[get_ident()] = breaker
        if self.broken:
            self.leave()
            if error is not None:
                raise error(CLOSED)
            self.check()

    def leave(self) -> None:
        """Ends what `enter` began, if it did."""
        self._breakers.pop(get_ident(), None)
        if self._left is not None:
            self._left.set()

    @contextmanager
    def breakable(self, breaker: Any) -> Iterator[None]:
        """From `enter` to `leave`."""
        self.enter(breaker)
        try:
            yield
        finally:
            self.leave()

    def is_in_use(self) -> bool:
        """Whether another thread is between `enter` and `leave`."""
        users = self._breakers
        return bool(users) and (len(users) > 1 or get_ident() not in users)

    def check(self) -> None:
        """Raises if the socket was broken."""
        if self.broken:
            raise self.family.httpcore.ConnectError("the agent was closed")

    def sleep(self, seconds: float) -> None:
        """Waits, unless the socket is broken."""
        self._wake = wake = Signal()
        self.check()  # after the signal is there: who breaks it says so before he looks for one
        wake.wait(seconds)
        self.check()

    def said(self, data: bytes) -> None:
        """Bytes go out."""
        self.wrote = self.wrote or bool(data)
        self.sent += len(data)
        if self.goaway is not None:
            self.goaway.sent(data)

    def heard(self, data: bytes) -> bytes | None:
        """Bytes, or their end, came in; gives what the connection is to have of them, ``None`` if nothing yet."""
        if not data:
            self.ended = True
        else:
            self.received += len(data)
            if self.preface is not None:
                self.preface += data
                self._read_settings(self.preface)
        if self.goaway is None:
            return data
        passing = self.goaway.received(data)
        return passing if passing or not data else self.due()

    def due(self) -> bytes | None:
        """What the connection is to have before it hears anything more, if there is something."""
        if self.overheard is not None and self.overheard.data:
            return self.overheard.take()
        return (self.goaway and self.goaway.due()) or None

    def listens(self, data: bytes, stream: Any) -> bool:
        """Whether to listen while a part of a request is sent: an answer may have come, or come before it has left.

        Not where several requests share the connection, and not when the response is the caller's: what comes is, too.
        """
        if not data or self.answered or self.goaway is not None or not self.options.http1:
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
        if data and not self.answered and self.overheard is not None and self.overheard.is_final:
            self.cut_off = True
            raise self.family.httpcore.WriteError(_ANSWERED)

    @property
    def is_leaving(self) -> bool:
        """Whether the server takes no new request."""
        return self.goaway is not None and self.goaway.is_leaving

    def check_head(self) -> None:
        """Raises if the server has said too much without a response; h11 and h2 take interim ones for ever."""
        if self.listener.multiplexed:
            found = self.goaway.longest_heads if self.goaway is not None else 0
        else:
            found = 0 if self.answered else self.received
        if found > MAX_BEFORE_RESPONSE:
            raise self.family.httpcore.RemoteProtocolError(
                f"the server sent more than {MAX_BEFORE_RESPONSE} bytes before its response"
            )

    def _read_settings(self, preface: bytearray) -> None:
        """The first frame of an HTTP/2 server is its SETTINGS (RFC 9113, 3.4)."""
        length = int.from_bytes(preface[:3], "big")
        if len(preface) < 9 + length:
            return
        self.preface = None
        is_settings = preface[3] == 4
        entries = [preface[at : at + 6] for at in range(9, 9 + length, 6)] if is_settings else []
        values = {int.from_bytes(entry[:2], "big"): int.from_bytes(entry[2:], "big") for entry in entries}
        self.listener.settings(values.get(_MAX_CONCURRENT_STREAMS))


def _holds_data(tls: Any) -> bool:
    if not isinstance(tls, ssl.SSLObject):  # reads no more from its socket than it is asked for
        return False
    with suppress(ssl.SSLError):  # what makes no sense is unasked as well
        try:
            tls.read(1)  # nothing is the end
        except ssl.SSLWantReadError:
            return False
    return True


def shut_down(sock: socket.SocketType) -> None:
    """Wakes a thread that waits for a socket: connecting, reading or writing."""
    with suppress(OSError):  # not connected, or closed in the meantime
        # Not the method of an `SSLSocket`: it takes TLS away first, and who writes then would write in the clear.
        socket.SocketType.shutdown(sock, socket.SHUT_RDWR)


def close_forgotten(error: BaseException, beside: Any = None, descriptors: _fork.Descriptors | None = None) -> None:
    """Closes the TLS socket that is left in the frames of a failed handshake.

    Where a connection was reset before its handshake began, Python before 3.13 does not close it, and nobody has it.

    Args:
        error: What the handshake raised.
        beside: The socket object that it began with, and that closes its descriptor if it still has it.
        descriptors: Those that were opened for the connection. The number of one that is closed already may be
            another thread's by now; and an error may go back to one with whose socket we have nothing to do.
    """
    known = beside.fileno() if isinstance(beside, socket.socket) else -1
    for found in walk_causes(error):
        for frame, _ in traceback.walk_tb(found.__traceback__):
            sock = frame.f_locals.get("self")
            # With TLS within TLS, the one that it began with speaks TLS, too.
            if not isinstance(sock, ssl.SSLSocket) or sock is beside:
                continue
            number = sock.fileno()
            if descriptors is not None and not descriptors.knows(number):
                continue
            is_closed = descriptors is not None and not descriptors.is_open(number)
            # It may be half made: its own methods need what it does not have yet.
            end = socket.SocketType.detach if is_closed or number == known else socket.SocketType.close
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
        """Opens a TCP connection; the agent's own address and options hold, through proxies too."""
        wire = self._wire
        wire.check()
        timeout = wire.begin_opening(timeout, f"{host}:{port}")
        options = wire.options
        inner = None
        try:
            inner = self._inner.connect_tcp(host, port, timeout, options.local_address, options.tcp_socket_options())
            return self._opened(inner)
        except BaseException:
            if inner is not None:  # nobody else may have it
                inner.close()
            raise

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> Any:
        """Opens a connection to a Unix socket."""
        self._wire.check()
        timeout = self._wire.begin_opening(timeout, path)
        inner = None
        try:
            inner = self._inner.connect_unix_socket(path, timeout, socket_options or ())
            return self._opened(inner)
        except BaseException:
            if inner is not None:
                inner.close()
            raise

    def sleep(self, seconds: float) -> None:
        """Waits between attempts to connect."""
        self._wire.sleep(seconds)

    def _opened(self, inner: Any) -> Any:
        stream = _begin_sync(self._wire, self._wire.family.sync_stream(self._wire, inner))
        self._wire.connected()
        return stream


def _begin_sync(wire: Wire, stream: Any) -> Any:
    """The wire has a new stream; if it was broken meanwhile, nobody but us knows that there is something to close."""
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
        """Reads at least one byte, or none at the end."""
        wire = self._wire
        if wire.greets_proxy:
            with wire.shaking_hands() as left:
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
            if wire.broken:  # by another thread: an end that is ours is not the server's
                raise wire.family.httpcore.ReadError(CLOSED)
            data = wire.heard(incoming)
        wire.check_head()
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Writes all of it."""
        wire = self._wire
        if wire.greets_proxy and wire.still_greets(buffer):
            with wire.shaking_hands() as left:
                self._write(buffer, left)
        else:
            self._write(buffer, timeout)

    def _write(self, buffer: bytes, timeout: float | None) -> None:
        wire, httpcore = self._wire, self._wire.family.httpcore
        wire.check_unanswered(buffer)
        if wire.goaway is not None:
            wire.listener.count_no_streams()  # the semaphore is there when the first request is written
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
            while not self._wire.overhear(self.inner.read(PIECE, _NO_TIME)):
                pass  # there may be more that the system knows nothing of
            return True
        return False

    def close(self) -> None:
        """Closes; while another thread is in here, that one does when it leaves: a descriptor in use must stay ours."""
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
        """Secures the connection."""
        wire = self._wire
        wire.opening.secure(server_hostname)
        handle = inner = None
        try:
            handle = self._duplicate()
            with (
                wire.breakable(lambda: shut_down(handle) if handle is not None else None),
                wire.listener.handshake(ssl_context, server_hostname) as (context, name),
            ):
                inner = self.inner.start_tls(context, name, wire.time_left(timeout))
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
        """What httpcore's streams know."""
        return self.inner.get_extra_info(info)

    def enter(self, error: type[Exception] | None = None) -> None:
        """Until `leave`, this thread uses the socket, and is woken if it is broken; see `Wire.enter`."""
        self._wire.enter(self._shut_down, error)

    def leave(self) -> None:
        """Ends what `enter` began."""
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
        """A second descriptor, to break a handshake by: TLS takes the first one away from its socket object."""
        sock = self.inner.get_extra_info("socket")
        if type(sock) is not socket.socket:
            return None
        with suppress(OSError):  # no descriptor is left: its timeout ends the handshake, not a close
            return _fork.open_noted(partial(_duplicate, sock), self._wire.descriptors)
        return None


def _duplicate(sock: socket.socket) -> socket.SocketType:
    """A second socket object for one of the system's sockets.

    One call of C leads from the number to the object that will close it: were there two, what a signal's handler raises
    between them would leave the number to nobody.
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
        """Opens a TCP connection; the agent's own address and options hold, through proxies too."""
        options = self._wire.options
        timeout = self._wire.begin_opening(timeout, f"{host}:{port}")
        return await self._opened(
            await self._unless_broken(
                self._inner.connect_tcp, host, port, timeout, options.local_address, options.tcp_socket_options()
            )
        )

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> Any:
        """Opens a connection to a Unix socket."""
        timeout = self._wire.begin_opening(timeout, path)
        return await self._opened(
            await self._unless_broken(self._inner.connect_unix_socket, path, timeout, socket_options or ())
        )

    async def sleep(self, seconds: float) -> None:
        """Waits between attempts to connect."""
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
        stream = await _begin_async(self._wire, self._wire.family.async_stream(self._wire, inner))
        self._wire.connected()
        return stream


async def _begin_async(wire: Wire, stream: Any) -> Any:
    """As `_begin_sync`."""
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
        """Reads at least one byte, or none at the end."""
        wire = self._wire
        if wire.greets_proxy:
            with wire.shaking_hands() as left:
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
        """Writes all of it; on a shared connection that is broken, the next read says so, after what has arrived."""
        wire = self._wire
        if wire.greets_proxy and wire.still_greets(buffer):
            with wire.shaking_hands() as left:
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
            if wire.goaway is None:
                raise

    async def aclose(self) -> None:
        """Closes, once; not in a forked child, whose event loop is another."""
        if not self._closed and not self._wire.inherited:
            with suppress(Exception), TimeLimit(CLOSE_TIMEOUT, shield=True) as patience:
                await self.inner.aclose()
            self._closed = True
            if patience.cancelled_caught:
                self._wire.abort()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> Any:
        """Secures the connection."""
        wire = self._wire
        wire.opening.secure(server_hostname)
        try:
            await wire.listener.load_certificates(ssl_context, wire.time_left(timeout))
        except Exception:
            await self.aclose()  # as those do that fail in a handshake: another attempt may come
            raise
        with wire.listener.handshake(ssl_context, server_hostname) as (context, name):
            inner = await self.inner.start_tls(context, name, wire.time_left(timeout))
        inner = keep_readable(inner, wire.family.httpcore)
        stream = await _begin_async(wire, type(self)(wire, inner))
        wire.secured(stream)
        return stream

    def get_extra_info(self, info: str) -> Any:
        """What httpcore's streams know."""
        return self.inner.get_extra_info(info)
