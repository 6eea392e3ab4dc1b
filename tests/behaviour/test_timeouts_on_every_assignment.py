"""A request runs under its own limits, by whatever way it got its socket (R17, R33, R36, N10, N11, A1)."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import HANG, Gate, Network, Script, VirtualClock, respond
from tests.support.servers import Server
from tests.support.worlds import World

URL = "http://a.test/"
HINT = [("Keep-Alive", "timeout=4")]


@pytest.mark.rule("R17", "R33", "R36", "N10", "N11", "A1")
@pytest.mark.parametrize("options", [{"timeout": 7}, {}], ids=["the agent's", "the request's"])
async def test_the_same_timeout_on_every_way_to_a_socket(world: World, engine: str, options: dict[str, Any]) -> None:
    """A new socket; a free one whose time was short; one handed over; one opened in the place of another.

    In Node the second runs under the time for which its socket could stay free (N11), the third under none at all
    (N10), and with agentkeepalive the last two under `freeSocketTimeout` (A1).
    """
    gate = Gate()
    closing = respond(headers=[("Connection", "close")])
    network = Network(Script(respond(headers=HINT), [gate, respond()], closing))
    agent = Agent(max_sockets=1, free_socket_timeout=2, http1_engine=engine, **options, **network.options)
    timeout = None if options else 7
    async with world.client(transport=AgentTransport(agent=agent), timeout=timeout) as client:
        await client.get(URL)
        async with world.tasks() as tasks:
            jobs = [tasks.start(client.get, URL)]
            await world.until(lambda: network.request_count == 2)
            for waiting in (1, 2):
                jobs.append(tasks.start(client.get, URL))
                await world.until(lambda waiting=waiting: agent.status().requests == {"http://a.test:80": waiting})
            gate.open()
        infos = [job.result().extensions["agent"] for job in jobs]
        assert [(info.socket_id, info.requests_on_socket) for info in infos] == [(0, 2), (0, 3), (1, 1)]
        assert infos[0].idle_for is not None
    timeouts = {(op.connection, op.name, op.details["timeout"]) for op in network.ops if "timeout" in op.details}
    assert timeouts == {(number, name, 7) for number in (0, 1) for name in ("connect", "read", "write")}
    await world.close(agent)


@pytest.mark.rule("R17", "R33", "N17")
@pytest.mark.parametrize("way", ["new", "from the free ones", "handed over"])
async def test_the_agents_timeout_ends_a_silent_request(world: World, server: Server, engine: str, way: str) -> None:
    """N17: in Node it emits an event, and nothing ends. Over real sockets; the client itself sets no timeout."""
    agent = Agent(max_sockets=1, timeout=0.05, http1_engine=engine)
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client, world.tasks() as tasks:
        if way == "from the free ones":
            await client.get(f"{server.url}/echo", timeout=10)
        if way == "handed over":
            first = await client.send(client.build_request("GET", f"{server.url}/bytes/3", timeout=10), stream=True)
        extensions = {"timeout": {"connect": 10, "write": 10}}  # only reading is left to the agent
        silent = tasks.start(client.get, f"{server.url}/silence", extensions=extensions)
        if way == "handed over":
            await world.until(lambda: agent.status().requests == {server.url: 1})
            await first.aread()
        await silent.wait()
        assert type(silent.exception) is httpx.ReadTimeout
        assert agent.sockets() == ()
        await world.until(lambda: server.open == 0)
    assert server.accepted == 1
    assert agent.status().timeout_socket_count == 1
    await world.close(agent)


@pytest.mark.rule("R8", "R33", "A2")
async def test_a_limit_that_fires_frees_one_slot(world: World, engine: str) -> None:
    """A2: agentkeepalive makes two sockets in the place of one, beyond `maxSockets`."""
    network = Network(Script(HANG))
    agent = Agent(max_sockets=1, http1_engine=engine, **network.options)
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client, world.tasks() as tasks:
        silent = tasks.start(client.get, URL, timeout=httpx.Timeout(None, read=0.02))
        await world.until(lambda: network.request_count == 1)
        others = [tasks.start(client.get, URL) for _ in range(3)]
        for job in [silent, *others]:
            await job.wait()
        assert type(silent.exception) is httpx.ReadTimeout
        assert {job.result().extensions["agent"].socket_id for job in others} == {1}
    assert network.peak == 1
    assert agent.status().create_socket_count == 2
    await world.close(agent)


@pytest.mark.rule("R36", "A9")
async def test_the_time_of_a_free_socket_is_over_when_it_is_picked(world: World, engine: str) -> None:
    """A9: a timer that rings in the moment of the reuse, or later, closes nothing; the time begins anew."""
    clock = VirtualClock()
    network = Network()
    agent = clock.agent(free_socket_timeout=15, http1_engine=engine, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        clock.time += 14.999
        async with client.stream("GET", URL) as response:
            assert response.extensions["agent"].socket_id == 0
            for seconds in (0.001, 100):
                clock.advance(seconds)
                assert [info.state for info in agent.sockets()] == ["active"]
            assert await response.aread() == b"ok"
        assert agent.sockets()[0].expires_in == 15
        clock.advance(14)
        assert agent.status().free_sockets == {"http://a.test:80": 1}
        assert agent.status().timeout_socket_count == 0
    await world.close(agent)
