"""One request, from its arrival to the end of its response.

`Exchange` reads from top to bottom, in the order of a request's life:

1. `send` gets a socket, sends the request and returns the response. If the socket turns out to be dead and the request
   may be sent again, it goes on with another socket.
2. When the body has been read to its end, `read` releases the socket. If reading fails, `fail` ends the request; if the
   response is closed, `close` does.
3. `_finish` and `_fail` do the work of ending a request, where more is to be done than to release its socket.

These are flows, written once for threads and event loops (see `_runtime.flows`). Below them, `loss_and_verdict`
decides what an error means and whether to send the request again.
"""

from __future__ import annotations

import re
import ssl
import sys
from typing import TYPE_CHECKING, Any

from .._network.descriptor_limit import is_out_of_descriptors
from .._network.sessions import SessionRefused
from .._protocol.http1 import read_keep_alive_hint
from .._rules.resend import Facts, Loss, Verdict, is_idempotent, judge
from .._runtime.causes import walk_causes
from .._runtime.flows import Wait
from .._values.status import RequestInfo
from . import errors
from .steps import CloseStream, Drain, PrepareReopening, Send
from .ticket import Ticket

if TYPE_CHECKING:
    from .._connection.interface import Connection
    from .._runtime.flows import Flow
    from .._runtime.homes import Home
    from .._values.origins import Key
    from .dispatcher import Dispatcher
    from .socket import Socket

#: Seconds that a request waits before its thread looks for responses that it has lost. The search may run the garbage
#: collector, which can take as long as this.
LOST_AFTER = 1.0

#: Packages whose frames on the call stack lie between the user's line and this module.
LIBRARIES = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", __name__.partition(".")[0]})

#: The phases of a request that the agent's option `timeout` limits.
_LIMITED = frozenset({"connect", "read", "write"})

#: The zone of an IPv6 address in a `Host` header. It has a meaning on this machine only (RFC 6874, 4).
_ZONE = re.compile(rb"%[^]]*(?=])")


class Exchange(Ticket):
    """A request and the flows that carry it through.

    Args:
        dispatcher: The agent's dispatcher.
        home: The home in which it was made.
        key: The key of the sockets that it can use.
        request: httpcore's request.
        pool: The pool that made it.
    """

    # Most requests keep these defaults.
    retried = False  # it was sent again
    made_room = False  # it had all free sockets closed, because no descriptor was left
    goaways = 0  # number of HTTP/2 connections that their servers closed before answering it
    session_refused = False  # the server ended a connection that had resumed a TLS session
    response_began = False  # the head of its response has arrived
    arrived: list[bytes] | tuple[()] = ()  # parts of the body that arrived with the head; see `Connection`
    cut_short = False  # its response was closed before all of it had been read
    _has_no_body = False  # its response can have no body, by the rules of HTTP
    _hint: float | None = None  # the server's hint, in seconds
    # Number of bytes that its socket had received when it was sent. Not zero where requests share a connection.
    _came_before: int = 0

    def __init__(self, dispatcher: Dispatcher, home: Home, key: Key, request: Any, pool: object) -> None:
        super().__init__(home, key, request, pool, dispatcher.stopwatch())
        self.dispatcher = dispatcher
        if dispatcher.options.debug:
            self.asked_for_at = _caller()
        self._prepare_request()

    @property
    def is_shared(self) -> bool:
        """Whether other requests may use its socket at the same time."""
        return self.socket is not None and self.socket.multiplexed

    def _prepare_request(self) -> None:
        """Make the agent's changes to the request, most of which depend on its options."""
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

    # Sending ----------------------------------------------------------------------------------------------------------

    def send(self) -> Flow[Any]:
        """Get a socket, send the request and return the response. On failure, end everything that was begun."""
        dispatcher = self.dispatcher
        try:
            closing = dispatcher.submit(self)
            if closing:
                yield from dispatcher.close_sockets(self.home, closing)
            while True:
                if self.grant is None:
                    yield from self._wait()
                if self.refused:
                    raise dispatcher.family.httpcore.ConnectError(errors.CLOSED)
                socket = self._prepare_socket()
                self.started = True  # from here on, no other request may have the socket unless all goes well
                if self._is_dead(socket):  # before anything is sent, so any request can go on with another socket
                    closing = dispatcher.replace(self)
                    self.started = False
                    yield from dispatcher.close_sockets(self.home, closing)
                    continue
                try:
                    response = yield Send(socket.connection, self.request)  # opens the socket first, if it is new
                except SessionRefused:  # a handshake failed because of the TLS session it offered: do it without
                    yield PrepareReopening(socket)
                    continue
                except Exception as error:
                    loss, verdict = self.loss_and_verdict(error) or (None, None)
                    if loss is Loss.SESSION_REFUSED:
                        self.session_refused = True
                        socket.refuse_session()
                    # Go on with a new socket if the request may be sent again, or if room can be made to open one.
                    again = verdict is Verdict.RESEND
                    if again:
                        self.retried = True
                    elif self._may_make_room(error):
                        self.made_room = True
                        yield from dispatcher.close_sockets(self.home, dispatcher.make_room(self))
                    else:
                        raise
                    leaving = loss is not None and loss.is_http2
                    self.goaways += leaving
                    is_error = not leaving and not socket.wire.ended
                    closing = dispatcher.replace(self, fresh=True, again=again, error=is_error)
                    self.started = False
                    yield from dispatcher.close_sockets(self.home, closing)
                    continue
                closing = self._accept(response)
                if closing:
                    yield from dispatcher.close_sockets(self.home, closing)
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

    def _wait(self) -> Flow[None]:
        """Wait for a socket, until a single deadline however often the request is woken."""
        timeout = self.request.extensions.get("timeout", {}).get("pool")
        deadline = None if timeout is None else self.submitted + timeout
        looks_for_lost = not self.home.is_async
        while self.grant is None and not self.refused:
            event = self.event  # read before the clock, because a change of the clock sets the event
            left = None if deadline is None else deadline - self.dispatcher.stopwatch()
            if left is not None and left <= 0:
                if standing := self.dispatcher.standing_of(self):
                    raise self.dispatcher.family.httpcore.PoolTimeout(errors.pool_timeout_text(self, standing))
            elif looks_for_lost:
                looks_for_lost = False
                yield Wait(event, LOST_AFTER if left is None else min(left, LOST_AFTER))
                if self.grant is None and not self.refused:
                    self.dispatcher.find_lost(self)
            else:
                yield Wait(event, left)

    def _prepare_socket(self) -> Socket:
        """Make the request's socket ready to send on, with a connection if it is new."""
        socket = self.socket
        assert socket is not None
        if socket.connection is None:
            socket.connection = self.dispatcher.factory.connection(socket.key, socket.wire, self.home)
            if self.session_refused:
                socket.may_resume = False
        if not socket.multiplexed:
            socket.wire.begin_request()
        self._came_before = socket.wire.received
        return socket

    def _is_dead(self, socket: Socket) -> bool:
        """Return whether a socket that has served before can serve no more (N8, N16).

        This costs one poll, or nothing for a new socket.
        """
        grant = self.grant
        assert grant is not None
        if grant.requests_on_socket == 1:
            return False
        connection: Connection = socket.connection
        return connection.is_dead(shared=socket.multiplexed and grant.idle_for is None)

    def _accept(self, response: Any) -> list[Socket]:
        """Take in the head of the response; return the sockets to close as a consequence."""
        socket, grant = self.socket, self.grant
        assert socket is not None
        assert grant is not None
        if not socket.was_used():  # a mock answered instead of the connection: leave its response as it is
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

    # The body ---------------------------------------------------------------------------------------------------------

    def read(self, stream: Any) -> Flow[None] | None:
        """Release the socket for the next request, because the response was read to its end (R7, R12).

        Returns:
            A flow that does the rest, if anything that can block is left to do.
        """
        socket = self.socket
        assert socket is not None
        reusable = socket.connection.end_now(stream)
        if reusable is None:
            return self._finish(stream, complete=True)
        closing = self._release(complete=True, reusable=reusable)
        return self.dispatcher.close_sockets(self.home, closing) if closing else None

    def fail(self, stream: Any, error: BaseException) -> Flow[BaseException]:
        """End the request because reading its response failed; return the error to raise."""
        explained = errors.explain(error, self)
        _, interruption = yield from self._end_response(stream, complete=False)
        yield from self._fail(error)
        if interruption is not None:
            raise interruption
        return explained

    def begin_close(self) -> None:
        """Note that the response is about to be closed. Call this before its reader can see that it is closed."""
        self.cut_short = not (self.over or self.detached)

    def close(self, stream: Any, *, is_read: bool) -> Flow[None]:
        """Close the response. Before its end, this costs the socket (R23), unless the rest has already arrived.

        Args:
            stream: The body.
            is_read: Whether another task or thread is waiting for more of the body. Two readers cannot share the bytes,
                so do not look for the rest then: close the socket, which wakes the other reader.
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

    def check_process(self) -> None:
        """Raise an error in a forked child, where the parent's event loop will never report anything."""
        if self.socket is not None and self.socket.wire.inherited:
            raise errors.explain(self.dispatcher.family.httpcore.ReadError(), self)

    # Ending -----------------------------------------------------------------------------------------------------------

    def _finish(self, stream: Any, *, complete: bool, interruption: BaseException | None = None) -> Flow[None]:
        """End the response, then the request. Raise an interruption only after the request is over.

        Do not reuse the socket after an interruption: the connection may report that it is ready and still be broken.
        """
        reusable, found = yield from self._end_response(stream, complete=complete)
        interruption = found or interruption
        closing = self._release(complete=complete, reusable=reusable and complete and interruption is None)
        yield from self.dispatcher.close_sockets(self.home, closing)
        if interruption is not None:
            raise interruption

    def _end_response(self, stream: Any, *, complete: bool) -> Flow[tuple[bool, BaseException | None]]:
        """End the response; return whether its connection is fit for another request, and any interruption."""
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

    def _release(self, *, complete: bool, reusable: bool) -> list[Socket]:
        """End the request after its response; return the sockets to close as a consequence."""
        return self.dispatcher.release(
            self, reusable=reusable and not self.detached, complete=complete, hint=self._hint
        )

    def _fail(self, error: BaseException) -> Flow[None]:
        """End the request because of an error, in whatever state it is."""
        socket = self.socket
        if self.started and socket is not None:
            httpcore = self.dispatcher.family.httpcore
            timed_out = isinstance(error, httpcore.TimeoutException)
            is_error = timed_out or (isinstance(error, Exception) and not socket.wire.ended)
            # Whether the connection ended or was reset makes no difference: in the sync world, Python's `ssl` reports a
            # reset as an end.
            if isinstance(error, Exception):
                self.dispatcher.factory.sessions.evict(self.key)
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
        yield from self.dispatcher.close_sockets(self.home, closing)

    # Judging an error -------------------------------------------------------------------------------------------------

    def loss_and_verdict(self, error: BaseException) -> tuple[Loss, Verdict] | None:
        """Return how an error cost the request its connection, and whether the request is sent again.

        Returns:
            ``None`` if the request failed in another way, or because the agent closed its socket.
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

    def _is_unprocessed(self, error: BaseException) -> bool:
        """Return whether an error means that the server did nothing about the request (RFC 9113, 6.8)."""
        event = self._event_in(error)
        if _is_goaway_event(event):
            return bool(event.last_stream_id == 0)  # httpcore does not check this
        return isinstance(error, self.dispatcher.family.httpcore.ConnectionNotAvailable)

    def _is_closed_unanswered(self, error: BaseException) -> bool:
        """Return whether the server closed an HTTP/2 connection before it answered, with or without a GOAWAY."""
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
        """Return h2's event if httpcore raised one: its stream was reset, or might still have been answered."""
        if not isinstance(error, self.dispatcher.family.httpcore.RemoteProtocolError):
            return None
        return next((part for part in error.args if not isinstance(part, (str, Exception))), None)

    def _is_session_refused(self, error: BaseException) -> bool:
        """Return whether the server resumed a TLS session, then ended the connection with an alert before any response.

        In TLS 1.3 this can happen because a server may check the client after what the client sees as the handshake.
        """
        socket = self.socket
        assert socket is not None
        return (
            socket.has_resumed
            and socket.request_count == 1
            and not socket.wire.received
            and any(_is_alert(found) for found in walk_causes(error))
        )

    def _is_stale(self, error: BaseException) -> bool:
        """Return whether an error means that a reused socket was dead: not one byte of a response came."""
        httpcore = self.dispatcher.family.httpcore
        grant, socket = self.grant, self.socket
        return (
            grant is not None
            and socket is not None
            and grant.requests_on_socket > 1
            and not socket.wire.received
            and isinstance(error, (httpcore.ReadError, httpcore.WriteError, httpcore.RemoteProtocolError))
        )

    def _has_replayable_body(self) -> bool:
        """Return whether the body can be sent again: it is empty, bytes, or multipart of bytes and seekable files."""
        stream = self.request.stream
        if isinstance(stream, self.dispatcher.family.httpx.ByteStream):
            return True
        fields = getattr(stream, "fields", None)  # httpx's multipart stream; its class is private
        return isinstance(fields, list) and all(_is_replayable_file(getattr(field, "file", b"")) for field in fields)

    def _may_make_room(self, error: Exception) -> bool:
        """Return whether to close free sockets because no descriptor was left to open a new one. Do so only once."""
        socket = self.socket
        assert socket is not None
        if self.made_room or self.refused or socket.wire.broken or socket.usable or socket.wire.wrote:
            return False
        return is_out_of_descriptors(error)


def _caller() -> str:
    """Return the user's line that made the request, as ``file:line``: the nearest one outside the libraries."""
    frame = sys._getframe()
    while frame.f_globals.get("__name__", "").partition(".")[0] in LIBRARIES and frame.f_back is not None:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _is_goaway_event(event: Any) -> bool:
    return type(event).__name__ == "ConnectionTerminated"


def _is_alert(error: BaseException) -> bool:
    """Return whether an error reports a TLS alert. Python tells only by its text."""
    return isinstance(error, ssl.SSLError) and "ALERT" in str(getattr(error, "reason", ""))


def _is_replayable_file(file: Any) -> bool:
    return isinstance(file, (str, bytes)) or (hasattr(file, "seekable") and file.seekable())
