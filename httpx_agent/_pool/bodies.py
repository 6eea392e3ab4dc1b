"""The bodies of responses. Reading a body to its end, or closing it, releases its socket."""

from __future__ import annotations

import threading
import warnings
from typing import TYPE_CHECKING, Any, Self

from .._runtime.flows import arun, run
from .errors import explain
from .steps import WakeableIterator, end_iteration
from .ticket import BodyReference

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from .exchange import Exchange
    from .reference_cycle import ReferenceCycle


class _BodyState:
    """What a body holds, in either world.

    Args:
        exchange: The request.
        stream: The connection's stream of the response.
        reference_cycle: Breaks up the cycle that httpx's client makes of a response.
    """

    # Without slots, `tracemalloc` on Python 3.11 does not find where a body was made.
    __slots__ = (
        "__weakref__", "_arrived", "_ended", "_ending", "_exchange", "_is_read", "_iterator", "_reference_cycle",
        "_stream",
    )  # fmt: skip

    _make_ending: Callable[[], Any]

    def __init__(self, exchange: Exchange, stream: Any, reference_cycle: ReferenceCycle) -> None:
        self._reference_cycle = reference_cycle
        self._stream = stream
        self._arrived = exchange.arrived
        self._iterator: Any = None
        self._ended = False
        self._is_read = False  # a thread or task is reading it right now, and may be waiting
        self._ending = self._make_ending()
        self._exchange = exchange
        exchange.body = reference = BodyReference(self, exchange.dispatcher.note_dropped)
        reference.number = exchange.number


class Body(_BodyState):
    """The body of a response in the sync world. Its end releases the socket.

    A second iteration continues where the first one stopped. After the body has ended, failed or been closed, iterating
    it yields nothing, because its socket may serve another request by then, whose response must not appear here. An
    iteration under way when the body is closed raises an error, unless it had read everything: a part of the body must
    not pass for the whole.

    One thread may close the body while another reads it, and both may try to end the request. Only the first one does.
    """

    __slots__ = ()

    # Held by the thread that ends the request. Reentrant, because that thread may be interrupted and try again.
    _make_ending = staticmethod(threading.RLock)

    def is_untouched(self) -> bool:
        """Return whether no thread has begun to read it."""
        return self._iterator is None

    def __iter__(self) -> Iterator[bytes]:
        if self._ended:
            return
        # Keep the iterator rather than delegate to it: httpcore's closes its connection when it is dropped, but callers
        # may drop ours half-way and then `close` the response, which saves the socket if the rest has arrived.
        if self._iterator is None:
            self._iterator = iter(self._stream)
        try:
            try:
                while (chunk := self._next()) is not None:
                    yield chunk
            except GeneratorExit:
                raise
            except BaseException as error:
                self._ended = True
                explained = self._fail(error)
                if explained is error:
                    raise
                raise explained from error
            self._ended = True
            if self._ending.acquire(blocking=False):  # if not, another thread is closing it
                try:
                    rest = self._exchange.read(self._stream)
                    if rest is not None:
                        run(rest)
                finally:
                    self._ending.release()
        except GeneratorExit:
            raise
        except BaseException:
            self._give_up(with_socket=False)
            raise
        self._finish()

    def _next(self) -> bytes | None:
        """Return the next part; ``None`` at the end."""
        self._is_read = True  # before checking whether it was closed; a closing thread does both in reverse order
        try:
            if self._ended:
                if self._exchange.cut_short:
                    raise self._exchange.dispatcher.family.httpcore.ReadError()
                return None
            arrived = self._arrived
            part: bytes | None = arrived.pop(0) if arrived else next(self._iterator, None)
            return part
        finally:
            self._is_read = False

    def _fail(self, error: BaseException) -> BaseException:
        exchange = self._exchange
        if not self._ending.acquire(blocking=False):  # another thread closed it, and so caused the error
            return explain(error, exchange)
        try:
            return run(exchange.fail(self._stream, error))
        finally:
            self._ending.release()

    def close(self) -> None:
        try:
            exchange = self._exchange
            if exchange.over:
                self._ended = True
                self._reference_cycle.break_up()
            elif exchange.dispatcher.is_locked_here():
                self._ended = True
                exchange.dispatcher.abandon(exchange)
            else:
                self._close()
        except BaseException:
            self._give_up(with_socket=True)
            raise
        self._finish()

    def _give_up(self, *, with_socket: bool) -> None:
        if self._ending.acquire(blocking=False):  # if not, another thread is ending it
            self._ending.release()
            self._exchange.dispatcher.give_up(self._exchange, with_socket=with_socket)

    def _close(self) -> None:
        if not self._ending.acquire(blocking=False):
            return
        try:
            self._exchange.begin_close()
            self._ended = True
            run(self._exchange.close(self._stream, is_read=self._is_read))
        finally:
            self._ending.release()

    def _finish(self) -> None:
        """Drop the finaliser if nothing is left for it to do: Python swallows what a signal's handler raises there."""
        if self._exchange.over:
            object.__setattr__(self, "__class__", Body)  # both have the same slots


class UnreadBody(Body):
    """A body whose request is not over. If it is dropped, it leaves a note."""

    __slots__ = ()

    def __del__(self) -> None:
        _forget(self)


class AsyncBody(_BodyState):
    """The body of a response in an event loop; otherwise like `Body`."""

    __slots__ = ()

    _make_ending = staticmethod(bool)  # a flag: whether a task is ending the request

    def is_untouched(self) -> bool:
        """Return false, because only a thread can lose a response in that way; see `Dispatcher.find_lost`."""
        return False

    # Not an async generator, because trio warns when one is dropped half-way, and dropping a body is nothing unusual.

    def __aiter__(self) -> AsyncIterator[bytes]:
        if self._ended:
            return _Nothing()
        if self._iterator is None:
            self._iterator = aiter(self._stream)
            if self._exchange.is_shared:
                self._iterator = WakeableIterator(self._iterator)
        return self

    async def __anext__(self) -> bytes:
        exchange = self._exchange
        if self._ended:
            if exchange.cut_short:
                raise explain(self._exchange.dispatcher.family.httpcore.ReadError(), exchange)
            raise StopAsyncIteration
        if exchange.over:
            exchange.check_process()
        arrived = self._arrived
        if arrived:
            return arrived.pop(0)
        try:
            return await self._read()
        except (GeneratorExit, StopAsyncIteration):
            raise
        except BaseException:
            if not self._ending:  # if it is set, another task is ending the request
                exchange.dispatcher.give_up(exchange)
            raise

    async def _read(self) -> bytes:
        exchange = self._exchange
        try:
            self._is_read = True
            try:
                chunk: bytes | None = await anext(self._iterator, None)
            finally:
                self._is_read = False
        except GeneratorExit:
            raise
        except BaseException as error:
            self._ended = True
            explained = await self._fail(error)
            if explained is error:
                raise
            raise explained from error
        if chunk is not None:
            return chunk
        self._ended = True
        self._iterator = None
        if not self._ending:  # if it is set, another task is closing the body
            self._ending = True
            try:
                rest = exchange.read(self._stream)
                if rest is not None:
                    await arun(rest)
            finally:
                self._ending = False
            self._finish()
        raise StopAsyncIteration

    async def _fail(self, error: BaseException) -> BaseException:
        exchange = self._exchange
        if self._ending:  # another task closed it, and so caused the error
            return explain(error, exchange)
        self._ending = True
        try:
            return await arun(exchange.fail(self._stream, error))
        finally:
            self._ending = False

    async def aclose(self) -> None:
        exchange = self._exchange
        if exchange.over and self._iterator is None:
            self._ended = True
            self._reference_cycle.break_up()
            self._finish()
            return
        if self._ending:
            return
        exchange.begin_close()
        self._ended = self._ending = True
        if self._is_read and isinstance(self._iterator, WakeableIterator):
            self._iterator.wake(self._exchange.dispatcher.family.httpcore.ReadError())
        try:
            await arun(exchange.close(self._stream, is_read=self._is_read))
        except GeneratorExit:
            raise
        except BaseException:
            exchange.dispatcher.give_up(exchange)
            raise
        finally:
            self._ending = False
            await end_iteration(self._iterator)
        self._finish()

    def _finish(self) -> None:
        """Drop the finaliser, for which nothing is left to do: the request is over."""
        object.__setattr__(self, "__class__", AsyncBody)


class UnreadAsyncBody(AsyncBody):
    """A body whose request is not over. If it is dropped, it leaves a note."""

    __slots__ = ()

    def __del__(self) -> None:
        _forget(self)


class _Nothing:
    """An iterator over a body that has ended: it yields nothing."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration


def _forget(body: UnreadBody | UnreadAsyncBody) -> None:
    """Leave a note that a response was dropped, and warn if that costs a socket.

    This finaliser can run anywhere, even in a thread that holds the agent's lock, so it can do no more.
    """
    exchange: Exchange | None = getattr(body, "_exchange", None)
    if exchange is None:  # making the body was interrupted, and the caller of `Body` gives its request up
        return
    if not exchange.over:
        exchange.dispatcher.abandon(exchange)
    if body._ended or not exchange.abandoned:  # it was read or closed, perhaps by another finaliser
        return
    where = f", requested at {exchange.asked_for_at}," if exchange.asked_for_at else ""
    warnings.warn(
        f"the response to {exchange.title}{where} was neither read nor closed, so its socket cannot be reused",
        ResourceWarning,
        source=body,
        stacklevel=2,
    )
