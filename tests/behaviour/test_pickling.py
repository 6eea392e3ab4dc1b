"""Agents and transports in other processes, and copies of them."""

from __future__ import annotations

import copy
import gc
import importlib
import multiprocessing
import pickle
import ssl
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, ClassVar

import httpcore
import httpx
import pytest

import httpx_agent.httpx2
from httpx_agent import Agent, AgentTransport
from httpx_agent._api import pickling as _pickling
from httpx_agent._api.pickling import Identities
from httpx_agent._values.options import UNSET
from httpx_agent.testing import Network
from tests.support.servers import Server
from tests.support.worlds import World


@pytest.fixture(autouse=True)
def _nothing_is_kept_for_other_tests() -> Iterator[None]:
    with elsewhere():
        yield


@contextmanager
def elsewhere() -> Iterator[Identities]:
    """A process that knows none of the agents so far."""
    with pytest.MonkeyPatch.context() as patch:
        identities = Identities()
        patch.setattr("httpx_agent._api.pickling.identities", identities)
        patch.setattr("httpx_agent._api.agent.identities", identities)
        yield identities


# One agent ------------------------------------------------------------------------------------------------------------


def test_it_is_the_same_agent_in_its_own_process() -> None:
    agent = Agent(max_sockets=3)
    for _ in range(2):
        assert pickle.loads(pickle.dumps(agent)) is agent
    assert copy.copy(agent) is agent
    assert copy.deepcopy({"agent": agent})["agent"] is agent


def test_it_is_one_agent_in_another_process_however_often_it_comes() -> None:
    """With the options that were given, and those that were set since."""
    agent = Agent(
        max_sockets=3, per_origin={"https://a.test": {"max_sockets": 1}}, limits=httpx.Limits(max_connections=9)
    )
    agent.max_sockets = 5
    agent.scheduling = "fifo"
    pickled = pickle.dumps(agent)
    with elsewhere():
        first, second = pickle.loads(pickled), pickle.loads(pickled)
        there_and_back = pickle.dumps(first)
    assert first is second is not agent
    assert first.options == agent.options
    assert (first.max_sockets, first.scheduling, first.max_total_sockets) == (5, "fifo", 9)
    assert first._dispatcher.given_options().keys() == agent._dispatcher.given_options().keys()
    assert pickle.loads(there_and_back) is agent


def test_one_that_lives_already_keeps_its_options() -> None:
    """An old pickle would set back what was set since."""
    agent = Agent(max_sockets=3)
    pickled = pickle.dumps(agent)
    agent.max_sockets = 7
    assert pickle.loads(pickled).max_sockets == 7


def test_two_agents_stay_two() -> None:
    pickled = pickle.dumps([Agent(max_sockets=3), Agent(max_sockets=3)])
    with elsewhere():
        first, second = pickle.loads(pickled)
    assert first is not second


def test_threads_that_unpickle_it_at_once_get_one() -> None:
    pickled = pickle.dumps(Agent(max_sockets=3))
    together = threading.Barrier(8)

    def load(_: int) -> Any:
        together.wait()
        return pickle.loads(pickled)

    with elsewhere(), ThreadPoolExecutor(8) as threads:
        assert len({id(agent) for agent in list(threads.map(load, range(8)))}) == 1


def test_an_agent_is_forgotten_with_its_last_user() -> None:
    """In the process that made it; nothing but its users keeps it."""
    with elsewhere() as identities:
        agent = Agent()
        pickle.loads(pickle.dumps(agent))
        assert list(identities._agents.values()) == [agent]
        del agent
        gc.collect()
        assert not identities._agents


# Between tasks --------------------------------------------------------------------------------------------------------


async def test_one_that_came_is_kept_between_tasks_until_it_is_closed(world: World) -> None:
    """Each task of a queue brings it along, and drops it."""
    pickled = pickle.dumps(Agent())
    with elsewhere() as identities:
        number = id(pickle.loads(pickled))
        gc.collect()
        assert id(pickle.loads(pickled)) == number
        agent = pickle.loads(pickled)
        if world.is_sync:
            agent.close()
        else:
            await agent.aclose()
        assert pickle.loads(pickled) is agent
        del agent
        gc.collect()
        assert not identities._agents


def test_of_more_than_there_may_be_the_one_that_came_longest_ago_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not the one that came first, which may be in use all the time."""
    monkeypatch.setattr(_pickling, "MAX_KEPT", 2)
    agents = [Agent(), Agent(), Agent()]
    a, b, c = map(pickle.dumps, agents)
    with elsewhere() as identities:
        for pickled in (a, b, a, c):
            pickle.loads(pickled)
        gc.collect()
        assert list(identities._kept) == [agents[0]._identity, agents[2]._identity]
        assert {*identities._agents} == {*identities._kept}


async def test_the_free_sockets_of_one_that_is_let_go_are_closed(
    world: World, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    """Those in use are not; whoever still refers to the agent goes on with it."""
    monkeypatch.setattr(_pickling, "MAX_KEPT", 1)
    first, second = pickle.dumps(Agent()), pickle.dumps(Agent())
    with elsewhere():
        agent = pickle.loads(first)
        client = world.client(transport=AgentTransport(agent=agent))
        async with client.stream("GET", f"{server.url}/bytes/3") as response:
            await client.get(f"{server.url}/bytes/3")
            assert len(agent.sockets()) == 2
            pickle.loads(second)
            await world.until(lambda: len(agent.sockets()) == 1)
            assert len(await response.aread()) == 3
        assert (await client.get(f"{server.url}/bytes/3")).extensions["agent"].reused
        await world.close(client)
        await world.close(agent)


# Subclasses -----------------------------------------------------------------------------------------------------------


class Named(Agent):
    """As a user may have it: with an argument and attributes of its own."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(**options)
        self.name = name
        self.myself = self


class NamedTransport(AgentTransport):
    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(**options)
        self.name = name
        self.myself = self
        self.known: dict[str, Any] = {}


class Slotted(Agent):
    __slots__ = ("name", "unset")


class SlottedTransport(AgentTransport):
    __slots__ = ("name", "unset")


class Choosy(Agent):
    """It leaves behind what cannot be sent, as the documentation of `pickle` shows it."""

    lock: Any = None

    def __getstate__(self) -> dict[str, Any]:
        state = vars(self).copy()
        state.pop("lock", None)
        return state


class Odd(Agent):
    seen: ClassVar[list[Any]] = []

    def __getstate__(self) -> Any:
        return ("any", "thing")

    def __setstate__(self, state: Any) -> None:
        self.seen.append(state)


def test_a_subclass_keeps_what_is_its_own() -> None:
    """Its own constructor is not called; what it put there may refer to the agent."""
    pickled = pickle.dumps(Named("a", max_sockets=2))
    with elsewhere():
        agent = pickle.loads(pickled)
        assert (type(agent), agent.name, agent.myself, agent.max_sockets) == (Named, "a", agent, 2)
        agent.name = "b"
        assert pickle.loads(pickled).name == "b"  # what lives keeps what it has
    transport = pickle.loads(pickle.dumps(NamedTransport("b", max_sockets=2)))
    assert (type(transport), transport.name, transport.agent.max_sockets) == (NamedTransport, "b", 2)
    assert transport.myself is transport


def test_slots_are_kept_as_well() -> None:
    for kind in (Slotted, SlottedTransport):
        made: Any = kind(max_sockets=2)
        made.name, made.other = "a", "b"
        pickled = pickle.dumps(made)
        with elsewhere():
            came = pickle.loads(pickled)
        assert (type(came), came.name, came.other) == (kind, "a", "b")
        assert not hasattr(came, "unset")


def test_a_subclass_may_say_what_is_sent() -> None:
    agent = Choosy()
    agent.lock, agent.name = threading.Lock(), "a"  # type: ignore[attr-defined]
    pickled = [pickle.dumps(agent), pickle.dumps(Odd())]
    with elsewhere():
        choosy, odd = map(pickle.loads, pickled)
    assert (choosy.lock, choosy.name) == (None, "a")
    assert odd.seen == [("any", "thing")]


# Transports -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proxy", [None, "http://127.0.0.1:1"])
def test_a_copy_of_a_transport_borrows_its_agent(proxy: str | None) -> None:
    """Whoever closes the copy does not close the agent."""
    transport = AgentTransport(max_sockets=2, proxy=proxy)
    for other in (copy.copy(transport), copy.deepcopy(transport), pickle.loads(pickle.dumps(transport))):
        assert type(other) is AgentTransport
        assert other is not transport
        assert other.agent is transport.agent
        assert type(other._pool) is type(transport._pool)
        assert not other._pool._owns_agent
    assert transport._pool._owns_agent


def test_how_deep_a_copy_is() -> None:
    """As with any other object; the agent stays the same."""
    transport = NamedTransport("a")
    transport.known = {"list": [1]}
    shallow, deep = copy.copy(transport), copy.deepcopy(transport)
    assert shallow.known is transport.known
    assert deep.known == transport.known
    assert deep.known["list"] is not transport.known["list"]


# What cannot be sent --------------------------------------------------------------------------------------------------


class Local(httpcore.NetworkBackend):
    """Which is not to be found where it says."""

    __qualname__ = "somewhere.<locals>.Local"


UNSENDABLE = {
    "verify": (
        ssl.create_default_context(),
        "ssl.SSLContext",
        "pass the path of a file or directory of certificates, or ",
    ),
    "proxy": (
        httpx.Proxy("https://user:secret@127.0.0.1:1", ssl_context=ssl.create_default_context()),
        f"{httpx.Proxy.__module__}.Proxy",
        "pass one without an ssl_context, or ",
    ),
    "network_backend": (
        Local(),
        "tests.behaviour.test_pickling.somewhere.<locals>.Local",
        "pass an instance of a class defined at the top level of a module, or ",
    ),
    "async_network_backend": (
        Network().async_backend,
        "httpx_agent.testing._scripted_network._AsyncBackend",
        "pass an instance of a class defined at the top level of a module, or ",
    ),
    "socket_options": ([(1, 2, memoryview(b"x"))], "tuple", ""),
}


@pytest.mark.parametrize("option", UNSENDABLE)
def test_what_cannot_be_sent_is_named_with_what_can(option: str) -> None:
    value, kind, advice = UNSENDABLE[option]
    for made in (Agent(**{option: value}), AgentTransport(**{option: value})):
        with pytest.raises(pickle.PicklingError) as caught:
            pickle.dumps(made)
        told = str(caught.value)
        assert told.startswith(f"{option}: this {kind} cannot be sent to another process (")
        assert told.endswith(f"); {advice}create the agent there")
        assert "secret" not in told
        copy.deepcopy(made)  # which sends it nowhere


def test_a_pickler_that_can_do_more_is_left_to_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What sends classes by value, as Dask's and Ray's does, need not find them."""
    agent = Agent(network_backend=Local())
    monkeypatch.setitem(sys.modules, "cloudpickle", SimpleNamespace(dumps=repr))
    assert agent.__reduce__()[1][2]["network_backend"] is agent.network_backend


def test_what_stands_for_an_option_that_was_not_given_stays_one() -> None:
    assert pickle.loads(pickle.dumps(UNSET)) is copy.deepcopy(UNSET) is UNSET


# Processes ------------------------------------------------------------------------------------------------------------


def ask(transport: Any, library: str, url: str) -> tuple[int, bool]:
    """What a worker does: each time with a transport that has just come."""
    with importlib.import_module(library).Client(transport=transport) as client:
        info = client.get(url).extensions["agent"]
        return info.socket_id, info.reused


def close(agent: Any) -> int:
    count: int = agent.status().request_count
    agent.close()
    return count


@pytest.mark.parametrize("family", ["httpx", "httpx2"])
def test_tasks_of_a_worker_share_its_sockets(server: Server, family: str) -> None:
    ours: Any = {httpx.__name__: SimpleNamespace(AgentTransport=AgentTransport), "httpx2": httpx_agent.httpx2}
    if family not in ours:
        family = httpx.__name__  # where these tests are turned to httpx2
    one, other = ours[family].AgentTransport(max_sockets=2), ours[family].AgentTransport(max_sockets=2)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        asked = [pool.apply(ask, (transport, family, f"{server.url}/echo")) for transport in (one, one, other, one)]
        assert [pool.apply(close, (each.agent,)) for each in (one, other)] == [3, 1]
    assert asked == [(0, False), (0, True), (0, False), (0, True)]
    assert one.agent.status().request_count == 0  # each process counts its own
