"""Data that TLS has received and nothing has read: in event loops it is in memory, where a poll cannot see it."""

from __future__ import annotations

import fcntl
import sys
import termios
from typing import Any

import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import UNASKED, ChaosServer, Gate, respond
from tests.support.servers import Certificates, Proxy
from tests.support.worlds import World

pytestmark = pytest.mark.both_engines


OK = respond(b"ok")


async def ask_twice(world: World, agent: Agent, server: ChaosServer, method: str, *, proxied: bool) -> None:
    """The end of the first response comes with a second one, in one piece as far as the client is concerned."""
    for _ in range(2):
        gate = Gate()
        server.next([OK[:-2], gate, OK[-2:], UNASKED])
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            async with client.stream("GET", server.url) as response:
                sock = response.extensions["network_stream"].get_extra_info("socket")
                gate.open()
                await world.until(lambda: server.idle == 1)  # both are sent, and on loopback that is received
                if proxied:  # at least so much has come then; a record of TLS 1.3 costs 22 bytes
                    await world.until(lambda sock=sock: unread(sock) >= 2 + len(UNASKED) + 3 * 22)
                assert await response.aread() == b"ok"
            again = await client.request(method, server.url)
            assert (again.status_code, again.text) == (200, "ok")
            assert not again.extensions["agent"].reused


def unread(sock: Any) -> int:
    """Bytes that the system holds for a socket."""
    return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_second_response_that_came_with_the_first_is_nobodys(
    world: World, certificates: Certificates, method: str
) -> None:
    """In a TLS record of its own, but received at once, so that the socket does not look readable."""
    with ChaosServer(ssl_context=certificates.server(), must_be_closed=True) as server:
        agent = Agent(verify=certificates.client())
        await ask_twice(world, agent, server, method, proxied=False)
        await world.close(agent)


async def test_the_same_through_tls_within_tls(world: World, certificates: Certificates) -> None:
    with ChaosServer(ssl_context=certificates.server()) as server, Proxy(tls=certificates.server()) as proxy:
        via = httpx.Proxy(proxy.url, ssl_context=certificates.client())
        agent = Agent(verify=certificates.client(), proxy=via)
        await ask_twice(world, agent, server, "GET", proxied=True)
        await world.close(agent)
        server.wait_closed()
