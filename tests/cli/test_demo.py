"""The demo shows what it claims to show."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields

import pytest

from httpx_agent import Agent, AgentOptions

from .conftest import WITHOUT_RICH, Result, run, run_on_terminal

HEADINGS = [
    "Options: the settings of an agent",
    "httpx.Client: one request after another",
    "httpx.AsyncClient: five requests at once, max_sockets=2",
    "Status and sockets: what the agent reports",
    "Scheduling: lifo and fifo",
    "The server's hint: Keep-Alive: timeout=N",
    "free_socket_timeout: closed by the timer",
    "socket_active_ttl: a maximum age for sockets",
]


@pytest.fixture(scope="module")
def demo() -> Result:
    return run("demo")


@pytest.fixture(scope="module")
def sections(demo: Result) -> dict[str, list[str]]:
    """What is printed under each heading, after its explanation."""
    lines = demo.out.splitlines()
    starts = [index for index, line in enumerate(lines) if line and set(line) == {"="}]
    found = {}
    for start, end in zip(starts, [*(s - 1 for s in starts[1:]), len(lines)], strict=True):
        body = lines[start + 1 : end]
        found[lines[start - 1]] = body[body.index("") + 1 :]
    return found


def test_it_ends_well_and_without_a_warning(demo: Result) -> None:
    assert (demo.status, demo.err) == (0, "")


def test_every_section_has_a_heading_and_an_explanation(demo: Result, sections: dict[str, list[str]]) -> None:
    assert list(sections) == HEADINGS
    assert demo.out.startswith(HEADINGS[0] + "\n")
    for heading in HEADINGS:
        assert re.search(rf"^{re.escape(heading)}\n=+\n[A-Z].+", demo.out, re.MULTILINE)
    assert "\n\n\n" not in demo.out


def test_no_control_characters_when_piped(demo: Result) -> None:
    assert demo.out.replace("\n", "").isprintable()


def test_options_are_printed_one_a_line(sections: dict[str, list[str]]) -> None:
    options = Agent(max_sockets=2).options
    table = sections[HEADINGS[0]]
    assert table[0].split() == ["option", "value"]
    printed = [line.split(maxsplit=1) for line in table[2 : table.index("")]]
    assert printed == [[field.name, repr(getattr(options, field.name))] for field in fields(AgentOptions)]
    assert table[table.index("") + 1 :][:2] == [
        "Status code: 200",
        "Headers: {'content-type': 'text/plain', 'content-length': '6'}",
    ]


def test_one_socket_serves_all_requests_one_after_another(sections: dict[str, list[str]]) -> None:
    assert sections[HEADINGS[1]][:3] == [
        "request 1: socket 0, new",
        "request 2: socket 0, reused (request 2 on it)",
        "request 3: socket 0, reused (request 3 on it)",
    ]


def test_five_requests_at_once_share_two_sockets(sections: dict[str, list[str]]) -> None:
    lines = [line for line in sections[HEADINGS[2]] if line]
    assert len(lines) == 5
    served = {1: 0, 2: 0}
    for line in lines:
        found = re.fullmatch(
            r"request (\d): socket (\d), (?:new|reused \(request (\d) on it\), waited (\d\.\d\d) s for it)", line
        )
        assert found, line
        socket = int(found[2])
        served[socket] += 1
        assert found[3] in (None, str(served[socket]))
        assert (found[3] is None) == (int(found[1]) <= 2)  # the first two got new sockets, the others waited
        assert found[4] is None or float(found[4]) > 0
    assert sum(served.values()) == 5


def test_status_and_sockets_are_those_of_both_clients(sections: dict[str, list[str]]) -> None:
    lines = sections[HEADINGS[3]]
    counters = dict(line.split() for line in lines[2:10])
    assert counters == {
        "create_socket_count": "3",
        "create_socket_error_count": "0",
        "close_socket_count": "1",
        "detached_socket_count": "0",
        "error_socket_count": "0",
        "timeout_socket_count": "0",
        "request_count": "8",
        "request_error_count": "0",
    }
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+ +0 +2 +0", lines[13])
    sockets = [line.split() for line in lines[17:19]]
    assert [(row[0], row[1]) for row in sockets] == [("1", "free"), ("2", "free")]
    assert sum(int(row[2]) for row in sockets) == 5
    assert all(14 < float(row[5]) <= 15 and row[7] == "HTTP/1.1" for row in sockets)


def test_lifo_and_fifo_serve_in_the_order_that_is_printed(sections: dict[str, list[str]]) -> None:
    assert [line for line in sections[HEADINGS[4]] if line] == [
        "lifo: served by the sockets 2, 2, 2, 2, 2, 2",
        "fifo: served by the sockets 0, 1, 2, 0, 1, 2",
    ]


def test_the_hint_shortens_the_life_of_a_free_socket(sections: dict[str, list[str]]) -> None:
    lines = [line for line in sections[HEADINGS[5]] if line]
    assert re.fullmatch(r"no hint: socket 0, new; expires in (15\.0|14\.\d) s", lines[0])
    assert re.fullmatch(r"timeout=5: socket 0, reused \(request 2 on it\); expires in (4\.0|3\.\d) s", lines[1])
    assert lines[2:] == [
        "timeout=1: socket 0, reused (request 3 on it); not kept",
        "next request: socket 1, new",
    ]


def test_the_timer_closes_a_free_socket(sections: dict[str, list[str]]) -> None:
    lines = [line for line in sections[HEADINGS[6]] if line]
    assert re.fullmatch(r"request 1: socket 0, new; expires in 0\.\d s", lines[0])
    assert re.fullmatch(r"\d\.\d s later, without a request: sockets open: 0, closed by a limit: 1", lines[1])
    assert lines[2:] == ["request 2: socket 1, new"]


def test_a_socket_grows_no_older_than_its_ttl(sections: dict[str, list[str]]) -> None:
    lines = sections[HEADINGS[7]]
    assert re.fullmatch(r"request 1, of 0\.0 s: socket 0, new; expires in 0\.\d s", lines[0])
    assert re.fullmatch(r"request 2, of 0\.1 s: socket 0, reused \(request 2 on it\); expires in 0\.\d s", lines[1])
    assert lines[2] == "request 3, of 0.6 s: socket 0, reused (request 3 on it); not kept"
    assert re.fullmatch(r"request 4, of 0\.0 s: socket 1, new; expires in 0\.\d s", lines[3])
    assert re.fullmatch(r"\d\.\d s later, without a request: sockets open: 0, closed by a limit: 1", lines[4])


def test_in_this_process(cli: Callable[..., Result], sections: dict[str, list[str]]) -> None:
    result = cli("demo")
    assert result.status == 0
    for line in (*HEADINGS, *sections[HEADINGS[1]], *sections[HEADINGS[4]]):
        assert line in result.out.splitlines()


def test_sections_are_run_in_order(cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    # This is what measures the lines around `asyncio.run`: on CPython 3.11, tracing loses the frames that call it.
    names = ("options", "sync", "async", "scheduling", "hint", "free_socket_timeout", "ttl")
    seen = []

    def section(name: str) -> Callable[..., object]:
        async def show_async(*_: object) -> None:
            seen.append(name)

        return show_async if name == "async" else lambda *_: seen.append(name)

    for name in names:
        monkeypatch.setattr(f"httpx_agent._cli.demo._show_{name}", section(name))
    assert cli("demo").status == 0
    assert tuple(seen) == names


def test_on_a_terminal_with_rich() -> None:
    pytest.importorskip("rich")
    result = run_on_terminal("demo")
    assert result.status == 0
    assert "\x1b[1;36mScheduling: lifo and fifo\x1b[0m" in result.out
    assert "fifo: served by the sockets 0, 1, 2, 0, 1, 2" in result.out
    assert "━" in result.out
    assert "Traceback" not in result.out


def test_on_a_terminal_without_rich() -> None:
    result = run_on_terminal("demo", program=WITHOUT_RICH)
    assert result.status == 0
    assert "\x1b" not in result.out
    assert "Scheduling: lifo and fifo\r\n=====" in result.out
