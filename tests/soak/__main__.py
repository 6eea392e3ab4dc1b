"""The soak's command; see the package."""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import gc
import json
import os
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from httpx_agent import Agent
from httpx_agent._network.sessions import GIVING_LEAKS
from httpx_agent.testing import assert_no_leaks
from tests.soak.load import Load, Tally

#: Seconds that a round may take beyond what its requests do by their timeouts.
STUCK = 60.0

#: Seconds in which the servers hear of a close.
PATIENCE = 10.0

#: What the resident memory may have grown by at the end, against the end of the first minute.
GROWTH = 1.05

#: Seconds of which the least counts: what is lost stays lost, what is only in use comes and goes.
WINDOW = 30


class Servers:
    """The process with the servers."""

    def __init__(self, folder: str) -> None:
        command = [sys.executable, "-m", "tests.soak.server", folder]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        plain, tls = json.loads(self._read())
        self.urls = [f"http://127.0.0.1:{plain}", f"https://127.0.0.1:{tls}"]

    def open(self) -> int:
        """Connections that they see open."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._read())

    def close(self) -> None:
        """Ends it."""
        self._process.communicate(timeout=30)

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


class Soak:
    """Agents under random load.

    Args:
        seed: Draws the requests.
        agents: The agents, one for each HTTP/1.1 engine.
        servers: Where the requests go.
    """

    def __init__(self, seed: int, agents: list[Agent], servers: Servers) -> None:
        self.seed = seed
        self.agents = agents
        self.servers = servers
        self.tally = Tally()
        self.looks = 0
        self.memory: list[int] = []
        """Resident memory in KiB, second by second, as it was when everything was last at rest."""
        self._at_last_rest = _resident_memory()
        self.failures: list[str] = []
        self._started = time.monotonic()

    def run(self, seconds: float) -> None:
        """Rounds of load for so long; each has threads and event loops of its own, and ends with everything at rest."""
        end = time.monotonic() + seconds
        number = 0
        while time.monotonic() < end and not self.failures:
            self._round(number)
            number += 1
        if not self.failures:
            for agent in self.agents:
                agent.close()
            self._at_rest("at the end")
            self._wait_for_servers()

    def _round(self, number: int) -> None:
        """Some seconds of load, looked at all along."""
        workers: list[Callable[[], Any]] = []
        for index in range(6):
            workers.append(partial(self._load(number, index).in_a_thread, 60))
        workers.append(partial(anyio.run, self._load(number, 6).in_a_loop, 20, 12, backend="asyncio"))
        workers.append(partial(anyio.run, self._load(number, 7).in_a_loop, 20, 12, backend="trio"))
        threads = [threading.Thread(target=self._work, args=(worker,), daemon=True) for worker in workers]
        deadline = time.monotonic() + STUCK
        for thread in threads:
            thread.start()
        while alive := [thread for thread in threads if thread.is_alive()]:
            if self.failures:
                return
            self._look()
            alive[0].join(0.005)
            if time.monotonic() > deadline:
                self._fail(f"round {number} is stuck: its requests do not end")
        self._at_rest(f"after round {number}")
        self._wait_for_servers()
        self._at_last_rest = _resident_memory()

    def _load(self, number: int, index: int) -> Load:
        agent = self.agents[(number + index) % len(self.agents)]
        return Load(agent, self.servers.urls, hash((self.seed, number, index)), self.tally)

    def _work(self, worker: Callable[[], Any]) -> None:
        try:
            worker()
        except BaseException as error:
            self._fail(f"{type(error).__name__}: {error}")

    # Invariants -------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """What holds at every moment."""
        for agent in self.agents:
            made = agent._dispatcher._next_request
            status = agent.status()
            held = sum(status.sockets.values()) + sum(status.free_sockets.values())
            known = status.create_socket_error_count + status.close_socket_count + status.detached_socket_count + held
            if status.create_socket_count != known:
                self._fail(f"the counters do not add up: {status.create_socket_count} sockets created, {known} known")
            over = status.request_count + status.request_error_count
            known = over + sum(status.requests.values())
            if known > agent._dispatcher._next_request or made > known + sum(status.sockets.values()):
                self._fail(f"the counters do not add up: {made} requests made, {status}")
            if held > (agent.max_total_sockets or 0):
                self._fail(f"{held} sockets, above the limit")
            for origin in {*status.sockets, *status.free_sockets}:
                count = status.sockets.get(origin, 0) + status.free_sockets.get(origin, 0)
                if count > (agent.max_sockets or 0):
                    self._fail(f"{count} sockets of {origin}, above the limit")
        self.looks += 1
        elapsed = int(time.monotonic() - self._started)
        while len(self.memory) <= elapsed:
            self.memory.append(self._at_last_rest)

    def _at_rest(self, when: str) -> None:
        """What holds when nothing runs."""
        for agent in self.agents:
            try:
                assert_no_leaks(agent)
            except AssertionError as error:
                self._fail(f"{when}: {error}")
            busy = [info for info in agent.sockets() if info.state not in ("free", "closing")]
            if busy:
                self._fail(f"{when}: sockets in use by nobody: {busy}")
            status, made = agent.status(), agent._dispatcher._next_request
            if made != status.request_count + status.request_error_count:
                self._fail(f"{when}: {made} requests made, but {status}")

    def _wait_for_servers(self) -> None:
        """The servers see what the agents hold, and nothing else, as soon as they have heard of it."""
        deadline = time.monotonic() + PATIENCE
        while (seen := self.servers.open()) > (held := sum(len(agent.sockets()) for agent in self.agents)):
            if time.monotonic() > deadline:
                self._fail(f"the servers see {seen} connections, the agents have {held}")
                return
            time.sleep(0.01)

    def check_memory(self) -> str:
        """Whether it stays; in words."""
        if len(self.memory) < 60 + WINDOW + 5:
            return f"memory: {self.memory[-1]} KiB; not judged, for it takes a minute and a half"
        before = min(self.memory[60 - WINDOW : 60])
        after = min(self.memory[-WINDOW:])
        if after > before * GROWTH:
            self._fail(f"resident memory grew from {before} to {after} KiB after the first minute")
        return f"memory: {before} KiB after a minute, {after} KiB at the end ({after / before - 1:+.1%})"

    def _fail(self, what: str) -> None:
        self.failures.append(what)


def _one_heap() -> None:
    """For all threads. By default glibc gives threads heaps of their own, and keeps what of them is in between.

    Resident memory then goes up and down by a fifth, whatever is lost; with one heap it does by a hundredth.
    """
    m_arena_max = -8
    with suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(m_arena_max, 1)


def _resident_memory() -> int:
    """In KiB, without what is garbage, and what the C library keeps for later: that comes and goes with the load."""
    gc.collect()
    with suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def _descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # that of the listing itself
            continue
    return found


@contextmanager
def _strict(soak: Soak) -> Iterator[None]:
    """What is said where nobody listens, such as a socket that was never closed, fails the soak."""

    def hear(what: Any) -> None:
        soak.failures.append(f"unraisable: {what.err_msg} {what.object!r}: {what.exc_value!r}")

    before = sys.unraisablehook
    sys.unraisablehook = hear
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Theirs are dropped half-way when a request is cancelled, of which trio warns.
        warnings.filterwarnings("ignore", r"Async generator '(httpx|httpcore)\.", ResourceWarning)
        try:
            yield
        finally:
            gc.collect()
            sys.unraisablehook = before


def main() -> int:
    """Run; gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="for how long (default: 2)")
    parser.add_argument(
        "--seed",
        type=int,
        default=None,
        help="draws the requests, but not the order of threads (default: any)",
    )
    arguments = parser.parse_args()
    _one_heap()
    seed = int.from_bytes(os.urandom(3), "big") if arguments.seed is None else arguments.seed
    print(
        f"seed {seed}, {arguments.minutes:g} minutes. The seed gives the same requests, not the same order of threads."
    )
    with tempfile.TemporaryDirectory() as folder:
        servers = Servers(folder)
        context = ssl.create_default_context(cafile=f"{folder}/ca.pem")
        before = _descriptors()
        options = {"max_total_sockets": 10, "max_sockets": 6, "free_socket_timeout": 0.5, "verify": context}
        # Where Python loses their memory, that would be taken for the agent's.
        options["max_cached_sessions"] = 0 if GIVING_LEAKS else 100
        agents = [Agent(http1_engine=engine, debug=True, **options) for engine in ("auto", "h11")]
        soak = Soak(seed, agents, servers)
        with _strict(soak):
            soak.run(arguments.minutes * 60)
        memory = soak.check_memory()
        if not soak.failures:
            for thread in threading.enumerate():
                if thread.name == "httpx-agent":
                    thread.join(10)
            after = _descriptors()
            if len(after) != len(before):
                soak.failures.append(f"descriptors: {before} at the start, {after} at the end")
        if soak.failures:
            report(soak)
            return 1
        servers.close()
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in soak.tally.outcomes.most_common())
    print(f"{sum(soak.tally.outcomes.values())} requests: {outcomes}")
    print(f"{soak.looks} looks at the books; {memory}; {len(before)} descriptors at the start and at the end")
    return 0


def report(soak: Soak) -> None:
    """What is needed to find out."""
    print(f"FAILED with seed {soak.seed}:", *soak.failures[:10], sep="\n  ")
    for agent in soak.agents:
        print(agent.status(), *agent.sockets(), sep="\n")
    print(*_descriptors().items(), sep="\n")
    sys.stdout.flush()
    faulthandler.dump_traceback(all_threads=True)


if __name__ == "__main__":
    sys.exit(main())
