"""No operation is linear in sockets or waiting requests: counted in calls, not timed."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable

import pytest

from httpx_agent._rules.core import Close, Core
from tests.unit.rules.tools import connect, finish, make


def calls(operation: Callable[[], object]) -> int:
    """How many functions, of Python or C, an operation calls; what a comprehension visits calls something, too."""
    count = 0

    def profile(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    gc.disable()  # Hypothesis is called back by the collector
    sys.setprofile(profile)
    try:
        operation()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


def with_free(n: int) -> Core:
    """Free sockets of one key and home, and one in use; others that are idle elsewhere."""
    core = make(max_total_sockets=2 * n + 2, max_sockets=n + 2, max_free_sockets=n + 2)
    for request in range(n):
        connect(core, request, "a")
    for request in range(n, 2 * n):
        connect(core, request, f"key {request}")
    for request in range(2 * n):
        finish(core, request, float(request) / 1e6)
    connect(core, 1_000_000, "b")
    connect(core, 1_000_001, "b")
    return core


def with_waiting(n: int) -> Core:
    """Requests that wait: in the lane of the one that is in use, and each in one of its own."""
    core = make(max_total_sockets=2)
    connect(core, 1_000_000, "a")
    connect(core, 1_000_001, "b")
    for request in range(1_000_002, 1_000_002 + n):
        core.submit(request, "b", "sync", 0.0)
        core.submit(request + n, f"key {request}", "sync", 0.0)
    return core


OPERATIONS: dict[str, Callable[[Core], object]] = {
    "pick": lambda core: core.submit(9_000_000, "a", "sync", 0.5),
    "evict or wait": lambda core: core.submit(9_000_000, "c", "sync", 0.5),
    "wait and withdraw": lambda core: (core.submit(9_000_000, "c", "sync", 0.5), core.withdraw(9_000_000, 0.5)),
    "release": lambda core: finish(core, 1_000_001, 0.5),
    "fail": lambda core: core.release(1_000_001, 0.5, reusable=False, complete=False),
    "fail and close": lambda core: [
        core.closed(action.socket, 0.5)
        for action in core.release(1_000_001, 0.5, reusable=False, complete=False)
        if isinstance(action, Close)
    ],
    "replace": lambda core: core.replace(1_000_001, 0.5),
    "detach": lambda core: core.detach(1_000_001, 0.5),
    "look at the deadline": lambda core: core.next_deadline("sync"),
    "nothing expires": lambda core: core.expire("sync", 0.5),
    "withdraw": lambda core: core.withdraw(1_000_001, 0.5),
}


@pytest.mark.parametrize("scene", [with_free, with_waiting])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_cost_does_not_grow(scene: Callable[[int], Core], operation: str) -> None:
    """As many calls among ten as among two thousand."""
    run = OPERATIONS[operation]
    few, many = scene(10), scene(2000)

    assert calls(lambda: run(many)) <= calls(lambda: run(few)) + 2  # a heap may be a little deeper
