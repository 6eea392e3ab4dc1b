"""Third-party servers and proxies that close our sockets: thousands of requests, none lost.

An optional group: `python -m pytest -m servers`. What is not installed is skipped, unless `--require-servers` is given.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from httpx_agent import Agent, AgentTransport
from tests.docs.test_examples import ROOT, rows
from tests.servers import programs
from tests.support.servers import Certificates
from tests.support.worlds import World

TABLE = ROOT / "docs" / "integrations" / "index.md"

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

WORKERS = 10
EACH = 60

Mix = list[tuple[str, dict[str, Any]]]

#: Idempotent ones, and POST where its client says so: what a server's closing may hit, and the agent may send again.
REQUESTS: Mix = [
    ("GET", {}),
    ("PUT", {"content": b"x" * 111}),
    ("POST", {"content": b"x" * 11, "headers": {"Idempotency-Key": "1"}}),
    ("DELETE", {}),
]


@pytest.fixture(autouse=True)
def _installed(request: pytest.FixtureRequest) -> None:
    """Skip a test whose program is missing, or fail it."""
    programs.require(request.config, *(mark.args[0] for mark in request.node.iter_markers("needs")))


@pytest.fixture(scope="module")
def nginx(folder: Path, certificate: dict[str, str]) -> Iterator[dict[str, str]]:
    """It keeps a free socket for 30 ms, and any for 25 requests, and does not say so."""
    with programs.nginx(folder, certificate, timeout="30ms", requests=25) as urls:
        yield urls


async def ask(world: World, agent: Agent, url: str, *, each: int = EACH, mix: Mix = REQUESTS) -> None:
    """Asks from several workers, which rest now and then; each answer must be the one to its request."""
    async with world.client(transport=AgentTransport(agent=agent), timeout=30) as client:

        async def work(worker: int) -> None:
            for turn in range(each):
                method, options = mix[turn % len(mix)]
                target = f"/{worker}/{turn}?of={worker * turn}"
                response = await client.request(method, url + target, **options)
                assert response.status_code == 200
                length = str(len(options.get("content", b"")))
                assert response.text in (f"{method} {target} {length}", f"{method} {target} {length.strip('0')}")
                if turn % 10 == worker:
                    await anyio.sleep(0.03)  # as long as nginx keeps a free socket

        async with anyio.create_task_group() as workers:  # `world.gather` would give them ten seconds in all
            for worker in range(WORKERS):
                workers.start_soon(work, worker)


async def balance(world: World, agent: Agent, count: int) -> None:
    """All were answered, and every socket is accounted for, before the agent is closed and after."""
    status = agent.status()
    assert (status.request_count, status.request_error_count) == (count, 0)
    for _ in range(2):
        status = agent.status()
        held = sum(status.sockets.values()) + sum(status.free_sockets.values())
        assert status.create_socket_count == (
            status.create_socket_error_count + status.close_socket_count + status.detached_socket_count + held
        )
        await world.close(agent)
    assert agent.sockets() == ()
    assert agent.status().requests == {}


@pytest.mark.needs("nginx")
@pytest.mark.needs("apache2")
@pytest.mark.needs("haproxy")
@pytest.mark.needs("lighttpd")
@pytest.mark.needs("tinyproxy")
@pytest.mark.needs("microsocks")
@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="the table is about Debian's packages")
def test_the_table_has_every_program_with_the_version_that_is_tested_here() -> None:
    """In the documentation; those of Python's packages are compared in `tests/ecosystem` and beside their own table."""
    listed = {re.sub(r"\[(.+)\]\(.+\)", r"\1", name): version for name, version, _ in rows(TABLE, "What was tested", 1)}
    assert listed == {program: programs.version(program) for program in programs.PACKAGES}


@pytest.mark.needs("nginx")
@pytest.mark.parametrize("kind", ["http/1.1", "tls"])
async def test_nginx(world: World, nginx: dict[str, str], certificates: Certificates, kind: str) -> None:
    """It closes sockets after 25 requests, and free ones at any moment."""
    agent = Agent(max_sockets=6, verify=certificates.client())
    await ask(world, agent, nginx[kind])
    assert agent.status().close_socket_count >= WORKERS * EACH // 25 - 6
    await balance(world, agent, WORKERS * EACH)


@pytest.mark.needs("nginx")
async def test_nginx_over_http_2(world: World, nginx: dict[str, str], certificates: Certificates) -> None:
    """It says GOAWAY after 25 requests."""
    agent = Agent(http2=True, max_sockets=4, verify=certificates.client())
    await ask(world, agent, nginx["http/2"])
    assert {info.http_version for info in agent.sockets()} <= {"HTTP/2"}
    assert agent.status().close_socket_count >= WORKERS * EACH // 25 - 4
    await balance(world, agent, WORKERS * EACH)


@pytest.mark.needs("nginx")
async def test_what_cannot_be_sent_twice_is_safe_where_the_server_says_how_long(
    world: World, folder: Path, certificate: dict[str, str]
) -> None:
    """A POST is never sent on a socket that the server may be about to close."""
    (folder / world.name).mkdir()
    with programs.nginx(folder / world.name, certificate, timeout="2s 2s", requests=1000) as urls:
        agent = Agent(max_sockets=6)
        await ask(world, agent, urls["http/1.1"], each=20, mix=[("POST", {"content": b"once"})])
        assert all(info.expires_in is not None and info.expires_in <= 1 for info in agent.sockets())
        await balance(world, agent, WORKERS * 20)


@pytest.mark.needs("uvicorn")
@pytest.mark.parametrize("keep_alive", [0, 1], ids=["closing at once", "closing after a second"])
async def test_uvicorn(world: World, folder: Path, keep_alive: int) -> None:
    with programs.uvicorn(folder, keep_alive=keep_alive) as url:
        agent = Agent(max_sockets=6)
        await ask(world, agent, url)
        await balance(world, agent, WORKERS * EACH)


@pytest.mark.needs("hypercorn")
async def test_hypercorn_over_http_2(
    world: World, folder: Path, certificate: dict[str, str], certificates: Certificates
) -> None:
    """Ten streams at most on a connection."""
    with programs.hypercorn(folder, certificate) as url:
        agent = Agent(http2=True, max_sockets=4, verify=certificates.client())
        await ask(world, agent, url)
        assert {info.http_version for info in agent.sockets()} <= {"HTTP/2"}
        await balance(world, agent, WORKERS * EACH)


@pytest.mark.needs("nginx")
@pytest.mark.needs("tinyproxy")
@pytest.mark.parametrize("kind", ["http/1.1", "tls", "http/2"])
async def test_through_tinyproxy(
    world: World, nginx: dict[str, str], folder: Path, certificates: Certificates, kind: str
) -> None:
    """By CONNECT for TLS; plain requests it forwards, and closes each socket."""
    with programs.tinyproxy(folder) as proxy:
        agent = Agent(max_sockets=6, proxy=proxy, http2=kind == "http/2", verify=certificates.client())
        await ask(world, agent, nginx[kind], each=EACH // 2)
        await balance(world, agent, WORKERS * EACH // 2)


@pytest.mark.needs("nginx")
@pytest.mark.needs("microsocks")
@pytest.mark.parametrize("kind", ["http/1.1", "tls"])
async def test_through_socks(
    world: World, nginx: dict[str, str], folder: Path, certificates: Certificates, kind: str
) -> None:
    with programs.microsocks(folder) as proxy:
        agent = Agent(max_sockets=6, proxy=proxy, verify=certificates.client())
        await ask(world, agent, nginx[kind], each=EACH // 2)
        await balance(world, agent, WORKERS * EACH // 2)
