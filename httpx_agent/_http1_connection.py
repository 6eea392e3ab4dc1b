"""What the two fast HTTP/1.1 connections have in common: their state, how they open, and what they tell of it.

They take the place of httpcore's `HTTPConnection` and `AsyncHTTPConnection` for requests that go straight to the
server, and have the same interface.
"""

from __future__ import annotations

import itertools
from enum import Enum
from typing import TYPE_CHECKING, Any

from ._http1 import Incoming, Outgoing
from ._steps import Call
from ._trace import Trace, logger_of, trace_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from ._connector import Key
    from ._http1 import Fields, RecentFields
    from ._network import Wire
    from ._options import AgentOptions
    from ._steps import Flow


class Phase(Enum):
    """Where a connection is in its life."""

    NEW = "new"
    ACTIVE = "active"
    IDLE = "idle"
    CLOSED = "closed"


class Response:
    """What httpcore's `Response` is made of, without the checks of its constructor: the parser has made them.

    Args:
        status: The status code.
        headers: Name and value of each field.
        stream: The body.
        extensions: What else there is to tell.
    """

    def __init__(
        self, status: int, headers: list[tuple[bytes, bytes]], stream: Any, extensions: dict[str, Any]
    ) -> None:
        self.status = status
        self.headers = headers
        self.stream = stream
        self.extensions = extensions
        self._stream_consumed = False  # which httpcore's own methods look at


class Http1Connection:
    """A connection that speaks HTTP/1.1 with one server. It connects when it gets its first request.

    Args:
        key: What it connects to.
        wire: What is told of writing, reading, and the end.
        backend: What opens the stream.
        options: The agent's options.
        ssl_context: For https.
        recent: What was sent last by any connection of the agent; they share what is the same.
    """

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
        self._fields: Fields | None = None  # of the request before
        self._outgoing: Outgoing | None = None
        self._incoming: Incoming | None = None
        self._is_sent = False
        self._has_failed = False

    # httpcore's interface ---------------------------------------------------------------------------------------------

    def can_handle_request(self, origin: Any) -> bool:
        """Whether it connects to an origin."""
        key = self._key
        return (origin.scheme, origin.host, origin.port) == (key.scheme.encode(), key.host.encode(), key.port)

    def is_available(self) -> bool:
        """Whether it takes a request now."""
        return self.phase is Phase.IDLE

    def has_expired(self) -> bool:
        """Whether the server has closed it, or wrote unasked, while it was idle."""
        return self.phase is Phase.IDLE and (self.wire.ended or self.wire.is_readable())

    def is_idle(self) -> bool:
        """Whether it is open, and has nothing to do."""
        return self.phase is Phase.IDLE or self._has_failed

    def is_closed(self) -> bool:
        """Whether it is closed."""
        return self.phase is Phase.CLOSED

    def info(self) -> str:
        """In words."""
        return f"{self._key.origin!r}, HTTP/1.1, {self.phase.name}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} [{self.info()}]>"

    # Opening ----------------------------------------------------------------------------------------------------------

    def _open(self, request: Any) -> Flow[Any]:
        """Connects, as often as `retries` says; gives the stream."""
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
                    stream = yield from _told(trace, "connection.connect_tcp", backend.connect_tcp, info)
                else:
                    info = {"path": options.uds, **where}
                    stream = yield from _told(
                        trace, "connection.connect_unix_socket", backend.connect_unix_socket, info
                    )
                if self._ssl_context is not None:
                    self._ssl_context.set_alpn_protocols(["http/1.1"])
                    info = {
                        "ssl_context": self._ssl_context,
                        "server_hostname": request.extensions.get("sni_hostname") or key.host,
                        "timeout": timeout,
                    }
                    stream = yield from _told(trace, "connection.start_tls", stream.start_tls, info)
                self._backend = None  # memory that each free socket would hold
                return stream
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if not left:
                    raise
                yield from _told(trace, "connection.retry", backend.sleep, {"seconds": next(delays)}, tell=info)
        raise AssertionError  # pragma: no cover - the last attempt returns or raises

    # Requests ---------------------------------------------------------------------------------------------------------

    def _begin(self, request: Any) -> Trace | None:
        """From here on it is in use."""
        if self.phase is not Phase.NEW and self.phase is not Phase.IDLE:
            raise self.httpcore.ConnectionNotAvailable()
        self.phase = Phase.ACTIVE
        self._is_sent = False
        self._incoming = None
        return trace_of(self.httpcore.__name__, self._log, request)

    def _encode(self, request: Any) -> Outgoing:
        recent = self._recent
        self._outgoing = outgoing = Outgoing(self.httpcore, request, self._fields, recent.fields)
        self._fields = recent.fields = outgoing.fields
        self._incoming = Incoming(self.httpcore, request.method, outgoing.fields.proposes_upgrade)
        return outgoing

    def _answer(self, incoming: Incoming, body: Any, stream: Any) -> Any:
        """Httpcore's response."""
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

    def _comes_to_rest(self) -> bool:
        """The response is over: whether the connection may be used again."""
        incoming, outgoing = self._incoming, self._outgoing
        self._incoming = self._outgoing = None
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
            return True
        return False


class Parts:
    """The body of a response, as its two kinds of iterator have it.

    Args:
        connection: Where it comes from.
        incoming: The response.
        timeout: Seconds to wait for a part.
    """

    __slots__ = ("_connection", "_incoming", "_is_closed", "_timeout")

    def __init__(self, connection: Any, incoming: Incoming, timeout: float | None) -> None:
        self._connection = connection
        self._incoming = incoming
        self._timeout = timeout
        self._is_closed = False


class TracedParts(Parts):
    """The same with trace events.

    Args:
        connection: Where it comes from.
        incoming: The response.
        timeout: Seconds to wait for a part.
        request: httpcore's request.
        trace: What is told.
    """

    __slots__ = ("_request", "_span", "_trace")

    def __init__(self, connection: Any, incoming: Incoming, timeout: float | None, request: Any, trace: Trace) -> None:
        super().__init__(connection, incoming, timeout)
        self._request = request
        self._trace = trace
        self._span: Any = None  # not begun; false when it has ended


def _told(
    trace: Trace | None,
    name: str,
    function: Callable[..., Any],
    arguments: dict[str, Any],
    tell: dict[str, Any] | None = None,
) -> Flow[Any]:
    """A call that may block, and the trace events around it."""
    if trace is None:
        return (yield Call(function, arguments))
    yield Call(trace.tell, {"name": f"{name}.started", "info": arguments if tell is None else tell}, trace.atell)
    try:
        result = yield Call(function, arguments)
    except GeneratorExit:
        raise
    except BaseException as error:
        yield Call(trace.tell, {"name": f"{name}.failed", "info": {"exception": error}}, trace.atell)
        raise
    returned = {"return_value": None if tell is not None else result}
    yield Call(trace.tell, {"name": f"{name}.complete", "info": returned}, trace.atell)
    return result
