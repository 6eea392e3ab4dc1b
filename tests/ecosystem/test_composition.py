"""Other transports around ours, in the order that the documentation gives: cache, retry, rate limit, agent."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Self

import anyio
import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import respond
from tests.support.servers import Server, refusing_port
from tests.support.worlds import World

for package in (
    "hishel",
    "httpx_limiter",
    "httpx_retries",
):
    pytest.importorskip(package, reason="needs the extra integrations")

import hishel
import hishel.httpx
from httpx_limiter import AbstractAsyncLimiter, AsyncRateLimitedTransport, Rate
from httpx_limiter.aiolimiter import AiolimiterAsyncLimiter
from httpx_retries import Retry, RetryTransport


class InTrio(Retry):
    """httpx-retries waits by asyncio, even if for no time at all."""

    async def asleep(self, response: httpx.Response | Exception) -> None:
        await anyio.sleep(0)


def retries(world: World, total: int = 5) -> Retry:
    """So many further attempts, at once."""
    return (InTrio if world.name == "trio" else Retry)(total=total, backoff_factor=0)


class InTurn(dict[str, Any]):
    """Responses of a server: those of a path one after the other, the last for ever."""

    def __getitem__(self, path: str) -> bytes:
        answers: list[bytes] = super().__getitem__(path)
        return answers.pop(0) if len(answers) > 1 else answers[0]


BUSY = respond(b"busy", 503)
OK = respond(b"ok")


# httpx-retries --------------------------------------------------------------------------------------------------------


async def test_an_answer_that_is_retried_gives_its_socket_back(world: World, server: Server) -> None:
    """It is closed unread; what has arrived is read, and all attempts go over one socket, at a limit of one."""
    server.raw = InTurn({"/flaky": [BUSY, BUSY, OK]})
    agent = Agent(max_sockets=1)
    transport = RetryTransport(transport=AgentTransport(agent=agent), retry=retries(world))
    async with world.client(transport=transport) as client:
        response = await client.get(f"{server.url}/flaky")
        assert (response.status_code, response.text) == (200, "ok")
        assert response.extensions["retry"].attempts_made == 2
        info = response.extensions["agent"]
        assert (info.socket_id, info.requests_on_socket, info.retried) == (0, 3, False)
        status = agent.status()
        assert (status.request_count, status.request_error_count) == (3, 0)
        assert status.free_sockets == {f"http://127.0.0.1:{server.port}": 1}
    await world.close(agent)


async def test_a_large_answer_that_is_retried_frees_its_slot(world: World, server: Server) -> None:
    """More than is drained: the socket is closed, and the next attempt gets its slot."""
    server.raw = InTurn({"/flaky": [respond(b"x" * 1_000_000, 503), OK]})
    agent = Agent(max_sockets=1)
    transport = RetryTransport(transport=AgentTransport(agent=agent), retry=retries(world))
    async with world.client(transport=transport) as client:
        response = await client.get(f"{server.url}/flaky")
        assert (response.text, response.extensions["agent"].socket_id) == ("ok", 1)
        assert agent.status().create_socket_count == 2
    await world.close(agent)


async def test_a_connection_that_breaks_is_retried(world: World, server: Server) -> None:
    """On a new socket there is nothing that the agent would send again; the wrapper does."""
    server.raw = InTurn({"/flaky": [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"]})
    agent = Agent(max_sockets=1)
    transport = RetryTransport(transport=AgentTransport(agent=agent), retry=retries(world, 2))
    async with world.client(transport=transport) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"{server.url}/disconnect")
        assert len(server.requests) == 3
        status = agent.status()
        assert (status.create_socket_count, status.request_error_count, status.sockets) == (3, 3, {})
        assert (await client.get(f"{server.url}/flaky")).text == "hello"
    await world.close(agent)


async def test_a_refused_connection_is_retried(world: World) -> None:
    with refusing_port() as port:
        agent = Agent(max_total_sockets=1)
        transport = RetryTransport(AgentTransport(agent=agent), retries(world, 3))
        async with world.client(transport=transport) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(f"http://127.0.0.1:{port}/")
        assert agent.status().create_socket_error_count == 4
        await world.close(agent)


async def test_a_wrapped_transport_is_closed_with_its_client(world: World, server: Server) -> None:
    inner = AgentTransport()
    async with world.client(transport=RetryTransport(transport=inner)) as client:
        await client.get(server.url)
        assert len(inner.agent.sockets()) == 1
    assert inner.agent.sockets() == ()


# hishel ---------------------------------------------------------------------------------------------------------------


def caching(world: World, transport: AgentTransport, folder: Path, **options: Any) -> Any:
    """The cache of this world around a transport."""
    path = folder / "cache.db"
    if world.is_sync:
        return hishel.httpx.CacheTransport(transport, hishel.SqliteStorage(database_path=path), **options)
    return hishel.httpx.AsyncCacheTransport(transport, hishel.AsyncSqliteStorage(database_path=path), **options)


async def test_a_stored_answer_needs_no_socket(world: World, server: Server, tmp_path: Path) -> None:
    agent = Agent(max_sockets=1)
    async with world.client(transport=caching(world, AgentTransport(agent=agent), tmp_path)) as client:
        first = await client.get(f"{server.url}/bytes/1000")
        assert first.extensions["agent"].socket_id == 0
        async with client.stream("POST", f"{server.url}/hold-body/it"):  # the only socket is in use
            assert agent.status().sockets
            second = await client.get(f"{server.url}/bytes/1000")
            assert second.extensions["caching"]["from_cache"]
            assert "agent" not in second.extensions
            assert second.content == first.content
            server.gate("it").open()
        assert len(server.requests) == 2
    await world.close(agent)


async def test_a_revalidation_gives_its_socket_back(world: World, server: Server, tmp_path: Path) -> None:
    """RFC 9111: the 304 has no body, and the body is the cache's."""
    fresh = respond(b"hello", headers=[("ETag", '"1"'), ("Cache-Control", "max-age=0")])
    unchanged = b'HTTP/1.1 304 Not Modified\r\nETag: "1"\r\nCache-Control: max-age=0\r\n\r\n'
    server.raw = InTurn({"/page": [fresh, unchanged]})
    agent = Agent(max_sockets=1)
    async with world.client(transport=caching(world, AgentTransport(agent=agent), tmp_path, rfc=True)) as client:
        for turn in range(3):
            response = await client.get(f"{server.url}/page")
            assert (response.status_code, response.text) == (200, "hello")
            assert server.requests[-1].get("if-none-match") == ('"1"' if turn else "")
        status = agent.status()
        assert (status.create_socket_count, status.request_count, status.sockets) == (1, 3, {})
    await world.close(agent)


async def test_an_answer_that_is_stored_but_not_read_to_its_end(world: World, server: Server, tmp_path: Path) -> None:
    """The wrapper may read the body or not: when its response is closed, the slot is free."""
    agent = Agent(max_sockets=1)
    async with world.client(transport=caching(world, AgentTransport(agent=agent), tmp_path)) as client:
        async with client.stream("GET", f"{server.url}/bytes/5000000") as response:
            assert response.status_code == 200
        assert agent.status().sockets == {}
        assert (await client.get(f"{server.url}/bytes/10")).extensions["agent"].queued_for < 5
    await world.close(agent)


# httpx-limiter --------------------------------------------------------------------------------------------------------


class Counting(AbstractAsyncLimiter):
    """A limiter of any loop, that counts who holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = 0
        self.inside = 0

    async def __aenter__(self) -> Self:
        self.entered += 1
        self.inside += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self.inside -= 1


@pytest.mark.in_loops
async def test_a_rate_limit_does_not_hold_a_socket(world: World, server: Server) -> None:
    """Who waits for the limiter has no socket yet; who has a response holds the limiter no longer."""
    limiter = Counting()
    agent = Agent(max_sockets=2)
    transport = AsyncRateLimitedTransport(limiter=limiter, transport=AgentTransport(agent=agent))
    async with world.client(transport=transport) as client:
        async with client.stream("GET", f"{server.url}/bytes/1000000") as response:
            assert (limiter.entered, limiter.inside) == (1, 0)
            await response.aread()
        await world.gather(*[lambda: client.get(server.url)] * 20)
        assert (limiter.entered, limiter.inside) == (21, 0)
        assert agent.status().request_count == 21
    await world.close(agent)


def test_a_real_limiter(server: Server) -> None:
    """aiolimiter, which is for asyncio: four at once, then ten a second."""

    async def ask() -> None:
        agent = Agent(max_sockets=2)
        limiter = AiolimiterAsyncLimiter.create(Rate.create(magnitude=4, duration=0.4))
        transport = AsyncRateLimitedTransport(limiter=limiter, transport=AgentTransport(agent=agent))
        async with world.client(transport=transport) as client:
            begun = time.monotonic()
            await world.gather(*[lambda: client.get(server.url)] * 6)
            assert time.monotonic() - begun > 0.19
        assert agent.status().request_count == 6
        assert server.accepted <= 2
        await agent.aclose()

    world = World("asyncio")
    world.run(ask)


# All of them ----------------------------------------------------------------------------------------------------------


async def test_the_whole_pile(world: World, server: Server, tmp_path: Path) -> None:
    """Cache, retries, rate limit, agent: each does its part, over one socket."""
    server.raw = InTurn({"/flaky": [BUSY, BUSY, OK], "/other": [BUSY, OK]})
    agent = Agent(max_sockets=1)
    limiter = Counting()
    inner: Any = AgentTransport(agent=agent)
    if not world.is_sync:
        inner = AsyncRateLimitedTransport(limiter=limiter, transport=inner)
    pile = caching(world, RetryTransport(transport=inner, retry=retries(world)), tmp_path)  # type: ignore[arg-type]
    async with world.client(transport=pile) as client:
        responses = await world.gather(
            lambda: client.get(f"{server.url}/flaky"), lambda: client.get(f"{server.url}/other")
        )
        assert [response.text for response in responses] == ["ok", "ok"]
        assert (await client.get(f"{server.url}/flaky")).extensions["caching"]["from_cache"]
        assert limiter.entered == (0 if world.is_sync else 5)
        status = agent.status()
        assert (status.request_count, status.create_socket_count) == (5, 1)
    await world.close(agent)


# Mounts ---------------------------------------------------------------------------------------------------------------


async def test_one_agent_under_several_mounts(world: World, server: Server) -> None:
    """Its limits hold over all of them; the client closes what it owns, and no more."""
    agent = Agent(max_total_sockets=2)
    mounts = {
        "http://127.0.0.1": AgentTransport(agent=agent),
        "http://localhost": RetryTransport(AgentTransport(agent=agent), retries(world)),
    }
    urls = [server.url, f"http://localhost:{server.port}/"] * 10
    async with world.client(mounts=mounts, transport=AgentTransport(agent=agent)) as client:
        responses = await world.gather(*[lambda url=url: client.get(url) for url in urls])
        assert {response.status_code for response in responses} == {200}
        assert agent.status().request_count == 20
        assert len(agent.sockets()) <= 2
    assert agent.sockets() != ()
    await world.close(agent)
    server.wait_closed()


async def test_one_transport_under_several_mounts(world: World, server: Server) -> None:
    """As often as it stands there, httpx enters and closes it: nobody minds."""
    transport = AgentTransport(max_sockets=1)
    mounts = {"http://127.0.0.1": transport, "http://localhost": transport}
    async with world.client(mounts=mounts, transport=transport) as client:
        for url in (server.url, f"http://localhost:{server.port}/"):
            assert (await client.get(url)).status_code == 200
    assert transport.agent.sockets() == ()
    server.wait_closed()


async def test_mounts_with_agents_of_their_own(world: World, server: Server) -> None:
    """Separate transports have separate limits and counters."""
    first, second = AgentTransport(max_sockets=1), AgentTransport(max_sockets=3)
    async with world.client(mounts={"http://127.0.0.1": first, "http://localhost": second}) as client:
        await world.gather(*[lambda: client.get(server.url)] * 5)
        await client.get(f"http://localhost:{server.port}/")
        assert first.agent.status().request_count == 5
        assert first.agent.status().create_socket_count == 1
        assert second.agent.status().request_count == 1
    assert first.agent.sockets() == second.agent.sockets() == ()
