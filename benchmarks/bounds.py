"""Upper bounds of an httpx client: transports that do nothing, or almost nothing. The lower ones are in `raw`."""

from __future__ import annotations

import asyncio

import httpx

from .cases import BODIES

HEADERS = [
    (b"Server", b"nothing"),
    (b"Date", b"Thu, 01 Jan 1970 00:00:00 GMT"),
    (b"Content-Type", b"application/octet-stream"),
    (b"Content-Length", str(BODIES["small"]).encode()),
    (b"Connection", b"keep-alive"),
]
BODY = b"x" * BODIES["small"]


class Nothing(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """A transport that answers at once: what is left is the cost of the client."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers=HEADERS, stream=httpx.ByteStream(BODY))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)  # other tasks get their turn, as with any answer that does not come at once
        return httpx.Response(200, headers=HEADERS, stream=httpx.ByteStream(BODY))


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
        head = [b"%s %s HTTP/1.1\r\n" % (request.method.encode(), request.url.raw_path)]
        head += [b"%s: %s\r\n" % header for header in request.headers.raw]
        head.append(b"\r\n")
        self.transport.write(b"".join(head))
        await self.done
        return httpx.Response(
            self.parser.get_status_code(), headers=self.headers, stream=httpx.ByteStream(b"".join(self.body))
        )


class BareTransport(httpx.AsyncBaseTransport):
    """The least that a transport for plain HTTP/1.1 can do: no limits, no timeouts, no checks, one server."""

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
