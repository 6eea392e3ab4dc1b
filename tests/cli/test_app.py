"""Arguments, exit statuses, and the errors for unusable arguments."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from io import StringIO

import pytest

import httpx_agent
from httpx_agent.__main__ import main
from httpx_agent._cli.arguments import parse
from httpx_agent._cli.load import Load

from .conftest import Result, command, run

Cli = Callable[..., Result]

URL = "http://localhost"


ONE_OR_NONE = "an integer >= 1, or none for no limit"
ZERO_OR_NONE = "an integer >= 0, or none for no limit"
PROXY = "expected a URL such as http://localhost:3128, with scheme http, https, socks5 or socks5h"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "httpx-agent: error: the following arguments are required: COMMAND"),
        (["fetch"], "httpx-agent: error: argument COMMAND: invalid choice: 'fetch' (choose from "),
        (["demo", "more"], "httpx-agent: error: unrecognized arguments: more"),
        (["get"], "httpx-agent get: error: the following arguments are required: URL"),
        (["--speed", "get", URL], "httpx-agent: error: unrecognized arguments: --speed; see httpx-agent --help\n"),
        (
            ["demo", "--speed"],
            "httpx-agent demo: error: unrecognized arguments: --speed; see httpx-agent demo --help\n",
        ),
        (
            ["get", URL, "--speed", "-xy", "--max-sockets", "5"],
            "httpx-agent get: error: unrecognized arguments: --speed, -x; see httpx-agent get --help\n",
        ),
        (
            ["get", "--max-socket", "5", URL],  # not: the URL '5' is none
            "httpx-agent get: error: unrecognized arguments: --max-socket (did you mean --max-sockets?); see httpx-a",
        ),
        (
            ["get", URL, "--freeSocketTimeout=5000", "--limit-per-host", "3", "--max_connections", "5"],
            (
                "httpx-agent get: error: unrecognized arguments: --freeSocketTimeout (did you mean "
                "--free-socket-timeout, in seconds?), --limit-per-host (did you mean --max-sockets?), "
                "--max_connections (did you mean --max-total-sockets?); see httpx-agent get --help\n"
            ),
        ),
        (["get", URL, "--", "--speed"], "httpx-agent get: error: argument URL: '--speed': expected an http:// or"),
        (["get", URL, "--headers", "x"], "httpx-agent get: error: unrecognized arguments: --headers; see"),
        (["get", URL, "a\nb\x1b"], "httpx-agent get: error: argument URL: 'a\\nb\\x1b': "),
        (
            ["get", "example.com"],
            "httpx-agent get: error: argument URL: 'example.com': expected an http:// or https://",
        ),
        (["get", "ftp://x"], "httpx-agent get: error: argument URL: 'ftp://x': expected an http:// or https:// URL"),
        (["get", "http://"], "httpx-agent get: error: argument URL: 'http://': the host is missing"),
        (["get", "http://x:y"], "httpx-agent get: error: argument URL: 'http://x:y': Invalid port: 'y'"),
        (
            ["get", "http://x:65536"],
            "httpx-agent get: error: argument URL: 'http://x:65536': expected a port from 1",
        ),
        (["get", "ftp://user:secret@x"], "httpx-agent get: error: argument URL: 'ftp://x': expected an http:// or"),
        (
            ["get", "http://user:sec/ret@x"],
            "httpx-agent get: error: argument URL: not a valid URL; percent-encode the part before the @",
        ),
        (["get", URL, "-n", "0"], "httpx-agent get: error: argument -n/--requests: '0': expected an integer >= 1"),
        (["get", URL, "-c", "x"], "httpx-agent get: error: argument -c/--concurrency: 'x': expected an integer >= 1"),
        *(
            (
                ["get", URL, argument, value],
                f"httpx-agent get: error: argument {argument}: {value!r}: expected {expected}\n",
            )
            for argument, values, expected in (
                ("--max-sockets", ("0", "-1", "1.5", "", "x", "nan"), ONE_OR_NONE),
                ("--max-total-sockets", ("0", "-1", "inf"), ONE_OR_NONE),
                ("--max-free-sockets", ("-1", "1.5"), ZERO_OR_NONE),
                ("--free-socket-timeout", ("-1", "nan", "5s"), "seconds >= 0, or none for no limit"),
                ("--socket-active-ttl", ("0", "nan"), "seconds > 0, or none for no limit"),
                ("--timeout", ("0", "nan", "1 s", ""), "seconds > 0, or none for no limit"),
                ("--scheduling", ("x", "none", ""), "lifo or fifo"),
            )
            for value in values
        ),
        *(
            (["get", URL, "--proxy", value], f"httpx-agent get: error: argument --proxy: {what}: {PROXY}\n")
            for value, what in (
                ("ftp://user:secret@x", "a proxy with scheme 'ftp' and host 'x'"),
                ("localhost:3128", "a proxy with scheme 'localhost' and host ''"),
                ("http://user:sec/ret@x", "not a valid URL"),
                ("http://x:65536", "a proxy with port 65536"),
            )
        ),
    ],
)
def test_bad_arguments(cli: Cli, arguments: list[str], message: str) -> None:
    result = cli(*arguments)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(message)
    assert result.err.count("\n") == 1
    assert not re.search("secret|sec/ret|math|datetime|int >=|None|True", result.err)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("--max-sockets", value) for value in ("1", "none", "NONE")),
        *(("--max-total-sockets", value) for value in ("1", "none")),
        *(("--max-free-sockets", value) for value in ("0", "none")),
        *(("--free-socket-timeout", value) for value in ("0", "0.5", "none")),
        *(("--socket-active-ttl", value) for value in ("0.001", "none")),
        *(("--timeout", value) for value in ("0.001", "1e3", "none")),
        *(("--scheduling", value) for value in ("lifo", "fifo")),
        *(("--proxy", value) for value in ("http://x", "https://u:p@x:1", "socks5://x:65535", "socks5h://[::1]")),
    ],
)
def test_good_arguments(argument: str, value: str) -> None:
    """What is said to be accepted, is."""
    load = parse(["get", URL, argument, value])
    assert isinstance(load, Load)
    kept = getattr(load.agent, argument.removeprefix("--").replace("-", "_"))
    if value.lower() == "none":
        assert kept is None
    elif argument == "--proxy":
        assert kept.url.host in ("x", "::1")
    else:
        assert kept == (value if argument == "--scheduling" else float(value))


def test_what_needs_a_package(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for arguments, message in (
        (["--http2"], "argument --http2: needs the package 'h2': pip install \"httpx-agent[http2]\""),
        (
            ["--proxy", "socks5://x"],
            "argument --proxy: a SOCKS proxy needs the package 'socksio': pip install \"httpx-agent[socks]\"",
        ),
    ):
        assert cli("get", URL, *arguments) == Result(2, "", f"httpx-agent get: error: {message}\n")


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
        2, "", "httpx-agent get: error: argument URL: 'ftp://x': expected an http:// or https:// URL\n"
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
