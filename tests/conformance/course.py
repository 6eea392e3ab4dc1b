"""Let a scenario take its own course: the model resolves its relative operations, not the record of Node.

Where the repairs change much, a recorded trace soon speaks of requests that are no longer where Node had them. Resolved
against the repaired model, every operation finds something to act on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .model import ALL_REPAIRS, Model
from .trace import Op, Record, Trace, flatten


def take(scenario: Mapping[str, Any]) -> Trace:
    """The scenario as a trace of the model with all repairs on; its record is what the agent has to show."""
    operations = [operation for step in scenario["steps"] for operation in flatten(step)]
    trace = Trace(
        name=scenario["name"],
        agent=scenario["agent"],
        tls=scenario.get("tls", False),
        strict_tls=scenario.get("strict_tls", False),
        create_delay=scenario.get("create_delay_ms", 0),
        options=scenario["options"],
        steps=[],
        record=Record(),
        origins=1 + max(operation.get("origin", 0) for operation in operations),
        untimely=False,
    )
    model = Model(trace, ALL_REPAIRS)

    def resolved() -> Iterator[Op]:
        for step in scenario["steps"]:
            trace.steps.append(_resolve(model, step))
            yield trace.steps[-1]

    trace.record = model.follow(resolved())
    return trace


def _resolve(model: Model, operation: Op) -> Op:
    """The operation with a number in it, as the recorder resolves it."""
    name = operation["op"]
    in_flight = [request.id for request in model.in_flight()]
    choices: dict[str, tuple[str, str, list[int]]] = {
        "finish_any": ("finish", "id", in_flight),
        "abort_inflight": ("abort", "id", in_flight),
        "abort_queued": ("abort", "id", sorted(request.id for request in model.waiting())),
        "server_close_any": ("server_close", "id", in_flight),
        "server_close_idle_any": ("server_close_idle", "conn", sorted(socket.id for socket in model.freed)),
    }
    if name not in choices:
        return operation
    becomes, key, numbers = choices[name]
    if not numbers:
        return {"op": "noop", "was": name}
    rest = {field: value for field, value in operation.items() if field != "pick"}
    return {**rest, "op": becomes, key: numbers[operation.get("pick", 0) % len(numbers)]}
