"""Samples of sweeps: their contents, and that only cases outside a sample are left out."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from tests.support.sampling import covering

pytest_plugins = ["pytester"]

#: Without the plugins of this process that do not bear another run within it.
PLAIN = ("-p", "no:hypothesispytest", "-p", "no:cacheprovider")

AXES = {"fault": "abcdefg", "way": "12345", "world": "xyz"}
CASES = [dict(zip(AXES, values, strict=True)) for values in product(*AXES.values())]


def pairs(cases: list[dict[str, str]]) -> set[object]:
    return {pair for case in cases for pair in combinations(sorted(case.items()), 2)}


def test_every_pair_of_values_meets_in_few_cases() -> None:
    sample = [CASES[index] for index in covering(CASES)]

    assert pairs(sample) == pairs(CASES)
    assert len(sample) < len(CASES) / 2


def test_every_value_comes_and_none_is_preferred() -> None:
    sample = [CASES[index] for index in covering(CASES, strength=1)]

    for axis, values in AXES.items():
        found = [case[axis] for case in sample]
        assert set(found) == set(values)
        assert max(map(found.count, values)) - min(map(found.count, values)) <= 1


def test_what_never_meets_is_not_asked_for() -> None:
    cases = [case for case in CASES if (case["fault"], case["way"]) != ("a", "1")]
    assert pairs([cases[index] for index in covering(cases)]) == pairs(cases)


def test_a_single_axis_and_a_single_case_are_run_whole() -> None:
    assert covering([{"world": world} for world in "xyz"]) == [0, 1, 2]
    assert covering([{"world": "x", "way": "1"}]) == [0]
    assert covering([]) == []


@pytest.fixture
def sweep(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project with this one's sampling, a sweep of 27 cases, and a test beside it."""
    pytester.makeini("[pytest]\nmarkers = sweep\n")
    pytester.makeconftest(
        """
        from tests.support.sampling import left_out

        def pytest_collection_modifyitems(config, items):
            out = left_out(items, config.args)
            items[:] = [item for item in items if item not in out]
            config.hook.pytest_deselected(items=out)
        """
    )
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.sweep
        @pytest.mark.parametrize("one", [1, 2, 3])
        @pytest.mark.parametrize("two", [object(), object(), object()])
        @pytest.mark.parametrize(("three", "four"), [("a", 0), ("b", 1), ("c", 2)])
        def test_sweep(one, two, three, four):
            assert four in (0, 1, 2)

        def test_beside():
            pass
        """
    )
    return pytester


def test_a_sample_runs_and_all_else(sweep: pytest.Pytester) -> None:
    outcomes = sweep.runpytest(*PLAIN).parseoutcomes()

    assert outcomes["passed"] + outcomes["deselected"] == 28
    assert 9 < outcomes["passed"] < 15


def test_a_case_that_is_named_runs(sweep: pytest.Pytester) -> None:
    listed = sweep.runpytest(*PLAIN, "--collect-only", "-q").outlines
    sampled = {line for line in listed if "::" in line}
    names = [
        f"test_a_case_that_is_named_runs.py::test_sweep[{three}-two{two}-{one}]"
        for three in ("a-0", "b-1", "c-2")
        for two in range(3)
        for one in (1, 2, 3)
    ]
    out = next(name for name in names if name not in sampled)

    sweep.runpytest(*PLAIN, out).assert_outcomes(passed=1)
