"""Adapt httpcore's connections, for HTTP/2, proxies, trio, and whatever else the fast engine does not serve.

Everything that the agent knows about the internals of httpcore and h11 is here. httpcore's connection connects, and
chooses the protocol, when it gets its first request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h11

from .._network.wire import LEFT_UNREAD
from .._protocol.http1 import says_close, stays_open
from .._protocol.http2 import Frames, GoawayHold

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._network.wire import Wire


class HttpcoreConnection:
    """One of httpcore's connections; see `Connection`.

    Args:
        inner: The connection.
        wire: The socket's wire.
        speaks_http2: Whether it uses HTTP/2 without negotiation; otherwise TLS negotiates the protocol.
    """

    arrived: list[bytes] | tuple[()] = ()  # httpcore's streams report nothing until they are read

    def __init__(self, inner: Any, wire: Wire, *, speaks_http2: bool) -> None:
        self.inner = inner
        self.wire = wire
        self._speaks_http2 = speaks_http2

    def opened(self, stream: Any, *, shares: bool) -> bool:
        wire = self.wire
        ssl_object = stream.get_extra_info("ssl_object")
        if not self._speaks_http2 and (ssl_object is None or ssl_object.selected_alpn_protocol() != "h2"):
            return False
        # If only the first response shows that the connection is open, the first frames have already passed.
        hold = GoawayHold() if wire.awaits_response else None
        wire.frames = self._frames(hold, wire.listener.settings if shares else None)
        return True

    def _frames(self, hold: GoawayHold | None, tell_streams: Callable[[int | None], None] | None) -> Frames:
        return Frames(hold, tell_streams)

    def is_dead(self, *, shared: bool) -> bool:
        if shared:  # readable data belongs to the other requests
            return self._is_ending() or not self.inner.is_available()
        return self.wire.ended or self.wire.is_readable()

    def end_now(self, stream: Any) -> bool | None:
        return None

    def is_reusable(self) -> bool:
        wire = self.wire
        return (
            wire.stream is not None  # otherwise a mock responded in its place
            and not wire.ended
            and not wire.broken
            and not wire.cut_off
            and not self._is_ending()
            and self.inner.is_available()
            and not (wire.tells_of_loss and wire.stream.get_extra_info(LEFT_UNREAD))
            and not self._has_leftovers()
        )

    def _is_ending(self) -> bool:
        frames = self.wire.frames
        return frames is not None and frames.are_ending

    def _has_leftovers(self) -> bool:
        """Return whether bytes followed the end of the response; they do not belong to the next request (R20, N23)."""
        parser = _parser_of(self.inner)
        return parser is not None and bool(parser.trailing_data[0])

    def _begin_response(self, request: Any, response: Any) -> Any:
        if self.wire.stream is not None:  # otherwise a mock responded; leave its response unchanged
            self.wire.awaits_response = False
            if response.extensions.get("http_version") == b"HTTP/1.0":
                keep_open(self.inner, request, response)
        return response


class SyncHttpcoreConnection(HttpcoreConnection):
    """An httpcore connection in threads."""

    def handle_request(self, request: Any) -> Any:
        return self._begin_response(request, self.inner.handle_request(request))

    def close(self) -> None:
        self.inner.close()

    def _frames(self, hold: GoawayHold | None, tell_streams: Callable[[int | None], None] | None) -> Frames:
        return _UncountedFrames(hold, tell_streams, self.inner)


class _NoSemaphore:
    """A stand-in for a semaphore that never blocks."""

    def acquire(self) -> None:
        pass

    def release(self) -> None:
        pass


_NO_SEMAPHORE = _NoSemaphore()


class _UncountedFrames(Frames):
    """Frames that remove the semaphore from an httpcore connection in threads, as soon as it has one.

    The semaphore limits the number of streams, and `threading.Semaphore` is written in Python: an exception from a
    signal handler inside it leaves it locked, and httpcore would then wait for it for ever. It is not needed, because
    in threads requests never share a connection.
    """

    def __init__(
        self, hold: GoawayHold | None, tell_streams: Callable[[int | None], None] | None, connection: Any
    ) -> None:
        super().__init__(hold, tell_streams)
        self._connection = connection

    def sent(self, data: bytes) -> None:
        connection = _innermost(self._connection)
        if hasattr(connection, "_max_streams_semaphore"):
            connection._max_streams_semaphore = _NO_SEMAPHORE
        super().sent(data)


class AsyncHttpcoreConnection(HttpcoreConnection):
    """An httpcore connection in an event loop."""

    async def handle_async_request(self, request: Any) -> Any:
        return self._begin_response(request, await self.inner.handle_async_request(request))

    async def aclose(self) -> None:
        await self.inner.aclose()


def _parser_of(connection: Any) -> Any:
    """Return the h11 state of an httpcore connection, from private attributes; ``None`` if these do not exist."""
    return getattr(_innermost(connection), "_h11_state", None)


def _innermost(connection: Any) -> Any:
    """Return the httpcore connection that speaks HTTP; the connections around it have it in a private attribute."""
    while hasattr(connection, "_connection"):
        connection = connection._connection
    return connection


def keep_open(connection: Any, request: Any, response: Any) -> None:
    """Let an httpcore HTTP/1.0 connection serve again, if its server allows it and the body's end is known (R11).

    h11 supports keep-alive for HTTP/1.1 only; the one way to change that is through the state from which it decides. If
    its private names do not exist, the connection is closed after the response, as it would be without this.

    Args:
        connection: The connection, when a response has begun.
        request: httpcore's request.
        response: httpcore's response.
    """
    headers = response.headers
    has_no_body = request.method == b"HEAD" or response.status in (204, 304)
    has_length = has_no_body or any(name.lower() == b"content-length" for name, _ in headers)
    if not has_length or not stays_open(headers) or says_close(request.headers):
        return
    state = getattr(_parser_of(connection), "_cstate", None)
    if state is not None and state.states.get(h11.CLIENT) is h11.MUST_CLOSE:  # otherwise the request has not been sent
        state.keep_alive = True
        state.states[h11.CLIENT] = h11.DONE
