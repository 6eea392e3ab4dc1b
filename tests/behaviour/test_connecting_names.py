"""Names on the way to a socket: how they are looked up, what waits for that, and IPv6 zones."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

import httpx
import pytest
import trio

from httpx_agent import Agent, AgentTransport
from httpx_agent._network.resolver import resolver
from httpx_agent.testing import Network
from tests.support.names import Names, port_of
from tests.support.servers import Server
from tests.support.worlds import World

pytestmark = pytest.mark.both_engines


PATIENT = httpx.Timeout(5.0)

BRIEF = httpx.Timeout(5.0, connect=0.05)


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


async def test_a_host_name_that_cannot_be_encoded(world: World) -> None:
    agent = Agent()
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(f"http://{'a' * 64}.test/")
    assert agent.status().create_socket_error_count == 1
    await world.close(agent)
