"""The byte side of one socket: the traffic on it, its opening, and how to wake anything that waits for it."""

from __future__ import annotations

import socket
import ssl
import struct
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from threading import get_ident
from typing import TYPE_CHECKING, Any, Protocol

from .._protocol.http1 import MAX_BEFORE_RESPONSE
from .._runtime import process
from .._runtime.causes import walk_causes
from .._runtime.locks import Signal
from .opening import Opening
from .upload import Overheard

if TYPE_CHECKING:
    from .._family import Family
    from .._protocol.http2 import Frames
    from .._values.options import AgentOptions

#: The message for a caller whose socket this side closed while it was in use.
CLOSED = "the connection was closed by this side"

#: The message of the error that ends an upload by httpcore, which then reads the response.
ANSWERED = "the server responded before receiving the whole request"

#: How many bytes of a request fit into the buffers on the way; no need to listen while sending these.
_UNLISTENED = 16 * 1024

#: Seconds after which a stream that has not finished closing is aborted, and its thread is no longer waited for.
CLOSE_TIMEOUT = 1.0

#: An item of our asyncio streams' `get_extra_info`: whether there is unread data or an unread end.
LEFT_UNREAD = "left_unread"


class Listener(Protocol):
    """A receiver of events on the wire of one socket."""

    multiplexed: bool
    """Whether several requests share the socket."""

    def connected(self, stream: Any) -> None:
        """Note that the other end, or the proxy, accepted the connection."""

    def secured(self, stream: Any) -> None:
        """Note that a TLS handshake is done."""

    async def load_certificates(self, context: ssl.SSLContext, timeout: float | None) -> None:
        """Prepare a TLS context within some seconds, without blocking the event loop."""

    def handshake(
        self, context: ssl.SSLContext, name: str | None
    ) -> AbstractContextManager[tuple[ssl.SSLContext, str | None]]:
        """Wrap a TLS handshake; yield the context for it, and the server name to request and check."""
        raise NotImplementedError

    def settings(self, max_concurrent_streams: int | None) -> None:
        """Note how many streams the other end of an HTTP/2 connection accepts, if it announced that."""

    def lost(self) -> None:
        """Note that the other end closed while nothing was expected, or sent unsolicited bytes."""


class Wire:
    """The network side of one socket: its state, and how to interrupt whatever waits on it.

    Args:
        family: The libraries.
        listener: Receives connection events.
        options: The options that apply to the socket.
        proxy: The proxy's URL without credentials; empty if there is none.
    """

    def __init__(self, family: Family, listener: Listener, options: AgentOptions, *, proxy: str = "") -> None:
        self.family = family
        self.listener = listener
        self.options = options
        self.stream: Any = None  # the outermost stream so far
        self.wrote = False  # since `begin_request`
        self.sent = 0  # bytes since `begin_request`, where httpcore sends
        self.cut_off = False  # a request was not sent in full
        self.overheard: Overheard | None = None  # data that arrived while a request was being sent
        self.received = 0  # bytes since `begin_request`
        self.awaits_response = True  # no response has begun since `begin_request`, where httpcore sends
        self.ended = False  # the other end has closed
        self.unsolicited = False  # data arrived that no request had asked for
        self.tells_of_loss = False  # its stream reports the end itself: the descriptor needs no watching
        self.impatient = False  # read what has arrived, and do not wait
        self.frames: Frames | None = None  # where httpcore speaks HTTP/2: what goes out and comes in
        self.broken = False
        self.inherited = False  # by a forked child: the socket is the parent's
        self.descriptors = process.Descriptors()
        self.opening = Opening(proxy)
        self._tls: list[Any] = []  # the TLS objects; with an HTTPS proxy, one over the other
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
        """Wake everything that waits for this socket, from any thread; its next operation fails."""
        self.broken = True
        if self._wake is not None:
            self._wake.set()
        for breaker in list(self._breakers.values()):
            breaker()

    def wait_until_left(self, timeout: float) -> None:
        """Wait, after `break_off`, until no other thread uses the socket; the last one closes it."""
        if self.is_in_use():
            self._left = Signal()
            self._left.wait(timeout if self.is_in_use() else 0)  # a thread that left before it existed did not set it

    def is_readable(self) -> bool:
        """Return whether the other end has closed, or written. Costs one poll, and may lose readable data."""
        return self.unsolicited or bool(self.stream.get_extra_info("is_readable")) or self._has_unread()

    def _has_unread(self) -> bool:
        """Return whether TLS holds data that arrived together with what was read; the system no longer sees it.

        In event loops TLS reads from a memory BIO that already holds everything received. Skip HTTP/2: pending bytes
        may be a legitimate frame, and nothing in them can pass for the response to another request.
        """
        if self.tells_of_loss or self.listener.multiplexed:
            return False
        return any(_holds_data(tls) for tls in self._tls)

    def secured(self, stream: Any) -> None:
        """Note that a TLS handshake is done."""
        self.opening.secured()
        self._tls.append(stream.get_extra_info("ssl_object"))
        self.begin_request()  # the exchange with a proxy is over
        self.listener.secured(stream)

    def descriptor(self) -> int | None:
        """Return the file descriptor, if there is one to watch."""
        number = -1
        # It may be closed meanwhile; then uvloop and users' backends raise a `RuntimeError`.
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
            sock.detach()  # it must not close a later file with the same number
        for opened in self._opened:
            opened.detach()
        self.descriptors.close()

    def _system_socket(self) -> socket.socket | None:
        """Return Python's own socket object, if there is one."""
        sock = self.stream.get_extra_info("socket") if self.stream is not None else None
        sock = getattr(sock, "_sock", sock)  # asyncio and trio hide it
        return sock if isinstance(sock, socket.socket) else None

    def new_socket(self, address_family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Make a socket object to connect, and record it from the first moment."""
        sock = process.open_noted(lambda: socket.socket(address_family, kind, protocol), self.descriptors)
        self._opened = (*self._opened, sock)
        return sock

    def close_unused(self) -> None:
        """Close sockets that never became a stream because their thread was interrupted."""
        for sock in self._opened:
            sock.close()

    def prepare_reopening(self) -> None:
        """Prepare a closed socket to be opened again, within the deadline of the previous attempt."""
        self.opening.continue_attempt()
        self._tls.clear()
        self.ended = self.unsolicited = self.tells_of_loss = False

    def connected(self) -> None:
        """Note that the stream exists: the other end, or the proxy, accepted the connection."""
        self._opened = ()
        self.opening.connected()
        descriptor = self.descriptor()
        if descriptor is not None:
            self.descriptors.note(descriptor)
        self.listener.connected(self.stream)

    def abort(self) -> None:
        """Reset the connection: send nothing more, and wake anything that is stuck closing it."""
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
        """End the use that `enter` began, if any."""
        self._breakers.pop(get_ident(), None)
        if self._left is not None:
            self._left.set()

    @contextmanager
    def breakable(self, breaker: Any) -> Iterator[None]:
        """Enter at the start of the block, and leave at its end."""
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
        self.check()  # after the signal exists: a break sets `broken` before it looks for signals
        wake.wait(seconds)
        self.check()

    def said(self, data: bytes) -> None:
        """Note outgoing bytes."""
        self.wrote = self.wrote or bool(data)
        self.sent += len(data)
        if self.frames is not None:
            self.frames.sent(data)

    def heard(self, data: bytes) -> bytes | None:
        """Note incoming data (empty at the end); return the part for the connection, ``None`` if nothing yet."""
        if not data:
            self.ended = True
        else:
            self.received += len(data)
        return data if self.frames is None else self.frames.received(data)

    def due(self) -> bytes | None:
        """Return data that the connection must get before anything more is read, if any."""
        if self.overheard is not None and self.overheard.data:
            return self.overheard.take()
        return None if self.frames is None else self.frames.due()

    def listens(self, data: bytes, stream: Any) -> bool:
        """Return whether to listen while sending a part of a request, because a response may arrive early.

        Return false if several requests share the connection, or if the caller already has the response: then incoming
        data belongs to the caller, too.
        """
        if not data or not self.awaits_response or self.frames is not None or not self.options.http1:
            return False
        is_large = self.sent + len(data) > _UNLISTENED
        return is_large or (self.wrote and bool(stream.get_extra_info("is_readable")))

    def overhear(self, data: bytes) -> bool:
        """Keep data that arrived while sending a request (empty at the end); return whether it ends the upload."""
        if self.overheard is None:
            self.overheard = Overheard()
        if data:
            self.received += len(data)
        else:
            self.ended = True
        return self.overheard.feed(data)

    def check_unanswered(self, data: bytes) -> None:
        """Raise if part of a request remains to be sent although the server has responded."""
        if data and self.awaits_response and self.overheard is not None and self.overheard.is_final:
            self.cut_off = True
            raise self.family.httpcore.WriteError(ANSWERED)

    def check_head(self) -> None:
        """Raise if the server has sent too much before a response; h11 and h2 accept any number of interim ones."""
        if self.frames is not None and self.frames.are_shared:
            found = self.frames.longest_heads
        else:
            found = self.received if self.awaits_response else 0
        if found > MAX_BEFORE_RESPONSE:
            raise self.family.httpcore.RemoteProtocolError(
                f"the server sent more than {MAX_BEFORE_RESPONSE} bytes before its response"
            )


def _holds_data(tls: Any) -> bool:
    if not isinstance(tls, ssl.SSLObject):  # it reads no more from its socket than requested
        return False
    with suppress(ssl.SSLError):  # garbage also counts as unsolicited data
        try:
            tls.read(1)  # empty means the end
        except ssl.SSLWantReadError:
            return False
    return True


def shut_down(sock: socket.SocketType) -> None:
    """Wake a thread that waits for a socket: connecting, reading or writing."""
    with suppress(OSError):  # not connected, or closed in the meantime
        # Not the method of an `SSLSocket`: it removes TLS first, and a later write would be in plain text.
        socket.SocketType.shutdown(sock, socket.SHUT_RDWR)


def close_forgotten(error: BaseException, beside: Any = None, descriptors: process.Descriptors | None = None) -> None:
    """Close the TLS socket that is left in the frames of a failed handshake.

    If a connection is reset before its handshake begins, Python before 3.13 does not close the socket, and nothing else
    refers to it.

    Args:
        error: The exception from the handshake.
        beside: The original socket object, which closes its descriptor if it still has it.
        descriptors: The descriptors opened for the connection. The number of a closed one may now be in use by another
            thread, and the causes of an exception may include one whose socket is not ours.
    """
    known = beside.fileno() if isinstance(beside, socket.socket) else -1
    for found in walk_causes(error):
        for frame, _ in traceback.walk_tb(found.__traceback__):
            sock = frame.f_locals.get("self")
            # With TLS within TLS, the original socket uses TLS, too.
            if not isinstance(sock, ssl.SSLSocket) or sock is beside:
                continue
            number = sock.fileno()
            if descriptors is not None and not descriptors.knows(number):
                continue
            is_closed = descriptors is not None and not descriptors.is_open(number)
            # It may be half initialised: its own methods need attributes that it does not have yet.
            end = socket.SocketType.detach if is_closed or number == known else socket.SocketType.close
            end(sock)


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
