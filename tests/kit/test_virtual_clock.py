"""Agents made in the block of a virtual clock use it."""

from __future__ import annotations

import asyncio
import threading
import time

import anyio
import httpcore2
import httpx
import httpx2
import pytest

import httpx_agent.httpx2
from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import HANG, REFUSED, Network, Script, VirtualClock, assert_no_leaks
from tests.support.worlds import World

URL = "http://a.test/"


def test_only_agents_made_in_the_block_live_by_it() -> None:
    with VirtualClock() as clock:
        agents = [Agent(), AgentTransport().agent]
    other = Agent()
    assert [agent._dispatcher.now() for agent in agents] == [1000.0, 1000.0]
    clock.advance(5)
    assert [agent._dispatcher.now() for agent in agents] == [1005.0, 1005.0]
    assert abs(other._dispatcher.now() - time.monotonic()) < 60


def test_the_kit_serves_httpx2_as_well() -> None:
    network = Network(Script(connect=REFUSED), library=httpcore2)
    with VirtualClock() as clock, httpx_agent.httpx2.Agent(free_socket_timeout=15, **network.options) as agent:
        with httpx2.Client(transport=httpx_agent.httpx2.AgentTransport(agent=agent)) as client:
            with pytest.raises(httpx2.ConnectError):
                client.get(URL)
            assert client.get(URL).text == "ok"
            clock.advance(15)
            assert agent.sockets() == ()
            assert_no_leaks(agent)


def test_blocks_may_be_nested() -> None:
    with VirtualClock() as outer, VirtualClock() as inner:
        inner.advance(1)
        innermost = outer.agent()
        agent = Agent()
    assert innermost._dispatcher.now() == 1000.0
    assert agent._dispatcher.now() == 1001.0


def test_a_clock_keeps_no_agent_alive() -> None:
    clock = VirtualClock()
    clock.agent()
    assert len(clock._agents) == 0


async def test_free_sockets_expire_when_the_clock_is_set(world: World) -> None:
    network = Network()
    clock = VirtualClock()
    agent = clock.agent(free_socket_timeout=15, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        clock.advance(14.9)
        await world.settle()
        assert network.open == 1
        clock.advance(0.1)
        await world.until(lambda: network.open == 0)
    assert agent.status().timeout_socket_count == 1
    await world.close(agent)


async def test_a_request_that_waits_gives_up_when_the_clock_is_set(world: World) -> None:
    network = Network(Script(HANG))
    clock = VirtualClock()
    agent = clock.agent(max_sockets=1, **network.options)
    timeout = httpx.Timeout(None, pool=60)
    async with world.client(transport=AgentTransport(agent=agent), timeout=timeout) as client:
        async with world.tasks() as tasks:
            first = tasks.start(client.get, URL)
            await world.until(lambda: network.request_count == 1)
            second = tasks.start(client.get, URL)
            await world.until(lambda: agent.status().requests == {"http://a.test:80": 1})
            clock.advance(59)
            await world.settle()
            assert not second.done
            clock.advance(1)
            await second.wait()
            with pytest.raises(httpx.PoolTimeout, match="no socket available within 60 s"):
                second.result()
            await world.close(agent)
            await first.wait()
    assert isinstance(first.exception, httpx.ReadError)
    assert_no_leaks(agent)


def test_a_clock_that_is_set_from_outside_reaches_every_event_loop() -> None:
    network = Network()
    clock = VirtualClock()
    agent = clock.agent(free_socket_timeout=15, **network.options)
    idle, done = threading.Event(), threading.Event()

    async def main() -> None:
        async with httpx.AsyncClient(transport=AgentTransport(agent=agent), trust_env=False) as client:
            await client.get(URL)
            idle.set()
            while network.open:
                await anyio.sleep(0.001)
            done.set()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    assert idle.wait(10)
    clock.advance(15)
    assert done.wait(10)
    thread.join(10)
    assert agent.status().timeout_socket_count == 1
