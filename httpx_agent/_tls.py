"""TLS contexts: when they are made, what a handshake with one offers, and which name it asks for.

httpcore sets the protocols of a context (ALPN) before each handshake, and its network backends pass no session on. So
they get a stand-in for the context, which decides when the object of a handshake is made: OpenSSL copies the protocols
into it then, and takes a session.
"""

from __future__ import annotations

import ssl
import threading
from collections import deque
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from . import _fork
from ._locks import Lock, let_go

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")

#: So many stand-ins wait for another handshake: more are seldom done at once.
_MAX_IDLE = 16

#: Under this name a stand-in knows what it offers.
_OFFER = "httpx_agent_offer"


class SlowContext(ssl.SSLContext):
    """A stand-in for a context that has methods of its own, which may take long: they are not for an event loop.

    anyio runs in a thread what is not an `ssl.SSLContext` and nothing else, and so do our own streams; trio does not.
    """


class TlsContext:
    """The context of an agent for one kind of handshake: with origins, or with its proxy.

    Args:
        make: Returns the real context; where it reads certificates, that takes some 50 ms.
        is_own: Whether the agent has the context for itself. If not, nothing of it is left changed.
    """

    def __init__(self, make: Callable[[], ssl.SSLContext], *, is_own: bool) -> None:
        self._make = make
        self._is_own = is_own
        self._made: ssl.SSLContext | None = None
        self._protocols: list[str] = []  # to offer
        self._set: list[str] = []  # on a context of our own
        self.begin_anew()

    def begin_anew(self) -> None:
        """Renew in a forked child what a thread of the parent may have held."""
        self._making = Lock()  # held as long as it takes
        self._starting = Lock()
        self._build: Future[None] | None = None

    # Making -----------------------------------------------------------------------------------------------------------

    def get(self) -> ssl.SSLContext:
        """Return the real context; make it first, or wait for who does."""
        if self._made is None:
            with self._making:
                if self._made is None:
                    self._made = self._make()
        return self._made

    def begin(self) -> Future[None] | None:
        """Have it made in a thread of its own; return what ends when it is, ``None`` if it is there already.

        However many ask meanwhile, it is made once. If that fails, the next to ask begins anew.
        """
        if self._made is not None:
            return None
        with self._starting:
            build = self._build
            if build is None:
                build = self._build = Future()
                try:
                    threading.Thread(
                        target=Context().run, args=(self._make_for, build), name="httpx-agent-tls", daemon=True
                    ).start()
                except RuntimeError:  # no more threads, or the interpreter is about to end: it has to be done here
                    self._make_for(build)
        return build

    def _make_for(self, build: Future[None]) -> None:
        try:
            self.get()
        except BaseException as error:  # whatever it is, it is theirs who wait
            self._build = None
            build.set_exception(error)
        else:
            self._build = None
            build.set_result(None)

    # Standing in ------------------------------------------------------------------------------------------------------

    def stand_in(self, kind: type[ssl.SSLContext] = ssl.SSLContext) -> ssl.SSLContext:
        """Return what network backends may take for the context; if they look past its methods, it trusts nobody.

        Making one takes 0.2 ms.
        """
        context, offer = kind(ssl.PROTOCOL_TLS_CLIENT), Offer(self)
        # On the instance, because anyio asks for the very class.
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
        """Return whether the real context has methods of its own for what an event loop would wait for."""
        return not _is_pythons(self.get().wrap_bio)

    def offer(self, protocols: Iterable[str]) -> None:
        """Note which protocols to offer; an agent says the same before each handshake."""
        self._protocols = list(protocols)

    def make_handshake(self, make: Callable[[ssl.SSLContext], T]) -> T:
        """Have the object of a handshake made, which offers what was noted."""
        context, protocols = self.get(), self._protocols
        if not self._is_own:
            return _borrowed.lend(context, protocols, make)
        if self._set != protocols:
            with self._making:
                context.set_alpn_protocols(protocols)
                self._set = protocols
        return make(context)


class Offer:
    """The methods of a stand-in.

    Args:
        tls: What it stands for.

    Attributes:
        session: Which session a handshake offers that brings none.
    """

    def __init__(self, tls: TlsContext) -> None:
        self.tls = tls
        self.session: ssl.SSLSession | None = None

    @staticmethod
    def of(context: ssl.SSLContext) -> Offer | None:
        """Return what a context offers if it is a stand-in."""
        found = vars(context).get(_OFFER)
        return found if isinstance(found, Offer) else None

    def set_alpn_protocols(self, protocols: Iterable[str]) -> None:
        """As `ssl.SSLContext.set_alpn_protocols`."""
        self.tls.offer(protocols)

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """As `ssl.SSLContext.wrap_bio`."""
        arguments = self._with_session({"server_side": server_side, "server_hostname": server_hostname}, session)
        return self.tls.make_handshake(lambda context: context.wrap_bio(incoming, outgoing, **arguments))

    def wrap_socket(
        self, sock: socket.socket, *, session: ssl.SSLSession | None = None, **arguments: Any
    ) -> ssl.SSLSocket:
        """As `ssl.SSLContext.wrap_socket`.

        The handshake waits for the network, and others must not wait for that, so it comes after the rest. Not so where
        the context has a method of its own: that may look at what the handshake brought, so there others do wait.
        """
        arguments = self._with_session(arguments, session)
        comes_after = _is_pythons(self.tls.get().wrap_socket) and arguments.get("do_handshake_on_connect", True)
        if comes_after:
            arguments["do_handshake_on_connect"] = False
        wrapped = self.tls.make_handshake(lambda context: context.wrap_socket(sock, **arguments))
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


class StandIns:
    """Stand-ins for one context that offer a session, one handshake at a time each."""

    def __init__(self, tls: TlsContext) -> None:
        self._tls = tls
        self._idle: deque[ssl.SSLContext] = deque(maxlen=_MAX_IDLE)

    @contextmanager
    def offering(self, session: ssl.SSLSession, *, slow: bool) -> Iterator[ssl.SSLContext]:
        """Around a handshake that offers a session; yields what to begin it with."""
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
    """Return whether a method is that of Python's own `ssl.SSLContext`, under whatever name that goes by now."""
    return getattr(method, "__module__", None) == "ssl"


# Contexts of the user's -----------------------------------------------------------------------------------------------


class _Loan:
    """What is to be known of a context that agents borrow."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.protocols: list[str] | None = None  # the user's; `None` before they were read
        self.is_out = False  # others are set


class _Borrowed:
    """The contexts of the users, of which each agent of this process has another list of protocols to offer.

    Python sets them on a context only, and cannot tell what they are. So they are set for the moment in which the
    object of a handshake is made, one agent after the other, and put back.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._loans: WeakKeyDictionary[ssl.SSLContext, _Loan] = WeakKeyDictionary()
        _fork.register(self)

    def lend(self, context: ssl.SSLContext, protocols: list[str], make: Callable[[ssl.SSLContext], T]) -> T:
        """Have an object made that offers these protocols.

        Not a context manager around that: one that is interrupted on its way in keeps its lock as long as anybody has
        the exception.
        """
        with self._lock:
            loan = self._loans.setdefault(context, _Loan())
        try:
            with loan.lock:
                return self._lend(context, protocols, make, loan)
        except BaseException:
            let_go(loan.lock)
            raise

    def _lend(
        self, context: ssl.SSLContext, protocols: list[str], make: Callable[[ssl.SSLContext], T], loan: _Loan
    ) -> T:
        if loan.is_out and loan.protocols is not None:  # whoever had it was interrupted while he put them back
            context.set_alpn_protocols(loan.protocols)
            loan.is_out = False
        # The user may change them at any time. Reading them takes 0.1 ms; but 25 where the context has a method of its
        # own that reads certificates each time, so there it is done once.
        if loan.protocols is None or _is_pythons(context.wrap_bio):
            loan.protocols = read_protocols(context)
        if loan.protocols == protocols:
            return make(context)
        loan.is_out = True
        try:
            context.set_alpn_protocols(protocols)
            return make(context)
        finally:
            context.set_alpn_protocols(loan.protocols)
            loan.is_out = False

    def begin_anew(self) -> None:
        """In a forked child: no thread is left that would put back what it has set, or release a lock."""
        self._lock = Lock()
        for context, loan in self._loans.items():
            loan.lock = Lock()
            if loan.is_out and loan.protocols is not None:
                context.set_alpn_protocols(loan.protocols)
                loan.is_out = False


_borrowed = _Borrowed()


def read_protocols(context: ssl.SSLContext) -> list[str]:
    """Return the protocols that a context offers (ALPN, RFC 7301), out of the message that it would begin with."""
    message = ssl.MemoryBIO()
    handshake = context.wrap_bio(ssl.MemoryBIO(), message, server_hostname="name.invalid")
    with suppress(ssl.SSLWantReadError):
        handshake.do_handshake()
    return _protocols_in(message.read())


#: Where the session of a ClientHello begins: after the headers of record and message, the version and the random.
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
    at += 2  # how long all extensions are
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
    """Return the name by which TLS asks for a host, and checks its certificate.

    The dot of an absolute name is for the name servers (RFC 6066, 3), and the zone of an IPv6 address says something to
    this machine only (RFC 6874).
    """
    if ":" in host:
        return host.partition("%")[0]
    return host.removesuffix(".") or host
