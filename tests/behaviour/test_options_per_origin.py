"""`per_origin`: which pattern applies to which origin, and what each option does there."""

from __future__ import annotations

from typing import Any

import httpcore
import httpx
import pytest

from httpx_agent import Agent, AgentOptions, AgentTransport
from httpx_agent._values.options import ORIGIN_OPTIONS
from httpx_agent.testing import Gate, Network, Script, VirtualClock, respond
from tests.support.worlds import World

A, B = "http://a.test/", "http://b.test/"


@pytest.mark.parametrize(
    "name",
    sorted(set(AgentOptions.__dataclass_fields__) - ORIGIN_OPTIONS),
)
def test_what_may_not_differ(name: str) -> None:
    value = getattr(Agent(), name)
    with pytest.raises(TypeError, match=f"'{name}' cannot differ between origins"):
        Agent(per_origin={"all://": {name: value}})


def test_all_that_may_differ() -> None:
    """The origin's value, and the agent's where the pattern says nothing or does not match."""
    changes: dict[str, Any] = {
        "max_sockets": 2,
        "max_free_sockets": 1,
        "scheduling": "fifo",
        "keep_alive": False,
        "keep_alive_initial_delay": 7.0,
        "keep_alive_timeout_buffer": 3.0,
        "timeout": 8.0,
        "free_socket_timeout": 4.0,
        "socket_active_ttl": 9.0,
    }
    assert set(changes) == ORIGIN_OPTIONS
    agent = Agent(per_origin={"all://a.test": changes, "all://": {"timeout": 5}}, max_sockets=11)
    key = agent._dispatcher.key_of(httpcore_request("http://a.test"))
    options = agent._dispatcher.options_for(key)
    assert {name: getattr(options, name) for name in changes} == changes
    assert options.max_total_sockets is agent.max_total_sockets
    other = agent._dispatcher.options_for(agent._dispatcher.key_of(httpcore_request("http://b.test")))
    assert (other.timeout, other.max_sockets, other.scheduling) == (5.0, 11, "lifo")
    assert agent.timeout == 30.0


def httpcore_request(url: str) -> Any:
    return httpcore.Request("GET", url)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["max_socket"], "no such option: 'max_socket' (did you mean max_sockets?)"),
        (["maxSockets"], "no such option: 'maxSockets' (maxSockets in Node is max_sockets here)"),
        (
            ["keepalive_expiry", "schedulling"],
            (
                "no such option: 'keepalive_expiry' (keepalive_expiry in httpx.Limits is free_socket_timeout here), "
                "'schedulling' (did you mean scheduling?)"
            ),
        ),
        (
            ["max_total_sockets", "nonsense"],
            "no such option: 'nonsense'; available options: free_socket_timeout, keep_alive, ",
        ),
        ([5], "no such option: 5; available options: free_socket_timeout, keep_alive, "),
    ],
)
def test_what_is_no_option(names: list[Any], message: str) -> None:
    """A typo is called a typo, and not an option that may not differ."""
    with pytest.raises(TypeError) as caught:
        Agent(per_origin={"all://": dict.fromkeys(names, 1)})
    assert str(caught.value).startswith(f"per_origin['all://']: {message}")


def of_a(**changes: Any) -> dict[str, Any]:
    """Options that differ at one origin."""
    return {"per_origin": {"http://a.test": changes}}


@pytest.mark.rule("R4")
async def test_max_sockets(world: World) -> None:
    gate = Gate()
    network = Network(default=Script(then=[gate, respond()]))
    agent = Agent(**of_a(max_sockets=1), max_sockets=2, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client, world.tasks() as tasks:
        for url in (A, A, A, B, B, B):
            tasks.start(client.get, url)
        await world.until(lambda: network.request_count == 3)
        await world.until(lambda: agent.status().requests == {"http://a.test:80": 2, "http://b.test:80": 1})
        assert agent.status().sockets == {"http://a.test:80": 1, "http://b.test:80": 2}
        gate.open()
    assert network.peaks == {("a.test", 80): 1, ("b.test", 80): 2}
    await world.close(agent)


async def test_max_sockets_of_none_lifts_the_limit(world: World) -> None:
    network = Network()
    agent = Agent(**of_a(max_sockets=None), max_sockets=1, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with client.stream("GET", A), client.stream("GET", A), client.stream("GET", A):
            assert agent.status().sockets == {"http://a.test:80": 3}
    await world.close(agent)


async def use_two_sockets(client: Any, url: str) -> None:
    """Leaves two sockets free, number 0 of the origin used last."""
    async with client.stream("GET", url) as first, client.stream("GET", url) as second:
        await second.aread()
        await first.aread()


async def test_max_free_sockets(world: World) -> None:
    network = Network()
    agent = Agent(**of_a(max_free_sockets=1), **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await use_two_sockets(client, A)
        await use_two_sockets(client, B)
        assert agent.status().free_sockets == {"http://a.test:80": 1, "http://b.test:80": 2}
    await world.close(agent)


@pytest.mark.rule("R2")
async def test_scheduling(world: World) -> None:
    network = Network()
    agent = Agent(**of_a(scheduling="fifo"), **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await use_two_sockets(client, A)
        await use_two_sockets(client, B)
        assert (await client.get(A)).extensions["agent"].socket_id == 1
        assert (await client.get(B)).extensions["agent"].socket_id == 2
    await world.close(agent)


async def test_keep_alive(world: World) -> None:
    network = Network()
    agent = Agent(**of_a(keep_alive=False), **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(A)
        await client.get(B)
    assert b"\r\nConnection: close\r\n" in network.connections[0].heads[0]
    assert b"\r\nConnection: keep-alive\r\n" in network.connections[1].heads[0]
    assert agent.status().free_sockets == {"http://b.test:80": 1}
    await world.close(agent)


async def test_keep_alive_initial_delay(world: World) -> None:
    network = Network()
    agent = Agent(**of_a(keep_alive_initial_delay=None), **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(A)
        await client.get(B)
    counts = [len(tuple(op.details["socket_options"])) for op in network.ops if op.name == "connect"]
    assert counts == [0, 2]
    await world.close(agent)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"keep_alive_timeout_buffer": 4}, 6.0),
        ({"free_socket_timeout": 3}, 3.0),
        ({"free_socket_timeout": None}, 9.0),
        ({"socket_active_ttl": 5}, 5.0),
    ],
    ids=str,
)
async def test_times(world: World, changes: dict[str, Any], expected: float) -> None:
    """What is left of a free socket whose server said `timeout=10`."""
    network = Network(default=Script(then=respond(headers=[("Keep-Alive", "timeout=10")])))
    agent = VirtualClock().agent(**of_a(**changes), **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(A)
        await client.get(B)
        assert [(info.origin, info.expires_in) for info in agent.sockets()] == [
            ("http://a.test:80", expected),
            ("http://b.test:80", 9.0),
        ]
    await world.close(agent)


async def test_timeout(world: World) -> None:
    """Where the request says nothing."""
    network = Network()
    agent = Agent(**of_a(timeout=7), **network.options)
    transport = AgentTransport(agent=agent)
    for url in (A, B):
        response = await world.handle(transport, httpx.Request("GET", url))
        await response.aread()
    assert [op.details["timeout"] for op in network.ops if op.name == "connect"] == [7.0, 30.0]
    await world.close(agent)


async def test_a_timeout_given_for_an_origin_acts_where_the_request_says_none(world: World) -> None:
    network = Network()
    agent = Agent(**of_a(timeout=7), **network.options)
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client:
        await client.get(A)
        await client.get(B)
    await world.close(agent)
    assert [op.details["timeout"] for op in network.ops if op.name == "connect"] == [7.0, None]


async def test_live_options_of_the_agent_leave_those_of_an_origin_alone(world: World) -> None:
    network = Network()
    agent = Agent(**of_a(max_sockets=2), **network.options)
    agent.max_sockets = 1
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with client.stream("GET", A), client.stream("GET", A), client.stream("GET", B):
            assert agent.status().sockets == {"http://a.test:80": 2, "http://b.test:80": 1}
            with pytest.raises(httpx.PoolTimeout):
                await client.get(B, timeout=httpx.Timeout(1, pool=0.001))
    await world.close(agent)
