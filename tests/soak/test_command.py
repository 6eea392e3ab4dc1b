"""The soak itself: a short one passes, and it finds every kind of fault that it looks for."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import Network
from tests.soak.__main__ import Soak, _strict
from tests.soak.load import Load, Plan, Tally, WrongAnswerError

ROOT = Path(__file__).parents[2]
URL = "http://a.test/"


@pytest.mark.rule("R38", "A7")
def test_the_books_balance_after_a_short_soak() -> None:
    """While everything happens at once and at the end; the servers see no connection that the agents do not."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", "--minutes", "0.03", "--seed", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    started, requests, books = done.stdout.splitlines()
    assert started.startswith("seed 1, 0.03 minutes.")
    for outcome in ("200", "cancelled", "PoolTimeout", "RemoteProtocolError", "ReadTimeout"):
        assert re.search(rf"\b\d+ {outcome}\b", requests), requests
    assert re.match(r"\d+ looks at the books; memory: \d+ KiB; .* descriptors at the start and at the end", books)


class NoServers:
    """In the place of the process with the servers."""

    def __init__(self, seen: int = 0) -> None:
        self.seen = seen

    def open(self) -> int:
        """Connections that they see open."""
        return self.seen


@pytest.fixture
def agent() -> Any:
    with Agent(max_sockets=2, max_total_sockets=2, **Network().options) as agent:
        yield agent


def soak(agent: Agent, seen: int = 0) -> Soak:
    servers: Any = NoServers(seen)
    return Soak(1, [agent], servers)


def test_nothing_is_found_where_nothing_is_wrong(agent: Agent) -> None:
    with httpx.Client(transport=AgentTransport(agent=agent)) as client:
        client.get(URL)
    watch = soak(agent, seen=1)
    watch._look()
    watch._at_rest("now")
    watch._wait_for_servers()
    assert watch.failures == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"create_socket_count": 9}, "9 sockets created, 1 known"),
        ({"request_count": 9}, "1 requests made"),
        ({"request_count": 0, "sockets": {}}, "1 requests made"),
        ({"free_sockets": {"http://a.test:80": 3}, "create_socket_count": 3}, "3 sockets of http://a.test:80, above"),
        ({"free_sockets": {"a": 2, "b": 2}, "create_socket_count": 4}, "4 sockets, above the limit"),
    ],
    ids=["sockets", "requests too many", "a request lost", "a limit", "the limit on all"],
)
def test_books_that_do_not_balance(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], found: str
) -> None:
    with httpx.Client(transport=AgentTransport(agent=agent)) as client:
        client.get(URL)
    status = replace(agent.status(), **change)
    monkeypatch.setattr(agent, "status", lambda: status)
    watch = soak(agent)
    watch._look()
    assert any(found in failure for failure in watch.failures), watch.failures


def test_a_request_that_is_left_over(agent: Agent) -> None:
    with httpx.Client(transport=AgentTransport(agent=agent)) as client, client.stream("GET", URL):
        watch = soak(agent)
        watch._at_rest("now")
    assert len(watch.failures) == 3
    assert "1 request(s) have not ended" in watch.failures[0]
    assert "sockets in use by nobody" in watch.failures[1]
    assert "1 requests made" in watch.failures[2]


def test_connections_that_only_the_servers_know(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.soak.__main__.PATIENCE", 0.02)
    watch = soak(agent, seen=1)
    watch._wait_for_servers()
    assert watch.failures == ["the servers see 1 connections, the agents have 0"]


@pytest.mark.parametrize(("after", "fails"), [(100, False), (105, False), (106, True)])
def test_memory_that_grows(agent: Agent, after: int, fails: bool) -> None:
    """Against the end of the first minute; what it takes before that does not count."""
    watch = soak(agent)
    watch.memory = [10] * 30 + [150, 100] * 20 + [after, 150] * 15
    told = watch.check_memory()
    assert told == f"memory: 100 KiB after a minute, {after} KiB at the end ({after / 100 - 1:+.1%})"
    assert watch.failures == ([f"resident memory grew from 100 to {after} KiB after the first minute"] if fails else [])


def test_a_wrong_answer(agent: Agent) -> None:
    """One that belongs to another request, or that nobody asked for."""
    load = Load(agent, [URL], 1, Tally())
    plan = Plan("GET", f"{URL}fine?7", None, httpx.Timeout(1), 1.0, read=True)
    load._check(httpx.Response(200, headers={"X-Target": "/fine?7"}), plan)
    for status, headers in [(200, {"X-Target": "/fine?8"}), (200, {}), (299, {"X-Target": "/fine?7"})]:
        with pytest.raises(WrongAnswerError):
            load._check(httpx.Response(status, headers=headers), plan)


def test_what_is_said_where_nobody_listens(agent: Agent) -> None:
    class Careless:
        def __del__(self) -> None:
            warnings.warn("left open", ResourceWarning, stacklevel=1)

    watch = soak(agent)
    with _strict(watch):
        Careless()
    assert len(watch.failures) == 1
    assert "left open" in watch.failures[0]
