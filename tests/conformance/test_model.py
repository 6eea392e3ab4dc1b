"""The model with all switches off is Node: every step of every trace, nothing left out."""

from __future__ import annotations

import dataclasses

import pytest

from . import corpus, model
from .compare import differences
from .explain import repairs_shown
from .trace import Seen, Trace

NO_REPAIRS: frozenset[str] = frozenset()


@pytest.mark.parametrize("name", corpus.CORPORA)
def test_without_repairs_the_model_is_node(name: str) -> None:
    different = []
    for trace in corpus.traces(name):
        if trace.untimely or _fragile(trace):
            continue
        different += differences(trace, trace.record, model.play(trace, NO_REPAIRS))
    assert different == []


@pytest.mark.parametrize(("name", "few"), [("clean_timers", 12), ("fresh", 6)])
def test_few_traces_depend_on_the_speed_of_a_machine(name: str, few: int) -> None:
    assert sum(trace.untimely or _fragile(trace) for trace in corpus.traces(name)) == few


@pytest.mark.parametrize("name", ["conformance", "clean", "mixed", "overtaking"])
def test_without_timers_no_trace_does(name: str) -> None:
    assert [trace.name for trace in corpus.traces(name) if trace.untimely or _fragile(trace)] == []


def test_every_corpus_is_there_and_whole() -> None:
    sizes = {name: len(corpus.traces(name)) for name in corpus.CORPORA}
    assert sizes == {
        "conformance": 89,
        "clean": 200,
        "clean_timers": 150,
        "fresh": 500,
        "mixed": 200,
        "overtaking": 6,
    }
    for name in corpus.CORPORA:
        names = [trace.name for trace in corpus.traces(name)]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Seen)])
def test_the_comparison_notices_a_difference_in_each_field(field: str) -> None:
    """The proof is worth what the comparison sees."""
    trace = next(trace for trace in corpus.traces("conformance") if trace.name == "K23")
    wrong = model.play(trace, NO_REPAIRS)
    last = wrong.steps[-1]
    others = {
        "pools": {},
        "total": last.total + 1,
        "created": last.created + 1,
        "closed": last.closed + 1,
        "server_open": (),
        "limits": {number: limit + 101 for number, limit in last.limits.items()},
        "counters": {**last.counters, "requestCount": 99},
        "status_changed": not last.status_changed,
    }
    wrong.steps[-1] = dataclasses.replace(last, **{field: others[field]})
    (line,) = differences(trace, trace.record, wrong)
    assert f": {field}: expected" in line
    assert "step 5" in line


def test_the_comparison_notices_a_difference_in_each_ending() -> None:
    trace = corpus.traces("conformance")[0]
    for field, value in {"socket": 9, "reused": None, "queued": True, "outcome": "error", "error": "X"}.items():
        wrong = model.play(trace, NO_REPAIRS)
        wrong.requests[1] = dataclasses.replace(wrong.requests[1], **{field: value})
        (line,) = differences(trace, trace.record, wrong)
        assert "request 1" in line


def test_the_comparison_notices_a_session_that_was_not_resumed() -> None:
    trace = next(trace for trace in corpus.traces("conformance") if trace.name == "T01")
    wrong = model.play(trace, NO_REPAIRS)
    assert wrong.resumed == {0: False, 1: True}
    wrong.resumed[1] = False
    assert len(differences(trace, trace.record, wrong)) == 1


#: The switches that change an answer in the hand-made scenarios: each scenario named after a defect shows it.
DIFFERENCES = {
    "C06": {"N8"},
    "C08": {"N6"},
    "C09": {"N6"},
    "C10": {"N6"},
    "C16": {"N3", "N5", "N6"},
    "C18": {"N1", "N2"},
    "C19": {"N2"},
    "C20": {"N3"},
    "C21": {"N29"},
    "C22": {"N1", "N2"},
    "C24": {"N6"},
    "C29": {"N9"},
    "C30": {"N6"},
    "C32": {"N4", "N11"},
    "C34": {"N4"},
    "C36": {"N6"},
    "C40": {"N16"},
    "C41": {"N6", "N16"},
    "C44": {"N17"},
    "C45": {"N17"},
    "C46": {"N6", "N10"},
    "C47": {"N11"},
    "C48": {"N7"},
    "C49": {"N6", "N12"},
    "C50": {"N12"},
    "C54": {"N6", "N13"},
    "C58": {"N5", "N6", "N14", "A1", "A7"},
    "C59": {"N6", "N15"},
    "K04": {"N17", "A7"},
    "K09": {"N6", "A1", "A4"},
    "K10": {"A5"},
    "K12": {"A6"},
    "K13": {"A3"},
    "K15": {"N6", "A1"},
    "K16": {"A1", "A7"},
    "K17": {"N1", "A1", "A2"},
    "K18": {"N2", "A1"},
    "K19": {"A7"},
    "K20": {"N12", "A7"},
    "K24": {"A7"},
}


def test_the_differences_of_the_hand_made_scenarios() -> None:
    found = {trace.name: set(repairs_shown(trace)) for trace in corpus.traces("conformance")}
    assert {name: shown for name, shown in found.items() if shown} == DIFFERENCES


@pytest.mark.parametrize("name", corpus.CORPORA)
def test_every_difference_has_a_repair_and_every_repair_a_difference(name: str) -> None:
    """With all switches on and with all off, the answers differ exactly where single switches change one."""
    for trace in corpus.traces(name):
        off, on = (model.play(trace, repairs) for repairs in (NO_REPAIRS, model.ALL_REPAIRS))
        changed = [line for line in differences(trace, off, on) if ": counters:" not in line]
        if changed:
            assert repairs_shown(trace), changed


def test_each_repair_changes_an_answer_somewhere() -> None:
    shown = [repairs_shown(trace) for trace in corpus.traces("conformance")]
    assert set().union(*shown) == model.ALL_REPAIRS


def test_random_traces_without_defects_of_dispatch_differ_only_in_these() -> None:
    """Flags, limits, counters, and what follows when a request is sent again."""
    shown = set().union(*(repairs_shown(trace) for trace in corpus.traces("clean")))
    assert shown == {"N4", "N6", "N11", "N12", "N16", "A1", "A3", "A7"}


def _fragile(trace: Trace) -> bool:
    playing = model.Model(trace, NO_REPAIRS)
    playing.play()
    return bool(playing.fragile)
