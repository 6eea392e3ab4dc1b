"""The options set on the agent's sockets (R26), as the system reports them.

The answers come from the descriptors of this process, not from a stream that the agent hands out. How
`keep_alive_initial_delay` becomes seconds is shown in `tests/behaviour/test_keep_alive.py`.
"""

from __future__ import annotations

import math
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import timedelta
from typing import Any, NamedTuple

import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import Answer, Connection, Network, Script, respond
from tests.support.servers import Certificates, Proxy, Server, Socks
from tests.support.worlds import World

KEEP_IDLE = getattr(socket, "TCP_KEEPIDLE", None) or socket.TCP_KEEPALIVE

ROUTES = ["http", "https", "forward", "tunnel", "tunnel in TLS", "socks"]

URL = "http://a.test/"

ON = (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

MINE = (socket.IPPROTO_TCP, KEEP_IDLE, 9)


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


def idle(seconds: int) -> tuple[int, int, int]:
    return (socket.IPPROTO_TCP, KEEP_IDLE, seconds)


@pytest.mark.rule("R26")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (ON, idle(1))),
        ({"keep_alive_initial_delay": 0.001}, (ON, idle(1))),
        ({"keep_alive_initial_delay": 1.5}, (ON, idle(2))),
        ({"keep_alive_initial_delay": 60}, (ON, idle(60))),
        ({"keep_alive_initial_delay": timedelta(minutes=2, milliseconds=1)}, (ON, idle(121))),
        ({"keep_alive_initial_delay": 10**9}, (ON, idle(32767))),  # the most that Linux takes
        ({"keep_alive_initial_delay": None}, ()),
        ({"keep_alive_initial_delay": math.inf}, ()),
        ({"keep_alive": False}, ()),
        ({"keep_alive": False, "max_sockets": 1}, ()),
        ({"keep_alive": False, "socket_options": [MINE]}, (MINE,)),
        ({"keep_alive_initial_delay": 60, "socket_options": [MINE]}, (ON, idle(60), MINE)),
        ({"keep_alive_initial_delay": None, "socket_options": [MINE]}, (MINE,)),
    ],
    ids=str,
)
async def test_what_a_connect_is_told(world: World, options: dict[str, Any], expected: tuple[Any, ...]) -> None:
    """Rounded up to whole seconds; the user's own options last, so that they win."""
    network = Network()
    agent = Agent(**options, **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
    (connect,) = [op for op in network.ops if op.name == "connect"]
    assert tuple(connect.details["socket_options"]) == expected
    assert connect.details["local_address"] is None
    await world.close(agent)


@pytest.mark.rule("R26", "N26")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (1, 1)),
        ({"keep_alive_initial_delay": 41.5}, (1, 42)),
        ({"keep_alive_initial_delay": 41.5, "socket_options": [MINE]}, (1, 9)),
        ({"keep_alive_initial_delay": None}, None),
        ({"keep_alive": False}, None),
        ({"keep_alive_initial_delay": 10**9}, (1, 32767)),
    ],
    ids=str,
)
async def test_what_the_system_has_been_told(
    world: World, server: Server, options: dict[str, Any], expected: tuple[int, int] | None
) -> None:
    """Interval and count of the probes stay the system's."""
    with socket.socket() as untouched:
        default = read_options(untouched)
    agent = Agent(**options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with client.stream("GET", server.url) as response:
            sock = response.extensions["network_stream"].get_extra_info("socket")
            got = read_options(sock)
    assert got[:2] == (default[:2] if expected is None else expected)
    assert got[2:] == default[2:]
    await world.close(agent)


def read_options(sock: Any) -> tuple[int, ...]:
    """Whether probes are sent, after how long, how often and how many."""
    names = [KEEP_IDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT]
    on = int(bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)))
    return (on, *(sock.getsockopt(socket.IPPROTO_TCP, name) for name in names))


async def test_a_unix_socket_gets_the_user_s_options_only(world: World) -> None:
    network = Network()
    mine = (socket.SOL_SOCKET, socket.SO_SNDBUF, 5000)
    agent = Agent(uds="/run/a.socket", socket_options=[mine], **network.options)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(URL)
    (connect,) = [op for op in network.ops if op.name == "connect"]
    assert (connect.details["host"], tuple(connect.details["socket_options"])) == ("/run/a.socket", (mine,))
    await world.close(agent)


# Through proxies ------------------------------------------------------------------------------------------------------
def socks_proxy(connection: Connection, data: bytes) -> Answer:
    """The other end of a SOCKS connection without credentials, and of the server behind it."""
    if data == b"\x05\x01\x00":
        return b"\x05\x00"
    return b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50" if data[:2] == b"\x05\x01" else respond()


@pytest.mark.rule("R26")
@pytest.mark.parametrize(
    ("proxy", "url", "script"),
    [
        ("http://proxy.test:3128", "http://a.test/", Script()),
        ("http://proxy.test:3128", "https://a.test/", Script(b"HTTP/1.1 200 OK\r\n\r\n")),
        ("https://proxy.test:3128", "http://a.test/", Script()),
        ("socks5://proxy.test:3128", "http://a.test/", Script(raw=socks_proxy)),
        ("socks5h://proxy.test:3128", "https://a.test/", Script(raw=socks_proxy)),
    ],
    ids=["forward", "tunnel", "TLS to the proxy", "socks5", "socks5h"],
)
async def test_address_and_options_hold_through_proxies(world: World, proxy: str, url: str, script: Script) -> None:
    """Where httpcore drops them."""
    network = Network(script)
    agent = Agent(
        proxy=proxy,
        local_address="127.0.0.2",
        keep_alive_initial_delay=7,
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        **network.options,
    )
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        assert (await client.get(url)).status_code == 200
    (connect,) = [op for op in network.ops if op.name == "connect"]
    assert (connect.details["host"], connect.details["port"]) == ("proxy.test", 3128)
    assert connect.details["local_address"] == "127.0.0.2"
    expected = (ON, idle(7), (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1))
    assert tuple(connect.details["socket_options"]) == expected
    await world.close(agent)


@pytest.mark.parametrize("kind", ["direct", "forward", "tunnel", "socks"])
async def test_on_real_sockets_too(world: World, kind: str, server: Server, certificates: Certificates) -> None:
    """What the proxy, or the server, sees as the client's address, and what the socket was told."""
    with Proxy() as http_proxy, Socks() as socks, Server(tls=certificates.server()) as secure:
        proxy, peer_of = {
            "direct": (None, server),
            "forward": (http_proxy.url, http_proxy),
            "tunnel": (http_proxy.url, http_proxy),
            "socks": (socks.url, socks),
        }[kind]
        url = secure.url if kind == "tunnel" else server.url
        agent = Agent(proxy=proxy, local_address="127.0.0.2", keep_alive_initial_delay=7, verify=certificates.client())
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            async with client.stream("GET", f"{url}/echo") as response:
                assert response.status_code == 200
                assert peer_of.peers[0].sock.getpeername()[0] == "127.0.0.2"
                (info,) = agent.sockets()
                assert info.peer_address == ("127.0.0.1", peer_of.port)
                assert info.local_address == peer_of.peers[0].sock.getpeername()
                sock = response.extensions["network_stream"].get_extra_info("socket")
                assert read_options(sock)[:2] == (1, 7)
        await world.close(agent)
