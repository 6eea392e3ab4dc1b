"""`get` sends the requests that it is given, and reports the results."""

from __future__ import annotations

import _thread
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from io import StringIO

import httpx
import pytest

from httpx_agent import Agent
from httpx_agent._cli.load import Load, Tally, fire
from httpx_agent._cli.report import report_load
from httpx_agent._cli.screen import Screen
from httpx_agent._cli.server import DemoServer

from .conftest import WITHOUT_RICH, Result, command, quiet, run, run_on_terminal

Cli = Callable[..., Result]


@pytest.fixture
def dead_url() -> Iterator[str]:
    """A URL where nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def values(result: Result) -> dict[str, str]:
    """The summary and the counters."""
    lines = [re.split(r"  +", line, maxsplit=1) for line in result.out.splitlines()]
    return {line[0]: line[1] for line in lines if len(line) == 2}


@pytest.mark.parametrize("mode", [[], ["--sync"]], ids=["async", "sync"])
def test_summary(cli: Cli, server: DemoServer, mode: list[str]) -> None:
    result = cli("get", server.url + "/", server.url + "/?status=404", "-n", "20", "-c", "4", "--max-sockets=2", *mode)
    assert result.status == 0
    found = values(result)
    assert found["requests"] == "20: 20 answered, 0 failed"
    assert found["status codes"] == "200: 10, 404: 10"
    assert found["HTTP versions"] == "HTTP/1.1: 20"
    assert int(found["sockets opened"]) == server.connection_count == int(found["create_socket_count"])
    assert server.connection_count <= 2
    assert found["on a reused socket"] == f"{(20 - server.connection_count) / 20:.1%} of the responses"
    assert float(found["requests per second"]) > 0
    latency, queued = ([float(cell) for cell in found[name].split()] for name in ("latency", "of it, in the queue"))
    assert latency == sorted(latency)
    assert queued == sorted(queued)
    assert queued[0] == 0 <= queued[-1] < latency[-1]  # threads that come one after the other do not queue
    assert found["request_count"] == "20"
    assert found[server.url].split() == ["0", str(server.connection_count), "0"]
    assert (
        result.err == "5 of 20 requests done\n10 of 20 requests done\n15 of 20 requests done\n20 of 20 requests done\n"
    )


def test_options_reach_the_agent(cli: Cli, server: DemoServer) -> None:
    result = cli(
        *("get", server.url, "-n", "3", "-c", "1", "--scheduling", "fifo", "--max-sockets", "none"),
        *("--max-total-sockets", "3", "--max-free-sockets", "0", "--free-socket-timeout", "0.5"),
        *("--socket-active-ttl", "none", "--timeout", "5", "--insecure"),
    )
    assert result.status == 0
    assert values(result)["sockets opened"] == "3"  # none is kept
    assert values(result)["on a reused socket"] == "0.0% of the responses"


def test_few_requests_need_few_workers(cli: Cli, server: DemoServer) -> None:
    result = cli("get", server.url, "-n", "1", "-c", "1000", "--sync")
    assert result.status == 0
    assert result.err == "1 of 1 requests done\n"


@pytest.mark.parametrize("mode", [[], ["--sync"]], ids=["async", "sync"])
def test_failures_are_counted_by_reason_and_the_others_still_run(
    cli: Cli, server: DemoServer, dead_url: str, mode: list[str]
) -> None:
    result = cli("get", server.url, dead_url, "-n", "6", "-c", "2", *mode)
    assert result.status == 1
    found = values(result)
    assert found["requests"] == "6: 3 answered, 3 failed"
    assert found["create_socket_error_count"] == found["sockets that failed to open"] == "3"
    assert int(found["sockets opened"]) == server.connection_count == int(found["create_socket_count"]) - 3
    last = result.err.splitlines()[-1]
    assert last.startswith("httpx-agent: error: 3 of 6 requests failed: ConnectError: ")
    assert dead_url in last or "127.0.0.1" in last
    assert len([line for line in result.err.splitlines() if "error" in line]) == 1


def test_nothing_but_failures(cli: Cli, dead_url: str) -> None:
    result = cli("get", dead_url, "-n", "2")
    assert result.status == 1
    found = values(result)
    assert found["requests per second"] == "0.0"
    assert (found["sockets opened"], found["sockets that failed to open"]) == ("0", "2")
    assert found["on a reused socket"] == "-"
    assert found["latency"].split() == ["-"] * 4


def test_a_timeout_is_the_agents(cli: Cli, server: DemoServer) -> None:
    result = cli("get", server.url + "/?delay=9", "-n", "1", "--timeout", "0.05")
    assert result.status == 1
    assert "1 of 1 requests failed: ReadTimeout: " in result.err
    assert "no data received for 0.05 s (read timeout, set by --timeout)" in result.err


@pytest.mark.parametrize("mode", [[], ["--sync"]], ids=["async", "sync"])
def test_a_socket_that_is_not_open_yet_is_not_counted_as_one(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, mode: list[str]
) -> None:
    """When Ctrl-C comes while one connects; a listener whose queue is full lets it wait."""
    with socket.socket() as listener, socket.socket() as first:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        first.connect(listener.getsockname())
        monkeypatch.setattr("httpx_agent._cli.load.NOTICED", 0.01)
        work = load(f"http://127.0.0.1:{listener.getsockname()[1]}", in_threads=bool(mode))
        pressed = threading.Timer(0.2, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
        pressed.start()
        tally = fire(work, lambda: None)
        pressed.join()
    assert tally.interrupted
    assert (tally.status.create_socket_count, tally.connecting) == (1, 1)
    stream = StringIO()
    report_load(Screen(stream), tally)
    assert re.search("^sockets opened +0$", stream.getvalue(), re.MULTILINE)


def test_more_threads_than_the_system_has(cli: Cli, server: DemoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def start_two(thread: threading.Thread) -> None:
        if thread._target is not None and thread._target.__qualname__.startswith("_fire_in_threads"):  # type: ignore[attr-defined]
            started.append(thread)
            if len(started) > 2:
                raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_two)
    result = cli("get", server.url, "-n", "50", "-c", "5", "--sync")
    assert (result.status, result.out) == (1, "")
    assert result.err.endswith("httpx-agent: error: cannot start more than 2 threads: use a lower --concurrency\n")


@pytest.mark.parametrize("mode", [[], ["--sync"]], ids=["async", "sync"])
def test_certificates_of_the_environment_that_are_missing(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, mode: list[str]
) -> None:
    """What is to be done is what can be done here."""
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        result = cli("get", f"https://127.0.0.1:{listener.getsockname()[1]}", "-n", "1", *mode)
    assert result.status == 1
    assert (
        "[Errno 2] SSL_CERT_FILE='/no/such/file': No such file or directory; expected a file of certificates in "
        "PEM format; or unset the variable"
    ) in result.err
    assert "trust_env" not in result.err


def test_reasons_that_differ_in_numbers_only_are_one() -> None:
    tally = Tally(load("http://localhost"), lambda: None)
    url = httpx.URL("http://user:secret@localhost/path")
    for error in (OSError("after 0.31 s"), ValueError(), OSError("after 17 s"), OSError("localhost: other")):
        tally.went_wrong(url, error)
    assert tally.failures() == [
        ("OSError: after 0.31 s (http://localhost/)", 2),
        ("ValueError (http://localhost/)", 1),
        ("OSError: localhost: other", 1),
    ]
    assert tally.failed == tally.done == 4


def load(*urls: str, requests: int = 1, in_threads: bool = False) -> Load:
    return Load(
        agent=Agent(),
        urls=tuple(map(httpx.URL, urls)),
        requests=requests,
        concurrency=requests,
        in_threads=in_threads,
    )


@pytest.fixture(params=["before", "while"])
def ctrl_c_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a server that never answers: Ctrl-C is pressed when a request has come.

    It is pressed while the main thread waits, which wakes it, or as if just before it began to wait, which does not.
    """

    def serve() -> None:
        with listener.accept()[0] as connection:
            connection.recv(1)
            if request.param == "while":
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            else:
                _thread.interrupt_main()
            while connection.recv(4096):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize("in_threads", [False, True], ids=["async", "sync"])
def test_no_socket_outlives_the_requests(server: DemoServer, in_threads: bool) -> None:
    work = load(server.url, in_threads=in_threads)
    tally = fire(work, lambda: None)
    assert (tally.done, tally.failed, tally.status.free_sockets) == (1, 0, {server.url: 1})
    assert work.agent.sockets() == ()


@pytest.mark.parametrize("in_threads", [False, True], ids=["async", "sync"])
def test_a_late_answer_is_waited_for(server: DemoServer, monkeypatch: pytest.MonkeyPatch, in_threads: bool) -> None:
    """However often the main thread wakes meanwhile, to notice Ctrl-C."""
    monkeypatch.setattr("httpx_agent._cli.load.NOTICED", 0.001)
    tally = fire(load(f"{server.url}/?delay=0.5", in_threads=in_threads), lambda: None)
    assert (tally.done, tally.failed, tally.interrupted) == (1, 0, False)


@pytest.mark.parametrize("in_threads", [False, True], ids=["async", "sync"])
def test_an_interruption_cuts_what_is_in_flight(ctrl_c_url: str, in_threads: bool) -> None:
    work = load(ctrl_c_url, in_threads=in_threads)
    tally = fire(work, lambda: None)
    assert tally.interrupted
    assert (tally.done, tally.failed) == (0, 0)  # a request that was cut is no failure of its own
    assert tally.status.sockets == {ctrl_c_url: 1}
    assert work.agent.sockets() == ()


def test_an_interruption_waits_for_no_late_request(ctrl_c_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A thread may ask for a socket just after the agent was closed, which opens one: for it, the first close is none.
    work = load(ctrl_c_url, in_threads=True)
    closes = iter([lambda: None])
    monkeypatch.setattr(work.agent, "close", lambda: next(closes, lambda: Agent.close(work.agent))())
    assert fire(work, lambda: None).interrupted
    assert work.agent.sockets() == ()


def test_an_interruption_before_anything_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("httpx_agent._cli.load._fire_in_threads", interrupt)
    tally = fire(load("http://localhost", in_threads=True), lambda: None)
    assert (tally.interrupted, tally.done, tally.status.create_socket_count) == (True, 0, 0)


def test_an_interruption_in_this_process(cli: Cli, server: DemoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(work: Load, advance: Callable[[], None]) -> Tally:
        tally = Tally(work, advance)
        tally.end()
        tally.interrupted = True
        return tally

    monkeypatch.setattr("httpx_agent._cli.app.fire", interrupted)
    result = cli("get", server.url, "-n", "7")
    assert (result.status, result.err) == (130, "httpx-agent: interrupted after 0 of 7 requests\n")


@pytest.mark.parametrize("mode", [[], ["--sync"]], ids=["async", "sync"])
def test_ctrl_c(mode: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        process = subprocess.Popen(
            command("get", url, "-n", "1", *mode), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        with process, listener.accept()[0] as connection:
            assert connection.recv(3) == b"GET"
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert quiet(err) == "httpx-agent: interrupted after 0 of 1 requests\n"
    assert re.search("^requests +0: 0 answered, 0 failed$", out, re.MULTILINE)


@pytest.mark.parametrize("program", [("-m", "httpx_agent"), WITHOUT_RICH], ids=["rich", "no rich"])
def test_piped(server: DemoServer, program: tuple[str, ...]) -> None:
    result = run("get", server.url, "-n", "8", "-c", "2", program=program)
    assert result.status == 0
    assert result.err == "2 of 8 requests done\n4 of 8 requests done\n6 of 8 requests done\n8 of 8 requests done\n"
    assert (result.out + result.err).replace("\n", "").isprintable()
    assert re.match("summary +value\n-+  -", result.out)


def test_on_a_terminal_with_rich(server: DemoServer) -> None:
    pytest.importorskip("rich")
    result = run_on_terminal("get", server.url, "-n", "8", "-c", "2")
    assert result.status == 0
    assert "━" in result.out
    assert "8/8" in re.sub(r"\x1b\[[0-9;]*m", "", result.out)
    assert "requests per second" in result.out


@pytest.mark.parametrize(
    ("program", "term"), [(WITHOUT_RICH, "xterm"), (("-m", "httpx_agent"), "dumb")], ids=["no rich", "dumb"]
)
def test_on_a_terminal_without_rich(server: DemoServer, program: tuple[str, ...], term: str) -> None:
    result = run_on_terminal("get", server.url, "-n", "8", "-c", "2", program=program, TERM=term)
    assert result.status == 0
    assert "\x1b" not in result.out
    assert "\r[...........................] 1/8 requests" in result.out.replace("###", "")
    assert f"\r[{'#' * 30}] 8/8 requests\r\n" in result.out
