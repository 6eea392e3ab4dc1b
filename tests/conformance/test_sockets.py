"""httpx over real sockets against the model with all repairs on: every step of every trace, sync, asyncio and trio.

The normal run plays a sample. `--whole` plays every corpus, `--traces FILE` any file that the recorder wrote.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import pytest
from anyio.from_thread import BlockingPortal

from tests.support.servers import Certificates
from tests.support.worlds import World

from . import corpus, course
from .compare import ALL, as_an_agent_shows_it, differences
from .model import ALL_REPAIRS
from .model import play as play_model
from .on_sockets import play
from .scenario_server import running
from .trace import Record, Trace, read_file, read_scenarios

#: So many traces are played at once; most of the time of those with timers is spent waiting.
AT_ONCE = 24

#: So many make a test.
GROUP = 48

#: The sample: for those with timers, the first that take no longer than so many milliseconds.
SAMPLE_OF_CLEAN = 20
SAMPLE_OF_TIMERS = 4
SAMPLE_TIME = 3000

#: What is not compared in a world, and why not.
NOT_COMPARED = {}
if sys.version_info < (3, 13):  # `ssl` tells a thread of a reset as of an end, so it is not counted as an error
    NOT_COMPARED["sync", "T03"] = frozenset({"counters"})


#: Not played over sockets, and why.
NOT_OVER_SOCKETS = {
    "C31": "an answer before the request has left: Node sends on and keeps the socket, here that ends the upload (R18)",
}


@dataclass(frozen=True)
class Group:
    """Traces that are played at once."""

    name: str
    """A corpus, or the path of a file."""
    start: int = 0
    stop: int | None = None

    def __str__(self) -> str:
        return f"{Path(self.name).stem}-{self.start}"

    def traces(self) -> list[Trace]:
        """Those that tell something of an agent of ours, whatever the speed of the machine."""
        traces = _traces(self.name)[self.start : self.stop]
        left_out = corpus.MODEL_ONLY.keys() | NOT_OVER_SOCKETS.keys()
        return [trace for trace in traces if trace.name not in left_out and not corpus.is_fragile(trace)]


class Brief(Group):
    """Those of a corpus that take little time, and of them a few."""

    def traces(self) -> list[Trace]:
        return [trace for trace in super().traces() if _duration(trace) <= SAMPLE_TIME][:SAMPLE_OF_TIMERS]


SAMPLE = (Group("conformance"), Group("clean", stop=SAMPLE_OF_CLEAN), Brief("clean_timers"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The sample, every corpus, or the files that were named."""
    if "group" in metafunc.fixturenames:
        files = metafunc.config.getoption("traces")
        names = files or (corpus.CORPORA if metafunc.config.getoption("whole") else ())
        groups = [Group(n, start, start + GROUP) for n in names for start in range(0, len(_traces(n)), GROUP)]
        metafunc.parametrize("group", groups or SAMPLE, ids=str)


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    """The thread of the servers."""
    with running() as portal:
        yield portal


@pytest.mark.timeout(300)
async def test_httpx_over_sockets_does_what_the_model_does(
    world: World, group: Group, portal: BlockingPortal, certificates: Certificates
) -> None:
    traces = group.traces()
    expected = {trace.name: expectation(trace) for trace in traces}

    async def compare(trace: Trace) -> list[str]:
        what = ALL - NOT_COMPARED.get((world.name, trace.name), frozenset())
        got = await play(trace, world, expected[trace.name], what, portal=portal, certificates=certificates)
        return differences(trace, expected[trace.name], got, what)

    assert traces
    # Those with timers by themselves: the others keep a machine busy.
    different = await at_once(compare, [trace for trace in traces if not _duration(trace)])
    different += await at_once(compare, [trace for trace in traces if _duration(trace)])
    assert not different, "\n".join(different)


async def test_where_node_is_not_defective_it_is_node_itself(
    world: World, portal: BlockingPortal, certificates: Certificates, request: pytest.FixtureRequest
) -> None:
    """Node's own record of `clean`, not the model's: the same is open and waits, if nothing is sent again."""
    what = frozenset({"pools", "total", "created", "closed", "server_open"})

    async def compare(trace: Trace) -> list[str]:
        got = await play(
            trace,
            world,
            trace.record,
            what,
            portal=portal,
            certificates=certificates,
            retry_stale_sockets=False,
        )
        found = differences(trace, trace.record, got, what)
        for number, ending in trace.record.requests.items():  # Node's flag `reused` is defective (N6)
            if replace(got.requests[number], reused=ending.reused) != ending:
                found.append(f"{trace.name} request {number}: expected {ending}, got {got.requests[number]}")
        return found

    is_all = request.config.getoption("whole")
    different = await at_once(compare, corpus.traces("clean")[: None if is_all else SAMPLE_OF_CLEAN])
    assert not different, "\n".join(different)


@pytest.mark.timeout(300)
async def test_scenarios_on_their_own_course(
    world: World, portal: BlockingPortal, certificates: Certificates, request: pytest.FixtureRequest
) -> None:
    """One origin's queue against another's; relative steps are chosen from what the repaired agent has."""

    async def compare(trace: Trace) -> list[str]:
        expected = as_an_agent_shows_it(trace.record)
        got = await play(trace, world, expected, portal=portal, certificates=certificates)
        return differences(trace, expected, got)

    is_all = request.config.getoption("whole")
    names = ("overtaking", "mixed") if is_all else ("overtaking",)
    traces = [course.take(scenario) for name in names for scenario in read_scenarios(name)]
    different = await at_once(compare, traces)
    assert not different, "\n".join(different)


async def test_a_wrong_option_is_noticed(world: World, portal: BlockingPortal, certificates: Certificates) -> None:
    """The free socket that is used next: the first instead of the last."""
    trace = _named("C03")
    expected = expectation(trace)
    got = await play(trace, world, expected, portal=portal, certificates=certificates, patience=0.5, scheduling="fifo")
    found = differences(trace, expected, got)
    assert found
    assert all("C03 step 4" in line or "C03 request" in line for line in found)
    assert any("step 4" in line and ": pools:" in line for line in found)


async def test_what_has_no_counterpart_is_not_played(
    world: World, portal: BlockingPortal, certificates: Certificates
) -> None:
    for name, reason in {"C57": "cannot be done", "C58": "cannot be done", "K11": "cannot be sent"}.items():
        trace = _named(name)
        with pytest.raises(ValueError, match=f"{name}: .* {reason} to an agent of ours"):
            await play(trace, world, trace.record, frozenset(), portal=portal, certificates=certificates)


async def at_once(compare: Callable[[Trace], Awaitable[list[str]]], traces: Sequence[Trace]) -> list[str]:
    """What differs, of many traces."""
    different = []
    limiter = anyio.CapacityLimiter(AT_ONCE)

    async def take(trace: Trace) -> None:
        async with limiter:
            different.extend(await compare(trace))

    async with anyio.create_task_group() as tasks:
        for trace in traces:
            tasks.start_soon(take, trace)
    return different


def expectation(trace: Trace) -> Record:
    """What an agent of ours has to show."""
    return as_an_agent_shows_it(play_model(trace, ALL_REPAIRS))


def _traces(name: str) -> tuple[Trace, ...]:
    return corpus.traces(name) if name in corpus.CORPORA else tuple(read_file(Path(name)))


def _named(name: str) -> Trace:
    return next(trace for trace in corpus.traces("conformance") if trace.name == name)


def _duration(trace: Trace) -> float:
    return sum(operation["ms"] for operation in trace.steps if operation["op"] == "advance")
