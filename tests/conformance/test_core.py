"""The pure core against the model with all repairs on: every step, with a virtual clock."""

from __future__ import annotations

import dataclasses

import pytest

from . import corpus, course, on_core
from .compare import OF_THE_CORE, as_an_agent_shows_it, differences
from .model import ALL_REPAIRS, play
from .trace import read_scenarios

#: A socket found dead in the moment of its use is replaced or sent again on; without that, it is a race.
RACES = ("C40", "C41")


@pytest.mark.parametrize("name", corpus.CORPORA)
def test_the_core_decides_as_node_where_node_is_not_defective(name: str) -> None:
    different = []
    for trace in corpus.traces(name):
        if trace.name not in corpus.MODEL_ONLY:
            expected = as_an_agent_shows_it(play(trace, ALL_REPAIRS))
            different += differences(trace, expected, on_core.play(trace), OF_THE_CORE)
    assert different == []


@pytest.mark.parametrize("name", corpus.CORPORA)
def test_without_sending_again_too(name: str) -> None:
    """`retry_stale_sockets=False` is nearer to Node: a request on a socket that its server closes fails."""
    different = []
    for trace in corpus.traces(name):
        if trace.name not in corpus.MODEL_ONLY and trace.name not in RACES:
            expected = as_an_agent_shows_it(play(trace, ALL_REPAIRS - {"N16"}))
            different += differences(trace, expected, on_core.play(trace, retry_stale_sockets=False), OF_THE_CORE)
    assert different == []


@pytest.mark.parametrize("name", ["clean", "fresh", "mixed", "overtaking"])
def test_scenarios_on_their_own_course(name: str) -> None:
    """Relative steps ("answer any request") are chosen from what the repaired agent has, so that each one acts."""
    different = []
    for scenario in read_scenarios(name):
        trace = course.take(scenario)
        different += differences(trace, as_an_agent_shows_it(trace.record), on_core.play(trace), OF_THE_CORE)
    assert different == []


def test_the_model_passes_a_request_over_sixteen_times_and_no_more() -> None:
    """What the hand-made corpus is for; that the core does the same is shown above."""
    trace = course.take(read_scenarios("overtaking")[0])
    order = [step["id"] for step in trace.steps if step["op"] == "finish"]
    assert order.index(2) == 17  # 1 held the socket when 2 came; 3 to 18 overtook it
    record = trace.record
    assert record.requests[2].socket == 1
    assert record.requests[2].reused is False


def test_without_timers_a_trace_is_clean_of_everything_but_flags_and_limits() -> None:
    """Node's own record of `clean`, not the model's: pools, creations and ends are the same without sending again."""
    what = frozenset(("pools", "total", "created", "closed", "server_open"))
    different = []
    for trace in corpus.traces("clean"):
        different += differences(trace, trace.record, on_core.play(trace, retry_stale_sockets=False), what)
    assert different == []


@pytest.mark.parametrize("name", sorted(corpus.MODEL_ONLY))
def test_what_only_the_model_plays_is_there_and_has_a_reason(name: str) -> None:
    assert name in {trace.name for trace in corpus.traces("conformance")}
    assert corpus.MODEL_ONLY[name]


def test_a_wrong_core_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The free socket that is used next: the first instead of the last."""
    rules = on_core._Player.rules
    monkeypatch.setattr(on_core._Player, "rules", lambda self: dataclasses.replace(rules(self), lifo=False))
    trace = next(trace for trace in corpus.traces("conformance") if trace.name == "C03")
    found = differences(trace, as_an_agent_shows_it(play(trace, ALL_REPAIRS)), on_core.play(trace))
    assert any("step 4" in line and "pools" in line for line in found)
