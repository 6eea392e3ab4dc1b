"""The pool: what a transport sends through, in the place of httpcore's."""

from __future__ import annotations

import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any, Self

from ._engine import Owner
from ._errors import explain
from ._exchange import Exchange
from ._mocks import RESPX, register_with_respx
from ._options import UNSET, full_name
from ._steps import WakeableIterator, arun, end_iteration, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from ._agent import AnyAgent


class BasePool:
    """Sends httpcore's requests over the sockets of an agent, from threads and from event loops.

    Args:
        agent: The agent.
        owns_agent: Whether closing the pool closes the agent.
    """

    def __init__(self, agent: AnyAgent, *, owns_agent: bool) -> None:
        self.agent = agent
        self._engine = agent._engine
        self._owns_agent = owns_agent
        proxy = agent._engine.connector.proxy
        if proxy is not None:  # pytest-httpx reads these of an `httpcore.HTTPProxy`; see `Family.pool`
            self._proxy_url = proxy.url
            self._proxy_headers = proxy.headers
        self._joins_respx()

    @property
    def _requests(self) -> set[Exchange]:
        """In flight or waiting; the SDKs' test suites look at its length."""
        return {e for e in self._engine.exchanges() if e.pool is self and not e.abandoned}

    @classmethod
    def for_transport(cls, agent_class: type[AnyAgent], agent: object, options: Mapping[str, Any]) -> Self:
        """The pool of a transport: over the agent that was given, or over one of its own.

        Raises:
            TypeError: If both an agent and options were given, or an agent of another family.
        """
        if agent is None:
            own = agent_class(**options)
            return own.family.pool(cls, own.options.proxy)(own, owns_agent=True)
        given = [name for name, value in options.items() if value is not UNSET]
        if given:
            raise TypeError(f"agent= goes with no other option, but {', '.join(given)} was given: give it to the agent")
        if not isinstance(agent, agent_class):
            raise TypeError(f"agent={agent!r}: accepted is an {full_name(agent_class)}, not {full_name(type(agent))}")
        return agent.family.pool(cls, agent.options.proxy)(agent, owns_agent=False)

    def handle_request(self, request: Any) -> Any:
        """Sends a request; blocks until its response begins."""
        engine = self._engine
        if RESPX in sys.modules and self._joins_respx():
            return self.handle_request(request)
        exchange = Exchange(engine, engine.sync_home, engine.key_of(request), request, self)
        try:
            response = run(exchange.send())
            if exchange.answered:  # and not a mock, whose response stays as it made it
                response.stream = _Body(self, exchange, response.stream)
        except BaseException:
            engine.note_dropped(exchange)  # a call of C: a second exception comes after it
            engine.give_up(exchange, with_socket=True)
            raise
        return response

    async def handle_async_request(self, request: Any) -> Any:
        """Sends a request; waits until its response begins."""
        engine = self._engine
        if RESPX in sys.modules and self._joins_respx():
            return await self.handle_async_request(request)
        home = engine.find_async_home() or await engine.new_async_home()
        exchange = Exchange(engine, home, engine.key_of(request), request, self)
        try:
            response = await arun(exchange.send())
            if exchange.answered:  # and not a mock, whose response stays as it made it
                response.stream = _AsyncBody(self, exchange, response.stream)
        except GeneratorExit:  # dropped, and has been abandoned
            raise
        except BaseException:
            engine.give_up(exchange, with_socket=True)
            raise
        return response

    def _joins_respx(self) -> bool:
        """Return whether respx knows of the pool only from now on: the pool's own methods may not be these any more.

        It may have been imported, and begun, after the transport was made.
        """
        return register_with_respx(type(self), self._engine.family.httpcore)

    def close(self) -> None:
        """Closes the agent, if it is the pool's own."""
        if self._owns_agent:
            self.agent.close()

    async def aclose(self) -> None:
        """Closes the agent, if it is the pool's own."""
        if self._owns_agent:
            await self.agent.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.agent!r}>"


class _Body:
    """A response's body; its end frees the socket.

    Whoever iterates it anew goes on where the iteration before was left. Once it came to its end, failed or was closed,
    there is nothing more: the socket may serve another request by then, whose answer this must not take. An iteration
    that was begun before it was closed ends with an error, unless it had all: a part must not pass for the whole.

    One thread may close it while another one reads, and either may end the request: the first does, and alone.
    """

    # Without slots `tracemalloc` on Python 3.11 does not find where it was made.
    __slots__ = ("__weakref__", "_ended", "_ending", "_exchange", "_is_read", "_iterator", "_pool", "_stream")

    def __init__(self, pool: BasePool, exchange: Exchange, stream: Any) -> None:
        self._pool = pool
        self._stream = stream
        self._iterator: Any = None
        self._ended = False
        self._is_read = False  # right now, by a thread that may wait
        # Held by who ends the request. An interrupted thread may come again.
        self._ending = threading.RLock()
        self._exchange = exchange
        exchange.owner = owner = Owner(self, exchange.engine.note_dropped)
        owner.number = exchange.number

    def is_untouched(self) -> bool:
        """Whether nobody has begun to read it."""
        return self._iterator is None

    def __iter__(self) -> Iterator[bytes]:
        if self._ended:
            return
        # Kept, and not delegated to: httpcore's iterator closes its connection when it is dropped, but the caller may
        # drop this one half-way and then `close` the response, which saves the socket if the rest has arrived.
        if self._iterator is None:
            self._iterator = iter(self._stream)
        try:
            yield from self._read()
        except GeneratorExit:
            raise
        except BaseException:
            self._give_up(with_socket=False)
            raise

    def _read(self) -> Iterator[bytes]:
        exchange = self._exchange
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
        if not self._ending.acquire(blocking=False):  # another thread closes it
            return
        try:
            rest = exchange.read(self._stream)
            if rest is not None:
                run(rest)
        finally:
            self._ending.release()

    def _next(self) -> bytes | None:
        """The next part; ``None`` at the end."""
        self._is_read = True  # before the look whether it was closed: who closes does it the other way round
        try:
            if self._ended:
                if self._exchange.cut_short:
                    raise self._pool._engine.family.httpcore.ReadError()
                return None
            part: bytes | None = next(self._iterator, None)
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
                exchange.engine.family.cycles.break_them()
            elif exchange.engine.is_locked_here():
                self._ended = True
                exchange.engine.abandon(exchange)
            else:
                self._close()
        except BaseException:
            self._give_up(with_socket=True)
            raise

    def _give_up(self, *, with_socket: bool) -> None:
        if self._ending.acquire(blocking=False):  # else another thread ends it
            self._ending.release()
            self._exchange.engine.give_up(self._exchange, with_socket=with_socket)

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


class _AsyncBody:
    """The same in an event loop."""

    __slots__ = (
        "__weakref__", "_ended", "_ending", "_exchange", "_is_read", "_iterator", "_pool", "_stream", "_take",
    )  # fmt: skip

    def __init__(self, pool: BasePool, exchange: Exchange, stream: Any) -> None:
        self._pool = pool
        self._stream = stream
        self._take: Callable[[], bytes | None] | None = getattr(stream, "take", None)  # of the fast engine only
        self._iterator: Any = None
        self._ended = False
        self._ending = False
        self._is_read = False
        self._exchange = exchange
        exchange.owner = owner = Owner(self, exchange.engine.note_dropped)
        owner.number = exchange.number

    # Not an async generator: trio warns of one that is dropped half-way, and dropping a body is nothing unusual.

    def is_untouched(self) -> bool:
        """As of `_Body`, for who may wait in this thread outside of the event loop."""
        return False

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
                raise explain(self._pool._engine.family.httpcore.ReadError(), exchange)
            raise StopAsyncIteration
        if exchange.over:
            exchange.check_process()
        chunk = self._take() if self._take is not None else None
        if chunk:
            return chunk
        try:
            return await self._read(chunk)
        except (GeneratorExit, StopAsyncIteration):
            raise
        except BaseException:
            if not self._ending:  # else another task ends it
                exchange.engine.give_up(exchange)
            raise

    async def _read(self, chunk: bytes | None) -> bytes:
        exchange = self._exchange
        try:
            if chunk is None:
                self._is_read = True
                try:
                    chunk = await anext(self._iterator, None)
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
        if chunk or (chunk is not None and self._take is None):  # httpcore's parts may be empty
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
            exchange.engine.family.cycles.break_them()
            return
        if self._ending:
            return
        exchange.begin_close()
        self._ended = self._ending = True
        if self._is_read and isinstance(self._iterator, WakeableIterator):
            self._iterator.wake(self._pool._engine.family.httpcore.ReadError())
        try:
            await arun(exchange.close(self._stream, is_read=self._is_read))
        except GeneratorExit:
            raise
        except BaseException:
            exchange.engine.give_up(exchange)
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


def _forget(body: _Body | _AsyncBody) -> None:
    """A response was dropped. This may run anywhere, under the agent's lock too, so it only leaves a note."""
    exchange: Exchange | None = getattr(body, "_exchange", None)
    if exchange is None:  # it was interrupted while it was made; its request is given up by who made it
        return
    if not exchange.over:
        exchange.engine.abandon(exchange)
    if body._ended or not exchange.abandoned:  # it was closed, if only by another finaliser
        return
    where = f", asked for at {exchange.asked_for_at}," if exchange.asked_for_at else ""
    warnings.warn(
        f"the response to {exchange.title}{where} was neither read nor closed, which costs its socket",
        ResourceWarning,
        source=body,
        stacklevel=2,
    )
