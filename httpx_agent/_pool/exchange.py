"""One request from its arrival to the end of its response, written once for both worlds as flows (see `_steps`)."""

from __future__ import annotations

import re
import ssl
import sys
from typing import TYPE_CHECKING, Any

from .._network.descriptors import is_out_of_descriptors
from .._network.sessions import SessionRefused
from .._protocol.http1 import read_keep_alive_hint
from .._rules.resend import Facts, Loss, Verdict, is_idempotent, judge
from .._runtime.causes import walk_causes
from .._runtime.flows import Wait
from .._values.status import RequestInfo
from . import errors
from .steps import BeginAnew, CloseStream, Drain, Send
from .ticket import Ticket

if TYPE_CHECKING:
    from .._connection.interface import Connection
    from .._runtime.flows import Flow
    from .._runtime.homes import Home
    from .._values.origins import Key
    from .dispatcher import Dispatcher
    from .socket import Socket

#: Seconds that a request waits before its thread looks for responses that it has lost: a collection may take as long.
LOST_AFTER = 0.1

#: Between a request's caller and here, as far as is known.
LIBRARIES = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", __name__.partition(".")[0]})

#: What `timeout` limits of a request.
_LIMITED = frozenset({"connect", "read", "write"})

#: In a `Host` header, the zone of an IPv6 address, which means something on this machine only (RFC 6874, 4).
_ZONE = re.compile(rb"%[^]]*(?=])")


class Exchange(Ticket):
    """A request and what becomes of it.

    Args:
        dispatcher: The agent's dispatcher.
        home: Where it was made.
        key: What it needs a socket for.
        request: httpcore's request.
        pool: The pool that made it.
    """

    # Most requests leave these as they are.
    retried = False
    made_room = False  # closed the agent's free sockets, because no descriptor was left
    goaways = 0  # number of connections that servers closed before they answered it
    session_refused = False  # the server ended a connection that had resumed a TLS session
    response_began = False
    arrived: list[bytes] | tuple[()] = ()  # of its body, and not taken; see `Connection`
    cut_short = False  # its response was closed before all of it had been read
    _has_no_body = False  # its response has none, by rule
    _hint: float | None = None
    _came_before: int = 0  # what its socket had received when this was sent: not nothing, where others share it

    def __init__(self, dispatcher: Dispatcher, home: Home, key: Key, request: Any, pool: object) -> None:
        super().__init__(home, key, request, pool, dispatcher.stopwatch())
        self.dispatcher = dispatcher
        if dispatcher.options.debug:
            self.asked_for_at = _caller()
        self._prepare_request()

    @property
    def is_shared(self) -> bool:
        """Whether other requests use its socket at the same time."""
        return self.socket is not None and self.socket.multiplexed

    # Flows ------------------------------------------------------------------------------------------------------------

    def send(self) -> Flow[Any]:
        """Gets a socket, sends the request, gives the response; all that it began is ended if it fails."""
        dispatcher = self.dispatcher
        try:
            closing = dispatcher.submit(self)
            if closing:
                yield from dispatcher.settle(self.home, closing)
            while True:
                if self.grant is None:
                    yield from self._wait()
                if self.refused:
                    raise dispatcher.family.httpcore.ConnectError(errors.CLOSED)
                socket = self._prepare_socket()
                self.started = True  # from here on no other may have the socket, unless all goes well
                if self._is_dead(socket):
                    closing = dispatcher.replace(self)
                    self.started = False
                    yield from dispatcher.settle(self.home, closing)
                    continue
                try:
                    response = yield Send(socket.connection, self.request)
                except SessionRefused:
                    yield BeginAnew(socket)
                    continue
                except Exception as error:
                    loss, verdict = self.judge(error) or (None, None)
                    if loss is Loss.SESSION_REFUSED:
                        self.session_refused = True
                        socket.refuse_session()
                    again = verdict is Verdict.RESEND
                    if again:
                        self.retried = True
                    elif self._may_make_room(error):
                        self.made_room = True
                        yield from dispatcher.settle(self.home, dispatcher.close_free_sockets(self))
                    else:
                        raise
                    leaving = loss is not None and loss.is_http2
                    self.goaways += leaving
                    is_error = not leaving and not socket.wire.ended
                    closing = dispatcher.replace(self, fresh=True, again=again, error=is_error)
                    self.started = False
                    yield from dispatcher.settle(self.home, closing)
                    continue
                closing = self._accept(response)
                if closing:
                    yield from dispatcher.settle(self.home, closing)
                return response
        except GeneratorExit:
            dispatcher.abandon(self)
            raise
        except BaseException as error:
            explained = errors.explain(error, self)
            yield from self._fail(error)
            if explained is error:
                raise
            raise explained from errors.cause_of(error, self)

    def read(self, stream: Any) -> Flow[None] | None:
        """The response was read to its end: the socket is free for the next request (R7, R12).

        Gives what is left to do, if anything that waits is.
        """
        socket = self.socket
        assert socket is not None
        reusable = socket.connection.end_now(stream)
        if reusable is None:
            return self._finish(stream, complete=True)
        closing = self._release(complete=True, reusable=reusable)
        return self.dispatcher.settle(self.home, closing) if closing else None

    def fail(self, stream: Any, error: BaseException) -> Flow[BaseException]:
        """Reading the response failed; gives the error to raise."""
        explained = errors.explain(error, self)
        _, interruption = yield from self._end_response(stream, complete=False)
        yield from self._fail(error)
        if interruption is not None:
            raise interruption
        return explained

    def begin_close(self) -> None:
        """Note that the response is about to be closed, before its reader can see that it is."""
        self.cut_short = not (self.over or self.detached)

    def close(self, stream: Any, *, is_read: bool) -> Flow[None]:
        """The response is closed: before its end that costs the socket (R23), unless the end has arrived already.

        Args:
            stream: Its body.
            is_read: Whether another task or thread waits for more of it. Two cannot read the same bytes, so the rest is
                not looked for then: the socket is closed, which wakes the other one.
        """
        if self.over:
            return
        socket = self.socket
        assert socket is not None
        complete = self.detached
        interruption: BaseException | None = None
        if not complete and not is_read and (not socket.multiplexed or self._has_no_body):
            try:
                dropped = yield Drain(stream, socket)
                complete = dropped is not None
                self.cut_short = dropped != 0
            except GeneratorExit:
                raise
            except BaseException as error:
                interruption = error
        yield from self._finish(stream, complete=complete, interruption=interruption)

    def _finish(self, stream: Any, *, complete: bool, interruption: BaseException | None = None) -> Flow[None]:
        """End the response and with it the request; what interrupts this is raised once the books are closed.

        A connection that was interrupted while it came to rest may say that it has, and not be whole.
        """
        reusable, found = yield from self._end_response(stream, complete=complete)
        interruption = found or interruption
        closing = self._release(complete=complete, reusable=reusable and complete and interruption is None)
        yield from self.dispatcher.settle(self.home, closing)
        if interruption is not None:
            raise interruption

    def _end_response(self, stream: Any, *, complete: bool) -> Flow[tuple[bool, BaseException | None]]:
        """End the response; give whether its connection is fit for another, and what interrupted this."""
        socket = self.socket
        assert socket is not None
        connection: Connection = socket.connection
        reusable = connection.end_now(stream)
        if reusable is not None:
            return reusable, None
        try:
            yield CloseStream(stream)
        except GeneratorExit:
            raise
        except BaseException as error:
            return False, error
        return complete and not self.detached and connection.is_reusable(), None

    def check_process(self) -> None:
        """Raises in a forked child, where nothing would ever be heard of the parent's event loop."""
        if self.socket is not None and self.socket.wire.inherited:
            raise errors.explain(self.dispatcher.family.httpcore.ReadError(), self)

    def _wait(self) -> Flow[None]:
        """Waits for a socket, until one absolute deadline."""
        timeout = self.request.extensions.get("timeout", {}).get("pool")
        deadline = None if timeout is None else self.submitted + timeout
        looks_for_lost = not self.home.is_async
        while self.grant is None and not self.refused:
            event = self.event  # before the clock is read: who sets the clock sets the event
            left = None if deadline is None else deadline - self.dispatcher.stopwatch()
            if left is not None and left <= 0:
                if standing := self.dispatcher.standing_of(self):
                    raise self.dispatcher.family.httpcore.PoolTimeout(errors.no_socket(self, standing))
            elif looks_for_lost:
                looks_for_lost = False
                yield Wait(event, LOST_AFTER if left is None else min(left, LOST_AFTER))
                if self.grant is None and not self.refused:
                    self.dispatcher.find_lost(self)
            else:
                yield Wait(event, left)

    def _accept(self, response: Any) -> list[Socket]:
        """Makes the response ours; gives the sockets that are to be closed for that."""
        socket, grant = self.socket, self.grant
        assert socket is not None
        assert grant is not None
        if not socket.was_used():  # a mock answered in the connection's place; its response stays as it made it
            return self._release(complete=True, reusable=False)
        self.response_began = True
        self.arrived = socket.connection.arrived
        socket.note_response(response)
        status, method = response.status, self.request.method
        if method == b"HEAD" or status == 204 or status == 304:
            self._has_no_body = True
        self._hint = read_keep_alive_hint(response.headers)
        response.extensions["agent"] = RequestInfo(
            socket_id=grant.socket,
            reused=grant.requests_on_socket > 1,
            requests_on_socket=grant.requests_on_socket,
            queued_for=grant.queued_for,
            idle_for=grant.idle_for,
            retried=self.retried,
        )
        if status == 101 or (method == b"CONNECT" and 200 <= status < 300):
            self.detached = True
            return self.dispatcher.detach(self)
        return []

    def _release(self, *, complete: bool, reusable: bool) -> list[Socket]:
        """The response is over; gives the sockets that are to be closed for that."""
        return self.dispatcher.release(
            self, reusable=reusable and not self.detached, complete=complete, hint=self._hint
        )

    def _fail(self, error: BaseException) -> Flow[None]:
        """Ends the request, in whatever state it is."""
        socket = self.socket
        if self.started and socket is not None:
            httpcore = self.dispatcher.family.httpcore
            timed_out = isinstance(error, httpcore.TimeoutException)
            is_error = timed_out or (isinstance(error, Exception) and not socket.wire.ended)
            if isinstance(error, Exception):  # in the sync world Python's `ssl` tells a reset as an end, so both count
                self.dispatcher.connector.sessions.evict(self.key)
            closing = self.dispatcher.release(
                self,
                reusable=False,
                complete=False,
                error=is_error,
                timed_out=timed_out,
                unheard=socket.wire.received == self._came_before,
                ended=socket.wire.ended,
                hint=None,
            )
        else:
            closing = self.dispatcher.withdraw(self)
        yield from self.dispatcher.settle(self.home, closing)

    # Deciding ---------------------------------------------------------------------------------------------------------

    def _prepare_request(self) -> None:
        """What the agent changes in a request: mostly by its options."""
        request = self.request
        options = self.dispatcher.options_for(self.key)
        timeout = request.extensions.get("timeout", {})
        default = options.timeout
        if default is not None:
            replaces_none = None in timeout.values() and self.dispatcher.is_given("timeout", self.key)
            if replaces_none or not timeout.keys() >= _LIMITED:
                missing = [n for n in _LIMITED if n not in timeout or (replaces_none and timeout[n] is None)]
                timeout = {**timeout, **dict.fromkeys(missing, default)}
                request.extensions = {**request.extensions, "timeout": timeout}
        if "%" in self.key.host:
            request.headers = [
                (name, _ZONE.sub(b"", value) if name.lower() == b"host" else value) for name, value in request.headers
            ]
        if not options.keep_alive and options.max_sockets is None:  # R13
            request.headers = [
                (name, b"close" if name.lower() == b"connection" and value.lower() == b"keep-alive" else value)
                for name, value in request.headers
            ]

    def _prepare_socket(self) -> Socket:
        socket = self.socket
        assert socket is not None
        if socket.connection is None:
            socket.connection = self.dispatcher.connector.connection(socket.key, socket.wire, self.home)
            if self.session_refused:
                socket.may_resume = False
        if not socket.multiplexed:
            socket.wire.begin_request()
        self._came_before = socket.wire.received
        return socket

    def _is_dead(self, socket: Socket) -> bool:
        """Whether a socket that served before cannot serve now (N8, N16). One poll; none for a new socket."""
        grant = self.grant
        assert grant is not None
        if grant.requests_on_socket == 1:
            return False
        connection: Connection = socket.connection
        return connection.is_dead(shared=socket.multiplexed and grant.idle_for is None)

    def judge(self, error: BaseException) -> tuple[Loss, Verdict] | None:
        """Return how an error cost the request its connection, and whether it is sent again.

        Returns:
            ``None`` if it failed in another way, or because the agent closed its socket.
        """
        socket = self.socket
        if socket is None or self.refused or socket.wire.broken:
            return None
        loss = self._loss_in(error)
        if loss is None:
            return None
        facts = Facts(
            is_idempotent=is_idempotent(self.request.method, self.request.headers),
            is_replayable=self._has_replayable_body(),
            wrote=socket.wire.wrote,
            was_resent=self.retried,
            goaways=self.goaways,
            is_allowed=self.dispatcher.options.retry_stale_sockets,
        )
        return loss, judge(loss, facts)

    def _loss_in(self, error: BaseException) -> Loss | None:
        """Return how the request lost its connection, if the error says nothing about the request itself."""
        if self._is_unprocessed(error):
            return Loss.UNPROCESSED
        if self._is_closed_unanswered(error):
            return Loss.CLOSED_UNANSWERED
        if self._is_session_refused(error):
            return Loss.SESSION_REFUSED
        return Loss.STALE if self._is_stale(error) else None

    def _may_make_room(self, error: Exception) -> bool:
        """Whether a new socket could not be opened, once, because no descriptor was left."""
        socket = self.socket
        assert socket is not None
        if self.made_room or self.refused or socket.wire.broken or socket.usable or socket.wire.wrote:
            return False
        return is_out_of_descriptors(error)

    def _is_stale(self, error: BaseException) -> bool:
        """Whether an error means that a used socket was dead: not one byte of a response came."""
        httpcore = self.dispatcher.family.httpcore
        grant, socket = self.grant, self.socket
        return (
            grant is not None
            and socket is not None
            and grant.requests_on_socket > 1
            and not socket.wire.received
            and isinstance(error, (httpcore.ReadError, httpcore.WriteError, httpcore.RemoteProtocolError))
        )

    def _is_session_refused(self, error: BaseException) -> bool:
        """Whether the server resumed a TLS session, and then ended the connection with an alert before any response.

        A server of TLS 1.3 may check the client after the handshake, as far as the client can see that.
        """
        socket = self.socket
        assert socket is not None
        return (
            socket.has_resumed
            and socket.request_count == 1
            and not socket.wire.received
            and any(_is_alert(found) for found in walk_causes(error))
        )

    def _is_unprocessed(self, error: BaseException) -> bool:
        """Return whether an error means that the server did nothing about the request (RFC 9113, 6.8)."""
        event = self._event_in(error)
        if _is_goaway_event(event):
            return bool(event.last_stream_id == 0)  # which httpcore does not look at
        return isinstance(error, self.dispatcher.family.httpcore.ConnectionNotAvailable)

    def _is_closed_unanswered(self, error: BaseException) -> bool:
        """Return whether the server closed an HTTP/2 connection before it answered: by a GOAWAY, or without a word."""
        httpcore = self.dispatcher.family.httpcore
        grant, socket = self.grant, self.socket
        if grant is None or socket is None or self.response_began:
            return False
        event = self._event_in(error)
        if event is not None:
            return _is_goaway_event(event)
        is_broken = isinstance(error, (httpcore.ReadError, httpcore.WriteError, httpcore.RemoteProtocolError))
        return is_broken and socket.multiplexed and socket.request_count > 1

    def _event_in(self, error: BaseException) -> Any:
        """h2's event, if httpcore raised one: for a stream that was reset, or might still have been answered."""
        if not isinstance(error, self.dispatcher.family.httpcore.RemoteProtocolError):
            return None
        return next((part for part in error.args if not isinstance(part, (str, Exception))), None)

    def _has_replayable_body(self) -> bool:
        """Whether the body can be sent again: none, bytes, or multipart of bytes and seekable files."""
        stream = self.request.stream
        if isinstance(stream, self.dispatcher.family.httpx.ByteStream):
            return True
        fields = getattr(stream, "fields", None)  # httpx's multipart stream; its class is private
        return isinstance(fields, list) and all(_is_replayable_file(getattr(field, "file", b"")) for field in fields)


def _caller() -> str:
    """The line outside of the libraries that made the request."""
    frame = sys._getframe()
    while frame.f_globals.get("__name__", "").partition(".")[0] in LIBRARIES and frame.f_back is not None:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _is_goaway_event(event: Any) -> bool:
    return type(event).__name__ == "ConnectionTerminated"


def _is_alert(error: BaseException) -> bool:
    """Whether an error tells of a TLS alert; Python says so in words only."""
    return isinstance(error, ssl.SSLError) and "ALERT" in str(getattr(error, "reason", ""))


def _is_replayable_file(file: Any) -> bool:
    return isinstance(file, (str, bytes)) or (hasattr(file, "seekable") and file.seekable())
