"""Responses that arrive before the request has been sent, from servers that then stop reading.

Any final response ends the upload, and is given; its connection does not serve again, whatever its headers say. The
bodies here are larger than all buffers on the way, so who does not listen while sending waits until the write timeout.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import pytest

from httpx_agent import Agent, AgentTransport
from httpx_agent._network.poll import Poll
from httpx_agent._network.upload import WOULD_BLOCK, write_listening
from httpx_agent.testing import Network, Script, respond
from tests.support.raw import Peer, raw_server
from tests.support.servers import Certificates
from tests.support.worlds import ALL_WORLDS, H11_WORLDS, WORLDS, World

everywhere = pytest.mark.parametrize("world", ALL_WORLDS, ids=[world.name for world in ALL_WORLDS])

schemes = pytest.mark.parametrize("scheme", ["http", "https"])

STATUSES = [200, 204, 307, 401, 413, 500]

PART = bytes(256 * 1024)

PARTS = 64

REFUSED = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"

BLOCK = bytes(256 * 1024)

EVERYWHERE = [*WORLDS, *H11_WORLDS, World("uvloop"), World("uvloop", engine="h11")]


def answer(status: int) -> bytes:
    body = b"" if status == 204 else b"said early"
    length = b"" if status == 204 else b"Content-Length: %d\r\n" % len(body)
    return b"HTTP/1.1 %d Early\r\nLocation: /elsewhere\r\nConnection: keep-alive\r\n%b\r\n%b" % (status, length, body)


def bodies(world: World) -> dict[str, Callable[[], Any]]:
    """The kinds of body, each larger than what finds room on the way."""
    return {
        "bytes": lambda: PART * PARTS,
        "iterator": lambda: world.body(PART for _ in range(PARTS)),
        "small parts": lambda: world.body(bytes(1000) for _ in range(PARTS * 256)),
    }


class Early:
    """A server that answers early, as the path says: ``/status/when/and then``, and reads no more."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.requests = 0

    def serve(self, peer: Peer) -> None:
        head = peer.read_head()
        if head.startswith(b"CONNECT"):
            raise AssertionError("a tunnel is not for the server")
        self.requests += 1
        target = head.split(b" ")[1].decode().removeprefix("http://target.test")
        _, status, when, and_then = target.split("/")
        if when == "after-a-part":
            left = 300_000
            while left > 0:
                left -= len(peer.sock.recv(65536))
        peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        peer.send(answer(int(status)))
        if and_then == "half-closes":
            socket.socket.shutdown(peer.sock, socket.SHUT_WR)
        if and_then == "resets":
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if and_then in ("closes", "resets"):
            return
        self.done.wait(20)


async def check(world: World, client: Any, url: str, and_then: str) -> None:
    for name, body in bodies(world).items():
        for status in STATUSES if name == "bytes" else [200, 413]:
            for when in ("after-the-head", "after-a-part"):
                response = await client.post(f"{url}/{status}/{when}/{and_then}", content=body())
                said = "" if status == 204 else "said early"
                assert (response.status_code, response.text) == (status, said), (name, status, when)
                assert client.agent.sockets() == ()


@contextmanager
def early(tls: ssl.SSLContext | None = None) -> Iterator[tuple[str, Early]]:
    server = Early()
    with raw_server(server.serve, tls=tls) as url:
        try:
            yield url, server
        finally:
            server.done.set()


def client_for(world: World, transport: AgentTransport) -> Any:
    client = world.client(transport=transport, timeout=httpx.Timeout(20.0, write=5.0))
    client.agent = transport.agent
    return client


@pytest.mark.slow
@pytest.mark.rule("R18")
@everywhere
@schemes
@pytest.mark.parametrize("and_then", ["keeps open", "half-closes"])
async def test_an_answer_before_the_upload_ends(
    world: World, certificates: Certificates, scheme: str, and_then: str
) -> None:
    with early(certificates.server() if scheme == "https" else None) as (url, server):
        async with client_for(world, AgentTransport(verify=certificates.client())) as client:
            await check(world, client, url, and_then.replace(" ", "-"))
    assert server.requests == (len(STATUSES) + 4) * 2


@everywhere
async def test_an_answer_through_a_forward_proxy(world: World) -> None:
    with early() as (url, server):
        async with client_for(world, AgentTransport(proxy=url)) as client:
            await check(world, client, "http://target.test", "keeps-open")
    assert server.requests == (len(STATUSES) + 4) * 2


def relay(client: socket.socket, target: socket.socket, over: threading.Event) -> None:
    """Carry bytes both ways, and hear a target that does not read; in one thread, for TLS bears no two."""
    waiting = {client: b"", target: b""}
    for sock in waiting:
        sock.setblocking(False)
    while not over.is_set():
        moved = False
        for source, sink in ((client, target), (target, client)):
            with suppress(*WOULD_BLOCK):
                if not waiting[sink]:
                    waiting[sink] = source.recv(65536)
                    if not waiting[sink]:
                        return
                    moved = True
                waiting[sink] = waiting[sink][sink.send(waiting[sink]) :]
                moved = True
        if not moved:
            full = [sock for sock in waiting if waiting[sock]]
            select.select([target] * (not waiting[client]) + [client] * (not waiting[target]), full, [], 0.05)


@contextmanager
def tunnel(tls: ssl.SSLContext | None) -> Iterator[str]:
    """A proxy for CONNECT."""

    def serve(peer: Peer) -> None:
        host, _, port = peer.read_head().split(b" ")[1].rpartition(b":")
        with socket.create_connection((host.decode(), int(port))) as target:
            peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            relay(peer.sock, target, over)

    over = threading.Event()
    with raw_server(serve, tls=tls) as url:
        try:
            yield url
        finally:
            over.set()


@everywhere
@pytest.mark.parametrize("proxy_scheme", ["http", "https"])
async def test_an_answer_through_a_tunnel(world: World, certificates: Certificates, proxy_scheme: str) -> None:
    """TLS within TLS, where the proxy speaks it."""
    with (
        early(certificates.server()) as (url, server),
        tunnel(certificates.server() if proxy_scheme == "https" else None) as proxy_url,
    ):
        proxy = httpx.Proxy(proxy_url, ssl_context=certificates.client() if proxy_scheme == "https" else None)
        async with client_for(world, AgentTransport(verify=certificates.client(), proxy=proxy)) as client:
            for status in (307, 413):
                response = await client.post(f"{url}/{status}/after-a-part/keeps-open", content=PART * PARTS)
                assert response.status_code == status
                assert client.agent.sockets() == ()
    assert server.requests == 2


@everywhere
async def test_an_answer_where_http_2_might_have_been(world: World, certificates: Certificates) -> None:
    context = certificates.server(alpn=["http/1.1"])
    with early(context) as (url, server):
        async with client_for(world, AgentTransport(verify=certificates.client(), http2=True)) as client:
            await check(world, client, url, "keeps-open")
    assert server.requests == (len(STATUSES) + 4) * 2


@everywhere
@schemes
@pytest.mark.parametrize("and_then", ["closes", "resets"])
async def test_an_answer_from_a_server_that_hangs_up(
    world: World, certificates: Certificates, scheme: str, and_then: str
) -> None:
    """Its answer has come before its end: while the client waits for room, or between two parts of the body."""
    gate = threading.Event()
    answered = threading.Event()

    def serve(peer: Peer) -> None:
        peer.read_head()
        peer.send(answer(413))
        if and_then == "resets":
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        answered.set()
        gate.wait(10)

    def parts() -> Iterator[bytes]:
        yield b"begins"
        answered.wait(10)
        for _ in range(PARTS):
            yield bytes(1000)

    with raw_server(serve, tls=certificates.server() if scheme == "https" else None) as url:
        async with client_for(world, AgentTransport(verify=certificates.client())) as client:
            for hangs_up_first in (True, False):
                answered.clear()
                gate.set() if hangs_up_first else gate.clear()
                response = await client.post(url, content=world.body(parts()))
                assert (response.status_code, response.text) == (413, "said early")
                assert client.agent.sockets() == ()
                gate.set()


@everywhere
@schemes
async def test_interim_responses_end_no_upload(world: World, certificates: Certificates, scheme: str) -> None:
    """Nor does what TLS 1.3 has to say when a connection is new. The socket serves again."""
    total = len(PART) * PARTS

    def serve(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early")
        left = total - len(peer._buffer)
        while left:
            left -= len(peer.sock.recv(min(left, 1 << 20)))
            if left < total // 2 and not halfway.is_set():
                halfway.set()
                peer.send(b" Hints\r\nLink: </a>\r\n\r\n")
        peer._buffer = b""
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with raw_server(serve, tls=certificates.server() if scheme == "https" else None) as url:
        for content in (PART * PARTS, world.body(PART for _ in range(PARTS))):
            halfway = threading.Event()
            async with client_for(world, AgentTransport(verify=certificates.client())) as client:
                response = await client.post(url, content=content, headers={"Content-Length": str(total)})
                assert response.text == "ok"
                assert (await client.get(url)).extensions["agent"].reused


@everywhere
async def test_an_answer_when_all_has_left_is_an_ordinary_one(world: World) -> None:
    """The socket serves again, though the server has not read the request."""

    def serve(peer: Peer) -> None:
        for _ in range(2):
            peer.read_head()
            peer._buffer = peer._buffer or peer.sock.recv(1)  # the rest is on its way
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            left, peer._buffer = 3000 - len(peer._buffer), b""
            while left:
                left -= len(peer.sock.recv(left))

    with raw_server(serve) as url:
        async with client_for(world, AgentTransport()) as client:
            for turn in range(2):
                response = await client.post(url, content=bytes(3000))
                assert response.extensions["agent"].requests_on_socket == turn + 1


@everywhere
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_answer_between_two_small_parts(world: World, framing: str) -> None:
    """What is left is not sent, not even the end of a chunked body; so the socket does not serve again."""
    received: list[bytes] = []

    def serve(peer: Peer) -> None:
        peer.read_head()
        while not peer._buffer.endswith((b"first", b"first\r\n")):
            peer._buffer += peer.sock.recv(65536)
        peer.send(answer(200))
        answered.set()
        while data := peer.sock.recv(65536):
            peer._buffer += data
        received.append(peer._buffer)

    def parts() -> Iterator[bytes]:
        yield b"first"
        answered.wait(10)
        yield b"second"

    answered = threading.Event()
    with raw_server(serve) as url:
        async with client_for(world, AgentTransport()) as client:
            headers = {"Content-Length": "11"} if framing == "length" else {}
            response = await client.post(url, content=world.body(parts()), headers=headers)
            assert (response.status_code, response.text) == (200, "said early")
            assert client.agent.sockets() == ()
    assert received == [b"first" if framing == "length" else b"5\r\nfirst\r\n"]


@everywhere
async def test_an_answer_before_the_end_of_a_chunked_body(world: World) -> None:
    """The last part has left and its end has not, which httpcore takes for sent."""
    received: list[bytes] = []

    def serve(peer: Peer) -> None:
        peer.read_head()
        while b"only\r\n" not in peer._buffer:
            peer._buffer += peer.sock.recv(65536)
        peer.send(answer(200))
        answered.set()
        while data := peer.sock.recv(65536):
            peer._buffer += data
        received.append(peer._buffer)

    def parts() -> Iterator[bytes]:
        yield b"only"
        answered.wait(10)

    answered = threading.Event()
    with raw_server(serve) as url:
        async with client_for(world, AgentTransport()) as client:
            response = await client.post(url, content=world.body(parts()))
            assert response.status_code == 200
            assert client.agent.sockets() == ()
    assert received == [b"4\r\nonly\r\n"]


@everywhere
async def test_a_server_that_ends_and_says_nothing(world: World) -> None:
    """No answer can come any more: it is not waited for until the write timeout."""

    def serve(peer: Peer) -> None:
        peer.read_head()
        peer.sock.shutdown(socket.SHUT_WR)
        done.wait(20)

    done = threading.Event()
    with raw_server(serve) as url:
        async with client_for(world, AgentTransport()) as client:
            with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
                await client.post(url, content=PART * PARTS)
        done.set()


@pytest.mark.slow
@everywhere
@schemes
async def test_a_server_that_reads_nothing_and_says_nothing(
    world: World, certificates: Certificates, scheme: str
) -> None:
    def serve(peer: Peer) -> None:
        peer.read_head()
        done.wait(20)

    done = threading.Event()
    with raw_server(serve, tls=certificates.server() if scheme == "https" else None) as url:
        async with client_for(world, AgentTransport(verify=certificates.client())) as client:
            for content in (PART * PARTS, world.body(PART for _ in range(PARTS))):
                with pytest.raises(httpx.WriteTimeout, match=r"no data could be sent for 0\.2 s"):
                    await client.post(url, content=content, timeout=httpx.Timeout(20.0, write=0.2))
                assert client.agent.sockets() == ()
        done.set()


@everywhere
async def test_a_switch_of_protocols_before_the_upload_ends(world: World) -> None:
    """It is final where it was asked for: the stream is the caller's, and what comes on it as well."""

    def serve(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\nhello")
        done.wait(20)

    done = threading.Event()
    with raw_server(serve) as url:
        async with client_for(world, AgentTransport()) as client:
            headers = {"Connection": "Upgrade", "Upgrade": "other"}
            async with client.stream("POST", url, content=PART * PARTS, headers=headers) as response:
                assert response.status_code == 101
                read = response.extensions["network_stream"].read
                assert await world.call(read, 100, 5.0) == b"hello"
        done.set()


@everywhere
@pytest.mark.parametrize("traced", [False, True], ids=["plain", "traced"])
async def test_a_head_that_is_refused_before_it_has_left(world: World, traced: bool) -> None:
    def serve(peer: Peer) -> None:
        peer.sock.recv(1000)
        peer.send(answer(431))
        done.wait(20)

    done = threading.Event()
    with raw_server(serve) as url:
        async with client_for(world, AgentTransport()) as client:
            headers = {"X-Large": "x" * len(PART) * PARTS}
            extensions = {"trace": world.callback(lambda name, info: None)} if traced else {}
            response = await client.post(url, content=b"body", headers=headers, extensions=extensions)
            assert (response.status_code, response.text) == (431, "said early")
            assert client.agent.sockets() == ()
        done.set()


@everywhere
@schemes
async def test_a_server_that_resets_and_says_nothing(world: World, certificates: Certificates, scheme: str) -> None:
    def serve(peer: Peer) -> None:
        peer.read_head()
        left = 300_000
        while left > 0:
            left -= len(peer.sock.recv(65536))
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with raw_server(serve, tls=certificates.server() if scheme == "https" else None) as url:
        async with client_for(world, AgentTransport(verify=certificates.client())) as client:
            for content in (PART * PARTS, world.body(PART for _ in range(PARTS))):
                with pytest.raises((httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)):
                    await client.post(url, content=content)
                assert client.agent.sockets() == ()


@pytest.mark.parametrize("and_then", ["reads on", "answers early"])
async def test_over_a_backend_of_the_users(world: World, and_then: str) -> None:
    """One that has no socket to wait for: a thread looks before each part of the body."""
    early = [] if and_then == "reads on" else [0]
    network = Network(Script(respond(b"ok", 413), early=early), Script(respond(b"ok")))
    agent = Agent(**network.options)
    async with world.client(transport=AgentTransport(agent=agent), timeout=5.0) as client:
        response = await client.post("http://a.test/", content=world.body([bytes(40_000)] * 3))
        assert (response.status_code, response.text) == (413, "ok")
        assert bool(agent.sockets()) == (and_then == "reads on")
        assert (await client.get("http://a.test/")).text == "ok"
    await world.close(agent)


@pytest.mark.in_loops
async def test_an_upload_that_is_cancelled(world: World) -> None:
    """While it waits for room, with somebody listening: nothing is left of either."""

    def serve(peer: Peer) -> None:
        peer.read_head()
        begun.set()
        peer.wait_closed()

    begun = threading.Event()
    with raw_server(serve) as url:
        async with client_for(world, AgentTransport(http1_engine="h11")) as client:
            async with world.tasks() as tasks:
                job = tasks.start(client.post, url, content=PART * PARTS * 4, timeout=None)
                await world.until(begun.is_set)
                job.cancel()
                await job.wait()
            assert job.cancelled
            assert client.agent.sockets() == ()


def test_an_upload_over_tls_within_tls_comes_to_its_end() -> None:
    """Where nothing is answered meanwhile, all of it is written, in pieces that are sure to fit."""
    ours, theirs = socket.socketpair()

    class Stream:
        def write(self, data: bytes, timeout: float | None) -> None:
            ours.sendall(data)

    with ours, theirs:
        data = bytes(range(256)) * 16
        assert write_listening(Stream(), Poll(ours), data, 5.0, lambda: False)
        received = b""
        while len(received) < len(data):
            received += theirs.recv(65536)
    assert received == data


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("world", EVERYWHERE, ids=[f"{world.name}-{world.engine}" for world in EVERYWHERE])
async def test_an_answer_is_given_though_a_write_finds_the_connection_reset(
    world: World, certificates: Certificates, secure: bool
) -> None:
    """Event loops give up a connection over which a write fails, and trio its TLS; what came before is unread then."""

    def serve(peer: Peer) -> None:
        sock = certificates.server().wrap_socket(peer.sock, server_side=True) if secure else peer.sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else the answer may wait for an acknowledgement
        peer = Peer(sock)
        peer.read_head()
        peer.send(REFUSED)
        sock.close()  # with data unread, which makes it a reset
        done.set()

    done = threading.Event()

    def parts() -> Iterator[bytes]:
        for number in range(64):
            if number == 1:
                done.wait(10)  # and the event loop with it: it has no time to read
            yield BLOCK

    with raw_server(serve) as url:
        transport = AgentTransport(verify=certificates.client())
        async with world.client(transport=transport, timeout=5.0) as client:
            target = url.replace("http:", "https:") if secure else url
            response = await client.post(target, content=world.body(parts()))
            assert (response.status_code, response.content) == (413, b"no")
            assert transport.agent.sockets() == ()
