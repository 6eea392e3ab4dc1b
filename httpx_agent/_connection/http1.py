"""The common part of the two fast HTTP/1.1 connections: their state, their opening, and their trace events.

They replace httpcore's `HTTPConnection` and `AsyncHTTPConnection` for requests without a proxy, and have the same
interface besides that of `Connection`.

A request with trace events takes a separate path, written once for both worlds (see `_runtime/flows.py`): it is slow
anyway.
"""

from __future__ import annotations

import itertools
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Any

from .._protocol.http1 import Incoming, Outgoing
from .._runtime.flows import Call
from .trace import Trace, logger_of, trace_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from .._network.wire import Wire
    from .._protocol.http1 import Fields, RecentFields
    from .._runtime.flows import Flow, Step
    from .._values.options import AgentOptions
    from .._values.origins import Key


class Phase(Enum):
    """The phases of a connection's life."""

    NEW = "new"
    ACTIVE = "active"
    IDLE = "idle"
    CLOSED = "closed"


class Response:
    """An equivalent of httpcore's `Response` without its constructor's checks, which the parser has already made.

    Args:
        status: The status code.
        headers: Name and value of each field.
        stream: The body.
        extensions: Additional information.
    """

    def __init__(
        self, status: int, headers: list[tuple[bytes, bytes]], stream: Any, extensions: dict[str, Any]
    ) -> None:
        self.status = status
        self.headers = headers
        self.stream = stream
        self.extensions = extensions
        self._stream_consumed = False  # used by httpcore's own methods


class Http1Connection:
    """An HTTP/1.1 connection with one server. It connects when it gets its first request.

    Args:
        key: The key of the socket: the origin and server name to connect to.
        wire: The socket's wire, which records writes, reads, and the end.
        backend: The backend that opens the stream.
        options: The agent's options.
        ssl_context: For https.
        recent: The header fields last sent by any connection of the agent; connections share equal ones.
    """

    is_async: bool
    arrived: list[bytes] | tuple[()] = ()
    _trace: Trace | None = None  # of the request in flight

    def __init__(
        self,
        key: Key,
        wire: Wire,
        backend: Any,
        options: AgentOptions,
        ssl_context: ssl.SSLContext | None,
        recent: RecentFields,
    ) -> None:
        self.wire = wire
        self.httpcore = httpcore = wire.family.httpcore
        self.phase = Phase.NEW
        self._key = key
        self._backend: Any = backend
        self._options = options
        self._ssl_context = ssl_context
        self._recent = recent
        self._response = wire.family.dress(Response, "Response")
        self._plain_body = wire.family.httpx.ByteStream
        self._log = logger_of(httpcore.__name__, "http11")
        self._fields: Fields | None = None  # of the previous request
        self._outgoing: Outgoing | None = None
        self._incoming: Incoming | None = None
        self._is_sent = False
        self._has_failed = False

    # httpcore's interface ---------------------------------------------------------------------------------------------

    def can_handle_request(self, origin: Any) -> bool:
        """Return whether it connects to an origin."""
        key = self._key
        return (origin.scheme, origin.host, origin.port) == (key.scheme.encode(), key.host.encode(), key.port)

    def is_available(self) -> bool:
        """Return whether it can take a request now."""
        return self.phase is Phase.IDLE

    def has_expired(self) -> bool:
        """Return whether the server closed it, or sent unsolicited bytes, while it was idle."""
        return self.phase is Phase.IDLE and (self.wire.ended or self._has_news())

    def is_idle(self) -> bool:
        """Return whether it is open and idle."""
        return self.phase is Phase.IDLE or self._has_failed

    def is_closed(self) -> bool:
        """Return whether it is closed."""
        return self.phase is Phase.CLOSED

    def info(self) -> str:
        """Return a description of its state."""
        return f"{self._key.origin!r}, HTTP/1.1, {self.phase.name}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} [{self.info()}]>"

    # The agent's ------------------------------------------------------------------------------------------------------

    def opened(self, stream: Any, *, shares: bool) -> bool:
        return False

    def is_dead(self, *, shared: bool) -> bool:
        wire = self.wire
        return wire.ended or wire.family.are_replaced(is_async=self.is_async) or self._has_news()

    def end_now(self, stream: Any) -> bool | None:
        if self._trace is not None:  # its callback may wait
            return None
        # Another thread or task may already have closed it, and the connection may now serve another request.
        return stream.incoming is self._incoming and self._end()

    def is_reusable(self) -> bool:
        wire = self.wire
        return self.phase is Phase.IDLE and not wire.ended and not wire.broken

    # Opening ----------------------------------------------------------------------------------------------------------

    def _open(self, request: Any) -> Flow[Any]:
        """Connect, retrying as often as `retries` allows; return the stream."""
        httpcore = self.httpcore
        log = logger_of(httpcore.__name__, "connection")
        trace = trace_of(httpcore.__name__, log, request)
        timeout = request.extensions.get("timeout", {}).get("connect")
        options, key, backend = self._options, self._key, self._backend
        where = {"timeout": timeout, "socket_options": options.socket_options}
        info: dict[str, Any] = {}
        delays = itertools.chain([0.0], (0.5 * 2**n for n in itertools.count()))
        for left in range(options.retries, -1, -1):
            try:
                if options.uds is None:
                    info = {"host": key.host, "port": key.port, "local_address": options.local_address, **where}
                    step = Call(backend.connect_tcp, info)
                    stream = yield from _told(trace, "connection.connect_tcp", step, info, returned=_itself)
                else:
                    info = {"path": options.uds, **where}
                    step = Call(backend.connect_unix_socket, info)
                    stream = yield from _told(trace, "connection.connect_unix_socket", step, info, returned=_itself)
                if self._ssl_context is not None:
                    self._ssl_context.set_alpn_protocols(["http/1.1"])
                    info = {
                        "ssl_context": self._ssl_context,
                        "server_hostname": request.extensions.get("sni_hostname") or key.host,
                        "timeout": timeout,
                    }
                    stream = yield from _told(
                        trace, "connection.start_tls", Call(stream.start_tls, info), info, returned=_itself
                    )
                self._backend = None  # every free socket would hold this memory
                return stream
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if not left:
                    raise
                yield from _told(trace, "connection.retry", Call(backend.sleep, {"seconds": next(delays)}), info)
        raise AssertionError  # pragma: no cover - the last attempt returns or raises

    # Requests ---------------------------------------------------------------------------------------------------------

    def _begin(self, request: Any) -> Trace | None:
        """Begin a request; return its trace, if anything listens."""
        if self.phase is not Phase.NEW and self.phase is not Phase.IDLE:
            raise self.httpcore.ConnectionNotAvailable()
        self.phase = Phase.ACTIVE
        self._is_sent = False
        self._incoming = None
        self._trace = trace = trace_of(self.httpcore.__name__, self._log, request)
        return trace

    def _encode(self, request: Any) -> Outgoing:
        recent = self._recent
        self._outgoing = outgoing = Outgoing(self.httpcore, request, self._fields, recent.fields)
        self._fields = recent.fields = outgoing.fields
        self._incoming = incoming = Incoming(self.httpcore, request.method, outgoing.fields.proposes_upgrade)
        if self._trace is None:  # otherwise the reader of each part reports it to the trace
            self.arrived = incoming.pieces
        return outgoing

    def _answer(self, incoming: Incoming, body: Any, stream: Any) -> Any:
        """Make the response for httpcore."""
        return self._response(
            incoming.status,
            incoming.headers,
            body,
            {
                "http_version": b"HTTP/" + incoming.version,
                "reason_phrase": incoming.reason,
                "network_stream": stream,
            },
        )

    def _end(self) -> bool:
        """End the response; return whether the connection can be used again. If not, close it."""
        incoming, outgoing = self._incoming, self._outgoing
        self._incoming = self._outgoing = None
        self.arrived = ()
        if (
            self.phase is Phase.ACTIVE
            and self._is_sent
            and incoming is not None
            and outgoing is not None
            and incoming.is_complete
            and incoming.stays_open
            and not outgoing.fields.closes
        ):
            self.phase = Phase.IDLE
            return not self.wire.ended and not self.wire.broken
        self._close_soon()
        return False

    # Tracing ----------------------------------------------------------------------------------------------------------

    def _exchange_traced(self, request: Any, timeouts: dict[str, float | None], trace: Trace) -> Flow[Incoming]:
        """Send a request and receive the head of its response, with trace events."""
        info = {"request": request}
        arguments = {"request": request, "timeout": timeouts.get("write")}
        with suppress(self.httpcore.WriteError):  # the server may have responded before it closed
            step = Call(self._send_head, arguments)
            if (yield from _told(trace, "http11.send_request_headers", step, info)):
                yield from _told(trace, "http11.send_request_body", Call(self._send_body, arguments), info)
        receive = Call(self._receive_head, {"timeout": timeouts.get("read")})
        incoming: Incoming = yield from _told(
            trace, "http11.receive_response_headers", receive, info, returned=Incoming.head
        )
        return incoming

    def _read_traced(self, body: TracedParts) -> Flow[bytes]:
        """Read a part of a body, with trace events before the first one and after the last."""
        name = "http11.receive_response_body"
        try:
            if body.is_told is None:
                body.is_told = False
                yield _tell(body.trace, f"{name}.started", {"request": body.request})
                body.is_told = True
            part: bytes = yield Call(body.read, {})
            if not part:
                yield from self._tell_end(body, f"{name}.complete", {"return_value": None})
        except GeneratorExit:
            raise
        except BaseException as error:
            yield from self._tell_end(body, f"{name}.failed", {"exception": error})
            if body.incoming is self._incoming:
                yield from self._end_traced(body.trace)
            raise
        return part

    def _tell_end(self, body: TracedParts, event: str, info: dict[str, Any]) -> Flow[None]:
        if body.is_told:
            body.is_told = False
            yield _tell(body.trace, event, info)

    def _end_traced(self, trace: Trace) -> Flow[None]:
        """End the response, with trace events."""
        name = "http11.response_closed"
        self._trace = None  # before its callback can fail: the next call then ends the response without it
        yield _tell(trace, f"{name}.started", {})
        try:
            self._end()
        except BaseException as error:
            yield _tell(trace, f"{name}.failed", {"exception": error})
            raise
        yield _tell(trace, f"{name}.complete", {"return_value": None})

    # By world ---------------------------------------------------------------------------------------------------------

    _send_head: Callable[..., Any]
    _send_body: Callable[..., Any]
    _receive_head: Callable[..., Any]

    def _has_news(self) -> bool:
        """Return whether data or the end has arrived. Costs one poll."""
        raise NotImplementedError

    def _close_soon(self) -> None:
        """Close the connection without waiting for anything."""
        raise NotImplementedError


class Parts:
    """The body of a response: an iterator over its parts, for both worlds.

    Args:
        connection: The connection that it comes from.
        incoming: The response.
        timeout: Seconds to wait for each part.
    """

    __slots__ = ("_connection", "_timeout", "incoming")

    def __init__(self, connection: Any, incoming: Incoming, timeout: float | None) -> None:
        self._connection = connection
        self._timeout = timeout
        self.incoming = incoming

    read: Callable[[], Any]
    """Read a part; empty at the end."""


class TracedParts(Parts):
    """The body of a response with trace events.

    Args:
        connection: The connection that it comes from.
        incoming: The response.
        timeout: Seconds to wait for each part.
        request: httpcore's request.
        trace: The listeners of the request.
    """

    __slots__ = ("is_told", "request", "trace")

    def __init__(self, connection: Any, incoming: Incoming, timeout: float | None, request: Any, trace: Trace) -> None:
        super().__init__(connection, incoming, timeout)
        self.request = request
        self.trace = trace
        self.is_told: bool | None = None  # whether reading was reported to have begun, and not ended; ``None`` before


def _tell(trace: Trace, event: str, info: dict[str, Any]) -> Call:
    """Return the step that reports an event."""
    return Call(trace.tell, {"name": event, "info": info}, trace.atell)


def _told(
    trace: Trace | None,
    name: str,
    step: Step,
    info: dict[str, Any],
    *,
    returned: Callable[[Any], object] = lambda _: None,
) -> Flow[Any]:
    """Do a step, with trace events around it.

    Args:
        trace: The listeners; ``None`` if there are none.
        name: The name of the events, such as ``connection.connect_tcp``.
        step: The step.
        info: The details of the first event.
        returned: A function that takes the step's result and returns the details of the last event.
    """
    if trace is None:
        return (yield step)
    yield _tell(trace, f"{name}.started", info)
    try:
        result = yield step
    except GeneratorExit:
        raise
    except BaseException as error:
        yield _tell(trace, f"{name}.failed", {"exception": error})
        raise
    yield _tell(trace, f"{name}.complete", {"return_value": returned(result)})
    return result


def _itself(result: object) -> object:
    return result
