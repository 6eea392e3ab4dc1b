"""Free sockets are closed when they expire, by a timer and without a request."""

from __future__ import annotations

import time

import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import Network, Script, VirtualClock, respond
from tests.bugs.stock import Stack
from tests.support.servers import Server
from tests.support.worlds import World

URL = "http://a.test/"


@pytest.mark.rule("R16", "R31", "R34", "N4", "N18", "A3", "A6")
@pytest.mark.parametrize(
    ("options", "headers", "lives"),
    [
        ({}, {}, 15.0),
        ({"free_socket_timeout": 3}, {}, 3.0),
        ({}, {"Keep-Alive": "timeout=5, max=100"}, 4.0),
        ({"keep_alive_timeout_buffer": 0.5}, {"Keep-Alive": "timeout=5"}, 4.5),
        ({"socket_active_ttl": 10}, {"Keep-Alive": "timeout=20"}, 10.0),
        ({"free_socket_timeout": None}, {"Keep-Alive": "timeout=20"}, 19.0),
    ],
    ids=["the default", "free_socket_timeout", "the hint", "the buffer", "the TTL", "the hint alone"],
)
async def test_how_long_a_socket_stays_free(
    world: World, options: dict[str, float], headers: dict[str, str], lives: float
) -> None:
    """The smallest of free_socket_timeout, hint - buffer and the TTL left (N4, A3, A5, A6)."""
    clock = VirtualClock()
    network = Network(default=Script(then=respond(b"ok", headers=headers.items())))
    agent = clock.agent(**options, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        assert agent.sockets()[0].expires_in == lives
        clock.advance(lives - 0.001)
        assert agent.status().free_sockets == {"http://a.test:80": 1}
        clock.advance(0.001)
        await world.until(lambda: network.open == 0)
        await world.until(lambda: agent.sockets() == ())
        status = agent.status()
        assert (status.timeout_socket_count, status.close_socket_count, status.error_socket_count) == (1, 1, 0)
    await world.close(agent)


@pytest.mark.rule("R12", "R31")
@pytest.mark.parametrize(
    ("options", "headers"),
    [
        ({"free_socket_timeout": 0}, {}),
        ({"max_free_sockets": 0}, {}),
        ({}, {"Keep-Alive": "timeout=1"}),
        ({}, {"Connection": "close"}),
    ],
)
async def test_a_socket_that_is_not_kept(world: World, options: dict[str, int], headers: dict[str, str]) -> None:
    network = Network(default=Script(then=respond(b"ok", headers=headers.items())))
    agent = Agent(**options, **network.options)  # type: ignore[arg-type]
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        assert network.open == 0
    await world.close(agent)


@pytest.mark.rule("R34", "A11")
async def test_a_long_response_is_not_cut_by_the_ttl(world: World) -> None:
    """R34, A11: the socket is closed when the response is over."""
    clock = VirtualClock()
    network = Network()
    agent = clock.agent(socket_active_ttl=10, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with client.stream("GET", URL) as response:
            clock.advance(60)
            assert network.open == 1
            assert await response.aread() == b"ok"
        assert network.open == 0
    await world.close(agent)


@pytest.mark.rule("R34", "A5")
async def test_a_late_timer_does_not_let_an_expired_socket_serve(world: World) -> None:
    """A5: it is looked at when it is picked, too."""
    clock = VirtualClock()
    network = Network()
    agent = clock.agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        clock.time += 15  # and no timer rings
        assert (await client.get(URL)).extensions["agent"].socket_id == 1
        assert agent.status().timeout_socket_count == 1
    await world.close(agent)


async def test_a_used_socket_lives_on(world: World) -> None:
    clock = VirtualClock()
    network = Network()
    agent = clock.agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        for turn in range(5):
            info = (await client.get(URL)).extensions["agent"]
            assert (info.socket_id, info.requests_on_socket) == (0, turn + 1)
            assert info.idle_for == (10.0 if turn else None)
            clock.advance(10)
    await world.close(agent)


@pytest.mark.rule("R16")
async def test_the_real_timer_closes_real_sockets(world: World, server: Server) -> None:
    """The server sees the end of the connection, and nobody has asked for anything."""
    agent = Agent(free_socket_timeout=0.05)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(f"{server.url}/echo")
        await world.until(lambda: server.open == 0)
        await world.until(lambda: agent.sockets() == ())
        assert agent.status().timeout_socket_count == 1
        await client.get(f"{server.url}/echo")
        await world.until(lambda: server.open == 0)
        await world.until(lambda: agent.status().close_socket_count == 2)
    await world.close(agent)


@pytest.mark.rule("R2", "N22")
async def test_the_longest_free_goes_first_with_fifo_and_last_with_lifo(world: World) -> None:
    """R2: lifo lets the sockets that are not needed expire; fifo keeps all of them warm."""
    for scheduling, order in (("lifo", [2, 2, 2]), ("fifo", [0, 1, 2])):
        network = Network()
        agent = Agent(scheduling=scheduling, **network.options)  # type: ignore[arg-type]
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            streams = [client.stream("GET", URL) for _ in range(3)]
            responses = [await stream.__aenter__() for stream in streams]
            for stream, response in zip(streams, responses, strict=True):
                await response.aread()
                await stream.__aexit__(None, None, None)
            served = [(await client.get(URL)).extensions["agent"].socket_id for _ in range(3)]
        assert served == order
        await world.close(agent)


@pytest.mark.rule("R20")
async def test_a_request_that_fails_frees_its_slot(world: World) -> None:
    network = Network(Script(b"nonsense\r\n\r\n"))
    agent = Agent(max_sockets=1, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(URL)
        assert agent.sockets() == ()
        assert (await client.get(URL)).status_code == 200
        assert agent.status().error_socket_count == 1
    await world.close(agent)


@pytest.mark.bug("B24")
@pytest.mark.both_engines
async def test_a_free_socket_is_closed_when_its_time_is_over(world: World, stack: Stack, server: Server) -> None:
    """httpx: it stays open until another request comes."""
    transport = stack.transport(is_sync=world.is_sync, free_socket_timeout=0.05)
    async with world.client(transport=transport) as client:
        await client.get(f"{server.url}/echo")
        await world.until(lambda: server.open == 0)


@pytest.fixture
def asleep(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the machine slept, to be set; agents are made with a clock that knows."""
    slept = [0.0]
    monkeypatch.setattr(Agent, "_clock", staticmethod(lambda: time.monotonic() + slept[0]))
    return slept


async def test_a_socket_that_was_free_for_a_night_does_not_serve(world: World, asleep: list[float]) -> None:
    """No timer has rung: they stood still."""
    network = Network()
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        asleep[0] = 8 * 3600.0
        assert (await client.get(URL)).extensions["agent"].socket_id == 1
        assert agent.status().timeout_socket_count == 1
        assert network.open == 1
    await world.close(agent)


async def test_a_request_does_not_run_out_of_time_while_the_machine_sleeps(world: World, asleep: list[float]) -> None:
    """Its pool timeout goes on where it was, as the others of a request do."""
    network = Network()
    agent = Agent(max_sockets=1, **network.options)
    dispatcher = agent._dispatcher
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with client.stream("GET", URL) as response, world.tasks() as tasks:
            waiting = tasks.start(client.get, URL, timeout=httpx.Timeout(10, pool=5))
            await world.until(lambda: agent.status().requests)
            (home,) = {ticket.home for ticket in dispatcher.tickets()}
            asleep[0] = 3600.0
            for event in dispatcher.renew_events(home):  # it looks at the clock
                home.wake(event, None)
            await world.settle()
            await response.aread()
        assert waiting.result().extensions["agent"].queued_for >= 3600
    await world.close(agent)


@pytest.mark.rule("R36", "A9")
async def test_the_time_of_a_free_socket_is_over_when_it_is_picked(world: World, engine: str) -> None:
    """A9: a timer that rings in the moment of the reuse, or later, closes nothing; the time begins anew."""
    clock = VirtualClock()
    network = Network()
    agent = clock.agent(free_socket_timeout=15, http1_engine=engine, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        clock.time += 14.999
        async with client.stream("GET", URL) as response:
            assert response.extensions["agent"].socket_id == 0
            for seconds in (0.001, 100):
                clock.advance(seconds)
                assert [info.state for info in agent.sockets()] == ["active"]
            assert await response.aread() == b"ok"
        assert agent.sockets()[0].expires_in == 15
        clock.advance(14)
        assert agent.status().free_sockets == {"http://a.test:80": 1}
        assert agent.status().timeout_socket_count == 0
    await world.close(agent)
