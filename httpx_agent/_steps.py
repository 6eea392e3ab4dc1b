"""The I/O that a flow asks for, and the two ways to do it.

What happens to a request is written once, as a *flow*: a generator that yields steps. A step can be done in two worlds:
``run`` blocks the thread, ``arun`` awaits. `run` and `arun` below drive a flow to its end; they are all that differs
between sync and async.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Generator
from contextlib import suppress
from types import GeneratorType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import anyio

from ._causes import out_of_codec
from ._contexts import TimeLimit

if TYPE_CHECKING:
    from ._socket import Socket

T = TypeVar("T")

#: Bytes of a response that is closed early which are read to save its socket, if they have arrived.
DRAIN_LIMIT = 64 * 1024


class Step(Protocol):
    """Something to be done that may block."""

    def run(self) -> Any:
        """Does it in this thread."""

    def arun(self) -> Awaitable[Any]:
        """Does it in this task."""
        raise NotImplementedError


Flow = Generator[Step, Any, T]


def run(flow: Flow[T]) -> T:
    """Drives a flow in this thread.

    What is raised in its step, or on the way to the next one, is raised in the flow; it is never left half-way.
    """
    try:
        step = next(flow)
        while True:
            try:
                step = flow.send(step.run())
            except BaseException as error:
                if not _waits(flow):
                    raise
                step = flow.throw(error)
    except StopIteration as stop:
        value: T = stop.value
        return value
    except BaseException:
        flow.close()
        raise


async def arun(flow: Flow[T]) -> T:
    """Drives a flow in this task; as `run`."""
    try:
        step = next(flow)
        while True:
            try:
                step = flow.send(await step.arun())
            except GeneratorExit:  # this coroutine is dropped: nothing can be awaited any more
                raise
            except BaseException as error:
                if not _waits(flow):
                    raise
                step = flow.throw(error)
    except StopIteration as stop:
        value: T = stop.value
        return value
    except BaseException:
        flow.close()
        raise


def _waits(flow: Flow[Any]) -> bool:
    """Whether a flow is at one of its steps, rather than over."""
    assert isinstance(flow, GeneratorType)
    return flow.gi_suspended


class Call:
    """Calls a function; in an event loop, its async twin."""

    __slots__ = ("_arguments", "_async_function", "_function")

    def __init__(self, function: Any, arguments: dict[str, Any], async_function: Any = None) -> None:
        self._function = function
        self._async_function = async_function or function
        self._arguments = arguments

    def run(self) -> Any:
        return self._function(**self._arguments)

    def arun(self) -> Awaitable[Any]:
        awaitable: Awaitable[Any] = self._async_function(**self._arguments)
        return awaitable


class Send:
    """Sends a request over a connection, which connects first if it is new; gives the response."""

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


class Wait:
    """Waits for an event, or for some seconds."""

    __slots__ = ("_event", "_timeout")

    def __init__(self, event: Any, timeout: float | None) -> None:
        self._event = event
        self._timeout = timeout

    def run(self) -> None:
        self._event.wait(self._timeout)

    async def arun(self) -> None:
        with TimeLimit(self._timeout):
            await self._event.wait()


class CloseSocket:
    """Closes a socket. However it ends, the socket is closed; how a connection fails then is nobody's business."""

    __slots__ = ("_socket",)

    def __init__(self, socket: Socket) -> None:
        self._socket = socket

    def run(self) -> None:
        with self._socket.wire.family.suppress_network_errors():
            self._socket.close()

    async def arun(self) -> None:
        with suppress(Exception):
            await self._socket.aclose()


class BeginAnew:
    """Closes what a socket's failed handshake left; then the socket may be opened as if it were new."""

    __slots__ = ("_socket",)

    def __init__(self, socket: Socket) -> None:
        self._socket = socket

    def run(self) -> None:
        self._socket.begin_anew()

    def arun(self) -> Awaitable[None]:
        return self._socket.abegin_anew()


class CloseStream:
    """Closes the stream of a response, which makes its connection fit for the next request, or closes it."""

    __slots__ = ("_stream",)

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def run(self) -> None:
        self._stream.close()

    async def arun(self) -> None:
        with anyio.CancelScope(shield=True):
            await self._stream.aclose()


class Drain:
    """Read what is left of a response that nobody wants, as far as it has arrived.

    Return how many bytes that were, if they were all; ``None`` if there is more.
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
    """An async iterator that another task can wake who waits for it.

    Where several responses come over one socket, closing one of them does not close what its reader waits for.
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
        """End the wait of another task by an error."""
        assert self._scope is not None
        self._error = error
        self._scope.cancel()


async def end_iteration(iterator: Any) -> None:
    """Finalises an async generator here and now, rather than by the garbage collector: trio warns of that."""
    if isinstance(iterator, WakeableIterator):
        iterator = iterator.iterator
    if isinstance(iterator, AsyncGenerator):
        with anyio.CancelScope(shield=True), suppress(RuntimeError):  # another task is in it
            await iterator.aclose()
