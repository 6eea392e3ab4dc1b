"""The bodies of responses: reading one to its end, or closing it, frees its socket."""

from __future__ import annotations

import threading
import warnings
from typing import TYPE_CHECKING, Any, Self

from .._runtime.flows import arun, run
from .errors import explain
from .steps import WakeableIterator, end_iteration
from .ticket import Owner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from .exchange import Exchange
    from .response_cycle import ResponseCycle


class Body:
    """A response's body; its end frees the socket.

    Whoever iterates it anew goes on where the iteration before was left. Once it came to its end, failed or was closed,
    there is nothing more: the socket may serve another request by then, whose answer this must not take. An iteration
    that was begun before it was closed ends with an error, unless it had all: a part must not pass for the whole.

    One thread may close it while another one reads, and either may end the request: the first does, and alone.
    """

    # Without slots `tracemalloc` on Python 3.11 does not find where it was made.
    __slots__ = (
        "__weakref__", "_arrived", "_ended", "_ending", "_exchange", "_is_read", "_iterator", "_response_cycle",
        "_stream",
    )  # fmt: skip

    def __init__(self, exchange: Exchange, stream: Any, response_cycle: ResponseCycle) -> None:
        self._response_cycle = response_cycle
        self._stream = stream
        self._arrived = exchange.arrived
        self._iterator: Any = None
        self._ended = False
        self._is_read = False  # right now, by a thread that may wait
        # Held by who ends the request. An interrupted thread may come again.
        self._ending = threading.RLock()
        self._exchange = exchange
        exchange.owner = owner = Owner(self, exchange.dispatcher.note_dropped)
        owner.number = exchange.number

    def is_untouched(self) -> bool:
        """Return whether nobody has begun to read it."""
        return self._iterator is None

    def __iter__(self) -> Iterator[bytes]:
        if self._ended:
            return
        # Kept, and not delegated to: httpcore's iterator closes its connection when it is dropped, but the caller may
        # drop this one half-way and then `close` the response, which saves the socket if the rest has arrived.
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
            if self._ending.acquire(blocking=False):  # else another thread closes it
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

    def _next(self) -> bytes | None:
        """The next part; ``None`` at the end."""
        self._is_read = True  # before the look whether it was closed: who closes does it the other way round
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
        if not self._ending.acquire(blocking=False):  # another thread closed it, which is why
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
                self._response_cycle.break_up()
            elif exchange.dispatcher.is_locked_here():
                self._ended = True
                exchange.dispatcher.abandon(exchange)
            else:
                self._close()
        except BaseException:
            self._give_up(with_socket=True)
            raise

    def _give_up(self, *, with_socket: bool) -> None:
        if self._ending.acquire(blocking=False):  # else another thread ends it
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

    def __del__(self) -> None:
        _forget(self)


class AsyncBody:
    """The same in an event loop."""

    __slots__ = (
        "__weakref__", "_arrived", "_ended", "_ending", "_exchange", "_is_read", "_iterator", "_response_cycle",
        "_stream",
    )  # fmt: skip

    def __init__(self, exchange: Exchange, stream: Any, response_cycle: ResponseCycle) -> None:
        self._response_cycle = response_cycle
        self._stream = stream
        self._arrived = exchange.arrived
        self._iterator: Any = None
        self._ended = False
        self._ending = False
        self._is_read = False
        self._exchange = exchange
        exchange.owner = owner = Owner(self, exchange.dispatcher.note_dropped)
        owner.number = exchange.number

    def is_untouched(self) -> bool:
        """Return false: only threads lose responses in that way."""
        return False

    # Not an async generator: trio warns of one that is dropped half-way, and dropping a body is nothing unusual.

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
            if not self._ending:  # else another task ends it
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
        if not self._ending:  # else another task closes it
            self._ending = True
            try:
                rest = exchange.read(self._stream)
                if rest is not None:
                    await arun(rest)
            finally:
                self._ending = False
        raise StopAsyncIteration

    async def _fail(self, error: BaseException) -> BaseException:
        exchange = self._exchange
        if self._ending:  # another task closes it, which is why
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
            self._response_cycle.break_up()
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

    def __del__(self) -> None:
        _forget(self)


class _Nothing:
    """What there is in a body that has ended."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration


def _forget(body: Body | AsyncBody) -> None:
    """A response was dropped. This may run anywhere, under the agent's lock too, so it only leaves a note."""
    exchange: Exchange | None = getattr(body, "_exchange", None)
    if exchange is None:  # it was interrupted while it was made; its request is given up by who made it
        return
    if not exchange.over:
        exchange.dispatcher.abandon(exchange)
    if body._ended or not exchange.abandoned:  # it was closed, if only by another finaliser
        return
    where = f", asked for at {exchange.asked_for_at}," if exchange.asked_for_at else ""
    warnings.warn(
        f"the response to {exchange.title}{where} was neither read nor closed, which costs its socket",
        ResourceWarning,
        source=body,
        stacklevel=2,
    )
