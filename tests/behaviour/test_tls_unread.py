"""What TLS has received and nobody has read: in event loops it works on memory, of which a poll knows nothing."""

from __future__ import annotations

import fcntl
import ssl
import sys
import termios
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent._network import _holds_data
from httpx_agent.testing import UNASKED, ChaosServer, Gate, respond
from tests.support.servers import Certificates, Proxy
from tests.support.worlds import World

pytestmark = pytest.mark.both_engines

OK = respond(b"ok")


class Pair:
    """The two ends of a TLS connection over memory."""

    def __init__(self, certificates: Certificates) -> None:
        self.up, self.down = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = certificates.client().wrap_bio(self.down, self.up, server_hostname="localhost")
        self.server = certificates.server().wrap_bio(self.up, self.down, server_side=True)
        for end in (self.client, self.server, self.client, self.server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue


def nothing(pair: Pair) -> None:
    """Not even session tickets are for the reader."""


def bytes_(pair: Pair) -> None:
    pair.server.write(b"unasked")


def the_end(pair: Pair) -> None:
    with pytest.raises(ssl.SSLWantReadError):
        pair.server.unwrap()


def garbage(pair: Pair) -> None:
    pair.down.write(b"\x17\x03\x03\x00\x20" + bytes(32))


@pytest.mark.parametrize(
    ("what", "held"), [(nothing, False), (bytes_, True), (the_end, True), (garbage, True)], ids=lambda x: str(x)[:14]
)
def test_what_is_held(certificates: Certificates, what: Callable[[Pair], None], held: bool) -> None:
    pair = Pair(certificates)
    what(pair)
    assert _holds_data(pair.client) is held


def test_what_does_no_tls_holds_nothing() -> None:
    assert not _holds_data(None)


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
