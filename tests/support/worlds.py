"""One test for sync, asyncio and trio.

A test is an `async def` that takes the fixture `world`; it runs three times (five times where it is
marked `both_engines`: with both HTTP/1.1 engines). In the worlds `asyncio` and `trio` the
client is an `httpx.AsyncClient`. In the world `sync` it is an `httpx.Client` whose calls run in threads, under the
names of the async one (`aclose`, `aread`, `aiter_bytes`, …), so that the test reads the same:

    async def test_it(world: World) -> None:
        transport = AgentTransport()
        async with world.client(transport=transport) as client:
            response = await client.get(url)
            async with client.stream("GET", url) as response:
                await response.aread()
            async with world.tasks() as tasks:
                first = tasks.start(client.get, url)
                second = tasks.start(client.get, url)
                await world.until(lambda: len(server.requests) == 2)
            assert first.result().status_code == 200
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx

from httpx_agent._values.options import AgentOptions

LIMIT = 10.0
"""Seconds after which a wait counts as a deadlock."""


class Job:
    """A call that runs beside the test: wait for it, cancel it, get its result."""

    def __init__(self, call: Callable[[], Awaitable[Any]]) -> None:
        self._call = call
        self._scope = anyio.CancelScope()
        self._done = anyio.Event()
        self._value: Any = None
        self.exception: BaseException | None = None
        """The exception of the call, if any."""
        self.cancelled = False

    @property
    def done(self) -> bool:
        """Whether the call has ended, in any way."""
        return self._done.is_set()

    async def _run(self) -> None:
        try:
            with self._scope:
                try:
                    self._value = await self._call()
                except Exception as exc:
                    self.exception = exc
                except BaseException as exc:
                    self.cancelled = isinstance(exc, anyio.get_cancelled_exc_class())
                    raise
            # Trio's `open_tcp_stream` ends with a group of `Cancelled`.
            self.cancelled = self.cancelled or self._scope.cancelled_caught
        finally:
            self._done.set()

    def cancel(self) -> None:
        """Cancel the call. In the sync world a running call cannot be cancelled: see `World.can_cancel`."""
        self._scope.cancel()

    async def wait(self) -> Job:
        """Wait for the call to end, however it ends."""
        with anyio.fail_after(LIMIT):
            await self._done.wait()
        return self

    def result(self) -> Any:
        """Return the result of the call, or raise its exception."""
        assert self.done, "the call has not ended"
        assert not self.cancelled, "the call was cancelled"
        if self.exception is not None:
            raise self.exception
        return self._value


class Tasks:
    """Calls that run at the same time."""

    def __init__(self, group: anyio.abc.TaskGroup) -> None:
        self._group = group
        self.jobs: list[Job] = []

    def start(self, function: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Job:
        """Start a call beside the test."""
        job = Job(functools.partial(function, *args, **kwargs))
        self.jobs.append(job)
        self._group.start_soon(job._run)
        return job

    def cancel(self) -> None:
        """Cancel all calls."""
        for job in self.jobs:
            job.cancel()


class World:
    """The tools for writing a test once for sync, asyncio and trio."""

    def __init__(self, name: str, *, engine: str = "auto") -> None:
        self.name = name
        self.engine = engine
        """The `http1_engine` of agents that do not specify one."""
        self.is_sync = name.startswith("sync")
        self.backend = "trio" if name == "trio" else "asyncio"
        """The loop that the test itself runs on."""
        self.can_cancel = not self.is_sync
        """Whether a request can be cancelled while it runs."""

    def __repr__(self) -> str:
        return f"<World {self.name}>"

    def run(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any, **kwargs: Any) -> Any:
        """Run an async function on this world's loop."""
        with default_engine(self.engine):
            options = {"use_uvloop": True} if self.name.startswith("uvloop") else {}
            return anyio.run(
                functools.partial(function, *args, **kwargs), backend=self.backend, backend_options=options
            )

    def client(self, **kwargs: Any) -> Any:
        """An `httpx.AsyncClient`, or in the sync world an `httpx.Client` that looks like one.

        `trust_env` is off unless given, so that no proxy from the environment is used.
        """
        kwargs.setdefault("trust_env", False)
        return _Awaitable(httpx.Client(**kwargs)) if self.is_sync else httpx.AsyncClient(**kwargs)

    async def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a blocking function in a thread, or an async one directly."""
        if inspect.iscoroutinefunction(function):
            return await function(*args, **kwargs)
        return await _in_thread(function, *args, **kwargs)

    async def close(self, what: Any) -> None:
        """Call `close()` or `aclose()` of a transport, an agent, a client or a response."""
        if isinstance(what, _Awaitable):
            await what.aclose()
        elif self.is_sync:
            await _in_thread(what.close)
        else:
            await what.aclose()

    async def handle(self, transport: Any, request: httpx.Request) -> Any:
        """Send a request through a bare transport; the response is like those of `client`."""
        if self.is_sync:
            return _Awaitable(await _in_thread(transport.handle_request, request))
        return await transport.handle_async_request(request)

    def body(self, parts: Iterable[bytes]) -> Any:
        """Return a body that can be iterated once: a generator of the kind that this world's client requires."""
        if self.is_sync:
            return (part for part in parts)

        async def generate() -> AsyncIterator[bytes]:
            for part in parts:
                yield part

        return generate()

    def callback(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function in the form for this world's callbacks (`trace`, event hooks): plain or `async def`."""
        if self.is_sync:
            return function

        async def call(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return call

    @asynccontextmanager
    async def tasks(self) -> AsyncIterator[Tasks]:
        """Run calls beside the test; the end of the block waits for them, unless the block itself fails."""
        failure: BaseException | None = None
        try:
            async with anyio.create_task_group() as group:
                tasks = Tasks(group)
                try:
                    yield tasks
                    for job in tasks.jobs:
                        await job.wait()
                except Exception as exc:
                    failure = exc
                    raise
        except BaseExceptionGroup:
            if failure is not None:
                raise failure from None
            raise

    async def gather(self, *calls: Callable[[], Awaitable[Any]]) -> list[Any]:
        """Make the calls at the same time; return their results in the order of the calls."""
        async with self.tasks() as tasks:
            jobs = [tasks.start(call) for call in calls]
        return [job.result() for job in jobs]

    async def until(self, predicate: Callable[[], Any]) -> None:
        """Wait until the predicate is true, checking it repeatedly; fail after `LIMIT` seconds."""
        with anyio.move_on_after(LIMIT):
            while not predicate():
                await anyio.sleep(0.001)
            return
        raise AssertionError(f"condition not met within {LIMIT:.0f} s: {inspect.getsource(predicate).strip()}")

    async def settle(self) -> None:
        """Let everything run that can run without outside events (in the sync world: nothing to wait for)."""
        await anyio.wait_all_tasks_blocked()


@contextmanager
def default_engine(engine: str) -> Iterator[None]:
    """Give this `http1_engine` to agents that do not specify one."""
    defaults = AgentOptions.__init__.__kwdefaults__
    before = defaults["http1_engine"]
    defaults["http1_engine"] = engine
    try:
        yield
    finally:
        defaults["http1_engine"] = before


WORLDS = [World("sync"), World("asyncio"), World("trio")]
"""The usual worlds; in the first two the fast engine serves, if it can."""

H11_WORLDS = [World("sync-h11", engine="h11"), World("asyncio-h11", engine="h11")]
"""The same without the fast engine. Integrations are tested in these, too."""

ALL_WORLDS = [*WORLDS, *H11_WORLDS, World("uvloop"), World("uvloop-h11", engine="h11")]
"""Every kind of loop with every engine that serves in it."""

FAST_WORLDS = [World("sync"), World("asyncio"), World("uvloop")]
"""The worlds in which the fast engine serves; the tests of the engine itself run in these."""


async def _in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function in a thread, without a limit on threads; a `StopIteration` is raised as `_Stop`."""

    def call() -> Any:
        try:
            return function(*args, **kwargs)
        except StopIteration as exc:
            raise _StopError from exc

    return await anyio.to_thread.run_sync(call, limiter=anyio.CapacityLimiter(1))


class _StopError(Exception):
    """Stands for a `StopIteration` raised in a thread."""


_ASYNC_NAMES = {
    "aclose": "close",
    "aread": "read",
    "aiter_bytes": "iter_bytes",
    "aiter_raw": "iter_raw",
    "aiter_text": "iter_text",
    "aiter_lines": "iter_lines",
}
_CALLS = {"request", "get", "options", "head", "post", "put", "patch", "delete", "send"}


class _Awaitable:
    """A sync client, response or network stream under the names of its async counterpart."""

    def __init__(self, inner: Any) -> None:
        self.sync = inner
        """The wrapped object."""

    def __repr__(self) -> str:
        return repr(self.sync)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.sync, _ASYNC_NAMES.get(name, name))
        if name.startswith("aiter_"):
            return functools.partial(_iterate, value)
        if name in _CALLS or name in _ASYNC_NAMES:
            return functools.partial(self._call, value)
        return value

    async def _call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = await _in_thread(method, *args, **kwargs)
        return _Awaitable(result) if isinstance(result, httpx.Response) else result

    @asynccontextmanager
    async def stream(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """`client.stream` as an async context manager."""
        manager = self.sync.stream(*args, **kwargs)
        response = await _in_thread(manager.__enter__)
        try:
            yield _Awaitable(response)
        except BaseException as exc:
            with anyio.CancelScope(shield=True):
                if not await _in_thread(manager.__exit__, type(exc), exc, exc.__traceback__):
                    raise
        else:
            await _in_thread(manager.__exit__, None, None, None)

    async def __aenter__(self) -> Self:
        await _in_thread(self.sync.__enter__)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        with anyio.CancelScope(shield=True):
            await _in_thread(self.sync.__exit__, *exc_info)


async def _iterate(method: Callable[..., Iterable[Any]], *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
    """Iterate over a sync iterator, each step in a thread."""
    iterator = await _in_thread(method, *args, **kwargs)
    try:
        while True:
            try:
                item = await _in_thread(next, iterator)
            except _StopError:
                return
            yield item
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            with anyio.CancelScope(shield=True):
                await _in_thread(close)


class AwaitableStream:
    """A network stream of either kind under the names `read`, `write`, `aclose`."""

    def __init__(self, world: World, inner: Any) -> None:
        self.world = world
        self.inner = inner

    async def read(self, max_bytes: int, timeout: float | None = 5.0) -> bytes:
        """Read the next bytes."""
        return bytes(await self.world.call(self.inner.read, max_bytes, timeout))

    async def write(self, data: bytes, timeout: float | None = 5.0) -> None:
        """Write all of the data."""
        await self.world.call(self.inner.write, data, timeout)

    async def aclose(self) -> None:
        """Close the stream."""
        await self.world.close(self.inner)


class _Counted:
    """Await a coroutine, and call `cancel` at its n-th suspension, counted from 1."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], at: int, cancel: Callable[[], None]) -> None:
        self.coroutine = coroutine
        self.at = at
        self.cancel = cancel
        self.suspensions = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        resume: Callable[[Any], Any] = self.coroutine.send
        value: Any = None
        while True:
            try:
                suspended = resume(value)
            except StopIteration as stop:
                return stop.value
            self.suspensions += 1
            if self.suspensions == self.at:
                self.cancel()
            try:
                value = yield suspended
                resume = self.coroutine.send
            except BaseException as exc:
                value = exc
                resume = self.coroutine.throw


async def cancel_at(step: int, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any, **kwargs: Any) -> bool:
    """Make a call, and cancel it at its `step`-th suspension; return whether it got that far.

    A sweep cancels a request everywhere it can be cancelled:

        for step in itertools.count(1):
            network = Network()
            ...
            if not await cancel_at(step, client.get, url):
                break
            assert network.open == 0
    """
    with anyio.CancelScope() as scope:
        counted = _Counted(function(*args, **kwargs), step, scope.cancel)
        await counted
    return counted.suspensions >= step


def clean_environment() -> Mapping[str, str]:
    """Return the environment for subprocesses, without proxies and certificate files."""
    drop = {"http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir"}
    return {name: value for name, value in os.environ.items() if name.lower() not in drop}
