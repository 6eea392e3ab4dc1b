"""Many requests at once over real sockets."""

from __future__ import annotations

import pytest

from httpx_agent import Agent, AgentTransport
from tests.support.servers import Server
from tests.support.worlds import World

pytestmark = pytest.mark.both_engines


@pytest.mark.in_loops
async def test_a_thousand_tasks_over_ten_sockets(world: World, server: Server) -> None:
    """Opened once each; every request is served."""
    agent = Agent(max_sockets=10)
    async with world.client(transport=AgentTransport(agent=agent), timeout=60) as client:
        gate = server.gate("first")
        async with world.tasks() as tasks:
            jobs = [tasks.start(client.get, f"{server.url}/hold/first") for _ in range(10)]
            jobs += [tasks.start(client.get, f"{server.url}/bytes/10") for _ in range(990)]
            await world.until(lambda: sum(agent.status().requests.values()) == 990)
            gate.open()
        assert [job.result().status_code for job in jobs] == [200] * 1000
        assert server.accepted == 10
        assert sum(server.requests_per_connection) == 1000
        status = agent.status()
        assert (status.create_socket_count, status.close_socket_count, status.request_count) == (10, 0, 1000)
    await world.close(agent)
