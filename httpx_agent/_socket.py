"""One socket of an agent: its connection, its wire, and what is known of it."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import h11

from ._contexts import TimeLimit
from ._core import CloseReason
from ._http1 import says_close, stays_open
from ._http1_connection import Http1Connection
from ._network import CLOSE_TIMEOUT
from ._sessions import SessionRefused
from ._tls import Offer, SlowContext, server_name

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator
    from concurrent.futures import Future

    from ._connector import Key
    from ._engine import Engine
    from ._homes import Home
    from ._network import Wire
    from ._status import Address


class Socket:
    """What the core knows by number only.

    Args:
        engine: The agent's engine.
        number: Its number.
        home: Where it can be used.
        key: What it is connected for.
    """

    # Most sockets leave these as they are.
    may_resume = True  # a TLS session
    _generation = 0  # of the cache of sessions when it was asked
    _offered: ssl.SSLSession | None = None
    _resumed: ssl.SSLSession | None = None

    def __init__(self, engine: Engine, number: int, home: Home, key: Key) -> None:
        self.id = number
        self.home = home
        self.key = key
        self.connection: Any = None  # made by the request that opens it
        self.wire: Wire = engine.connector.wire(key, self, engine.options_for(key))
        self.usable = False
        self.multiplexed = False
        self.request_count = 0  # requests that it was given to
        self.watched: int | None = None  # the descriptor that the keeper watches
        self.http_version: str | None = None
        self.local_address: Address | None = None
        self.peer_address: Address | None = None
        self.opened_at: float | None = None  # when it became usable
        self.close_reason = CloseReason.LOOP_ENDED  # unless the core says why it closes it
        self._engine = engine
        self._session_is_kept = False
        self._handshakes_left = engine.connector.handshakes(key)

    def was_used(self) -> bool:
        """Whether it was ever opened: a mock in its place answers without."""
        return self.wire.stream is not None

    def must_step_aside(self) -> bool:
        """Whether a mock replaces httpcore's methods, which the fast engine's connections do not have."""
        connection = self.connection
        return isinstance(connection, Http1Connection) and self._engine.family.are_replaced(is_async=self.home.is_async)

    def is_reusable(self) -> bool:
        """Whether its connection says that it is fit for another request."""
        connection = self.connection
        return (
            self.was_used()
            and not self.wire.ended
            and not self.wire.broken
            and not self.wire.cut_off
            and not self.wire.is_leaving
            and connection.is_available()
            and (isinstance(connection, Http1Connection) or not (self.wire.left_unread() or _has_leftovers(connection)))
        )

    @contextmanager
    def impatient(self) -> Iterator[None]:
        """While inside, reading takes what has arrived and does not wait."""
        self.wire.impatient = not self.multiplexed
        try:
            yield
        finally:
            self.wire.impatient = False

    # Hearing from the wire --------------------------------------------------------------------------------------------

    def connected(self, stream: Any) -> None:
        """The other end, or the proxy, took the connection."""
        self.local_address = _address(stream, "client_addr")
        self.peer_address = _address(stream, "server_addr")
        self._progress(stream)

    def secured(self, stream: Any) -> None:
        """A TLS handshake is done."""
        if self._offered is not None and getattr(stream.get_extra_info("ssl_object"), "session_reused", False):
            self._resumed = self._offered
        self._handshakes_left -= 1
        self._progress(stream)

    async def load_certificates(self, context: ssl.SSLContext, timeout: float | None) -> None:
        """Have a TLS context ready within some seconds, and without holding the event loop up."""
        offer = Offer.of(context)
        build = offer.tls.begin() if offer is not None else None
        if build is not None:
            await self._wait_for(build, timeout)

    async def _wait_for(self, build: Future[None], timeout: float | None) -> None:
        event = self.home.new_event()
        wake = partial(self.home.wake, event, None)
        self.wire.enter(wake)
        try:
            build.add_done_callback(lambda _: wake())
            with TimeLimit(timeout) as patience:
                await event.wait()
        finally:
            self.wire.leave()
        self.wire.check()
        if patience.cancelled_caught:
            raise self.wire.family.httpcore.ConnectTimeout("the certificates took too long to load")
        build.result()

    @contextmanager
    def handshake(self, context: ssl.SSLContext, name: str | None) -> Iterator[tuple[ssl.SSLContext, str | None]]:
        """Around a TLS handshake; the last one offers the session that is known, if one is.

        Yields:
            The context to begin it with, and the name of the server to ask for, and to check.

        Raises:
            SessionRefused: If it failed, and may be done once more without the session.
        """
        connector = self._engine.connector
        sessions = connector.sessions
        session = None
        if self._handshakes_left == 1:
            self._generation = sessions.generation  # before the look: those who clear count first
            if self.may_resume:
                session = sessions.get(self.key)
        self._offered = session
        if name is not None and name != self.key.sni_hostname:
            name = server_name(name)
        offer = Offer.of(context)
        slow = offer is not None and self.home.is_async and offer.tls.is_slow()
        if session is None:
            yield offer.tls.stand_in(SlowContext) if offer is not None and slow else context, name
            return
        try:
            with connector.resuming.offering(session, slow=slow) as resuming:
                yield resuming, name
        except Exception as error:
            if self.wire.broken or not (self.home.is_async or self.wire.family.is_of_network(error)):
                raise
            sessions.refuse(self.key, session)
            if isinstance(error, self.wire.family.httpcore.TimeoutException):
                raise  # no time is left
            raise SessionRefused from error

    def refuse_session(self) -> None:
        """The server ended the connection because of the session that it had resumed."""
        assert self._resumed is not None
        self._engine.connector.sessions.refuse(self.key, self._resumed)

    @property
    def has_resumed(self) -> bool:
        """Whether it resumed a session."""
        return self._resumed is not None

    def settings(self, max_concurrent_streams: int | None) -> None:
        """The server said how many HTTP/2 streams it takes."""
        self._engine.socket_has_room(self, max_concurrent_streams)

    def count_no_streams(self) -> None:
        """Take the semaphore from a connection of httpcore's that speaks HTTP/2.

        It is written in Python: an exception in the middle of it, as a signal's handler may raise it, leaves it locked,
        and httpcore would wait for it on its way out, for ever. In threads no two requests share a connection.
        """
        connection = _innermost(self.connection)
        if hasattr(connection, "_max_streams_semaphore"):
            connection._max_streams_semaphore = _NO_SEMAPHORE

    def lost(self) -> None:
        """The server closed it, or wrote unasked; it counts only if the socket is free, and was not closed by us."""
        if not self.wire.broken:
            self._engine.socket_lost(self.id)

    def answered(self, response: Any) -> None:
        """A response came: whatever was in doubt, the socket works."""
        self.wire.answered = True
        self.http_version = response.extensions["http_version"].decode("ascii")
        if not self.usable:
            self._handshakes_left = 0
            self._progress(self.wire.stream)
        if not self._session_is_kept:  # TLS 1.3 sends it with the first bytes of a response
            self._session_is_kept = True
            self._offered = self._resumed = None
            self._keep_session()

    def _progress(self, stream: Any) -> None:
        if self._handshakes_left == 0 and not self.usable:
            self.usable = True
            self.wire.opened()
            self._engine.socket_opened(self, stream)

    def _keep_session(self) -> None:
        connector = self._engine.connector
        if connector.resumes(self.key):
            connector.sessions.learn(self.key, self.wire.stream.get_extra_info("ssl_object"), self._generation)

    # Opening anew -----------------------------------------------------------------------------------------------------

    def begin_anew(self) -> None:
        """Close what a failed handshake left, and be as new; whoever closes the socket meanwhile has the last word."""
        connection, self.connection = self.connection, None
        suppressed = self.wire.family.suppress_network_errors
        with suppressed():
            connection.close()
        with suppressed():
            self.wire.stream.close()
        self._forget_handshakes()

    async def abegin_anew(self) -> None:
        """The same in an event loop, cancelled or not."""
        connection, self.connection = self.connection, None
        with anyio.CancelScope(shield=True):
            with suppress(Exception):
                await connection.aclose()
            with suppress(Exception):
                await self.wire.stream.aclose()
        self._forget_handshakes()

    def _forget_handshakes(self) -> None:
        self.wire.begin_anew()
        self.may_resume = False
        self._handshakes_left = self._engine.connector.handshakes(self.key)

    # Closing ----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Closes it, in whatever state it is; a thread that waits for it is woken first."""
        self.wire.break_off()
        connection = self.connection  # another thread may be in `begin_anew`
        try:
            if connection is not None:
                connection.close()
        finally:
            if self.wire.stream is not None:
                self.wire.stream.close()
            self.wire.close_unused()
            self.wire.wait_until_left(CLOSE_TIMEOUT)

    async def aclose(self) -> None:
        """The same in an event loop, cancelled or not."""
        self.wire.break_off()
        with anyio.CancelScope(shield=True):  # its stream aborts what takes too long
            try:
                if self.connection is not None:
                    await self.connection.aclose()
            except GeneratorExit:  # nothing can be awaited any more
                raise
            except BaseException:
                await self._aclose_stream()
                raise
            await self._aclose_stream()

    async def _aclose_stream(self) -> None:
        if self.wire.stream is not None:
            await self.wire.stream.aclose()


def _address(stream: Any, which: str) -> Address | None:
    """An address as ``(host, port)``, or the path of a Unix socket."""
    try:
        address = stream.get_extra_info(which)
    except OSError:  # gone already
        return None
    if isinstance(address, tuple):
        return str(address[0]), int(address[1])
    if isinstance(address, bytes):
        return address.decode(errors="replace")
    return address or None  # an unnamed Unix socket has an empty path


class _NoSemaphore:
    """Stands for a semaphore that everybody passes."""

    def acquire(self) -> None:
        pass

    def release(self) -> None:
        pass


_NO_SEMAPHORE = _NoSemaphore()


def _innermost(connection: Any) -> Any:
    """Return the connection of httpcore's that speaks HTTP, which others have privately."""
    while hasattr(connection, "_connection"):
        connection = connection._connection
    return connection


def _parser_of(connection: Any) -> Any:
    """Return h11's state of a connection of httpcore's, which has it privately; ``None`` if the names are unknown."""
    return getattr(_innermost(connection), "_h11_state", None)


def _has_leftovers(connection: Any) -> bool:
    """Whether bytes came after the end of the response: they must not be the next request's answer (R20, N23)."""
    parser = _parser_of(connection)
    return parser is not None and bool(parser.trailing_data[0])


def keep_open(connection: Any, request: Any, response: Any, *, has_no_body: bool) -> None:
    """Let an HTTP/1.0 connection of httpcore's serve again, if its server said so and the body's end is known (R11).

    h11 knows keep-alive of HTTP/1.1 only, and is not to be told of any other but by what it decides from. Where its
    private names are unknown, the connection is closed after the response, as it is without this.

    Args:
        connection: The connection, when a response has begun.
        request: httpcore's request.
        response: httpcore's response.
        has_no_body: Whether the response has none, by rule.
    """
    headers = response.headers
    has_length = has_no_body or any(name.lower() == b"content-length" for name, _ in headers)
    if not has_length or not stays_open(headers) or says_close(request.headers):
        return
    state = getattr(_parser_of(connection), "_cstate", None)
    if state is not None and state.states.get(h11.CLIENT) is h11.MUST_CLOSE:  # else the request has not left
        state.keep_alive = True
        state.states[h11.CLIENT] = h11.DONE
