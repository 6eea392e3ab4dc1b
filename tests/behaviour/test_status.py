"""The status of an agent, number by number, in short scenarios."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import httpx
import pytest

from httpx_agent import Agent, AgentStatus, AgentTransport, RequestInfo
from httpx_agent.testing import FIN, HANG, REFUSED, RST, TIMEOUT, Gate, Network, Script, VirtualClock, respond
from tests.support.statuses import status_of
from tests.support.worlds import World

URL = "http://a.test/"

A = "http://a.test:80"

LARGE = respond(b"x" * 70_000)

UPGRADE = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"


def balance(status: AgentStatus) -> int:
    """Created, less all that became of what was created: 0 at every moment."""
    held = sum(status.sockets.values()) + sum(status.free_sockets.values())
    gone = status.create_socket_error_count + status.close_socket_count + status.detached_socket_count
    return status.create_socket_count - gone - held


def test_a_new_agent_has_done_nothing() -> None:
    assert Agent().status() == status_of()


@pytest.mark.rule("R1", "R40", "N27")
async def test_the_life_of_one_request(world: World) -> None:
    """Connecting, in use, free, closed: what each moment looks like."""
    connect, answer = Gate(), Gate()
    network = Network(Script([answer, LARGE], connect=connect))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with world.tasks() as tasks:
            job = tasks.start(client.send, client.build_request("GET", URL), stream=True)
            await world.until(lambda: network.open == 1)
            assert agent.status() == status_of(create_socket_count=1, sockets={A: 1})
            connect.open()
            await world.until(lambda: network.request_count == 1)
            assert agent.status() == status_of(create_socket_count=1, sockets={A: 1})
            answer.open()
            await job.wait()
        assert agent.status() == status_of(create_socket_count=1, sockets={A: 1})
        await job.result().aread()
        assert agent.status() == status_of(create_socket_count=1, request_count=1, free_sockets={A: 1})
        await client.get(URL)
        assert agent.status() == status_of(create_socket_count=1, request_count=2, free_sockets={A: 1})
    await world.close(agent)
    assert agent.status() == status_of(create_socket_count=1, request_count=2, close_socket_count=1)


@pytest.mark.rule("R20", "R38")
@pytest.mark.parametrize(
    ("script", "url", "expected"),
    [
        (Script(connect=REFUSED), URL, {"create_socket_error_count": 1, "request_error_count": 1}),
        (Script(tls=REFUSED), "https://a.test", {"create_socket_error_count": 1, "request_error_count": 1}),
        (
            Script(connect=TIMEOUT),
            URL,
            {"create_socket_error_count": 1, "timeout_socket_count": 1, "request_error_count": 1},
        ),
        (Script(RST), URL, {"close_socket_count": 1, "error_socket_count": 1, "request_error_count": 1}),
        (
            Script(TIMEOUT),
            URL,
            {"close_socket_count": 1, "error_socket_count": 1, "timeout_socket_count": 1, "request_error_count": 1},
        ),
        (
            Script(b"nonsense\r\n\r\n"),
            URL,
            {"close_socket_count": 1, "error_socket_count": 1, "request_error_count": 1},
        ),
        (Script(respond(headers=[("Connection", "close")])), URL, {"close_socket_count": 1, "request_count": 1}),
        (Script([respond(b"end", length=False), FIN]), URL, {"close_socket_count": 1, "request_count": 1}),
        (Script(respond(b"", 500)), URL, {"free_sockets": {A: 1}, "request_count": 1}),
    ],
    ids=["refused", "TLS", "connect timeout", "reset", "read timeout", "nonsense", "close", "until the end", "500"],
)
async def test_how_an_end_is_counted(world: World, script: Script, url: str, expected: dict[str, Any]) -> None:
    network = Network(script)
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        try:
            await client.get(url)
        except httpx.TransportError:
            assert expected["request_error_count"] == 1
    assert agent.status() == status_of(create_socket_count=1, **expected)
    assert balance(agent.status()) == 0
    await world.close(agent)


@pytest.mark.in_loops
async def test_a_cancelled_request_is_an_error_and_its_socket_none(world: World) -> None:
    """Of the closed, none that an error closed."""
    network = Network(Script(HANG), Script(connect=HANG))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client, world.tasks() as tasks:
        reading = tasks.start(client.get, URL)
        await world.until(lambda: network.request_count == 1)
        connecting = tasks.start(client.get, URL)
        await world.until(lambda: network.open == 2)
        for job in (reading, connecting):
            job.cancel()
            await job.wait()
    assert agent.status() == status_of(
        create_socket_count=2, create_socket_error_count=1, close_socket_count=1, request_error_count=2
    )
    await world.close(agent)


@pytest.mark.rule("R40")
async def test_waiting_requests_are_counted_by_origin(world: World) -> None:
    network = Network(default=Script(then=LARGE))
    agent = Agent(max_total_sockets=1, **network.options)
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client, world.tasks() as tasks:
        async with client.stream("GET", URL):
            for url, count in ((URL, 2), ("https://b.test:8443", 1)):
                for _ in range(count):
                    tasks.start(client.get, url)
            await world.until(lambda: sum(agent.status().requests.values()) == 3)
            assert agent.status() == status_of(
                create_socket_count=1, sockets={A: 1}, requests={A: 2, "https://b.test:8443": 1}
            )
            assert repr(agent) == "<Agent sockets: 1 active; requests waiting: 3>"
    assert agent.status().requests == {}
    await world.close(agent)


async def test_a_detached_socket_is_no_longer_counted(world: World) -> None:
    network = Network(Script(UPGRADE))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with client.stream("GET", URL, headers={"Connection": "Upgrade", "Upgrade": "x"}) as response:
            assert agent.status() == status_of(create_socket_count=1, detached_socket_count=1)
            info = response.extensions["agent"]
            assert (info.socket_id, info.reused, info.requests_on_socket) == (0, False, 1)
        assert agent.status() == status_of(create_socket_count=1, detached_socket_count=1, request_count=1)
    await world.close(agent)


@pytest.mark.rule("R38", "A7")
async def test_created_is_failed_closed_detached_and_held_at_every_moment(world: World) -> None:
    """Looked at with every operation on the network, while the limits press from all sides."""
    scripts = [
        Script(connect=REFUSED),
        Script(UPGRADE),
        Script(RST),
        Script(respond(headers=[("Connection", "close")])),
    ]
    network = Network(*scripts, default=Script(then=respond()))
    agent = Agent(max_total_sockets=2, max_sockets=1, max_free_sockets=1, **network.options)
    seen: list[int] = []
    changed = network.changed

    def look() -> None:
        seen.append(balance(agent.status()))
        changed()

    network.changed = look  # type: ignore[method-assign]
    async with world.client(transport=AgentTransport(agent=agent)) as client:

        async def ask(number: int) -> None:
            with suppress(httpx.TransportError):
                await client.get(f"http://{'abc'[number % 3]}.test/", headers={"Upgrade": "x"})

        async with world.tasks() as tasks:
            for number in range(12):
                tasks.start(ask, number)
    await world.close(agent)
    assert len(seen) > 50
    assert set(seen) == {0}
    status = agent.status()
    assert status.request_count + status.request_error_count == 12
    assert (status.create_socket_error_count, status.detached_socket_count, status.error_socket_count) == (1, 1, 1)


async def test_a_websocket_s_origin(world: World) -> None:
    """Through the transport itself: a client knows no such scheme."""
    network = Network()
    agent = Agent(**network.options)
    for url in ("ws://a.test", "wss://a.test"):
        response = await world.handle(AgentTransport(agent=agent), httpx.Request("GET", url))
        await response.aread()
    assert agent.status().free_sockets == {"ws://a.test:80": 1, "wss://a.test:443": 1}
    await world.close(agent)


async def test_a_status_is_a_snapshot(world: World) -> None:
    network = Network()
    agent = Agent(**network.options)
    before = agent.status()
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
    assert before == status_of()
    assert agent.status() != before
    await world.close(agent)


# status_changed -------------------------------------------------------------------------------------------------------
@pytest.mark.rule("R39")
async def test_whether_a_counter_moved_since_the_last_look(world: World) -> None:
    """R39: a look that returned true is where the next one begins."""
    network = Network(Script(LARGE, connect=(gate := Gate())))
    agent = Agent(**network.options)
    assert agent.status_changed is False
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with world.tasks() as tasks:
            job = tasks.start(client.send, client.build_request("GET", URL), stream=True)
            await world.until(lambda: network.open == 1)
            assert agent.status_changed is True  # a socket was created
            assert agent.status_changed is False
            gate.open()
        assert agent.status_changed is False  # it is open now: no counter tells
        agent.status()
        await job.result().aread()
        agent.status()  # looking at the numbers is no look at the change
        assert agent.status_changed is True
        assert agent.status_changed is False
        assert network.connections[0].is_open
    await world.close(agent)
    assert agent.status_changed is True
    with pytest.raises(AttributeError):
        agent.status_changed = False  # type: ignore[misc]


# RequestInfo ----------------------------------------------------------------------------------------------------------
@pytest.mark.rule("R3", "R10", "R37", "N27")
async def test_how_a_response_was_got(world: World) -> None:
    """New; from the free ones; handed over after a wait."""
    gate = Gate()
    network = Network(Script(respond(), [gate, respond()]))
    clock = VirtualClock()
    agent = clock.agent(max_sockets=1, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        first = (await client.get(URL)).extensions["agent"]
        assert first == RequestInfo(
            socket_id=0, reused=False, requests_on_socket=1, queued_for=0.0, idle_for=None, retried=False
        )
        clock.time += 2
        async with world.tasks() as tasks:
            second = tasks.start(client.get, URL)
            await world.until(lambda: network.request_count == 2)
            third = tasks.start(client.get, URL)
            await world.until(lambda: agent.status().requests == {A: 1})
            clock.time += 3
            gate.open()
        assert second.result().extensions["agent"] == RequestInfo(
            socket_id=0, reused=True, requests_on_socket=2, queued_for=0.0, idle_for=2.0, retried=False
        )
        assert third.result().extensions["agent"] == RequestInfo(
            socket_id=0, reused=True, requests_on_socket=3, queued_for=3.0, idle_for=None, retried=False
        )
    await world.close(agent)


async def test_a_request_that_was_sent_again(world: World) -> None:
    network = Network(Script(respond(), FIN))
    clock = VirtualClock()
    agent = clock.agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        clock.time += 2
        assert (await client.get(URL)).extensions["agent"] == RequestInfo(
            socket_id=1, reused=False, requests_on_socket=1, queued_for=0.0, idle_for=None, retried=True
        )
        status = agent.status()
        assert (status.request_count, status.request_error_count) == (2, 0)
        assert (status.create_socket_count, status.close_socket_count) == (2, 1)
    await world.close(agent)


# How things print, and what they keep to themselves -------------------------------------------------------------------
def test_how_an_agent_and_its_transport_print() -> None:
    transport = AgentTransport()
    assert repr(transport.agent) == "<Agent sockets: none; requests waiting: 0>"
    assert repr(transport) == "<AgentTransport <Agent sockets: none; requests waiting: 0>>"


def test_a_subclass_prints_its_own_name() -> None:
    class MyTransport(AgentTransport):
        pass

    assert repr(MyTransport()) == "<MyTransport <Agent sockets: none; requests waiting: 0>>"


SCRIPTS = {
    "connect refused": Script(connect=REFUSED),
    "connect timeout": Script(connect=TIMEOUT),
    "proxy refuses": Script(respond(b"", 403, reason="Forbidden")),
    "reset": Script(b"HTTP/1.1 200 OK\r\n\r\n", RST),
    "timeout": Script(b"HTTP/1.1 200 OK\r\n\r\n", TIMEOUT),
    "nonsense": Script(b"HTTP/1.1 200 OK\r\n\r\n", b"nonsense\r\n\r\n"),
    "stale": Script(b"HTTP/1.1 200 OK\r\n\r\n", respond(), RST),
    "fine": Script(b"HTTP/1.1 200 OK\r\n\r\n"),
}


@pytest.mark.rule("R27", "R40", "N24")
@pytest.mark.parametrize("name", SCRIPTS)
async def test_no_secret_is_told(world: World, name: str) -> None:
    """Not the proxy's password or headers, not the request's headers, not its query, its user or its body."""
    network = Network(SCRIPTS[name])
    proxy = httpx.Proxy("http://proxyuser:s3cret@proxy.test", headers={"X-Token": "s3cret"})
    transport = AgentTransport(proxy=proxy, max_sockets=1, cert=None, **network.options)
    agent = transport.agent
    told: list[str] = []

    def look() -> None:
        told.extend(map(str, (agent, transport, transport._pool, agent.status(), agent.options)))
        told.extend(map(repr, (agent.status(), agent.sockets(), agent.options)))

    url = "https://user:s3cret@a.test/?token=s3cret"
    failures: list[BaseException] = []
    async with world.client(transport=transport, timeout=httpx.Timeout(5, pool=0.01)) as client:
        look()
        for _ in range(2):
            try:
                async with client.stream("POST", url, headers={"X-Token": "s3cret"}, content=b"s3cret") as response:
                    look()
                    with pytest.raises(httpx.PoolTimeout) as caught:
                        await client.get(url)
                    failures.append(caught.value)
                    told.append(repr(response.extensions["agent"]))
                    await response.aread()
            except httpx.TransportError as error:
                failures.append(error)
        look()
    assert failures
    told += [str(error) for error in failures]
    assert [text for text in told if "s3cret" in text] == []
    assert network.connections[0].heads == [] or b"Basic" in network.connections[0].heads[0]
