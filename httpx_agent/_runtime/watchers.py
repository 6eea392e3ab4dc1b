"""Notify the owner of free sockets when a server closes one, and when it is time to close some.

A watcher puts the descriptors of one home into one selector. On asyncio the event loop watches that selector; elsewhere
a thread does, which exists only while there is something to watch or to wait for.
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

from .locks import Lock, held, is_held_here

#: Seconds that a socket has to be free before it is watched. Most are in use again by then, and each one is checked
#: before use anyway.
WATCH_DELAY = 0.02


class Owner(Protocol):
    """A receiver of a watcher's notifications."""

    def on_readable(self, number: int) -> None:
        """Handle a watched socket that has become readable: its server closed it, or sent unsolicited bytes."""

    def on_time(self) -> None:
        """Do what is due, because the time passed to `arm` has come."""

    def on_watch_due(self) -> None:
        """Start to watch the sockets that are still free some time after `watch_later` was called."""


class ThreadWatcher:
    """A watcher with a thread.

    If no descriptor is available for its selector, it does nothing. That is harmless: a free socket is checked before
    its next use anyway, and an expired one is closed then.

    Args:
        owner: Receives the notifications, in the thread; referred to weakly.
        clock: Returns the time for `arm`.
    """

    def __init__(self, owner: Owner, clock: Callable[[], float]) -> None:
        self._owner = weakref.ref(owner)
        self._clock = clock
        self._lock = Lock()
        self._watched: dict[int, int] = {}  # descriptor to number
        self._watch_at: float | None = None  # by the system's clock, not the other one
        self._when: float | None = None
        self._selector: _Selector | None = None  # exists as long as the thread runs

    def watch(self, descriptor: int, number: int) -> None:
        """Begin to watch a descriptor."""
        with self._lock, suppress(OSError):  # no descriptor is available for the selector
            self._running().add(descriptor)
            self._watched[descriptor] = number

    @held("_lock")
    def unwatch(self, descriptor: int) -> None:
        """Stop watching a descriptor."""
        if self._watched.pop(descriptor, None) is not None and self._selector is not None:
            self._selector.remove(descriptor)

    def watch_later(self) -> None:
        """Ask for `on_watch_due`, because a socket has just become free."""
        if self._watch_at is None:  # reset before the owner is notified, which then checks all sockets that became free
            self._watch_later()

    @held("_lock")
    def _watch_later(self) -> None:
        with suppress(OSError):  # no descriptor is available for the selector
            # Wake the thread first: once the time is recorded, nothing asks again. The thread waits for our lock.
            self._running().wake()
            self._watch_at = time.monotonic() + WATCH_DELAY

    def arm(self, when: float) -> None:
        """Ask for `on_time` at a certain time, unless it has been asked for at an earlier one."""
        known = self._when
        if known is not None and known <= when:  # reset before the owner is notified, which then asks for the next time
            return
        self._arm(when)

    @held("_lock")
    def _arm(self, when: float) -> None:
        if self._when is None or when < self._when:
            with suppress(OSError):  # no descriptor is available for the selector
                self._running().wake()  # first, as above
                self._when = when

    def stop(self) -> None:
        """Forget everything, and end the thread."""
        self._forget()
        self.end_if_idle()

    @held("_lock")
    def _forget(self) -> None:
        self._watched.clear()
        self._watch_at = None

    @held("_lock")
    def end_if_idle(self) -> None:
        """End the thread if nothing is watched or about to be; otherwise it would wait for the next deadline."""
        if not self._watched:
            self._when = None
            if self._selector is not None:
                self._selector.wake()

    def is_locked_here(self) -> bool:
        """Return whether this thread holds the watcher's lock."""
        return is_held_here(self._lock)

    def disown(self) -> None:
        """Forget everything in a forked child, which has no such thread, and shares the selector with its parent."""
        self._lock = Lock()
        self._watched = {}
        self._when = self._watch_at = None
        selector, self._selector = self._selector, None
        if selector is not None:
            selector.close()

    def _running(self) -> _Selector:
        if self._selector is None:
            self._start(_Selector())
        assert self._selector is not None
        return self._selector

    def _start(self, selector: _Selector) -> None:
        try:
            thread = threading.Thread(target=self._run, args=(selector,), name="httpx-agent", daemon=True)
            Context().run(thread.start)  # from Python 3.14 on it may inherit the context
            self._selector = selector
        except BaseException:  # the thread may have begun, and be waiting for the lock
            selector.close()
            raise

    def _run(self, selector: _Selector) -> None:
        while True:
            with self._lock:
                if self._selector is not selector:
                    return
                owner = self._owner()
                if owner is None or not (self._watched or self._when is not None or self._watch_at is not None):
                    self._selector = None
                    selector.close()
                    return
                wait = None if self._when is None else max(0.0, self._when - self._clock())
                if self._watch_at is not None:
                    left = max(0.0, self._watch_at - time.monotonic())
                    wait = left if wait is None else min(wait, left)
            del owner  # being watched keeps no owner alive
            ready = selector.wait(wait)
            with self._lock:
                is_watch_due = self._watch_at is not None and self._watch_at <= time.monotonic()
                if is_watch_due:
                    self._watch_at = None
                numbers = []
                for descriptor in ready:
                    number = self._watched.pop(descriptor, None)
                    selector.remove(descriptor)
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
                if is_watch_due:
                    owner.on_watch_due()


class _Selector:
    """A selector whose wait any thread can end."""

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
        with suppress(BlockingIOError):  # the pipe already holds enough calls
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


class LoopWatcher:
    """A watcher in an asyncio event loop. Other threads may call `unwatch`.

    Args:
        owner: Receives the notifications, in the loop.
        clock: Returns the time for `arm`.
        loop: The loop.
    """

    def __init__(self, owner: Owner, clock: Callable[[], float], loop: asyncio.AbstractEventLoop) -> None:
        self._owner = owner
        self._clock = clock
        self._loop = loop
        self._selector: Any = selectors.DefaultSelector()
        self._watched: dict[int, int] = {}  # descriptor to number
        self._delay: asyncio.TimerHandle | None = None  # for `on_watch_due`
        self._timer: asyncio.TimerHandle | None = None  # for `on_time`
        self._when = 0.0
        Context().run(loop.add_reader, self._selector.fileno(), self._look)

    def watch(self, descriptor: int, number: int) -> None:
        """Begin to watch a descriptor."""
        self._watched[descriptor] = number
        register(self._selector, descriptor)

    def unwatch(self, descriptor: int) -> None:
        """Stop watching a descriptor."""
        if self._watched.pop(descriptor, None) is not None:
            unregister(self._selector, descriptor)

    def watch_later(self) -> None:
        """Ask for `on_watch_due`, because a socket has just become free."""
        if self._delay is None:
            self._delay = self._loop.call_later(WATCH_DELAY, self._end_delay, context=Context())

    def arm(self, when: float) -> None:
        """Ask for `on_time` at a certain time, unless it has been asked for at an earlier one."""
        if self._timer is not None:
            if self._when <= when:
                return
            self._timer.cancel()
        self._when = when
        self._timer = self._loop.call_later(max(0.0, when - self._clock()), self._ring, context=Context())

    def stop(self) -> None:
        """Forget everything."""
        for timer in (self._timer, self._delay):
            if timer is not None:
                timer.cancel()
        if not self._loop.is_closed():
            self._loop.remove_reader(self._selector.fileno())
        self._selector.close()

    def is_locked_here(self) -> bool:
        """Return false: there is no lock."""
        return False

    def disown(self) -> None:
        """Forget everything in a forked child. Do not notify the loop: its selector is also the parent's."""
        self._watched.clear()
        self._selector.close()

    def _end_delay(self) -> None:
        self._delay = None
        self._owner.on_watch_due()

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
    """Register a descriptor, even if an earlier one with the same number was registered and then closed."""
    with suppress(OSError, ValueError):  # closed in the meantime
        try:
            selector.register(descriptor, selectors.EVENT_READ)
        except KeyError:
            unregister(selector, descriptor)
            selector.register(descriptor, selectors.EVENT_READ)


def unregister(selector: Any, descriptor: int) -> None:
    """Unregister a descriptor, if it is registered."""
    with suppress(KeyError, ValueError):
        selector.unregister(descriptor)
