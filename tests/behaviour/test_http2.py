"""HTTP/2: in an event loop many requests share a socket, in the sync world each has its own."""

from __future__ import annotations

import ssl
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import FIN, HANG, REFUSED, Connection, Gate, Network, Script, http2, respond
from tests.bugs.stock import Stack
from tests.support.servers import Certificates, Server
from tests.support.worlds import World

URL = "https://a.test/"

CONTEXT = ssl.create_default_context()


@pytest.fixture
def verify(certificates: Certificates) -> Any:
    return certificates.client()


@pytest.fixture
def two_streams(certificates: Certificates) -> Iterator[Server]:
    with Server(tls=certificates.server(alpn=["h2"]), max_concurrent_streams=2) as running:
        yield running


async def at_once(world: World, client: Any, server: Server, count: int) -> list[Any]:
    """Makes requests that are all at the server before the first is answered."""
    gate = server.gate("all")
    async with world.tasks() as tasks:
        jobs = [tasks.start(client.get, f"{server.url}/hold/all") for _ in range(count)]
        await world.until(lambda: len(server.requests) == count)
        gate.open()
    return [job.result() for job in jobs]


async def test_twenty_requests_at_once(world: World, h2_server: Server, verify: Any) -> None:
    """Cold: the first opens a socket, the others wait for its protocol and then share it; sync ones do not share."""
    agent = Agent(http2=True, verify=verify)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        responses = await at_once(world, client, h2_server, 20)
        assert {response.http_version for response in responses} == {"HTTP/2"}
        sockets = 20 if world.is_sync else 1
        assert h2_server.accepted == sockets
        assert agent.status().create_socket_count == sockets
        assert {info.http_version for info in agent.sockets()} == {"HTTP/2"}
        assert sum(info.request_count for info in agent.sockets()) == 20
        assert (await client.get(f"{h2_server.url}/echo")).extensions["agent"].reused
        assert h2_server.accepted == sockets
    await world.close(agent)


async def test_twenty_requests_to_a_server_without_http2(world: World, tls_server: Server, verify: Any) -> None:
    """When the first socket turns out HTTP/1.1, all go on at once, and the origin's protocol is remembered."""
    agent = Agent(http2=True, verify=verify)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        responses = await at_once(world, client, tls_server, 20)
        assert {response.http_version for response in responses} == {"HTTP/1.1"}
        assert tls_server.accepted == 20
    await world.close(agent)


async def test_the_servers_limit_on_streams_opens_another_socket(
    world: World, two_streams: Server, verify: Any
) -> None:
    agent = Agent(http2=True, verify=verify)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await at_once(world, client, two_streams, 6)
        assert two_streams.accepted == (6 if world.is_sync else 3)
        assert [peer.peak_streams for peer in two_streams.peers] == ([1] * 6 if world.is_sync else [2, 2, 2])
    await world.close(agent)


async def test_streams_wait_where_no_socket_may_be_opened(world: World, two_streams: Server, verify: Any) -> None:
    agent = Agent(http2=True, verify=verify, max_sockets=1)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        responses = await world.gather(*[lambda: client.get(f"{two_streams.url}/echo")] * 20)
        assert [response.status_code for response in responses] == [200] * 20
        assert two_streams.accepted == 1
        assert two_streams.peers[0].peak_streams <= 2
    assert agent.status().request_count == 20
    await world.close(agent)


async def test_without_tls_to_a_server_that_is_known_to_speak_it(world: World) -> None:
    with Server(h2=True) as server:
        agent = Agent(http1=False, http2=True)
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            responses = await at_once(world, client, server, 5)
            assert {response.http_version for response in responses} == {"HTTP/2"}
            assert server.accepted == (5 if world.is_sync else 1)
        await world.close(agent)


async def test_a_large_body_both_ways(world: World, h2_server: Server, verify: Any) -> None:
    agent = Agent(http2=True, verify=verify)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        down = await client.get(f"{h2_server.url}/bytes/3000000")
        assert len(down.content) == 3_000_000
        up = await client.post(f"{h2_server.url}/echo", content=b"x" * 300_000)
        assert up.json()["length"] == 300_000
        assert h2_server.accepted == 1
    await world.close(agent)


async def test_a_goaway_retires_the_socket(world: World, h2_server: Server, verify: Any) -> None:
    """What runs is finished, the next request opens another socket."""
    agent = Agent(http2=True, verify=verify)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        await client.get(f"{h2_server.url}/echo")
        h2_server.goaway()
        await world.until(lambda: h2_server.open == 0)
        response = await client.get(f"{h2_server.url}/echo")
        assert response.status_code == 200
        assert h2_server.accepted == 2
    await world.close(agent)


async def test_a_free_connection_that_its_server_closed_is_noticed(
    world: World, h2_server: Server, verify: Any
) -> None:
    """B11: by the watch; and were it late, by the look before use."""
    agent = Agent(http2=True, verify=verify)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        for _ in range(3):
            assert (await client.post(f"{h2_server.url}/echo", content=b"x")).status_code == 200
            h2_server.peers[-1].command("fin")
            await world.until(lambda: agent.sockets() == ())
    assert h2_server.accepted == 3
    await world.close(agent)


async def test_a_response_closed_early_retires_the_socket(world: World, h2_server: Server, verify: Any) -> None:
    """R23: its bytes would go on filling the connection; the other streams on it are finished first."""
    agent = Agent(http2=True, verify=verify)
    url = f"{h2_server.url}/bytes/3000000"
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with client.stream("GET", url) as whole:
            async with client.stream("GET", url):
                pass
            assert len(await whole.aread()) == 3_000_000
        await world.until(lambda: len(agent.sockets()) == (1 if world.is_sync else 0))
        assert agent.status().request_count == 1
        assert agent.status().request_error_count == 1
    await world.close(agent)


async def test_a_head_response_that_is_not_read_keeps_its_socket(world: World, h2_server: Server, verify: Any) -> None:
    agent = Agent(http2=True, verify=verify)
    async with world.client(transport=AgentTransport(agent=agent)) as client:
        async with client.stream("GET", f"{h2_server.url}/status/204"):
            pass
        assert len(agent.sockets()) == 1
        assert agent.status().request_count == 1
    await world.close(agent)


@pytest.mark.in_loops
async def test_followers_go_on_when_the_first_socket_fails(world: World) -> None:
    """Refused or cancelled: the others wait no longer for its protocol."""
    gate = Gate()
    network = Network(Script(connect=[gate, REFUSED]), default=Script(then=respond(b"ok"), alpn="http/1.1"))
    agent = Agent(http2=True, **network.options)
    async with world.client(transport=AgentTransport(agent=agent), timeout=5) as client, world.tasks() as tasks:
        jobs = [tasks.start(client.get, "https://a.test/")]
        await world.until(lambda: network.open == 1)
        jobs += [tasks.start(client.get, "https://a.test/") for _ in range(3)]
        await world.until(lambda: agent.status().requests == {"https://a.test:443": 3})
        assert network.open == 1
        gate.open()
    assert type(jobs[0].exception) is httpx.ConnectError
    assert [job.result().status_code for job in jobs[1:]] == [200] * 3
    await world.close(agent)


@pytest.mark.in_loops
async def test_followers_go_on_when_the_first_request_is_cancelled(world: World) -> None:
    network = Network(Script(connect=HANG), default=Script(then=respond(b"ok"), alpn="http/1.1"))
    agent = Agent(http2=True, **network.options)
    async with world.client(transport=AgentTransport(agent=agent), timeout=5) as client, world.tasks() as tasks:
        jobs = [tasks.start(client.get, "https://a.test/")]
        await world.until(lambda: network.open == 1)
        jobs += [tasks.start(client.get, "https://a.test/") for _ in range(3)]
        await world.until(lambda: agent.status().requests == {"https://a.test:443": 3})
        jobs[0].cancel()
    assert [job.result().status_code for job in jobs[1:]] == [200] * 3
    await world.close(agent)


@pytest.mark.in_loops
async def test_a_followers_pool_timeout_runs_while_it_waits_for_the_protocol(world: World) -> None:
    network = Network(Script(connect=HANG))
    agent = Agent(http2=True, **network.options)
    async with world.client(transport=AgentTransport(agent=agent), timeout=None) as client, world.tasks() as tasks:
        first = tasks.start(client.get, "https://a.test/")
        await world.until(lambda: network.open == 1)
        with pytest.raises(httpx.PoolTimeout, match="waiting to learn whether the first socket speaks HTTP/2"):
            await client.get("https://a.test/", timeout=httpx.Timeout(None, pool=0.01))
        first.cancel()
    await world.close(agent)
    assert network.open == 0


@pytest.mark.in_loops
async def test_cancelling_one_stream_leaves_the_others_alone(world: World, h2_server: Server, verify: Any) -> None:
    agent = Agent(http2=True, verify=verify)
    async with world.client(transport=AgentTransport(agent=agent), timeout=5) as client, world.tasks() as tasks:
        jobs = [tasks.start(client.get, f"{h2_server.url}/hold/all") for _ in range(10)]
        await world.until(lambda: len(h2_server.requests) == 10)
        for job in jobs[1::2]:
            job.cancel()
            await job.wait()
        h2_server.gate("all").open()
    assert [job.result().status_code for job in jobs[::2]] == [200] * 5
    assert agent.sockets() == ()  # it had been retired, and has closed after its last stream
    await world.close(agent)
    await anyio.lowlevel.checkpoint()


@pytest.mark.bug("B11")
async def test_a_free_http2_socket_that_the_server_closed(
    world: World, stack: Stack, h2_server: Server, certificates: Certificates
) -> None:
    """httpx: `RemoteProtocolError: Server disconnected`."""
    transport = stack.transport(is_sync=world.is_sync, http2=True, verify=certificates.client())
    async with world.client(transport=transport) as client:
        for _ in range(3):
            assert (await client.post(f"{h2_server.url}/echo", content=b"x")).http_version == "HTTP/2"
            h2_server.peers[-1].command("fin")
            h2_server.wait_closed()
    assert h2_server.accepted == 3


def goaway(last_stream: int) -> bytes:
    """The frame, with no error in it."""
    return b"\0\0\x08\x07\0" + struct.pack(">III", 0, last_stream, 0)


@contextmanager
def switching_often() -> Iterator[None]:
    """Threads take turns every ten microseconds."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@pytest.mark.bug("B13")
def test_threads_do_not_share_a_connection(stack: Stack, h2_server: Server, certificates: Certificates) -> None:
    """httpx: most requests fail, with `KeyError`, `LocalProtocolError`, "deque mutated during iteration" and others."""
    transport = stack.transport(is_sync=True, http2=True, verify=certificates.client())
    failures: list[Exception] = []

    def ask() -> None:
        for _ in range(20):
            try:
                assert client.get(f"{h2_server.url}/echo").status_code == 200
            except Exception as error:
                failures.append(error)

    with switching_often(), httpx.Client(transport=transport, timeout=5, trust_env=False) as client:
        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


@pytest.mark.bug("B26")
async def test_a_body_that_can_be_read_once_is_not_sent_twice(world: World, stack: Stack) -> None:
    """httpx: `StreamConsumed`, which is no `TransportError`: the body's generator is iterated again."""
    script = http2()
    receive = script.raw
    assert receive is not None

    def refuse_the_second(connection: Connection, data: bytes) -> Any:
        answer = receive(connection, data)
        return [goaway(1), FIN] if 3 in connection.streams else answer

    network = Network(Script(raw=refuse_the_second, alpn="h2"), default=http2())
    transport = stack.transport(is_sync=world.is_sync, http2=True, verify=CONTEXT, **network.options)
    async with world.client(transport=transport) as client:
        await client.get(URL)
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(URL, content=world.body([b"once"]))
        assert (await client.post(URL, content=b"again")).status_code == 200
    assert network.open == 0


@pytest.mark.bug("B28")
@pytest.mark.in_loops
@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
async def test_twenty_requests_at_once_to_a_server_of_unknown_protocol(
    world: World, stack: Stack, certificates: Certificates, protocol: str
) -> None:
    """On httpx this part passes: all wait for the first connection. But see below how."""
    with Server(tls=certificates.server(alpn=[protocol])) as server:
        gate = server.gate("all")
        transport = stack.transport(is_sync=False, http2=True, verify=certificates.client())
        async with world.client(transport=transport) as client, world.tasks() as tasks:
            jobs = [tasks.start(client.get, f"{server.url}/hold/all") for _ in range(20)]
            await world.until(lambda: len(server.requests) == 20)
            gate.open()
            for job in jobs:
                assert (await job.wait()).result().status_code == 200
            assert server.accepted == (1 if protocol == "h2" else 20)


@pytest.mark.bug("B28")
@pytest.mark.in_loops
async def test_who_waits_to_learn_the_protocol_waits_within_its_pool_timeout(world: World, stack: Stack) -> None:
    """httpx: it waits for the other's connect, whatever its own timeouts are, and then connects by itself."""
    network = Network(Script(connect=HANG))
    transport = stack.transport(is_sync=False, http2=True, verify=CONTEXT, **network.options)
    async with world.client(transport=transport) as client, world.tasks() as tasks:
        first = tasks.start(client.get, URL, timeout=3.0)
        await world.until(lambda: network.open == 1)
        follower = tasks.start(client.get, URL, timeout=httpx.Timeout(3.0, pool=0.1))
        await follower.wait()
        assert not first.done
        first.cancel()
    assert isinstance(follower.exception, httpx.PoolTimeout)
    assert network.open == 0
