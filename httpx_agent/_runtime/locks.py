"""Locks, and a signal, that no exception in any thread can leave in an inconsistent state.

The garbage collector may run finalisers at any point, even in a thread that holds one of our locks. A finaliser that
closes a response or a client there would wait for its own thread for ever, or find a half-made decision. So all our
locks know the thread that holds them, and `is_held_here` tells when the work must be done elsewhere.

A signal handler may raise at any Python instruction, including between two lines of a `threading.Event` or
`threading.Condition`, whose internal lock is then held for ever. Nothing here consists of Python code that could be
interrupted half-way: taking a lock is one call into C, and so is freeing it.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Concatenate, ParamSpec, TypeVar

#: A lock that knows which thread holds it. No code takes the same one twice on purpose.
Lock = threading.RLock


def is_held_here(lock: Any) -> bool:
    """Return whether this thread holds a lock."""
    held: bool = lock._is_owned()
    return held


def let_go(lock: Any) -> None:
    """Free a lock if this thread still holds it. Call this after an exception has left a block that held the lock.

    CPython raises nothing between a block's last instruction and the call that frees its lock, but a tracer may.
    """
    if is_held_here(lock):
        lock.release()


Self = TypeVar("Self")
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def held(
    name: str,
) -> Callable[[Callable[Concatenate[Self, Parameters], Result]], Callable[Concatenate[Self, Parameters], Result]]:
    """Make a method run under a lock of its object, and free the lock however the method ends.

    Args:
        name: The attribute that holds the lock.
    """

    def decorate(
        method: Callable[Concatenate[Self, Parameters], Result],
    ) -> Callable[Concatenate[Self, Parameters], Result]:
        @functools.wraps(method)
        def run(self: Self, /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            lock = getattr(self, name)
            try:
                with lock:
                    result = method(self, *args, **kwargs)
            except BaseException:
                let_go(lock)
                raise
            return result

        return run

    return decorate


class Signal:
    """A signal that wakes the one thread waiting for it, now or later: a `threading.Event` safe from interruption."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it is set, or for `timeout` seconds; after that it can be set again."""
        # The system's own limit on a wait is some 290 years.
        self._lock.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX))

    def set(self) -> None:
        """Wake the thread that waits; may be called from any thread."""
        with suppress(RuntimeError):  # it is already set
            self._lock.release()
