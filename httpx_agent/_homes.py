"""Homes: where a socket can be used. The sync world is one, each event loop is another."""

from __future__ import annotations

import _thread
import asyncio
import weakref
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any

import anyio

from ._contexts import detached
from ._keepers import LoopKeeper, ThreadKeeper
from ._locks import Lock, Signal, is_held_here, let_go
from ._steps import arun, run

if TYPE_CHECKING:
    from ._engine import Engine
    from ._socket import Socket
    from ._steps import Flow


class Home:
    """What the sync world and an event loop have in common for an agent.

    Args:
        engine: The agent's engine; referred to weakly.
    """

    is_async: bool
    keeper: ThreadKeeper | LoopKeeper

    def __init__(self, engine: Engine) -> None:
        self._engine = weakref.ref(engine)
        #: Those that came free and are not watched yet; they may be in use again. Guarded by the engine's lock.
        self.settling: dict[int, Socket] = {}
        self._watching = Lock()  # guards `Socket.watched`; taken before the engine's, never after

    def is_locked_here(self) -> bool:
        """Whether this thread holds a lock of this home or of its keeper."""
        return is_held_here(self._watching) or self.keeper.is_locked_here()

    def disown(self) -> None:
        """Forgets in a forked child what was watched: all of it is the parent's."""
        self.settling = {}
        self._watching = Lock()
        self.keeper.disown()

    def on_readable(self, number: int) -> None:
        """A free socket was closed by its server, or written to."""
        engine = self._engine()
        if engine is not None:
            engine.socket_lost(number)

    def on_time(self) -> None:
        """A free socket expires."""
        engine = self._engine()
        if engine is not None:
            engine.expire(self)

    def on_settled(self) -> None:
        """Some sockets came free a while ago: those that still are free are watched from now on."""
        engine = self._engine()
        if engine is not None:
            with self._watching:  # whoever gets one of them comes to `unwatch` afterwards
                for descriptor, number in engine.settled(self):
                    self.keeper.watch(descriptor, number)

    def unwatch(self, socket: Socket) -> None:
        """Looks after it no longer."""
        try:
            with self._watching:
                if socket.watched is not None:
                    self.keeper.unwatch(socket.watched)
                    socket.watched = None
        except BaseException:
            let_go(self._watching)
            raise

    def new_event(self) -> Any:
        """An event to wait for in this home."""
        raise NotImplementedError

    def wake(self, event: Any, here: Home | None) -> None:
        """Sets an event, from any thread.

        Args:
            event: What `new_event` gave.
            here: The home in which this is called; ``None`` if in none.
        """
        raise NotImplementedError

    def connect(self, engine: Engine, socket: Socket) -> Any:
        """A connection for a new socket."""
        raise NotImplementedError

    def do_soon(self, flow: Flow[None]) -> None:
        """Drives a flow in this home, from any thread; at once where nothing in it can block."""
        raise NotImplementedError

    def call_soon(self, function: Callable[[], object]) -> None:
        """Calls a function in this home, from any thread; not at all if the home is over.

        Finalisers call this, wherever they happen to run: in any thread, and under any lock.
        """
        raise NotImplementedError


class SyncHome(Home):
    """The sync world: all threads. Its sockets can be closed from any of them."""

    is_async = False

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        keeper = self.keeper = ThreadKeeper(self, engine.now)
        self.rest = keeper.rest
        weakref.finalize(engine, keeper.stop)

    def new_event(self) -> Signal:
        return Signal()

    def wake(self, event: Any, here: Home | None) -> None:
        event.set()

    def connect(self, engine: Engine, socket: Socket) -> Any:
        return engine.connector.sync_connection(socket.key, socket.wire)

    def do_soon(self, flow: Flow[None]) -> None:
        run(flow)

    def call_soon(self, function: Callable[[], object]) -> None:
        # `threading.Thread` takes locks of Python's own, and waits for the new thread.
        with suppress(RuntimeError):  # no more threads, or the interpreter is about to end
            _thread.start_new_thread(function, ())


#: The generators that wait for the end of their loops. An agent that is dropped must not take its own with it: trio
#: warns of generators that are.
_guards: set[AsyncGenerator[None, None]] = set()


class AsyncHome(Home):
    """An event loop.

    It ends with the loop: `asyncio.run`, `uvloop.run` and `trio.run` finalise the async generators that were started in
    them, so one of ours waits in each loop for its end, and closes the home there.

    Args:
        engine: The agent's engine.
        loop: What stands for the loop: asyncio's, or a token of trio's.
    """

    is_async = True
    library: str

    def __init__(self, engine: Engine, loop: Any) -> None:
        super().__init__(engine)
        self.loop = loop
        self.is_ending = False  # from here on the agent closes everything at once
        self._ended = False
        self._guard = self._until_the_end()

    async def start(self) -> None:
        """To be called in the loop, once."""
        await self._guard.__anext__()
        _guards.add(self._guard)

    async def leave(self) -> None:
        """Ends the home before its loop does, when nothing of it is left."""
        self.end()
        await self._guard.aclose()

    async def _until_the_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            _guards.discard(self._guard)
            engine = self._engine()
            if engine is None:
                self.end()
            elif not self._ended:
                await detached(engine.end_home(self))

    def end(self) -> None:
        """Nothing happens here any more."""
        if not self._ended:
            self.is_ending = self._ended = True
            self.keeper.stop()

    def disown(self) -> None:
        """Ends it in a forked child: the loop is the parent's, and nothing is done through it."""
        self.is_ending = self._ended = True
        super().disown()

    def new_event(self) -> anyio.Event:
        return anyio.Event()

    def wake(self, event: Any, here: Home | None) -> None:
        if here is self:
            event.set()
        else:
            self.call_soon(event.set)

    def connect(self, engine: Engine, socket: Socket) -> Any:
        return engine.connector.async_connection(socket.key, socket.wire, self.library, self.call_soon)

    def is_over(self) -> bool:
        """Whether this home has ended, so that nothing can be done in it any more."""
        raise NotImplementedError


class AsyncioHome(AsyncHome):
    """An event loop of asyncio, or one that is made like it.

    Args:
        engine: The agent's engine.
        loop: The loop.
    """

    library = "asyncio"

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(engine, loop)
        self._tasks: set[asyncio.Task[None]] = set()
        try:
            self.keeper = LoopKeeper(self, engine.now, loop)
        # A selector without a descriptor, a loop without readers, no descriptor left.
        except (AttributeError, NotImplementedError, OSError):
            self.keeper = ThreadKeeper(self, engine.now)

    def call_soon(self, function: Callable[[], object]) -> None:
        # Not in the caller's context: from a task of trio it would say that this is trio, and nothing would work.
        with suppress(RuntimeError):  # closed
            self.loop.call_soon_threadsafe(function, context=Context())

    def do_soon(self, flow: Flow[None]) -> None:
        self.call_soon(lambda: self._start(flow))

    def is_over(self) -> bool:
        return self._ended or self.loop.is_closed()

    def _start(self, flow: Flow[None]) -> None:
        if self.is_ending:
            return
        task = self.loop.create_task(arun(flow))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class TrioHome(AsyncHome):
    """A run of trio.

    Args:
        engine: The agent's engine.
        token: The run's token.
    """

    library = "trio"

    def __init__(self, engine: Engine, token: Any) -> None:
        super().__init__(engine, token)
        self.keeper = ThreadKeeper(self, engine.now)

    def call_soon(self, function: Callable[[], object]) -> None:
        import trio

        with suppress(trio.RunFinishedError):
            self.loop.run_sync_soon(Context().run, function)

    def do_soon(self, flow: Flow[None]) -> None:
        import trio

        def start() -> None:
            if not self.is_ending:
                with suppress(RuntimeError):  # the run is about to end, and so is this home
                    trio.lowlevel.spawn_system_task(arun, flow, context=Context())

        self.call_soon(start)

    def is_over(self) -> bool:
        return self._ended
