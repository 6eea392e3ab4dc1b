"""How a socket is opened: names, several addresses, Unix sockets, and what an error tells of it."""

from __future__ import annotations

import asyncio
import errno
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import trio

from httpx_agent import Agent, AgentTransport
from httpx_agent._causes import walk_causes
from httpx_agent._network import Wire
from httpx_agent._resolver import resolver, without_zone_escape
from httpx_agent.testing import Network
from httpx_agent.testing._server import fill_backlog
from tests.support.raw import Peer, raw_server
from tests.support.servers import Certificates, Proxy, Server, Socks
from tests.support.worlds import World

pytestmark = pytest.mark.both_engines

PATIENT = httpx.Timeout(5.0)
BRIEF = httpx.Timeout(5.0, connect=0.05)


class Names:
    """Answers look-ups in the place of the system's, where a name is one of these."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.known: dict[str, list[str]] = {}
        self.silent: set[str] = set()
        self.asked: list[str] = []
        self.speak = threading.Event()
        self._system = socket.getaddrinfo
        patch.setattr(socket, "getaddrinfo", self)

    def __call__(self, host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:
        if flags & socket.AI_NUMERICHOST:  # by position, as those who replace it may expect
            return self._system(host, port, family, type, proto, flags)
        self.asked.append(host)
        if host in self.silent:
            self.speak.wait(10)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        if host in self.known:
            return [entry for each in self.known[host] for entry in self._system(each, port, family, type, proto)]
        return self._system(host, port, family, type, proto, flags)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    """Names of the test's own; silent ones speak at its end, so that no thread is left."""
    found = Names(monkeypatch)
    yield found
    found.speak.set()
    until = time.monotonic() + 10
    while resolver._look_ups:  # the next test's look-up of the same name would join one of this
        assert time.monotonic() < until
        time.sleep(0.001)


@contextmanager
def dead_address(port: int, host: str = "127.0.0.2") -> Iterator[None]:
    """Another address of this machine, whose port of that number gives no answer."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.bind((host, port))
        listener.listen(0)
        clients = fill_backlog(listener)
        try:
            yield
        finally:
            for client in clients:
                client.close()


def port_of(url: str) -> int:
    port = httpx.URL(url).port
    assert port is not None
    return port


# Several addresses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retries", [0, 2])
async def test_the_first_address_is_dead(world: World, server: Server, names: Names, retries: int) -> None:
    """RFC 8305: the next one is tried after a quarter of a second, whatever the connect timeout."""
    port = port_of(server.url)
    names.known["two.test"] = ["127.0.0.2", "127.0.0.1"]
    transport = AgentTransport(retries=retries)
    with dead_address(port):
        async with world.client(transport=transport, timeout=PATIENT, trust_env=False) as client:
            response = await client.get(f"http://two.test:{port}/")
            (held,) = transport.agent.sockets()
    assert response.status_code == 200
    assert held.peer_address == ("127.0.0.1", port)
    assert names.asked == ["two.test"]


async def test_the_usual_case_is_broken_ipv6(world: World, server: Server, names: Names) -> None:
    """Both families take turns: what is left of IPv6 does not come before the first of IPv4."""
    port = port_of(server.url)
    names.known["two.test"] = ["::1", "::1%1", "127.0.0.1"]
    transport = AgentTransport()
    with dead_address(port, "::1"):
        async with world.client(transport=transport, timeout=httpx.Timeout(5.0, connect=3.0)) as client:
            assert (await client.get(f"http://two.test:{port}/")).status_code == 200
            (held,) = transport.agent.sockets()
    assert held.peer_address == ("127.0.0.1", port)


async def test_the_first_address_refuses(world: World, server: Server, names: Names) -> None:
    port = port_of(server.url)
    names.known["two.test"] = ["127.0.0.3", "127.0.0.4", "127.0.0.1"]
    async with world.client(transport=AgentTransport(), timeout=PATIENT) as client:
        assert (await client.get(f"http://two.test:{port}/")).status_code == 200


async def test_an_address_that_the_system_refuses_at_once(world: World, server: Server, names: Names) -> None:
    """From a loopback address nothing leaves the machine."""
    port = port_of(server.url)
    names.known["two.test"] = ["255.255.255.255", "127.0.0.1"]
    async with world.client(transport=AgentTransport(local_address="127.0.0.1"), timeout=PATIENT) as client:
        assert (await client.get(f"http://two.test:{port}/")).status_code == 200


@pytest.mark.in_loops
async def test_an_attempt_that_succeeds_too_late_is_closed(
    world: World, server: Server, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although it was cancelled, when another one had come first."""
    port = port_of(server.url)
    names.known["two.test"] = ["127.0.0.2", "127.0.0.1"]
    begun: list[str] = []
    system = asyncio.selector_events.BaseSelectorEventLoop.sock_connect

    async def connect(loop: Any, sock: socket.socket, address: Any) -> None:
        begun.append(address[0])
        if len(begun) == 1:
            with anyio.CancelScope(shield=True):
                while len(begun) < 2:
                    await anyio.sleep(0.001)
                await anyio.sleep(0.01)  # the other one has won by then
        else:
            await system(loop, sock, address)

    monkeypatch.setattr(asyncio.selector_events.BaseSelectorEventLoop, "sock_connect", connect)
    async with world.client(transport=AgentTransport(), timeout=PATIENT) as client:
        assert (await client.get(f"http://two.test:{port}/")).status_code == 200


async def test_no_address_answers(world: World, server: Server, names: Names) -> None:
    """One deadline for all; the error lists what was tried."""
    port = port_of(server.url)
    names.known["none.test"] = ["127.0.0.2", "127.0.0.3"]
    timeout = httpx.Timeout(5.0, connect=0.4)
    with dead_address(port), dead_address(port, "127.0.0.3"):
        async with world.client(transport=AgentTransport(), timeout=timeout) as client:
            with pytest.raises(httpx.ConnectTimeout) as caught:
                await client.get(f"http://none.test:{port}/")
    assert f"(TCP; tried 127.0.0.2:{port}, 127.0.0.3:{port})" in str(caught.value)


async def test_every_address_refuses(world: World, server: Server, names: Names) -> None:
    port = port_of(server.url)
    names.known["none.test"] = [f"127.0.0.{number}" for number in range(2, 8)]
    async with world.client(transport=AgentTransport(), timeout=PATIENT) as client:
        with pytest.raises(httpx.ConnectError, match=r": \[Errno \d+\] Connection refused \(") as caught:
            await client.get(f"http://none.test:{port}/")
    assert f"(TCP; tried 127.0.0.2:{port}, 127.0.0.3:{port}, 127.0.0.4:{port} and 3 more)" in str(caught.value)


async def test_addresses_that_fail_in_different_ways(world: World, server: Server, names: Names) -> None:
    """Then it says of each what became of it."""
    port = port_of(server.url)
    names.known["none.test"] = ["127.0.0.3", "127.0.0.2"]
    timeout = httpx.Timeout(5.0, connect=0.3)
    with dead_address(port):
        async with world.client(transport=AgentTransport(), timeout=timeout) as client:
            with pytest.raises(httpx.ConnectTimeout) as caught:
                await client.get(f"http://none.test:{port}/")
    assert str(caught.value).endswith(
        f"(TCP; tried 127.0.0.3:{port} (Connection refused), 127.0.0.2:{port} (no answer))"
    )


async def test_tls_fails_at_one_of_several_addresses(
    world: World, tls_server: Server, names: Names, certificates: Certificates
) -> None:
    port = port_of(tls_server.url)
    names.known["two.test"] = ["127.0.0.3", "127.0.0.1"]
    async with world.client(transport=AgentTransport(verify=certificates.client()), timeout=PATIENT) as client:
        with pytest.raises(httpx.ConnectError, match="certificate") as caught:
            await client.get(f"https://two.test:{port}/")
    assert str(caught.value).endswith(
        f"(TLS with two.test; tried 127.0.0.3:{port} (Connection refused), 127.0.0.1:{port} (connected))"
    )


async def test_the_system_s_error_is_the_cause(world: World, server: Server, names: Names) -> None:
    port = port_of(server.url)
    names.known["none.test"] = ["127.0.0.2", "127.0.0.3"]
    async with world.client(transport=AgentTransport(), timeout=PATIENT) as client:
        for url in (f"http://none.test:{port}/", f"http://127.0.0.2:{port}/"):
            with pytest.raises(httpx.ConnectError) as caught:
                await client.get(url)
            causes = [type(found) for found in walk_causes(caught.value)]
            assert ConnectionRefusedError in causes


async def test_the_agent_is_closed_in_a_race(world: World, server: Server, names: Names) -> None:
    port = port_of(server.url)
    names.known["none.test"] = ["127.0.0.2", "127.0.0.3"]
    transport = AgentTransport()
    with dead_address(port), dead_address(port, "127.0.0.3"):
        async with world.client(transport=transport, timeout=PATIENT) as client, world.tasks() as tasks:
            job = tasks.start(client.get, f"http://none.test:{port}/")
            await world.until(lambda: bool(transport.agent.sockets()) and bool(names.asked))
            transport.agent.close()
            await job.wait()
    assert type(job.exception) is httpx.ConnectError
    assert "the agent was closed" in str(job.exception)


async def test_options_hold_for_every_attempt(world: World, server: Server, names: Names) -> None:
    """An address that cannot be bound for is one that failed."""
    port = port_of(server.url)
    names.known["two.test"] = ["127.0.0.2", "127.0.0.1"]
    transport = AgentTransport(local_address="127.0.0.9", socket_options=[(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)])
    with dead_address(port):
        async with world.client(transport=transport, timeout=PATIENT) as client:
            await client.get(f"http://two.test:{port}/")
            (held,) = transport.agent.sockets()
    assert isinstance(held.local_address, tuple)
    assert held.local_address[0] == "127.0.0.9"


async def test_only_addresses_of_the_local_one_s_family_are_tried(world: World, server: Server, names: Names) -> None:
    port = port_of(server.url)
    names.known["two.test"] = ["::1", "127.0.0.3"]
    names.known["six.test"] = ["::1"]
    names.known["none.test"] = []
    async with world.client(transport=AgentTransport(local_address="127.0.0.1"), timeout=PATIENT) as client:
        for host, told in (
            ("two.test", f"Connection refused (TCP; tried 127.0.0.3:{port}; from local_address='127.0.0.1')"),
            ("six.test", "There is no address of the family of local_address='127.0.0.1' (name look-up of six.test)"),
            ("none.test", "There is no address (name look-up of none.test)"),
        ):
            with pytest.raises(httpx.ConnectError) as caught:
                await client.get(f"http://{host}:{port}/")
            assert str(caught.value).endswith(told)


async def test_a_local_address_may_be_a_name(world: World, server: Server) -> None:
    async with world.client(transport=AgentTransport(local_address="localhost"), timeout=PATIENT) as client:
        assert (await client.get(server.url)).status_code == 200


async def test_a_connect_timeout_that_is_longer_than_the_system_can_wait(
    world: World, server: Server, names: Names
) -> None:
    port = port_of(server.url)
    names.known["two.test"] = ["127.0.0.3", "127.0.0.1"]
    timeout = httpx.Timeout(5.0, connect=1e11)
    async with world.client(transport=AgentTransport(), timeout=timeout) as client:
        assert (await client.get(server.url)).status_code == 200
        assert (await client.get(f"http://two.test:{port}/")).status_code == 200


def test_an_attempt_that_failed_holds_no_descriptor(
    server: Server, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a name with many addresses."""
    port = port_of(server.url)
    names.known["many.test"] = [*(f"127.0.1.{number}" for number in range(1, 100)), "127.0.0.2"]
    made: list[socket.socket] = []
    new_socket = Wire.new_socket

    def record(wire: Wire, *args: Any) -> socket.socket:
        made.append(new_socket(wire, *args))
        return made[-1]

    monkeypatch.setattr(Wire, "new_socket", record)
    agent = Agent()
    with dead_address(port), httpx.Client(transport=AgentTransport(agent=agent), timeout=None) as client:

        def ask() -> None:
            with pytest.raises(httpx.ConnectError, match="the agent was closed"):
                client.get(f"http://many.test:{port}/")

        asking = threading.Thread(target=ask)
        asking.start()
        until = time.monotonic() + 10
        while len(made) < 100 or sum(sock.fileno() >= 0 for sock in made) > 1:
            assert time.monotonic() < until
            time.sleep(0.001)
        agent.close()
        asking.join(10)
    assert all(sock.fileno() == -1 for sock in made)


def test_a_socket_that_is_broken_as_it_connects_is_closed(
    server: Server, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent is closed between the system's word that it is connected and ours."""
    names.known["two.test"] = ["127.0.0.3", "127.0.0.1"]
    agent = Agent()

    def is_connected(sock: Any) -> bool:
        try:
            return bool(sock.getpeername())
        except OSError:
            return False

    class Selector(selectors.SelectSelector):
        def select(self, timeout: float | None = None) -> Any:
            found = super().select(timeout)
            if any(is_connected(key.fileobj) for key, _ in found):
                threading.Thread(target=agent.close).start()
                (wire,) = [held.wire for held in agent._engine._sockets.values()]
                while not wire.broken:
                    time.sleep(0.001)
            return found

    monkeypatch.setattr("httpx_agent._connecting._Selector", Selector)
    with httpx.Client(transport=AgentTransport(agent=agent), timeout=PATIENT) as client:
        with pytest.raises(httpx.ConnectError, match="the agent was closed"):
            client.get(f"http://two.test:{port_of(server.url)}/")
    server.wait_closed()


def test_a_connect_that_the_system_cannot_take_now_is_a_failure(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    """EAGAIN: nothing is under way, though asking the socket for an error gives none."""
    names.known["two.test"] = ["127.0.0.3", "127.0.0.1"]
    monkeypatch.setattr(socket.socket, "connect_ex", lambda sock, address: errno.EAGAIN)
    with httpx.Client(transport=AgentTransport(), timeout=PATIENT) as client:
        with pytest.raises(httpx.ConnectError, match="temporarily unavailable"):
            client.get("http://two.test:9/")


async def test_no_attempt_can_be_bound(world: World, server: Server, names: Names) -> None:
    port = port_of(server.url)
    names.known["two.test"] = ["127.0.0.2", "127.0.0.1"]
    async with world.client(transport=AgentTransport(local_address="192.0.2.1"), timeout=PATIENT) as client:
        with pytest.raises(httpx.ConnectError, match=r"; from local_address='192\.0\.2\.1'\)$"):
            await client.get(f"http://two.test:{port}/")


async def test_an_option_that_cannot_be_set(world: World, server: Server) -> None:
    transport = AgentTransport(socket_options=[(-1, -1, 0)])
    async with world.client(transport=transport, timeout=PATIENT) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(server.url)


# Names ----------------------------------------------------------------------------------------------------------------


async def test_a_silent_name_ends_with_the_connect_timeout(world: World, names: Names) -> None:
    names.silent.add("silent.test")
    async with world.client(transport=AgentTransport(), timeout=BRIEF) as client:
        with pytest.raises(httpx.ConnectTimeout) as caught:
            await client.get("http://silent.test/")
    assert "no connection within 0.05 s" in str(caught.value)
    assert "(name look-up of silent.test)" in str(caught.value)


async def test_a_silent_name_ends_with_the_agent(world: World, names: Names) -> None:
    names.silent.add("silent.test")
    transport = AgentTransport()
    async with world.client(transport=transport, timeout=None) as client, world.tasks() as tasks:
        job = tasks.start(client.get, "http://silent.test/")
        await world.until(lambda: bool(names.asked))
        transport.agent.close()
        await job.wait()
    assert type(job.exception) is httpx.ConnectError


async def test_silent_names_hold_up_nobody_else(world: World, server: Server, names: Names) -> None:
    """An event loop's executor has some thirty threads at most, trio's limiter forty."""
    names.silent.update(f"silent{number}.test" for number in range(60))
    names.known["alive.test"] = ["127.0.0.1"]
    async with world.client(transport=AgentTransport(), timeout=httpx.Timeout(5.0, connect=4.0)) as client:
        async with world.tasks() as tasks:
            jobs = [tasks.start(client.get, f"http://{name}/") for name in sorted(names.silent)]
            await world.until(lambda: names.silent <= set(names.asked))
            response = await client.get(f"http://alive.test:{port_of(server.url)}/")
            names.speak.set()
            for job in jobs:
                await job.wait()
    assert response.status_code == 200
    assert all(type(job.exception) is httpx.ConnectError for job in jobs)


async def test_one_look_up_serves_all_who_ask(world: World, names: Names) -> None:
    names.silent.add("silent.test")
    async with world.client(transport=AgentTransport(), timeout=PATIENT) as client, world.tasks() as tasks:
        jobs = [tasks.start(client.get, "http://silent.test/") for _ in range(5)]
        found = resolver._look_ups
        await world.until(lambda: ("silent.test", 80) in found and len(found["silent.test", 80]._callbacks) == 5)
        names.speak.set()
        for job in jobs:
            await job.wait()
    assert names.asked == ["silent.test"]
    assert all("Temporary failure in name resolution" in str(job.exception) for job in jobs)


@pytest.mark.parametrize("zone", ["%25", "%"])
async def test_a_zone_is_looked_up_by_its_name(world: World, monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    """RFC 6874: `%25` is how a URL writes the `%` before a zone; the system knows `%`."""
    asked: list[str] = []

    def record(host: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", record)
    async with world.client(transport=AgentTransport(), timeout=PATIENT) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(f"http://[fe80::1{zone}eth0]/")
    assert set(asked) == {"fe80::1%eth0"}


@pytest.mark.parametrize("options", [{}, {"http2": True, "http1": False}], ids=["HTTP/1.1", "HTTP/2"])
async def test_a_zone_comes_to_the_socket(world: World, server: Server, names: Names, options: dict[str, Any]) -> None:
    """To an address of one link; without its zone the system takes it for an invalid one."""
    port = port_of(server.url)
    names.known["link.test"] = ["fe80::1%1", "fe80::2%1"]
    async with world.client(transport=AgentTransport(**options), timeout=BRIEF) as client:
        for host, tried in (("[fe80::1%251]", ["1"]), ("link.test", ["1", "2"])):
            with pytest.raises((httpx.ConnectError, httpx.ConnectTimeout)) as caught:
                await client.get(f"http://{host}:{port}/")
            assert "Invalid argument" not in str(caught.value)
            for number in tried:
                assert f"[fe80::{number}%1]:{port}" in str(caught.value)


@pytest.mark.parametrize("given", [None, "[fe80::1%25eth0]:81"])
async def test_a_zone_is_not_sent(world: World, given: str | None) -> None:
    """RFC 6874, 4: it means something on this machine only."""
    network = Network()
    headers = {"Host": given} if given else {}
    async with world.client(transport=AgentTransport(**network.options)) as client:
        await client.get("http://[fe80::1%25eth0]:81/a%25b", headers={**headers, "X-Other": "[fe80::1%25eth0]"})
    head = network.connections[0].heads[0]
    assert b"Host: [fe80::1]:81\r\n" in head
    assert b"X-Other: [fe80::1%25eth0]\r\n" in head
    assert head.startswith(b"GET /a%25b ")


@pytest.mark.parametrize(
    ("host", "system"),
    [
        ("fe80::1%25eth0", "fe80::1%eth0"),
        ("fe80::1%252", "fe80::1%2"),
        ("fe80::1%25my%2Dlink", "fe80::1%my-link"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("::1", "::1"),
        ("a%25b.test", "a%25b.test"),
    ],
)
def test_how_a_zone_is_decoded(host: str, system: str) -> None:
    assert without_zone_escape(host) == system


def test_trio_s_own_hook_for_names_is_heard(server: Server) -> None:
    class Hook(trio.abc.HostnameResolver):
        async def getaddrinfo(self, host: Any, port: Any, *args: Any) -> Any:
            asked.append(host)
            return socket.getaddrinfo("127.0.0.1", port, 0, socket.SOCK_STREAM)

        async def getnameinfo(self, *args: Any) -> Any:
            raise NotImplementedError

    async def main() -> None:
        trio.socket.set_custom_hostname_resolver(Hook())
        async with httpx.AsyncClient(transport=AgentTransport(), timeout=PATIENT) as client:
            assert (await client.get(f"http://hooked.test:{port_of(server.url)}/")).status_code == 200

    asked: list[Any] = []
    trio.run(main)
    assert asked == [b"hooked.test"]


# Unix sockets ---------------------------------------------------------------------------------------------------------


@contextmanager
def full_queue(path: Path) -> Iterator[Callable[[], None]]:
    """A Unix socket whose queue is full; call it to make room, and have one request answered."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        clients: list[socket.socket] = []
        while True:
            client = socket.socket(socket.AF_UNIX)
            clients.append(client)
            client.setblocking(False)
            try:
                client.connect(str(path))
            except BlockingIOError:
                break
        accepted: list[socket.socket] = []

        def serve() -> None:
            listener.settimeout(5)
            for _ in clients[1:]:
                accepted.append(listener.accept()[0])
            sock, _ = listener.accept()
            accepted.append(sock)
            sock.recv(65536)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

        thread = threading.Thread(target=serve)
        try:
            yield thread.start
        finally:
            if thread.ident is not None:
                thread.join(10)
            for sock in (*clients, *accepted):
                sock.close()


async def test_a_full_queue_is_waited_for(world: World, tmp_path: Path) -> None:
    path = tmp_path / "s"
    transport = AgentTransport(uds=str(path))
    with full_queue(path) as make_room:
        async with world.client(transport=transport, timeout=PATIENT) as client, world.tasks() as tasks:
            job = tasks.start(client.get, "http://unix/")
            await world.until(lambda: bool(transport.agent.sockets()))
            make_room()
            await job.wait()
    assert job.result().text == "ok"


@pytest.mark.parametrize("options", [{}, {"http2": True, "http1": False}], ids=["HTTP/1.1", "HTTP/2"])
async def test_a_queue_that_stays_full(
    world: World, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tries again and again, but not all the time: with pauses of up to 0.05 s."""
    path = tmp_path / "s"
    tries: list[Any] = []
    connect = socket.socket.connect

    def count(sock: socket.socket, address: Any) -> None:
        tries.append(address)
        connect(sock, address)

    with full_queue(path):
        monkeypatch.setattr(socket.socket, "connect", count)
        async with world.client(transport=AgentTransport(uds=str(path), **options), timeout=BRIEF) as client:
            with pytest.raises(httpx.ConnectTimeout) as caught:
                await client.get("http://unix/")
    assert f"(Unix socket to unix:80; tried {path})" not in str(caught.value)
    assert f"(Unix socket; tried {path})" in str(caught.value)
    assert 0 < len(tries) < 12


@pytest.mark.in_loops
@pytest.mark.parametrize("anyio_is_old", [False, True])
async def test_http2_over_a_unix_socket(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anyio_is_old: bool
) -> None:
    path = str(tmp_path / "s")
    if anyio_is_old:
        for kind in (anyio.abc.UNIXSocketStream, anyio.abc.SocketStream):
            monkeypatch.delattr(kind, "from_socket")
    with Server(uds=path, h2=True) as server:
        async with world.client(transport=AgentTransport(uds=path, http2=True, http1=False), timeout=PATIENT) as client:
            response = await client.get("http://unix/")
            assert (response.status_code, response.http_version) == (200, "HTTP/2")
        options = {"socket_options": [(-1, -1, 0)]}
        async with world.client(transport=AgentTransport(uds=path, http2=True, http1=False, **options)) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get("http://unix/")
        server.wait_closed()


async def test_an_option_that_a_unix_socket_does_not_take(world: World, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with Server(uds=path) as server:
        transport = AgentTransport(uds=path, socket_options=[(-1, -1, 0)])
        async with world.client(transport=transport, timeout=PATIENT) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get("http://unix/")
        server.wait_closed()


async def test_a_queue_that_stays_full_until_the_agent_is_closed(world: World, tmp_path: Path) -> None:
    path = tmp_path / "s"
    transport = AgentTransport(uds=str(path))
    with full_queue(path):
        async with world.client(transport=transport, timeout=None) as client, world.tasks() as tasks:
            job = tasks.start(client.get, "http://unix/")
            await world.until(lambda: bool(transport.agent.sockets()))
            transport.agent.close()
            await job.wait()
    assert type(job.exception) is httpx.ConnectError


async def test_no_unix_socket_is_there(world: World, tmp_path: Path) -> None:
    path = tmp_path / "nothing"
    async with world.client(transport=AgentTransport(uds=str(path)), timeout=PATIENT) as client:
        with pytest.raises(httpx.ConnectError, match="No such file") as caught:
            await client.get("http://unix/")
    assert f"(Unix socket; tried {path})" in str(caught.value)


# What errors tell -----------------------------------------------------------------------------------------------------


@contextmanager
def refused_port() -> Iterator[int]:
    """A port that nobody listens on, and that nobody else gets meanwhile."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@pytest.mark.parametrize("url", ["http://origin.test/", "https://origin.test/"])
@pytest.mark.parametrize("scheme", ["http", "https", "socks5"])
async def test_a_proxy_that_is_down(world: World, url: str, scheme: str) -> None:
    """It is the proxy that refuses, not the origin."""
    with refused_port() as port:
        transport = AgentTransport(proxy=f"{scheme}://user:secret@127.0.0.1:{port}")
        async with world.client(transport=transport, timeout=PATIENT) as client:
            with pytest.raises(httpx.ConnectError) as caught:
                await client.get(url)
    told = str(caught.value)
    assert told.endswith(f"(TCP to proxy {scheme}://127.0.0.1:{port}; tried 127.0.0.1:{port})")
    assert "secret" not in told


async def test_a_proxy_that_has_no_address(world: World, names: Names) -> None:
    names.known["proxy.test"] = []
    names.silent.add("proxy.test")
    async with world.client(transport=AgentTransport(proxy="http://proxy.test:3128"), timeout=BRIEF) as client:
        with pytest.raises(httpx.ConnectTimeout) as caught:
            await client.get("http://origin.test/")
    assert str(caught.value).endswith("(name look-up of proxy.test for proxy http://proxy.test:3128)")


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["hangs up", "speaks HTTP"])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_does_not_speak_socks(world: World, answer: bytes, scheme: str) -> None:
    """No error of the package that reads its answers comes out."""

    def serve(peer: Peer) -> None:
        peer.sock.recv(100)
        peer.send(answer)

    with raw_server(serve) as url:
        netloc = f"127.0.0.1:{port_of(url)}"
        async with world.client(transport=AgentTransport(proxy=f"socks5://{netloc}"), timeout=PATIENT) as client:
            with pytest.raises(httpx.ProxyError) as caught:
                await client.get(f"{scheme}://origin.test/")
    assert str(caught.value).endswith(
        "the proxy hung up, or does not speak SOCKS5 (Malformed reply) "
        f"(proxy handshake with proxy socks5://{netloc}; tried {netloc})"
    )


async def test_an_origin_that_is_no_tls_server_behind_a_proxy(world: World, server: Server) -> None:
    with Proxy() as proxy:
        async with world.client(transport=AgentTransport(proxy=proxy.url), timeout=BRIEF) as client:
            with pytest.raises((httpx.ConnectError, httpx.ConnectTimeout)) as caught:
                await client.get(server.url.replace("http:", "https:"))
    assert f"(TLS with 127.0.0.1 through proxy {proxy.url}; tried 127.0.0.1:{port_of(proxy.url)})" in str(caught.value)


async def test_a_proxy_that_is_no_tls_server(world: World, server: Server) -> None:
    with Proxy() as proxy:
        url = proxy.url.replace("http:", "https:")
        async with world.client(transport=AgentTransport(proxy=url), timeout=BRIEF) as client:
            with pytest.raises((httpx.ConnectError, httpx.ConnectTimeout)) as caught:
                await client.get(server.url)
    assert f"(TLS with proxy {url}; tried 127.0.0.1:{port_of(proxy.url)})" in str(caught.value)


async def test_retries_are_counted(world: World) -> None:
    with refused_port() as port:
        async with world.client(transport=AgentTransport(retries=1), timeout=PATIENT) as client:
            with pytest.raises(httpx.ConnectError) as caught:
                await client.get(f"http://127.0.0.1:{port}/")
    assert str(caught.value).endswith(f"(TCP; tried 127.0.0.1:{port}; attempt 2)")


async def test_after_its_opening_nothing_is_told_of_it(world: World, server: Server) -> None:
    """Through a SOCKS proxy the socket counts as usable with its first response only."""
    timeout = httpx.Timeout(5.0, read=0.05)
    with Socks() as socks:
        async with world.client(transport=AgentTransport(proxy=socks.url), timeout=timeout) as client:
            with pytest.raises(httpx.ReadTimeout) as caught:
                await client.get(f"{server.url}/silence")
    assert str(caught.value).endswith("(read timeout; the request's own, or the agent's `timeout`)")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_looks_up_names_with_threads_of_its_own(server: Server, names: Names) -> None:
    """Also while its parent waits for a silent one."""
    names.silent.add("silent.test")
    names.known["alive.test"] = ["127.0.0.1"]
    agent = Agent()
    with httpx.Client(transport=AgentTransport(agent=agent), timeout=httpx.Timeout(5.0, connect=3.0)) as client:

        def wait() -> None:
            with pytest.raises(httpx.ConnectError):
                client.get("http://silent.test/")

        waiting = threading.Thread(target=wait)
        waiting.start()
        while not names.asked:
            os.sched_yield()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                response = client.get(f"http://alive.test:{port_of(server.url)}/")
                status = int(response.status_code != 200)
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        names.speak.set()
        waiting.join(5)
    agent.close()


def test_a_certificate_is_checked_for_the_name_that_was_asked(certificates: Certificates, tls_server: Server) -> None:
    """The phase is told there as well."""
    with httpx.Client(transport=AgentTransport()) as client, pytest.raises(httpx.ConnectError) as caught:
        client.get(tls_server.url)
    assert "CERTIFICATE_VERIFY_FAILED" in str(caught.value)
    assert "(TLS with " in str(caught.value)
