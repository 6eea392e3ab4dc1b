"""Upper bounds of an httpx client: transports that do nothing, or almost nothing. The lower ones are in `raw`."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import AsyncIterator, Iterator

import httpx

from .cases import BODIES

READ = 256 * 1024
"""What is read at once of a large body: as much as asyncio reads."""


class Parts(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that comes in parts, in memory that is new for each, as if it were read."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, self.length, READ):
            yield bytes(min(READ, self.length - start))

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self:
            yield part


class Nothing(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """A transport that answers at once: what is left is the cost of the client."""

    def __init__(self) -> None:
        self.answers = {f"/{name}": self.answer(length) for name, length in BODIES.items()}

    @staticmethod
    def answer(length: int) -> tuple[list[tuple[bytes, bytes]], httpx.ByteStream | Parts]:
        headers = [
            (b"Server", b"nothing"),
            (b"Date", b"Thu, 01 Jan 1970 00:00:00 GMT"),
            (b"Content-Type", b"application/octet-stream"),
            (b"Content-Length", str(length).encode()),
            (b"Connection", b"keep-alive"),
        ]
        return headers, httpx.ByteStream(b"x" * length) if length < READ else Parts(length)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        headers, stream = self.answers[request.url.path]
        return httpx.Response(200, headers=headers, stream=stream)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)  # other tasks get their turn, as with any answer that does not come at once
        headers, stream = self.answers[request.url.path]
        return httpx.Response(200, headers=headers, stream=stream)


def encode(request: httpx.Request) -> bytes:
    """A request without a body on the wire; nothing is checked."""
    head = [b"%s %s HTTP/1.1\r\n" % (request.method.encode(), request.url.raw_path)]
    head += [b"%s: %s\r\n" % header for header in request.headers.raw]
    return b"".join((*head, b"\r\n"))


class _BareProtocol(asyncio.Protocol):
    """One connection: a request out, a response in, by httptools."""

    transport: asyncio.Transport
    done: asyncio.Future[None]

    def __init__(self) -> None:
        from httptools import HttpResponseParser

        self.headers: list[tuple[bytes, bytes]] = []
        self.body: list[bytes] = []
        self.parser = HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        done = getattr(self, "done", None)
        if done is not None and not done.done():
            done.set_exception(error or ConnectionResetError("closed by the server"))

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_body(self, part: bytes) -> None:
        self.body.append(part)

    def on_message_complete(self) -> None:
        self.done.set_result(None)

    async def exchange(self, request: httpx.Request) -> httpx.Response:
        self.done = asyncio.get_running_loop().create_future()
        self.headers, self.body = [], []
        self.transport.write(encode(request))
        await self.done
        return httpx.Response(
            self.parser.get_status_code(), headers=self.headers, stream=httpx.ByteStream(b"".join(self.body))
        )


class BareTransport(httpx.AsyncBaseTransport):
    """The least that a transport for small answers can do: no limits, no timeouts, no checks, one server."""

    def __init__(self) -> None:
        self.free: list[_BareProtocol] = []
        self.all: list[_BareProtocol] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.free:
            protocol = self.free.pop()
        else:
            loop = asyncio.get_running_loop()
            _, protocol = await loop.create_connection(_BareProtocol, request.url.host, request.url.port or 80)
            self.all.append(protocol)
        response = await protocol.exchange(request)
        self.free.append(protocol)
        return response

    async def aclose(self) -> None:
        for protocol in self.all:
            protocol.transport.close()


class _BareResponse:
    """A response as httptools tells of it."""

    def __init__(self) -> None:
        from httptools import HttpResponseParser

        self.headers: list[tuple[bytes, bytes]] = []
        self.body: list[bytes] = []
        self.is_complete = False
        self.parser = HttpResponseParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_body(self, part: bytes) -> None:
        self.body.append(part)

    def on_message_complete(self) -> None:
        self.is_complete = True


class BareSocketTransport(httpx.BaseTransport):
    """The same for threads, on blocking sockets."""

    def __init__(self) -> None:
        self.free: deque[socket.socket] = deque()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        try:
            raw = self.free.pop()
        except IndexError:
            raw = socket.create_connection((request.url.host, request.url.port or 80))
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw.sendall(encode(request))
        response = _BareResponse()
        while not response.is_complete:
            data = raw.recv(READ)
            if not data:
                raise ConnectionResetError("closed by the server")
            response.parser.feed_data(data)
        self.free.append(raw)
        return httpx.Response(
            response.parser.get_status_code(),
            headers=response.headers,
            stream=httpx.ByteStream(b"".join(response.body)),
        )

    def close(self) -> None:
        for raw in self.free:
            raw.close()
