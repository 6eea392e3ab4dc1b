"""The clock of free sockets counts the time that the machine sleeps."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from httpx_agent import Agent
from httpx_agent._runtime import clock as _clock
from httpx_agent._runtime.clock import BothClocks


def set_clocks(monkeypatch: pytest.MonkeyPatch, **clocks: Any) -> None:
    """The clocks of the system, and no others."""
    monkeypatch.setattr(_clock, "time", SimpleNamespace(**clocks))


def test_a_clock_that_counts_sleep_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    set_clocks(monkeypatch, CLOCK_BOOTTIME=7, clock_gettime={7: 4000.0}.__getitem__)
    assert _clock.find_clock()() == 4000.0


def no_such_clock(number: int) -> float:
    raise OSError(22, "Invalid argument")


@pytest.mark.parametrize(
    "boottime",
    [{}, {"CLOCK_BOOTTIME": 7, "clock_gettime": no_such_clock}],
    ids=["no such clock", "one that does not work"],
)
def test_elsewhere_two_others_are(monkeypatch: pytest.MonkeyPatch, boottime: dict[str, Any]) -> None:
    monotonic, wall = iter([10.0, 20.0, 30.0]), iter([1000.0, 1010.0, 5000.0])
    set_clocks(monkeypatch, monotonic=lambda: next(monotonic), time=lambda: next(wall), **boottime)
    clock = _clock.find_clock()
    assert clock() == 20.0
    assert clock() == 4010.0  # 3980 s of which the first clock knows nothing


def test_agents_live_by_what_was_found() -> None:
    mine, found = Agent()._dispatcher.now, _clock.find_clock()
    assert (type(mine), getattr(mine, "args", None)) == (type(found), getattr(found, "args", None))


def times(*looks: tuple[float, float]) -> list[float]:
    """What the clock says at each look, for what the two others say; they begin at 0 and 1000."""
    monotonic, wall = [0.0, *(look[0] for look in looks)], [1000.0, *(look[1] for look in looks)]
    clock: Callable[[], float] = BothClocks(iter(monotonic).__next__, iter(wall).__next__)
    return [clock() for _ in looks]


@pytest.mark.parametrize(
    ("looks", "says"),
    [
        ([(5.0, 1005.0), (6.0, 1006.0)], [5.0, 6.0]),
        ([(5.0, 8605.0), (6.0, 8606.0)], [7605.0, 7606.0]),
        ([(5.0, 1065.0), (6.0, 1126.0), (7.0, 1127.0)], [65.0, 126.0, 127.0]),
        ([(5.0, -2595.0), (6.0, -2594.0)], [5.0, 6.0]),
        ([(5.0, -2595.0), (6.0, -1994.0)], [5.0, 606.0]),
        ([(5.0, 8605.0), (6.0, 1006.0), (7.0, 1007.0)], [7605.0, 7606.0, 7607.0]),
        ([(5.0, 1005.9), (6.0, 1006.0), (7.0, 1006.1)], [5.0, 6.0, 7.0]),
        ([(5.0, 1005.6), (6.0, 1007.2), (7.0, 1008.2)], [5.0, 7.2, 8.2]),
    ],
    ids=[
        "they agree",
        "two hours asleep",
        "asleep twice",
        "the time of day is set back",
        "and then asleep",
        "it is set ahead, and right again",
        "they tick at different moments",
        "they part little by little",
    ],
)
def test_what_has_passed_by_two_clocks(looks: list[tuple[float, float]], says: list[float]) -> None:
    assert times(*looks) == pytest.approx(says)


def test_two_threads_that_notice_the_same_sleep_count_it_once() -> None:
    """The second one reads the clocks while the first does."""
    monotonic, wall = iter([0.0, 5.0, 5.0]), iter([1000.0, 8605.0])
    second: list[float] = []

    def read_wall() -> float:
        if second == [] and clocks:
            second.append(0.0)
            second[0] = clocks[0]()
            return 8605.0
        return next(wall)

    clocks: list[BothClocks] = []
    clocks.append(BothClocks(lambda: next(monotonic), read_wall))
    assert (clocks[0](), *second) == (7605.0, 7605.0)
