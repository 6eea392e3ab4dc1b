"""Find the repairs that make an agent's answers to a scenario differ from Node's."""

from __future__ import annotations

from dataclasses import replace

from .model import ALL_REPAIRS, NODE_NAMES, Model
from .trace import Record, Trace


def repairs_shown(trace: Trace) -> frozenset[str]:
    """The switches that change an answer: switched on alone, or switched off alone."""
    nothing, asked = _answers(trace, frozenset())
    everything, asked_when_on = _answers(trace, ALL_REPAIRS)
    return frozenset(
        repair
        for repair in asked | asked_when_on
        if _answers(trace, frozenset({repair}))[0] != nothing
        or _answers(trace, ALL_REPAIRS - {repair})[0] != everything
    )


def _answers(trace: Trace, repairs: frozenset[str]) -> tuple[Record, set[str]]:
    model = Model(trace, repairs)
    return _in_names_of_node(trace, model.play()), model.asked


def _in_names_of_node(trace: Trace, record: Record) -> Record:
    """Only what Node's agent counts, and under its names, so that the counters can be compared."""
    names = {**NODE_NAMES, **{name: name for name in NODE_NAMES.values()}} if trace.agent == "agentkeepalive" else {}
    return replace(
        record,
        steps=[
            replace(seen, counters={names[name]: count for name, count in seen.counters.items() if name in names})
            for seen in record.steps
        ],
    )
