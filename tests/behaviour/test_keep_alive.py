"""Which sockets stay open after a response, for how long, and the system options for that."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import FIN, Gate, Network, Script, VirtualClock, respond
from tests.support.servers import Certificates, Server
from tests.support.worlds import World

URL = "http://a.test/"

KEPT = b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=60\r\nContent-Length: 2\r\n\r\nok"


def connection_headers(network: Network) -> list[list[bytes]]:
    """The `Connection` headers of every request, by connection."""
    return [
        [line for head in connection.heads for line in head.split(b"\r\n") if line.lower().startswith(b"connection:")]
        for connection in network.connections
    ]


# keep_alive (R13) -----------------------------------------------------------------------------------------------------
@pytest.mark.rule("R30")
async def test_kept_alive_by_default(world: World) -> None:
    network = Network()
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        for _ in range(2):
            await client.get(URL)
    assert connection_headers(network) == [[b"Connection: keep-alive"] * 2]
    assert agent.status().free_sockets == {"http://a.test:80": 1}
    await world.close(agent)


@pytest.mark.rule("R13")
@pytest.mark.parametrize("options", [{}, {"max_total_sockets": 1}, {"max_free_sockets": 5}], ids=str)
async def test_off_and_without_a_limit_every_request_says_close(world: World, options: dict[str, Any]) -> None:
    """R13: its socket is closed after the response, though the server would keep it; nobody gets it handed over."""
    gate = Gate()
    network = Network(default=Script([gate, respond(headers=[("Keep-Alive", "timeout=60")])]))
    agent = Agent(keep_alive=False, **options, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with world.tasks() as tasks:
            jobs = [tasks.start(client.get, URL) for _ in range(3)]
            await world.until(lambda: network.request_count == options.get("max_total_sockets", 3))
            gate.open()
        assert [job.result().extensions["agent"].reused for job in jobs] == [False] * 3
        assert network.open == 0
    assert connection_headers(network) == [[b"Connection: close"]] * 3
    status = agent.status()
    assert (status.close_socket_count, status.error_socket_count, status.timeout_socket_count) == (3, 0, 0)
    await world.close(agent)


@pytest.mark.rule("R13")
async def test_off_but_with_a_limit_a_socket_is_handed_over_while_somebody_waits(world: World) -> None:
    """R13: the requests say `keep-alive`; the socket is closed when none waits."""
    gate = Gate()
    network = Network(default=Script([gate, respond()]))
    agent = Agent(keep_alive=False, max_sockets=1, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with world.tasks() as tasks:
            jobs = [tasks.start(client.get, URL) for _ in range(3)]
            await world.until(lambda: agent.status().requests == {"http://a.test:80": 2})
            gate.open()
        infos = [job.result().extensions["agent"] for job in jobs]
        assert sorted((info.socket_id, info.requests_on_socket, info.reused) for info in infos) == [
            (0, 1, False),
            (0, 2, True),
            (0, 3, True),
        ]
        assert {info.idle_for for info in infos} == {None}
        assert network.open == 0
        await client.get(URL)
        assert network.open == 0
    assert connection_headers(network) == [[b"Connection: keep-alive"] * 3, [b"Connection: keep-alive"]]
    await world.close(agent)


async def test_the_limit_that_counts_is_that_of_the_origin(world: World) -> None:
    network = Network()
    agent = Agent(keep_alive=False, per_origin={"http://a.test": {"max_sockets": 1}}, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        await client.get("http://b.test/")
    assert connection_headers(network) == [[b"Connection: keep-alive"], [b"Connection: close"]]
    await world.close(agent)


@pytest.mark.rule("R13")
@pytest.mark.parametrize("keep_alive", [True, False])
@pytest.mark.parametrize("value", ["close", "Close", "TE", "Upgrade, keep-alive", "x-mine"])
async def test_a_header_of_the_user_s_own_stays(world: World, keep_alive: bool, value: str) -> None:
    network = Network()
    agent = Agent(keep_alive=keep_alive, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL, headers={"Connection": value, "X-First": "1"})
    assert connection_headers(network) == [[b"Connection: " + value.encode()]]
    assert b"\r\nX-First: 1\r\n" in network.connections[0].heads[0]
    await world.close(agent)


# Connection: close, HTTP/1.0 (R11, N9) --------------------------------------------------------------------------------
@pytest.mark.rule("R11")
@pytest.mark.parametrize("value", ["close", "Close", "te, close"])
async def test_a_server_that_says_close_is_believed(world: World, value: str) -> None:
    network = Network(default=Script(then=respond(headers=[("Connection", value), ("Keep-Alive", "timeout=60")])))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        for _ in range(2):
            assert not (await client.get(URL)).extensions["agent"].reused
            assert network.open == 0
    assert (agent.status().close_socket_count, agent.status().error_socket_count) == (2, 0)
    await world.close(agent)


async def test_a_request_that_says_close_is_meant_though_the_server_does_not_echo_it(world: World) -> None:
    """N9: Node keeps that socket."""
    network = Network()
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL, headers={"Connection": "close"})
        assert network.open == 0
        assert not (await client.get(URL)).extensions["agent"].reused
        assert agent.status().free_sockets == {"http://a.test:80": 1}
    await world.close(agent)


@pytest.mark.rule("R8")
async def test_close_is_meant_while_others_wait_too(world: World) -> None:
    gate = Gate()
    network = Network(Script([gate, respond(headers=[("Connection", "close")])]))
    agent = Agent(max_sockets=1, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client, world.tasks() as tasks:
        first = tasks.start(client.get, URL)
        await world.until(lambda: network.request_count == 1)
        second = tasks.start(client.get, URL)
        await world.until(lambda: agent.status().requests == {"http://a.test:80": 1})
        gate.open()
        await first.wait()
        await second.wait()
        assert second.result().extensions["agent"].socket_id == 1
        assert network.peak == 1
    await world.close(agent)


def http10(*headers: str) -> bytes:
    return "\r\n".join(["HTTP/1.0 200 OK", "Content-Length: 2", *headers, "", "ok"]).encode()


@pytest.mark.rule("R11")
async def test_an_old_server_closes(world: World) -> None:
    network = Network(default=Script(then=[http10(), FIN]))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        for _ in range(2):
            response = await client.get(URL)
            assert (response.http_version, response.text) == ("HTTP/1.0", "ok")
            assert network.open == 0
    status = agent.status()
    assert (status.request_count, status.close_socket_count, status.error_socket_count) == (2, 2, 0)
    await world.close(agent)


@pytest.mark.rule("R11")
async def test_an_old_server_is_believed_when_it_says_keep_alive(world: World) -> None:
    """R11: as in Node; h11, which httpcore uses, keeps no connection of HTTP/1.0 by itself."""
    network = Network(default=Script(then=http10("Connection: keep-alive")))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        (held,) = agent.sockets()
        assert held.state == "free"
    await world.close(agent)


# The hint (R15) -------------------------------------------------------------------------------------------------------
@pytest.mark.rule("R15")
@pytest.mark.parametrize(
    ("values", "expires_in"),
    [
        (["timeout=5"], 4.0),
        (["timeout=5, max=100"], 4.0),
        (["timeout=5;max=100"], 4.0),
        (["timeout=5", "max=100"], 4.0),
        ([" timeout=5"], 4.0),
        (["timeout=05"], 4.0),
        (["timeout=7.9"], 6.0),
        (["timeout=2"], 1.0),
        (["timeout=16"], 15.0),
        (["timeout=100"], 15.0),
        (["timeout=" + "9" * 400], 15.0),
        (["max=100, timeout=5"], 15.0),
        (["max=100", "timeout=5"], 15.0),
        (["Timeout=5"], 15.0),
        (["timeout = 5"], 15.0),
        (['timeout="5"'], 15.0),
        (["timeout=-5"], 15.0),
        (["timeout="], 15.0),
        (["timeout=", "5"], 15.0),
        (["timeout=5", "0"], 4.0),
        (["max=0"], 15.0),
        ([], 15.0),
        (["timeout=1"], None),
        (["timeout=0"], None),
        (["timeout=0.9"], None),
    ],
    ids=lambda case: str(case)[:30],
)
async def test_how_the_hint_is_read(world: World, values: list[str], expires_in: float | None) -> None:
    """It must begin with `timeout=` and digits; less than the buffer means that the socket is not kept."""
    network = Network(default=Script(then=respond(headers=[("KEEP-alive", value) for value in values])))
    agent = VirtualClock().agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        assert [info.expires_in for info in agent.sockets()] == ([] if expires_in is None else [expires_in])
        assert network.open == (expires_in is not None)
    assert agent.status().timeout_socket_count == 0
    await world.close(agent)


@pytest.mark.rule("R15", "R32", "N4", "A3", "A6")
@pytest.mark.parametrize(
    ("options", "hint", "expires_in"),
    [
        ({"keep_alive_timeout_buffer": 0}, 1, 1.0),
        ({"keep_alive_timeout_buffer": 0}, 0, None),
        ({"keep_alive_timeout_buffer": timedelta(seconds=2.5)}, 5, 2.5),
        ({"keep_alive_timeout_buffer": 5}, 5, None),
        ({"keep_alive_timeout_buffer": 5}, 4, None),
        ({"free_socket_timeout": None}, 60, 59.0),  # repair N4: Node ignores it then
        ({"free_socket_timeout": 0}, 60, None),
        ({"socket_active_ttl": 3}, 60, 3.0),
        ({"max_free_sockets": 0}, 60, None),
        ({"max_total_free_sockets": 0}, 60, None),
    ],
    ids=str,
)
async def test_the_smallest_limit_holds(
    world: World, options: dict[str, Any], hint: int, expires_in: float | None
) -> None:
    network = Network(default=Script(then=respond(headers=[("Keep-Alive", f"timeout={hint}")])))
    agent = VirtualClock().agent(**options, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        assert [info.expires_in for info in agent.sockets()] == ([] if expires_in is None else [expires_in])
    await world.close(agent)


async def test_nothing_limits_a_free_socket_without_limits(world: World) -> None:
    network = Network()
    agent = VirtualClock().agent(free_socket_timeout=None, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        assert [(info.state, info.expires_in) for info in agent.sockets()] == [("free", None)]
    await world.close(agent)


@pytest.mark.rule("R15")
async def test_the_hint_of_the_last_response_counts(world: World) -> None:
    network = Network(Script(respond(headers=[("Keep-Alive", "timeout=5")]), respond()))
    clock = VirtualClock()
    agent = clock.agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        clock.time += 3
        assert [(info.idle_for, info.expires_in) for info in agent.sockets()] == [(3.0, 1.0)]
        assert (await client.get(URL)).extensions["agent"].idle_for == 3.0
        assert [(info.idle_for, info.expires_in) for info in agent.sockets()] == [(0.0, 15.0)]
    await world.close(agent)


@pytest.mark.rule("R15")
async def test_a_free_socket_past_the_hint_is_not_used(world: World) -> None:
    """Even before its timer has rung."""
    network = Network(default=Script(then=respond(headers=[("Keep-Alive", "timeout=5")])))
    clock = VirtualClock()
    agent = clock.agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        clock.time += 4
        assert not (await client.get(URL)).extensions["agent"].reused
        assert network.connections[0].state == "closed"
        assert agent.status().timeout_socket_count == 1
    await world.close(agent)


@pytest.mark.rule("R7")
async def test_the_hint_is_not_looked_at_when_somebody_waits(world: World) -> None:
    """R15, C36: the next request goes out at once."""
    gate = Gate()
    hinted = respond(headers=[("Keep-Alive", "timeout=1")])
    network = Network(Script([gate, hinted], hinted))
    agent = Agent(max_sockets=1, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with world.tasks() as tasks:
            for _ in range(2):
                tasks.start(client.get, URL)
            await world.until(lambda: agent.status().requests == {"http://a.test:80": 1})
            gate.open()
        assert len(network.connections) == 1
        assert network.open == 0
    await world.close(agent)


@pytest.fixture(params=["http", "https"])
def willing(request: pytest.FixtureRequest) -> Server:
    """A server that never closes, whatever the request says."""
    found: Server = request.getfixturevalue("server" if request.param == "http" else "tls_server")
    found.raw["/kept"] = KEPT
    return found


@pytest.mark.rule("R13")
async def test_without_a_limit_each_request_says_close_and_has_a_socket_of_its_own(
    world: World, willing: Server, certificates: Certificates, engine: str
) -> None:
    agent = Agent(keep_alive=False, verify=certificates.client(), http1_engine=engine)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        for _ in range(3):
            assert (await client.get(f"{willing.url}/kept")).text == "ok"
            assert agent.sockets() == ()
            await world.until(lambda: willing.open == 0)
    assert willing.requests_per_connection == [1, 1, 1]
    assert [request.get_all("connection") for request in willing.requests] == [["close"]] * 3
    assert agent.status().close_socket_count == 3


@pytest.mark.rule("R13")
async def test_with_a_limit_a_socket_serves_all_who_wait_and_is_closed_after_the_last(
    world: World, willing: Server, certificates: Certificates, engine: str
) -> None:
    agent = Agent(keep_alive=False, max_sockets=1, verify=certificates.client(), http1_engine=engine)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with world.tasks() as tasks:
            tasks.start(client.get, f"{willing.url}/hold/all")
            await world.until(lambda: willing.gate("all").waiting == 1)
            for _ in range(3):
                tasks.start(client.get, f"{willing.url}/kept")
            await world.until(lambda: agent.status().requests == {willing.url: 3})
            willing.gate("all").open()
        assert agent.sockets() == ()
        await world.until(lambda: willing.open == 0)
        await client.get(f"{willing.url}/kept")
        assert agent.sockets() == ()
        await world.until(lambda: willing.open == 0)
    assert willing.requests_per_connection == [4, 1]
    assert [request.get_all("connection") for request in willing.requests] == [["keep-alive"]] * 5
