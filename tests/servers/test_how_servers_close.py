"""How third-party servers close a client's sockets, and that the agent loses nothing by it.

Every server is met from every world with every engine that serves there, plain and over TLS: all of these at the same
time, since most of it is waiting. A server runs once for all tests but that of its end.

What is not installed is skipped, unless `--require-servers` is given.
"""

from __future__ import annotations

import itertools
import shutil
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from tests.docs.test_examples import ROOT, rows
from tests.servers import fleet, programs
from tests.servers.fleet import SERVERS, Server, Started
from tests.support.servers import Certificates
from tests.support.worlds import World

TABLE = ROOT / "docs" / "integrations" / "servers.md"

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]


@dataclass(frozen=True)
class Side:
    """A world with an engine."""

    world: World
    engine: str

    def __str__(self) -> str:
        return f"{self.world.name}, {self.engine}"

    def agent(self, certificates: Certificates, **options: Any) -> Agent:
        """One that leaves it to the server to close free sockets."""
        options = {"free_socket_timeout": 60, "keep_alive_timeout_buffer": 0, **options}
        return Agent(http1_engine=self.engine, verify=certificates.client(), **options)


#: All worlds with all engines that serve in them.
SIDES = [
    *(Side(World(name), engine) for name in ("sync", "asyncio", "uvloop") for engine in ("httptools", "h11")),
    Side(World("trio"), "h11"),
]


def everywhere(started: Started, check: Callable[[Side, str], Awaitable[None]]) -> None:
    """Run a check in all worlds at once, plain and over TLS; those that fail are named, and the server's log is shown.

    Args:
        started: The server.
        check: Gets the side to take and the server's address.
    """
    failures: list[Exception] = []

    def run(side: Side, scheme: str, url: str) -> None:
        try:
            side.world.run(check, side, url)
        except Exception as exc:
            exc.add_note(f"in: {side}, {scheme}")
            failures.append(exc)

    threads = [
        threading.Thread(target=run, args=[side, scheme, url])
        for side, (scheme, url) in itertools.product(SIDES, started.urls.items())
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise ExceptionGroup(f"{started.server.name} said:\n{started.said()[-4000:]}", failures)


@pytest.fixture(scope="module")
def backend(folder: Path) -> Iterator[int]:
    """The port of what proxies stand in front of."""
    with fleet.backend(folder) as port:
        yield port


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test all servers, or those of which something is true."""
    if "certificates" in metafunc.fixturenames:
        named = metafunc.definition.get_closest_marker("of_servers")
        servers = [server for server in SERVERS if named is None or getattr(server, named.args[0])]
        metafunc.parametrize("server", servers, ids=[server.name for server in servers], scope="module", indirect=True)


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Server:
    """One of them."""
    server: Server = request.param
    programs.require(request.config, *server.needs)
    return server


@pytest.fixture(scope="module")
def started(
    server: Server, folder: Path, certificate: dict[str, str], request: pytest.FixtureRequest
) -> Iterator[Started]:
    """The server, for all tests."""
    backend = request.getfixturevalue("backend") if server.is_proxy else 0
    with fleet.start(server, folder / "all", certificate, backend, folder / "calls") as started:
        yield started


@pytest.mark.parametrize("server", SERVERS, ids=[server.name for server in SERVERS])
def test_the_table_has_every_server_with_the_version_that_is_tested_here(
    server: Server, request: pytest.FixtureRequest
) -> None:
    """In the documentation."""
    programs.require(request.config, *server.needs)
    if server.program in programs.PACKAGES and shutil.which("dpkg-query") is None:
        pytest.skip("the table is about Debian's packages")
    listed = {name: version for name, version, *_ in rows(TABLE, "What servers do")}
    assert set(listed) == {server.name.removesuffix("-h11").removesuffix("-httptools") for server in SERVERS}
    assert listed[server.name.removesuffix("-h11").removesuffix("-httptools")] == programs.version(server.program)


def test_an_idle_socket_that_the_server_closes_is_gone_without_a_request(
    started: Started, certificates: Certificates
) -> None:
    """Whether it says so by FIN, or over TLS by a close_notify after which it holds the connection open."""

    async def check(side: Side, url: str) -> None:
        agent = side.agent(certificates)
        async with side.world.client(transport=AgentTransport(agent=agent), timeout=20) as client:
            del client.headers["connection"]  # some say to those who ask for keep-alive how long it lasts
            await client.get(f"{url}/first")
            await side.world.until(lambda: not agent.sockets())
            assert agent.status().timeout_socket_count == 0, "it was not the server that closed it"
            response = await client.get(f"{url}/second")
            assert (response.status_code, response.text) == (200, "GET /second 0")
            assert not response.extensions["agent"].retried
        await side.world.close(agent)

    everywhere(started, check)


BODIES = {"1 MB": (1_000_000, 6), "16 MB": (16_000_000, 2)}


@pytest.mark.parametrize(("size", "times"), BODIES.values(), ids=BODIES)
def test_a_refused_upload_always_has_its_answer(
    started: Started, certificates: Certificates, size: int, times: int
) -> None:
    """Also where the server closes, or resets, the connection while the body is on its way."""
    content = b"x" * size
    headers = {"Connection": "close"} if started.server.deserts else {}

    async def check(side: Side, url: str) -> None:
        agent = side.agent(certificates)
        statuses: Counter[Any] = Counter()
        async with side.world.client(transport=AgentTransport(agent=agent), timeout=20) as client:
            for _ in range(times):
                for kind in ("bytes", "parts"):
                    body = content if kind == "bytes" else side.world.body(parts(content))
                    try:
                        response = await client.post(f"{url}/refused", content=body, headers=headers)
                        statuses[kind, response.status_code] += 1
                    except httpx.HTTPError as exc:
                        statuses[kind, repr(exc)] += 1
                    response = await client.get(f"{url}/after")
                    assert (response.status_code, response.text) == (200, "GET /after 0")
        await side.world.close(agent)
        assert statuses == {("bytes", 413): times, ("parts", 413): times}

    everywhere(started, check)


@pytest.mark.of_servers("limits")
def test_an_upload_beyond_the_limit_of_the_server_always_has_its_answer(
    started: Started, certificates: Certificates
) -> None:
    """Here it is not the application that refuses, but the server."""
    content = b"x" * 16_000_000

    async def check(side: Side, url: str) -> None:
        agent = side.agent(certificates)
        async with side.world.client(transport=AgentTransport(agent=agent), timeout=20) as client:
            for _ in range(2):
                response = await client.post(f"{url}/long", content=content)
                assert response.status_code == 413
        await side.world.close(agent)

    everywhere(started, check)


def parts(content: bytes) -> Iterator[bytes]:
    """A body in pieces."""
    for begin in range(0, len(content), 65536):
        yield content[begin : begin + 65536]


def test_a_connection_that_has_served_its_last_request_is_replaced(
    started: Started, certificates: Certificates
) -> None:
    """The server says so with the last answer; where it has no such limit, every twentieth request asks for it.

    No request is written to a connection that has been announced to end, so none has to be sent again.
    """
    each = started.server.requests or fleet.REQUESTS

    async def check(side: Side, url: str) -> None:
        agent = side.agent(certificates)
        sockets: Counter[int] = Counter()
        async with side.world.client(transport=AgentTransport(agent=agent), timeout=20) as client:
            for turn in range(1, 201):
                last = turn % each == 0 and started.server.requests is None
                response = await client.get(f"{url}/{turn}", headers={"Connection": "close"} if last else {})
                assert (response.status_code, response.text) == (200, f"GET /{turn} 0")
                assert not response.extensions["agent"].retried
                sockets[response.extensions["agent"].socket_id] += 1
        status = agent.status()
        await side.world.close(agent)
        assert max(sockets.values()) == each
        assert -(-200 // each) <= len(sockets) <= 200 // each + 5  # some may grow too old on a slow machine
        assert (status.request_count, status.request_error_count) == (200, 0)

    everywhere(started, check)


@pytest.mark.of_servers("tells_idle")
def test_a_socket_is_closed_before_the_server_does_it_where_it_says_when(
    started: Started, certificates: Certificates
) -> None:
    """So that no request meets the server's end."""

    async def check(side: Side, url: str) -> None:
        agent = side.agent(certificates, keep_alive_timeout_buffer=fleet.IDLE - 0.1)
        async with side.world.client(transport=AgentTransport(agent=agent), timeout=20) as client:
            response = await client.get(f"{url}/first")
            assert f"timeout={fleet.IDLE}" in response.headers["keep-alive"]
            await side.world.until(lambda: not agent.sockets())
            assert agent.status().timeout_socket_count == 1
        await side.world.close(agent)

    everywhere(started, check)


@dataclass
class Load:
    """What clients met that asked a server until it did not listen any more."""

    server: Server
    numbers: Iterator[int] = field(default_factory=itertools.count)
    answered: Counter[str] = field(default_factory=Counter)
    """How many requests of each client were."""
    failed: list[tuple[str, str, httpx.HTTPError]] = field(default_factory=list)
    """Method, name and error of each request that was not, but could connect."""
    told: threading.Event = field(default_factory=threading.Event)
    """The server has been told to stop."""

    async def ask(self, side: Side, agent: Agent, url: str) -> None:
        """Ask as several do who share an agent, until none can connect."""

        async def work() -> None:
            for number in self.numbers:
                # A part takes its time, so that requests are under way at any moment; a part may not be sent twice.
                method, place = ("POST", "") if number % 4 == 0 else ("GET", "slow" if number % 4 == 1 else "")
                target = f"/{place}?call={self.server.name}-{number}"
                try:
                    response = await client.request(method, url + target)
                except httpx.ConnectError:
                    assert self.told.is_set()
                    return
                except httpx.HTTPError as exc:
                    self.failed.append((method, f"{self.server.name}-{number}", exc))
                else:
                    if self.server.finishes or response.status_code != 500:
                        assert (response.status_code, response.text) == (200, f"{method} {target} 0")
                    self.answered[f"{side}, {url}"] += 1

        async with side.world.client(transport=AgentTransport(agent=agent), timeout=20) as client:
            await side.world.gather(*[work] * 3)
            await side.world.until(lambda: not agent.sockets())

    def stop(self, started: Started) -> None:
        """Tell the server to stop, when each client has had some answers."""
        clients = len(SIDES) * len(started.urls)
        begun = time.monotonic()
        while len(self.answered) < clients or min(self.answered.values()) < 5:
            assert time.monotonic() - begun < 30, self.answered
            time.sleep(0.01)
        self.told.set()
        started.stop()


def test_a_graceful_stop_under_load(
    server: Server,
    folder: Path,
    certificate: dict[str, str],
    certificates: Certificates,
    request: pytest.FixtureRequest,
) -> None:
    """Every request has its answer, or cannot connect; or it failed in one of the ways that no client can mend.

    - What may be sent again is lost only where the server, or the system on its behalf, resets a new connection: one
      that was in the queue, not accepted yet, when the server closed it.
    - What may not is lost also where the server closed a used connection while the request was on its way. It was then
      not executed, if the server finishes what it began: the agent loses no answer that was given.
    - No such request is sent twice.
    - No socket holds up the end of the server.
    """
    backend = request.getfixturevalue("backend") if server.is_proxy else 0
    load = Load(server)

    async def check(side: Side, url: str) -> None:
        agent = side.agent(certificates, max_sockets=2)
        await load.ask(side, agent, url)
        await side.world.close(agent)

    with fleet.start(server, folder / "stopped", certificate, backend, folder / "calls") as started:
        stopper = threading.Thread(target=load.stop, args=[started])
        stopper.start()
        everywhere(started, check)
        stopper.join()
        for program in started.programs.values():
            assert program.process.wait(programs.PATIENCE) in (0, -server.stop), program.said()
    calls = Counter((folder / "calls").read_text().split())
    assert [exc for method, _, exc in load.failed if method == "GET" and " was stale" in str(exc)] == []
    if server.finishes:
        assert [(call, exc) for method, call, exc in load.failed if method == "POST" and calls[call]] == []
    assert {call for call, count in calls.items() if count > 1 + (int(call.rpartition("-")[2]) % 4 != 0)} == set()
