"""TLS sessions are kept per origin and resumed (R28)."""

from __future__ import annotations

import ssl
from typing import Any

import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent._sessions import SessionCache
from tests.support.servers import Certificates, Server
from tests.support.worlds import World


async def resumed(world: World, client: Any, url: str) -> bool:
    """Whether the socket of a request resumed a session; looked at while it is open."""
    async with client.stream("GET", url) as response:
        ssl_object = response.extensions["network_stream"].get_extra_info("ssl_object")
        await response.aread()
        return bool(ssl_object.session_reused)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("limit", [100, 0])
async def test_a_second_socket_resumes_the_session_of_the_first(
    world: World, certificates: Certificates, version: ssl.TLSVersion, limit: int
) -> None:
    """In both versions of TLS; `max_cached_sessions=0` switches it off."""
    context = certificates.client()
    context.maximum_version = context.minimum_version = version
    with Server(tls=certificates.server()) as server:
        agent = Agent(verify=context, max_cached_sessions=limit)
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            assert not await resumed(world, client, f"{server.url}/close")
            for _ in range(3):
                assert await resumed(world, client, f"{server.url}/close") is bool(limit)
            assert server.accepted == 4
        await world.close(agent)


async def test_a_socket_that_ends_with_an_error_takes_its_session_along(
    world: World, tls_server: Server, certificates: Certificates
) -> None:
    agent = Agent(verify=certificates.client())
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        assert not await resumed(world, client, f"{tls_server.url}/close")
        with pytest.raises(httpx.TransportError):
            await client.get(f"{tls_server.url}/garbage")
        assert not await resumed(world, client, f"{tls_server.url}/close")
    await world.close(agent)


async def test_origins_do_not_share_sessions(world: World, certificates: Certificates) -> None:
    with Server(tls=certificates.server()) as one, Server(tls=certificates.server()) as other:
        agent = Agent(verify=certificates.client())
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            assert not await resumed(world, client, f"{one.url}/close")
            assert not await resumed(world, client, f"{other.url}/close")
        await world.close(agent)


def test_at_the_limit_the_session_that_came_first_goes() -> None:
    """An update does not move it, as in Node."""
    cache = SessionCache(2)
    for key, session in [("a", "a1"), ("b", "b1"), ("a", "a2"), ("c", "c1")]:
        cache.put(key, session)  # type: ignore[arg-type]
    assert [cache.get(key) for key in "abc"] == [None, "b1", "c1"]
    cache.evict("b")
    cache.evict("nothing")
    assert cache.get("b") is None
    nothing = SessionCache(0)
    nothing.put("a", "a1")  # type: ignore[arg-type]
    assert nothing.get("a") is None
