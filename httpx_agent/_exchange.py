"""One request from its arrival to the end of its response, written once for both worlds as flows (see `_steps`)."""

from __future__ import annotations

import re
import ssl
import sys
from threading import get_ident
from typing import TYPE_CHECKING, Any

from . import _errors
from ._causes import walk_causes
from ._descriptors import is_out_of_descriptors
from ._sessions import SessionRefused
from ._socket import keep_open
from ._status import RequestInfo
from ._steps import BeginAnew, CloseStream, Drain, Send, Wait

if TYPE_CHECKING:
    from ._connector import Key
    from ._core import Grant
    from ._engine import Engine, Owner
    from ._homes import Home
    from ._socket import Socket
    from ._steps import Flow

#: RFC 9110, 9.2.2.
IDEMPOTENT_METHODS = frozenset({b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"TRACE"})

#: Headers by which a client says that a request may be sent twice.
IDEMPOTENCY_KEYS = frozenset({b"idempotency-key", b"x-idempotency-key"})

#: So often a request moves on from HTTP/2 connections that their servers close: it may be unlucky many times in a row.
MAX_GOAWAYS = 20

#: Between a request's caller and here, as far as is known.
LIBRARIES = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", __name__.partition(".")[0]})

#: What `timeout` limits of a request.
_LIMITED = frozenset({"connect", "read", "write"})

#: In a `Host` header, the zone of an IPv6 address, which means something on this machine only (RFC 6874, 4).
_ZONE = re.compile(rb"%[^]]*(?=])")

#: Node reads the header only if it begins so (R15).
_HINT = re.compile(rb"timeout=(\d+)")


class Exchange:
    """A request and what becomes of it.

    Args:
        engine: The agent's engine.
        home: Where it was made.
        key: What it needs a socket for.
        request: httpcore's request.
        pool: By which it was made.
    """

    # Most requests leave these as they are.
    number = -1
    grant: Grant | None = None
    socket: Socket | None = None
    owner: Owner | None = None  # has its response
    event: Any = None  # set when a grant or a refusal came; exists while it waits
    queued = False  # found no socket when it came, and has none yet
    started = False  # something may have been sent
    retried = False
    made_room = False  # closed the agent's free sockets, because no descriptor was left
    goaways = 0  # so many connections were closed to it
    session_refused = False  # the server ended a connection that had resumed a TLS session
    refused = False  # the agent was closed
    answered = False  # its response began
    detached = False
    abandoned = False  # its caller dropped it; it is over soon
    over = False
    ended_in_order = False  # and all that comes of that is done
    cut_short = False  # its response was closed before all of it had been read
    asked_for_at: str | None = None
    _has_no_body = False  # its response has none, by rule
    _hint: float | None = None
    _came_before: int = 0  # what its socket had received when this was sent: not nothing, where others share it

    def __init__(self, engine: Engine, home: Home, key: Key, request: Any, pool: object) -> None:
        self.engine = engine
        self.home = home
        self.key = key
        self.request = request
        self.pool = pool
        self.thread = get_ident()
        self.submitted = engine.stopwatch()
        self.due: list[Socket] = []  # to be closed in its home before it goes on
        if engine.options.debug:
            self.asked_for_at = _caller()
        self._prepare_request()

    @property
    def title(self) -> str:
        """Method and origin, as messages name it: no path, no query, nothing secret."""
        return f"{self.request.method.decode('ascii', errors='replace')} {self.key.origin}"

    @property
    def is_shared(self) -> bool:
        """Whether other requests use its socket at the same time."""
        return self.socket is not None and self.socket.multiplexed

    # Flows ------------------------------------------------------------------------------------------------------------

    def send(self) -> Flow[Any]:
        """Gets a socket, sends the request, gives the response; all that it began is ended if it fails."""
        engine = self.engine
        try:
            closing = engine.submit(self)
            if closing:
                yield from engine.settle(self.home, closing)
            while True:
                if self.grant is None:
                    yield from self._wait()
                if self.refused:
                    raise engine.family.httpcore.ConnectError(_errors.CLOSED)
                socket = self._prepare_socket()
                self.started = True  # from here on no other may have the socket, unless all goes well
                if self._is_dead(socket):
                    closing = engine.replace(self)
                    self.started = False
                    yield from engine.settle(self.home, closing)
                    continue
                try:
                    response = yield Send(socket.connection, self.request)
                except SessionRefused:
                    yield BeginAnew(socket)
                    continue
                except Exception as error:
                    if self._is_session_refused(error):
                        self.session_refused = True
                        socket.refuse_session()
                    again = self._may_send_again(error)
                    if again:
                        self.retried = True
                    elif self._may_make_room(error):
                        self.made_room = True
                        yield from engine.settle(self.home, engine.close_free_sockets(self))
                    else:
                        raise
                    leaving = self.is_goaway(error)
                    self.goaways += leaving
                    is_error = not leaving and not socket.wire.ended
                    closing = engine.replace(self, fresh=True, again=again, error=is_error)
                    self.started = False
                    yield from engine.settle(self.home, closing)
                    continue
                closing = self._accept(response)
                if closing:
                    yield from engine.settle(self.home, closing)
                return response
        except GeneratorExit:
            engine.abandon(self)
            raise
        except BaseException as error:
            explained = _errors.explain(error, self)
            yield from self._fail(error)
            if explained is error:
                raise
            raise explained from _errors.cause_of(error, self)

    def read(self, stream: Any) -> Flow[None] | None:
        """The response was read to its end: the socket is free for the next request (R7, R12).

        Gives what is left to do, if anything that waits is.
        """
        close_now = getattr(stream, "close_now", None)
        if close_now is None:
            return self._read(stream)
        close_now()
        closing = self._finish(complete=True)  # the connection tells whether it came to rest
        return self.engine.settle(self.home, closing) if closing else None

    def _read(self, stream: Any) -> Flow[None]:
        interruption = yield from self._close_stream(stream)
        yield from self.engine.settle(self.home, self._finish(complete=True, interrupted=interruption is not None))
        if interruption is not None:
            raise interruption

    def fail(self, stream: Any, error: BaseException) -> Flow[BaseException]:
        """Reading the response failed; gives the error to raise."""
        explained = _errors.explain(error, self)
        interruption = yield from self._close_stream(stream)
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
        interruption = (yield from self._close_stream(stream)) or interruption
        interrupted = interruption is not None
        yield from self.engine.settle(self.home, self._finish(complete=complete, interrupted=interrupted))
        if interruption is not None:
            raise interruption

    def _close_stream(self, stream: Any) -> Flow[BaseException | None]:
        """Closes a response's stream; gives what interrupted it, to be raised once the books are closed."""
        close_now = getattr(stream, "close_now", None)
        if close_now is not None:  # nothing in it waits
            close_now()
            return None
        try:
            yield CloseStream(stream)
        except GeneratorExit:
            raise
        except BaseException as error:
            return error
        return None

    def check_process(self) -> None:
        """Raises in a forked child, where nothing would ever be heard of the parent's event loop."""
        if self.socket is not None and self.socket.wire.inherited:
            raise _errors.explain(self.engine.family.httpcore.ReadError(), self)

    def _wait(self) -> Flow[None]:
        """Waits for a socket, until one absolute deadline."""
        timeout = self.request.extensions.get("timeout", {}).get("pool")
        deadline = None if timeout is None else self.submitted + timeout
        if not self.home.is_async:
            self.engine.find_lost(self)
        while self.grant is None and not self.refused:
            event = self.event  # before the clock is read: who sets the clock sets the event
            left = None if deadline is None else deadline - self.engine.stopwatch()
            if left is None or left > 0:
                yield Wait(event, left)
            elif reason := self.engine.why_waiting(self):
                raise self.engine.family.httpcore.PoolTimeout(reason)

    def _accept(self, response: Any) -> list[Socket]:
        """Makes the response ours; gives the sockets that are to be closed for that."""
        socket, grant = self.socket, self.grant
        assert socket is not None
        assert grant is not None
        if not socket.was_used():  # a mock answered in the connection's place; its response stays as it made it
            return self._finish(complete=True)
        self.answered = True
        socket.answered(response)
        status, method = response.status, self.request.method
        if method == b"HEAD" or status == 204 or status == 304:
            self._has_no_body = True
        if response.extensions["http_version"] == b"HTTP/1.0":
            keep_open(socket.connection, self.request, response, has_no_body=self._has_no_body)
        self._hint = _read_hint(response.headers)
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
            return self.engine.detach(self)
        return []

    def _finish(self, *, complete: bool, interrupted: bool = False) -> list[Socket]:
        """The response is over; gives the sockets that are to be closed for that.

        A connection that was interrupted while it came to rest may say that it has, and not be whole.
        """
        socket = self.socket
        assert socket is not None
        reusable = complete and not interrupted and not self.detached and socket.is_reusable()
        return self.engine.release(self, reusable=reusable, complete=complete, hint=self._hint)

    def _fail(self, error: BaseException) -> Flow[None]:
        """Ends the request, in whatever state it is."""
        socket = self.socket
        if self.started and socket is not None:
            httpcore = self.engine.family.httpcore
            timed_out = isinstance(error, httpcore.TimeoutException)
            is_error = timed_out or (isinstance(error, Exception) and not socket.wire.ended)
            if isinstance(error, Exception):  # in the sync world Python's `ssl` tells a reset as an end, so both count
                self.engine.connector.sessions.evict(self.key)
            closing = self.engine.release(
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
            closing = self.engine.withdraw(self)
        yield from self.engine.settle(self.home, closing)

    # Deciding ---------------------------------------------------------------------------------------------------------

    def _prepare_request(self) -> None:
        """What the agent changes in a request: mostly by its options."""
        request = self.request
        options = self.engine.options_for(self.key)
        timeout = request.extensions.get("timeout", {})
        default = options.timeout
        if default is not None:
            replaces_none = None in timeout.values() and self.engine.is_given("timeout", self.key)
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
            socket.connection = self.home.connect(self.engine, socket)
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
        if socket.multiplexed and grant.idle_for is None:  # others use it: what can be read is theirs
            return socket.wire.is_leaving or not socket.connection.is_available()
        return socket.wire.ended or socket.must_step_aside() or socket.wire.is_readable()

    def _may_send_again(self, error: Exception) -> bool:
        """Go's rules, for a socket that turned out dead and for one that takes no more requests."""
        socket = self.socket
        assert socket is not None
        if self.refused or socket.wire.broken:
            return False
        if self.is_goaway(error):
            if self.goaways == MAX_GOAWAYS or not (self.is_idempotent() or self.is_unprocessed(error)):
                return False
            return not socket.wire.wrote or self.has_replayable_body()
        if self.retried:
            return False
        if not (self.session_refused or self.is_stale(error)) or not self.engine.options.retry_stale_sockets:
            return False
        return not socket.wire.wrote or (self.is_idempotent() and self.has_replayable_body())

    def _may_make_room(self, error: Exception) -> bool:
        """Whether a new socket could not be opened, once, because no descriptor was left."""
        socket = self.socket
        assert socket is not None
        if self.made_room or self.refused or socket.wire.broken or socket.usable or socket.wire.wrote:
            return False
        return is_out_of_descriptors(error)

    def is_stale(self, error: BaseException) -> bool:
        """Whether an error means that a used socket was dead: not one byte of a response came."""
        httpcore = self.engine.family.httpcore
        grant, socket = self.grant, self.socket
        return (
            grant is not None
            and socket is not None
            and grant.requests_on_socket > 1
            and not socket.wire.received
            and isinstance(error, (httpcore.ReadError, httpcore.WriteError, httpcore.RemoteProtocolError))
        )

    def _is_session_refused(self, error: Exception) -> bool:
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

    def is_unprocessed(self, error: BaseException) -> bool:
        """Whether an error means that the server did nothing about the request (RFC 9113, 6.8)."""
        event = self._event_in(error)
        if _is_goaway_event(event):
            return bool(event.last_stream_id == 0)  # which httpcore does not look at
        return isinstance(error, self.engine.family.httpcore.ConnectionNotAvailable)

    def is_goaway(self, error: BaseException) -> bool:
        """Whether an error means that an HTTP/2 connection is closed by its server, before this request's answer.

        The server may say so, or just close a connection that was shared.
        """
        httpcore = self.engine.family.httpcore
        if self.is_unprocessed(error):
            return True
        grant, socket = self.grant, self.socket
        if grant is None or socket is None or self.answered:
            return False
        event = self._event_in(error)
        if event is not None:
            return _is_goaway_event(event)
        is_broken = isinstance(error, (httpcore.ReadError, httpcore.WriteError, httpcore.RemoteProtocolError))
        return is_broken and socket.multiplexed and socket.request_count > 1

    def _event_in(self, error: BaseException) -> Any:
        """h2's event, if httpcore raised one: for a stream that was reset, or might still have been answered."""
        if not isinstance(error, self.engine.family.httpcore.RemoteProtocolError):
            return None
        return next((part for part in error.args if not isinstance(part, (str, Exception))), None)

    def is_idempotent(self) -> bool:
        """Whether sending the request twice means the same as once."""
        return self.request.method in IDEMPOTENT_METHODS or any(
            name.lower() in IDEMPOTENCY_KEYS for name, _ in self.request.headers
        )

    def has_replayable_body(self) -> bool:
        """Whether the body can be sent again: none, bytes, or multipart of bytes and seekable files."""
        stream = self.request.stream
        if isinstance(stream, self.engine.family.httpx.ByteStream):
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


def _read_hint(headers: list[tuple[bytes, bytes]]) -> float | None:
    """What `Keep-Alive: timeout=` says, in seconds; read as Node does (R15)."""
    values = []
    for name, value in headers:
        if len(name) == len(b"keep-alive") and name.lower() == b"keep-alive":
            values.append(value)
    found = _HINT.match(b", ".join(values)) if values else None
    return float(found[1]) if found else None
