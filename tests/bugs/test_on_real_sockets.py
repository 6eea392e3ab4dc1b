"""Some bugs again over real sockets: B1, B2, B4, B8, B9, B10, B14, B19, B20, B21, B25.

Most of the tests beside this file have a network without sockets, over which only h11 speaks. Here both HTTP/1.1
engines do. What is left out has nothing to do with sockets: how a request waits (B3, B5, B6), which free socket is
taken (B7, B23). The cancellations (B1, B2, B17, B18) are also swept at every suspension:
`tests/behaviour/test_cancellation_at_every_suspension.py`.

Each docstring says what happened on the stock transport: see `tests.bugs.on_stock`.
"""

from __future__ import annotations

import gc
import itertools
import socket
import struct
import threading
import time
import warnings
from types import SimpleNamespace
from typing import Any

import anyio.lowlevel
import httpx
import pytest

from httpx_agent import _network
from tests.bugs.stock import Stack
from tests.support.raw import Peer, raw_server
from tests.support.servers import Certificates, Server
from tests.support.worlds import World, cancel_at

pytestmark = pytest.mark.both_engines

POOL = {"connect": 5.0, "read": 5.0, "write": 5.0, "pool": 0.5}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.bug("B1")
@pytest.mark.in_loops
async def test_b01_cancelled_at_every_step_of_opening(world: World, stack: Stack, server: Server) -> None:
    """On httpx it passes: where it is suspended over real sockets, it bears a cancellation of this kind."""
    transport = stack.transport(is_sync=False, max_total_sockets=1)
    async with world.client(transport=transport) as client:

        async def get() -> None:
            await client.get(f"{server.url}/close")

        for step in itertools.count(1):
            if not await cancel_at(step, get):
                break
            response = await client.get(f"{server.url}/close", timeout=httpx.Timeout(5.0, pool=0.5))
            assert response.status_code == 200
    server.wait_closed()


@pytest.mark.bug("B2")
@pytest.mark.in_loops
async def test_b02_cancelled_while_the_slot_comes_free(world: World, stack: Stack, server: Server) -> None:
    """httpx: `PoolTimeout` of the next request, where the cancellation meets the assignment."""
    here, there = (f"http://{host}:{server.port}" for host in ("127.0.0.1", "localhost"))
    transport = stack.transport(is_sync=False, max_total_sockets=1)
    async with world.client(transport=transport, timeout=10) as client, world.tasks() as tasks:
        for steps in range(15):
            holder = await client.send(client.build_request("GET", f"{here}/bytes/3000000"), stream=True)
            waiter = tasks.start(client.get, f"{there}/close")
            await world.until(lambda: stack.waiting(transport) == 1)
            closing = tasks.start(holder.aclose)
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            waiter.cancel()
            await waiter.wait()
            await closing.wait()
            response = await client.get(f"{here}/close", timeout=httpx.Timeout(10, pool=0.5))
            assert response.status_code == 200
    server.wait_closed()


@pytest.mark.bug("B4")
async def test_b04_the_limit_of_free_sockets_counts_free_sockets(world: World, stack: Stack, server: Server) -> None:
    """httpx: 7 connects, where 4 are enough."""
    transport = stack.transport(is_sync=world.is_sync, max_total_free_sockets=2)
    async with world.client(transport=transport, timeout=10) as client, world.tasks() as tasks:
        for _ in range(3):
            tasks.start(client.get, f"{server.url}/hold/all")
        await world.until(lambda: server.gate("all").waiting == 3)
        for _ in range(4):
            await client.get(f"{server.url}/echo")
        connects = server.accepted
        server.gate("all").open()
    assert connects == 4


@pytest.mark.bug("B8")
@pytest.mark.parametrize("engine", ["httptools", "h11"])
def test_b08_the_collector_may_run_in_the_middle_of_a_decision(stack: Stack, server: Server, engine: str) -> None:
    """httpx: a deadlock, in the first of these tests; no collection of the process does anything after it."""
    transport = stack.transport(is_sync=True, max_total_sockets=2, http1_engine=engine)
    statuses: list[int] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.disable()
        client = httpx.Client(transport=transport, timeout=10, trust_env=False)
        response = client.send(client.build_request("GET", f"{server.url}/bytes/3000000"), stream=True)
        iterator = response.iter_raw()
        next(iterator)
        garbage: list[Any] = [response, iterator]
        garbage.append(garbage)
        del response, iterator, garbage
        stack.under_the_lock(transport, gc.collect)
        url = f"http://localhost:{server.port}/echo"
        thread = threading.Thread(target=lambda: statuses.append(client.get(url).status_code), daemon=True)
        thread.start()
        thread.join(5)
        gc.enable()
    assert statuses == [200]
    client.close()
    server.wait_closed()


@pytest.mark.bug("B9", "B14")
@pytest.mark.parametrize("how", ["unread", "half read"])
async def test_b09_and_b14_a_dropped_response(world: World, stack: Stack, server: Server, how: str) -> None:
    """httpx: `PoolTimeout` where it is unread; half read its generator closes it. httpx2: both are lost."""
    transport = stack.transport(is_sync=world.is_sync, max_total_sockets=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(5):
            await drop(world, transport, f"{server.url}/bytes/3000000", how)
            gc.collect()
            await world.settle()  # the loop ends httpx's own generator, which held it
    assert len(transport._pool._requests) == 0
    await world.close(transport)
    server.wait_closed()


async def drop(world: World, transport: Any, url: str, how: str) -> None:
    """Asks for a response, in this thread, and forgets it."""
    request = httpx.Request("GET", url, extensions={"timeout": POOL})
    if world.is_sync:
        response = transport.handle_request(request)
        if how == "half read":
            assert next(iter(response.stream))
    else:
        response = await transport.handle_async_request(request)
        if how == "half read":
            assert await anext(aiter(response.stream))


@pytest.mark.bug("B10")
@pytest.mark.parametrize("end", ["FIN", "RST"])
async def test_b10_a_socket_that_the_server_closes_as_the_request_comes(world: World, stack: Stack, end: str) -> None:
    """httpx: `RemoteProtocolError`, or `ReadError` after a reset."""

    def serve(peer: Peer) -> None:
        peer.read_head()
        peer.send(OK)
        peer.read_head()  # and hangs up
        if end == "RST":
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with raw_server(serve) as url:
        transport = stack.transport(is_sync=world.is_sync)
        async with world.client(transport=transport) as client:
            for _ in range(2):
                assert (await client.get(url)).text == "ok"


@pytest.mark.bug("B19")
async def test_b19_a_socket_counts_until_it_is_closed(world: World, stack: Stack, server: Server) -> None:
    """On httpx it passes: closing takes no time here."""
    transport = stack.transport(is_sync=world.is_sync, max_total_sockets=2)
    async with world.client(transport=transport, timeout=30) as client:
        for path in ("echo", "close"):
            urls = [f"http://{host}:{server.port}/{path}" for host in ("127.0.0.1", "localhost")]
            responses = await world.gather(*[lambda url=url: client.get(url) for url in urls * 10])
            assert [response.status_code for response in responses] == [200] * 20
        if not stack.is_stock:
            assert len(transport.agent.sockets()) <= 2
    server.wait_closed()


@pytest.mark.bug("B20")
async def test_b20_closing_fails_those_that_wait(world: World, stack: Stack, server: Server) -> None:
    """httpx: they go on waiting, and then open sockets in the closed pool."""
    transport = stack.transport(is_sync=world.is_sync, max_total_sockets=1)
    async with world.client(transport=transport, timeout=5) as client, world.tasks() as tasks:
        in_flight = tasks.start(client.get, f"{server.url}/hold/a")
        await world.until(lambda: len(server.requests) == 1)
        waiting = [tasks.start(client.get, f"{server.url}/echo") for _ in range(2)]
        await world.until(lambda: stack.waiting(transport) == 2)
        await world.close(transport)
        server.gate("a").open()
        for job in waiting:
            assert isinstance((await job.wait()).exception, httpx.ConnectError)
        assert isinstance((await in_flight.wait()).exception, httpx.ReadError)
    assert server.accepted == 1
    server.wait_closed()


@pytest.mark.bug("B21")
async def test_b21_the_server_name_is_part_of_the_key(
    world: World, stack: Stack, tls_server: Server, certificates: Certificates
) -> None:
    """httpx: one TLS connection, made for the name of the first, serves both."""
    transport = stack.transport(is_sync=world.is_sync, verify=certificates.client())
    names = ["localhost", "name.example", "localhost"]
    async with world.client(transport=transport) as client:
        for name in names:
            await client.get(f"{tls_server.url}/echo", extensions={"sni_hostname": name})
    assert tls_server.server_names == names[:2]
    assert tls_server.requests_per_connection == [2, 1]


@pytest.mark.bug("B25")
async def test_b25_what_tcp_took_is_not_there_for_tls(
    world: World, stack: Stack, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """httpx: the handshake has the whole timeout once more."""
    passed = 0.0
    monkeypatch.setattr(_network, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + passed))

    def pass_time(name: str, info: dict[str, Any]) -> None:
        nonlocal passed
        if name == "connection.connect_tcp.complete":
            passed = 20.0

    transport = stack.transport(is_sync=world.is_sync, verify=False)
    began = time.monotonic()
    async with world.client(transport=transport, timeout=8) as client:
        with pytest.raises(httpx.ConnectTimeout):  # the server waits for HTTP, and does not answer a hello
            await client.get(f"https://{server.netloc}/", extensions={"trace": world.callback(pass_time)})
    assert time.monotonic() - began < 6
    server.wait_closed()
