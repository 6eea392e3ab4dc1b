"""Limits on sockets: open, connecting, free; per origin and in total; across threads and event loops."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any

import anyio
import httpx
import pytest
import trio

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import Gate, Network, Script, respond
from httpx_agent.testing import _scripted_network as scripted
from tests.bugs.stock import Stack
from tests.support.servers import Server
from tests.support.worlds import World

A, B, C = "http://a.test/", "http://b.test/", "http://c.test/"

ORIGINS = ["http://a.test", "http://b.test", "http://c.test"]

CONNECTED = b"HTTP/1.1 200 Connection established\r\n\r\n"


@pytest.mark.bug("B4")
async def test_the_limit_of_free_sockets_counts_free_sockets(world: World, stack: Stack) -> None:
    """httpx: 7 connects. While three requests are in flight no socket is kept, as four are more than two."""
    gate = Gate()
    network = Network(*[Script([gate, respond()])] * 3)
    transport = stack.transport(is_sync=world.is_sync, max_total_free_sockets=2, **network.options)
    async with world.client(transport=transport) as client, world.tasks() as tasks:
        for _ in range(3):
            tasks.start(client.get, A)
        await world.until(lambda: network.request_count == 3)
        for _ in range(4):
            await client.get(A)
        connects = len(network.connections)
        gate.open()
    assert connects == 4


@pytest.mark.bug("B19")
async def test_a_socket_counts_until_it_is_closed(world: World, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """httpx: two sockets are open where one is allowed; the new one connects while the old one is being closed."""
    gate, slow = Gate(), Gate()
    network = Network(Script([gate, respond()]))
    network.adopt(slow)
    close, aclose = scripted._Stream.close, scripted._AsyncStream.aclose
    closing = 0

    def close_slowly(self: Any) -> None:
        nonlocal closing
        closing += 1
        network._wait(lambda: slow.is_open, None, AssertionError)
        close(self)

    async def aclose_slowly(self: Any) -> None:
        nonlocal closing
        closing += 1
        await network._wait_async(lambda: slow.is_open, None, AssertionError)
        await aclose(self)

    monkeypatch.setattr(scripted._Stream, "close", close_slowly)
    monkeypatch.setattr(scripted._AsyncStream, "aclose", aclose_slowly)
    transport = stack.transport(is_sync=world.is_sync, max_total_sockets=1, **network.options)
    async with world.client(transport=transport) as client, world.tasks() as tasks:
        tasks.start(client.get, A)
        await world.until(lambda: network.request_count == 1)
        other = tasks.start(client.get, B)
        await world.until(lambda: stack.waiting(transport) == 1)
        gate.open()
        await world.until(lambda: closing == 1)
        if stack.is_stock:
            await world.until(lambda: len(network.connections) == 2)
        slow.open()
    assert other.result().status_code == 200
    assert network.peak == 1
    assert network.open == 0


@pytest.mark.both_engines
@pytest.mark.bug("B4")
async def test_the_limit_of_free_sockets_counts_free_sockets_over_real_sockets(
    world: World, stack: Stack, server: Server
) -> None:
    """httpx: 7 connects, where 4 are enough."""
    transport = stack.transport(is_sync=world.is_sync, max_total_free_sockets=2)
    async with world.client(transport=transport, timeout=10) as client, world.tasks() as tasks:
        for _ in range(3):
            tasks.start(client.get, f"{server.url}/hold/all")
        await world.until(lambda: server.gate("all").waiting == 3)
        for _ in range(4):
            await client.get(f"{server.url}/echo")
        connects = server.accepted
        server.gate("all").open()
    assert connects == 4


@pytest.mark.both_engines
@pytest.mark.bug("B19")
async def test_a_socket_counts_until_it_is_closed_over_real_sockets(world: World, stack: Stack, server: Server) -> None:
    """On httpx it passes: closing takes no time here."""
    transport = stack.transport(is_sync=world.is_sync, max_total_sockets=2)
    async with world.client(transport=transport, timeout=30) as client:
        for path in ("echo", "close"):
            urls = [f"http://{host}:{server.port}/{path}" for host in ("127.0.0.1", "localhost")]
            responses = await world.gather(*[lambda url=url: client.get(url) for url in urls * 10])
            assert [response.status_code for response in responses] == [200] * 20
        if not stack.is_stock:
            assert len(transport.agent.sockets()) <= 2
    server.wait_closed()


@pytest.mark.slow
@pytest.mark.rule("R4", "N1")
@pytest.mark.parametrize("per_origin", [None, 7])
def test_fifty_threads_and_two_loops_share_twenty_sockets(per_origin: int | None) -> None:
    """At no moment more than twenty sockets are open, from connect to the end of close, and every request is served."""
    network = Network(default=Script(then=respond(b"ok")))
    with Agent(max_total_sockets=20, max_sockets=per_origin, **network.options) as agent:
        requests = 20
        served: list[int] = []

        def in_a_thread(number: int) -> None:
            with httpx.Client(transport=AgentTransport(agent=agent), timeout=30, trust_env=False) as client:
                for turn in range(requests):
                    served.append(client.get(ORIGINS[(number + turn) % 3]).status_code)

        async def in_a_loop() -> None:
            async with httpx.AsyncClient(transport=AgentTransport(agent=agent), timeout=30, trust_env=False) as client:

                async def one(number: int) -> None:
                    for turn in range(requests):
                        served.append((await client.get(ORIGINS[(number + turn) % 3])).status_code)

                async with anyio.create_task_group() as group:
                    for number in range(25):
                        group.start_soon(one, number)

        with ThreadPoolExecutor(52) as threads:
            jobs = [threads.submit(in_a_thread, number) for number in range(50)]
            jobs.append(threads.submit(asyncio.run, in_a_loop()))
            jobs.append(threads.submit(trio.run, in_a_loop))
            for job in jobs:
                job.result(timeout=50)
        assert served == [200] * (100 * requests)
        assert network.peak <= 20
        status = agent.status()
        assert status.request_count == 100 * requests
        assert status.request_error_count == 0
        assert not status.requests
        assert network.open == sum(status.free_sockets.values())
    assert network.open == 0


@pytest.mark.rule("R6", "N2")
async def test_a_home_whose_free_sockets_fill_the_limit_gives_way(world: World) -> None:
    """The total limit is full of the sync world's free sockets: one of them is closed for a request of a loop."""
    network = Network(default=Script(then=respond(b"ok")))
    agent = Agent(max_total_sockets=2, **network.options)

    def fill() -> None:
        with httpx.Client(transport=AgentTransport(agent=agent), trust_env=False) as client:
            with client.stream("GET", ORIGINS[0]) as one, client.stream("GET", ORIGINS[1]) as other:
                one.read()
                other.read()

    async def fill_in_a_loop() -> None:
        async with httpx.AsyncClient(transport=AgentTransport(agent=agent), trust_env=False) as client:
            async with client.stream("GET", ORIGINS[0]) as one, client.stream("GET", ORIGINS[1]) as other:
                await one.aread()
                await other.aread()
            assert agent.status().free_sockets == {f"{origin}:80": 1 for origin in ORIGINS[:2]}
            done.set()
            await anyio.to_thread.run_sync(finish.wait)

    done, finish = threading.Event(), threading.Event()
    if world.is_sync:  # the others' sockets are in the way of the sync world
        filler = threading.Thread(target=asyncio.run, args=(fill_in_a_loop(),))
        filler.start()
        await anyio.to_thread.run_sync(done.wait)
    else:
        fill()
    try:
        async with world.client(transport=AgentTransport(agent=agent), timeout=httpx.Timeout(5)) as client:
            responses = await world.gather(lambda: client.get(ORIGINS[2]), lambda: client.get(ORIGINS[0]))
        assert [response.status_code for response in responses] == [200, 200]
        assert network.peak == 2
    finally:
        finish.set()
        if world.is_sync:
            await anyio.to_thread.run_sync(filler.join)
        await world.close(agent)
    assert network.open == 0


@pytest.mark.rule("R4")
async def test_the_limit_of_an_origin_holds_over_homes(world: World) -> None:
    """A free socket of the same origin in another home is closed to make room."""
    network = Network(default=Script(then=respond(b"ok")))
    agent = Agent(max_sockets=1, **network.options)

    def use_another_home() -> None:
        async def ask() -> None:
            transport = AgentTransport(agent=agent)
            async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
                await client.get(ORIGINS[0])

        asyncio.run(ask())

    def use_the_sync_world() -> None:
        with httpx.Client(transport=AgentTransport(agent=agent), trust_env=False) as client:
            client.get(ORIGINS[0])

    async with world.client(transport=AgentTransport(agent=agent)) as client:
        for other in (use_the_sync_world, use_another_home):
            response = await client.get(ORIGINS[0])
            assert response.status_code == 200
            await anyio.to_thread.run_sync(other)
    assert network.peak == 1
    await world.close(agent)
    assert network.open == 0


@pytest.mark.slow
async def test_a_thousand_requests_over_ten_sockets(world: World) -> None:
    """Each of the ten sockets is opened once."""
    gate = Gate()
    network = Network(default=Script((gate, respond(b"ok")), then=respond(b"ok")))
    count = 200 if world.is_sync else 1000
    transport = AgentTransport(max_sockets=10, **network.options)
    async with world.client(transport=transport, timeout=30) as client:
        async with world.tasks() as tasks:
            jobs = [tasks.start(client.get, ORIGINS[0]) for _ in range(count)]
            await world.until(lambda: transport.agent.status().requests == {"http://a.test:80": count - 10})
            gate.open()
        assert [job.result().status_code for job in jobs] == [200] * count
        assert network.peak == 10
        assert len(network.connections) == 10
        assert sorted({job.result().extensions["agent"].socket_id for job in jobs}) == list(range(10))


async def use_at_once(client: Any, *urls: str) -> None:
    """One socket for each URL, which come free in this order."""
    async with AsyncExitStack() as stack:
        for response in [await stack.enter_async_context(client.stream("GET", url)) for url in urls]:
            await response.aread()


@pytest.mark.rule("R12", "N21")
@pytest.mark.parametrize(("limit", "kept"), [(0, []), (1, [0]), (2, [0, 1]), (256, [0, 1, 2])])
async def test_a_full_list_closes_the_one_that_comes_free(
    world: World, server: Server, engine: str, limit: int, kept: list[int]
) -> None:
    """N21: as in Node, but 0 means none; there it means 256."""
    agent = Agent(max_free_sockets=limit, http1_engine=engine)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await use_at_once(client, *[f"{server.url}/echo"] * 3)
        assert [info.id for info in agent.sockets()] == kept
        await world.until(lambda: server.open == len(kept))
    await world.close(agent)


@pytest.mark.rule("R12", "N22")
async def test_the_total_of_free_sockets_closes_the_least_recently_used(
    world: World, server: Server, engine: str
) -> None:
    """N22: over all origins, so that a pool shrinks from its old end whatever `scheduling` says."""
    agent = Agent(max_total_free_sockets=2, scheduling="fifo", http1_engine=engine)
    one, other = server.url, f"http://localhost:{server.port}"
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await use_at_once(client, one, one, other)
        assert [info.id for info in agent.sockets()] == [1, 2]
        assert (await client.get(one)).extensions["agent"].socket_id == 1
        await use_at_once(client, other, other)  # number 2 and a new one: now number 1 is the oldest
        assert [info.id for info in agent.sockets()] == [2, 3]
        await world.until(lambda: server.open == 2)
    await world.close(agent)


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


@pytest.mark.slow
@pytest.mark.both_engines
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
