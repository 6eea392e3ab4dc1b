"""`keep_alive=False` against servers that would keep the connection (R13): it is the agent that closes it.

How headers of the user's own and options of single origins take part is shown in `tests/behaviour/test_keep_alive.py`.
"""

from __future__ import annotations

import pytest

from httpx_agent import Agent, AgentTransport
from tests.support.servers import Certificates, Server
from tests.support.worlds import World

KEPT = b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=60\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(params=["http", "https"])
def willing(request: pytest.FixtureRequest) -> Server:
    """A server that never closes, whatever the request says."""
    found: Server = request.getfixturevalue("server" if request.param == "http" else "tls_server")
    found.raw["/kept"] = KEPT
    return found


@pytest.mark.rule("R13")
async def test_without_a_limit_each_request_says_close_and_has_a_socket_of_its_own(
    world: World, willing: Server, certificates: Certificates, engine: str
) -> None:
    agent = Agent(keep_alive=False, verify=certificates.client(), http1_engine=engine)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        for _ in range(3):
            assert (await client.get(f"{willing.url}/kept")).text == "ok"
            assert agent.sockets() == ()
            await world.until(lambda: willing.open == 0)
    assert willing.requests_per_connection == [1, 1, 1]
    assert [request.get_all("connection") for request in willing.requests] == [["close"]] * 3
    assert agent.status().close_socket_count == 3


@pytest.mark.rule("R13")
async def test_with_a_limit_a_socket_serves_all_who_wait_and_is_closed_after_the_last(
    world: World, willing: Server, certificates: Certificates, engine: str
) -> None:
    agent = Agent(keep_alive=False, max_sockets=1, verify=certificates.client(), http1_engine=engine)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with world.tasks() as tasks:
            tasks.start(client.get, f"{willing.url}/hold/all")
            await world.until(lambda: willing.gate("all").waiting == 1)
            for _ in range(3):
                tasks.start(client.get, f"{willing.url}/kept")
            await world.until(lambda: agent.status().requests == {willing.url: 3})
            willing.gate("all").open()
        assert agent.sockets() == ()
        await world.until(lambda: willing.open == 0)
        await client.get(f"{willing.url}/kept")
        assert agent.sockets() == ()
        await world.until(lambda: willing.open == 0)
    assert willing.requests_per_connection == [4, 1]
    assert [request.get_all("connection") for request in willing.requests] == [["keep-alive"]] * 5
