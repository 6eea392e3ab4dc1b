"""What the pool asks of a connection, whoever speaks HTTP there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable


class Connection(Protocol):
    """One conversation over one socket: who speaks HTTP there, and what the agent asks of them.

    Ours are in `http1_sync.py` and `http1_asyncio.py`, httpcore's in `httpcore.py`. A connection opens its socket when
    it gets its first request; several requests may share it, if it said so. Sending and closing differ by world.
    """

    arrived: list[bytes] | tuple[()]
    """What has come of the body in flight, to be taken from here; empty where its stream must be asked."""

    def opened(self, stream: Any, *, shares: bool) -> bool:
        """Begin on a socket that is usable now; return whether it speaks HTTP/2.

        Args:
            stream: The outermost stream.
            shares: Whether several requests may share the socket then; if so, it tells the wire's listener how many.
        """
        raise NotImplementedError

    def is_dead(self, *, shared: bool) -> bool:
        """Return whether it cannot serve a request, having served before (N8, N16): one poll at most.

        Args:
            shared: Whether others have requests in flight, so that something may be due. Else whatever has come
                unasked makes it dead, as does the end, and a mock that takes its place.
        """
        raise NotImplementedError

    def end_now(self, stream: Any) -> bool | None:
        """End a response, be it read or not, and return whether the connection is fit for another request.

        Args:
            stream: The response's stream.

        Returns:
            ``None`` if nothing was done, because something in it may wait: close the stream, and ask `is_reusable`.
        """
        raise NotImplementedError

    def is_reusable(self) -> bool:
        """Return whether it is fit for another request, now that the stream of its response is closed."""
        raise NotImplementedError


class SyncConnection(Connection, Protocol):
    """A connection in threads."""

    def handle_request(self, request: Any) -> Any:
        """Send a request; block until its response begins."""

    def close(self) -> None:
        """Close it, whatever it is doing."""


class AsyncConnection(Connection, Protocol):
    """A connection in an event loop."""

    def handle_async_request(self, request: Any) -> Awaitable[Any]:
        """Send a request; wait until its response begins."""
        raise NotImplementedError

    def aclose(self) -> Awaitable[None]:
        """Close it, whatever it is doing."""
        raise NotImplementedError
