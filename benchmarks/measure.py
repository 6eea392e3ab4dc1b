"""One measurement, in a process of its own: `python -m benchmarks.measure`, with the order in JSON on standard input.

It prints the answer in JSON. Every response is read to its end, and its length is checked; a request that fails counts
as an error, and not as a request.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import importlib
import itertools
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from . import cost
from .cases import BODIES, CASES, Case
from .contenders import AsyncContender, Contender, Setup, SyncContender, Unavailable
from .descriptors import allow_many_files

WARM_UP = 0.25
"""How long the warm-up is, as a part of the time measured; at least one request per task, or one per origin."""


LIMIT = 60.0
"""Seconds after which a contender is measured by what it did until then, since the window opened or, if it did not open
because not every task has had a response, since the tasks began."""


@dataclass(frozen=True)
class Order:
    """What is to be measured.

    Attributes:
        case: The name of the case.
        contender: The name of the contender.
        seconds: How long the tasks go on.
        urls: Where the requests go, in turn.
        certificate: Path of the certificate authority to trust.
        server_pids: The server's processes, whose processor time is noted.
        path: The server's Unix socket, if it has one.
    """

    case: str
    contender: str
    seconds: float
    urls: list[str]
    certificate: str
    server_pids: list[int]
    path: str | None = None


@dataclass
class Answer:
    """What was measured.

    Attributes:
        value: In the unit of the case; `None` if there is none.
        unavailable: Why the contender cannot take part.
        version: The version of the contender's package.
        requests: How many responses were read.
        errors: What went wrong, and how often, the warm-up included.
        client_cpu: Processor time of this process, its threads included, as a part of the time measured.
        server_cpu: The same of the server; `None` where the system does not tell.
        cpu_per_request: Processor time of this process per request, in seconds.
        peak_memory: The most resident memory that this process had, in bytes; `None` where the system does not tell.
        limited: It did not come to steady work, or not through it, within `LIMIT`; the value is an average until then.
    """

    value: float | None = None
    unavailable: str | None = None
    version: str | None = None
    requests: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    client_cpu: float | None = None
    server_cpu: float | None = None
    cpu_per_request: float | None = None
    peak_memory: int | None = None
    limited: bool = False


class Tally:
    """Counts requests and errors of all tasks, and takes the time and the processor time of both sides meanwhile."""

    def __init__(self, case: Case, server_pids: list[int]) -> None:
        self.length = BODIES[case.body]
        self.pids = server_pids
        self.requests = 0
        self.errors: Counter[str] = Counter()

    def read(self, length: int) -> None:
        """A response was read."""
        if length == self.length:
            self.requests += 1
        else:
            self.errors[f"a body of {length} bytes, not {self.length}"] += 1

    def failed(self, error: Exception) -> None:
        """A request ended otherwise."""
        self.errors[f"{type(error).__name__}: {error}"[:200]] += 1

    def start(self) -> None:
        """Take the time from now on, and count requests from now on."""
        self.requests = 0
        self.server = self._server_cpu()
        self.client = time.process_time()
        self.begun = time.perf_counter()

    def stop(self) -> Answer:
        """What happened since the start."""
        elapsed = time.perf_counter() - self.begun
        client, server = time.process_time() - self.client, self._server_cpu()
        return Answer(
            value=self.requests / elapsed,
            requests=self.requests,
            client_cpu=client / elapsed,
            server_cpu=None if server is None or self.server is None else (server - self.server) / elapsed,
            cpu_per_request=client / self.requests if self.requests else None,
        )

    def _server_cpu(self) -> float | None:
        ticks = 0
        for pid in self.pids:
            try:
                stat = Path(f"/proc/{pid}/stat").read_text()
            except OSError:
                return None
            fields = stat.rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])  # utime and stime, 14 and 15 in proc(5)
        return ticks / os.sysconf("SC_CLK_TCK")


class Window:
    """The time in the middle of steady work that is measured.

    Tasks begin to work before it, and go on until after it. It begins and ends with the end of a request, and has room
    for a whole number of requests per task: tasks may be in step, all sending, then all receiving, and part of a step
    tells nothing.
    """

    def __init__(self, tally: Tally, tasks: int, seconds: float, fresh: int) -> None:
        self.tally = tally
        self.tasks = tasks
        self.seconds = seconds
        self.fresh = fresh
        self.end = time.perf_counter() + seconds * WARM_UP
        self.answer: Answer | None = None
        self._open, self._ended = False, 0
        self._lock = threading.Lock()

    def tick(self, outcome: int | Exception, *, first: bool) -> bool:
        """A task's request ended, perhaps its first; false if the window is over."""
        with self._lock:
            if self.answer is not None:
                return False
            if isinstance(outcome, Exception):
                self.tally.failed(outcome)
            else:
                self.tally.read(outcome)
            self.fresh -= first
            self._ended += 1
            now = time.perf_counter()
            if now < self.end or self.fresh > 0:
                return True
            if not self._open:
                self._open, self._ended, self.end = True, 0, now + self.seconds
                self.tally.start()
            elif self._ended % self.tasks == 0:
                self.answer = self.tally.stop()
            return self.answer is None


async def measure_in_loop(contender: AsyncContender, case: Case, order: Order, setup: Setup) -> Answer:
    """Measure on asyncio.

    Tasks that still work are left to the end of the process: to cancel 1,000 requests takes some clients minutes.
    """
    try:
        await contender.open(setup)
    except Exception as error:
        return Answer(unavailable=why(error))
    tally = Tally(case, order.server_pids)
    match case.kind:
        case "rate":
            answer = await rate_in_loop(contender, case, order, tally)
        case "burst":
            await requests_at_once(contender, order.urls[0], setup.sockets, tally)
            tally.start()
            await requests_at_once(contender, order.urls[0], case.tasks, tally)
            answer = tally.stop()
            await contender.close()
        case "memory":
            answer = await memory_in_loop(contender, case, order, tally)
            await contender.close()
    answer.errors = dict(tally.errors)
    return answer


async def requests_at_once(contender: AsyncContender, url: str, count: int, tally: Tally) -> None:
    """That many tasks send one request each."""

    async def once() -> None:
        try:
            tally.read(await contender.request(url))
        except Exception as error:
            tally.failed(error)

    await asyncio.gather(*(once() for _ in range(count)))


async def rate_in_loop(contender: AsyncContender, case: Case, order: Order, tally: Tally) -> Answer:
    """Requests per second of tasks that work all the time.

    They begin in different turns of the loop. Tasks that begin at once stay in step, and all sockets come free
    together, again and again. Then httpx's default transport is ten times slower with 100 tasks, and takes many minutes
    for a step of 1,000; to measure only that would not be fair.
    """
    urls = itertools.cycle(order.urls)

    async def visit() -> None:
        # Opens a socket for each origin; a socket for each task is opened by the tasks' first requests.
        for url in places:
            tally.read(await contender.request(url))

    async def work(turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        first = True
        for url in urls:
            try:
                outcome: int | Exception = await contender.request(url)
            except Exception as error:
                outcome = error
                await asyncio.sleep(0)  # one that fails at once lets the others begin
            if not window.tick(outcome, first=first):
                over.set()
                return
            first = False

    if case.origins > 1:
        places = iter(order.urls)
        await asyncio.gather(*(visit() for _ in range(case.tasks)))
    over = asyncio.Event()
    tally.start()
    window = Window(tally, case.tasks, order.seconds, fresh=case.tasks if case.origins == 1 else 0)
    # Kept in a name: the loop itself refers to tasks weakly.
    _tasks = [asyncio.ensure_future(work(turns)) for turns in turns_before(case.tasks)]
    with suppress(TimeoutError):
        await asyncio.wait_for(over.wait(), order.seconds + LIMIT)
    if window.answer is None:
        answer = tally.stop()
        answer.limited = True
        return answer
    return window.answer


def turns_before(tasks: int) -> list[int]:
    """How many turns of the loop each task waits before it begins: one task a turn, or more, so that 100 turns do."""
    turns = min(tasks, 100)
    return [task * turns // tasks for task in range(tasks)]


async def memory_in_loop(contender: AsyncContender, case: Case, order: Order, tally: Tally) -> Answer:
    """Resident memory per free socket; the server answers when all requests are there, so each has a socket."""
    url = order.urls[0]
    await requests_at_once(contender, url.replace(f"/hold/{case.tasks}", "/hold/1"), 1, tally)
    tally.requests = 0
    before = resident_memory()
    await requests_at_once(contender, url, case.tasks, tally)
    await asyncio.sleep(0.2)  # what is still to be closed closes
    after = resident_memory()
    answer = Answer(requests=tally.requests)
    open_sockets = await open_at_server(url)
    if open_sockets != case.tasks:
        tally.errors[f"{open_sockets} sockets are open, not {case.tasks}"] += 1
    elif before is not None and after is not None:
        answer.value = (after - before) / case.tasks
    return answer


def measure_in_threads(contender: SyncContender, case: Case, order: Order, setup: Setup) -> Answer:
    """Measure in threads, which work all the time."""
    try:
        contender.open(setup)
    except Exception as error:
        return Answer(unavailable=why(error))
    (url,) = order.urls
    tally = Tally(case, order.server_pids)

    def work() -> None:
        first = going = True
        while going:
            try:
                outcome: int | Exception = contender.request(url)
            except Exception as error:
                outcome = error
            going = window.tick(outcome, first=first)
            first = False

    window = Window(tally, case.tasks, order.seconds, fresh=case.tasks)
    threads = [threading.Thread(target=work) for _ in range(case.tasks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    contender.close()
    assert window.answer is not None
    window.answer.errors = dict(tally.errors)
    return window.answer


def measure_cost(contender: Contender, case: Case, order: Order) -> Answer:
    """Measure the pool's own cost, in microseconds of processor time per request.

    Not by the clock: others' work on the machine, and the server's, is none of the pool's.
    """
    tally = Tally(case, order.server_pids)
    engine: str = contender.engine  # type: ignore[attr-defined]  # those of the cases have one
    try:
        if case.world == "async":
            work = cost.measure_in_loop(case, order, engine, tally)
            answer = asyncio.new_event_loop().run_until_complete(work)
        else:
            answer = cost.measure_in_threads(case, order, engine, tally)
    except ImportError as error:
        return Answer(unavailable=why(error))
    answer.value = answer.cpu_per_request and answer.cpu_per_request * 1e6
    answer.errors = dict(tally.errors)
    return answer


def resident_memory() -> int | None:
    """Bytes of this process in memory, after all that can be given back is given back."""
    gc.collect()
    with suppress(AttributeError, OSError):  # not glibc: what was freed may still be counted
        ctypes.CDLL(None).malloc_trim(0)
    return _from_proc("VmRSS")


def peak_memory() -> int | None:
    """The most bytes of this process that were in memory at once."""
    # Not `ru_maxrss`: in Linux that begins with the size of the process that started this one.
    return _from_proc("VmHWM")


def _from_proc(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


async def open_at_server(url: str) -> int:
    """How many connections the server has, that for this question not counted."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(b"GET /sockets HTTP/1.1\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    count = int(await reader.read(20))
    writer.close()
    await writer.wait_closed()
    return count - 1


def why(error: Exception) -> str:
    """Why a contender cannot take part."""
    return str(error) if isinstance(error, Unavailable) else f"{type(error).__name__}: {error}"


def find(case: Case, name: str) -> Contender:
    """The contender of that name in the case's world."""
    module = "in_loops" if case.world == "async" else "in_threads"
    classes = importlib.import_module(f".contenders.{module}", __package__).CONTENDERS
    found: Callable[[], Contender] = next(one for one in classes if one.name == name)
    return found()


def carry_out(order: Order) -> Answer:
    """Do what the order says."""
    case = CASES[order.case]
    contender = find(case, order.contender)
    setup = Setup(sockets=case.sockets or case.tasks, origins=case.origins, certificate=order.certificate)
    if case.kind == "cost":
        answer = measure_cost(contender, case, order)
    elif isinstance(contender, AsyncContender):
        answer = asyncio.new_event_loop().run_until_complete(measure_in_loop(contender, case, order, setup))
    else:
        assert isinstance(contender, SyncContender)
        answer = measure_in_threads(contender, case, order, setup)
    if answer.unavailable is None:
        answer.version = contender.version()
    answer.peak_memory = peak_memory()
    return answer


if __name__ == "__main__":
    allow_many_files()
    print(json.dumps(asdict(carry_out(Order(**json.load(sys.stdin))))), flush=True)
    os._exit(0)  # with requests in flight
