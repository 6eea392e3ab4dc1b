"""The information that an agent returns about each of its sockets."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import Gate, Network, Script, VirtualClock, respond
from tests.support.servers import Proxy, Server, Socks
from tests.support.statuses import A, info_of
from tests.support.worlds import World

URL = "http://a.test/"

LARGE = respond(b"x" * 70_000)


@pytest.mark.rule("R37", "N27")
async def test_the_life_of_one_socket(world: World) -> None:
    connect, answer = Gate(), Gate()
    network = Network(Script([answer, LARGE], connect=connect))
    clock = VirtualClock()
    agent = clock.agent(socket_active_ttl=30, **network.options)
    assert agent.sockets() == ()
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with world.tasks() as tasks:
            job = tasks.start(client.send, client.build_request("GET", URL), stream=True)
            await world.until(lambda: network.open == 1)
            clock.time += 1
            nothing_yet = {"local_address": None, "peer_address": None, "http_version": None}
            assert agent.sockets() == (info_of(state="connecting", age=1.0, **nothing_yet),)
            assert repr(agent) == "<Agent sockets: 1 connecting; requests waiting: 0>"
            connect.open()
            await world.until(lambda: network.request_count == 1)
            clock.time += 1
            assert agent.sockets() == (info_of(age=2.0, http_version=None),)
            answer.open()
        assert agent.sockets() == (info_of(age=2.0),)
        await job.result().aread()
        assert agent.sockets() == (info_of(state="free", age=2.0, idle_for=0.0, expires_in=15.0),)
        clock.time += 4
        assert agent.sockets() == (info_of(state="free", age=6.0, idle_for=4.0, expires_in=11.0),)
        clock.time += 20  # its timer is late
        assert agent.sockets() == (info_of(state="free", age=26.0, idle_for=24.0, expires_in=0.0),)
        clock.time -= 20
        async with client.stream("GET", URL) as response:
            assert agent.sockets() == (info_of(age=6.0, request_count=2),)
            await response.aread()
        clock.time += 10
        await client.get(URL)
        # Older than fifteen seconds before its end of life, that is the nearer limit.
        assert agent.sockets() == (info_of(state="free", age=16.0, idle_for=0.0, expires_in=14.0, request_count=3),)
    await world.close(agent)
    assert agent.sockets() == ()


async def test_a_socket_that_is_being_closed(world: World) -> None:
    """It counts until it is closed."""
    network = Network(Script(LARGE))
    agent = Agent(**network.options)
    seen: list[tuple[str, dict[str, int]]] = []
    changed = network.changed

    def look() -> None:
        seen.extend((info.state, dict(agent.status().sockets)) for info in agent.sockets())
        changed()

    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        network.changed = look  # type: ignore[method-assign]
        await world.close(agent)
    assert seen
    assert set(map(str, seen)) == {str(("closing", {A: 1}))}
    assert agent.sockets() == ()


@pytest.mark.rule("R37")
async def test_sockets_come_oldest_first_and_are_numbered_by_age(world: World) -> None:
    network = Network(default=Script(then=LARGE))
    clock = VirtualClock()
    agent = clock.agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with client.stream("GET", "http://c.test") as first:
            clock.time += 1
            async with client.stream("GET", URL):
                clock.time += 1
                async with client.stream("GET", "http://b.test") as third:
                    await first.aread()
                    await third.aread()
                    seen = [(info.id, info.origin, info.state, info.age) for info in agent.sockets()]
        assert seen == [
            (0, "http://c.test:80", "free", 2.0),
            (1, "http://a.test:80", "active", 1.0),
            (2, "http://b.test:80", "free", 0.0),
        ]
        assert [info.id for info in agent.sockets()] == [0, 2]  # number 1 was closed before its response had ended
        await client.get(URL)
        assert [info.id for info in agent.sockets()] == [0, 2, 3]
    assert repr(agent) == "<Agent sockets: 3 free; requests waiting: 0>"
    await world.close(agent)


async def test_addresses_of_real_sockets(world: World, server: Server) -> None:
    agent = Agent()
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(f"{server.url}/echo")
        (info,) = agent.sockets()
        assert info.peer_address == ("127.0.0.1", server.port)
        assert info.local_address == server.peers[0].sock.getpeername()
    await world.close(agent)


async def test_addresses_of_ipv6(world: World) -> None:
    """Host and port, without flow and scope."""
    listener = await anyio.create_tcp_listener(local_host="::1")

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            while b"\r\n\r\n" not in await stream.receive():
                pass
            await stream.send(respond())
            await closing.wait()

    closing = anyio.Event()
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    agent = Agent()
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            await client.get(f"http://[::1]:{port}/")
            (info,) = agent.sockets()
            assert info.origin == f"http://[::1]:{port}"
            assert info.peer_address == ("::1", port)
            assert isinstance(info.local_address, tuple)
            assert info.local_address[0] == "::1"
            assert len(info.local_address) == 2
        await world.close(agent)
        closing.set()
        group.cancel_scope.cancel()


async def test_addresses_of_a_unix_socket(world: World, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    agent = Agent(uds=path)
    with Server(uds=path):
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            await client.get("http://anything/echo")
            (info,) = agent.sockets()
            assert (info.origin, info.peer_address, info.local_address) == ("http://anything:80", path, None)
        await world.close(agent)


@pytest.mark.rule("R41")
@pytest.mark.parametrize("kind", [Proxy, Socks])
async def test_the_address_of_a_proxy(world: World, kind: type[Server], server: Server) -> None:
    """The other end of the socket is the proxy; the origin is who is behind it."""
    with kind() as proxy:
        agent = Agent(proxy=proxy.url)
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            await client.get(f"{server.url}/echo")
            (info,) = agent.sockets()
            assert info.origin == server.url
            assert info.peer_address == ("127.0.0.1", proxy.port)
            assert info.state == "free"
        await world.close(agent)


async def test_the_http_version_of_a_socket(world: World) -> None:
    with Server(h2=True) as server:
        agent = Agent(http1=False, http2=True)
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            response = await client.get(f"{server.url}/echo")
            assert response.http_version == "HTTP/2"
            assert [info.http_version for info in agent.sockets()] == ["HTTP/2"]
        await world.close(agent)
