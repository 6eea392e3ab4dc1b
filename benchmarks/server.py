"""The server that the benchmark brings: `python -m benchmarks.server CONFIGURATION`, one process, one event loop.

It knows GET without a body, no more, and answers with bytes that are made beforehand; with uvloop where that is
installed. Paths: ``/small`` and the other names in `cases.BODIES`; ``/close/small`` closes the connection afterwards;
``/hold/500`` answers when 500 requests for it are there, all at once; ``/sockets`` tells how many connections are open.

When it listens it prints its ports as JSON, and it ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import Coroutine
from email.utils import formatdate
from typing import Any

from .cases import BODIES
from .descriptors import allow_many_files

BACKLOG = 4096


def response(body: bytes, *, close: bool = False) -> bytes:
    """A whole response; its head has what a usual server sends."""
    head = (
        f"HTTP/1.1 200 OK\r\nServer: benchmarks\r\nDate: {formatdate(usegmt=True)}\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n"
        f"Connection: {'close' if close else 'keep-alive'}\r\n\r\n"
    )
    return head.encode() + body


class Site:
    """What the server answers, and who waits for an answer."""

    def __init__(self) -> None:
        bodies = {name: b"x" * length for name, length in BODIES.items()}
        self.kept = {f"/{name}".encode(): response(body) for name, body in bodies.items()}
        self.closed = {f"/close/{name}".encode(): response(body, close=True) for name, body in bodies.items()}
        self.held: list[asyncio.Transport] = []
        self.connections = 0

    def hold(self, transport: asyncio.Transport, count: int) -> None:
        """Answer `count` requests at once."""
        self.held.append(transport)
        if len(self.held) == count:
            held, self.held = self.held, []
            for waiting in held:
                waiting.write(self.kept[b"/small"])


class Peer(asyncio.Protocol):
    """One connection."""

    transport: asyncio.Transport

    def __init__(self, site: Site) -> None:
        self.site = site
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's is not asyncio.Transport by inheritance
        self.site.connections += 1

    def connection_lost(self, error: Exception | None) -> None:
        self.site.connections -= 1

    def data_received(self, data: bytes) -> None:
        data = self.buffer + data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            self.answer(data.split(b" ", 2)[1])
            data = data[end + 4 :]
        self.buffer = data

    def answer(self, path: bytes) -> None:
        if path in self.site.kept:
            self.transport.write(self.site.kept[path])
        elif path in self.site.closed:
            self.transport.write(self.site.closed[path])
            self.transport.close()
        elif path.startswith(b"/hold/"):
            self.site.hold(self.transport, int(path[6:]))
        elif path == b"/sockets":
            self.transport.write(response(b"%d" % self.site.connections))
        else:
            self.transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")


def tls(certificate: str, *, resumption: bool) -> ssl.SSLContext:
    """A context for the server, with tickets for later sessions or without."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if not resumption:
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
    return context


async def serve(hosts: list[str], certificate: str, path: str | None) -> None:
    """Listen on a free port of all `hosts` for each kind of connection, and at a path, until standard input ends."""
    loop, site = asyncio.get_running_loop(), Site()
    contexts = {
        "http": None,
        "https": tls(certificate, resumption=True),
        "https-full": tls(certificate, resumption=False),
    }
    ports = {}
    for name, context in contexts.items():
        server = await loop.create_server(lambda: Peer(site), hosts[0], 0, ssl=context, backlog=BACKLOG)
        ports[name] = server.sockets[0].getsockname()[1]
    if hosts[1:]:
        await loop.create_server(lambda: Peer(site), hosts[1:], ports["http"], backlog=BACKLOG)
    if path is not None:
        await loop.create_unix_server(lambda: Peer(site), path, backlog=BACKLOG)
    print(json.dumps(ports), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


def run(server: Coroutine[Any, Any, None]) -> None:
    """Run it on uvloop, or else on asyncio's own loop."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(server)
    else:
        uvloop.run(server)


if __name__ == "__main__":
    allow_many_files()
    configuration = json.loads(sys.argv[1])
    run(serve(configuration["hosts"], configuration["certificate"], configuration["path"]))
