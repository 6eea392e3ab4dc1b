"""Locks that stay whole, whatever is raised in the thread that holds one.

The collector runs finalisers wherever it likes, also in a thread that holds a lock of ours. A finaliser that closes a
response or a client there would wait for its own thread for ever, or find a half-made decision. So all our locks are
of the kind that knows its thread, and `Engine.is_locked_here` tells when the work must be done elsewhere.

A signal's handler may raise at any instruction of Python's, so also between any two lines of a `threading.Event` or
`threading.Condition`, whose own lock is then held for ever. Nothing here is made of Python that could be left half
done: what takes and frees a lock is one call of C.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Concatenate, ParamSpec, TypeVar

#: A lock that knows its thread. None is ever taken twice.
Lock = threading.RLock


def is_held_here(lock: Any) -> bool:
    """Return whether this thread holds a lock."""
    held: bool = lock._is_owned()
    return held


def let_go(lock: Any) -> None:
    """Free a lock if this thread still holds it: to be called where a block that held it was left by an exception.

    CPython raises nothing between a block's last instruction and the call that frees its lock; a tracer may.
    """
    if is_held_here(lock):
        lock.release()


Self = TypeVar("Self")
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def locked(
    method: Callable[Concatenate[Self, Parameters], Result],
) -> Callable[Concatenate[Self, Parameters], Result]:
    """Make a method run under its object's `_lock`, which is free again however it ends."""

    @functools.wraps(method)
    def run(self: Self, /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        lock = self._lock  # type: ignore[attr-defined]
        try:
            with lock:
                result = method(self, *args, **kwargs)
        except BaseException:
            let_go(lock)
            raise
        return result

    return run


class Signal:
    """Wakes the one thread that waits for it, now or later: a `threading.Event` that nothing leaves half done."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it is set, or for so many seconds; once awake, it can be set anew."""
        # The system's own limit on waiting is some 290 years.
        self._lock.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX))

    def set(self) -> None:
        """Wake who waits, from any thread."""
        with suppress(RuntimeError):  # it is set already
            self._lock.release()
