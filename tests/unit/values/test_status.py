"""The status of an agent as a value: frozen, and printed as a table."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from httpx_agent import Agent, AgentOptions, AgentTransport, RequestInfo, SocketInfo
from httpx_agent._values.status import format_table, is_number
from httpx_agent.testing import Network
from tests.support.statuses import info_of, status_of
from tests.support.worlds import World


@pytest.mark.rule("R27")
@pytest.mark.parametrize(
    ("url", "extensions", "origin"),
    [
        ("http://a.test", {}, "http://a.test:80"),
        ("https://a.test", {}, "https://a.test:443"),
        ("http://A.test:8080/path?query#part", {}, "http://a.test:8080"),
        ("http://[::1]", {}, "http://[::1]:80"),
        ("https://[2001:db8::1]:8443", {}, "https://[2001:db8::1]:8443"),
        ("http://127.0.0.1", {}, "http://127.0.0.1:80"),
        ("http://bücher.test", {}, "http://xn--bcher-kva.test:80"),
        ("https://a.test", {"sni_hostname": "b.test"}, "https://a.test:443 (b.test)"),
        ("https://a.test", {"sni_hostname": "a.test"}, "https://a.test:443"),
        ("https://[::1]", {"sni_hostname": "b.test"}, "https://[::1]:443 (b.test)"),
        ("http://user:secret@a.test", {}, "http://a.test:80"),
    ],
)
async def test_how_origins_are_written(world: World, url: str, extensions: dict[str, Any], origin: str) -> None:
    network = Network()
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with client.stream("GET", url, extensions=extensions):
            assert agent.status().sockets == {origin: 1}
            assert [info.origin for info in agent.sockets()] == [origin]
    await world.close(agent)


def test_a_status_is_frozen() -> None:
    status = Agent().status()
    with pytest.raises(dataclasses.FrozenInstanceError):
        status.request_count = 5  # type: ignore[misc]
    for table in (status.sockets, status.free_sockets, status.requests):
        with pytest.raises(TypeError):
            table["http://a.test:80"] = 5  # type: ignore[index]


@pytest.mark.rule("R40")
def test_a_status_prints_as_a_table() -> None:
    status = status_of(
        create_socket_count=12,
        close_socket_count=3,
        sockets={"http://a.test:80": 2},
        free_sockets={"https://[::1]:8443 (b.test)": 10},
        requests={"http://a.test:80": 1, "http://c.test:80": 4},
    )
    assert str(status) == "\n".join(
        [
            "counter                    value",
            "-------------------------  -----",
            "create_socket_count           12",
            "create_socket_error_count      0",
            "close_socket_count             3",
            "detached_socket_count          0",
            "error_socket_count             0",
            "timeout_socket_count           0",
            "request_count                  0",
            "request_error_count            0",
            "",
            "origin                       sockets  free_sockets  requests",
            "---------------------------  -------  ------------  --------",
            "http://a.test:80                   2             0         1",
            "https://[::1]:8443 (b.test)        0            10         0",
            "http://c.test:80                   0             0         4",
        ]
    )


def test_an_empty_status_prints_its_counters_only() -> None:
    lines = str(Agent().status()).splitlines()
    assert len(lines) == 10
    assert lines[0] == "counter                    value"
    assert lines[-1] == "request_error_count            0"


def test_columns_of_numbers_stand_to_the_right() -> None:
    table = format_table(("name", "n"), [("x", "10"), ("longer", "-"), ("y", ""), ("z", "1.5")])
    assert table == "name      n\n------  ---\nx        10\nlonger    -\ny\nz       1.5"
    assert format_table(("a", "b"), []) == "a  b\n-  -"


@pytest.mark.parametrize(
    ("cell", "expected"),
    [("", True), ("-", True), ("1", True), ("1.5", True), ("1.5.2", False), ("a", False), (".", False)],
)
def test_what_looks_like_a_number(cell: str, expected: bool) -> None:
    assert is_number(cell) is expected


@pytest.mark.parametrize("kind", [SocketInfo, RequestInfo, AgentOptions])
def test_the_other_values_are_frozen_too(kind: type) -> None:
    values: Any = info_of() if kind is SocketInfo else None
    if kind is RequestInfo:
        values = RequestInfo(
            socket_id=0, reused=False, requests_on_socket=1, queued_for=0.0, idle_for=None, retried=False
        )
    if kind is AgentOptions:
        values = Agent().options
    for field in dataclasses.fields(kind):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(values, field.name, None)
    with pytest.raises(TypeError, match="positional argument"):
        kind(1)
