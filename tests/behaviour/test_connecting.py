"""How a socket is opened: names, several addresses, Unix sockets, and what an error says about it."""

from __future__ import annotations

import asyncio
import errno
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent._network.wire import Wire
from httpx_agent._runtime.causes import walk_causes
from httpx_agent.testing import Network
from httpx_agent.testing._server import fill_backlog
from tests.support.names import Names, port_of
from tests.support.servers import Certificates, Server, Socks, refusing_port
from tests.support.worlds import World

pytestmark = pytest.mark.both_engines


PATIENT = httpx.Timeout(5.0)

URL = "http://a.test/"


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
    timeout = httpx.Timeout(5.0, connect=1.0)
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
            (
                "six.test",
                "The name has no address of the same family as local_address='127.0.0.1' (name look-up of six.test)",
            ),
            ("none.test", "The name has no address (name look-up of none.test)"),
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
                (wire,) = [held.wire for held in agent._dispatcher._sockets.values()]
                while not wire.broken:
                    time.sleep(0.001)
            return found

    monkeypatch.setattr("httpx_agent._network.connecting._Selector", Selector)
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


async def test_retries_are_counted(world: World) -> None:
    with refusing_port() as port:
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
    assert str(caught.value).endswith("(read timeout, set by the request or by the agent's `timeout`)")


def test_a_certificate_is_checked_for_the_name_that_was_asked(certificates: Certificates, tls_server: Server) -> None:
    """The phase is told there as well."""
    with httpx.Client(transport=AgentTransport()) as client, pytest.raises(httpx.ConnectError) as caught:
        client.get(tls_server.url)
    assert "CERTIFICATE_VERIFY_FAILED" in str(caught.value)
    assert "(TLS with " in str(caught.value)


async def test_a_connection_that_cannot_even_be_made(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a TLS context that is only built when it is needed: the slot is free again."""
    network = Network()
    agent = Agent(max_sockets=1, **network.options)

    def fail(*_: object) -> None:
        raise RuntimeError("no context")

    async with world.client(transport=AgentTransport(agent=agent)) as client:
        with monkeypatch.context() as patch:
            patch.setattr(agent._dispatcher.factory, "sync_connection", fail)
            patch.setattr(agent._dispatcher.factory, "async_connection", fail)
            with pytest.raises(RuntimeError, match="no context"):
                await client.get(URL)
        assert agent.status().create_socket_error_count == 1
        assert (await client.get(URL)).status_code == 200
    await world.close(agent)
