"""How the tests run the command line: in this process, in another one, and on a pseudo-terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from httpx_agent._cli.server import DemoServer

#: Every warning is an error, and what asyncio's debug mode finds slow is the machine's affair.
STRICT = ("-W", "error", "-X", "dev")

#: Runs the command line in a process where `rich` cannot be imported.
WITHOUT_RICH = (
    "-c",
    "import sys; sys.modules['rich'] = None; from httpx_agent.__main__ import main; sys.exit(main(sys.argv[1:]))",
)


@dataclass
class Result:
    """What a run came to."""

    status: int
    out: str
    err: str


def command(*arguments: str, program: tuple[str, ...] = ("-m", "httpx_agent")) -> list[str]:
    """The command line as a list for `subprocess`."""
    return [sys.executable, *STRICT, *program, *arguments]


def run(*arguments: str, program: tuple[str, ...] = ("-m", "httpx_agent"), **environment: str) -> Result:
    """Runs the command line in a process of its own, its output piped."""
    done = subprocess.run(
        command(*arguments, program=program),
        capture_output=True,
        env={**os.environ, **environment},
        encoding=environment.get("PYTHONIOENCODING", "utf-8"),
        timeout=30,
    )
    return Result(done.returncode, done.stdout, quiet(done.stderr))


def run_on_terminal(*arguments: str, program: tuple[str, ...] = ("-m", "httpx_agent"), **environment: str) -> Result:
    """Runs it on a pseudo-terminal; all of its output is `out`."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    environment = {"TERM": "xterm", "COLUMNS": "100", **environment}
    with subprocess.Popen(
        command(*arguments, program=program),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, **environment},
    ) as process:
        os.close(theirs)
        chunks = []
        while chunk := _read(ours):
            chunks.append(chunk)
    os.close(ours)
    return Result(process.returncode, b"".join(chunks).decode(), "")


def quiet(stderr: str) -> str:
    """Standard error without what asyncio's debug mode says of a busy machine."""
    return "".join(line for line in stderr.splitlines(keepends=True) if not line.startswith("Executing <"))


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux's way to say that the other end is closed
        return b""


@pytest.fixture(autouse=True)
def ctrl_c_interrupts() -> Iterator[None]:
    """Also where the tests run in the background of a shell, which has it ignored, by their children too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def server() -> Iterator[DemoServer]:
    with DemoServer() as server:
        yield server


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs the command line in this process."""
    from httpx_agent.__main__ import main

    def run_here(*arguments: str) -> Result:
        status = main(arguments)
        captured = capsys.readouterr()
        return Result(status, captured.out, captured.err)

    return run_here
