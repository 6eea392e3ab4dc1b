"""HTTP/2: B12, B13, B26, B28.

Each docstring says what happened on the stock transport: see `tests.bugs.on_stock`.
"""

from __future__ import annotations

import ssl
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from httpx_agent.testing import FIN, HANG, Connection, Gate, Network, Script, http2
from tests.bugs.stock import Stack
from tests.support.servers import Certificates, Server
from tests.support.worlds import World

URL = "https://a.test/"
CONTEXT = ssl.create_default_context()


def goaway(last_stream: int) -> bytes:
    """The frame, with no error in it."""
    return b"\0\0\x08\x07\0" + struct.pack(">III", 0, last_stream, 0)


@pytest.mark.bug("B12")
@pytest.mark.parametrize("last_stream", [0, 1, 9, 19, 39, 2**31 - 1])
@pytest.mark.in_loops
async def test_b12_twenty_streams_and_a_goaway(world: World, stack: Stack, last_stream: int) -> None:
    """httpx: `RemoteProtocolError: <ConnectionTerminated …>` for all streams up to the last one, or for all if it is 0.

    The server finishes the streams up to `last_stream`, and then closes; the others were not processed.
    """
    gate = Gate()
    network = Network(http2(hold=lambda stream: gate if stream <= last_stream else Gate()), default=http2())
    transport = stack.transport(is_sync=False, http2=True, verify=CONTEXT, **network.options)
    async with world.client(transport=transport) as client, world.tasks() as tasks:
        jobs = [tasks.start(client.post, URL, content=b"once") for _ in range(20)]
        await world.until(lambda: network.connections and len(network.connections[0].streams) == 20)
        await world.settle()  # every body has come, too
        network.connections[0].send(goaway(last_stream))
        gate.open()
        await world.settle()
        network.connections[0].send(FIN)
    assert [job.result().status_code for job in jobs] == [200] * 20
    assert sum(len(connection.streams) for connection in network.connections) == 20 + sum(
        stream > last_stream for stream in network.connections[0].streams
    )
    assert network.open == 0


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
def test_b13_threads_do_not_share_a_connection(stack: Stack, h2_server: Server, certificates: Certificates) -> None:
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
async def test_b26_a_body_that_can_be_read_once_is_not_sent_twice(world: World, stack: Stack) -> None:
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
async def test_b28_twenty_requests_at_once_to_a_server_of_unknown_protocol(
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
async def test_b28_who_waits_to_learn_the_protocol_waits_within_its_pool_timeout(world: World, stack: Stack) -> None:
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
