"""Limits hold over threads and event loops together, and nobody is stuck behind another home's sockets."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import anyio
import httpx
import pytest
import trio

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import Gate, Network, Script, respond
from tests.support.worlds import World

ORIGINS = ["http://a.test", "http://b.test", "http://c.test"]


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


@pytest.mark.rule("R5")
async def test_the_oldest_request_is_served_first(world: World) -> None:
    """Over origins and in the order of arrival, when only the total is in the way."""
    gate = Gate()
    network = Network(default=Script((gate, respond(b"ok")), then=respond(b"ok")))
    agent = Agent(max_total_sockets=1, **network.options)
    order: list[str] = []
    async with world.client(transport=AgentTransport(agent=agent)) as client, world.tasks() as tasks:

        async def ask(url: str) -> None:
            order.append((await client.get(url)).url.host)

        tasks.start(ask, ORIGINS[0])
        await world.until(lambda: network.request_count == 1)
        for number, origin in enumerate([ORIGINS[1], ORIGINS[2], ORIGINS[0]]):
            tasks.start(ask, origin)
            await world.until(lambda number=number: sum(agent.status().requests.values()) == number + 1)
        gate.open()
    assert network.peak == 1
    # The last one is of the first one's origin, and takes over its socket: that saves a connection.
    assert order == ["a.test", "a.test", "b.test", "c.test"]
    await world.close(agent)
