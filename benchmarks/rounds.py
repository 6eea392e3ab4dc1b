"""The run: rounds of measurements in turn, each in a process of its own."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from . import servers
from .cases import Case
from .measure import Answer, Order, find
from .results import Measurement, Run
from .servers import Server

ROOT = Path(__file__).parent.parent

LONG = 60.0
"""A measurement that takes longer, in seconds, is not repeated in later rounds."""

PATIENCE = 300.0
"""Seconds after which a measurement is given up."""


def run(
    cases: Sequence[Case],
    *,
    rounds: int,
    seconds: float,
    only: Sequence[str] = (),
    paths: Mapping[str, str] | None = None,
    say: Callable[[str], None] = print,
) -> Run:
    """Measure.

    Args:
        cases: What to measure.
        rounds: How often; each round measures every contender of every case once. What takes longer than `LONG` with
            its warm-up is measured in the first round only.
        seconds: How long each measurement goes on.
        only: Contenders to measure; none given: all.
        paths: Directories from which contenders import first, by the contender's name.
        say: Is told what happens, line by line.

    Returns:
        What was measured.
    """
    result = Run(
        settings={"rounds": rounds, "seconds": seconds, "begun": _now(), "revision": _revision()},
        machine={**machine(), "load_before": _load()},
    )
    possible = []
    for case in cases:
        if reason := hindrance(case):
            result.left_out[case.name] = reason
            say(f"{case.title}: left out: {reason}")
        else:
            possible.append(case)
    long: set[tuple[str, str]] = set()
    with _grounds(possible) as grounds:
        result.servers = {use: server.name for use, server in grounds.servers.items()}
        try:
            for number, case, name in plan(possible, rounds, only):
                if f"{case.world}/{name}" in result.left_out or (case.name, name) in long:
                    continue
                begun = time.monotonic()
                answer = measure(grounds.order(case, name, seconds), (paths or {}).get(name))
                if time.monotonic() - begun > LONG:
                    long.add((case.name, name))
                _note(result, number, case, name, answer, say)
        except KeyboardInterrupt:
            say("broken off; what was measured until now is kept")
    result.settings["ended"] = _now()
    result.machine["load_after"] = _load()
    return result


def plan(cases: Sequence[Case], rounds: int, only: Sequence[str] = ()) -> Iterator[tuple[int, Case, str]]:
    """What is measured one after another: round, case and contender. Who came second is first in the next round."""
    for number in range(rounds):
        for case in cases:
            names = [name for name in case.contenders if not only or name in only]
            first = number % len(names) if names else 0
            for name in names[first:] + names[:first]:
                yield number, case, name


def hindrance(case: Case) -> str | None:
    """Why this system cannot do a case; `None`: it can."""
    if sys.platform != "linux":
        if case.origins > 1 and case.kind != "cost":
            return "only in Linux is all of 127.0.0.0/8 loopback"
        if case.kind == "memory":
            return "resident memory is read from /proc"
    return None


def measure(order: Order, path: str | None = None) -> Answer:
    """Carry out an order in a process of its own.

    Args:
        order: What to measure.
        path: A directory from which that process imports first.
    """
    environment = {name: value for name, value in os.environ.items() if not _of_the_network(name)}
    if path is not None:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [path, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "benchmarks.measure"]
    patience = order.seconds * 2 + PATIENCE
    try:
        process = subprocess.run(
            command,
            input=json.dumps(asdict(order)),
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Answer(errors={f"no result within {patience:.0f} s": 1})
    if process.returncode:
        last = (process.stderr.splitlines() or [f"status {process.returncode}"])[-1]
        return Answer(errors={f"the measurement broke off: {last}"[:200]: 1})
    return Answer(**json.loads(process.stdout.splitlines()[-1]))


def machine() -> dict[str, str | int | None]:
    """What the run happens on; nothing that tells one machine from another of its kind."""
    model = None
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), None)
    except OSError:
        pass
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()}",
        "processor": model or platform.machine(),
        "processors": os.cpu_count(),
    }


def _of_the_network(variable: str) -> bool:
    """Whether clients take proxies or certificate authorities from a variable, some even where they are told others."""
    return variable.lower().endswith(("_proxy", "_ca_bundle")) or variable.startswith("SSL_CERT_")


@dataclass(frozen=True)
class _Grounds:
    """Where measurements take place: servers by what they are used for, and whom to trust."""

    servers: dict[str, Server]
    authority: Path

    def order(self, case: Case, contender: str, seconds: float) -> Order:
        server = self.servers[_use(case)]
        return Order(
            case.name, contender, seconds, server.urls(case), str(self.authority), list(server.pids), server.path
        )


def _use(case: Case) -> str:
    return case.kind if case.kind in ("memory", "cost") else "rate"


@contextmanager
def _grounds(cases: Sequence[Case]) -> Iterator[_Grounds]:
    """Run the servers that the cases need.

    Only the benchmark's own can hold requests, which measuring memory needs, and is known on a Unix socket.
    """
    import trustme

    running: dict[str, Server] = {}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        addresses = servers.hosts(max((case.origins for case in cases if case.kind != "cost"), default=1))
        authority = trustme.CA()
        authority.cert_pem.write_to_path(directory / "authority.pem")
        certificate = authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem
        certificate.write_to_path(directory / "server.pem")
        for use in dict.fromkeys(map(_use, cases)):
            nginx = servers.nginx() if use == "rate" else None
            if nginx is not None:
                server = servers.running_nginx(nginx, addresses, directory / "server.pem", directory)
            else:
                path = directory / "server.socket" if use == "cost" else None
                server = servers.running_own(addresses, directory / "server.pem", path)
            running[use] = stack.enter_context(server)
        yield _Grounds(running, directory / "authority.pem")


def _note(result: Run, number: int, case: Case, name: str, answer: Answer, say: Callable[[str], None]) -> None:
    contender = find(case, name)
    label = contender.label
    if answer.unavailable is not None:
        result.left_out[f"{case.world}/{name}"] = answer.unavailable
        say(f"{label} ({case.world}): left out: {answer.unavailable}")
        return
    result.labels[name] = label
    if contender.package is not None and answer.version is not None:
        result.packages[contender.package] = answer.version
    result.measurements.append(
        Measurement(
            case.name,
            name,
            number,
            answer.value,
            answer.requests,
            answer.errors,
            answer.client_cpu,
            answer.server_cpu,
            answer.cpu_per_request,
            answer.peak_memory,
            answer.limited,
        )
    )
    value = "nothing" if answer.value is None else f"{answer.value:,.0f} {case.unit}"
    errors = f"; errors: {answer.errors}" if answer.errors else ""
    say(f"round {number + 1}: {case.title}: {label}: {value}{errors}")


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())


def _revision() -> str | None:
    """The commit that is measured, with a sign if files differ from it."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _load() -> float | None:
    """How many processes wanted to run in the last minute, on average: others' too."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None
