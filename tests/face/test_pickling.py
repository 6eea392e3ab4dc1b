"""Agents and transports in other processes, and the copies that are made of them."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import ssl
from typing import Any

import httpcore
import httpx
import pytest

from httpx_agent import Agent, AgentTransport, _pickling
from httpx_agent._pickling import Identities
from tests.support.servers import Server


class Sent(bytes):
    """A pickle that comes to a process which knows nothing of the agent yet."""

    def received(self, monkeypatch: pytest.MonkeyPatch, times: int = 1) -> list[Any]:
        elsewhere = Identities()
        monkeypatch.setattr(_pickling, "identities", elsewhere)
        found = [pickle.loads(self) for _ in range(times)]
        monkeypatch.undo()
        return found


def test_it_is_the_same_agent_in_its_own_process() -> None:
    agent = Agent(max_sockets=3)
    for _ in range(2):
        assert pickle.loads(pickle.dumps(agent)) is agent
    assert copy.copy(agent) is agent
    assert copy.deepcopy({"agent": agent})["agent"] is agent


def test_it_is_one_agent_in_another_process_however_often_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the options that were given, and those that were set since."""
    agent = Agent(
        max_sockets=3, per_origin={"https://a.test": {"max_sockets": 1}}, limits=httpx.Limits(max_connections=9)
    )
    agent.max_sockets = 5
    agent.scheduling = "fifo"
    first, second = Sent(pickle.dumps(agent)).received(monkeypatch, times=2)
    assert first is second is not agent
    assert first.options == agent.options
    assert (first.max_sockets, first.scheduling, first.max_total_sockets) == (5, "fifo", 9)
    assert first._engine.given_options().keys() == agent._engine.given_options().keys()


def test_two_agents_stay_two(monkeypatch: pytest.MonkeyPatch) -> None:
    agents = [Agent(max_sockets=3), Agent(max_sockets=3)]
    first, second = Sent(pickle.dumps(agents)).received(monkeypatch)[0]
    assert first is not second


def test_one_that_came_is_kept_between_tasks_until_it_is_closed() -> None:
    """Each task of a queue brings it along, and drops it."""
    elsewhere = Identities()
    number = id(elsewhere.revive(Agent, "1", {}, {}))
    assert id(elsewhere.revive(Agent, "1", {}, {})) == number
    kept = elsewhere.revive(Agent, "1", {}, {})
    elsewhere.let_go(kept)
    elsewhere.let_go(Agent())  # which never went anywhere
    assert elsewhere.revive(Agent, "1", {}, {}) is kept
    del kept
    assert "1" not in elsewhere._agents


def test_closing_lets_an_agent_go(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = Identities()
    monkeypatch.setattr("httpx_agent._agent.identities", elsewhere)
    agent = elsewhere.revive(Agent, "1", {}, {})
    agent.close()
    assert not elsewhere._kept


def test_no_more_are_kept_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pickling, "MAX_KEPT", 2)
    elsewhere = Identities()
    for identity in "abc":
        elsewhere.revive(Agent, identity, {}, {})
    assert list(elsewhere._kept) == ["b", "c"]


class Named(Agent):
    """As a user may have it: with an argument and an attribute of its own."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(**options)
        self.name = name


class NamedTransport(AgentTransport):
    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(**options)
        self.name = name


def test_a_subclass_keeps_what_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    (agent,) = Sent(pickle.dumps(Named("a", max_sockets=2))).received(monkeypatch)
    assert (type(agent), agent.name, agent.max_sockets) == (Named, "a", 2)
    transport = pickle.loads(pickle.dumps(NamedTransport("b", max_sockets=2)))
    assert (type(transport), transport.name, transport.agent.max_sockets) == (NamedTransport, "b", 2)


@pytest.mark.parametrize("proxy", [None, "http://127.0.0.1:1"])
def test_a_copy_of_a_transport_borrows_its_agent(proxy: str | None) -> None:
    """Whoever closes the copy does not close the agent."""
    transport = AgentTransport(max_sockets=2, proxy=proxy)
    for other in (copy.copy(transport), copy.deepcopy(transport), pickle.loads(pickle.dumps(transport))):
        assert type(other) is AgentTransport
        assert other.agent is transport.agent
        assert type(other._pool) is type(transport._pool)
        assert not other._pool._owns_agent
    assert transport._pool._owns_agent


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("verify", ssl.create_default_context()),
        ("network_backend", type("Local", (httpcore.NetworkBackend,), {})()),
        ("proxy", httpx.Proxy("https://127.0.0.1:1", ssl_context=ssl.create_default_context())),
    ],
    ids=["verify", "network_backend", "proxy"],
)
def test_what_cannot_be_sent_is_named(option: str, value: Any) -> None:
    for kind in (Agent, AgentTransport):
        made = kind(**{option: value})
        with pytest.raises(pickle.PicklingError, match=f"^{option}: .* cannot be sent to another process .* path of a"):
            pickle.dumps(made)
        copy.deepcopy(made)  # which sends it nowhere


def ask(transport: AgentTransport, url: str, times: int) -> list[tuple[int, bool]]:
    """What a worker does: each time as if the transport had just come."""
    pickled = pickle.dumps(transport)
    del transport
    found = []
    for _ in range(times):
        with httpx.Client(transport=pickle.loads(pickled)) as client:
            info = client.get(url).extensions["agent"]
            found.append((info.socket_id, info.reused))
    return found


def test_tasks_of_a_worker_share_its_sockets(server: Server) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        found = pool.apply(ask, (AgentTransport(max_sockets=2), f"{server.url}/echo", 3))
        again = pool.apply(ask, (AgentTransport(max_sockets=2), f"{server.url}/echo", 1))
    assert found == [(0, False), (0, True), (0, True)]
    assert again == [(0, False)]  # another agent
