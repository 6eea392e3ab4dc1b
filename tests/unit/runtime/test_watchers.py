"""What watches free sockets, in a thread and in a loop: it tells once, bears closes behind its back, and ends."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from typing import Any

import anyio

from httpx_agent._keepers import LoopKeeper, ThreadKeeper, register


def test_a_keeper_bears_descriptors_that_are_closed_and_numbers_that_come_again() -> None:
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

        def on_settled(self) -> None:
            told.append("settled")
            done.set()

    owner = Owner()
    keeper = ThreadKeeper(owner, lambda: 0.0)
    one, other = socket.socketpair()
    with one, other:
        descriptor = one.fileno()
        keeper.watch(descriptor, 1)
        keeper.watch(descriptor, 2)  # the number came again
        keeper.unwatch(99)
        other.send(b"x")
        assert done.wait(5)
        assert told == [2]
        keeper.unwatch(descriptor)
        done.clear()
        silent = other.fileno()
        with keeper._lock:
            keeper._running().add(silent)
            keeper._watched[silent] = 3
        keeper.unwatch(silent)
        with keeper._lock:
            keeper._running().add(descriptor)  # unwatched by another thread, in the moment in which it is readable
            keeper._when = 0.0  # as `arm` does it; between the two the thread could end
        assert done.wait(5)
        assert told == [2, "time"]
        told.clear()
    keeper.watch(descriptor, 3)  # closed by now
    keeper.unwatch(descriptor)
    keeper.arm(1.0)
    keeper.arm(2.0)
    done.clear()
    keeper.arm(0.0)
    assert done.wait(5)
    assert told == ["time"]
    done.clear()
    keeper.settle()
    keeper.settle()
    keeper.rest()  # which is for those that are watched
    assert done.wait(5)
    assert told == ["time", "settled"]
    keeper.stop()


def test_a_loops_keeper_rings_once_and_for_the_earliest() -> None:
    told: list[Any] = []

    class Owner:
        def on_readable(self, number: int) -> None:
            told.append(number)

        def on_time(self) -> None:
            told.append("time")

        def on_settled(self) -> None:
            told.append("settled")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        keeper = LoopKeeper(Owner(), lambda: 0.0, loop)
        keeper.arm(100.0)
        keeper.arm(0.0)
        keeper.arm(50.0)
        one, other = socket.socketpair()
        with one, other:
            keeper.watch(one.fileno(), 6)
            keeper.unwatch(one.fileno())  # of this one nothing is told
            keeper.watch(one.fileno(), 7)
            keeper.unwatch(99)
            other.send(b"x")
            keeper.settle()
            keeper.settle()
            with anyio.fail_after(5):
                while len(told) < 3:
                    await asyncio.sleep(0)
            register(keeper._selector, one.fileno())
            register(keeper._selector, one.fileno())  # the number came again
            keeper._look()  # unwatched by another thread, in the moment before
            keeper.watch(one.fileno(), 9)
            keeper.watch(one.fileno(), 10)
        keeper.stop()

    asyncio.run(main())
    assert sorted(map(str, told)) == ["7", "settled", "time"]


def test_a_keeper_whose_owner_is_gone_tells_nobody_and_ends() -> None:
    class Owner:
        def on_readable(self, number: int) -> None:
            raise AssertionError("told")

        on_time = on_settled = on_readable  # type: ignore[assignment]

    owner = Owner()
    keeper = ThreadKeeper(owner, lambda: 0.0)
    one, other = socket.socketpair()
    with one, other:
        before = set(threading.enumerate())
        keeper.watch(one.fileno(), 1)
        [thread] = set(threading.enumerate()) - before
        watcher = keeper._watcher
        assert watcher is not None
        looked = threading.Event()
        wait = watcher.wait

        def wait_and_lose_the_owner(timeout: float | None) -> list[int]:
            nonlocal owner
            ready = wait(timeout)
            if ready:
                del owner
                gc.collect()
                looked.set()
            return ready

        watcher.wait = wait_and_lose_the_owner  # type: ignore[method-assign]
        keeper.watch(other.fileno(), 2)
        with keeper._lock:
            watcher.wake()  # so that the thread waits in the new way
        one.send(b"x")
        other.send(b"x")
        assert looked.wait(5)
        thread.join(5)
        assert not thread.is_alive()


def test_a_keeper_that_has_something_to_do_does_not_rest() -> None:
    told = threading.Event()

    class Owner:
        def on_readable(self, number: int) -> None:
            told.set()

        def on_time(self) -> None:
            raise AssertionError("nothing was armed")

        on_settled = on_time

    owner = Owner()
    keeper = ThreadKeeper(owner, lambda: 0.0)
    one, other = socket.socketpair()
    with one, other:
        keeper.watch(one.fileno(), 1)
        keeper.rest()
        other.send(b"x")
        assert told.wait(5)
    keeper.stop()
