"""A slot is taken from the moment the decision to open a socket is made, not when it is connected (R4, N15)."""

from __future__ import annotations

import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import Gate, Network, Script, respond
from tests.support.worlds import World

CONNECTED = b"HTTP/1.1 200 Connection established\r\n\r\n"


@pytest.mark.rule("R4", "R41", "N15")
@pytest.mark.parametrize("limit", ["max_sockets", "max_total_sockets"])
@pytest.mark.parametrize("step", ["TCP", "TLS", "tunnel"])
async def test_connecting_counts_at_every_step(world: World, step: str, limit: str, engine: str) -> None:
    """In Node 26 three CONNECTs go to the proxy with `maxSockets: 1`, because the tunnel counts when it stands."""
    gate = Gate()
    script, options, url = {
        "TCP": (Script(connect=gate), {}, "http://a.test/"),
        "TLS": (Script(tls=gate), {}, "https://a.test/"),
        "tunnel": (Script([gate, CONNECTED]), {"proxy": "http://proxy.test:3128"}, "https://a.test/"),
    }[step]
    network = Network(script)
    agent = Agent(**{limit: 1}, **options, http1_engine=engine, **network.options)  # type: ignore[arg-type]
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client, world.tasks() as tasks:
        jobs = [tasks.start(client.get, url) for _ in range(3)]
        await world.until(lambda: sum(agent.status().requests.values()) == 2)
        await world.until(lambda: len(network.connections) == 1)
        await world.settle()
        assert [info.state for info in agent.sockets()] == ["connecting"]
        assert agent.status().sockets == {f"{url[:-1]}:{443 if url.startswith('https') else 80}": 1}
        gate.open()
        for job in jobs:
            await job.wait()
        assert len({job.result().extensions["agent"].socket_id for job in jobs}) == 1
        assert len(network.connections) == network.peak == 1
    await world.close(agent)


@pytest.mark.rule("R8", "N7")
async def test_each_socket_is_opened_by_the_request_that_uses_it(world: World, engine: str) -> None:
    """N7: in Node the one that takes the place of another is made with the options of the request that had that."""
    gate = Gate()
    network = Network(Script([gate, respond(headers=[("Connection", "close")])]))
    agent = Agent(max_sockets=1, http1_engine=engine, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client, world.tasks() as tasks:
        tasks.start(client.get, "http://a.test/", timeout=11)
        await world.until(lambda: network.request_count == 1)
        tasks.start(client.get, "http://a.test/", timeout=22)
        await world.until(lambda: agent.status().requests == {"http://a.test:80": 1})
        gate.open()
    assert [op.details["timeout"] for op in network.ops if op.name == "connect"] == [11, 22]
    await world.close(agent)


@pytest.mark.rule("R21", "N14")
async def test_a_connection_that_cannot_be_made_costs_those_that_wait_nothing(world: World, engine: str) -> None:
    """R8, R21, N14: each has its own attempt, one after another, and the queue never stalls."""
    gate = Gate()
    refused = Script(connect=[gate, ConnectionRefusedError("refused")])
    network = Network(refused, refused, default=Script())
    agent = Agent(max_sockets=1, http1_engine=engine, **network.options)
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client, world.tasks() as tasks:
        jobs = []
        for number in range(4):
            jobs.append(tasks.start(client.get, "http://a.test/"))
            await world.until(
                lambda number=number: agent.status().requests == ({"http://a.test:80": number} if number else {})
            )
            await world.until(lambda: len(network.connections) == 1)
        gate.open()
        for job in jobs:
            await job.wait()
    assert [job.exception is None for job in jobs] == [False, False, True, True]
    assert network.peak == 1
    status = agent.status()
    assert (status.create_socket_error_count, status.request_error_count, status.request_count) == (2, 2, 2)
    await world.close(agent)
