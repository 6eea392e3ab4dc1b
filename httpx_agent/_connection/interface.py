"""The interface of connections to the pool, the same for all implementations of HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable


class Connection(Protocol):
    """An HTTP conversation over one socket, as the agent uses it.

    Ours are in `http1_sync.py` and `http1_asyncio.py`, httpcore's in `httpcore.py`. A connection opens its socket when
    it gets its first request; several requests may share it, if it allows that. Sending and closing differ by world.
    """

    arrived: list[bytes] | tuple[()]
    """Parts of the body in flight that have arrived, to be taken from here; empty if its stream must be read."""

    def opened(self, stream: Any, *, shares: bool) -> bool:
        """Start on a socket that has become usable; return whether it uses HTTP/2.

        Args:
            stream: The outermost stream.
            shares: Whether several requests may share an HTTP/2 socket; if so, notify the wire's listener how many.
        """
        raise NotImplementedError

    def is_dead(self, *, shared: bool) -> bool:
        """Return whether it can no longer serve requests (N8, N16); costs one poll at most.

        Args:
            shared: Whether other requests are in flight on it, so that incoming data may be expected. Otherwise any
                unsolicited data makes it dead, as do the end of the connection and a mock that takes its place.
        """
        raise NotImplementedError

    def end_now(self, stream: Any) -> bool | None:
        """End a response, whether or not it was read, and return whether the connection can serve another request.

        Args:
            stream: The response's stream.

        Returns:
            ``None`` if nothing was done, because it might block: close the stream, then call `is_reusable`.
        """
        raise NotImplementedError

    def is_reusable(self) -> bool:
        """Return whether it can serve another request, once the stream of its response is closed."""
        raise NotImplementedError


class SyncConnection(Connection, Protocol):
    """A connection in threads."""

    def handle_request(self, request: Any) -> Any:
        """Send a request; block until its response begins."""

    def close(self) -> None:
        """Close the connection, whatever it is doing."""


class AsyncConnection(Connection, Protocol):
    """A connection in an event loop."""

    def handle_async_request(self, request: Any) -> Awaitable[Any]:
        """Send a request; wait until its response begins."""
        raise NotImplementedError

    def aclose(self) -> Awaitable[None]:
        """Close the connection, whatever it is doing."""
        raise NotImplementedError
