"""The observer of an agent: what it is notified of, when, and that its failures do no harm."""

from __future__ import annotations

import errno
import logging
from typing import Any

import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import FIN, HANG, REFUSED, RST, TIMEOUT, Gate, Network, Script, VirtualClock, respond
from tests.support.servers import Certificates, Server
from tests.support.worlds import World

URL = "http://a.test/"
OTHER = "http://b.test/"
ok = respond(b"ok")


class Notes:
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.closed: list[tuple[str, float, str]] = []
        self.waited: list[tuple[str, float, bool]] = []
        self.retried: list[str] = []

    def request_waited(self, exchange: Any, seconds: float, *, served: bool) -> None:
        self.waited.append((exchange.title, seconds, served))

    def request_retried(self, exchange: Any) -> None:
        self.retried.append(exchange.title)

    def socket_closed(self, socket: Any, seconds: float, reason: Any) -> None:
        self.closed.append((socket.key.origin, seconds, reason.value))

    @property
    def reasons(self) -> list[str]:
        """Why sockets were closed, in order."""
        return [reason for _, _, reason in self.closed]


def observed(agent: Agent) -> Notes:
    notes = Notes()
    agent._dispatcher.observe(notes)
    return notes


# Sockets --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "headers", "passes", "reason"),
    [
        ({}, {}, 15.0, "idle_timeout"),
        ({}, {"Keep-Alive": "timeout=5"}, 4.0, "server_hint"),
        ({"socket_active_ttl": 10}, {}, 10.0, "ttl"),
        ({}, {"Connection": "close"}, 0.0, "not_reusable"),
        ({"max_free_sockets": 0}, {}, 0.0, "free_limit"),
        ({"max_total_free_sockets": 0}, {}, 0.0, "free_limit"),
        ({"free_socket_timeout": 0}, {}, 0.0, "idle_timeout"),
        ({"keep_alive": False}, {}, 0.0, "not_reusable"),  # the request said so itself (R13)
        ({"keep_alive": False, "max_sockets": 1}, {}, 0.0, "keep_alive_off"),
    ],
)
async def test_why_a_free_socket_is_closed(
    world: World, options: dict[str, Any], headers: dict[str, str], passes: float, reason: str
) -> None:
    """And for how long it was open."""
    clock = VirtualClock()
    network = Network(default=Script(then=respond(b"ok", headers=headers.items())))
    agent = clock.agent(**options, **network.options)
    notes = observed(agent)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        clock.advance(passes)
        await world.until(lambda: notes.closed)
        assert notes.closed == [("http://a.test:80", passes, reason)]
    await world.close(agent)
    assert len(notes.closed) == 1


@pytest.mark.parametrize("end", ["fin", "rst", "data"])
async def test_a_socket_that_is_found_dead_was_closed_by_its_server(world: World, end: str) -> None:
    network = Network()
    agent = Agent(**network.options)
    notes = observed(agent)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        first = network.connections[0]
        {"fin": first.fin, "rst": first.rst, "data": lambda: first.send(b"HTTP/1.1 408 Too Late\r\n\r\n")}[end]()
        await client.get(URL)
        assert notes.reasons == ["server_closed"]
        assert notes.retried == []
    await world.close(agent)


@pytest.mark.parametrize(
    ("answer", "error", "reason"),
    [
        (
            [respond(b"", headers=[("Content-Length", "9")], length=False), FIN],
            httpx.RemoteProtocolError,
            "server_closed",
        ),
        (RST, httpx.ReadError, "error"),
        (b"garbage\r\n\r\n", httpx.RemoteProtocolError, "error"),
        (TIMEOUT, httpx.ReadTimeout, "timeout"),
    ],
    ids=["ended", "reset", "garbage", "timeout"],
)
async def test_why_a_socket_in_use_is_closed(world: World, answer: Any, error: type[Exception], reason: str) -> None:
    network = Network(Script(answer))
    agent = Agent(**network.options)
    notes = observed(agent)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        with pytest.raises(error):
            await client.get(URL)
        assert notes.reasons == [reason]
    await world.close(agent)


async def test_a_socket_in_doubt_goes_for_that(world: World) -> None:
    network = Network(*[Script(ok, then=TIMEOUT)] * 2)
    agent = Agent(**network.options)
    notes = observed(agent)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with client.stream("GET", URL) as response:
            await client.get(URL)
            await response.aread()
        with pytest.raises(httpx.ReadTimeout):
            await client.get(URL)
        assert notes.reasons == ["timeout", "in_doubt"]
    await world.close(agent)


async def test_a_response_that_is_closed_early_aborts_its_socket(world: World) -> None:
    network = Network(Script([respond(b"", headers=[("Content-Length", "9")], length=False), HANG]))
    agent = Agent(**network.options)
    notes = observed(agent)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with client.stream("GET", URL):
            pass
        assert notes.reasons == ["aborted"]
    await world.close(agent)


async def test_a_socket_makes_room_for_another_origin(world: World) -> None:
    network = Network()
    agent = Agent(max_total_sockets=1, **network.options)
    notes = observed(agent)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        await client.get(OTHER)
        assert [(origin, reason) for origin, _, reason in notes.closed] == [("http://a.test:80", "evicted")]
    await world.close(agent)
    assert [(origin, reason) for origin, _, reason in notes.closed[1:]] == [("http://b.test:80", "agent_closed")]


async def test_a_socket_above_a_lowered_limit_is_closed_for_that(world: World) -> None:
    gate = Gate()
    network = Network(default=Script(then=[gate, ok]))
    agent = Agent(**network.options)
    notes = observed(agent)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with world.tasks() as tasks:
            tasks.start(client.get, URL)
            tasks.start(client.get, URL)
            await world.until(lambda: network.request_count == 2)
            agent.max_sockets = 1
            gate.open()
        assert set(notes.reasons) == {"limit_lowered"}  # both, where the second ends before the first is closed
    await world.close(agent)


async def test_a_socket_that_was_never_usable_is_not_heard_of(world: World) -> None:
    network = Network(default=Script(connect=REFUSED))
    agent = Agent(**network.options)
    notes = observed(agent)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(URL)
    await world.close(agent)
    assert agent.status().create_socket_error_count == 1
    assert notes.closed == []


async def test_a_socket_that_leaves_the_pool_is_not_closed(world: World) -> None:
    """R25: what becomes of it is the caller's affair."""
    network = Network(Script(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"))
    agent = Agent(**network.options)
    notes = observed(agent)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with client.stream("GET", URL, headers={"Connection": "upgrade", "Upgrade": "echo"}) as response:
            assert response.status_code == 101
    await world.close(agent)
    assert notes.closed == []


@pytest.mark.in_loops
def test_a_loop_that_ends_takes_its_sockets_with_it(world: World, server: Server) -> None:
    agent = Agent()
    notes = observed(agent)

    async def ask() -> None:
        client = httpx.AsyncClient(transport=AgentTransport(agent=agent))
        await client.get(server.url)

    world.run(ask)

    assert notes.reasons == ["loop_ended"]
    agent.close()
    assert notes.reasons == ["loop_ended"]


@pytest.mark.in_loops
def test_a_request_that_waits_when_its_loop_ends_has_waited_in_vain(world: World, server: Server) -> None:
    """It holds no socket, and nobody will answer it: a coroutine that was left behind."""
    agent = Agent(max_sockets=1)
    notes = observed(agent)
    gate = server.gate("held")

    async def leave_behind() -> None:
        transport = AgentTransport(agent=agent)
        held = await transport.handle_async_request(httpx.Request("GET", f"{server.url}/hold-body/held"))
        waiting = transport.handle_async_request(httpx.Request("GET", server.url))
        step = waiting.__await__()
        step.send(None)
        assert agent.status().requests == {server.url.rstrip("/"): 1}
        left.extend([held, waiting, step])

    left: list[Any] = []
    world.run(leave_behind)
    gate.open()

    assert [(title, served) for title, _, served in notes.waited] == [(f"GET {server.url.rstrip('/')}", False)]
    assert agent.status().requests == {}
    with pytest.raises((RuntimeError, httpx.ConnectError)):
        left[2].throw(RuntimeError("nobody drives it any more"))
    left[0].is_closed = True
    left.clear()


# Requests -------------------------------------------------------------------------------------------------------------


async def test_how_long_a_request_waited(world: World) -> None:
    """Only one that found no socket; the time is that of its `RequestInfo`."""
    clock = VirtualClock()
    gate = Gate()
    network = Network(Script([gate, ok]))
    agent = clock.agent(max_sockets=1, **network.options)
    notes = observed(agent)
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client:
        async with world.tasks() as tasks:
            tasks.start(client.get, URL)
            await world.until(lambda: network.request_count == 1)
            second = tasks.start(client.post, URL)
            await world.until(lambda: agent.status().requests)
            clock.time += 2.5
            gate.open()
        assert second.result().extensions["agent"].queued_for == 2.5
        assert notes.waited == [("POST http://a.test:80", 2.5, True)]
    await world.close(agent)


async def test_a_request_that_gives_up_has_waited_too(world: World) -> None:
    gate = Gate()
    network = Network(Script([gate, ok]))
    agent = Agent(max_sockets=1, **network.options)
    notes = observed(agent)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with world.tasks() as tasks:
            tasks.start(client.get, URL)
            await world.until(lambda: network.request_count == 1)
            with pytest.raises(httpx.PoolTimeout):
                await client.get(URL, timeout=httpx.Timeout(None, pool=0.01))
            gate.open()
    ((title, seconds, served),) = notes.waited
    assert (title, served) == ("GET http://a.test:80", False)
    assert 0.01 <= seconds < 5
    await world.close(agent)


async def test_a_request_that_is_refused_has_waited_too(world: World) -> None:
    gate = Gate()
    network = Network(Script([gate, ok]))
    agent = Agent(max_sockets=1, **network.options)
    notes = observed(agent)
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client:
        async with world.tasks() as tasks:
            jobs = [tasks.start(client.get, URL)]
            await world.until(lambda: network.request_count == 1)
            jobs.append(tasks.start(client.get, URL))
            await world.until(lambda: agent.status().requests)
            await world.close(agent)
        assert [type(job.exception) for job in jobs] == [httpx.ReadError, httpx.ConnectError]
    assert [served for _, _, served in notes.waited] == [False]
    assert notes.reasons == ["agent_closed"]


async def test_a_retry_is_heard_of(world: World) -> None:
    """The used socket is dead when the request has been written."""
    network = Network(Script(ok, FIN))
    agent = Agent(**network.options)
    notes = observed(agent)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        response = await client.get(URL)
        assert response.extensions["agent"].retried
        assert notes.retried == ["GET http://a.test:80"]
        assert notes.reasons == ["server_closed"]
        assert notes.waited == []
    await world.close(agent)


@pytest.mark.in_loops
async def test_a_shared_socket_is_closed_once(world: World, h2_server: Server, certificates: Certificates) -> None:
    agent = Agent(http2=True, verify=certificates.client())
    notes = observed(agent)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await world.gather(*[lambda: client.get(h2_server.url)] * 5)
    await world.close(agent)
    assert notes.reasons == ["agent_closed"]


# The observer itself --------------------------------------------------------------------------------------------------


class Failing:
    """Fails, whatever it hears."""

    def fail(self, *_: object, **__: object) -> None:
        raise LookupError("this observer fails")

    request_waited = request_retried = socket_closed = fail


async def test_what_an_observer_raises_harms_nobody(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """And is logged once, with its traceback; a new observer is a new chance."""
    network = Network(default=Script(then=respond(b"ok", headers=[("Connection", "close")])))
    agent = Agent(**network.options)
    agent._dispatcher.observe(Failing())
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        for _ in range(3):
            assert (await client.get(URL)).status_code == 200
        (record,) = caplog.records
        assert (record.name, record.levelno) == ("httpx_agent", logging.ERROR)
        assert record.exc_info is not None
        assert str(record.exc_info[1]) == "this observer fails"
        agent._dispatcher.observe(Failing())
        await client.get(URL)
        assert len(caplog.records) == 2
    await world.close(agent)
    assert agent.status().close_socket_count == 4


async def test_an_observer_may_ask_the_agent(world: World) -> None:
    """It is called without the lock."""
    network = Network()
    agent = Agent(max_total_sockets=1, **network.options)
    seen: list[object] = []

    class Curious(Notes):
        def socket_closed(self, socket: Any, seconds: float, reason: Any) -> None:
            seen.append(agent.status().close_socket_count)
            agent.max_total_sockets = 2

    agent._dispatcher.observe(Curious())
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        await client.get(OTHER)
    await world.close(agent)
    assert seen


async def test_nothing_is_noted_for_nobody(world: World) -> None:
    """An agent without an observer makes no call, and collects nothing to be told; nor one that is observed no more."""
    gate = Gate()
    network = Network(Script(ok, FIN), Script([gate, ok]))
    agent = Agent(max_sockets=1, **network.options)
    told: list[object] = []
    agent._dispatcher._tell = told.append  # type: ignore[method-assign]
    notes = observed(agent)
    agent._dispatcher.observe(None)
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client:
        await client.get(URL)
        async with world.tasks() as tasks:
            tasks.start(client.get, URL)  # is sent again
            await world.until(lambda: network.request_count == 3)
            tasks.start(client.get, URL)  # waits
            await world.until(lambda: agent.status().requests)
            gate.open()
    await world.close(agent)
    assert agent.status().close_socket_count == 2
    assert (told, notes.closed, notes.waited, notes.retried) == ([], [], [], [])


async def test_room_that_is_made_at_the_limit_on_open_files_is_no_retry(world: World) -> None:
    """Nothing had been sent; the free socket went for a request that it could not serve."""
    network = Network(Script(), Script(connect=OSError(errno.EMFILE, "Too many open files")))
    agent = Agent(**network.options)
    notes = observed(agent)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        assert not (await client.get(OTHER)).extensions["agent"].retried
        assert notes.retried == []
        assert notes.reasons == ["evicted"]
    await world.close(agent)
