"""One socket of an agent, with its wire and its connection."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from .._network.sessions import SessionRefused
from .._network.tls import Offer, SlowContext, server_name
from .._network.wire import CLOSE_TIMEOUT
from .._rules.core import CloseReason
from .._runtime.contexts import TimeLimit

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator
    from concurrent.futures import Future

    from .._connection.factory import ConnectionFactory
    from .._network.wire import Wire
    from .._runtime.homes import Home
    from .._values.options import AgentOptions
    from .._values.origins import Key
    from .._values.status import Address


class Owner(Protocol):
    """The dispatcher as its sockets see it: what they ask of it, and what they report to it."""

    factory: ConnectionFactory

    def options_for(self, key: Key) -> AgentOptions:
        """Return the options that apply to an origin."""
        raise NotImplementedError

    def socket_opened(self, socket: Socket, stream: Any) -> None:
        """Note that a socket is usable."""

    def socket_has_room(self, socket: Socket, streams: int | None) -> None:
        """Note how many HTTP/2 streams a socket's server allows; ``None`` if it did not say."""

    def socket_lost(self, number: int) -> None:
        """Note that the server closed a free socket, or sent unsolicited bytes on it."""


class Socket:
    """A socket that can be used for requests; the core knows it by its number only.

    Args:
        dispatcher: The agent's dispatcher.
        number: The socket's number in the core.
        home: The home in which it can be used.
        key: The key that it is pooled by.
    """

    # Most sockets keep these defaults.
    may_resume = True  # its handshake may offer a TLS session
    _generation = 0  # the generation of the session cache when it was asked for a session
    _offered: ssl.SSLSession | None = None  # the TLS session that the last handshake offered
    _resumed: ssl.SSLSession | None = None  # the same, if the server accepted it

    def __init__(self, dispatcher: Owner, number: int, home: Home, key: Key) -> None:
        self.id = number
        self.home = home
        self.key = key
        self.connection: Any = None  # a `Connection`, made by the request that opens it
        self.wire: Wire = dispatcher.factory.wire(key, self, dispatcher.options_for(key))
        self.usable = False  # it has been opened: all handshakes are done
        self.multiplexed: bool = False  # it speaks HTTP/2 and serves several requests at once
        self.request_count = 0  # number of requests that have got it
        self.watched: int | None = None  # the descriptor that its home's watcher watches
        self.http_version: str | None = None
        self.local_address: Address | None = None
        self.peer_address: Address | None = None
        self.opened_at: float | None = None  # when it became usable
        self.close_reason = CloseReason.LOOP_ENDED  # stays unless the core gives a reason for closing it
        self._dispatcher = dispatcher
        self._session_is_kept = False  # the TLS session of this connection has been offered to the session cache
        self._handshakes_left = dispatcher.factory.handshakes(key)  # TLS handshakes to do before it is usable

    def was_used(self) -> bool:
        """Return whether it was ever opened. A mock answers a request without opening it."""
        return self.wire.stream is not None

    @contextmanager
    def impatient(self) -> Iterator[None]:
        """Read only what has already arrived, without waiting, while in this context."""
        self.wire.impatient = not self.multiplexed
        try:
            yield
        finally:
            self.wire.impatient = False

    # Hearing from the wire --------------------------------------------------------------------------------------------

    def connected(self, stream: Any) -> None:
        """Note that the server, or the proxy, has accepted the connection."""
        self.local_address = _address(stream, "client_addr")
        self.peer_address = _address(stream, "server_addr")
        self._progress(stream)

    def secured(self, stream: Any) -> None:
        """Note that a TLS handshake is done."""
        if self._offered is not None and getattr(stream.get_extra_info("ssl_object"), "session_reused", False):
            self._resumed = self._offered
        self._handshakes_left -= 1
        self._progress(stream)

    async def load_certificates(self, context: ssl.SSLContext, timeout: float | None) -> None:
        """Wait until a TLS context is ready, at most ``timeout`` seconds, without blocking the event loop."""
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
        """Wrap a TLS handshake. The last handshake of a socket offers the TLS session in the cache, if there is one.

        Yields:
            The context to begin the handshake with, and the server name to send and to check.

        Raises:
            SessionRefused: If the handshake failed and may be repeated without the session.
        """
        factory = self._dispatcher.factory
        sessions = factory.sessions
        session = None
        if self._handshakes_left == 1:
            self._generation = sessions.generation  # read before the lookup: clearing the cache raises it first
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
            with factory.resuming.offering(session, slow=slow) as resuming:
                yield resuming, name
        except Exception as error:
            if self.wire.broken or not (self.home.is_async or self.wire.family.is_of_network(error)):
                raise
            sessions.refuse(self.key, session)
            if isinstance(error, self.wire.family.httpcore.TimeoutException):
                raise  # no time is left
            raise SessionRefused from error

    def refuse_session(self) -> None:
        """Note that the server ended the connection because of the TLS session that it had resumed."""
        assert self._resumed is not None
        self._dispatcher.factory.sessions.refuse(self.key, self._resumed)

    @property
    def has_resumed(self) -> bool:
        """Whether its TLS handshake resumed a session."""
        return self._resumed is not None

    def settings(self, max_concurrent_streams: int | None) -> None:
        """Note how many HTTP/2 streams the server allows; ``None`` if it did not say."""
        self._dispatcher.socket_has_room(self, max_concurrent_streams)

    def lost(self) -> None:
        """Note that the server closed the socket or sent unsolicited bytes.

        Ignore it if we are closing the socket ourselves. The core ignores it unless the socket is free.
        """
        if not self.wire.broken:
            self._dispatcher.socket_lost(self.id)

    def note_response(self, response: Any) -> None:
        """Note that a response has begun, so the socket works, even if its opening was not reported in full."""
        self.http_version = response.extensions["http_version"].decode("ascii")
        if not self.usable:
            self._handshakes_left = 0
            self._progress(self.wire.stream)
        if not self._session_is_kept:  # TLS 1.3 sends the session with the first bytes of a response
            self._session_is_kept = True
            self._offered = self._resumed = None
            self._keep_session()

    def _progress(self, stream: Any) -> None:
        if self._handshakes_left == 0 and not self.usable:
            self.usable = True
            self.wire.opening.end()
            self._dispatcher.socket_opened(self, stream)

    def _keep_session(self) -> None:
        factory = self._dispatcher.factory
        if factory.resumes(self.key):
            factory.sessions.learn(self.key, self.wire.stream.get_extra_info("ssl_object"), self._generation)

    # Reopening --------------------------------------------------------------------------------------------------------

    def prepare_reopening(self) -> None:
        """Close what a failed handshake has left, and become like new. A `close` in the meantime still prevails."""
        connection, self.connection = self.connection, None
        suppressed = self.wire.family.suppress_network_errors
        with suppressed():
            connection.close()
        with suppressed():
            self.wire.stream.close()
        self._forget_handshakes()

    async def aprepare_reopening(self) -> None:
        """Do the same as `prepare_reopening` in an event loop, even if the task is cancelled."""
        connection, self.connection = self.connection, None
        with anyio.CancelScope(shield=True):
            with suppress(Exception):
                await connection.aclose()
            with suppress(Exception):
                await self.wire.stream.aclose()
        self._forget_handshakes()

    def _forget_handshakes(self) -> None:
        self.wire.prepare_reopening()
        self.may_resume = False
        self._handshakes_left = self._dispatcher.factory.handshakes(self.key)

    # Closing ----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the socket in whatever state it is, after waking any thread that is using it."""
        self.wire.break_off()
        connection = self.connection  # another thread may be in `prepare_reopening`
        try:
            if connection is not None:
                connection.close()
        finally:
            if self.wire.stream is not None:
                self.wire.stream.close()
            self.wire.close_unused()
            self.wire.wait_until_left(CLOSE_TIMEOUT)

    async def aclose(self) -> None:
        """Do the same as `close` in an event loop, even if the task is cancelled."""
        self.wire.break_off()
        with anyio.CancelScope(shield=True):  # the stream aborts if closing takes too long
            try:
                if self.connection is not None:
                    await self.connection.aclose()
            except GeneratorExit:  # this coroutine is being dropped, so it can await nothing more
                raise
            except BaseException:
                await self._aclose_stream()
                raise
            await self._aclose_stream()

    async def _aclose_stream(self) -> None:
        if self.wire.stream is not None:
            await self.wire.stream.aclose()


def _address(stream: Any, which: str) -> Address | None:
    """Return an address as ``(host, port)``, or as the path of a Unix socket; ``None`` if there is none."""
    try:
        address = stream.get_extra_info(which)
    except OSError:  # the socket is already closed
        return None
    if isinstance(address, tuple):
        return str(address[0]), int(address[1])
    if isinstance(address, bytes):
        return address.decode(errors="replace")
    return address or None  # an unnamed Unix socket has an empty path
