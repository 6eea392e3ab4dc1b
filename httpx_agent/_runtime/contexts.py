"""Keep anything that outlives a request from holding its context (`contextvars`), and from running in it.

An event loop copies the current context for each callback: a timer, a reader, a transport. A socket or a watcher that
kept a request's context would keep alive everything that the caller put there (a user, a database session, a span), and
later work would seem to be part of that request.

So anything that may outlive a request is set up in an empty context. Code of the caller that runs during a request,
such as trace callbacks, iterators of bodies and the user's own network backends, runs in the request's context.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from contextvars import Context
from types import TracebackType, coroutine
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


@coroutine
def detached(work: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """Do some work in an empty context, in the same task."""
    run = Context().run
    resume: Any = work.send
    value: Any = None
    while True:
        try:
            awaited = run(resume, value)
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            value = None  # the error now has this frame in its traceback: break that cycle
        try:
            value = yield awaited
            resume = work.send
        except BaseException as error:
            value = error
            resume = work.throw


class TimeLimit:
    """Like `anyio.move_on_after`, but its timer keeps no context.

    asyncio keeps a cancelled timer until it is due, or until many others have been cancelled.
    """

    __slots__ = ("_scope",)

    def __init__(self, seconds: float | None, *, shield: bool = False) -> None:
        self._scope = anyio.move_on_after(seconds, shield=shield)

    def __enter__(self) -> anyio.CancelScope:
        return Context().run(self._scope.__enter__)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return self._scope.__exit__(kind, error, traceback)


class DetachedBackend:
    """A network backend that works in an empty context.

    Args:
        inner: The backend that does the work.
        detaches_streams: Whether its streams must do the same, because they set up readers and timers in the loop.
    """

    def __init__(self, inner: Any, *, detaches_streams: bool) -> None:
        self._inner = inner
        self._stream: Any = DetachedStream if detaches_streams else lambda stream: stream

    async def connect_tcp(self, *arguments: Any) -> Any:
        """Open a TCP connection."""
        return self._stream(await detached(self._inner.connect_tcp(*arguments)))

    async def connect_unix_socket(self, *arguments: Any) -> Any:
        """Open a connection to a Unix socket."""
        return self._stream(await detached(self._inner.connect_unix_socket(*arguments)))

    async def sleep(self, seconds: float) -> None:
        """Wait between attempts to connect."""
        await detached(self._inner.sleep(seconds))


class DetachedStream:
    """A network stream that works in an empty context.

    Args:
        inner: The stream that does the work.
    """

    __slots__ = ("_inner",)

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read at least one byte, or none at the end."""
        data: bytes = await detached(self._inner.read(max_bytes, timeout))
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write all of the buffer."""
        await detached(self._inner.write(buffer, timeout))

    async def aclose(self) -> None:
        """Close the stream."""
        await self._inner.aclose()

    async def start_tls(self, *arguments: Any) -> DetachedStream:
        """Return the stream after a TLS handshake."""
        return DetachedStream(await detached(self._inner.start_tls(*arguments)))

    def get_extra_info(self, info: str) -> Any:
        """Return the stream's information about itself."""
        return self._inner.get_extra_info(info)
