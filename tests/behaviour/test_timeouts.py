"""The option `timeout` and the request's own, the counters, and the message of a timeout."""

from __future__ import annotations

import math
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import anyio
import httpcore
import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent._network import opening as _opening
from httpx_agent.testing import (
    HANG,
    REFUSED,
    TIMEOUT,
    Gate,
    Network,
    Script,
    VirtualClock,
    chunked,
    respond,
)
from tests.bugs.stock import Stack
from tests.support.servers import Server
from tests.support.worlds import World

URL = "http://a.test/"

NONE = {"connect": None, "read": None, "write": None, "pool": None}

NUMBERS = {"connect": 1, "read": 2, "write": 3, "pool": 4}

#: The agent's options, the request's extension, and the timeouts of connect, read and write that the network meets.
TABLE: list[tuple[dict[str, Any], dict[str, Any] | None, tuple[float | None, float | None, float | None]]] = [
    ({}, None, (30.0, 30.0, 30.0)),
    ({}, {}, (30.0, 30.0, 30.0)),
    ({}, {"pool": 4}, (30.0, 30.0, 30.0)),
    ({}, {"connect": 1}, (1, 30.0, 30.0)),
    ({}, {"read": None}, (30.0, None, 30.0)),
    ({}, {"read": None, "write": 99}, (30.0, None, 99)),
    ({}, NONE, (None, None, None)),
    ({}, NUMBERS, (1, 2, 3)),
    ({"timeout": 7}, None, (7.0, 7.0, 7.0)),
    ({"timeout": 7}, NONE, (7.0, 7.0, 7.0)),
    ({"timeout": 7}, NUMBERS, (1, 2, 3)),
    ({"timeout": 7}, {"connect": 99, "read": None}, (99, 7.0, 7.0)),
    ({"timeout": 30.0}, NONE, (30.0, 30.0, 30.0)),
    ({"timeout": None}, None, (None, None, None)),
    ({"timeout": None}, NONE, (None, None, None)),
    ({"timeout": None}, NUMBERS, (1, 2, 3)),
    ({"timeout": math.inf}, {}, (None, None, None)),
]

A, B, C = "http://a.test/", "http://b.test/", "http://c.test/"

AT_ONCE = httpx.Timeout(5.0, pool=0.2)
"""More than a request needs that finds a slot; one that has to wait for a lost one gives up."""

UNFINISHED = chunked(b"first", HANG, end=False)

LONG = httpx.Timeout(5.0, pool=50.0)

SECURE = "https://a.test/"

CONTEXT = ssl.create_default_context()

HINT = [("Keep-Alive", "timeout=4")]


@pytest.mark.rule("R17")
@pytest.mark.parametrize(("options", "extension", "expected"), TABLE)
async def test_which_timeout_counts(
    world: World, options: dict[str, Any], extension: dict[str, Any] | None, expected: tuple[float | None, ...]
) -> None:
    """A number in the request wins. The default acts where the request says nothing; a given one also at `None`."""
    network = Network()
    agent = Agent(**options, **network.options)
    extensions = {} if extension is None else {"timeout": extension}
    before = dict(extension or {})
    request = httpx.Request("POST", "https://a.test/", content=b"body", extensions=extensions)
    response = await world.handle(AgentTransport(agent=agent), request)
    await response.aread()
    seen = {name: {op.details["timeout"] for op in network.ops if op.name == name} for name in ("connect", "read")}
    writes = [op.details["timeout"] for op in network.ops if op.name == "write"]
    connect, read, write = expected
    assert seen == {"connect": {connect}, "read": {read}}
    assert writes == [write] * 2
    (handshake,) = [op.details["timeout"] for op in network.ops if op.name == "start_tls"]
    assert handshake == (None if connect is None else pytest.approx(connect, abs=0.9))  # what is left of it
    assert (extension or {}) == before  # the caller's own is not written to
    await world.close(agent)


@pytest.mark.parametrize("taken", [3.0, 5.0])
async def test_the_connect_timeout_is_one_deadline(world: World, taken: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """B25: what TCP took is not there for TLS; a new attempt begins with all of it."""
    now = 100.0
    monkeypatch.setattr(_opening, "time", SimpleNamespace(monotonic=lambda: now))

    def pass_time(name: str, info: dict[str, Any]) -> None:
        nonlocal now
        if name == "connection.connect_tcp.complete":
            now += taken

    network = Network(default=Script(tls=REFUSED if taken == 3.0 else HANG))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # that of the default would have to be loaded in no time
    transport = AgentTransport(retries=1, verify=context, **network.options)
    async with world.client(transport=transport, timeout=5) as client:
        with pytest.raises(httpx.ConnectTimeout if taken == 5.0 else httpx.ConnectError):
            await client.get("https://a.test/", extensions={"trace": world.callback(pass_time)})
    assert [op.details["timeout"] for op in network.ops if op.name == "connect"] == [5.0, 5.0]
    left = [op.details["timeout"] for op in network.ops if op.name == "start_tls"]
    assert left == ([2.0, 2.0] if taken == 3.0 else [1e-6, 1e-6])
    assert network.open == 0


async def test_a_client_says_all_four_values(world: World) -> None:
    """Hence its five seconds win over the agent's default, and its `timeout=None` is not cut by it."""
    network = Network()
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get("http://a.test/")
        await client.get("http://b.test/", timeout=None)
    assert [op.details["timeout"] for op in network.ops if op.name == "connect"] == [5.0, None]
    await world.close(agent)


@pytest.mark.rule("R17")
async def test_the_agent_s_timeout_does_not_limit_the_wait_for_a_socket(world: World) -> None:
    gate = Gate()
    network = Network(Script([gate, respond()]))
    agent = Agent(timeout=9, max_sockets=1, **network.options)
    transport = AgentTransport(agent=agent)
    async with world.client(transport=transport, timeout=None) as client, world.tasks() as tasks:
        for _ in range(2):
            tasks.start(client.get, URL)
        await world.until(lambda: agent.status().requests == {"http://a.test:80": 1})
        await world.until(lambda: network.request_count == 1)
        timeouts = [exchange.request.extensions["timeout"] for exchange in transport._pool._requests]  # type: ignore[attr-defined]
        assert timeouts == [{"connect": 9.0, "read": 9.0, "write": 9.0, "pool": None}] * 2
        gate.open()
    await world.close(agent)


# Messages and counters ------------------------------------------------------------------------------------------------
OWN = "set by the request or by the agent's `timeout`"


@pytest.mark.rule("R17")
@pytest.mark.parametrize(
    ("url", "script", "kind", "what", "where"),
    [
        (
            URL,
            Script(connect=TIMEOUT),
            httpx.ConnectTimeout,
            "no connection within 1 s (connect",
            " (connect to a.test:80)",
        ),
        (
            "https://a.test/",
            Script(tls=TIMEOUT),
            httpx.ConnectTimeout,
            "no connection within 1 s (connect",
            " (TLS with a.test)",
        ),
        (URL, Script(TIMEOUT), httpx.ReadTimeout, "no data received for 2.5 s (read", ""),
        (URL, Script(writes={0: TIMEOUT}), httpx.WriteTimeout, "no data could be sent for 3 s (write", ""),
        (URL, Script(chunked(b"a", TIMEOUT, end=False)), httpx.ReadTimeout, "no data received for 2.5 s (read", ""),
    ],
    ids=["connect", "TLS", "read", "write", "body"],
)
async def test_a_timeout_says_what_where_how_long_and_which(
    world: World, url: str, script: Script, kind: type[Exception], what: str, where: str
) -> None:
    network = Network(script)
    agent = Agent(**network.options)
    timeout = httpx.Timeout(connect=1, read=2.5, write=3, pool=4)
    async with world.client(transport=AgentTransport(agent=agent), timeout=timeout) as client:
        with pytest.raises(kind) as caught:
            await client.get(url, params={"token": "secret"}, headers={"Authorization": "secret"})
    assert type(caught.value) is kind
    origin = "https://a.test:443" if url.startswith("https") else "http://a.test:80"
    assert str(caught.value) == f"GET {origin}: {what} timeout, {OWN}){where}"
    opened = not where
    status = agent.status()
    assert status.timeout_socket_count == 1
    assert (status.create_socket_error_count, status.close_socket_count) == ((0, 1) if opened else (1, 0))
    assert status.error_socket_count == opened
    assert (status.request_count, status.request_error_count) == (0, 1)
    assert (status.sockets, status.free_sockets) == ({}, {})
    assert network.open == 0
    await world.close(agent)


@pytest.mark.rule("R33")
async def test_the_agent_s_own_timeout_is_told_in_the_same_way(world: World) -> None:
    network = Network(Script(HANG))
    agent = Agent(timeout=0.02, **network.options)
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client:
        with pytest.raises(httpx.ReadTimeout) as caught:
            await client.get(URL)
    assert str(caught.value) == f"GET http://a.test:80: no data received for 0.02 s (read timeout, {OWN})"
    await world.close(agent)


async def test_a_timeout_that_nobody_set_is_the_system_s(world: World) -> None:
    network = Network(Script(TIMEOUT))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client:
        with pytest.raises(httpx.ReadTimeout) as caught:
            await client.get(URL)
    assert str(caught.value) == f"GET http://a.test:80: no data received for the time allowed (read timeout, {OWN})"
    await world.close(agent)


@pytest.mark.rule("R31")
@pytest.mark.parametrize("options", [{"free_socket_timeout": 0.02}, {"socket_active_ttl": 0.02}], ids=str)
async def test_a_free_socket_that_expires_counts_as_a_limit_that_fired(world: World, options: dict[str, Any]) -> None:
    """It is no error; the timer closes it, with no request needed."""
    network = Network()
    agent = Agent(**options, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        await world.until(lambda: agent.status().close_socket_count == 1)
        status = agent.status()
        assert (status.timeout_socket_count, status.error_socket_count) == (1, 0)
        assert (status.request_count, status.request_error_count) == (1, 0)
        assert network.open == 0
    await world.close(agent)


async def test_a_socket_that_is_never_kept_fires_no_limit(world: World) -> None:
    network = Network()
    agent = Agent(free_socket_timeout=0, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        assert network.open == 0
        assert agent.status().timeout_socket_count == 0
    await world.close(agent)


# Waiting for a socket -------------------------------------------------------------------------------------------------
ADVICE = "Raise the limit or the pool timeout, and read or close every response."


@pytest.mark.rule("N20")
async def test_a_pool_timeout_says_who_waited_for_what_how_long_and_which_limit(world: World) -> None:
    network = Network(default=Script(then=[respond(b"x" * 70_000)]))
    agent = Agent(max_sockets=2, **network.options)
    timeout = httpx.Timeout(9, pool=0.01)
    async with world.client(transport=AgentTransport(agent=agent), timeout=timeout) as client:
        async with client.stream("GET", URL), client.stream("GET", URL), client.stream("GET", "http://b.test/"):
            async with world.tasks() as tasks:
                ahead = tasks.start(client.get, URL, timeout=None)
                await world.until(lambda: agent.status().requests == {"http://a.test:80": 1})
                with pytest.raises(httpx.PoolTimeout) as caught:
                    await client.put(URL, params={"token": "secret"})
                assert agent.status().requests == {"http://a.test:80": 1}
                agent.max_sockets = 3
                await ahead.wait()
    assert str(caught.value) == (
        "PUT http://a.test:80: no socket available within 0.01 s (pool timeout): max_sockets=2 reached; "
        "sockets of this origin: 2 active; of all origins: 3; "
        f"requests waiting for this origin, including this one: 2. {ADVICE}"
    )
    status = agent.status()
    assert (status.timeout_socket_count, status.request_error_count) == (0, 4)  # three were closed before their end
    await world.close(agent)


async def test_a_pool_timeout_for_the_limit_of_all(world: World) -> None:
    network = Network()
    agent = Agent(max_total_sockets=2, **network.options)
    async with world.client(transport=AgentTransport(agent=agent), timeout=httpx.Timeout(9, pool=0.01)) as client:
        async with client.stream("GET", URL), client.stream("GET", "http://b.test/"):
            with pytest.raises(httpx.PoolTimeout) as caught:
                await client.get("https://c.test:8443/")
    assert str(caught.value) == (
        "GET https://c.test:8443: no socket available within 0.01 s (pool timeout): max_total_sockets=2 reached; "
        "sockets of this origin: none; of all origins: 2; "
        f"requests waiting for this origin, including this one: 1. {ADVICE}"
    )
    await world.close(agent)


async def test_a_pool_timeout_names_the_limit_of_the_origin(world: World) -> None:
    gate = Gate()
    network = Network(Script(connect=gate))
    agent = Agent(max_sockets=9, per_origin={"http://a.test": {"max_sockets": 1}}, **network.options)
    async with world.client(transport=AgentTransport(agent=agent), timeout=httpx.Timeout(9, pool=0.01)) as client:
        async with world.tasks() as tasks:
            tasks.start(client.get, URL)
            await world.until(lambda: network.open == 1)
            with pytest.raises(httpx.PoolTimeout) as caught:
                await client.get(URL)
            gate.open()
    assert str(caught.value) == (
        "GET http://a.test:80: no socket available within 0.01 s (pool timeout): max_sockets=1 reached; "
        "sockets of this origin: 1 connecting; of all origins: 1; "
        f"requests waiting for this origin, including this one: 1. {ADVICE}"
    )
    await world.close(agent)


@pytest.mark.in_loops
async def test_a_pool_timeout_while_the_protocol_is_not_known(world: World) -> None:
    """In an event loop followers wait for the first socket's ALPN, with their own pool timeout running."""
    gate = Gate()
    network = Network(Script(tls=gate, alpn="http/1.1"))
    agent = Agent(http2=True, **network.options)
    async with world.client(transport=AgentTransport(agent=agent), timeout=httpx.Timeout(9, pool=0.01)) as client:
        async with world.tasks() as tasks:
            tasks.start(client.get, "https://a.test/")
            await world.until(lambda: network.open == 1)
            with pytest.raises(httpx.PoolTimeout) as caught:
                await client.get("https://a.test/")
            gate.open()
    assert str(caught.value) == (
        "GET https://a.test:443: no socket available within 0.01 s (pool timeout): waiting to learn whether the first "
        "socket speaks HTTP/2; sockets of this origin: 1 connecting; of all origins: 1; "
        f"requests waiting for this origin, including this one: 1. {ADVICE}"
    )
    await world.close(agent)


@pytest.mark.rule("R5")
async def test_a_wait_has_one_absolute_deadline(world: World) -> None:
    """Being woken does not begin it anew: it runs from the arrival of the request."""
    gate = Gate()
    network = Network(Script([gate, respond()]))
    clock = VirtualClock()
    agent = clock.agent(max_sockets=1, **network.options)
    transport = AgentTransport(agent=agent)
    async with world.client(transport=transport, timeout=None) as client, world.tasks() as tasks:
        tasks.start(client.get, URL)
        await world.until(lambda: network.request_count == 1)
        holding: Any = transport._pool._requests
        waiting = tasks.start(client.get, URL, timeout=httpx.Timeout(None, pool=500))
        await world.until(lambda: agent.status().requests == {"http://a.test:80": 1})
        (exchange,) = transport._pool._requests - holding  # type: ignore[operator]
        clock.time += 499
        assert not waiting.done
        clock.time += 1
        exchange.home.wake(exchange.event, None)
        await waiting.wait()
        assert type(waiting.exception) is httpx.PoolTimeout
        assert "no socket available within 500 s (pool timeout): max_sockets=1 reached" in str(waiting.exception)
        gate.open()
    await world.close(agent)


async def test_a_wait_of_no_time_at_all(world: World) -> None:
    """`pool=0` takes what is there, and fails at once where nothing is."""
    network = Network()
    agent = Agent(max_sockets=1, **network.options)
    async with world.client(transport=AgentTransport(agent=agent), timeout=httpx.Timeout(9, pool=0)) as client:
        assert (await client.get(URL)).status_code == 200
        async with client.stream("GET", URL) as response:
            assert response.extensions["agent"].reused
            with pytest.raises(httpx.PoolTimeout, match="no socket available within 0 s"):
                await client.get(URL)
    await world.close(agent)


class LateEvent(threading.Event):
    """A wait of some fifty seconds ends when the event is set, and says that the time was over."""

    def wait(self, timeout: float | None = None) -> bool:
        happened = super().wait(timeout)
        return happened and not is_long(timeout)


def is_long(timeout: float | None) -> bool:
    """As no other wait in these tests."""
    return timeout is not None and 40 < timeout <= 50


@pytest.mark.bug("B3")
def test_a_pool_timeout_that_meets_the_assignment_gives_the_slot_back(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """httpx: `PoolTimeout` of the next request."""
    monkeypatch.setattr(threading, "Event", LateEvent)
    network = Network(Script(UNFINISHED))
    transport = stack.transport(is_sync=True, max_total_sockets=1, **network.options)
    with httpx.Client(transport=transport, timeout=LONG, trust_env=False) as client:
        holder = client.send(client.build_request("GET", A), stream=True)

        def wait_in_line() -> None:
            with suppress(httpx.PoolTimeout):
                client.get(B)

        waiter = threading.Thread(target=wait_in_line)
        waiter.start()
        anyio.run(World("sync").until, lambda: stack.waiting(transport) == 1)
        holder.close()
        waiter.join()
        assert client.get(C, timeout=AT_ONCE).status_code == 200
    assert network.peak == 1


@pytest.mark.bug("B6")
async def test_the_pool_timeout_is_one_deadline(world: World, stack: Stack) -> None:
    """httpx: served after some 0.75 s, where 0.3 were allowed; the time begins anew whenever another is faster."""
    gates = [Gate() for _ in range(5)]
    network = Network(Script(*[[gate, respond()] for gate in gates]))
    transport = stack.transport(is_sync=world.is_sync, max_total_sockets=1, **network.options)
    async with world.client(transport=transport, timeout=10) as client, world.tasks() as tasks:
        for number in range(5):
            tasks.start(client.get, A)
            await world.until(lambda number=number: network.request_count + stack.waiting(transport) == number + 1)
        impatient = tasks.start(client.get, A, timeout=httpx.Timeout(10, pool=0.3))
        for gate in gates:  # one after the other is served, in less than its timeout
            await anyio.sleep(0.15)
            gate.open()
    assert isinstance(impatient.exception, httpx.PoolTimeout)


@pytest.mark.both_engines
@pytest.mark.bug("B25")
async def test_what_tcp_took_is_not_there_for_tls(
    world: World, stack: Stack, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """httpx: the handshake has the whole timeout once more."""
    passed = 0.0
    monkeypatch.setattr(_opening, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + passed))

    def pass_time(name: str, info: dict[str, Any]) -> None:
        nonlocal passed
        if name == "connection.connect_tcp.complete":
            passed = 20.0

    transport = stack.transport(is_sync=world.is_sync, verify=False)
    began = time.monotonic()
    async with world.client(transport=transport, timeout=8) as client:
        with pytest.raises(httpx.ConnectTimeout):  # the server waits for HTTP, and does not answer a hello
            await client.get(f"https://{server.netloc}/", extensions={"trace": world.callback(pass_time)})
    assert time.monotonic() - began < 6
    server.wait_closed()


@pytest.mark.bug("B25")
async def test_the_connect_timeout_is_one_deadline_for_tcp_and_tls(world: World, stack: Stack) -> None:
    """httpx: the handshake begins with five seconds, however long the connect took.

    And the decision on `retries`: an attempt has a deadline of its own, and the slot is kept between attempts.
    """
    network = Network(Script(connect=httpcore.ConnectError("refused")))
    transport = stack.transport(
        is_sync=world.is_sync, retries=1, max_total_sockets=1, verify=CONTEXT, **network.options
    )
    async with world.client(transport=transport, timeout=5.0) as client:
        assert (await client.get(SECURE)).status_code == 200
    connects = [op.details["timeout"] for op in network.ops if op.name == "connect"]
    (handshake,) = [op.details["timeout"] for op in network.ops if op.name == "start_tls"]
    assert connects == [5.0, 5.0]
    assert 0 < handshake < 5.0


@pytest.mark.parametrize("event", ["the agent is closed", "a socket comes free"])
def test_what_happens_in_the_moment_in_which_the_time_is_over(event: str) -> None:
    """It counts, and no limit is blamed."""

    class Interrupted(VirtualClock):
        happens: Callable[[], None] | None = None

        def __call__(self) -> float:
            dispatcher = agent._dispatcher
            waits = not dispatcher.is_locked_here() and any(ticket.queued for ticket in dispatcher._tickets.values())
            if waits and self.happens is not None:
                happens, self.happens = self.happens, None
                happens()
            return super().__call__()

    network = Network(default=Script(then=respond(b"ok")))
    clock = Interrupted()
    agent = clock.agent(max_sockets=1, **network.options)
    with httpx.Client(transport=AgentTransport(agent=agent), timeout=httpx.Timeout(5, pool=0)) as client:
        with client.stream("GET", URL) as first:
            if event == "the agent is closed":
                clock.happens = agent.close
                with pytest.raises(httpx.ConnectError, match="the agent was closed"):
                    client.get(URL)
            else:
                clock.happens = lambda: bool(first.read()) and None
                assert client.get(URL).text == "ok"
        assert clock.happens is None
    agent.close()


@pytest.mark.rule("R17", "R33", "R36", "N10", "N11", "A1")
@pytest.mark.parametrize("options", [{"timeout": 7}, {}], ids=["the agent's", "the request's"])
async def test_the_same_timeout_on_every_way_to_a_socket(world: World, engine: str, options: dict[str, Any]) -> None:
    """A new socket; a free one whose time was short; one handed over; one opened in the place of another.

    In Node the second runs under the time for which its socket could stay free (N11), the third under none at all
    (N10), and with agentkeepalive the last two under `freeSocketTimeout` (A1).
    """
    gate = Gate()
    closing = respond(headers=[("Connection", "close")])
    network = Network(Script(respond(headers=HINT), [gate, respond()], closing))
    agent = Agent(max_sockets=1, free_socket_timeout=2, http1_engine=engine, **options, **network.options)
    timeout = None if options else 7
    async with world.client(transport=AgentTransport(agent=agent), timeout=timeout) as client:
        await client.get(URL)
        async with world.tasks() as tasks:
            jobs = [tasks.start(client.get, URL)]
            await world.until(lambda: network.request_count == 2)
            for waiting in (1, 2):
                jobs.append(tasks.start(client.get, URL))
                await world.until(lambda waiting=waiting: agent.status().requests == {"http://a.test:80": waiting})
            gate.open()
        infos = [job.result().extensions["agent"] for job in jobs]
        assert [(info.socket_id, info.requests_on_socket) for info in infos] == [(0, 2), (0, 3), (1, 1)]
        assert infos[0].idle_for is not None
    timeouts = {(op.connection, op.name, op.details["timeout"]) for op in network.ops if "timeout" in op.details}
    assert timeouts == {(number, name, 7) for number in (0, 1) for name in ("connect", "read", "write")}
    await world.close(agent)


@pytest.mark.rule("R17", "R33", "N17")
@pytest.mark.parametrize("way", ["new", "from the free ones", "handed over"])
async def test_the_agents_timeout_ends_a_silent_request(world: World, server: Server, engine: str, way: str) -> None:
    """N17: in Node it emits an event, and nothing ends. Over real sockets; the client itself sets no timeout."""
    agent = Agent(max_sockets=1, timeout=0.05, http1_engine=engine)
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client, world.tasks() as tasks:
        if way == "from the free ones":
            await client.get(f"{server.url}/echo", timeout=10)
        if way == "handed over":
            first = await client.send(client.build_request("GET", f"{server.url}/bytes/3", timeout=10), stream=True)
        extensions = {"timeout": {"connect": 10, "write": 10}}  # only reading is left to the agent
        silent = tasks.start(client.get, f"{server.url}/silence", extensions=extensions)
        if way == "handed over":
            await world.until(lambda: agent.status().requests == {server.url: 1})
            await first.aread()
        await silent.wait()
        assert type(silent.exception) is httpx.ReadTimeout
        assert agent.sockets() == ()
        await world.until(lambda: server.open == 0)
    assert server.accepted == 1
    assert agent.status().timeout_socket_count == 1
    await world.close(agent)


@pytest.mark.rule("R8", "R33", "A2")
async def test_a_limit_that_fires_frees_one_slot(world: World, engine: str) -> None:
    """A2: agentkeepalive makes two sockets in the place of one, beyond `maxSockets`."""
    network = Network(Script(HANG))
    agent = Agent(max_sockets=1, http1_engine=engine, **network.options)
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client, world.tasks() as tasks:
        silent = tasks.start(client.get, URL, timeout=httpx.Timeout(None, read=0.02))
        await world.until(lambda: network.request_count == 1)
        others = [tasks.start(client.get, URL) for _ in range(3)]
        for job in [silent, *others]:
            await job.wait()
        assert type(silent.exception) is httpx.ReadTimeout
        assert {job.result().extensions["agent"].socket_id for job in others} == {1}
    assert network.peak == 1
    assert agent.status().create_socket_count == 2
    await world.close(agent)
