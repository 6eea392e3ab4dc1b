"""A sample of a sweep: of every fault at every operation in every world, say, so few that every two still meet.

The sample is the same in every run and in every process, for it depends on the cases and their order alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations

import pytest

Values = dict[str, str]
"""A case: by the name of each axis, where on it the case is."""


def covering(cases: Sequence[Values], strength: int = 2) -> list[int]:
    """Return the indices of cases that have between them every value of each axis, and of every two axes every pair.

    Of those that add most, the one whose values were taken least often is taken, so that no value is met by chance
    less often than others; then the first.

    Args:
        cases: All that there are.
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
    """Return those items of sweeps that are not in their samples, and were not named one by one.

    Args:
        items: The tests that are to run.
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
    """Return where a test is on each axis; what has no plain value is the same where it is the same object."""
    return {
        name: repr(value) if isinstance(value, str | bytes | int | float | None) else f"#{id(value)}"
        for name, value in test.callspec.params.items()
    }


def _is_named(test: pytest.Item, named: Sequence[str]) -> bool:
    return any(name.endswith(test.nodeid) for name in named)
