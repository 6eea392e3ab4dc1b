"""Requests and responses over real sockets, with the two ends out of step."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import struct
import threading
from contextlib import suppress
from typing import Any

import httpcore
import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent._connection.http1 import Http1Connection
from tests.support.raw import Peer, raw_server
from tests.support.servers import Certificates, Server
from tests.support.worlds import AwaitableStream, World

pytestmark = pytest.mark.fast_engine


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

REFUSED = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"

BLOCK = bytes(1024 * 1024)

MANY = 64
"""Blocks, more than all buffers on the way can hold."""


def connection_of(transport: AgentTransport) -> Any:
    """The connection of the only socket."""
    (socket_,) = transport.agent._dispatcher._sockets.values()
    return socket_.connection


async def test_the_engine_is_in_use(world: World, server: Server) -> None:
    transport = AgentTransport()
    async with world.client(transport=transport) as client:
        await client.get(f"{server.url}/bytes/3")
        connection = connection_of(transport)
        kind = httpcore.ConnectionInterface if world.is_sync else httpcore.AsyncConnectionInterface
        assert isinstance(connection, Http1Connection)
        assert isinstance(connection, kind)
        assert (connection.is_idle(), connection.is_available(), connection.is_closed()) == (True, True, False)
        assert not connection.has_expired()
        assert connection.info() == f"'{server.url}', HTTP/1.1, IDLE"
        assert connection.info() in repr(connection)
        assert connection.can_handle_request(httpcore.URL(server.url).origin)
        assert not connection.can_handle_request(httpcore.URL("http://other.test").origin)
        server.close_idle()
        await world.until(lambda: transport.agent.sockets() == ())
        assert connection.is_closed()


async def test_a_connection_does_one_thing_at_a_time(world: World, server: Server) -> None:
    transport = AgentTransport()
    async with world.client(transport=transport) as client:
        async with client.stream("GET", f"{server.url}/bytes/3") as response:
            connection = connection_of(transport)
            request = httpcore.Request("GET", f"{server.url}/", headers=[("Host", "a")])
            with pytest.raises(httpcore.ConnectionNotAvailable):
                await world.call(
                    connection.handle_request if world.is_sync else connection.handle_async_request, request
                )
            await response.aread()


async def test_one_write_for_head_and_small_body(world: World) -> None:
    """So that a server sees both at once, and Nagle and delayed acknowledgements have nothing to say."""
    seen: list[bytes] = []

    def serve(peer: Peer) -> None:
        for _ in range(2):
            seen.append(peer.sock.recv(65536))
            peer.send(OK)

    with raw_server(serve) as url:
        async with world.client(transport=AgentTransport()) as client:
            await client.get(url)
            await client.post(url, content=b"the body")
    assert seen[0].endswith(b"\r\n\r\n")
    assert seen[1].endswith(b"\r\n\r\nthe body")


async def test_a_request_refused_while_it_is_sent(world: World) -> None:
    """The server reads no more: the response is given, and the rest is not sent (RFC 9112, 9.5)."""

    def serve(peer: Peer) -> None:
        peer.read_head()
        peer.send(REFUSED)
        closed.wait(10)

    closed = threading.Event()
    with raw_server(serve) as url:
        transport = AgentTransport()
        async with world.client(transport=transport, timeout=5.0) as client:
            response = await client.post(url, content=world.body(BLOCK for _ in range(MANY)))
            assert (response.status_code, response.content) == (413, b"no")
            response = await client.post(url, content=BLOCK * MANY)
            assert (response.status_code, response.content) == (413, b"no")
            assert transport.agent.sockets() == ()
        closed.set()


async def test_a_request_refused_by_closing(world: World) -> None:
    """The server answers and resets the connection, in which there is still a request: the answer counts."""

    def serve(peer: Peer) -> None:
        peer.read_head()
        peer.send(REFUSED)
        answered.wait(10)

    answered = threading.Event()

    def parts() -> Any:
        for number in range(MANY):
            if number == 0:
                answered.set()
            yield b"x" * 1000

    with raw_server(serve) as url:
        async with world.client(transport=AgentTransport(), timeout=5.0) as client:
            response = await client.post(url, content=world.body(parts()))
            assert response.status_code == 413


async def test_interim_responses_that_come_while_the_request_is_sent(world: World) -> None:
    """They end nothing, however many they are: the request is sent to its end, and the socket serves again."""
    early = b"HTTP/1.1 100 Continue\r\n\r\n" + b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 8000

    def serve(peer: Peer) -> None:
        peer.read_head()
        peer.send(early)
        left = len(BLOCK) * MANY - len(peer._buffer)
        while left:
            left -= len(peer.sock.recv(min(left, 1 << 20)))
        peer._buffer = b""
        peer.send(OK)
        peer.read_head()
        peer.send(OK)

    with raw_server(serve) as url:
        async with world.client(transport=AgentTransport(), timeout=5.0) as client:
            length = {"Content-Length": str(len(BLOCK) * MANY)}
            response = await client.post(url, content=world.body(BLOCK for _ in range(MANY)), headers=length)
            assert response.content == b"ok"
            assert (await client.get(url)).extensions["agent"].reused


async def test_an_endless_response_that_comes_while_the_request_is_sent(world: World) -> None:
    """It is read as fast as the caller reads it, and not kept."""

    def serve(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        sent = 0
        peer.sock.settimeout(0.2)
        try:
            while True:
                sent += peer.sock.send(BLOCK)
        except TimeoutError:
            totals.append(sent)
        stalled.set()
        peer.sock.settimeout(10)
        with suppress(ConnectionError):
            while True:
                peer.send(BLOCK)

    totals: list[int] = []
    stalled = threading.Event()
    with raw_server(serve) as url:
        async with world.client(transport=AgentTransport(), timeout=5.0) as client:
            body = world.body(BLOCK for _ in range(MANY))
            async with client.stream("POST", url, content=body) as response:
                await world.until(stalled.is_set)
                received = 0
                async for part in response.aiter_raw():
                    received += len(part)
                    if received > totals[0]:
                        break
    assert totals[0] < 32 * len(BLOCK)


async def test_a_server_that_reads_nothing(world: World) -> None:
    def serve(peer: Peer) -> None:
        done.wait(10)

    done = threading.Event()
    with raw_server(serve) as url:
        async with world.client(transport=AgentTransport(), timeout=httpx.Timeout(5.0, write=0.1)) as client:
            for content in (BLOCK * MANY, world.body(BLOCK for _ in range(MANY))):
                with pytest.raises(httpx.WriteTimeout, match=r"no data could be sent for 0\.1 s"):
                    await client.post(url, content=content)
        done.set()


async def test_the_read_timeout_begins_anew_with_every_byte(world: World) -> None:
    """A head that trickles in is no timeout; silence is one, in a head and in a body."""
    pause = threading.Event()

    def serve(peer: Peer) -> None:
        peer.read_head()
        for at in range(len(OK) - 1):
            peer.send(OK[at : at + 1])
            pause.wait(0.02)
        peer.read_head()

    with raw_server(serve) as url:
        async with world.client(transport=AgentTransport(), timeout=httpx.Timeout(5.0, read=0.4)) as client:
            async with client.stream("GET", url) as response:
                assert response.status_code == 200  # after more than a second
                with pytest.raises(httpx.ReadTimeout, match=r"no data received for 0\.4 s"):
                    await response.aread()


async def test_a_timeout_shorter_than_the_one_before(world: World) -> None:
    """The timer of a connection is moved to an earlier time, too."""

    def serve(peer: Peer) -> None:
        peer.read_head()
        peer.send(OK)
        peer.read_head()
        peer.wait_closed()

    with raw_server(serve) as url:
        async with world.client(transport=AgentTransport(), timeout=30.0) as client:
            await client.get(url)
            with pytest.raises(httpx.ReadTimeout):
                await client.get(url, timeout=0.05)


async def test_what_nobody_reads_is_not_kept(world: World) -> None:
    """The server is made to wait, and goes on when somebody reads."""

    def serve(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(BLOCK) * MANY))
        sent = 0
        peer.sock.settimeout(0.2)
        try:
            while True:
                sent += peer.sock.send(BLOCK)
        except TimeoutError:
            stalled.set()
        peer.sock.settimeout(10)
        peer.send(bytes(len(BLOCK) * MANY - sent))

    stalled = threading.Event()
    with raw_server(serve) as url:
        async with world.client(transport=AgentTransport(), timeout=5.0) as client:
            async with client.stream("GET", url) as response:
                await world.until(stalled.is_set)
                received = 0
                async for part in response.aiter_raw():
                    received += len(part)
                assert received == len(BLOCK) * MANY


async def test_a_reset_connection(world: World) -> None:
    def serve(peer: Peer) -> None:
        peer.read_head()
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with raw_server(serve) as url:
        async with world.client(transport=AgentTransport()) as client:
            with pytest.raises(httpx.ReadError):
                await client.get(url)


@pytest.mark.parametrize("unsolicited", [b"HTTP/1.1 408 Too late\r\nContent-Length: 0\r\n\r\n", b"\r\n"])
async def test_unsolicited_bytes_cost_a_server_the_socket(world: World, unsolicited: bytes) -> None:
    """At once, with no request."""

    def serve(peer: Peer) -> None:
        peer.read_head()
        peer.send(OK)
        speak.wait(10)
        peer.send(unsolicited)
        peer.wait_closed()

    speak = threading.Event()
    with raw_server(serve) as url:
        transport = AgentTransport()
        async with world.client(transport=transport) as client:
            await client.get(url)
            assert len(transport.agent.sockets()) == 1
            speak.set()
            await world.until(lambda: transport.agent.sockets() == ())
            assert transport.agent.status().close_socket_count == 1


async def test_bytes_after_a_response_that_is_not_released_yet(world: World) -> None:
    def serve(peer: Peer) -> None:
        peer.read_head()
        peer.send(OK)
        speak.wait(10)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfake")
        spoke.set()
        peer.wait_closed()

    speak, spoke = threading.Event(), threading.Event()
    with raw_server(serve) as url:
        transport = AgentTransport()
        async with world.client(transport=transport) as client:
            async with client.stream("GET", url) as response:
                await world.until(lambda: world.is_sync or connection_of(transport)._incoming.is_complete)
                speak.set()
                await world.until(spoke.is_set)
                await world.until(lambda: world.is_sync or connection_of(transport).wire.unsolicited)
                assert await response.aread() == b"ok"
            await world.until(lambda: transport.agent.sockets() == ())


async def test_tls_over_an_upgraded_stream(world: World, certificates: Certificates) -> None:
    """CONNECT by hand: the stream is the caller's, with the bytes that came along, and can be secured."""

    def serve(peer: Peer) -> None:
        head = peer.read_head()
        assert head.startswith(b"CONNECT target:443 HTTP/1.1")
        peer.send(b"HTTP/1.1 200 Connected\r\n\r\nhello")
        assert peer.sock.recv(2) == b"go"
        context = certificates.server()
        with context.wrap_socket(peer.sock, server_side=True) as secured:
            secured.sendall(secured.recv(100).upper())
            assert secured.recv(100) == b""

    with raw_server(serve) as url:
        transport = AgentTransport()
        async with world.client(transport=transport) as client:
            request = client.build_request("CONNECT", url, extensions={"target": b"target:443"})
            response = await client.send(request, stream=True)
            stream = response.extensions["network_stream"]
            awaitable = AwaitableStream(world, stream)
            assert await awaitable.read(3) == b"hel"
            assert await awaitable.read(100) == b"lo"
            await awaitable.write(b"go")
            secured = await world.call(stream.start_tls, certificates.client(), "localhost", 5.0)
            awaitable = AwaitableStream(world, secured)
            await awaitable.write(b"secret")
            assert await awaitable.read(100) == b"SECRET"
            assert secured.get_extra_info("ssl_object").version().startswith("TLS")
            assert secured.get_extra_info("nothing") is None
            await response.aclose()
            await awaitable.aclose()
        assert transport.agent.status().detached_socket_count == 1


@pytest.mark.in_loops
async def test_tls_within_tls_is_left_to_h11(world: World, tls_server: Server, certificates: Certificates) -> None:
    async with world.client(transport=AgentTransport(verify=certificates.client())) as client:
        async with client.stream("GET", f"{tls_server.url}/bytes/3") as response:
            with pytest.raises(NotImplementedError, match="http1_engine='h11'"):
                await response.extensions["network_stream"].start_tls(certificates.client())


async def test_the_log(world: World, server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """The same lines in the same loggers as httpcore's, which people read to find what is wrong."""
    logging.getLogger(httpcore.__name__).setLevel(logging.DEBUG)
    try:
        found = []
        for engine in ("auto", "h11"):
            caplog.clear()
            async with world.client(transport=AgentTransport(http1_engine=engine)) as client:
                await client.get(f"{server.url}/bytes/3")
            found.append(
                [(r.name, r.getMessage().split(" ")[0]) for r in caplog.records if "close" not in r.getMessage()]
            )
        assert found[0] == found[1]
        assert (f"{httpcore.__name__}.http11", "send_request_headers.complete") in found[0]
    finally:
        logging.getLogger(httpcore.__name__).setLevel(logging.NOTSET)


async def test_a_trace_callback_of_the_other_kind(world: World, server: Server) -> None:
    async def asynchronous(name: str, info: Any) -> None:
        raise AssertionError

    callback = asynchronous if world.is_sync else lambda name, info: None
    async with world.client(transport=AgentTransport()) as client:
        with pytest.raises(TypeError, match="`trace` callback"):
            await client.get(server.url, extensions={"trace": callback})


async def test_attempts_to_connect_are_repeated(world: World, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """0 s, 0.5 s, 1 s, 2 s between them; each is told as httpcore tells it."""
    events: list[str] = []
    slept: list[float] = []
    agent = Agent(retries=3)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with world.client(transport=AgentTransport(agent=agent)) as client:
            trace = world.callback(lambda name, info: events.append(name))
            with pytest.MonkeyPatch.context() as patch:
                from httpx_agent._network.anyio import AsyncBackend
                from httpx_agent._network.sync import SyncBackend

                async def asleep(self: Any, seconds: float) -> None:
                    slept.append(seconds)

                patch.setattr(AsyncBackend, "sleep", asleep)
                patch.setattr(SyncBackend, "sleep", lambda self, seconds: slept.append(seconds))
                with pytest.raises(httpx.ConnectError):
                    await client.get(url, extensions={"trace": trace})
    await world.close(agent)
    assert slept == [0.0, 0.5, 1.0]
    once = ["connection.connect_tcp.started", "connection.connect_tcp.failed"]
    again = ["connection.retry.started", "connection.retry.complete"]
    assert events == once + (again + once) * 3


async def test_large_bodies_over_tls(world: World, tls_server: Server, certificates: Certificates) -> None:
    async with world.client(transport=AgentTransport(verify=certificates.client())) as client:
        response = await client.post(f"{tls_server.url}/sink", content=BLOCK * 8)
        assert response.json()["length"] == len(BLOCK) * 8
        response = await client.get(f"{tls_server.url}/bytes/{len(BLOCK) * 8}")
        assert len(response.content) == len(BLOCK) * 8
        assert response.extensions["agent"].reused


async def test_a_listener_that_fails(world: World) -> None:
    """Its error comes out, and the socket is closed."""

    def serve(peer: Peer) -> None:
        peer.read_head()
        peer.send(OK)
        peer.wait_closed()

    def listen(name: str, info: Any) -> None:
        if name == "http11.receive_response_body.started":
            raise KeyError(name)

    with raw_server(serve) as url:
        transport = AgentTransport()
        async with world.client(transport=transport) as client:
            with pytest.raises(KeyError):
                await client.get(url, extensions={"trace": world.callback(listen)})
            assert transport.agent.sockets() == ()


@pytest.mark.parametrize("farewell", [True, False])
async def test_a_body_that_ends_with_the_connection_over_tls(
    world: World, certificates: Certificates, farewell: bool
) -> None:
    """As with httpcore, it ends where the connection does, whether TLS says farewell or not."""

    def serve(peer: Peer) -> None:
        secured = certificates.server().wrap_socket(peer.sock, server_side=True)
        secured.recv(65536)
        secured.sendall(b"HTTP/1.1 200 OK\r\n\r\nto the end")
        if farewell:
            secured.setblocking(False)
            with suppress(ssl.SSLWantReadError, ssl.SSLEOFError):  # the client's end may be there already
                secured.unwrap()
        os.close(secured.detach())

    with raw_server(serve) as url:
        async with world.client(transport=AgentTransport(verify=certificates.client())) as client:
            response = await client.get(url.replace("http", "https").replace("127.0.0.1", "localhost"))
            assert response.text == "to the end"


async def test_garbage_within_tls(world: World, certificates: Certificates) -> None:
    def serve(peer: Peer) -> None:
        secured = certificates.server().wrap_socket(peer.sock, server_side=True)
        secured.recv(65536)
        secured.setblocking(True)
        descriptor = secured.detach()
        os.write(descriptor, b"\x17\x03\x03\x00\x20" + bytes(32))
        os.read(descriptor, 100)
        os.close(descriptor)

    with raw_server(serve) as url:
        async with world.client(transport=AgentTransport(verify=certificates.client())) as client:
            with pytest.raises(httpx.ReadError):
                await client.get(url.replace("http", "https").replace("127.0.0.1", "localhost"))


async def test_an_agent_closed_from_a_thread(world: World) -> None:
    """While a request waits for its head."""
    arrived = threading.Event()

    def serve(peer: Peer) -> None:
        peer.read_head()
        arrived.set()
        peer.wait_closed()

    with raw_server(serve) as url:
        transport = AgentTransport()
        async with world.client(transport=transport, timeout=5.0) as client:
            async with world.tasks() as tasks:
                job = tasks.start(client.get, url)
                await world.until(arrived.is_set)
                closing = threading.Thread(target=transport.agent.close)
                closing.start()
                await job.wait()
            closing.join(5)
    assert type(job.exception) is httpx.ReadError
