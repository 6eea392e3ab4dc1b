"""What is measured: the cases, in suites, and the ratios that are printed.

This file is data. It imports no client, so that the processes that start others stay small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

World = Literal["async", "sync"]
Kind = Literal["rate", "burst", "memory", "cost"]
Port = Literal["http", "https", "https-full"]

BODIES = {"small": 100, "100kB": 100_000, "10MB": 10_000_000}
"""The bodies that the servers have, and their lengths in bytes."""

FAST, H11 = "agent-httptools", "agent-h11"
RELAY = "relay"

_OVER_HTTPX = ("httpx", FAST, H11)
ASYNC = (*_OVER_HTTPX, "httpx-aiohttp", "pyreqwest", "aiohttp", "niquests", "httpx2")
SYNC = (*_OVER_HTTPX, "pyreqwest", "requests", "urllib3", "niquests", "httpx2")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A piece of work that contenders do.

    Attributes:
        name: Its name, unique among all cases.
        title: What it is, for people.
        suite: The suite that it belongs to.
        world: Whether its tasks are asyncio's tasks or threads.
        contenders: Names of those that do it.
        tasks: How many tasks work at the same time. Each sends its next request when it has read the response.
        kind: ``"rate"``: tasks go on for a time; requests per second. ``"burst"``: each task sends one request, all at
            once; requests per second. ``"memory"``: each task sends one request, the server answers when it has all;
            bytes of resident memory per socket that is then free. ``"cost"``: as ``"rate"``, but all sockets of all
            origins are open beforehand; microseconds of processor time per request; see `cost`.
        sockets: How many sockets may be open; ``None``: as many as tasks.
        origins: How many origins the requests go to, in turn.
        body: The body of a response, a key of `BODIES`.
        port: ``"https"`` lets clients resume TLS sessions, ``"https-full"`` does not.
        reuse: Off: the server closes the connection after each response.
    """

    name: str
    title: str
    suite: str
    world: World
    contenders: tuple[str, ...]
    tasks: int
    kind: Kind = "rate"
    sockets: int | None = None
    origins: int = 1
    body: str = "small"
    port: Port = "http"
    reuse: bool = True

    @property
    def unit(self) -> str:
        """What a measurement counts."""
        return {"memory": "bytes/socket", "cost": "µs/request"}.get(self.kind, "requests/s")

    @property
    def less_is_better(self) -> bool:
        """Whether a small measurement is a good one."""
        return self.kind in ("memory", "cost")


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _small() -> list[Case]:
    bounds = ("floor", "bare", "ceiling")
    alone = f"{FAST}-alone"
    in_loops = [
        Case(
            name=f"async-{tasks}",
            title=f"async, {_counted(tasks, 'task')}",
            suite="async",
            world="async",
            contenders=(*bounds, *ASYNC, alone),
            tasks=tasks,
        )
        for tasks in (1, 20, 100, 1_000)
    ]
    in_threads = [
        Case(
            name=f"sync-{tasks}",
            title=f"sync, {_counted(tasks, 'thread')}",
            suite="sync",
            world="sync",
            contenders=(*bounds, *SYNC),
            tasks=tasks,
        )
        for tasks in (1, 20)
    ]
    return in_loops + in_threads


def _bodies() -> list[Case]:
    worlds: tuple[tuple[World, str, tuple[str, ...]], ...] = (("async", "task", ASYNC), ("sync", "thread", SYNC))
    return [
        Case(
            name=f"{world}-{body}-{tasks}",
            title=f"{world}, {body.replace('B', ' B').replace('k B', ' kB').replace('M B', ' MB')}, "
            f"{_counted(tasks, task)}",
            suite="bodies",
            world=world,
            contenders=("ceiling", *contenders),
            tasks=tasks,
            body=body,
        )
        for world, task, contenders in worlds
        for body, tasks in (("100kB", 20), ("10MB", 1), ("10MB", 4))
    ]


def _tls() -> list[Case]:
    return [
        Case(
            name=f"tls-{world}-{tasks}",
            title=f"TLS, {world}, {_counted(tasks, task)}",
            suite="tls",
            world=world,
            contenders=contenders,
            tasks=tasks,
            port="https",
        )
        for world, task, tasks, contenders in _TLS_WORLDS
    ]


_TLS_WORLDS: tuple[tuple[World, str, int, tuple[str, ...]], ...] = (
    ("async", "task", 20, ASYNC),
    ("async", "task", 100, ASYNC),
    ("sync", "thread", 20, SYNC),
)


def _connections() -> list[Case]:
    kinds: tuple[tuple[str, str, Port], ...] = (
        ("tcp", "TCP", "http"),
        ("tls-full", "TLS, no resumption", "https-full"),
        ("tls", "TLS, resumption offered", "https"),
    )
    worlds: tuple[tuple[World, str, int, tuple[str, ...]], ...] = (
        ("async", "task", 20, ASYNC),
        ("sync", "thread", 1, SYNC),
    )
    return [
        Case(
            name=f"connect-{kind}-{world}",
            title=f"{title}, {world}, {_counted(tasks, task)}",
            suite="connections",
            world=world,
            contenders=contenders,
            tasks=tasks,
            port=port,
            reuse=False,
        )
        for world, task, tasks, contenders in worlds
        for kind, title, port in kinds
    ]


def _crowds() -> list[Case]:
    return [
        Case(
            name="burst",
            title="5,000 tasks at once, 20 sockets",
            suite="burst",
            world="async",
            contenders=ASYNC,
            tasks=5_000,
            kind="burst",
            sockets=20,
        ),
        Case(
            name="origins",
            title="1,000 origins, 100 tasks",
            suite="origins",
            world="async",
            contenders=ASYNC,
            tasks=100,
            sockets=1_000,
            origins=1_000,
        ),
        Case(
            name="memory",
            title="500 free sockets",
            suite="memory",
            world="async",
            contenders=ASYNC,
            tasks=500,
            kind="memory",
        ),
    ]


@dataclass(frozen=True)
class Growth:
    """Cases that differ in one number only, and ought to cost the same.

    Attributes:
        title: What they are, for people.
        counts: That number, the smallest first.
        cases: The names of the cases, in this order.
    """

    title: str
    counts: tuple[int, ...]
    cases: tuple[str, ...]


_GROWING: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("free sockets", (10, 1_000, 10_000)),
    ("waiting requests", (10, 10_000)),
    ("origins", (1, 1_000)),
)
_COST_WORLDS: tuple[World, ...] = ("async", "sync")
_COST_SOCKETS = 10
"""How many sockets there are where requests wait."""

GROWTHS = tuple(
    Growth(f"{world}, {what}", counts, tuple(f"cost-{world}-{what.split()[0]}-{count}" for count in counts))
    for world in _COST_WORLDS
    for what, counts in _GROWING
)
"""What the pool's own cost must not grow with."""


def _cost() -> list[Case]:
    def case(world: World, what: str, count: int) -> Case:
        tasks, sockets, origins = {
            "free sockets": (1, count, 1),
            "waiting requests": (_COST_SOCKETS + count, _COST_SOCKETS, 1),
            "origins": (1, 1, count),
        }[what]
        return Case(
            name=f"cost-{world}-{what.split()[0]}-{count}",
            title=f"cost, {world}, {_counted(count, what.removesuffix('s'))}",
            suite="cost",
            world=world,
            contenders=(H11, FAST, RELAY) if world == "sync" and what == "waiting requests" else (H11, FAST),
            kind="cost",
            tasks=tasks,
            sockets=sockets,
            origins=origins,
        )

    return [case(world, what, count) for world in _COST_WORLDS for what, counts in _GROWING for count in counts]


CASES = {case.name: case for case in [*_small(), *_bodies(), *_tls(), *_connections(), *_crowds(), *_cost()]}
"""All cases by name, in the order in which they are measured and shown."""

SUITES = tuple(dict.fromkeys(case.suite for case in CASES.values()))
"""The names of the suites."""


@dataclass(frozen=True)
class Ratio:
    """One contender against another, or against the best of several.

    Attributes:
        group: The heading under which it is shown.
        case: The case that `contender` did.
        contender: Whose measurement stands above the line.
        against: Cases and contenders below the line. In each round the best of them counts.
        per_cent: Shown as a percentage: how much of a bound is reached.
    """

    group: str
    case: str
    contender: str
    against: tuple[tuple[str, str], ...]
    per_cent: bool = False


def _ratios() -> list[Ratio]:
    def rows(
        group: str, world: str, tasks: tuple[int, ...], *others: str, contender: str = FAST, per_cent: bool = False
    ) -> list[Ratio]:
        """For each of the others, one for each number of tasks."""
        return [
            Ratio(group, f"{world}-{count}", contender, ((f"{world}-{count}", other),), per_cent)
            for other in others
            for count in tasks
        ]

    def large(group: str, contender: str) -> list[Ratio]:
        """With bodies of 10 MB, against the faster of httpx and aiohttp."""
        return [
            Ratio(group, f"{world}-{work}", contender, ((f"{world}-{work}", "httpx"), (f"async-{work}", "aiohttp")))
            for world in ("async", "sync")
            for work in ("10MB-1", "10MB-4")
        ]

    possible, bare = "Of what is possible under an httpx client", "What httpx over bare sockets reaches, with no pool"
    return [
        *rows("Async, against httpx's default transport", "async", (1, 20, 100, 1_000), "httpx"),
        *rows("Async, against other transports of httpx", "async", (20, 100), "httpx-aiohttp", "pyreqwest"),
        *rows("Async, against httpx2's default transport", "async", (20, 100), "httpx2"),
        *rows(
            "The transport alone, against aiohttp's session", "async", (20, 100), "aiohttp", contender=f"{FAST}-alone"
        ),
        *rows(possible, "async", (20, 100), "ceiling", "bare", per_cent=True),
        *rows(possible, "sync", (1, 20), "ceiling", "bare", per_cent=True),
        *rows("Sync", "sync", (1, 20), "httpx", "urllib3"),
        *large("Bodies of 10 MB, against the faster of httpx and aiohttp", FAST),
        Ratio("Memory per free socket (less is better)", "memory", FAST, (("memory", "httpx"),)),
        *rows(
            "The h11 engine alone, against httpx's default transport", "async", (20, 100, 1_000), "httpx", contender=H11
        ),
        *rows(bare, "async", (1, 20, 100), "httpx", "httpx-aiohttp", "pyreqwest", "httpx2", contender="bare"),
        *rows(bare, "sync", (1, 20), "httpx", "urllib3", contender="bare"),
        *large("What httpx over nothing reaches with bodies of 10 MB", "ceiling"),
    ]


RATIOS = tuple(_ratios())
"""The ratios that a run prints, where it measured both sides."""
