"""Sockets that are dead, forgotten, mistaken for others, or never closed: B10, B11, B17, B18, B21, B22, B24, B25, B27.

Each docstring says what happened on the stock transport: see `tests.bugs.on_stock`.
"""

from __future__ import annotations

import gc
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import httpcore
import httpx
import pytest

from httpx_agent import _network
from httpx_agent.testing import FIN, RST, Network, Script, respond
from tests.bugs.stock import Stack
from tests.support.servers import Certificates, Server
from tests.support.worlds import World

A, SECURE = "http://a.test/", "https://a.test/"
CONTEXT = ssl.create_default_context()


@contextmanager
def uncollected() -> Iterator[None]:
    """What is left open stays so: the collector does not come to anybody's help."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.bug("B10")
@pytest.mark.parametrize("end", [FIN, RST], ids=["FIN", "RST"])
async def test_b10_a_socket_that_the_server_closes_while_a_request_is_written(
    world: World, stack: Stack, end: Any
) -> None:
    """httpx: `RemoteProtocolError` after a FIN, `ReadError` after a reset."""
    network = Network(Script(respond(), end))
    transport = stack.transport(is_sync=world.is_sync, **network.options)
    async with world.client(transport=transport) as client:
        for _ in range(2):
            assert (await client.get(A)).status_code == 200
    assert [len(connection.requests) for connection in network.connections] == [2, 1]


@pytest.mark.bug("B11")
async def test_b11_a_free_http2_socket_that_the_server_closed(
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


@pytest.mark.bug("B17")
@pytest.mark.both_engines
@pytest.mark.in_loops
async def test_b17_a_tls_handshake_that_is_cancelled(world: World, stack: Stack, server: Server) -> None:
    """httpx: the server sees the socket open, until the collector comes by."""
    transport = stack.transport(is_sync=False, verify=False)  # the server waits for HTTP, and does not answer a hello
    with uncollected():
        async with world.client(transport=transport) as client, world.tasks() as tasks:
            job = tasks.start(client.get, f"https://{server.netloc}/")
            await world.until(lambda: server.peers and server.peers[0].buffer)
            job.cancel()
            await job.wait()
            await world.until(lambda: server.open == 0)


@pytest.mark.bug("B17")
@pytest.mark.both_engines
async def test_b17_a_connection_that_is_reset_before_its_tls_handshake(world: World, stack: Stack) -> None:
    """httpx: in the sync world, before Python 3.13, which forgets it, the socket stays open as long as the error lives.

    In the loops it passes.
    """
    was_reset = threading.Event()

    def reset() -> None:
        with listener.accept()[0] as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        was_reset.set()

    def wait(name: str, info: dict[str, Any]) -> None:
        if name == "connection.connect_tcp.complete":
            assert was_reset.wait(10)
            while world.is_sync and not info["return_value"].get_extra_info("is_readable"):
                pass  # the news is on its way

    transport = stack.transport(is_sync=world.is_sync, verify=CONTEXT)
    with socket.create_server(("127.0.0.1", 0)) as listener, uncollected():
        thread = threading.Thread(target=reset)
        thread.start()
        async with world.client(transport=transport) as client:
            before = open_sockets()
            with pytest.raises(httpx.ConnectError):
                await client.get(
                    f"https://127.0.0.1:{listener.getsockname()[1]}/", extensions={"trace": world.callback(wait)}
                )
            assert open_sockets() == before
        thread.join()


def open_sockets() -> list[str]:
    """TLS sockets of this process that have a descriptor."""
    return [repr(thing) for thing in gc.get_objects() if isinstance(thing, ssl.SSLSocket) and thing.fileno() >= 0]


@pytest.mark.bug("B18")
@pytest.mark.both_engines
@pytest.mark.parametrize("how", ["cancelled", "timed out"])
async def test_b18_a_socks_handshake_that_gets_no_answer(world: World, stack: Stack, server: Server, how: str) -> None:
    """httpx: where it is cancelled, the socket stays open and its slot is lost; the timeout is ignored."""
    if how == "cancelled" and world.is_sync:
        how = "timed out"  # which is all that can happen to it
    proxy = httpx.Proxy(f"socks5://{server.netloc}")  # waits for HTTP, and does not answer
    transport = stack.transport(is_sync=world.is_sync, max_total_sockets=1, proxy=proxy)
    timeout = httpx.Timeout(5.0, connect=0.2 if how == "timed out" else 5.0, read=None)
    with uncollected():
        async with world.client(transport=transport, timeout=timeout) as client, world.tasks() as tasks:
            for turn in range(2):
                job = tasks.start(client.get, A)
                await world.until(lambda turn=turn: len(server.peers) == turn + 1 and server.peers[turn].buffer)
                if how == "cancelled":
                    job.cancel()
                await job.wait()
                assert job.cancelled or isinstance(job.exception, httpx.ConnectTimeout)
                await world.until(lambda: server.open == 0)


@pytest.mark.bug("B21")
async def test_b21_the_server_name_is_part_of_the_key(world: World, stack: Stack) -> None:
    """httpx: one TLS connection, made for the name of the first, serves both."""
    network = Network()
    transport = stack.transport(is_sync=world.is_sync, verify=CONTEXT, **network.options)
    async with world.client(transport=transport) as client:
        for name in ("one.test", "two.test", "one.test"):
            await client.get("https://192.0.2.1/", extensions={"sni_hostname": name})
    assert [connection.tls for connection in network.connections] == [["one.test"], ["two.test"]]


@contextmanager
def strict_server(context: ssl.SSLContext) -> Iterator[int]:
    """A TLS server that wants a certificate, says so, and reads on, so that its alert is not lost in a reset."""

    def serve() -> None:
        with listener.accept()[0] as plain:
            secure = context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
            with pytest.raises(ssl.SSLError):
                secure.do_handshake()
            with socket.socket(fileno=secure.detach()) as rest:
                rest.shutdown(socket.SHUT_WR)
                while rest.recv(65536):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


@pytest.mark.bug("B22")
@pytest.mark.both_engines
async def test_b22_every_error_of_the_network_is_one_of_httpxs(
    world: World, stack: Stack, certificates: Certificates
) -> None:
    """httpx: `ssl.SSLError` in asyncio; the other worlds have a `ReadError`."""
    with strict_server(certificates.server(client_certificate=True)) as port:
        transport = stack.transport(is_sync=world.is_sync, verify=certificates.client())
        async with world.client(transport=transport) as client:
            with pytest.raises(httpx.TransportError):
                await client.get(f"https://127.0.0.1:{port}/")


@pytest.mark.bug("B24")
@pytest.mark.both_engines
async def test_b24_a_free_socket_is_closed_when_its_time_is_over(world: World, stack: Stack, server: Server) -> None:
    """httpx: it stays open until another request comes."""
    transport = stack.transport(is_sync=world.is_sync, free_socket_timeout=0.05)
    async with world.client(transport=transport) as client:
        await client.get(f"{server.url}/echo")
        await world.until(lambda: server.open == 0)


@pytest.mark.bug("B25")
async def test_b25_the_connect_timeout_is_one_deadline_for_tcp_and_tls(world: World, stack: Stack) -> None:
    """httpx: the handshake begins with five seconds, however long the connect took.

    And the decision on `retries`: an attempt has a deadline of its own, and the slot is kept between attempts.
    """
    network = Network(Script(connect=httpcore.ConnectError("refused")))
    transport = stack.transport(
        is_sync=world.is_sync, retries=1, max_total_sockets=1, verify=CONTEXT, **network.options
    )
    async with world.client(transport=transport, timeout=5.0) as client:
        assert (await client.get(SECURE)).status_code == 200
    connects = [op.details["timeout"] for op in network.ops if op.name == "connect"]
    (handshake,) = [op.details["timeout"] for op in network.ops if op.name == "start_tls"]
    assert connects == [5.0, 5.0]
    assert 0 < handshake < 5.0


@pytest.mark.bug("B27")
@pytest.mark.in_loops
@pytest.mark.parametrize("has_socket", [True, False], ids=["a socket", "no socket"])
async def test_b27_a_close_that_never_ends(
    world: World, stack: Stack, server: Server, monkeypatch: pytest.MonkeyPatch, has_socket: bool
) -> None:
    """httpx: the client's `aclose` does not come back, and a cancellation does not reach it.

    The decision: what has not closed after a second is aborted, so that the other end sees it, and its slot is free.
    """
    monkeypatch.setattr(_network, "CLOSE_TIMEOUT", 0.05)
    backend = httpcore.TrioBackend() if world.name == "trio" else httpcore.AnyIOBackend()
    patience = anyio.Event()
    streams: list[Any] = []

    class Stream(httpcore.AsyncNetworkStream):
        def __init__(self, inner: Any) -> None:
            self.inner = inner
            self.read, self.write = inner.read, inner.write

        def get_extra_info(self, info: str) -> Any:
            return self.inner.get_extra_info(info) if info != "socket" or has_socket else None

        async def aclose(self) -> None:
            await patience.wait()

    class Backend(httpcore.AsyncNetworkBackend):
        async def connect_tcp(self, *args: Any, **kwargs: Any) -> Any:
            streams.append(await backend.connect_tcp(*args, **kwargs))
            return Stream(streams[-1])

    transport = stack.transport(is_sync=False, max_total_sockets=1, async_network_backend=Backend())
    async with world.client(transport=transport) as client, world.tasks() as tasks:
        for host in ("127.0.0.1", "localhost"):  # the second needs the slot of the first
            job = tasks.start(client.get, f"http://{host}:{server.port}/echo")
            with anyio.move_on_after(3):
                await job._done.wait()
            if not job.done:
                patience.set()
            assert job.result().status_code == 200
        server.wait_for(lambda: not has_socket or not server.peers[0].is_open)
    patience.set()
    for stream in streams:
        await stream.aclose()
    server.wait_closed()
