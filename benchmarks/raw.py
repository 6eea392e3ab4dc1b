"""The floor: sockets with no client. What a request costs the system, or asyncio, whoever sends it."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from urllib.parse import urlsplit

from .cases import BODIES


class _Target:
    """A URL taken apart, and the bytes of its request."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.address = (parts.hostname, parts.port or 80)
        self.length = BODIES[parts.path.rpartition("/")[2]]
        self.request = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAccept: */*\r\n\r\n".encode()


class _RawProtocol(asyncio.Protocol):
    transport: asyncio.Transport
    done: asyncio.Future[int]
    length: int
    received: int
    expected: int

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.expected < 0:
            self.expected = data.index(b"\r\n\r\n") + 4 + self.length
        self.received += len(data)
        if self.received == self.expected:
            self.done.set_result(self.length)

    def send(self, target: _Target) -> asyncio.Future[int]:
        self.length, self.received, self.expected = target.length, 0, -1
        self.done = asyncio.get_running_loop().create_future()
        self.transport.write(target.request)
        return self.done


class RawStreams:
    """Requests on asyncio's streams of bytes, one server, nothing parsed."""

    def __init__(self) -> None:
        self.free: deque[_RawProtocol] = deque()
        self.targets: dict[str, _Target] = {}

    async def request(self, url: str) -> int:
        target = self.targets.get(url)
        if target is None:
            target = self.targets[url] = _Target(url)
        if self.free:
            protocol = self.free.popleft()
        else:
            _, protocol = await asyncio.get_running_loop().create_connection(_RawProtocol, *target.address)
        length = await protocol.send(target)
        self.free.append(protocol)
        return length

    def close(self) -> None:
        for protocol in self.free:
            protocol.transport.close()


class RawSockets:
    """Requests on blocking sockets, one server, nothing parsed."""

    def __init__(self) -> None:
        self.free: deque[socket.socket] = deque()
        self.targets: dict[str, _Target] = {}

    def request(self, url: str) -> int:
        target = self.targets.get(url)
        if target is None:
            target = self.targets[url] = _Target(url)
        try:
            raw = self.free.popleft()
        except IndexError:
            raw = socket.create_connection(target.address)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw.sendall(target.request)
        data = raw.recv(65536)
        expected = data.index(b"\r\n\r\n") + 4 + target.length
        received = len(data)
        while received < expected:
            part = len(raw.recv(65536))
            if not part:
                raise ConnectionResetError("closed by the server")
            received += part
        self.free.append(raw)
        return target.length

    def close(self) -> None:
        for raw in self.free:
            raw.close()
