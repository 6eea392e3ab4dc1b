"""The watchers of free sockets, in a thread and in a loop: they notify once, tolerate unannounced closes, and end."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from typing import Any

import anyio
import pytest

from httpx_agent._runtime import watchers
from httpx_agent._runtime.watchers import LoopWatcher, ThreadWatcher, register
from tests.support.interrupting import Interrupted


def test_a_watcher_bears_descriptors_that_are_closed_and_numbers_that_come_again() -> None:
    """What was closed behind its back is nothing to it."""
    told: list[Any] = []
    done = threading.Event()

    class Owner:
        def on_readable(self, number: int) -> None:
            told.append(number)
            done.set()

        def on_time(self) -> None:
            told.append("time")
            done.set()

        def on_watch_due(self) -> None:
            told.append("watch due")
            done.set()

    owner = Owner()
    watcher = ThreadWatcher(owner, lambda: 0.0)
    one, other = socket.socketpair()
    with one, other:
        descriptor = one.fileno()
        watcher.watch(descriptor, 1)
        watcher.watch(descriptor, 2)  # the number came again
        watcher.unwatch(99)
        other.send(b"x")
        assert done.wait(5)
        assert told == [2]
        watcher.unwatch(descriptor)
        done.clear()
        silent = other.fileno()
        with watcher._lock:
            watcher._running().add(silent)
            watcher._watched[silent] = 3
        watcher.unwatch(silent)
        with watcher._lock:
            watcher._running().add(descriptor)  # unwatched by another thread, in the moment in which it is readable
            watcher._when = 0.0  # as `arm` does it; between the two the thread could end
        assert done.wait(5)
        assert told == [2, "time"]
        told.clear()
    watcher.watch(descriptor, 3)  # closed by now
    watcher.unwatch(descriptor)
    watcher.arm(1.0)
    watcher.arm(2.0)
    done.clear()
    watcher.arm(0.0)
    assert done.wait(5)
    assert told == ["time"]
    done.clear()
    watcher.watch_later()
    watcher.watch_later()
    watcher.end_if_idle()  # which is for those that are watched
    assert done.wait(5)
    assert told == ["time", "watch due"]
    watcher.stop()


def test_a_loops_watcher_rings_once_and_for_the_earliest() -> None:
    told: list[Any] = []

    class Owner:
        def on_readable(self, number: int) -> None:
            told.append(number)

        def on_time(self) -> None:
            told.append("time")

        def on_watch_due(self) -> None:
            told.append("watch due")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        watcher = LoopWatcher(Owner(), lambda: 0.0, loop)
        watcher.arm(100.0)
        watcher.arm(0.0)
        watcher.arm(50.0)
        one, other = socket.socketpair()
        with one, other:
            watcher.watch(one.fileno(), 6)
            watcher.unwatch(one.fileno())  # of this one nothing is told
            watcher.watch(one.fileno(), 7)
            watcher.unwatch(99)
            other.send(b"x")
            watcher.watch_later()
            watcher.watch_later()
            with anyio.fail_after(5):
                while len(told) < 3:
                    await asyncio.sleep(0)
            register(watcher._selector, one.fileno())
            register(watcher._selector, one.fileno())  # the number came again
            watcher._look()  # unwatched by another thread, in the moment before
            watcher.watch(one.fileno(), 9)
            watcher.watch(one.fileno(), 10)
        watcher.stop()

    asyncio.run(main())
    assert sorted(map(str, told)) == ["7", "time", "watch due"]


def test_a_watcher_whose_owner_is_gone_tells_nobody_and_ends() -> None:
    class Owner:
        def on_readable(self, number: int) -> None:
            raise AssertionError("told")

        on_time = on_watch_due = on_readable  # type: ignore[assignment]

    owner = Owner()
    watcher = ThreadWatcher(owner, lambda: 0.0)
    one, other = socket.socketpair()
    with one, other:
        before = set(threading.enumerate())
        watcher.watch(one.fileno(), 1)
        [thread] = set(threading.enumerate()) - before
        selector = watcher._selector
        assert selector is not None
        looked = threading.Event()
        wait = selector.wait

        def wait_and_lose_the_owner(timeout: float | None) -> list[int]:
            nonlocal owner
            ready = wait(timeout)
            if ready:
                del owner
                gc.collect()
                looked.set()
            return ready

        selector.wait = wait_and_lose_the_owner  # type: ignore[method-assign]
        watcher.watch(other.fileno(), 2)
        with watcher._lock:
            selector.wake()  # so that the thread waits in the new way
        one.send(b"x")
        other.send(b"x")
        assert looked.wait(5)
        thread.join(5)
        assert not thread.is_alive()


def test_a_watcher_that_has_something_to_do_does_not_rest() -> None:
    told = threading.Event()

    class Owner:
        def on_readable(self, number: int) -> None:
            told.set()

        def on_time(self) -> None:
            raise AssertionError("nothing was armed")

        on_watch_due = on_time

    owner = Owner()
    watcher = ThreadWatcher(owner, lambda: 0.0)
    one, other = socket.socketpair()
    with one, other:
        watcher.watch(one.fileno(), 1)
        watcher.end_if_idle()
        other.send(b"x")
        assert told.wait(5)
    watcher.stop()


class Nobody:
    """Is told nothing."""

    def on_readable(self, number: int) -> None:
        raise AssertionError

    on_time = on_watch_due = on_readable  # type: ignore[assignment]


def test_a_thread_that_cannot_start_leaves_no_selector(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal's handler may raise while it starts; the next one that is needed is started as if nothing had been."""
    owner = Nobody()
    watcher = ThreadWatcher(owner, lambda: 0.0)
    made: list[Any] = []

    class Selector(watchers._Selector):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    monkeypatch.setattr(watchers, "_Selector", Selector)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupt)
        with pytest.raises(Interrupted):
            watcher.arm(100.0)
    assert watcher._selector is None
    with pytest.raises((ValueError, OSError, KeyError, RuntimeError)):
        made[0].wait(0)
    watcher.arm(50.0)
    assert watcher._selector is made[1]
    watcher.stop()


def test_a_thread_whose_start_was_interrupted_ends() -> None:
    """It had begun all the same: its selector is not the watcher's."""
    owner = Nobody()
    watcher = ThreadWatcher(owner, lambda: 0.0)
    other = watchers._Selector()
    watcher._run(other)
    assert watcher._selector is None
    other.close()


def interrupt(*_: object) -> None:
    raise Interrupted
