"""The steps of flows that need a socket, a connection or the stream of a response; see `_runtime.flows`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio

from .._runtime.causes import out_of_codec

if TYPE_CHECKING:
    from .socket import Socket

#: Maximum number of bytes to read from a response that is closed early, in order to save its socket. Only bytes that
#: have already arrived are read. It bounds the work spent on bytes that nobody wants.
DRAIN_LIMIT = 64 * 1024


class Send:
    """Send a request over a connection, which opens its socket first if it is new. Return the response."""

    __slots__ = ("_connection", "_request")

    def __init__(self, connection: Any, request: Any) -> None:
        self._connection = connection
        self._request = request

    def run(self) -> Any:
        try:
            return self._connection.handle_request(self._request)
        except BaseException as error:
            own = out_of_codec(error)
            if own is error:
                raise
        raise own

    def arun(self) -> Awaitable[Any]:
        awaitable: Awaitable[Any] = self._connection.handle_async_request(self._request)
        return awaitable


class CloseSocket:
    """Close a socket. Ignore errors of its connection, because the socket is closed in any case."""

    __slots__ = ("_socket",)

    def __init__(self, socket: Socket) -> None:
        self._socket = socket

    def run(self) -> None:
        with self._socket.wire.family.suppress_network_errors():
            self._socket.close()

    async def arun(self) -> None:
        with suppress(Exception):
            await self._socket.aclose()


class PrepareReopening:
    """Close what a failed handshake has left of a socket, so that it can be opened again like a new one."""

    __slots__ = ("_socket",)

    def __init__(self, socket: Socket) -> None:
        self._socket = socket

    def run(self) -> None:
        self._socket.prepare_reopening()

    def arun(self) -> Awaitable[None]:
        return self._socket.aprepare_reopening()


class CloseStream:
    """Close the stream of a response. This readies its connection for the next request, or closes it."""

    __slots__ = ("_stream",)

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def run(self) -> None:
        self._stream.close()

    async def arun(self) -> None:
        with anyio.CancelScope(shield=True):
            await self._stream.aclose()


class Drain:
    """Read the rest of an unwanted response, as far as it has arrived.

    Return the number of bytes read if that was all of it; ``None`` if there is more.
    """

    __slots__ = ("_socket", "_stream")

    def __init__(self, stream: Any, socket: Socket) -> None:
        self._stream = stream
        self._socket = socket

    def run(self) -> int | None:
        left = DRAIN_LIMIT
        with self._socket.impatient():
            try:
                for chunk in self._stream:
                    left -= len(chunk)
                    if left < 0:
                        return None
            except Exception as error:
                if not self._socket.wire.family.is_of_network(error):
                    raise
                return None
        return DRAIN_LIMIT - left

    async def arun(self) -> int | None:
        left = DRAIN_LIMIT
        iterator = aiter(self._stream)
        with self._socket.impatient():
            try:
                async for chunk in iterator:
                    left -= len(chunk)
                    if left < 0:
                        return None
            except Exception:
                return None
            finally:
                await end_iteration(iterator)
        return DRAIN_LIMIT - left


class WakeableIterator:
    """An async iterator whose reader can be woken by another task.

    On a shared connection, closing one response does not close the socket that its reader is waiting for.
    """

    def __init__(self, iterator: Any) -> None:
        self.iterator = iterator
        self._scope: anyio.CancelScope | None = None
        self._error: Exception | None = None

    async def __anext__(self) -> bytes:
        with anyio.CancelScope() as self._scope:
            part: bytes = await anext(self.iterator)
            return part
        assert self._error is not None
        raise self._error

    def wake(self, error: Exception) -> None:
        """End the wait of another task with an error."""
        assert self._scope is not None
        self._error = error
        self._scope.cancel()


async def end_iteration(iterator: Any) -> None:
    """Finalise an async generator now. Left to the garbage collector, it would make trio warn."""
    if isinstance(iterator, WakeableIterator):
        iterator = iterator.iterator
    if isinstance(iterator, AsyncGenerator):
        with anyio.CancelScope(shield=True), suppress(RuntimeError):  # another task is in it
            await iterator.aclose()
