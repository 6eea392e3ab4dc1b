"""Locks that are free again, however whoever held one was interrupted."""

from __future__ import annotations

import pytest

from httpx_agent._runtime.locks import Lock, Signal, held, is_held_here, let_go
from tests.support.interrupting import Interrupted, in_another_thread


class Holder:
    def __init__(self) -> None:
        self._lock = Lock()

    @held("_lock")
    def add(self, one: int, *, other: int = 0) -> int:
        """Add two numbers."""
        assert is_held_here(self._lock)
        return one + other

    @held("_lock")
    def interrupt(self) -> None:
        raise Interrupted


def test_a_method_that_holds_a_lock() -> None:
    """It passes on what it gets and gives, and keeps its name."""
    holder = Holder()
    assert holder.add(1, other=2) == 3
    assert not is_held_here(holder._lock)
    assert Holder.add.__doc__ == "Add two numbers."


def test_a_method_that_is_interrupted_frees_its_lock() -> None:
    holder = Holder()
    with pytest.raises(Interrupted):
        holder.interrupt()
    assert in_another_thread(lambda: holder.add(1)) == 1


def test_a_lock_that_is_still_held_is_let_go() -> None:
    """And one that is free stays so."""
    lock = Lock()
    lock.acquire()
    for _ in range(2):
        let_go(lock)
        assert in_another_thread(lambda: lock.acquire(blocking=False) and lock.release() is None)


def test_a_signal_that_is_set_twice_is_set_once() -> None:
    signal = Signal()
    signal.set()
    signal.set()
    signal.wait(5)
    signal.wait(0.001)  # not set any more
    signal.set()
    signal.wait()
