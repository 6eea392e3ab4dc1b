"""Requests that are given up: while they wait, while they connect, and in flight (R22, R23, N12), over real sockets.

Each in two ways: by the request's own timeout, and by cancelling it where that is possible. A response that is closed
early is in `tests/behaviour/test_reuse.py`, the sweep over every moment at which a request can be cancelled in
`tests/behaviour/test_cancellation_at_every_suspension.py`.
"""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from tests.support.servers import Certificates, Server, hanging_port
from tests.support.worlds import Job, World


@pytest.fixture(params=["http", "https"])
def any_server(request: pytest.FixtureRequest) -> Server:
    """With TLS and without."""
    found: Server = request.getfixturevalue("server" if request.param == "http" else "tls_server")
    return found


class GivingUp:
    """One way of giving up a request: by a timeout of its own, or by cancelling it.

    Args:
        error: What the timeout raises.
        timeout: The timeout; none of them means cancelling.
    """

    def __init__(self, error: type[Exception] | None = None, **timeout: float) -> None:
        self.error = error
        self.arguments: dict[str, Any] = {"extensions": {"timeout": timeout}}

    async def of(self, job: Job) -> None:
        """Give up the call, and wait until it has ended."""
        if self.error is None:
            job.cancel()
        await job.wait()
        assert job.cancelled if self.error is None else type(job.exception) is self.error


@pytest.mark.rule("R22", "N12")
async def test_a_request_whose_wait_is_too_long_leaves_at_once(
    world: World, any_server: Server, certificates: Certificates, engine: str
) -> None:
    agent = Agent(max_sockets=1, verify=certificates.client(), http1_engine=engine)
    await give_up_waiting(world, any_server, agent, GivingUp(httpx.PoolTimeout, pool=0.02))


@pytest.mark.rule("R22", "N12")
@pytest.mark.in_loops
async def test_a_request_that_is_cancelled_while_it_waits_leaves_at_once(
    world: World, any_server: Server, certificates: Certificates, engine: str
) -> None:
    agent = Agent(max_sockets=1, verify=certificates.client(), http1_engine=engine)
    await give_up_waiting(world, any_server, agent, GivingUp())


async def give_up_waiting(world: World, server: Server, agent: Agent, giving_up: GivingUp) -> None:
    """N12: in Node it stays in the queue, and in the counts, until its turn. It costs no socket and is not sent."""
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client, world.tasks() as tasks:
        blocking = tasks.start(client.get, f"{server.url}/hold/first")
        await world.until(lambda: server.gate("first").waiting == 1)
        leaving = tasks.start(client.get, f"{server.url}/bytes/1", **giving_up.arguments)
        await world.until(lambda: leaving.done or agent.status().requests == {server.url: 1})
        staying = tasks.start(client.get, f"{server.url}/bytes/2")
        await giving_up.of(leaving)
        await world.until(lambda: agent.status().requests == {server.url: 1})
        status = agent.status()
        assert (status.request_error_count, status.create_socket_count, status.sockets) == (1, 1, {server.url: 1})
        server.gate("first").open()
        await blocking.wait()
        await staying.wait()
        assert staying.result().extensions["agent"].requests_on_socket == 2
    assert [request.path for request in server.requests] == ["/hold/first", "/bytes/2"]
    assert server.accepted == 1
    await world.close(agent)


@pytest.mark.rule("R8", "R23")
async def test_a_request_in_flight_that_times_out_costs_its_socket(
    world: World, any_server: Server, certificates: Certificates, engine: str
) -> None:
    agent = Agent(max_sockets=1, verify=certificates.client(), http1_engine=engine)
    await give_up_in_flight(world, any_server, agent, GivingUp(httpx.ReadTimeout, read=0.02))


@pytest.mark.rule("R23")
@pytest.mark.in_loops
async def test_a_request_that_is_cancelled_in_flight_costs_its_socket(
    world: World, any_server: Server, certificates: Certificates, engine: str
) -> None:
    agent = Agent(max_sockets=1, verify=certificates.client(), http1_engine=engine)
    await give_up_in_flight(world, any_server, agent, GivingUp())


async def give_up_in_flight(world: World, server: Server, agent: Agent, giving_up: GivingUp) -> None:
    """R23: the answer that it does not wait for would be the next one's. Whoever waits gets a new socket (R8)."""
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client, world.tasks() as tasks:
        first = await client.send(client.build_request("GET", f"{server.url}/hold-body/first"), stream=True)
        leaving = tasks.start(client.get, f"{server.url}/hold/answer", **giving_up.arguments)
        await world.until(lambda: agent.status().requests == {server.url: 1})
        waiting = tasks.start(client.get, f"{server.url}/bytes/2")
        await world.until(lambda: agent.status().requests == {server.url: 2})
        server.gate("first").open()
        await first.aread()  # the socket goes to the one that will leave
        if giving_up.error is None:
            await world.until(lambda: server.gate("answer").waiting == 1)
        await giving_up.of(leaving)
        await waiting.wait()
        assert waiting.result().extensions["agent"].socket_id == 1
        server.gate("answer").open()
        await world.until(lambda: server.open == 1)
    status = agent.status()
    assert (status.close_socket_count, status.request_count, status.request_error_count) == (1, 2, 1)
    assert server.requests_per_connection == [2, 1]
    await world.close(agent)


@pytest.mark.rule("R23")
async def test_a_request_that_times_out_within_its_body_costs_its_socket(
    world: World, server: Server, engine: str
) -> None:
    await give_up_within_a_body(world, server, Agent(http1_engine=engine), GivingUp(httpx.ReadTimeout, read=0.02))


@pytest.mark.rule("R23")
@pytest.mark.in_loops
async def test_a_request_that_is_cancelled_within_its_body_costs_its_socket(
    world: World, server: Server, engine: str
) -> None:
    await give_up_within_a_body(world, server, Agent(http1_engine=engine), GivingUp())


async def give_up_within_a_body(world: World, server: Server, agent: Agent, giving_up: GivingUp) -> None:
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client, world.tasks() as tasks:
        response = await client.send(
            client.build_request("GET", f"{server.url}/hold-body/rest", **giving_up.arguments), stream=True
        )
        await giving_up.of(tasks.start(response.aread))
        assert agent.sockets() == ()
        server.gate("rest").open()
        await world.until(lambda: server.open == 0)
        assert (await client.get(f"{server.url}/echo")).extensions["agent"].socket_id == 1
    await world.close(agent)


@pytest.mark.rule("R23")
async def test_a_connect_that_takes_too_long_gives_its_slot_back(world: World, engine: str) -> None:
    await give_up_connecting(
        world, Agent(max_sockets=1, http1_engine=engine), GivingUp(httpx.ConnectTimeout, connect=0.02)
    )


@pytest.mark.rule("R23")
@pytest.mark.in_loops
async def test_a_request_that_is_cancelled_while_it_connects_gives_its_slot_back(world: World, engine: str) -> None:
    await give_up_connecting(world, Agent(max_sockets=1, http1_engine=engine), GivingUp())


async def give_up_connecting(world: World, agent: Agent, giving_up: GivingUp) -> None:
    """R23: its socket never was usable, so it counts as failed; whoever waits tries for itself (R21)."""
    with hanging_port() as port:
        url = f"http://127.0.0.1:{port}"
        async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client, world.tasks() as tasks:
            leaving = tasks.start(client.get, url, **giving_up.arguments)
            await world.until(lambda: agent.status().create_socket_count == 1)
            other = tasks.start(client.get, url, **GivingUp(httpx.ConnectTimeout, connect=0.02).arguments)
            await giving_up.of(leaving)
            await other.wait()
            assert type(other.exception) is httpx.ConnectTimeout
    status = agent.status()
    assert (status.create_socket_count, status.create_socket_error_count, status.close_socket_count) == (2, 2, 0)
    assert (status.sockets, status.requests, status.request_error_count) == ({}, {}, 2)
    await world.close(agent)
