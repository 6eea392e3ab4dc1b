"""Closing: the agent, a transport, a response, and sockets that leave the pool."""

from __future__ import annotations

import asyncio
import gc

import anyio
import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import FIN, HANG, Gate, Network, Script, chunked, respond
from tests.support.servers import Server, hanging_port
from tests.support.worlds import World

URL = "http://a.test/"


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


@pytest.mark.rule("R23")
async def test_a_response_closed_early_costs_its_socket(world: World) -> None:
    """R23: what is on its way would be taken for the next response."""
    network = Network(Script(chunked(b"first", HANG, end=False)))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with client.stream("GET", URL):
            assert agent.status().sockets == {"http://a.test:80": 1}
        assert network.open == 0
        status = agent.status()
        assert (status.request_count, status.request_error_count) == (0, 1)
        assert (status.close_socket_count, status.error_socket_count) == (1, 0)
        assert not (await client.get(URL)).extensions["agent"].reused
    await world.close(agent)


@pytest.mark.rule("R18")
@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("HEAD", respond(b"", headers=[("Content-Length", "5")], length=False)),
        ("GET", respond(b"", 204, length=False)),
        ("GET", respond(b"", 304, headers=[("Content-Length", "5")], length=False)),
        ("GET", respond(b"")),
        ("GET", respond(b"short")),
    ],
    ids=["HEAD", "204", "304", "length 0", "all of it has arrived"],
)
async def test_a_response_whose_rest_has_arrived_keeps_its_socket(world: World, method: str, answer: bytes) -> None:
    network = Network(default=Script(then=answer))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        for turn in range(2):
            async with client.stream(method, URL) as response:
                assert response.extensions["agent"].reused is bool(turn)
        assert agent.status().free_sockets == {"http://a.test:80": 1}
        assert agent.status().request_count == 2
    await world.close(agent)


async def test_a_large_rest_is_not_read_to_save_a_socket(world: World) -> None:
    network = Network(default=Script(then=respond(b"x" * 1_000_000)))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with client.stream("GET", URL):
            pass
        assert network.open == 0
    await world.close(agent)


@pytest.mark.rule("R14", "R20", "N23")
async def test_what_comes_after_a_response_is_not_the_next_one(world: World) -> None:
    """N23: a second response, whether it came with the first or later."""
    network = Network(Script(respond(b"first") + respond(b"forged")), default=Script(then=respond(b"true")))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        assert (await client.get(URL)).text == "first"
        assert network.open == 0
        assert (await client.get(URL)).text == "true"
        network.connections[1].send(respond(b"forged"))
        assert (await client.get(URL)).text == "true"
        assert len(network.connections) == 3
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


@pytest.mark.rule("R18")
async def test_a_dropped_response_gives_its_slot_back(world: World) -> None:
    """Not closed and not read: once it is collected, the next request gets its slot."""
    network = Network(default=Script(then=chunked(b"first", HANG, end=False)))
    agent = Agent(max_sockets=1, debug=True, **network.options)
    transport = AgentTransport(agent=agent)
    for _ in range(3):
        request = httpx.Request("GET", URL, extensions={"timeout": {"pool": 1}})
        if world.is_sync:  # here, not in a thread that keeps what it gave last
            response = transport.handle_request(request)
        else:
            response = await transport.handle_async_request(request)
        assert response.status_code == 200
        kept = [response]
        del response
        with pytest.warns(ResourceWarning) as warned:
            kept.clear()
        assert str(warned[0].message).startswith(f"the response to GET http://a.test:80, asked for at {__file__}:")
        assert str(warned[0].message).endswith("was neither read nor closed, which costs its socket")
    assert len(transport._pool._requests) == 0  # type: ignore[arg-type]
    await world.close(agent)
    await world.until(lambda: network.open == 0)


def test_a_loop_that_ends_without_aclose_leaves_nothing_open(server: Server) -> None:
    """The agent's guard in the loop closes the sockets there and frees their slots: ten loops in a row."""
    transport = AgentTransport(max_sockets=1)
    agent = transport.agent

    async def ask() -> int:
        client = httpx.AsyncClient(transport=transport, trust_env=False)
        return (await client.get(f"{server.url}/echo")).status_code

    for _ in range(10):
        assert asyncio.run(ask()) == 200
        assert agent.sockets() == ()
        server.wait_closed()
    assert agent.status().close_socket_count == 10
    assert agent._engine._homes == {}


@pytest.mark.filterwarnings("ignore:unclosed transport")  # asyncio's word on such a loop
def test_a_loop_that_was_closed_without_a_word_is_noticed_when_a_request_has_to_wait(server: Server) -> None:
    transport = AgentTransport(max_total_sockets=1)

    async def ask(transport: AgentTransport) -> None:
        await transport.handle_async_request(httpx.Request("GET", f"{server.url}/hold/never"))

    loop = asyncio.new_event_loop()
    task = loop.create_task(ask(transport))
    while len(server.requests) < 1:
        loop.run_until_complete(asyncio.sleep(0))
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    with httpx.Client(transport=transport, timeout=5, trust_env=False) as client:
        assert client.get(f"{server.url}/echo").status_code == 200
    assert agent_books_balance(transport.agent)
    del task, loop, client, transport
    gc.collect()


def agent_books_balance(agent: Agent) -> bool:
    status = agent.status()
    held = sum(status.sockets.values()) + sum(status.free_sockets.values())
    return status.create_socket_count == (
        status.create_socket_error_count + status.close_socket_count + status.detached_socket_count + held
    )


async def test_a_response_without_length_costs_its_socket(world: World) -> None:
    """R11: a body that ends with the connection."""
    network = Network(default=Script(then=[respond(b"abc", length=False), FIN]))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        assert (await client.get(URL)).text == "abc"
        assert agent.sockets() == ()
        assert agent.status().error_socket_count == 0
        assert agent.status().request_count == 1


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
