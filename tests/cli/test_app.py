"""Arguments, exit statuses, and what is said where nothing can be done."""

from __future__ import annotations

import importlib.util
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from io import StringIO

import pytest

import httpx_agent
from httpx_agent.__main__ import main

from .conftest import Result, command, run

Cli = Callable[..., Result]

URL = "http://localhost"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "httpx-agent: error: the following arguments are required: COMMAND"),
        (["fetch"], "httpx-agent: error: argument COMMAND: invalid choice: 'fetch' (choose from "),
        (["demo", "more"], "httpx-agent: error: unrecognized arguments: more"),
        (["get"], "httpx-agent get: error: the following arguments are required: URL"),
        (["get", URL, "--speed"], "httpx-agent: error: unrecognized arguments: --speed"),
        (["get", URL, "a\nb\x1b"], "httpx-agent get: error: argument URL: 'a\\nb\\x1b': "),
        (
            ["get", "example.com"],
            "httpx-agent get: error: argument URL: 'example.com': accepted are http:// and https://",
        ),
        (["get", "ftp://x"], "httpx-agent get: error: argument URL: 'ftp://x': accepted are http:// and https:// URLs"),
        (["get", "http://"], "httpx-agent get: error: argument URL: 'http://': the host is missing"),
        (["get", "http://x:y"], "httpx-agent get: error: argument URL: 'http://x:y': Invalid port: 'y'"),
        (
            ["get", "http://x:65536"],
            "httpx-agent get: error: argument URL: 'http://x:65536': accepted is a port from 1",
        ),
        (["get", URL, "-n", "0"], "httpx-agent get: error: argument -n/--requests: '0': accepted is a whole number, 1"),
        (["get", URL, "-c", "x"], "httpx-agent get: error: argument -c/--concurrency: 'x': accepted is a whole number"),
        (
            ["get", URL, "--max-sockets", "0"],
            "httpx-agent get: error: argument --max-sockets: 0: accepted is a whole number >= 1, or 'none' for no",
        ),
        (
            ["get", URL, "--max-sockets", "1.5"],
            "httpx-agent get: error: argument --max-sockets: '1.5': accepted is a who",
        ),
        (
            ["get", URL, "--max-total-sockets", "-1"],
            "httpx-agent get: error: argument --max-total-sockets: -1: accepted",
        ),
        (["get", URL, "--max-free-sockets", "-1"], "httpx-agent get: error: argument --max-free-sockets: -1: accepted"),
        (
            ["get", URL, "--free-socket-timeout", "-1"],
            "httpx-agent get: error: argument --free-socket-timeout: -1.0: acc",
        ),
        (
            ["get", URL, "--socket-active-ttl", "0"],
            "httpx-agent get: error: argument --socket-active-ttl: 0.0: accepted ",
        ),
        (["get", URL, "--timeout", "nan"], "httpx-agent get: error: argument --timeout: nan: accepted is seconds > 0"),
        (
            ["get", URL, "--timeout", "1 s"],
            "httpx-agent get: error: argument --timeout: '1 s': accepted is a number of s",
        ),
        (
            ["get", URL, "--scheduling", "x"],
            "httpx-agent get: error: argument --scheduling: 'x': accepted is 'lifo' or ",
        ),
        (
            ["get", URL, "--proxy", "ftp://x"],
            "httpx-agent get: error: argument --proxy: scheme 'ftp' and host 'x': acc",
        ),
        (
            ["get", URL, "--proxy", "http://x:y"],
            "httpx-agent get: error: argument --proxy: this is no URL; accepted is an http, ",
        ),
    ],
)
def test_bad_arguments(cli: Cli, arguments: list[str], message: str) -> None:
    result = cli(*arguments)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(message)
    assert result.err.count("\n") == 1


def test_http2_needs_its_package(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = cli("get", URL, "--http2")
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("httpx-agent get: error: ")
    assert result.err.endswith(" needs the package 'h2': pip install 'httpx-agent[http2]'\n")


def test_version(cli: Cli) -> None:
    assert cli("--version") == Result(0, f"httpx-agent {httpx_agent.__version__}\n", "")


def test_help(cli: Cli) -> None:
    top = cli("--help")
    assert (top.status, top.err) == (0, "")
    assert "demo " in top.out
    assert "get " in top.out
    assert "Takes a few seconds" in cli("demo", "--help").out
    get = cli("get", "--help")
    assert (get.status, get.err) == (0, "")
    for option in (
        *("--requests", "--concurrency", "--scheduling", "--max-sockets", "--max-total-sockets", "--max-free-sockets"),
        *("--free-socket-timeout", "--socket-active-ttl", "--timeout", "--http2", "--proxy", "--insecure", "--sync"),
    ):
        assert option in get.out
    assert (top.out + get.out).isascii()


def test_as_a_program() -> None:
    result = run("get", "ftp://x")
    assert result == Result(
        2, "", "httpx-agent get: error: argument URL: 'ftp://x': accepted are http:// and https:// URLs\n"
    )


def test_as_a_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["httpx-agent", "--version"])
    monkeypatch.delitem(sys.modules, "httpx_agent.__main__")
    with pytest.raises(SystemExit) as exit:
        runpy.run_module("httpx_agent", run_name="__main__")
    assert exit.value.code == 0
    assert capsys.readouterr().out == f"httpx-agent {httpx_agent.__version__}\n"


def test_ctrl_c(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("httpx_agent._cli.app.show", interrupt)
    assert cli("demo") == Result(130, "", "")


def test_a_closed_pipe() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command("demo"), stdout=writer, stderr=subprocess.PIPE, text=True, timeout=30)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_closed_pipe_for_errors_too() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command("get"), stdout=writer, stderr=writer, timeout=30)
    os.close(writer)
    assert done.returncode == 141


class Broken(StringIO):
    """A stream that fails when it is written to; with a descriptor, as a pipe has one, or without."""

    def __init__(self, error: OSError, descriptor: int | None = None) -> None:
        super().__init__()
        self.error = error
        self.descriptor = descriptor

    def flush(self) -> None:
        raise self.error

    def fileno(self) -> int:
        return super().fileno() if self.descriptor is None else self.descriptor


def test_a_stream_that_broke_is_led_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    monkeypatch.setattr(sys, "stdout", Broken(BrokenPipeError(), writer))
    assert main(["demo"]) == 141
    os.write(writer, b"nobody reads this")
    os.close(writer)
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(OSError(28, "No space left on device")))
    assert main(["demo"]) == 1
    assert capsys.readouterr().err == "httpx-agent: error: [Errno 28] No space left on device\n"


def test_the_library_does_not_import_it() -> None:
    code = "import sys, httpx_agent; httpx_agent.Agent(); print('httpx_agent._cli' in sys.modules)"
    assert run(program=("-c", code)) == Result(0, "False\n", "")
