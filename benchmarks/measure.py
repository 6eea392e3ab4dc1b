"""One measurement, in a process of its own: `python -m benchmarks.measure`, with the order in JSON on standard input.

It prints the answer in JSON. After a warm-up that opens the sockets, the tasks of the case work for the time that the
order gives. Every response is read to its end, and its length is checked; a request that fails counts as an error, and
not as a request.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import importlib
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

from .cases import BODIES, CASES, Case
from .contenders import AsyncContender, Contender, Setup, SyncContender, Unavailable
from .descriptors import allow_many_files

WARM_UP = 0.25
"""How long the warm-up is, as a part of the time measured; at least one request per task, and one per origin."""


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
    """

    case: str
    contender: str
    seconds: float
    urls: list[str]
    certificate: str
    server_pids: list[int]


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


class Tally:
    """Counts requests and errors of all tasks."""

    def __init__(self, length: int) -> None:
        self.length = length
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


class Watch:
    """Takes the time, and the processor time of both sides."""

    def __init__(self, server_pids: list[int]) -> None:
        self.pids = server_pids
        gc.collect()
        self.server = self._server_cpu()
        self.client = time.process_time()
        self.start = time.perf_counter()

    def stop(self, answer: Answer, tally: Tally) -> None:
        """Note what happened since this was made."""
        elapsed = time.perf_counter() - self.start
        client = time.process_time() - self.client
        answer.client_cpu = client / elapsed
        server = self._server_cpu()
        if server is not None and self.server is not None:
            answer.server_cpu = (server - self.server) / elapsed
        answer.requests = tally.requests
        answer.value = tally.requests / elapsed
        answer.cpu_per_request = client / tally.requests if tally.requests else None

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


async def measure_in_loop(contender: AsyncContender, case: Case, order: Order, setup: Setup) -> Answer:
    """Measure on asyncio."""
    answer = Answer()
    try:
        await contender.open(setup)
    except Exception as error:
        return Answer(unavailable=why(error))
    tally = Tally(BODIES[case.body])

    async def once(index: int) -> None:
        try:
            tally.read(await contender.request(order.urls[index % len(order.urls)]))
        except Exception as error:
            tally.failed(error)

    async def work(index: int, end: float) -> None:
        while True:
            await once(index)
            index += 1
            if time.perf_counter() >= end:
                return

    async def together(seconds: float) -> None:
        # One end for all: a contender that never waits lets only one task work at a time.
        end = time.perf_counter() + seconds
        stride = len(order.urls) / case.tasks
        await asyncio.gather(*(work(int(task * stride), end) for task in range(case.tasks)))

    async def visit(first: int) -> None:
        for index in range(first, len(order.urls), case.tasks):
            await once(index)

    try:
        match case.kind:
            case "rate":
                if case.origins > 1:
                    await asyncio.gather(*map(visit, range(case.tasks)))
                else:
                    await together(order.seconds * WARM_UP)
                tally.requests = 0
                watch = Watch(order.server_pids)
                await together(order.seconds)
                watch.stop(answer, tally)
            case "burst":
                await asyncio.gather(*map(once, range(setup.sockets)))
                tally.requests = 0
                watch = Watch(order.server_pids)
                await asyncio.gather(*map(once, range(case.tasks)))
                watch.stop(answer, tally)
            case "memory":
                tally.read(await contender.request(order.urls[0].replace(f"/hold/{case.tasks}", "/hold/1")))
                before = resident_memory()
                await asyncio.gather(*map(once, range(case.tasks)))
                await asyncio.sleep(0.2)  # what is still to be closed closes
                answer.requests = tally.requests
                after = resident_memory()
                open_sockets = await open_at_server(order.urls[0])
                if open_sockets != case.tasks:
                    tally.errors[f"{open_sockets} sockets are open, not {case.tasks}"] += 1
                elif before is not None and after is not None:
                    answer.value = (after - before) / case.tasks
    finally:
        await contender.close()
    answer.errors = dict(tally.errors)
    return answer


def measure_in_threads(contender: SyncContender, case: Case, order: Order, setup: Setup) -> Answer:
    """Measure in threads."""
    answer = Answer()
    try:
        contender.open(setup)
    except Exception as error:
        return Answer(unavailable=why(error))
    length = BODIES[case.body]

    def work(index: int, end: float, tally: Tally) -> None:
        while True:
            try:
                tally.read(contender.request(order.urls[index % len(order.urls)]))
            except Exception as error:
                tally.failed(error)
            index += 1
            if time.perf_counter() >= end:
                return

    def together(seconds: float) -> Tally:
        end = time.perf_counter() + seconds
        tallies = [Tally(length) for _ in range(case.tasks)]  # one each: `+=` is not atomic
        threads = [threading.Thread(target=work, args=(index, end, tally)) for index, tally in enumerate(tallies)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        total = Tally(length)
        for tally in tallies:
            total.requests += tally.requests
            total.errors += tally.errors
        return total

    try:
        warm_up = together(order.seconds * WARM_UP)
        watch = Watch(order.server_pids)
        tally = together(order.seconds)
        watch.stop(answer, tally)
    finally:
        contender.close()
    answer.errors = dict(warm_up.errors + tally.errors)
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
    if isinstance(contender, AsyncContender):
        answer = asyncio.run(measure_in_loop(contender, case, order, setup))
    else:
        assert isinstance(contender, SyncContender)
        answer = measure_in_threads(contender, case, order, setup)
    if answer.unavailable is None:
        answer.version = contender.version()
    answer.peak_memory = peak_memory()
    return answer


if __name__ == "__main__":
    allow_many_files()
    print(json.dumps(asdict(carry_out(Order(**json.load(sys.stdin))))))
