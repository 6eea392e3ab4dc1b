"""Keepers look after the free sockets of one home: they tell when one is closed by its server, and what time it is.

A keeper watches descriptors with one selector. On asyncio the event loop watches that selector; elsewhere a thread
does, which lives only while there is something to look after.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from typing import Any, Protocol

from ._locks import Lock, is_held_here, locked

#: So long, in seconds, a socket has to be free before it is watched: most are in use again by then, and each of them
#: is looked at before it is used.
SETTLING = 0.02


class Owner(Protocol):
    """Who is told."""

    def on_readable(self, number: int) -> None:
        """The watched socket of this number can be read: closed, or written to unasked."""

    def on_time(self) -> None:
        """The time that was asked for has come."""

    def on_settled(self) -> None:
        """So long ago that it should be watched by now, some socket came free."""


class ThreadKeeper:
    """A keeper with a thread.

    Where no descriptor is left for what it needs itself, it does nothing: a free socket is looked at before its next
    use anyway, and one whose time is over is closed then.

    Args:
        owner: Who is told, in the thread; referred to weakly.
        clock: Gives the time in which `arm` is meant.
    """

    def __init__(self, owner: Owner, clock: Callable[[], float]) -> None:
        self._owner = weakref.ref(owner)
        self._clock = clock
        self._lock = Lock()
        self._watched: dict[int, int] = {}  # descriptor to number
        self._settle_at: float | None = None  # by the system's clock, whatever the other one says
        self._when: float | None = None
        self._watcher: _Watcher | None = None

    def watch(self, descriptor: int, number: int) -> None:
        """Begins to watch a descriptor."""
        with self._lock, suppress(OSError):  # no descriptor is left for the watcher
            self._running().add(descriptor)
            self._watched[descriptor] = number

    @locked
    def unwatch(self, descriptor: int) -> None:
        """Ends it."""
        if self._watched.pop(descriptor, None) is not None and self._watcher is not None:
            self._watcher.remove(descriptor)

    def settle(self) -> None:
        """Asks to be told when a socket that came free now should be watched."""
        if self._settle_at is None:  # it is forgotten before its owner is told, who then looks at all that came free
            self._settle()

    @locked
    def _settle(self) -> None:
        with suppress(OSError):  # no descriptor is left for the watcher
            self._running().wake()  # before it is noted: what is noted is asked for no more; it waits for the lock
            self._settle_at = time.monotonic() + SETTLING

    def arm(self, when: float) -> None:
        """Asks to be told at a time, unless an earlier one is asked for already."""
        known = self._when
        if known is not None and known <= when:  # it is forgotten before its owner is told, who then asks for the next
            return
        self._arm(when)

    @locked
    def _arm(self, when: float) -> None:
        if self._when is None or when < self._when:
            with suppress(OSError):  # no descriptor is left for the watcher
                self._running().wake()  # as above
                self._when = when

    def stop(self) -> None:
        """Forgets everything; the thread ends."""
        self._forget()
        self.rest()

    @locked
    def _forget(self) -> None:
        self._watched.clear()
        self._settle_at = None

    @locked
    def rest(self) -> None:
        """Ends the thread, if nothing is watched or settles; it would end when the next deadline has passed."""
        if not self._watched:
            self._when = None
            if self._watcher is not None:
                self._watcher.wake()

    def is_locked_here(self) -> bool:
        """Whether this thread holds the keeper's lock."""
        return is_held_here(self._lock)

    def disown(self) -> None:
        """Forgets everything in a forked child, where there is no thread, and the selector is the parent's too."""
        self._lock = Lock()
        self._watched = {}
        self._when = self._settle_at = None
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.close()

    def _running(self) -> _Watcher:
        if self._watcher is None:
            self._start(_Watcher())
        assert self._watcher is not None
        return self._watcher

    def _start(self, watcher: _Watcher) -> None:
        try:
            thread = threading.Thread(target=self._run, args=(watcher,), name="httpx-agent", daemon=True)
            Context().run(thread.start)  # from Python 3.14 on it may inherit the context
            self._watcher = watcher
        except BaseException:  # the thread may have begun, and waits for the lock
            watcher.close()
            raise

    def _run(self, watcher: _Watcher) -> None:
        while True:
            with self._lock:
                if self._watcher is not watcher:
                    return
                owner = self._owner()
                if owner is None or not (self._watched or self._when is not None or self._settle_at is not None):
                    self._watcher = None
                    watcher.close()
                    return
                wait = None if self._when is None else max(0.0, self._when - self._clock())
                if self._settle_at is not None:
                    left = max(0.0, self._settle_at - time.monotonic())
                    wait = left if wait is None else min(wait, left)
            del owner  # nobody is kept alive by being looked after
            ready = watcher.wait(wait)
            with self._lock:
                has_settled = self._settle_at is not None and self._settle_at <= time.monotonic()
                if has_settled:
                    self._settle_at = None
                numbers = []
                for descriptor in ready:
                    number = self._watched.pop(descriptor, None)
                    watcher.remove(descriptor)
                    if number is not None:
                        numbers.append(number)
                on_time = self._when is not None and self._when <= self._clock()
                if on_time:
                    self._when = None
            owner = self._owner()
            if owner is not None:
                for number in numbers:
                    owner.on_readable(number)
                if on_time:
                    owner.on_time()
                if has_settled:
                    owner.on_settled()


class _Watcher:
    """A selector, and a way to wake who waits for it."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._ear, self._mouth = socket.socketpair()
        self._ear.setblocking(False)
        self._mouth.setblocking(False)
        self._selector.register(self._ear, selectors.EVENT_READ)

    def add(self, descriptor: int) -> None:
        register(self._selector, descriptor)

    def remove(self, descriptor: int) -> None:
        unregister(self._selector, descriptor)

    def wake(self) -> None:
        with suppress(BlockingIOError):  # enough calls are in the pipe
            self._mouth.send(b"\0")

    def wait(self, timeout: float | None) -> list[int]:
        ready = [key.fd for key, _ in self._selector.select(timeout)]
        if self._ear.fileno() in ready:
            ready.remove(self._ear.fileno())
            self._ear.recv(4096)
        return ready

    def close(self) -> None:
        self._selector.close()
        self._ear.close()
        self._mouth.close()


class LoopKeeper:
    """A keeper in an asyncio event loop; `unwatch` may be called from other threads.

    Args:
        owner: Who is told.
        clock: Gives the time in which `arm` is meant.
        loop: The loop.
    """

    def __init__(self, owner: Owner, clock: Callable[[], float], loop: asyncio.AbstractEventLoop) -> None:
        self._owner = owner
        self._clock = clock
        self._loop = loop
        self._selector: Any = selectors.DefaultSelector()
        self._watched: dict[int, int] = {}  # descriptor to number
        self._settling: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._when = 0.0
        Context().run(loop.add_reader, self._selector.fileno(), self._look)

    def watch(self, descriptor: int, number: int) -> None:
        """Begins to watch a descriptor."""
        self._watched[descriptor] = number
        register(self._selector, descriptor)

    def unwatch(self, descriptor: int) -> None:
        """Ends it."""
        if self._watched.pop(descriptor, None) is not None:
            unregister(self._selector, descriptor)

    def settle(self) -> None:
        """Asks to be told when a socket that came free now should be watched."""
        if self._settling is None:
            self._settling = self._loop.call_later(SETTLING, self._have_settled, context=Context())

    def arm(self, when: float) -> None:
        """Asks to be told at a time, unless an earlier one is asked for already."""
        if self._timer is not None:
            if self._when <= when:
                return
            self._timer.cancel()
        self._when = when
        self._timer = self._loop.call_later(max(0.0, when - self._clock()), self._ring, context=Context())

    def stop(self) -> None:
        """Forgets everything."""
        for timer in (self._timer, self._settling):
            if timer is not None:
                timer.cancel()
        if not self._loop.is_closed():
            self._loop.remove_reader(self._selector.fileno())
        self._selector.close()

    def is_locked_here(self) -> bool:
        """It has no lock."""
        return False

    def disown(self) -> None:
        """Forgets everything in a forked child, without a word to the loop, whose selector is the parent's too."""
        self._watched.clear()
        self._selector.close()

    def _have_settled(self) -> None:
        self._settling = None
        self._owner.on_settled()

    def _look(self) -> None:
        for key, _ in self._selector.select(0):
            number = self._watched.pop(key.fd, None)
            unregister(self._selector, key.fd)
            if number is not None:
                self._owner.on_readable(number)

    def _ring(self) -> None:
        self._timer = None
        self._owner.on_time()


def register(selector: Any, descriptor: int) -> None:
    """Registers, even where a descriptor of that number was registered and closed before."""
    with suppress(OSError, ValueError):  # closed in the meantime
        try:
            selector.register(descriptor, selectors.EVENT_READ)
        except KeyError:
            unregister(selector, descriptor)
            selector.register(descriptor, selectors.EVENT_READ)


def unregister(selector: Any, descriptor: int) -> None:
    """Unregisters, if it is registered."""
    with suppress(KeyError, ValueError):
        selector.unregister(descriptor)
