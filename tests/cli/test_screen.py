"""Output is safe, and the same text everywhere, drawn or plain."""

from __future__ import annotations

import sys
from io import BytesIO, StringIO, TextIOWrapper

import pytest

from httpx_agent import Agent, SocketInfo
from httpx_agent._cli.report import report_sockets, report_status
from httpx_agent._cli.screen import Screen
from httpx_agent._cli.terminal import screen_for
from httpx_agent._values.status import AgentStatus


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_rich_draws_on_a_terminal() -> None:
    pytest.importorskip("rich")
    assert type(screen_for(Terminal())).__name__ == "RichScreen"


def test_what_is_no_terminal_gets_plain_text() -> None:
    assert type(screen_for(StringIO())) is Screen


def test_without_rich_a_terminal_gets_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    assert type(screen_for(Terminal())) is Screen


def test_a_dumb_terminal_gets_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert type(screen_for(Terminal())) is Screen


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [
        ("utf-8", b"caf\xc3\xa9 \\u2028\\x1b[31m\\x07 a b \\udcff"),
        ("ascii", b"caf\\xe9 \\u2028\\x1b[31m\\x07 a b \\udcff"),
    ],
)
def test_what_cannot_be_printed_is_escaped(encoding: str, printed: bytes) -> None:
    raw = BytesIO()
    stream = TextIOWrapper(raw, encoding=encoding, newline="\n")
    Screen(stream).line(
        "café \N{ZERO WIDTH SPACE}".replace("\N{ZERO WIDTH SPACE}", "\\u2028") + "\x1b[31m\x07 a\nb \udcff"
    )
    assert raw.getvalue() == printed + b"\n"


def test_plain_layout() -> None:
    stream = StringIO()
    screen = Screen(stream)
    screen.heading("First")
    screen.paragraph("word " * 30)
    screen.table(("name", "count"), iter([("a", "1"), ("bc", "23")]))
    screen.heading("Second")
    screen.line("end")
    line = "word " * 17 + "word"
    assert stream.getvalue() == (
        f"First\n=====\n{line[:84]}\n{('word ' * 13).rstrip()}\n\n"
        "name  count\n----  -----\na         1\nbc       23\n\n"
        "Second\n======\nend\n"
    )


def test_plain_progress_draws_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 0.0, 0.0, 0.05, 0.2, 0.2])
    monkeypatch.setattr("httpx_agent._cli.screen.time.monotonic", lambda: next(now))
    stream = Terminal()
    with Screen(stream).progress(3, "steps") as advance:
        for _ in range(3):
            advance()
    looks = stream.getvalue().split("\r")
    assert looks == [
        "",
        f"[{'#' * 10}{'.' * 20}] 1/3 steps",  # the second step comes too soon to be shown
        f"[{'#' * 30}] 3/3 steps",
        f"[{'#' * 30}] 3/3 steps\n",
    ]


def test_plain_progress_where_nothing_can_be_drawn() -> None:
    stream = StringIO()
    with Screen(stream).progress(2, "steps") as advance:
        advance()
        advance()
    assert stream.getvalue() == "1 of 2 steps done\n2 of 2 steps done\n"


def test_rich_layout() -> None:
    pytest.importorskip("rich")
    stream = Terminal()
    screen = screen_for(stream)
    screen.heading("Title")
    screen.table(("origin [b]", "count"), [("http://[::1]:80\x1b", "5"), (":smile: [red]x", "12")])
    screen.heading("Next")
    out = stream.getvalue()
    assert "\x1b[1;36mTitle\x1b[0m\n" in out
    assert "http://[::1]:80\\x1b" in out  # neither markup nor an escape of its own
    assert ":smile: [red]x" in out
    assert "origin [b]" in out
    assert "│     5 │" in out
    assert "\n\n\x1b[1;36mNext\x1b[0m\n" in out


def test_rich_progress() -> None:
    pytest.importorskip("rich")
    stream = Terminal()
    with screen_for(stream).progress(2, "steps") as advance:
        advance()
        advance()
    assert "2/2" in stream.getvalue()
    assert "steps" in stream.getvalue()


STATUS = AgentStatus(
    create_socket_count=3,
    create_socket_error_count=0,
    close_socket_count=0,
    detached_socket_count=0,
    error_socket_count=0,
    timeout_socket_count=0,
    request_count=7,
    request_error_count=1,
    sockets={"http://a:80": 1},
    free_sockets={"http://b:80": 2},
    requests={"http://a:80": 5},
)


@pytest.mark.parametrize("status", [STATUS, Agent().status()], ids=["busy", "empty"])
def test_status_is_printed_as_it_prints_itself(status: AgentStatus) -> None:
    stream = StringIO()
    report_status(Screen(stream), status)
    assert stream.getvalue() == f"{status}\n\n"


def test_sockets_without_values() -> None:
    stream = StringIO()
    common = {"origin": "http://a:80", "request_count": 1, "age": 0.5, "idle_for": None, "expires_in": None}
    report_sockets(
        Screen(stream),
        [
            SocketInfo(id=0, state="active", local_address="/a", peer_address=None, http_version="HTTP/2", **common),
            SocketInfo(id=1, state="connecting", local_address=None, peer_address=None, http_version=None, **common),
        ],
    )
    assert stream.getvalue().splitlines()[2:4] == [
        " 0  active                  1  0.50         -           -  /a             HTTP/2",
        " 1  connecting              1  0.50         -           -  -              -",
    ]
