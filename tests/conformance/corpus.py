"""List the traces, and those about features that our agent does not have."""

from __future__ import annotations

from functools import cache

from .model import ALL_REPAIRS, Model
from .trace import Trace, read

CORPORA = ("conformance", "clean", "clean_timers", "fresh", "mixed", "overtaking")

#: Scenarios that only the model plays, and why.
MODEL_ONLY = {
    "C52": "aborts a request in the turn that made it: nothing was opened yet here, and Node 20 and 26 disagree",
    "C57": "takes a socket away from the agent by an event; there are no events yet (R29)",
    "C58": "a creator of connections that fails through its callback; ours is a network backend, and raises",
    "C59": "a creator of connections that takes its time; here a socket counts before it is opened",
    "K11": "a socket with an idle time of its own: not taken (R35)",
    "K12": "a socket with an idle time of its own: not taken (R35)",
    "T04": "pools by Host header: here the request extension `sni_hostname` tells them apart",
}


@cache
def traces(corpus: str) -> tuple[Trace, ...]:
    """All of a corpus."""
    return tuple(read(corpus))


def is_fragile(trace: Trace) -> bool:
    """Whether the trace depends on how fast the machine was that recorded it, or is that plays it."""
    return trace.untimely or any(_is_fragile(trace, repairs) for repairs in (frozenset[str](), ALL_REPAIRS))


def _is_fragile(trace: Trace, repairs: frozenset[str]) -> bool:
    model = Model(trace, repairs)
    model.play()
    return bool(model.fragile)
