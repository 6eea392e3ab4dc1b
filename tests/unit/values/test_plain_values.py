"""The values that an agent returns, as data: pickled, copied, written as JSON."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from types import MappingProxyType
from typing import Any

import httpx
import pytest

from httpx_agent import Agent, AgentStatus, AgentTransport, RequestInfo, SocketInfo, request_info
from httpx_agent._values.frozen import FrozenDict
from tests.support.servers import Server


def told(server: Server) -> tuple[AgentStatus, SocketInfo, RequestInfo]:
    with httpx.Client(transport=AgentTransport()) as client:
        response = client.get(f"{server.url}/echo")
        agent = client._transport.agent  # type: ignore[attr-defined]
        info = request_info(response)
        assert info is not None
        return agent.status(), agent.sockets()[0], info


def test_they_survive_pickle_copy_and_asdict(server: Server) -> None:
    for value in told(server):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            assert pickle.loads(pickle.dumps(value, protocol)) == value
        assert copy.deepcopy(value) == value
        assert type(value)(**dataclasses.asdict(value)) == value


def test_they_are_told_in_plain_types(server: Server) -> None:
    """A JSON endpoint needs no encoder of its own."""
    status, held, info = told(server)
    for value in (status, held, info):
        plain = value.as_dict()
        assert list(plain) == [field.name for field in dataclasses.fields(value)]
        assert json.loads(json.dumps(plain)) == plain
        assert json.loads(json.dumps(dataclasses.asdict(value))) == plain
    origin = f"http://{server.netloc}"
    assert status.as_dict()["free_sockets"] == {origin: 1}
    assert type(status.as_dict()["free_sockets"]) is dict
    assert held.as_dict()["peer_address"] == ["127.0.0.1", server.port]
    assert held.as_dict()["origin"] == origin
    assert info.as_dict()["reused"] is False


def test_tables_of_any_kind_are_told(server: Server) -> None:
    status = dataclasses.replace(told(server)[0], sockets=MappingProxyType({"http://a.test:80": 1}))
    assert json.loads(json.dumps(status.as_dict()))["sockets"] == {"http://a.test:80": 1}


def test_they_cannot_be_changed(server: Server) -> None:
    """A change of what is told would change nothing in the agent."""
    status, _, _ = told(server)
    table: Any = status.free_sockets
    for change in (
        lambda: table.update(a=1),
        lambda: table.pop("a", None),
        lambda: table.setdefault("a", 1),
        lambda: table.clear(),
        lambda: table.popitem(),
        lambda: table.__setitem__("a", 1),
        lambda: table.__delitem__("a"),
        lambda: table.__ior__({"a": 1}),
    ):
        with pytest.raises(TypeError, match="is read-only"):
            change()
    assert table == dict(table) == FrozenDict(table)
    assert table | {"a": 1} == {**table, "a": 1}


def test_options_survive_too() -> None:
    options = Agent(per_origin={"https://a.test": {"max_sockets": 1}}, max_sockets=2).options
    assert pickle.loads(pickle.dumps(options)) == options
    assert dataclasses.asdict(options)["per_origin"] == {"https://a.test": {"max_sockets": 1}}


def test_how_a_response_was_got_is_known_of_an_agents_only() -> None:
    """A mock's response has nothing of the kind, and neither has one whose extension is another's."""
    assert request_info(httpx.Response(200)) is None
    assert request_info(httpx.Response(200, extensions={"agent": "mine"})) is None
