"""A server that refuses an upload answers, closes, and resets what still comes: the answer counts."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from httpx_agent import AgentTransport
from tests.support.raw import Peer, raw_server
from tests.support.servers import Certificates
from tests.support.worlds import H11_WORLDS, WORLDS, World

REFUSED = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"
BLOCK = bytes(256 * 1024)

EVERYWHERE = [*WORLDS, *H11_WORLDS, World("uvloop"), World("uvloop", engine="h11")]


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
