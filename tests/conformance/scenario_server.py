"""Servers on loopback that do what a scenario says, when it says so, and that can be inspected.

    with running() as portal, ScenarioServer(portal, origins=2) as server:
        server.ports                          # one listening port for each origin
        server.view.connections               # what is open, and which request each connection carries
        server.finish(1, close=True)          # answers the request whose header `X-Id` is 1
        server.listen(0, on=False)            # connections are refused; open ones stay

All servers share one thread with one event loop, so that many scenarios can be played at once. A command is done when
it returns: what it sends is with the system. The thread replaces `view` after everything that happens; whoever looks
gets a picture that does not change under their eyes.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import h11
from anyio.from_thread import BlockingPortal, start_blocking_portal

Address = tuple[int, int]
"""A connection: the number of its origin, and the client's port."""

RESET = struct.pack("ii", 1, 0)
"""The value of SO_LINGER with which closing resets."""


@dataclass(frozen=True)
class Connection:
    """One open connection, as the server sees it."""

    address: Address
    request: int | None
    """The last request that came in on it."""
    begun: bool
    """The last request has at least part of its answer."""
    answered: bool
    """The last request has all of its answer."""
    leaving: bool
    """The server has closed it, and the client has not yet."""
    resumed: bool | None
    """Whether its TLS session was resumed; nothing without TLS."""


@dataclass(frozen=True)
class View:
    """A picture of the server."""

    connections: tuple[Connection, ...] = ()
    received: tuple[tuple[int, Address, int], ...] = ()
    """Every request so far: its number, where it came in, and as which one of that connection."""
    happenings: int = 0
    """How often anything happened so far."""

    def carrier(self, request: int) -> Connection | None:
        """The connection on which a request came in, if it is open and the request is its last."""
        return next((c for c in reversed(self.connections) if c.request == request), None)


@contextmanager
def running() -> Iterator[BlockingPortal]:
    """The thread of all servers."""
    with start_blocking_portal("asyncio") as portal:
        yield portal


class ScenarioServer:
    """The servers of one scenario.

    Args:
        portal: The way into their thread.
        origins: How many.
        tls: What they need for TLS; TLS 1.3 would tell of its sessions at any moment, so it is not spoken.
    """

    def __init__(self, portal: BlockingPortal, *, origins: int, tls: ssl.SSLContext | None = None) -> None:
        self._portal = portal
        self._tls = tls
        if tls is not None:
            tls.maximum_version = ssl.TLSVersion.TLSv1_2
        # A port that is switched off must stay ours: these hold it, and never listen.
        self._holders = [_bound(0) for _ in range(origins)]
        self._listeners: dict[int, asyncio.Server] = {}
        self._peers: list[_Peer] = []
        self._received: tuple[tuple[int, Address, int], ...] = ()
        self._happenings = 0
        self.ports = [holder.getsockname()[1] for holder in self._holders]
        self.view = View()
        """What there is to see; replaced, never changed."""

    def __enter__(self) -> Self:
        for origin in range(len(self.ports)):
            self.listen(origin, on=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._portal.call(self._close)
        for holder in self._holders:
            holder.close()

    # Commands ---------------------------------------------------------------------------------------------------------

    def listen(self, origin: int, *, on: bool) -> None:
        """Accept connections to an origin, or refuse them."""
        self._portal.call(self._listen, origin, on)

    def finish(self, request: int, **answer: Any) -> bool:
        """Answer a request, as `answer_to` says; tells whether it is here to be answered."""
        return self._portal.call(self._finish, request, None, answer)

    def finish_partial(self, request: int, count: int, **answer: Any) -> bool:
        """Send the head of an answer and the first bytes of its body."""
        return self._portal.call(self._finish, request, count, answer)

    def finish_rest(self, request: int) -> bool:
        """Send what `finish_partial` left."""
        return self._portal.call(self._finish_rest, request)

    def write(self, request: int, data: bytes, *, answers: bool = False) -> bool:
        """Send bytes on the connection that carries a request; they may be its whole answer."""
        return self._portal.call(self._write, request, data, answers)

    def close(self, request: int, *, reset: bool) -> bool:
        """Close the connection that carries an unanswered request."""
        return self._portal.call(self._leave, self._carrier(request), reset)

    def close_idle(self, address: Address, *, reset: bool) -> bool:
        """Close a connection."""
        return self._portal.call(self._leave, self._peer(address), reset)

    def send_idle(self, address: Address, data: bytes) -> bool:
        """Send bytes that nobody asked for."""
        return self._portal.call(self._send, self._peer(address), data)

    # In the thread ----------------------------------------------------------------------------------------------------

    async def _listen(self, origin: int, on: bool) -> None:
        if on and origin not in self._listeners:
            loop = asyncio.get_running_loop()
            self._listeners[origin] = await loop.create_server(
                lambda: _Peer(self, origin), sock=_bound(self.ports[origin]), ssl=self._tls
            )
        elif not on and origin in self._listeners:
            self._listeners.pop(origin).close()

    async def _close(self) -> None:
        for listener in self._listeners.values():
            listener.close()
        peers = list(self._peers)
        for peer in peers:
            peer.transport.abort()
        for peer in peers:
            await peer.lost.wait()

    def _peer(self, address: Address) -> _Peer | None:
        return next((peer for peer in self._peers if peer.address == address), None)

    def _carrier(self, request: int) -> _Peer | None:
        return next((peer for peer in reversed(self._peers) if peer.request == request), None)

    def _finish(self, request: int, count: int | None, answer: dict[str, Any]) -> bool:
        peer = self._carrier(request)
        if peer is None or peer.begun:
            return False
        head, body = answer_to(request, peer.method, **answer)
        part = body if count is None else body[:count]
        peer.transport.write(head + part)
        peer.begun = True
        peer.rest = None if count is None else body[count:]
        if answer.get("close") or answer.get("fin") or answer.get("framing") == "close":
            peer.leave()
        self.happened()
        return True

    def _finish_rest(self, request: int) -> bool:
        peer = self._carrier(request)
        if peer is None or peer.rest is None:
            return False
        peer.transport.write(peer.rest)
        peer.rest = None
        self.happened()
        return True

    def _write(self, request: int, data: bytes, answers: bool) -> bool:
        peer = self._carrier(request)
        if peer is not None and answers:
            peer.begun = True
        return self._send(peer, data)

    def _send(self, peer: _Peer | None, data: bytes) -> bool:
        if peer is None:
            return False
        peer.transport.write(data)
        self.happened()
        return True

    def _leave(self, peer: _Peer | None, reset: bool) -> bool:
        if peer is None:
            return False
        if reset:
            peer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            peer.leaving = True
            peer.transport.abort()
        else:
            peer.leave()
        self.happened()
        return True

    def happened(self) -> None:
        """Something did: there is a new picture."""
        self._happenings += 1
        self.view = View(tuple(peer.picture() for peer in self._peers), self._received, self._happenings)

    def got(self, peer: _Peer, request: int, nth: int) -> None:
        """A request came in, the ``nth`` of its connection."""
        self._received += ((request, peer.address, nth),)
        self.happened()

    def opened(self, peer: _Peer) -> None:
        """A connection is open."""
        self._peers.append(peer)
        self.happened()

    def closed(self, peer: _Peer) -> None:
        """A connection is closed."""
        self._peers.remove(peer)
        self.happened()


class _Peer(asyncio.Protocol):
    """One connection."""

    transport: Any

    def __init__(self, server: ScenarioServer, origin: int) -> None:
        self._server = server
        self._origin = origin
        self._parser = h11.Connection(h11.SERVER)
        self._head: h11.Request | None = None
        self._was_early = False
        self.request: int | None = None
        self.method = b""
        self._count = 0
        self.begun = False
        self.rest: bytes | None = None
        self.leaving = False
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.address: Address = (self._origin, transport.get_extra_info("peername")[1])
        ssl_object = transport.get_extra_info("ssl_object")
        self.resumed = None if ssl_object is None else ssl_object.session_reused
        self._server.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        self._server.closed(self)

    def eof_received(self) -> bool:
        return False  # the client has closed: so do we

    def data_received(self, data: bytes) -> None:
        self._parser.receive_data(data)
        while True:
            event = self._parser.next_event()
            if isinstance(event, h11.Request):
                self._head = event
                self._was_early = (b"x-early", b"1") in event.headers
                if self._was_early:
                    self._take(event)
            elif isinstance(event, h11.EndOfMessage):
                assert self._head is not None
                if not self._was_early:
                    self._take(self._head)
                left, _ = self._parser.trailing_data
                self._parser = h11.Connection(h11.SERVER)  # what is sent goes by it, so each serves one request
                if left:
                    self._parser.receive_data(left)
            elif not isinstance(event, h11.Data):
                return

    def _take(self, head: h11.Request) -> None:
        """A request counts as received."""
        self.request = int(dict(head.headers)[b"x-id"])
        self.method = head.method
        self.begun = False
        self.rest = None
        self._count += 1
        self._server.got(self, self.request, self._count)

    def leave(self) -> None:
        """Close this side; it counts as open until the client closes the other."""
        self.leaving = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:  # TLS says so itself, and then waits for the client
            self.transport.close()

    def picture(self) -> Connection:
        """How it looks."""
        return Connection(
            address=self.address,
            request=self.request,
            begun=self.begun,
            answered=self.begun and self.rest is None,
            leaving=self.leaving,
            resumed=self.resumed,
        )


def answer_to(
    request: int,
    method: bytes,
    *,
    status: int = 200,
    body: str | None = None,
    framing: str = "length",
    close: bool = False,
    close_header: bool = False,
    fin: bool = False,
    connection: str | None = None,
    keep_alive_header: str | None = None,
    version: str = "1.1",
) -> tuple[bytes, bytes]:
    """An answer, head and body.

    Args:
        request: The request's number.
        method: Its method.
        status: Status code.
        body: What it says; ``ok`` and the number if not given.
        framing: How its end is told: ``length``, ``chunked``, ``close``, or ``none``.
        close: With the header `Connection: close`, and closed thereafter.
        close_header: With that header only.
        fin: Closed thereafter, without a word.
        connection: Value of the header `Connection`.
        keep_alive_header: Value of the header `Keep-Alive`.
        version: Of HTTP.
    """
    content = (f"ok{request}" if body is None else body).encode()
    lines = [f"HTTP/{version} {status} X"]
    if framing == "length":
        lines.append(f"Content-Length: {len(content)}")
    if framing == "chunked":
        lines.append("Transfer-Encoding: chunked")
        content = b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)
    if close or close_header:
        lines.append("Connection: close")
    if connection is not None:
        lines.append(f"Connection: {connection}")
    if keep_alive_header is not None:
        lines.append(f"Keep-Alive: {keep_alive_header}")
    head = "".join(f"{line}\r\n" for line in [*lines, ""]).encode()
    return head, b"" if method == b"HEAD" or status in (204, 304) else content


def _bound(port: int) -> socket.socket:
    """A socket that has a port of loopback, with others if need be."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    return sock
