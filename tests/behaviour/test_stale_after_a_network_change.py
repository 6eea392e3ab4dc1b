"""After a network change, all free sockets are dead without notice: one request finds out for all of them."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import TIMEOUT, Gate, Network, Script, http2, respond
from tests.support.servers import Server
from tests.support.worlds import World

URL = "http://a.test/"
OTHER = "http://b.test/"
BRIEF = 0.05  # a timeout that is to come
ok = respond(b"ok")

#: Answers once; then its way to us is gone, without a word.
forgotten = Script(ok, then=TIMEOUT)


async def open_sockets(world: World, client: Any, url: str, count: int) -> None:
    """Opens sockets that come free in the order of their numbers."""
    streams = [client.stream("GET", url) for _ in range(count)]
    responses = [await stream.__aenter__() for stream in streams]
    for stream, response in zip(streams, responses, strict=True):
        await response.aread()
        await stream.__aexit__(None, None, None)


@pytest.mark.rule("N30")
@pytest.mark.parametrize("scheduling", ["lifo", "fifo"])
async def test_ten_free_sockets_cost_one_read_timeout(world: World, scheduling: Any) -> None:
    network = Network(*[forgotten] * 10)
    agent = Agent(scheduling=scheduling, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await open_sockets(world, client, URL, 10)
        with pytest.raises(httpx.ReadTimeout):
            await client.get(URL)
        assert agent.sockets() == ()
        assert network.open == 0
        infos = [(await client.get(URL)).extensions["agent"] for _ in range(10)]
        assert [info.socket_id for info in infos] == [10] * 10
        status = agent.status()
        assert (status.timeout_socket_count, status.close_socket_count, status.error_socket_count) == (1, 10, 1)
        assert (status.create_socket_count, status.request_count, status.request_error_count) == (11, 20, 1)
    await world.close(agent)


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.both_engines
async def test_the_same_on_real_sockets(
    world: World, server: Server, tls_server: Server, certificates: Any, tls: bool
) -> None:
    """A server that is only slow looks the same, and costs a handshake for each."""
    server = tls_server if tls else server
    agent = Agent(verify=certificates.client())
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await open_sockets(world, client, f"{server.url}/echo", 10)
        with pytest.raises(httpx.ReadTimeout):
            await client.get(f"{server.url}/silence", timeout=httpx.Timeout(10, read=BRIEF))
        assert agent.sockets() == ()
        server.wait_closed()
        assert (await client.get(f"{server.url}/echo")).extensions["agent"].socket_id == 10
    await world.close(agent)


async def test_a_write_that_times_out_says_the_same(world: World) -> None:
    """A body that is larger than the system's buffer meets the silence when it is written."""
    network = Network(Script(ok, ok), Script(ok, ok, writes={2: TIMEOUT}))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await open_sockets(world, client, URL, 2)
        with pytest.raises(httpx.WriteTimeout):
            await client.post(URL, content=b"x")
        assert agent.sockets() == ()
    await world.close(agent)


@pytest.mark.parametrize(
    "answer",
    [
        [b"H", TIMEOUT],
        [b"HTTP/1.1 103 Early Hints\r\n\r\n", TIMEOUT],
        [respond(b"", headers=[("Content-Length", "9")], length=False), TIMEOUT],
    ],
    ids=["a byte", "an interim response", "a head"],
)
async def test_a_server_that_said_something_is_there(world: World, answer: Any) -> None:
    network = Network(Script(ok), Script(ok, answer))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await open_sockets(world, client, URL, 2)
        with pytest.raises(httpx.ReadTimeout):
            await client.get(URL)
        assert [socket.id for socket in agent.sockets()] == [0]
        assert (await client.get(URL)).extensions["agent"].socket_id == 0
    await world.close(agent)


async def test_a_new_socket_that_is_silent_says_nothing_of_others(world: World) -> None:
    """Nor does one of another origin."""
    network = Network(Script(ok, ok), Script(TIMEOUT), forgotten)
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with client.stream("GET", URL) as response:
            with pytest.raises(httpx.ReadTimeout):
                await client.get(URL)
            await response.aread()
        await client.get(OTHER)
        with pytest.raises(httpx.ReadTimeout):
            await client.get(OTHER)
        assert [socket.id for socket in agent.sockets()] == [0]
        assert (await client.get(URL)).extensions["agent"].socket_id == 0
    await world.close(agent)


async def test_a_socket_that_answered_in_the_meantime_stays(world: World) -> None:
    late, never = Gate(), Gate()
    network = Network(Script(ok, [late, ok]), Script(ok, [never, TIMEOUT]), Script(ok))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await open_sockets(world, client, URL, 3)
        held = agent.sockets()
        assert [socket.id for socket in held] == [0, 1, 2]
        async with client.stream("GET", URL) as response, world.tasks() as tasks:  # on socket 2
            silent = tasks.start(client.get, URL)  # on socket 1
            await world.until(lambda: len(network.connections[1].requests) == 2)
            answered = tasks.start(client.get, URL)  # on socket 0
            await world.until(lambda: len(network.connections[0].requests) == 2)
            late.open()
            assert (await answered.wait()).result().status_code == 200
            never.open()
            assert isinstance((await silent.wait()).exception, httpx.ReadTimeout)
            assert [(socket.id, socket.state) for socket in agent.sockets()] == [(0, "free"), (2, "active")]
            await response.aread()
    await world.close(agent)


@pytest.mark.parametrize("finder", ["a thread", "a loop"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_sockets_of_all_homes_are_in_doubt(finder: str, backend: str) -> None:
    """Each home closes its own."""
    network = Network(*[forgotten] * 3)
    agent = Agent(**network.options)
    transport = AgentTransport(agent=agent)

    def in_a_thread() -> None:
        with httpx.Client(transport=transport) as client:
            client.get(URL)

    async def in_another_loop() -> None:
        async with httpx.AsyncClient(transport=transport) as client:
            await client.get(URL)
        there.set()
        with anyio.fail_after(10):
            while network.open:
                await anyio.sleep(0.001)

    async def main() -> None:
        async with httpx.AsyncClient(transport=transport) as client:
            await client.get(URL)
            await anyio.to_thread.run_sync(in_a_thread)
            thread.start()
            assert await anyio.to_thread.run_sync(there.wait, 10)
            assert len(agent.sockets()) == 3
            find = client.get(URL) if finder == "a loop" else anyio.to_thread.run_sync(in_a_thread)
            with pytest.raises(httpx.ReadTimeout):
                await find
            with anyio.fail_after(10):
                while agent.sockets():
                    await anyio.sleep(0.001)

    there = threading.Event()
    thread = threading.Thread(target=anyio.run, args=(in_another_loop,))
    anyio.run(main, backend=backend)
    thread.join(10)
    assert network.open == 0
    assert agent.status().timeout_socket_count == 1
    agent.close()


@pytest.mark.in_loops
@pytest.mark.parametrize("other", ["is silent too", "is answered"])
async def test_a_stream_that_times_out(world: World, other: str) -> None:
    """HTTP/2: what comes for one stream shows that the way is there. No new one is put on the connection either way."""
    first, second, answer = Gate(), Gate(), Gate()
    network = Network(
        http2(max_concurrent_streams=1, hold=first), http2(hold={1: second, 3: Gate(), 5: answer}.__getitem__), http2()
    )
    agent = Agent(http2=True, **network.options)
    url = "https://a.test/"
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with world.tasks() as tasks:
            opening = tasks.start(client.get, url)
            await world.until(lambda: [c.streams for c in network.connections] == [[1]])
            tasks.start(client.get, url)
            await world.until(lambda: [c.streams for c in network.connections] == [[1], [1]])
            first.open()
            await opening.wait()
            second.open()
        assert [socket.state for socket in agent.sockets()] == ["free", "free"]
        async with world.tasks() as tasks:
            silent = tasks.start(client.get, url)
            await world.until(lambda: network.connections[1].streams == [1, 3])
            neighbour = tasks.start(client.get, url)
            await world.until(lambda: network.connections[1].streams == [1, 3, 5])
            if other == "is answered":
                answer.open()
                await neighbour.wait()
                assert neighbour.result().text == "ok"
            network.connections[1].send(TIMEOUT)
            await silent.wait()
            assert isinstance(silent.exception, httpx.ReadTimeout)
        left = [socket.id for socket in agent.sockets()]
        assert left == ([0] if other == "is answered" else [])
        assert (await client.get(url)).extensions["agent"].socket_id == (0 if left else 2)
    await world.close(agent)
