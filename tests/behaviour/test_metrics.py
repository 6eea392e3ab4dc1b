"""Metrics of an agent as OpenTelemetry's own SDK collects them."""

from __future__ import annotations

import gc
import importlib
import json
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from opentelemetry.sdk.metrics import MeterProvider

import httpx_agent.otel
from httpx_agent import Agent, AgentTransport
from httpx_agent.otel import instrument, uninstrument
from httpx_agent.testing import FIN, Gate, Network, Script, VirtualClock, respond
from tests.support.reading import Reading
from tests.support.servers import Certificates, Proxy, Server
from tests.support.worlds import World, clean_environment

URL = "http://a.test/"
OTHER = "http://b.test:8080/"
ok = respond(b"ok")
ADDRESS = ("server.address", "server.port")
STATE = "http.connection.state"

#: name, unit, boundaries; those of the conventions stand in `docs/http/http-metrics.md` of semantic-conventions 1.44.
CONVENTIONS = [
    ("http.client.open_connections", "{connection}", None),
    ("http.client.active_requests", "{request}", None),
    (
        "http.client.connection.duration",
        "s",
        (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300),
    ),
]
OWN = [
    ("httpx_agent.connection.closed", "{connection}", None),
    ("httpx_agent.connection.max", "{connection}", None),
    ("httpx_agent.connection.idle.max", "{connection}", None),
    ("httpx_agent.connection.total.max", "{connection}", None),
    ("httpx_agent.connection.total.idle.max", "{connection}", None),
    ("httpx_agent.queue.requests", "{request}", None),
    (
        "httpx_agent.queue.duration",
        "s",
        (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
    ),
    ("httpx_agent.request.retried", "{request}", None),
]


@pytest.fixture
def reading() -> Iterator[Reading]:
    reading = Reading()
    yield reading
    reading.provider.shutdown()


async def test_names_units_and_boundaries(world: World, reading: Reading) -> None:
    """Everything that there is, after one run in which everything happens."""
    clock = VirtualClock()
    gate = Gate()
    network = Network(Script(ok, FIN), Script([gate, ok]))
    limits = {"max_sockets": 1, "max_total_sockets": 2, "max_total_free_sockets": 2}
    agent = clock.agent(**limits, **network.options)
    instrument(agent, meter_provider=reading.provider)
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client:
        await client.get(URL)
        async with world.tasks() as tasks:
            tasks.start(client.get, URL)
            await world.until(lambda: network.request_count == 3)
            tasks.start(client.get, URL)
            await world.until(lambda: agent.status().requests)
            metrics = reading.collect()
            gate.open()
        metrics |= reading.collect()

        for name, unit, boundaries in CONVENTIONS + OWN:
            metric = metrics.pop(name)
            is_counter = name in ("httpx_agent.connection.closed", "httpx_agent.request.retried")
            assert getattr(metric.data, "is_monotonic", None) is (None if boundaries else is_counter)
            assert metric.unit == unit
            assert metric.description
            assert metric.description.endswith(".")
            for point in metric.data.data_points:
                assert getattr(point, "explicit_bounds", None) == boundaries
        assert metrics == {}
    await world.close(agent)


def test_the_scope_names_the_library_and_the_conventions(reading: Reading) -> None:
    agent = Agent(max_total_sockets=1)
    instrument(agent, meter_provider=reading.provider)
    data = reading._reader.get_metrics_data()
    assert data is not None
    scope = data.resource_metrics[0].scope_metrics[0].scope
    assert (scope.name, scope.version) == ("httpx_agent", httpx_agent.__version__)
    assert re.fullmatch(r"https://opentelemetry\.io/schemas/1\.\d+\.0", scope.schema_url or "")


# What is held ---------------------------------------------------------------------------------------------------------


async def test_open_connections(world: World, reading: Reading) -> None:
    """Active and idle ones by origin, both states wherever there is one."""
    gate = Gate()
    network = Network(Script(), Script([gate, ok]), Script())
    agent = Agent(**network.options)
    instrument(agent, meter_provider=reading.provider)
    name = "http.client.open_connections"
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        assert reading.values(name) == {}
        await client.get(URL)
        async with world.tasks() as tasks:
            tasks.start(client.get, OTHER)
            await world.until(lambda: network.request_count == 2)
            assert reading.values(name, *ADDRESS, "network.protocol.version", STATE) == {
                ("a.test", 80, "1.1", "active"): 0,
                ("a.test", 80, "1.1", "idle"): 1,
                ("b.test", 8080, None, "active"): 1,  # no response yet: the version is not known
                ("b.test", 8080, None, "idle"): 0,
            }
            gate.open()
        assert reading.values(name, *ADDRESS, "network.protocol.version", STATE) == {
            ("a.test", 80, "1.1", "active"): 0,
            ("a.test", 80, "1.1", "idle"): 1,
            ("b.test", 8080, "1.1", "active"): 0,
            ("b.test", 8080, "1.1", "idle"): 1,
        }
    await world.close(agent)
    assert reading.values(name) == {}


async def test_a_socket_that_connects_is_neither(world: World, reading: Reading) -> None:
    gate = Gate()
    network = Network(Script(connect=gate))
    agent = Agent(**network.options)
    instrument(agent, meter_provider=reading.provider)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with world.tasks() as tasks:
            tasks.start(client.get, URL)
            await world.until(lambda: network.connections)
            assert reading.values("http.client.open_connections") == {}
            assert reading.values("http.client.active_requests", *ADDRESS) == {("a.test", 80): 1}
            gate.open()
    await world.close(agent)


async def test_active_requests_and_the_queue(world: World, reading: Reading) -> None:
    """A request is active from its arrival to the end of its response; one without a socket waits besides."""
    gate = Gate()
    network = Network(Script([gate, ok]))
    agent = Agent(max_sockets=1, **network.options)
    instrument(agent, meter_provider=reading.provider)
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client:
        async with world.tasks() as tasks:
            tasks.start(client.get, URL)
            await world.until(lambda: network.request_count == 1)
            assert reading.values("httpx_agent.queue.requests", *ADDRESS) == {("a.test", 80): 0}
            tasks.start(client.get, URL)
            tasks.start(client.request, "BREW", URL)
            await world.until(lambda: agent.status().requests == {"http://a.test:80": 2})
            assert reading.values("httpx_agent.queue.requests", *ADDRESS) == {("a.test", 80): 2}
            assert reading.values("http.client.active_requests", *ADDRESS, "http.request.method") == {
                ("a.test", 80, "GET"): 2,
                ("a.test", 80, "_OTHER"): 1,
            }
            gate.open()
        assert reading.values("httpx_agent.queue.requests", *ADDRESS) == {("a.test", 80): 0}
        assert reading.values("http.client.active_requests") == {}
    await world.close(agent)
    assert reading.values("httpx_agent.queue.requests") == {}


async def test_limits(world: World, reading: Reading) -> None:
    """Those that there are: of the agent, and of the origins that it knows now."""
    network = Network()
    agent = Agent(
        max_sockets=7,
        max_total_sockets=9,
        per_origin={OTHER: {"max_sockets": 3, "max_free_sockets": 2}},
        **network.options,
    )
    instrument(agent, meter_provider=reading.provider)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        assert reading.values("httpx_agent.connection.total.max") == {(): 9}
        assert reading.values("httpx_agent.connection.total.idle.max") == {}
        assert reading.values("httpx_agent.connection.max") == {}
        await client.get(URL)
        await client.get(OTHER)
        agent.max_total_sockets = 8
        assert reading.values("httpx_agent.connection.max", *ADDRESS) == {("a.test", 80): 7, ("b.test", 8080): 3}
        assert reading.values("httpx_agent.connection.idle.max", *ADDRESS) == {("a.test", 80): 256, ("b.test", 8080): 2}
        assert reading.values("httpx_agent.connection.total.max") == {(): 8}
    await world.close(agent)


# What happens ---------------------------------------------------------------------------------------------------------


async def test_connections_that_were_closed(world: World, reading: Reading) -> None:
    """How long each was open, and why it was closed."""
    clock = VirtualClock()
    network = Network(Script(), Script(respond(b"ok", headers=[("Connection", "close")])))
    agent = clock.agent(**network.options)
    instrument(agent, meter_provider=reading.provider)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        await client.get(OTHER)
        clock.advance(15)
        await world.until(lambda: agent.sockets() == ())

        closed = (*ADDRESS, "network.protocol.version", "httpx_agent.connection.close_reason")
        assert reading.values("httpx_agent.connection.closed", *closed) == {
            ("a.test", 80, "1.1", "idle_timeout"): 1,
            ("b.test", 8080, "1.1", "not_reusable"): 1,
        }
        durations: Any = reading.collect()["http.client.connection.duration"].data.data_points
        found = {point.attributes["server.address"]: point for point in durations}
        assert {address: (point.count, point.sum) for address, point in found.items()} == {
            "a.test": (1, 15.0),
            "b.test": (1, 0.0),
        }
        assert found["a.test"].bucket_counts[10] == 1  # above 10 s, up to 30 s
    await world.close(agent)


async def test_how_long_requests_waited(world: World, reading: Reading) -> None:
    clock = VirtualClock()
    gate = Gate()
    network = Network(Script([gate, ok]))
    agent = clock.agent(max_sockets=1, **network.options)
    instrument(agent, meter_provider=reading.provider)
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client:
        async with world.tasks() as tasks:
            tasks.start(client.get, URL)
            await world.until(lambda: network.request_count == 1)
            tasks.start(client.get, URL)
            await world.until(lambda: agent.status().requests)
            with pytest.raises(httpx.PoolTimeout):
                await client.get(URL, timeout=httpx.Timeout(None, pool=0))
            clock.time += 0.3
            gate.open()
        waits: Any = reading.collect()["httpx_agent.queue.duration"].data.data_points
        found = {point.attributes["httpx_agent.queue.outcome"]: (point.count, round(point.sum, 6)) for point in waits}
        assert found == {"served": (1, 0.3), "gave_up": (1, 0.0)}
    await world.close(agent)


async def test_retries_of_stale_sockets(world: World, reading: Reading) -> None:
    network = Network(Script(ok, FIN))
    agent = Agent(**network.options)
    instrument(agent, meter_provider=reading.provider)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        assert (await client.put(URL)).extensions["agent"].retried
    assert reading.values("httpx_agent.request.retried", *ADDRESS, "http.request.method") == {("a.test", 80, "PUT"): 1}
    await world.close(agent)


async def test_the_version_of_http_2(
    world: World, reading: Reading, h2_server: Server, certificates: Certificates
) -> None:
    agent = Agent(http2=True, verify=certificates.client())
    instrument(agent, meter_provider=reading.provider)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(h2_server.url)
        states = reading.values("http.client.open_connections", "network.protocol.version", STATE)
        assert states == {("2", "active"): 0, ("2", "idle"): 1}
    await world.close(agent)
    assert reading.values("httpx_agent.connection.closed", "network.protocol.version") == {"2": 1}


# Attributes -----------------------------------------------------------------------------------------------------------


async def test_only_what_the_conventions_want_by_default(world: World, reading: Reading, server: Server) -> None:
    agent = Agent()
    instrument(agent, meter_provider=reading.provider)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(server.url)
        expected = {"server.address", "server.port", "network.protocol.version", STATE}
        assert [set(found) for found in reading.attributes("http.client.open_connections")] == [expected] * 2
    await world.close(agent)


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (None, {"GET", "QUERY", "_OTHER"}),
        ("", {"GET", "QUERY", "_OTHER"}),
        ("BREW, GET", {"BREW", "GET", "_OTHER"}),  # a full override: what it leaves out is not known
    ],
)
async def test_which_methods_are_known(
    world: World, reading: Reading, monkeypatch: pytest.MonkeyPatch, known: str | None, expected: set[str]
) -> None:
    """Methods are what a client makes of them; an attribute has few values, and the user may say which."""
    if known is not None:
        monkeypatch.setenv("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS", known)
    gate = Gate()
    network = Network(default=Script([gate, ok]))
    agent = Agent(**network.options)
    instrument(agent, meter_provider=reading.provider)
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client:
        async with world.tasks() as tasks:
            for method in ("GET", "QUERY", "BREW"):
                tasks.start(client.request, method, URL)
            await world.until(lambda: network.request_count == 3)
            assert set(reading.values("http.client.active_requests", "http.request.method")) == expected
            gate.open()
    await world.close(agent)


async def test_what_may_be_added(world: World, reading: Reading, server: Server) -> None:
    """Through a proxy the server is the one behind it, and the peer the proxy."""
    with Proxy() as proxy:
        agent = Agent(proxy=proxy.url)
        instrument(
            agent, meter_provider=reading.provider, pool_name="api", opt_in=["url.scheme", "network.peer.address"]
        )
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            await client.get(f"http://localhost:{server.port}/")
            idle, active = sorted(
                reading.attributes("http.client.open_connections"), key=lambda a: a[STATE], reverse=True
            )
            assert idle == {
                "httpx_agent.pool.name": "api",
                "server.address": "localhost",
                "server.port": server.port,
                "url.scheme": "http",
                "network.protocol.version": "1.1",
                "network.peer.address": "127.0.0.1",
                STATE: "idle",
            }
            assert active == {**idle, STATE: "active"}
        await world.close(agent)
        (closed,) = reading.attributes("http.client.connection.duration")
        assert closed == {name: value for name, value in idle.items() if name != STATE}


async def test_the_peer_on_a_unix_socket(world: World, reading: Reading, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with Server(uds=str(path)) as server:
        agent = Agent(uds=str(path))
        instrument(agent, meter_provider=reading.provider, opt_in={"network.peer.address"})
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            await client.get("http://a.test/")
            assert server.accepted == 1
            peers = reading.values("http.client.open_connections", "network.peer.address", STATE)
            assert peers == {(str(path), "active"): 0, (str(path), "idle"): 1}
        await world.close(agent)


# Agents and providers -------------------------------------------------------------------------------------------------


async def test_agents_are_added_up_unless_they_have_names(world: World, reading: Reading) -> None:
    network = Network()
    agents = [Agent(max_total_sockets=2, **network.options) for _ in range(3)]
    for agent, name in zip(agents, [None, None, "third"], strict=True):
        instrument(agent, meter_provider=reading.provider, pool_name=name)
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            await client.get(URL)
    by = ("httpx_agent.pool.name", STATE)
    assert reading.values("http.client.open_connections", *by) == {
        (None, "active"): 0,
        (None, "idle"): 2,
        ("third", "active"): 0,
        ("third", "idle"): 1,
    }
    assert reading.values("httpx_agent.connection.total.max", by[0]) == {None: 4, "third": 2}
    for agent in agents:
        await world.close(agent)
    assert reading.values("httpx_agent.connection.closed", by[0]) == {None: 2, "third": 1}


async def test_an_agent_that_has_sockets_already(world: World, reading: Reading) -> None:
    """And that goes on when it is measured no more."""
    clock = VirtualClock()
    network = Network()
    agent = clock.agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        clock.time += 3
        instrument(agent, meter_provider=reading.provider)
        assert reading.values("http.client.open_connections", STATE) == {"active": 0, "idle": 1}
        clock.advance(12)
        await world.until(lambda: agent.sockets() == ())
        duration: Any = reading.collect()["http.client.connection.duration"].data.data_points[0]
        assert duration.sum == 15.0
        uninstrument(agent)
        await client.get(URL)
        assert reading.values("http.client.open_connections") == {}
    await world.close(agent)
    assert reading.values("httpx_agent.connection.closed", "httpx_agent.connection.close_reason") == {"idle_timeout": 1}


async def test_the_last_call_counts(world: World, reading: Reading) -> None:
    network = Network()
    agent = Agent(**network.options)
    other = Reading()
    instrument(agent, meter_provider=other.provider)
    instrument(agent, meter_provider=reading.provider, pool_name="old")
    instrument(agent, meter_provider=reading.provider, pool_name="new")
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
        pools = reading.values("http.client.open_connections", "httpx_agent.pool.name", STATE)
        assert pools == {("new", "active"): 0, ("new", "idle"): 1}
    await world.close(agent)
    assert reading.values("httpx_agent.connection.closed", "httpx_agent.pool.name") == {"new": 1}
    assert other.collect() == {}
    uninstrument(agent)
    uninstrument(agent)
    other.provider.shutdown()


def test_an_agent_is_not_kept_alive(reading: Reading) -> None:
    agent = Agent(max_total_sockets=5)
    instrument(agent, meter_provider=reading.provider)
    assert reading.values("httpx_agent.connection.total.max") == {(): 5}
    gone = weakref.ref(agent)
    del agent
    gc.collect()
    assert gone() is None
    assert reading.values("httpx_agent.connection.total.max") == {}


def test_instruments_are_made_once(reading: Reading, caplog: pytest.LogCaptureFixture) -> None:
    """The SDK warns of a second one of the same name, and never asks it."""
    agents = [Agent(max_total_sockets=1) for _ in range(5)]
    for agent in agents:
        instrument(agent, meter_provider=reading.provider)
    assert caplog.records == []
    assert reading.values("httpx_agent.connection.total.max") == {(): 5}


def test_collecting_while_agents_come_and_go(reading: Reading) -> None:
    """Collection runs in threads of its own, under a lock of the SDK's; nobody waits for ever and nobody fails."""
    failures: list[BaseException] = []
    stop = threading.Event()

    def collect() -> None:
        try:
            while not stop.is_set():
                reading.collect()
        except BaseException as error:
            failures.append(error)

    network = Network()
    collector = threading.Thread(target=collect)
    collector.start()
    try:
        for turn in range(100):
            agent = Agent(max_total_sockets=1, **network.options)
            instrument(agent, meter_provider=reading.provider, pool_name=str(turn % 3))
            with httpx.Client(transport=AgentTransport(agent=agent)) as client:
                client.get(URL)
            if turn % 2:
                uninstrument(agent)
            agent.close()
    finally:
        stop.set()
        collector.join()
    assert failures == []
    closed = reading.values("httpx_agent.connection.closed", "httpx_agent.pool.name")
    assert sum(closed.values()) == 50  # of the others `uninstrument` came before


async def test_collecting_from_another_thread_than_that_of_the_requests(
    world: World, reading: Reading, server: Server
) -> None:
    agent = Agent(max_sockets=2)
    instrument(agent, meter_provider=reading.provider)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with world.tasks() as tasks:
            for _ in range(20):
                tasks.start(client.get, server.url)
            for _ in range(20):
                name, version = "http.client.open_connections", "network.protocol.version"
                states = await anyio.to_thread.run_sync(reading.values, name, version, STATE)
                assert sum(states.values()) <= 2
    await world.close(agent)


@pytest.mark.slow
def test_the_global_provider_may_be_set_later() -> None:
    """Whoever names it, and when: its instruments are made once. In a new interpreter, for it can be set once only."""
    code = """
import json, sys, logging
from opentelemetry.metrics import get_meter_provider, set_meter_provider
from httpx_agent import Agent
from httpx_agent.otel import instrument
from tests.support.reading import Reading

logging.basicConfig(stream=sys.stderr)
reading = Reading()
order = sys.argv[1]
agents = [Agent(max_total_sockets=1) for _ in range(3)]
instrument(agents[0], meter_provider=reading.provider if order == "explicit first" else None)
set_meter_provider(reading.provider)
instrument(agents[1])
instrument(agents[2], meter_provider=get_meter_provider())
print(json.dumps(list(reading.values("httpx_agent.connection.total.max").values())))
"""
    for order in ("explicit first", "global first"):
        done = subprocess.run(
            [sys.executable, "-c", code, order],
            cwd=Path(__file__).parents[2],
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.stderr == ""
        assert json.loads(done.stdout) == [3]


# Mistakes -------------------------------------------------------------------------------------------------------------


def test_only_an_agent_can_be_measured() -> None:
    with pytest.raises(TypeError) as caught:
        instrument(AgentTransport())  # type: ignore[arg-type]
    assert str(caught.value).endswith("expected an httpx_agent.Agent, got AgentTransport")


def test_a_pool_name_is_a_string() -> None:
    with pytest.raises(TypeError) as caught:
        instrument(Agent(), pool_name=3)  # type: ignore[arg-type]
    assert str(caught.value) == "pool_name=3: expected a str or None, got int"


def test_an_attribute_that_cannot_be_added() -> None:
    with pytest.raises(ValueError, match="opt_in") as caught:
        instrument(Agent(), opt_in=["url.full"])  # type: ignore[list-item]
    assert str(caught.value) == ("opt_in=['url.full']: expected 'url.scheme' or 'network.peer.address', got 'url.full'")


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.metrics", None)
    monkeypatch.delitem(sys.modules, "httpx_agent.otel")
    with pytest.raises(ImportError) as caught:
        importlib.import_module("httpx_agent.otel")
    assert str(caught.value) == (
        "httpx_agent.otel needs the package 'opentelemetry-api': pip install \"httpx-agent[otel]\""
    )


# Off ------------------------------------------------------------------------------------------------------------------


def test_nothing_of_it_is_imported_by_who_does_not_ask() -> None:
    """Not by the library, and not by a request; and of OpenTelemetry only the API by who does."""
    code = """
import sys
def opentelemetry():
    return sorted({".".join(name.split(".")[:2]) for name in sys.modules if name.startswith("opentelemetry")})
import httpx, httpx_agent
with httpx.Client(transport=httpx_agent.AgentTransport(), trust_env=False) as client:
    client.get(sys.argv[1])
print(opentelemetry(), "httpx_agent.otel" in sys.modules)
import httpx_agent.otel
print("opentelemetry.sdk" in opentelemetry(), "opentelemetry.metrics" in opentelemetry())
"""
    with Server() as server:
        done = subprocess.run(
            [sys.executable, "-c", code, server.url],
            cwd=Path(__file__).parents[2],
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["[] False", "False True"]


def test_a_provider_that_does_nothing(server: Server) -> None:
    """The API without an SDK."""
    agent = Agent()
    instrument(agent)
    with httpx.Client(transport=AgentTransport(agent=agent)) as client:
        assert client.get(server.url).status_code == 200
    agent.close()
    uninstrument(agent)


def test_a_provider_may_have_views(server: Server) -> None:
    """Which drop what the user does not want."""
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.metrics.view import DropAggregation, View

    reader = InMemoryMetricReader()
    views = [View(instrument_name="httpx_agent.*", aggregation=DropAggregation())]
    provider = MeterProvider([reader], views=views, shutdown_on_exit=False)
    agent = Agent()
    instrument(agent, meter_provider=provider)
    with httpx.Client(transport=AgentTransport(agent=agent)) as client:
        client.get(server.url)
    agent.close()
    data: Any = reader.get_metrics_data()
    names = {metric.name for metric in data.resource_metrics[0].scope_metrics[0].metrics}
    assert names == {"http.client.connection.duration"}
    provider.shutdown()
