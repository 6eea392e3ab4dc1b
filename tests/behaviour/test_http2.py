"""HTTP/2: in an event loop many requests share a socket, in the sync world each has one for itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio
import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent.testing import HANG, REFUSED, Gate, Network, Script, respond
from tests.support.servers import Certificates, Server
from tests.support.worlds import World


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
        with pytest.raises(httpx.PoolTimeout, match="it waits to learn whether the first socket speaks HTTP/2"):
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
