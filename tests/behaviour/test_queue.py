"""Which requests wait for a socket, which is served first, and which tasks are woken."""

from __future__ import annotations

import threading

import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import Gate, Network, Script, respond
from tests.bugs.stock import Stack
from tests.support.worlds import World, _Counted

A, B = "http://a.test/", "http://b.test/"

LONG = httpx.Timeout(5.0, pool=50.0)

ORIGINS = ["http://a.test", "http://b.test", "http://c.test"]


def is_long(timeout: float | None) -> bool:
    """As no other wait in these tests."""
    return timeout is not None and 40 < timeout <= 50


@pytest.mark.bug("B5")
async def test_a_release_wakes_one_request(world: World, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """httpx: with twenty in line a request waits 10 times on average (sync), and is resumed more often the longer the
    line is (in loops).
    """
    waits = 0

    class CountingEvent(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            nonlocal waits
            waits += is_long(timeout)
            return super().wait(timeout)

    monkeypatch.setattr(threading, "Event", CountingEvent)

    async def cost(count: int) -> float:
        nonlocal waits
        waits = 0
        gates = [Gate() for _ in range(count)]
        network = Network(Script(*[[gate, respond()] for gate in gates]))
        transport = stack.transport(is_sync=world.is_sync, max_total_sockets=1, **network.options)
        async with world.client(transport=transport, timeout=LONG) as client:

            async def get() -> None:
                nonlocal waits
                request = _Counted(client.get(A), 0, lambda: None)
                await request
                if not world.is_sync:
                    waits += request.suspensions

            async with world.tasks() as tasks:
                for _ in range(count):
                    tasks.start(get)
                for turn, gate in enumerate(gates):  # each has its turn, and the others wait again
                    left = count - 1 - turn
                    await world.until(
                        lambda turn=turn, left=left: (
                            network.request_count == turn + 1 and stack.waiting(transport) == left
                        )
                    )
                    gate.open()
        return waits / count

    few, many = await cost(5), await cost(20)
    assert many <= few + 1


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
