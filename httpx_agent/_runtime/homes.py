"""Homes: where a socket can be used. All threads together are one home, and each event loop is another."""

from __future__ import annotations

import _thread
import asyncio
import weakref
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from .contexts import detached
from .flows import arun, run
from .locks import Lock, Signal, is_held_here, let_go
from .watchers import LoopWatcher, ThreadWatcher

if TYPE_CHECKING:
    from .flows import Flow


class Owner(Protocol):
    """The owner of sockets, as homes use it."""

    now: Callable[[], float]
    """Return the time by which sockets expire."""

    def socket_lost(self, number: int) -> None:
        """Close a free socket that its server has closed, or has sent unsolicited bytes on."""

    def expire(self, home: Home) -> None:
        """Close the free sockets of a home that have expired."""

    def sockets_to_watch(self, home: Home) -> list[tuple[int, int]]:
        """Return descriptors and numbers of sockets that have been free for a while, and mark them as watched."""
        raise NotImplementedError

    async def end_home(self, home: AsyncHome) -> None:
        """Close the sockets of an event loop that is about to end."""


class Watched(Protocol):
    """A socket, as homes use it."""

    watched: int | None
    """The descriptor that is being watched, if any."""


class Home:
    """The common part of the homes: all threads, or one event loop.

    Args:
        owner: The owner of the sockets; referred to weakly.
    """

    is_async: bool
    library: str | None
    """The library that runs the event loop; ``None`` for threads."""
    watcher: ThreadWatcher | LoopWatcher

    def __init__(self, owner: Owner) -> None:
        self._owner = weakref.ref(owner)
        self._watching = Lock()  # guards `Watched.watched`; taken before the owner's lock, never after it

    def is_locked_here(self) -> bool:
        """Return whether this thread holds a lock of this home or of its watcher."""
        return is_held_here(self._watching) or self.watcher.is_locked_here()

    def disown(self) -> None:
        """Forget everything watched in a forked child: it belongs to the parent."""
        self._watching = Lock()
        self.watcher.disown()

    def on_readable(self, number: int) -> None:
        """Notify the owner that the server has closed a free socket, or sent unsolicited bytes on it."""
        owner = self._owner()
        if owner is not None:
            owner.socket_lost(number)

    def on_time(self) -> None:
        """Notify the owner that free sockets are expiring."""
        owner = self._owner()
        if owner is not None:
            owner.expire(self)

    def on_watch_due(self) -> None:
        """Start to watch the sockets that became free a while ago and still are."""
        owner = self._owner()
        if owner is not None:
            with self._watching:  # a request that gets one of them calls `unwatch` afterwards
                for descriptor, number in owner.sockets_to_watch(self):
                    self.watcher.watch(descriptor, number)

    def unwatch(self, socket: Watched) -> None:
        """Stop watching a socket."""
        try:
            with self._watching:
                if socket.watched is not None:
                    self.watcher.unwatch(socket.watched)
                    socket.watched = None
        except BaseException:
            let_go(self._watching)
            raise

    def new_event(self) -> Any:
        """Return an event to wait for in this home."""
        raise NotImplementedError

    def wake(self, event: Any, here: Home | None) -> None:
        """Set an event, from any thread.

        Args:
            event: What `new_event` returned.
            here: The home in which this is called; ``None`` if there is none.
        """
        raise NotImplementedError

    def do_soon(self, flow: Flow[None]) -> None:
        """Drive a flow in this home, from any thread; immediately if nothing in it can block."""
        raise NotImplementedError

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call a function in this home, from any thread; do nothing if the home has ended.

        Finalisers call this wherever they run: in any thread, and under any lock.
        """
        raise NotImplementedError


class SyncHome(Home):
    """All threads together. A socket of this home can be closed from any of them."""

    is_async = False
    library = None

    def __init__(self, owner: Owner) -> None:
        super().__init__(owner)
        watcher = self.watcher = ThreadWatcher(self, owner.now)
        self.end_idle_watcher = watcher.end_if_idle
        weakref.finalize(owner, watcher.stop)

    def new_event(self) -> Signal:
        return Signal()

    def wake(self, event: Any, here: Home | None) -> None:
        event.set()

    def do_soon(self, flow: Flow[None]) -> None:
        run(flow)

    def call_soon(self, function: Callable[[], object]) -> None:
        # `threading.Thread` takes Python's own locks, and waits for the new thread.
        with suppress(RuntimeError):  # no more threads, or the interpreter is shutting down
            _thread.start_new_thread(function, ())


#: The generators that wait for their loops to end. Kept here, because an owner that is dropped must not drop its
#: generators: trio warns of that.
_guards: set[AsyncGenerator[None, None]] = set()


class AsyncHome(Home):
    """An event loop.

    The home ends with the loop: `asyncio.run`, `uvloop.run` and `trio.run` finalise the async generators that were
    started in them. So one of our generators waits in each loop for its end, and closes the home there.

    Args:
        owner: The owner of the sockets; referred to weakly.
        loop: asyncio's event loop, or trio's token for the run.
    """

    is_async = True

    def __init__(self, owner: Owner, loop: Any) -> None:
        super().__init__(owner)
        self.loop = loop
        self.is_ending = False  # from now on the owner closes everything immediately
        self._ended = False
        self._guard = self._until_the_end()

    async def start(self) -> None:
        """Begin to wait for the loop's end. Call this in the loop, once."""
        await self._guard.__anext__()
        _guards.add(self._guard)

    async def leave(self) -> None:
        """End the home before its loop ends, once nothing is left in it."""
        self.end()
        await self._guard.aclose()

    async def _until_the_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            _guards.discard(self._guard)
            owner = self._owner()
            if owner is None:
                self.end()
            elif not self._ended:
                await detached(owner.end_home(self))

    def end(self) -> None:
        """End the home, so that nothing more happens here."""
        if not self._ended:
            self.is_ending = self._ended = True
            self.watcher.stop()

    def disown(self) -> None:
        """End the home in a forked child. The loop is the parent's, so nothing is done through it."""
        self.is_ending = self._ended = True
        super().disown()

    def new_event(self) -> anyio.Event:
        return anyio.Event()

    def wake(self, event: Any, here: Home | None) -> None:
        if here is self:
            event.set()
        else:
            self.call_soon(event.set)

    def is_over(self) -> bool:
        """Return whether this home has ended, so that nothing can be done in it any more."""
        raise NotImplementedError


class AsyncioHome(AsyncHome):
    """An event loop of asyncio, or a compatible one.

    Args:
        owner: The owner of the sockets; referred to weakly.
        loop: The loop.
    """

    library = "asyncio"

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(owner, loop)
        self._tasks: set[asyncio.Task[None]] = set()
        try:
            self.watcher = LoopWatcher(self, owner.now, loop)
        # A selector without a descriptor, a loop without readers, no descriptor left.
        except (AttributeError, NotImplementedError, OSError):
            self.watcher = ThreadWatcher(self, owner.now)

    def call_soon(self, function: Callable[[], object]) -> None:
        # Not in the caller's context: in that of a trio task, this would pass for trio, and nothing would work.
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
        owner: The owner of the sockets; referred to weakly.
        token: The run's token.
    """

    library = "trio"

    def __init__(self, owner: Owner, token: Any) -> None:
        super().__init__(owner, token)
        self.watcher = ThreadWatcher(self, owner.now)

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
