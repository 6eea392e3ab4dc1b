"""Closing: the agent, a transport, a response, and sockets that leave the pool."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import httpcore
import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent._network import anyio as _anyio
from httpx_agent.testing import HANG, Gate, Network, Script, chunked, respond
from tests.bugs.stock import Stack
from tests.support.servers import Server, hanging_port
from tests.support.worlds import World

URL = "http://a.test/"

A, B, C = "http://a.test/", "http://b.test/", "http://c.test/"


@pytest.mark.rule("R24", "N13")
async def test_closing_an_agent_fails_every_request_at_once(world: World) -> None:
    """One in flight fails with `ReadError`; one that connects and one that waits with `ConnectError`: nothing sent."""
    gate = Gate()
    network = Network(Script(HANG), Script(connect=gate))
    agent = Agent(max_sockets=2, **network.options)
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client, world.tasks() as tasks:
        in_flight = tasks.start(client.get, URL)
        await world.until(lambda: network.request_count == 1)
        connecting = tasks.start(client.get, URL)
        await world.until(lambda: network.open == 2)
        waiting = tasks.start(client.get, URL)
        await world.until(lambda: agent.status().requests == {"http://a.test:80": 1})

        await world.close(agent)

        assert agent.status().sockets == {}
        if world.is_sync:  # a scripted connect cannot be woken; that is shown with real sockets, below
            gate.open()
        await connecting.wait()
        assert type(connecting.exception) is httpx.ConnectError
        assert str(connecting.exception) == "GET http://a.test:80: the agent was closed; nothing was sent"
        await in_flight.wait()
        await waiting.wait()
        assert type(in_flight.exception) is httpx.ReadError
        assert str(in_flight.exception) == "GET http://a.test:80: the agent was closed while the request was in flight"
        assert type(waiting.exception) is httpx.ConnectError
        assert network.open == 0
        assert agent.status().request_error_count == 3
        assert (await client.get(URL)).status_code == 200  # used again, it opens new sockets
    await world.close(agent)
    await world.close(agent)
    assert network.open == 0


@pytest.mark.rule("R24")
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_closing_wakes_whoever_is_blocked_on_a_real_socket(world: World, scheme: str, server: Server) -> None:
    """In a connect that hangs, in a TLS handshake that hangs, and in a read."""
    agent = Agent(verify=False)
    with hanging_port() as port:
        async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client, world.tasks() as tasks:
            connecting = tasks.start(client.get, f"http://127.0.0.1:{port}/")
            if scheme == "http":
                other = tasks.start(client.get, f"{server.url}/silence")
                await world.until(lambda: len(server.requests) == 1)
            else:  # a server that does not speak TLS, and does not answer
                other = tasks.start(client.get, f"https://{server.netloc}/")
                await world.until(lambda: server.open == 1)
            await world.until(lambda: len(agent.sockets()) == 2)
            await world.close(agent)
            await connecting.wait()
            await other.wait()
    assert type(connecting.exception) is httpx.ConnectError
    assert type(other.exception) is (httpx.ReadError if scheme == "http" else httpx.ConnectError)
    assert agent.status().sockets == {}
    server.wait_closed()


async def test_closing_while_a_response_is_read(world: World) -> None:
    """The rest of the body cannot be read any more."""
    network = Network(Script(chunked(b"first", HANG, end=False)))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client:
        async with client.stream("GET", URL) as response:
            await world.close(agent)
            assert network.open == 0
            with pytest.raises(httpx.ReadError):
                await response.aread()
    assert agent.status().request_error_count == 1


async def test_closing_from_another_thread(world: World, server: Server) -> None:
    """`close()` in any thread ends what runs in a loop, and in other threads."""
    agent = Agent()
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client, world.tasks() as tasks:
        job = tasks.start(client.get, f"{server.url}/silence")
        await world.until(lambda: len(server.requests) == 1)
        await anyio.to_thread.run_sync(agent.close)
        await job.wait()
    assert type(job.exception) is httpx.ReadError
    await world.until(lambda: agent.status().sockets == {})
    server.wait_closed()


async def test_a_borrowed_agent_outlives_its_transports(world: World) -> None:
    network = Network()
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
    assert agent.status().free_sockets == {"http://a.test:80": 1}
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        assert (await client.get(URL)).extensions["agent"].reused
    await world.close(agent)
    assert network.open == 0


async def test_an_agent_is_a_context_manager(world: World) -> None:
    network = Network()
    if world.is_sync:
        with Agent(**network.options) as agent, httpx.Client(transport=AgentTransport(agent=agent)) as client:
            client.get(URL)
    else:
        async with Agent(**network.options) as agent, httpx.AsyncClient(transport=AgentTransport(agent=agent)) as other:
            await other.get(URL)
    assert agent.status().close_socket_count == 1
    assert network.open == 0


async def test_a_client_with_the_same_transport_three_times_closes_it_three_times(world: World) -> None:
    network = Network()
    transport = AgentTransport(**network.options)
    mounts = {"https://": transport, "all://b.test": transport}
    async with world.client(transport=transport, mounts=mounts) as client:
        for url in (URL, "https://a.test/", "http://b.test/"):
            assert (await client.get(url)).status_code == 200
        assert len(transport.agent.sockets()) == 3
    assert network.open == 0


async def test_closing_without_entering(world: World) -> None:
    network = Network()
    transport = AgentTransport(**network.options)
    client = world.client(transport=transport)
    await client.get(URL)
    await client.aclose()
    assert network.open == 0
    await world.close(transport)


async def test_closing_a_client_ends_its_request_in_flight(world: World) -> None:
    gate = Gate()
    network = Network(Script([gate, respond(b"late")]))
    transport = AgentTransport(**network.options)
    client = world.client(transport=transport, timeout=None)
    async with world.tasks() as tasks:
        job = tasks.start(client.get, URL)
        await world.until(lambda: network.request_count == 1)
        await client.aclose()
        await job.wait()
    assert type(job.exception) is httpx.ReadError
    assert network.open == 0


@pytest.mark.bug("B20")
async def test_closing_fails_those_that_wait(world: World, stack: Stack) -> None:
    """httpx: they go on waiting; when the one in flight is over, they open sockets in the closed pool."""
    gate = Gate()
    network = Network(Script([gate, respond()]))
    transport = stack.transport(is_sync=world.is_sync, max_total_sockets=1, **network.options)
    async with world.client(transport=transport) as client, world.tasks() as tasks:
        tasks.start(client.get, A)
        await world.until(lambda: network.request_count == 1)
        waiting = [tasks.start(client.get, url) for url in (A, B)]
        await world.until(lambda: stack.waiting(transport) == 2)
        await world.close(transport)
        gate.open()
        for job in waiting:
            assert isinstance((await job.wait()).exception, httpx.ConnectError)
    assert len(network.connections) == 1
    assert network.open == 0


@pytest.mark.both_engines
@pytest.mark.bug("B20")
async def test_closing_fails_those_that_wait_over_real_sockets(world: World, stack: Stack, server: Server) -> None:
    """httpx: they go on waiting, and then open sockets in the closed pool."""
    transport = stack.transport(is_sync=world.is_sync, max_total_sockets=1)
    async with world.client(transport=transport, timeout=5) as client, world.tasks() as tasks:
        in_flight = tasks.start(client.get, f"{server.url}/hold/a")
        await world.until(lambda: len(server.requests) == 1)
        waiting = [tasks.start(client.get, f"{server.url}/echo") for _ in range(2)]
        await world.until(lambda: stack.waiting(transport) == 2)
        await world.close(transport)
        server.gate("a").open()
        for job in waiting:
            assert isinstance((await job.wait()).exception, httpx.ConnectError)
        assert isinstance((await in_flight.wait()).exception, httpx.ReadError)
    assert server.accepted == 1
    server.wait_closed()


@pytest.mark.bug("B27")
@pytest.mark.in_loops
@pytest.mark.parametrize("has_socket", [True, False], ids=["a socket", "no socket"])
async def test_a_close_that_never_ends(
    world: World, stack: Stack, server: Server, monkeypatch: pytest.MonkeyPatch, has_socket: bool
) -> None:
    """httpx: the client's `aclose` does not come back, and a cancellation does not reach it.

    The decision: what has not closed after a second is aborted, so that the other end sees it, and its slot is free.
    """
    monkeypatch.setattr(_anyio, "CLOSE_TIMEOUT", 0.05)
    backend = httpcore.TrioBackend() if world.name == "trio" else httpcore.AnyIOBackend()
    patience = anyio.Event()
    streams: list[Any] = []

    class Stream(httpcore.AsyncNetworkStream):
        def __init__(self, inner: Any) -> None:
            self.inner = inner
            self.read, self.write = inner.read, inner.write

        def get_extra_info(self, info: str) -> Any:
            return self.inner.get_extra_info(info) if info != "socket" or has_socket else None

        async def aclose(self) -> None:
            await patience.wait()

    class Backend(httpcore.AsyncNetworkBackend):
        async def connect_tcp(self, *args: Any, **kwargs: Any) -> Any:
            streams.append(await backend.connect_tcp(*args, **kwargs))
            return Stream(streams[-1])

    transport = stack.transport(is_sync=False, max_total_sockets=1, async_network_backend=Backend())
    async with world.client(transport=transport) as client, world.tasks() as tasks:
        for host in ("127.0.0.1", "localhost"):  # the second needs the slot of the first
            job = tasks.start(client.get, f"http://{host}:{server.port}/echo")
            with anyio.move_on_after(3):
                await job._done.wait()
            if not job.done:
                patience.set()
            assert job.result().status_code == 200
        server.wait_for(lambda: not has_socket or not server.peers[0].is_open)
    patience.set()
    for stream in streams:
        await stream.aclose()
    server.wait_closed()


async def test_an_agent_that_is_closed_while_a_dead_socket_is_found(world: World) -> None:
    """The request neither goes on nor round in circles."""
    network = Network()
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        wire = agent._dispatcher._sockets[0].wire

        def close_and_say_dead() -> bool:
            agent.close()
            return True

        wire.is_readable = close_and_say_dead  # type: ignore[method-assign]
        with pytest.raises(httpx.ConnectError, match="the agent was closed; nothing was sent"):
            await client.get(URL)
    await world.until(lambda: network.open == 0)
    await world.close(agent)


async def test_an_agent_that_is_closed_while_a_socket_is_upgraded(world: World) -> None:
    network = Network(Script(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"))
    agent = Agent(**network.options)

    def trace(name: str, info: dict[str, Any]) -> None:
        if name == "http11.receive_response_headers.complete":
            agent.close()

    async with world.client(transport=AgentTransport(agent=agent)) as client:
        headers = {"Connection": "Upgrade", "Upgrade": "x"}
        async with client.stream("GET", URL, headers=headers, extensions={"trace": world.callback(trace)}) as response:
            assert response.status_code == 101
    assert agent.status().detached_socket_count == 0
    await world.until(lambda: network.open == 0)
    await world.close(agent)


async def test_a_close_that_fails_is_a_close(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of a connection; what goes wrong with a socket's close reaches nobody in the first place."""
    network = Network()
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)

        def fail() -> None:
            raise OSError("close failed")

        connection = agent._dispatcher._sockets[0].connection
        monkeypatch.setattr(connection, "close" if world.is_sync else "aclose", world.callback(fail))
        await world.close(agent)
        assert agent.sockets() == ()
        assert agent.status().close_socket_count == 1
        assert network.open == 0


def test_closing_twice_at_once(server: Server) -> None:
    """What one thread closes, the other need not."""
    agent = Agent()
    with httpx.Client(transport=AgentTransport(agent=agent), trust_env=False) as client:
        client.get(f"{server.url}/echo")
        only = agent._dispatcher._sockets[0]
        agent.close()
        assert agent._dispatcher._note_end_of(only) is None


@pytest.mark.parametrize("step", ["before the connect", "connect", "tls"])
async def test_a_connect_that_ends_after_its_agent_was_closed(world: World, step: str) -> None:
    """Nobody else knows of the late connection: it is closed by whoever opened it."""
    gate = Gate()
    network = Network(Script(connect=gate) if step == "connect" else Script(tls=gate))
    agent = Agent(**network.options)

    def trace(name: str, info: dict[str, Any]) -> None:
        if step == "before the connect" and name == "connection.connect_tcp.started":
            agent._dispatcher._sockets[0].wire.broken = True  # as by a close in another thread, in this moment

    async with world.client(transport=AgentTransport(agent=agent)) as client, world.tasks() as tasks:
        job = tasks.start(client.get, "https://a.test/", extensions={"trace": world.callback(trace)})
        if step != "before the connect":
            await world.until(lambda: network.open == 1)
            await world.until(lambda: network.ops[-1].name == ("connect" if step == "connect" else "start_tls"))
            agent._dispatcher._sockets[0].wire.broken = True
        gate.open()
        await job.wait()
    assert type(job.exception) is httpx.ConnectError
    assert network.open == 0
    await world.close(agent)


def test_whoever_waits_for_sockets_to_close_can_be_dropped() -> None:
    """All of them are closed all the same, by the loop."""
    network = Network()
    agent = Agent(**network.options)

    async def main() -> None:
        async with httpx.AsyncClient(transport=AgentTransport(agent=agent), trust_env=False) as client:
            for host in "abc":
                await client.get(f"http://{host}.test/")
            coroutine = agent.aclose()
            coroutine.send(None)
            coroutine.close()
            with anyio.fail_after(5):
                while network.open or agent.sockets():
                    await anyio.sleep(0)
            assert agent.status().close_socket_count == 3
        await agent.aclose()

    asyncio.run(main())


@pytest.mark.in_loops
async def test_a_home_with_a_request_in_it_is_not_left_when_its_agent_is_closed(world: World) -> None:
    """The upgraded socket is its caller's, and goes on; only the end of its response ends the request."""
    network = Network(Script(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"))
    agent = Agent(**network.options)
    headers = {"Connection": "Upgrade", "Upgrade": "x"}
    async with httpx.AsyncClient(transport=AgentTransport(agent=agent), trust_env=False) as client:
        async with client.stream("GET", URL, headers=headers):
            home = agent._dispatcher.find_async_home()
            await agent.aclose()
            assert agent._dispatcher.find_async_home() is home is not None
            assert network.open == 1
        await agent.aclose()
        assert agent._dispatcher.find_async_home() is None
        assert agent.status().request_count == 1
