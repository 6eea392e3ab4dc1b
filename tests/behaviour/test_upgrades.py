"""Sockets that become the caller's: after `101 Switching Protocols`, and after an accepted CONNECT (R25)."""

from __future__ import annotations

from typing import Any

import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import Network, Script
from tests.support.servers import Certificates, Proxy, Server
from tests.support.worlds import AwaitableStream, World

UPGRADE = {"Connection": "Upgrade", "Upgrade": "echo"}

URL = "http://a.test/"


@pytest.mark.rule("R25")
@pytest.mark.parametrize("used_before", [False, True], ids=["new socket", "reused socket"])
async def test_an_upgraded_socket_is_the_callers(
    world: World, any_server: Server, certificates: Certificates, engine: str, used_before: bool
) -> None:
    """The slot is free at once: whoever waits gets a socket while the upgraded one is still open, and in use."""
    server = any_server
    agent = Agent(max_sockets=1, verify=certificates.client(), http1_engine=engine)
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client, world.tasks() as tasks:
        if used_before:
            await client.get(f"{server.url}/echo")
        blocked = tasks.start(client.get, f"{server.url}/hold/first")
        await world.until(lambda: server.gate("first").waiting == 1)
        upgrading = tasks.start(
            client.send, client.build_request("GET", f"{server.url}/upgrade", headers=UPGRADE), stream=True
        )
        await world.until(lambda: agent.status().requests == {server.url: 1})
        waiting = tasks.start(client.get, f"{server.url}/echo")
        await world.until(lambda: agent.status().requests == {server.url: 2})
        server.gate("first").open()
        await upgrading.wait()
        await waiting.wait()

        response = upgrading.result()
        assert (blocked.result().status_code, response.status_code, waiting.result().status_code) == (200, 101, 200)
        assert response.extensions["agent"].socket_id == 0
        assert waiting.result().extensions["agent"].socket_id == 1
        status = agent.status()
        assert (status.detached_socket_count, status.free_sockets) == (1, {server.url: 1})
        assert [info.id for info in agent.sockets()] == [1]
        assert server.open == 2

        stream = AwaitableStream(world, response.extensions["network_stream"])
        assert await stream.read(100) == b"hello "
        await stream.write(b"you")
        assert await stream.read(100) == b"you"
        await response.aclose()
        await world.until(lambda: server.open == 1)
    await world.close(agent)


@pytest.mark.rule("R25")
async def test_closing_the_agent_leaves_a_socket_of_the_callers_alone(
    world: World, any_server: Server, certificates: Certificates, engine: str
) -> None:
    agent = Agent(verify=certificates.client(), http1_engine=engine)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with client.stream("GET", f"{any_server.url}/upgrade", headers=UPGRADE) as response:
            await world.close(agent)
            stream = AwaitableStream(world, response.extensions["network_stream"])
            assert await stream.read(100) == b"hello "
            await stream.write(b"still here")
            assert await stream.read(100) == b"still here"
    await world.until(lambda: any_server.open == 0)
    status = agent.status()
    assert (status.create_socket_count, status.detached_socket_count, status.close_socket_count) == (1, 1, 0)


@pytest.mark.rule("R25")
async def test_an_accepted_connect_is_the_callers_tunnel(world: World, server: Server, engine: str) -> None:
    agent = Agent(max_sockets=1, http1_engine=engine)
    with Proxy() as proxy:
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            extensions = {"target": server.netloc.encode()}
            async with client.stream("CONNECT", proxy.url, extensions=extensions) as response:
                assert response.status_code == 200
                assert agent.sockets() == ()
                stream = AwaitableStream(world, response.extensions["network_stream"])
                await stream.write(b"GET /bytes/3 HTTP/1.1\r\nHost: a.test\r\n\r\n")
                assert (await stream.read(1000)).startswith(b"HTTP/1.1 200 OK\r\n")
                through = {"target": f"{server.url}/echo".encode()}
                assert (await client.get(proxy.url, extensions=through)).status_code == 200  # in the slot it left
                assert proxy.accepted == 2
            await world.until(lambda: proxy.open == 1)
            status = agent.status()
            assert (status.detached_socket_count, status.free_sockets) == (1, {proxy.url: 1})
        await world.close(agent)


@pytest.mark.rule("R25")
@pytest.mark.parametrize(
    ("arguments", "code"),
    [({"refuse": "502 Bad Gateway"}, 502), ({"credentials": ("user", "pass")}, 407)],
    ids=["refused", "not authorised"],
)
async def test_a_refused_connect_is_a_response_like_any_other(
    world: World, engine: str, arguments: dict[str, Any], code: int
) -> None:
    agent = Agent(http1_engine=engine)
    with Proxy(**arguments) as proxy:
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            for turn in range(2):
                response = await client.request("CONNECT", proxy.url, extensions={"target": b"a.test:443"})
                assert response.status_code == code
                assert response.extensions["agent"].requests_on_socket == turn + 1
            assert proxy.accepted == 1
    assert agent.status().detached_socket_count == 0
    await world.close(agent)


@pytest.mark.rule("R25")
async def test_an_upgrade_that_the_server_ignores_leaves_the_socket_in_the_pool(
    world: World, server: Server, engine: str
) -> None:
    agent = Agent(http1_engine=engine)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        for turn in range(2):
            response = await client.get(f"{server.url}/echo", headers={**UPGRADE, "Connection": "Upgrade, keep-alive"})
            assert response.extensions["agent"].requests_on_socket == turn + 1
    assert agent.status().free_sockets == {server.url: 1}
    await world.close(agent)


async def test_an_upgraded_socket_leaves_the_pool(world: World) -> None:
    """R25: it is the caller's; its slot is free at once, and closing the response closes it."""
    network = Network(Script(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\nhello"))
    agent = Agent(max_sockets=1, **network.options)
    headers = {"Connection": "Upgrade", "Upgrade": "echo"}
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with client.stream("GET", URL, headers=headers) as response:
            assert response.status_code == 101
            assert agent.status().detached_socket_count == 1
            assert agent.sockets() == ()
            stream = response.extensions["network_stream"]
            assert await world.call(stream.read, 100) == b"hello"
            assert (await client.get(URL)).status_code == 200
            assert network.open == 2
        assert network.open == 1
        status = agent.status()
        assert (status.create_socket_count, status.close_socket_count, status.request_count) == (2, 0, 2)
    await world.close(agent)
    assert network.open == 0


async def test_a_connect_tunnel_leaves_the_pool(world: World) -> None:
    network = Network(Script(b"HTTP/1.1 200 OK\r\n\r\n"))
    agent = Agent(max_sockets=1, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with client.stream("CONNECT", URL, extensions={"target": b"b.test:443"}) as response:
            assert response.status_code == 200
            assert agent.sockets() == ()
        assert network.open == 0
    assert agent.status().detached_socket_count == 1
