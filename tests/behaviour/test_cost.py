"""The cost of a request to the pool is the same among ten and among thousands: counted end to end, not timed.

At most one poll, one wake-up and no scan per request. `tests/unit/rules` shows the same for the core alone, and
`python -m benchmarks cost` in seconds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent._connection.http1 import Http1Connection
from httpx_agent._runtime import watchers as _watchers
from httpx_agent.testing import Network
from tests.bugs.stock import Stack
from tests.support.counting import Meter, watch
from tests.support.servers import Server
from tests.support.worlds import World

FEW = 10

TURNS = 5
"""So often each request is made; the least counts, because a real socket may bring an answer in two parts."""


@dataclass
class Ground:
    """Where requests go: over a scripted network by h11, or over real sockets by the fast engine (h11 on trio)."""

    world: World
    network: Network | None
    path: str

    def agent(self, **options: Any) -> Agent:
        where = {"uds": self.path} if self.network is None else self.network.options
        return Agent(free_socket_timeout=1000, **where, **options)

    def many(self, *, threads: bool = False) -> int:
        """How many stand for thousands: real sockets need descriptors, and waiting in the sync world needs threads."""
        return 100 if self.network is None or (threads and self.world.is_sync) else 2_000

    def polls(self, meter: Meter) -> int:
        """How often it was looked whether a socket can be read, without waiting for it."""
        return meter.polls["is_readable"] + meter.polls["is_socket_readable"] + self.polls_in_network()

    def polls_in_network(self) -> int:
        if self.network is None:
            return 0
        polls = self.network.polls
        for connection in self.network.connections:
            connection.polls = 0
        return polls


@pytest.fixture(params=["scripted network", "sockets"])
def ground(world: World, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "scripted network":
        yield Ground(world, Network(), "")
        return
    # Whether the watcher has yet to hear of some socket, and has to be told when, must not depend on the time.
    monkeypatch.setattr(_watchers, "WATCH_DELAY", 1000.0)
    with Server(uds=str(tmp_path / "server")) as server:
        yield Ground(world, None, str(server.uds))


def get(origin: int | str = "a") -> httpx.Request:
    return httpx.Request("GET", f"http://{origin}.test/")


async def begin(world: World, transport: AgentTransport, request: httpx.Request) -> Any:
    """Send a request; its socket is in use until the response is read. In this thread, so that it can be counted."""
    return transport.handle_request(request) if world.is_sync else await transport.handle_async_request(request)


async def read(world: World, response: Any) -> None:
    if world.is_sync:
        response.read()
    else:
        await response.aread()


async def occupy(world: World, transport: AgentTransport, *requests: httpx.Request) -> list[Any]:
    """Use a socket for each request."""
    return [await begin(world, transport, request) for request in requests]


async def cost(ground: Ground, agent: Agent, request: httpx.Request) -> tuple[int, int, int]:
    """Steps, entries looked at, and wake-ups of one request that finds a socket; the polls are looked at here."""
    world, transport = ground.world, AgentTransport(agent=agent)
    watched = watch(agent, transport._pool)
    assert any(len(container) >= FEW for container in watched)
    results = []
    for _ in range(TURNS):
        ground.polls_in_network()
        with Meter() as meter:
            await read(world, await begin(world, transport, request))
        assert ground.polls(meter) == 1
        assert meter.polls["wait_readable"] <= 1  # until the answer came
        results.append((meter.steps, meter.entries, meter.wakes))
    return min(results)


@asynccontextmanager
async def ending(world: World, agent: Agent) -> AsyncIterator[Agent]:
    try:
        yield agent
    finally:
        await world.close(agent)


@pytest.mark.slow
async def test_over_free_sockets(ground: Ground, world: World) -> None:
    """One poll, of the socket that is used; nobody is woken; no other socket is looked at."""

    async def among(count: int) -> tuple[int, int, int]:
        async with ending(world, ground.agent(max_free_sockets=count)) as agent:
            transport = AgentTransport(agent=agent)
            for response in await occupy(world, transport, *[get()] * count):
                await read(world, response)
            assert sum(agent.status().free_sockets.values()) == count
            fast = isinstance(agent._dispatcher._sockets[0].connection, Http1Connection)
            assert fast == (ground.network is None and world.name != "trio")
            return await cost(ground, agent, get())

    few, many = await among(FEW), await among(ground.many())

    assert few == many
    assert few[2] == 0


@pytest.mark.slow
async def test_over_many_origins(ground: Ground, world: World) -> None:
    """Each has a free socket; those of the others are not looked at."""

    async def among(count: int) -> tuple[int, int, int]:
        async with ending(world, ground.agent()) as agent:
            transport = AgentTransport(agent=agent)
            for response in await occupy(world, transport, *map(get, range(count))):
                await read(world, response)
            assert len(agent.status().free_sockets) == count
            return await cost(ground, agent, get(7))

    few, many = await among(FEW), await among(ground.many())

    assert few == many
    assert few[2] == 0


@pytest.mark.slow
async def test_a_new_socket_among_many_in_use(ground: Ground, world: World) -> None:
    """Opening one and closing it looks at no other; no poll."""

    async def among(count: int) -> tuple[int, int, int]:
        async with ending(world, ground.agent(max_free_sockets=0)) as agent:
            transport = AgentTransport(agent=agent)
            held = await occupy(world, transport, *[get()] * count)
            watch(agent, transport._pool)
            results = []
            for _ in range(TURNS):
                ground.polls_in_network()
                with Meter() as meter:
                    await read(world, await begin(world, transport, get()))
                assert ground.polls(meter) == 0
                results.append((meter.steps, meter.entries, meter.wakes))
            assert sum(agent.status().sockets.values()) == len(held)
            return min(results)

    few, many = await among(FEW), await among(ground.many())

    assert few == many
    assert few[2] <= 1  # the socket that closes wakes whoever might wait for it


async def test_a_socket_that_comes_free_wakes_one_of_those_who_wait(ground: Ground, world: World) -> None:
    """And that one only: what runs meanwhile is the same, however many wait."""

    async def among(count: int) -> tuple[int, int, int]:
        async with ending(world, ground.agent(max_sockets=1)) as agent, world.tasks() as tasks:
            transport = AgentTransport(agent=agent)
            (held,) = await occupy(world, transport, get())
            jobs = [tasks.start(begin_beside, world, transport, get()) for _ in range(count)]
            await world.until(lambda: sum(agent.status().requests.values()) == count)
            watch(agent, transport._pool)
            results = []
            for _ in range(TURNS):
                ground.polls_in_network()
                with Meter() as meter:
                    await read(world, held)
                    # The oldest; in the sync world threads have come in any order.
                    await world.until(lambda: any(job.done for job in jobs))
                assert ground.polls(meter) <= 1
                (served,) = [job for job in jobs if job.done]
                jobs.remove(served)
                held = served.result()
                results.append((meter.steps, meter.entries, meter.wakes))
            await world.close(agent)
            return min(results)

    few, many = await among(FEW), await among(ground.many(threads=True))

    assert few == many
    assert few[2] == 1


async def begin_beside(world: World, transport: AgentTransport, request: httpx.Request) -> Any:
    """As `begin`, but in a thread of its own in the sync world."""
    return await world.call(transport.handle_request if world.is_sync else transport.handle_async_request, request)


@asynccontextmanager
async def crowd(ground: Ground, count: int) -> AsyncIterator[AgentTransport]:
    """The one socket of an origin is in use, many wait for it, and as many other origins have a free one each."""
    world = ground.world
    async with ending(world, ground.agent(max_sockets=1)) as agent, world.tasks() as tasks:
        transport = AgentTransport(agent=agent)
        for response in await occupy(world, transport, *map(get, range(count))):
            await read(world, response)
        held = await occupy(world, transport, get())
        for _ in range(count):
            tasks.start(begin_beside, world, transport, get())
        await world.until(lambda: sum(agent.status().requests.values()) == count)
        watch(agent, transport._pool)
        yield transport
        await world.close(agent)
        del held  # not before: a response that is dropped frees its socket


@pytest.mark.slow
@pytest.mark.in_loops
async def test_a_request_that_waits_in_a_crowd_and_is_cancelled(ground: Ground, world: World) -> None:
    """Coming and going, it looks at no other that waits, and at no free socket that it cannot use."""

    async def among(count: int) -> tuple[int, int, int]:
        results = []
        async with crowd(ground, count) as transport:
            for _ in range(TURNS):
                with Meter() as meter:
                    async with world.tasks() as tasks:
                        job = tasks.start(begin, world, transport, get())
                        await world.settle()
                        job.cancel()
                assert job.cancelled
                results.append((meter.steps, meter.entries, meter.wakes))
            assert sum(transport.agent.status().requests.values()) == count
        return min(results)

    few, many = await among(FEW), await among(ground.many())

    assert few == many
    assert few[2] == 0


@pytest.mark.slow
async def test_a_pool_timeout_in_a_crowd(ground: Ground, world: World) -> None:
    """When thousands run out of time together, each must not look at all the others to say what it waited for."""

    async def among(count: int) -> tuple[int, int, int]:
        results = []
        async with crowd(ground, count) as transport:
            request = get()
            request.extensions["timeout"] = {"pool": 0.0}
            for _ in range(TURNS):
                with Meter() as meter, pytest.raises(httpx.PoolTimeout, match="max_sockets=1 reached"):
                    await begin(world, transport, request)
                results.append((meter.steps, meter.entries, meter.wakes))
        return min(results)

    few, many = await among(FEW), await among(ground.many(threads=True))

    assert few == many
    assert few[2] == 0


@pytest.mark.bug("B23")
async def test_only_the_chosen_socket_is_polled(world: World, stack: Stack) -> None:
    """httpx: 10 free sockets are polled for each request, 220 times in all."""
    network = Network()
    transport = stack.transport(is_sync=world.is_sync, **network.options)
    urls = [f"http://{number}.test/" for number in range(10)]
    async with world.client(transport=transport) as client:
        for url in urls:
            await client.get(url)
        before = network.polls
        for url in urls:
            await client.get(url)
        assert network.polls - before <= len(urls)
        assert len(network.connections) == len(urls)
