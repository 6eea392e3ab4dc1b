"""Sample a sweep (every fault at every operation in every world, say) so that all pairs of values still occur.

The sample is the same in every run and every process, because it depends only on the cases and their order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations

import pytest

Values = dict[str, str]
"""A case: its position on each axis, by the axis's name."""


def covering(cases: Sequence[Values], strength: int = 2) -> list[int]:
    """Return the indices of cases that together have every value of each axis, and every pair of any two axes.

    Of the cases that add the most, choose the one whose values were chosen least often, so that no value is rarer by
    chance; then the first.

    Args:
        cases: All cases.
        strength: 2 for pairs, 1 for single values.
    """
    offers = [frozenset(_tuples(case, strength)) for case in cases]
    missing = set().union(*offers)
    taken: dict[tuple[str, str], int] = defaultdict(int)
    left = dict(enumerate(offers))
    chosen: list[int] = []
    while missing:
        best = max(
            left,
            key=lambda index: (len(left[index] & missing), -sum(taken[item] for item in cases[index].items()), -index),
        )
        missing -= left.pop(best)
        chosen.append(best)
        for item in cases[best].items():
            taken[item] += 1
    return sorted(chosen)


def _tuples(case: Values, strength: int) -> Iterable[tuple[tuple[str, str], ...]]:
    return combinations(sorted(case.items()), min(strength, len(case)))


def left_out(items: Iterable[pytest.Item], named: Sequence[str]) -> list[pytest.Item]:
    """Return the items of sweeps that are not in their samples and were not named individually.

    Args:
        items: The tests to run.
        named: The arguments of the command line.
    """
    sweeps: dict[tuple[str, str], list[pytest.Function]] = defaultdict(list)
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("sweep") and hasattr(item, "callspec"):
            sweeps[str(item.path), item.originalname].append(item)
    out: list[pytest.Item] = []
    for tests in sweeps.values():
        mark = tests[0].get_closest_marker("sweep")
        assert mark is not None
        sample = covering([_values(test) for test in tests], **mark.kwargs)
        kept = {tests[index].nodeid for index in sample}
        out += [test for test in tests if test.nodeid not in kept and not _is_named(test, named)]
    return out


def _values(test: pytest.Function) -> Values:
    """Return a test's position on each axis; values without a plain form are compared by identity."""
    return {
        name: repr(value) if isinstance(value, str | bytes | int | float | None) else f"#{id(value)}"
        for name, value in test.callspec.params.items()
    }


def _is_named(test: pytest.Item, named: Sequence[str]) -> bool:
    return any(name.endswith(test.nodeid) for name in named)
