"""What the system was told about the agent's sockets (R26), asked of the system itself.

The answers come from the descriptors of this process, not from a stream that the agent hands out. How
`keep_alive_initial_delay` becomes seconds is shown in `tests/behaviour/test_keep_alive.py`.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from tests.support.servers import Certificates, Proxy, Server, Socks
from tests.support.worlds import World

KEEP_IDLE = getattr(socket, "TCP_KEEPIDLE", None) or socket.TCP_KEEPALIVE
ROUTES = ["http", "https", "forward", "tunnel", "tunnel in TLS", "socks"]


class Told(NamedTuple):
    """What `getsockopt` says."""

    no_delay: int
    keep_alive: int
    keep_idle: int


def told_of_sockets_to(port: int) -> list[Told]:
    """The options of every socket of this process whose other end is that port of this machine."""
    return [
        Told(
            int(bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))),
            int(bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))),
            sock.getsockopt(socket.IPPROTO_TCP, KEEP_IDLE),
        )
        for sock in sockets_to(port)
    ]


def sockets_to(port: int) -> Iterator[socket.socket]:
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):  # it was the listing's own, or is closed meanwhile
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                with socket.socket(fileno=os.dup(int(name))) as sock:
                    if sock.family == socket.AF_INET and sock.getpeername() == ("127.0.0.1", port):
                        yield sock


def system_default() -> int:
    with socket.socket() as untouched:
        return untouched.getsockopt(socket.IPPROTO_TCP, KEEP_IDLE)


class Way:
    """A server, and a proxy before it where the route has one."""

    def __init__(self, route: str, certificates: Certificates, stack: ExitStack) -> None:
        tls = route in ("https", "tunnel", "tunnel in TLS")
        server = stack.enter_context(Server(tls=certificates.server() if tls else None))
        self.url = f"{server.url}/echo"
        self.options: dict[str, Any] = {"verify": certificates.client()}
        self.port = server.port
        proxy: Server
        if route == "socks":
            proxy = stack.enter_context(Socks())
            self.options["proxy"] = proxy.url
            self.port = proxy.port
        elif route not in ("http", "https"):
            context = certificates.server() if route == "tunnel in TLS" else None
            proxy = stack.enter_context(Proxy(tls=context))
            self.options["proxy"] = httpx.Proxy(proxy.url, ssl_context=context and certificates.client())
            self.port = proxy.port


@pytest.fixture(params=ROUTES)
def way(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[Way]:
    with ExitStack() as stack:
        yield Way(request.param, certificates, stack)


@pytest.mark.rule("R26")
async def test_by_default_no_delay_is_on_and_probes_begin_after_a_second(world: World, way: Way, engine: str) -> None:
    """In use, free, and in use again; to the proxy, where there is one."""
    agent = Agent(http1_engine=engine, **way.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        for turn in range(2):
            async with client.stream("GET", way.url) as response:
                assert response.extensions["agent"].reused is bool(turn)
                assert told_of_sockets_to(way.port) == [Told(1, 1, 1)]
                await response.aread()
            assert told_of_sockets_to(way.port) == [Told(1, 1, 1)]
    await world.close(agent)
    assert told_of_sockets_to(way.port) == []


@pytest.mark.rule("R26")
@pytest.mark.parametrize(
    "options", [{"keep_alive_initial_delay": None}, {"keep_alive": False, "max_sockets": 1}], ids=str
)
async def test_without_probes_no_delay_is_on_all_the_same(
    world: World, way: Way, engine: str, options: dict[str, Any]
) -> None:
    agent = Agent(http1_engine=engine, **options, **way.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with client.stream("GET", way.url):
            assert told_of_sockets_to(way.port) == [Told(1, 0, system_default())]
    await world.close(agent)


@pytest.mark.rule("R26", "N26", "A10")
async def test_socket_options_come_last_and_win(world: World, way: Way, engine: str) -> None:
    """Over each of the three; A10: in agentkeepalive `noDelay: false` had no effect."""
    options = [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 0),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0),
        (socket.IPPROTO_TCP, KEEP_IDLE, 77),
    ]
    agent = Agent(http1_engine=engine, keep_alive_initial_delay=5, socket_options=options, **way.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with client.stream("GET", way.url):
            assert told_of_sockets_to(way.port) == [Told(0, 0, 77)]
    await world.close(agent)
