"""Recorded traces: what a scenario did, step by step, to one of Node's agents.

A corpus is two files of JSON lines, compressed: `NAME.jsonl.gz` holds the scenarios, `NAME.trace.jsonl.gz` what was
recorded. `traces/README.md` says how, and with which versions. Times are milliseconds, as in Node.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TRACES = Path(__file__).with_name("traces")

Op = Mapping[str, Any]
"""A step of a scenario: ``op`` names it."""


@dataclass(frozen=True)
class Pool:
    """One origin: sockets and requests by number, in the order of the agent's lists."""

    active: tuple[int, ...] = ()
    free: tuple[int, ...] = ()
    waiting: tuple[int, ...] = ()
    dead: tuple[int, ...] = ()
    """Those that wait although they were aborted."""


@dataclass(frozen=True)
class Seen:
    """What can be seen when a step has settled."""

    pools: Mapping[str, Pool]
    """By origin; those with nothing in them are absent."""
    total: int
    created: int
    closed: int
    server_open: tuple[int, ...]
    limits: Mapping[int, float]
    """Per open socket, how long it may be silent; 0 means no limit."""
    counters: Mapping[str, int]
    """agentkeepalive's; empty for Node's own agent."""
    status_changed: bool | None = None


@dataclass(frozen=True)
class Ending:
    """What became of a request."""

    socket: int | None
    reused: bool | None
    queued: bool
    outcome: str | None
    """``ok``, ``error``, ``res_error`` (the response broke off), ``upgrade``, ``connect``, or nothing yet."""
    error: str | None = None


@dataclass
class Record:
    """All that was seen of one run of a scenario."""

    steps: list[Seen] = field(default_factory=list)
    requests: dict[int, Ending] = field(default_factory=dict)
    resumed: dict[int, bool] = field(default_factory=dict)
    """Per socket with TLS, whether its session was resumed."""


@dataclass
class Trace:
    """A scenario, its operations as they were resolved, and what was recorded."""

    name: str
    agent: str
    """``node`` or ``agentkeepalive``."""
    tls: bool
    strict_tls: bool
    """Whether the client checks the server's certificate, which it cannot know."""
    create_delay: float
    """How long `createConnection` takes."""
    options: Mapping[str, Any]
    steps: list[Op]
    record: Record
    origins: int
    untimely: bool
    """Whether the recording itself says that it may depend on the machine's speed."""

    def __repr__(self) -> str:
        return f"<Trace {self.name}>"


def read(corpus: str) -> list[Trace]:
    """The traces of a corpus of this folder."""
    scenarios = {line["name"]: line for line in _lines(TRACES / f"{corpus}.jsonl.gz")}
    return [parse(line, scenarios[line["name"]]) for line in _lines(TRACES / f"{corpus}.trace.jsonl.gz")]


def read_file(path: Path) -> list[Trace]:
    """The traces of any file that the recorder wrote, compressed or not."""
    return [parse(line, {}) for line in _lines(path)]


def read_scenarios(corpus: str) -> list[dict[str, Any]]:
    """The scenarios of a corpus, with their relative operations (`finish_any` and the like)."""
    return list(_lines(TRACES / f"{corpus}.jsonl.gz"))


def parse(line: Mapping[str, Any], scenario: Mapping[str, Any]) -> Trace:
    """A trace from its line of JSON, with what only its scenario knows."""
    operations = [operation for step in line["steps"] for operation in flatten(step["op"])]
    return Trace(
        name=line["name"],
        agent=line["agent"],
        tls=line["tls"],
        strict_tls=scenario.get("strict_tls", False),
        create_delay=scenario.get("create_delay_ms", 0),
        options=line["options"],
        steps=[step["op"] for step in line["steps"]],
        record=Record(
            steps=[_seen(step) for step in line["steps"]],
            requests={int(number): _ending(request) for number, request in line["requests"].items()},
            resumed={
                event["conn"]: event["session_reused"]
                for step in line["steps"]
                for event in step["events"]
                if event["ev"] == "secure"
            },
        ),
        origins=1 + max((operation.get("origin", 0) for operation in operations), default=0),
        untimely=any(_is_untimely(step) for step in line["steps"]),
    )


def flatten(operation: Op) -> Iterator[Op]:
    """An operation, or those of a batch."""
    yield from operation["steps"] if operation["op"] == "batch" else [operation]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        yield from (json.loads(line) for line in lines if line.strip() and line.strip() != "null")


def _seen(step: Mapping[str, Any]) -> Seen:
    state = step["state"]
    return Seen(
        pools={
            _origin(name): Pool(
                tuple(pool["active"]), tuple(pool["free"]), tuple(pool["queued"]), tuple(pool.get("queued_dead", ()))
            )
            for name, pool in state["pools"].items()
            if pool["active"] or pool["free"] or pool["queued"]
        },
        total=state["total_socket_count"],
        created=state["created"],
        closed=state["closed"],
        server_open=tuple(state["server_open"]),
        limits={int(number): limit for number, limit in state["timeouts"].items()},
        counters=state.get("counters", {}),
        status_changed=step.get("status_changed"),
    )


def _origin(name: str) -> str:
    """A pool name of Node's, such as ``127.0.0.1:{0}:``, as the number of its origin and a TLS server name."""
    fields = name.split(":")
    server_name = fields[10] if len(fields) > 10 else ""
    return f"{re.search(r'{([0-9]+)}', name)[1]} {server_name}".strip()  # type: ignore[index]


def _ending(request: Mapping[str, Any]) -> Ending:
    return Ending(
        socket=request["conn"],
        reused=request["reused"],
        queued=request["queued"],
        outcome=request["outcome"],
        error=(request.get("error") or {}).get("code"),
    )


def _is_untimely(step: Mapping[str, Any]) -> bool:
    timed_out = any(event["ev"] == "socket_timeout" for event in step["events"])
    return "late_ms" in step or "settle" in step or (timed_out and step["op"]["op"] != "advance")
