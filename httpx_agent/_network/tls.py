"""Make TLS contexts, and choose the protocols, the session and the server name for each handshake.

httpcore sets a context's protocols (ALPN) before each handshake, and its network backends pass on no session. So they
get a stand-in for the context, which acts when the object for a handshake is made: at that moment OpenSSL copies the
protocols into it, and accepts a session.
"""

from __future__ import annotations

import ssl
import threading
import weakref
from collections import deque
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from .._runtime import process
from .._runtime.locks import Lock, held

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Iterator

#: The object for a handshake: an `ssl.SSLObject` or `ssl.SSLSocket`.
Handshake = TypeVar("Handshake")

#: The maximum number of stand-ins to keep for reuse; more are seldom needed at once.
_MAX_IDLE = 16

#: The attribute in which a stand-in keeps its methods and session.
_OFFER = "httpx_agent_offer"


class SlowContext(ssl.SSLContext):
    """A stand-in for a context with its own methods, which may be slow and must not run in an event loop.

    anyio runs the methods of anything but an exact `ssl.SSLContext` in a thread, and so do our streams; trio does not.
    """


class TlsContext:
    """The context of an agent for one kind of handshake: with origins, or with its proxy.

    Args:
        make: Returns the real context; if it reads certificates, that takes some 50 ms.
        is_own: Whether only this agent uses the context. If not, every change to it is undone.
    """

    def __init__(self, make: Callable[[], ssl.SSLContext], *, is_own: bool) -> None:
        self._make = make
        self._is_own = is_own
        self._made: ssl.SSLContext | None = None
        self._protocols: list[str] = []  # to offer
        self._set: list[str] = []  # on a context of our own
        self._begin_unlocked()

    def after_fork(self) -> None:
        """Replace, in a forked child, the locks that a thread of the parent may have held."""
        self._begin_unlocked()

    def _begin_unlocked(self) -> None:
        self._making = Lock()  # held while the context is made
        self._starting = Lock()
        self._build: Future[None] | None = None

    # Making -----------------------------------------------------------------------------------------------------------

    def get(self) -> ssl.SSLContext:
        """Return the real context; make it if necessary, or wait for the thread that is making it."""
        return self._get() if self._made is None else self._made

    @held("_making")
    def _get(self) -> ssl.SSLContext:
        if self._made is None:
            self._made = self._make()
        return self._made

    def begin(self) -> Future[None] | None:
        """Make the context in a separate thread; return a future for it, or ``None`` if it already exists.

        It is made once, however many callers ask meanwhile. If that fails, the next caller starts again.
        """
        return None if self._made is not None else self._begin()

    @held("_starting")
    def _begin(self) -> Future[None]:
        build = self._build
        if build is None:
            build = self._build = Future()
            try:
                threading.Thread(
                    target=Context().run, args=(self._make_for, build), name="httpx-agent-tls", daemon=True
                ).start()
            except RuntimeError:  # no more threads, or the interpreter is shutting down: do it here
                self._make_for(build)
        return build

    def _make_for(self, build: Future[None]) -> None:
        try:
            self.get()
        except BaseException as error:  # any error is for the callers that wait
            self._build = None
            build.set_exception(error)
        else:
            self._build = None
            build.set_result(None)

    # Standing in ------------------------------------------------------------------------------------------------------

    def stand_in(self, kind: type[ssl.SSLContext] = ssl.SSLContext) -> ssl.SSLContext:
        """Return a stand-in for network backends to use as the context; if they bypass its methods, it trusts nothing.

        Making one takes 0.2 ms.
        """
        context, offer = kind(ssl.PROTOCOL_TLS_CLIENT), Offer(self)
        # On the instance, because anyio asks for the exact class.
        vars(context).update(
            {
                "set_alpn_protocols": offer.set_alpn_protocols,
                "wrap_bio": offer.wrap_bio,
                "wrap_socket": offer.wrap_socket,
                _OFFER: offer,
            }
        )
        return context

    def is_slow(self) -> bool:
        """Return whether the real context has its own methods, which could block an event loop."""
        return not _is_pythons(self.get().wrap_bio)

    def offer(self, protocols: Iterable[str]) -> None:
        """Record the protocols to offer; an agent sets the same ones before each handshake."""
        self._protocols = list(protocols)

    def make(self, make: Callable[[ssl.SSLContext], Handshake]) -> Handshake:
        """Make the object for a handshake from the real context, with the recorded protocols."""
        context, protocols = self.get(), self._protocols
        if not self._is_own:
            return _borrowed.lend(context, protocols, make)
        if self._set != protocols:
            self._set_protocols(context, protocols)
        return make(context)

    @held("_making")
    def _set_protocols(self, context: ssl.SSLContext, protocols: list[str]) -> None:
        context.set_alpn_protocols(protocols)
        self._set = protocols


class Offer:
    """The methods of a stand-in.

    Args:
        tls: The context that it stands in for.

    Attributes:
        session: The session to offer in handshakes that do not pass one.
    """

    def __init__(self, tls: TlsContext) -> None:
        self.tls = tls
        self.session: ssl.SSLSession | None = None

    @staticmethod
    def of(context: ssl.SSLContext) -> Offer | None:
        """Return the methods of a stand-in; ``None`` for any other context."""
        found = vars(context).get(_OFFER)
        return found if isinstance(found, Offer) else None

    def set_alpn_protocols(self, protocols: Iterable[str]) -> None:
        """Do the same as `ssl.SSLContext.set_alpn_protocols`."""
        self.tls.offer(protocols)

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Do the same as `ssl.SSLContext.wrap_bio`."""
        arguments = self._with_session({"server_side": server_side, "server_hostname": server_hostname}, session)
        return self.tls.make(lambda context: context.wrap_bio(incoming, outgoing, **arguments))

    def wrap_socket(
        self, sock: socket.socket, *, session: ssl.SSLSession | None = None, **arguments: Any
    ) -> ssl.SSLSocket:
        """Do the same as `ssl.SSLContext.wrap_socket`.

        The handshake waits for the network. Others must not wait for that, so it comes after the locked part. A context
        with its own method is an exception: the method may look at the handshake's result, so there others do wait.
        """
        arguments = self._with_session(arguments, session)
        wrapped, comes_after = self.tls.make(lambda context: _wrap(context, sock, arguments))
        if comes_after:
            try:
                wrapped.do_handshake()
            except BaseException:
                wrapped.close()
                raise
        return wrapped

    def _with_session(self, arguments: dict[str, Any], session: ssl.SSLSession | None) -> dict[str, Any]:
        session = session or self.session
        return arguments if session is None else {**arguments, "session": session}


def _wrap(context: ssl.SSLContext, sock: socket.socket, arguments: dict[str, Any]) -> tuple[ssl.SSLSocket, bool]:
    """Return a TLS socket, and whether its handshake is still to be done."""
    comes_after = _is_pythons(context.wrap_socket) and arguments.get("do_handshake_on_connect", True)
    if comes_after:
        arguments = {**arguments, "do_handshake_on_connect": False}
    return context.wrap_socket(sock, **arguments), comes_after


class StandIns:
    """Stand-ins for one context that offer a session; each serves one handshake at a time."""

    def __init__(self, tls: TlsContext) -> None:
        self._tls = tls
        self._idle: deque[ssl.SSLContext] = deque(maxlen=_MAX_IDLE)

    @contextmanager
    def offering(self, session: ssl.SSLSession, *, slow: bool) -> Iterator[ssl.SSLContext]:
        """Wrap a handshake that offers a session; yield the context to begin it with."""
        try:
            stand_in = self._tls.stand_in(SlowContext) if slow else self._idle.popleft()
        except IndexError:
            stand_in = self._tls.stand_in()
        offer = Offer.of(stand_in)
        assert offer is not None
        offer.session = session
        try:
            yield stand_in
        finally:
            offer.session = None
            if not slow:
                self._idle.append(stand_in)


def _is_pythons(method: Any) -> bool:
    """Return whether a method is that of Python's own `ssl.SSLContext`, even if that class was replaced."""
    return getattr(method, "__module__", None) == "ssl"


# Contexts of the user's -----------------------------------------------------------------------------------------------


class _Loan:
    """A user's context that agents borrow.

    Args:
        context: The context; this does not keep it alive.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = weakref.ref(context)
        self._protocols: list[str] | None = None  # the user's; `None` until they are read
        self._is_out = False  # whether other protocols are set now
        self._lock = Lock()

    @held("_lock")
    def make(
        self, context: ssl.SSLContext, protocols: list[str], make: Callable[[ssl.SSLContext], Handshake]
    ) -> Handshake:
        """Make an object for a handshake from the context while it offers these protocols."""
        if self._is_out:  # still set, because restoring them was interrupted
            self._put_back(context)
        # The user may change them at any time. Reading them takes 0.1 ms, but 25 ms if the context has a method of its
        # own that reads certificates each time; those are read once.
        if self._protocols is None or _is_pythons(context.wrap_bio):
            self._protocols = read_protocols(context)
        if self._protocols == protocols:
            return make(context)
        self._is_out = True
        try:
            context.set_alpn_protocols(protocols)
            return make(context)
        finally:
            self._put_back(context)

    def _put_back(self, context: ssl.SSLContext) -> None:
        assert self._protocols is not None
        context.set_alpn_protocols(self._protocols)
        self._is_out = False

    def after_fork(self) -> None:
        """Start afresh in a forked child, where no thread is left to restore protocols or release the lock."""
        self._lock = Lock()
        context = self._context()
        if self._is_out and context is not None:
            self._put_back(context)


class _Borrowed:
    """The users' contexts, with which each agent of this process may offer different protocols.

    Python can only set the protocols of a context, not read them. So each agent in turn sets them while it makes the
    object for a handshake, and then restores them.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._loans: WeakKeyDictionary[ssl.SSLContext, _Loan] = WeakKeyDictionary()
        process.register(self)

    def lend(
        self, context: ssl.SSLContext, protocols: list[str], make: Callable[[ssl.SSLContext], Handshake]
    ) -> Handshake:
        """Make an object for a handshake from a context, with these protocols."""
        return self._loan_of(context).make(context, protocols, make)

    @held("_lock")
    def _loan_of(self, context: ssl.SSLContext) -> _Loan:
        loan = self._loans.get(context)
        if loan is None:
            loan = self._loans[context] = _Loan(context)
        return loan

    def after_fork(self) -> None:
        """Start afresh in a forked child, where a thread of the parent may hold a lock."""
        self._lock = Lock()
        for loan in list(self._loans.values()):
            loan.after_fork()


_borrowed = _Borrowed()


def read_protocols(context: ssl.SSLContext) -> list[str]:
    """Return the protocols that a context offers (ALPN, RFC 7301), read from the first message that it would send."""
    message = ssl.MemoryBIO()
    handshake = context.wrap_bio(ssl.MemoryBIO(), message, server_hostname="name.invalid")
    with suppress(ssl.SSLWantReadError):
        handshake.do_handshake()
    return _protocols_in(message.read())


#: The offset of the session in a ClientHello: after the headers of record and message, the version and the random.
_SESSION_AT = 5 + 4 + 2 + 32

#: The extension `application_layer_protocol_negotiation`.
_ALPN = 16


def _protocols_in(hello: bytes) -> list[str]:
    """Return the protocols of a ClientHello (RFC 8446, 4.1.2)."""

    def number(at: int, size: int) -> int:
        return int.from_bytes(hello[at : at + size], "big")

    at = _SESSION_AT
    for size in (1, 2, 1):  # session, cipher suites, compression methods
        at += size + number(at, size)
    at += 2  # the length of all extensions
    while at < len(hello):
        kind, length = number(at, 2), number(at + 2, 2)
        at += 4
        if kind == _ALPN:
            return _names_in(hello[at + 2 : at + length])
        at += length
    return []


def _names_in(data: bytes) -> list[str]:
    names = []
    while data:
        length = data[0]
        names.append(data[1 : 1 + length].decode("ascii"))
        data = data[1 + length :]
    return names


# Names ----------------------------------------------------------------------------------------------------------------


def server_name(host: str) -> str:
    """Return the name that TLS requests for a host, and checks against its certificate.

    The dot of an absolute name is for name servers (RFC 6066, 3), and the zone of an IPv6 address has a meaning only
    on this machine (RFC 6874).
    """
    if ":" in host:
        return host.partition("%")[0]
    return host.removesuffix(".") or host
