"""Describe the differences between two records of one scenario."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .trace import Record, Seen, Trace

#: Limits come from a clock: this much, in milliseconds, is no difference.
TOLERANCE = 100.0

#: What can be compared.
ALL = frozenset(
    {"pools", "total", "created", "closed", "server_open", "limits", "counters", "status_changed"}
    | {"requests", "resumed"}
)

#: What the core alone shows: it knows nothing of TLS.
OF_THE_CORE = ALL - {"resumed"}


def differences(trace: Trace, expected: Record, got: Record, what: frozenset[str] = ALL) -> list[str]:
    """One line per difference, the earliest first; an empty list means that there is none."""
    found = []
    for number, (operation, wanted, seen) in enumerate(zip(trace.steps, expected.steps, got.steps, strict=True)):
        for name, want, see in differing(wanted, seen, what):
            found.append(f"{trace.name} step {number} {dict(operation)}: {name}: expected {want}, got {see}")
    if "requests" in what:
        for number, want in expected.requests.items():
            see = got.requests.get(number)
            if want != see:
                found.append(f"{trace.name} request {number}: expected {want}, got {see}")
    if "resumed" in what and expected.resumed != got.resumed:
        found.append(f"{trace.name} sessions resumed: expected {expected.resumed}, got {got.resumed}")
    return found


def differing(wanted: Seen, seen: Seen, what: frozenset[str] = ALL) -> list[tuple[str, Any, Any]]:
    """In what two steps differ: name, what was wanted, what was seen."""
    pairs = [
        (name, getattr(wanted, name), getattr(seen, name))
        for name in ("pools", "total", "created", "closed", "server_open", "counters", "status_changed")
    ]
    found = [(name, want, see) for name, want, see in pairs if want != see]
    if not same_limits(wanted.limits, seen.limits):
        found.append(("limits", wanted.limits, seen.limits))
    return [difference for difference in found if difference[0] in what]


def same_limits(wanted: Mapping[int, float], seen: Mapping[int, float]) -> bool:
    """Whether the limits are those that were wanted, within the tolerance."""
    return wanted.keys() == seen.keys() and all(abs(wanted[n] - seen[n]) <= TOLERANCE for n in wanted)


def as_an_agent_shows_it(record: Record) -> Record:
    """Leaves out what an agent of ours does not show: the limits of sockets in use."""
    steps = []
    for seen in record.steps:
        free = [socket for pool in seen.pools.values() for socket in pool.free]
        steps.append(replace(seen, limits={socket: seen.limits[socket] for socket in free}))
    return replace(record, steps=steps)
