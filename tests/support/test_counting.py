"""The meter sees every scan and every wake-up; anything it missed, no test of the cost could find."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import pytest

from httpx_agent import Agent
from tests.support.counting import FOLDER, WATCHED, Meter, watch


def ours(expression: str) -> Callable[[Any], object]:
    """A function of `x` that counts as the package's own."""
    code = compile(f"lambda x: {expression}", f"{FOLDER}/__init__.py", "eval")  # a file that coverage finds
    function: Callable[[Any], object] = eval(code, {"__name__": "httpx_agent.example"})
    return function


def metered(function: Callable[[Any], object], argument: Any) -> Meter:
    with Meter() as meter:
        function(argument)
    return meter


@pytest.mark.parametrize("expression", ["[y for y in x]", "any(y is None for y in x)", "{y: y for y in x}"])
def test_a_loop_in_python_takes_steps(expression: str) -> None:
    """Whatever it goes through, watched or not."""
    few, many = (metered(ours(expression), range(count)).steps for count in (10, 1_000))

    assert many > few + 990


@pytest.mark.parametrize("kind", [dict, OrderedDict])
@pytest.mark.parametrize(
    "expression",
    [
        "list(x)",
        "list(x.values())",
        "sorted(x.items())",
        "max(x.keys())",
        "{**x}",
        "dict(x)",
        "set(x)",
        "list(reversed(x))",
    ],
)
def test_a_scan_of_a_mapping_in_c_looks_at_entries(kind: type, expression: str) -> None:
    mapping = WATCHED[kind]({number: number for number in range(100)})

    assert metered(ours(expression), mapping).entries == 100


@pytest.mark.parametrize("kind", [list, deque])
@pytest.mark.parametrize("expression", ["list(x)", "sorted(x)", "99 in x", "x.index(99)", "x.remove(99)", "max(x)"])
def test_a_scan_of_a_sequence_in_c_looks_at_entries(kind: type, expression: str) -> None:
    assert metered(ours(expression), WATCHED[kind](range(100))).entries == 100


@pytest.mark.parametrize("expression", ["list(x)", "sorted(x)", "min(x)"])
def test_a_scan_of_a_set_in_c_looks_at_entries(expression: str) -> None:
    assert metered(ours(expression), WATCHED[set](range(100))).entries == 100


def test_the_first_entry_is_one_and_a_key_is_none() -> None:
    mapping = WATCHED[OrderedDict]({number: number for number in range(100)})

    assert metered(ours("next(iter(x.values()))"), mapping).entries == 1
    assert metered(ours("next(reversed(x))"), mapping).entries == 1
    assert metered(ours("(x[50], x.pop(51), 52 in x, len(x))"), mapping).entries == 0


def test_a_wake_up_counts_where_the_package_makes_it() -> None:
    assert metered(ours("x.set()"), threading.Event()).wakes == 1
    assert metered(ours("[one.set() for one in x]"), [threading.Event() for _ in range(3)]).wakes == 3
    assert metered(lambda event: event.set(), threading.Event()).wakes == 0


def test_what_an_agent_holds_is_watched() -> None:
    """In its engine, its core and their parts, and only once."""
    with Agent() as agent:
        watched = watch(agent)

        assert any(container is agent._dispatcher._sockets for container in watched)
        assert any(container is agent._dispatcher._core._free for container in watched)
        assert {type(container) for container in watched} <= set(WATCHED.values())
        assert {id(container) for container in watch(agent)} == {id(container) for container in watched}
