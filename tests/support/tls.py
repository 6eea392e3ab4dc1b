"""TLS in tests: servers that refuse their sessions, connections as the cache sees them, and locks of contexts."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable
from typing import Any

from httpx_agent import Agent
from httpx_agent._runtime.locks import Lock
from httpx_agent.testing._server import Hangup, LoopbackServer, Peer
from tests.support.servers import Certificates, Server
from tests.support.worlds import World


async def resumed(world: World, client: Any, url: str, **arguments: Any) -> bool:
    """Return whether the socket of a request resumed a session; the socket must still be open."""
    async with client.stream("GET", url, **arguments) as response:
        ssl_object = response.extensions["network_stream"].get_extra_info("ssl_object")
        await response.aread()
        return bool(ssl_object.session_reused)


def client_context(certificates: Certificates, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = certificates.client()
    context.maximum_version = context.minimum_version = version
    return context


class Session:
    """Python's information about a session."""

    def __init__(self, name: str = "", *, has_ticket: bool = True, id: bytes = b"") -> None:
        self.name = name
        self.has_ticket = has_ticket
        self.id = id


class Connection:
    """Python's information about a connection; counts how often its session is requested."""

    def __init__(self, session: Session, *, version: str = "TLSv1.3", reused: bool = False) -> None:
        self._session = session
        self._version = version
        self.session_reused = reused
        self.asked = 0

    @property
    def session(self) -> Session:
        self.asked += 1
        return self._session

    def version(self) -> str:
        return self._version


ALERT = b"\x15\x03\x03\x00\x02\x02\x50"
"""Fatal: internal error."""


def offers_session(hello: bytes) -> bool:
    """Return whether a ClientHello asks to resume: by a PSK (TLS 1.3), a ticket, or a session ID (TLS 1.2)."""
    at = 43
    number_length = hello[at]
    at += 1 + number_length
    at += 2 + int.from_bytes(hello[at : at + 2], "big")
    at += 1 + hello[at] + 2
    extensions = {}
    while at < len(hello):
        kind, length = struct.unpack(">HH", hello[at : at + 4])
        extensions[kind] = length
        at += 4 + length
    if 43 in extensions:  # supported_versions; the number is never empty there
        return 41 in extensions
    return extensions.get(35, 0) > 0 or number_length > 0


def read_record(read: Callable[[int], bytes]) -> bytes:
    """Return one TLS record; less at the end."""
    data = b""
    while len(data) < 5 or len(data) < 5 + int.from_bytes(data[3:5], "big"):
        piece = read((5 if len(data) < 5 else 5 + int.from_bytes(data[3:5], "big")) - len(data))
        if not piece:
            break
        data += piece
    return data


class Choosy(Server):
    """A server that refuses to resume a session, by ending the handshake.

    Args:
        refuse: The action to refuse with, in the connection's thread.
    """

    def __init__(self, refuse: Callable[[Peer], None], **options: Any) -> None:
        super().__init__(**options)
        self.refuse = refuse
        self.refused = 0

    def welcome(self, peer: Peer) -> None:
        while True:  # without taking it from whoever shakes hands
            head = peer.sock.recv(65536, socket.MSG_PEEK)
            if len(head) >= 5 and len(head) >= 5 + int.from_bytes(head[3:5], "big"):
                break
        if offers_session(head):
            self.refused += 1
            peer.sock.recv(65536)
            self.refuse(peer)
            raise Hangup


def alert(peer: Peer) -> None:
    peer.sock.sendall(ALERT)


class Spoiling(LoopbackServer):
    """A proxy in front of a server that corrupts the end of each resumed TLS 1.3 handshake.

    By then the client has finished its part, and sends its request; the server rejects it with an alert.
    """

    scheme = "https"

    def __init__(self, target: Server) -> None:
        super().__init__()
        self.target = target
        self.spoiled = 0

    def serve(self, peer: Peer) -> None:
        with socket.create_connection(("127.0.0.1", self.target.port)) as server:
            hello = read_record(peer.sock.recv)
            server.sendall(hello)
            spoils = offers_session(hello)
            self.spoiled += spoils
            while ready := peer.wait(server):
                if server in ready:
                    peer.sock.sendall(self.some(server.recv(65536)))
                if peer.sock in ready:
                    record = self.some(read_record(peer.sock.recv))
                    if spoils and record[0] == 0x17:  # the first that is encrypted
                        spoils = False
                        record = record[:-1] + bytes([record[-1] ^ 1])
                    server.sendall(record)

    def some(self, data: bytes) -> bytes:
        if not data:
            raise Hangup
        return data


class Watched:
    """A context's lock that reports when a thread has to wait for it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.waits = threading.Event()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self.waits.set()
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


async def construct(world: World, options: dict[str, Any]) -> Agent:
    """Make an agent in a thread without a loop, or directly in the loop."""
    if world.is_sync:
        agent: Agent = await world.call(Agent, **options)
        return agent
    return Agent(**options)
