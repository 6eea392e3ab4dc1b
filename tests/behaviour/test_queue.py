"""Which requests wait for a socket, which is served first, and which tasks are woken."""

from __future__ import annotations

import threading
from typing import Any

import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent._pool import exchange
from httpx_agent._runtime.locks import Signal
from httpx_agent.testing import Gate, Network, Script, respond
from tests.bugs.stock import Stack
from tests.support.worlds import World, _Counted

A, B = "http://a.test/", "http://b.test/"

LONG = httpx.Timeout(5.0, pool=50.0)

ORIGINS = ["http://a.test", "http://b.test", "http://c.test", "http://d.test"]


def is_long(timeout: float | None) -> bool:
    """As no other wait in these tests."""
    return timeout is not None and 40 < timeout <= 50


@pytest.mark.bug("B5")
async def test_a_release_wakes_one_request(world: World, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """httpx: with twenty in line a request waits 10 times on average (sync), and is resumed more often the longer the
    line is (in loops).
    """
    waits: list[int] = []  # how many, from each source; threads append to it at the same time

    def counted(wait: Any) -> Any:
        def wait_and_count(self: Any, timeout: float | None = None) -> Any:
            waits.append(is_long(timeout))
            return wait(self, timeout)

        return wait_and_count

    class CountingEvent(threading.Event):
        wait = counted(threading.Event.wait)

    monkeypatch.setattr(threading, "Event", CountingEvent)
    monkeypatch.setattr(Signal, "wait", counted(Signal.wait))
    monkeypatch.setattr(exchange, "LOST_AFTER", 50.0)  # one wait, not two

    async def cost(count: int) -> int:
        """Return how often that many requests wait in all: in threads for a socket, in loops for anything."""
        waits.clear()
        gates = [Gate() for _ in range(count)]
        network = Network(Script(*[[gate, respond()] for gate in gates]))
        transport = stack.transport(is_sync=world.is_sync, max_total_sockets=1, **network.options)
        async with world.client(transport=transport, timeout=LONG) as client:

            async def get() -> None:
                request = _Counted(client.get(A), 0, lambda: None)
                await request
                if not world.is_sync:
                    waits.append(request.suspensions)

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
        return sum(waits)

    # A task that finds its data there already is suspended once less, so each number is taken three times.
    alone = min([await cost(1) for _ in range(3)])
    two = max([await cost(2) for _ in range(3)])
    many = min([await cost(20) for _ in range(3)])
    assert two > alone
    assert many - alone <= 19 * (two - alone)


async def order_of_service(world: World, *waiting: str) -> list[str]:
    """Return the hosts of the requests, as the network saw them, when these wait behind one to the first origin."""
    gate = Gate()
    network = Network(default=Script((gate, respond(b"ok")), then=respond(b"ok")))
    agent = Agent(max_total_sockets=1, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client, world.tasks() as tasks:
        tasks.start(client.get, ORIGINS[0])
        await world.until(lambda: network.request_count == 1)
        for number, origin in enumerate(waiting):
            tasks.start(client.get, origin)
            await world.until(lambda number=number: sum(agent.status().requests.values()) == number + 1)
        gate.open()
    assert network.peak == 1  # so each connection comes after the one before
    await world.close(agent)
    return [connection.host for connection in network.connections for _ in connection.requests]


@pytest.mark.rule("R5")
async def test_the_oldest_request_is_served_first(world: World) -> None:
    """Across origins and in the order of arrival, when only the total is in the way."""
    order = await order_of_service(world, *ORIGINS[1:])
    assert order == ["a.test", "b.test", "c.test", "d.test"]


@pytest.mark.rule("R7")
async def test_a_released_socket_is_handed_over_before_its_slot(world: World) -> None:
    """The last to arrive is of the first one's origin, and gets its socket: that saves a connection."""
    order = await order_of_service(world, ORIGINS[1], ORIGINS[2], ORIGINS[0])
    assert order == ["a.test", "a.test", "b.test", "c.test"]
