"""Send the same bytes through both engines, and record everything that a caller can see.

`h11` is httpcore's own connection over a stream that gives the parts. `sync` and `asyncio` are ours, over a socket and
a transport that do. No system call is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import h11
import httpcore

from httpx_agent import Agent
from httpx_agent._connection.http1_asyncio import AsyncioHttp1Connection
from httpx_agent._connection.http1_sync import SyncHttp1Connection
from httpx_agent._connection.httpcore import keep_open
from httpx_agent._network.asyncio import AsyncioStream
from httpx_agent._network.wire import Wire
from httpx_agent._protocol.http1 import RecentFields
from httpx_agent._values.origins import Key

URL = "http://server.example/path"

FAMILY = Agent.family
SYNC = FAMILY.dress(SyncHttp1Connection, "ConnectionInterface")
ASYNCIO = FAMILY.dress(AsyncioHttp1Connection, "AsyncConnectionInterface")
STREAM = FAMILY.dress(AsyncioStream, "AsyncNetworkStream")

OPTIONS = Agent(http1_engine="auto").options

KEY = Key("http", "server.example", 80, None)


@dataclass(frozen=True)
class Case:
    """What a server says to a request before it closes the connection.

    Attributes:
        data: The bytes.
        cuts: Where they are cut.
        method: The request's method.
        upgrade: Whether the request proposes another protocol.
    """

    data: bytes
    cuts: tuple[int, ...] = ()
    method: str = "GET"
    upgrade: bool = False

    @property
    def parts(self) -> list[bytes]:
        """The bytes as they arrive."""
        at = sorted({0, *(cut for cut in self.cuts if 0 < cut < len(self.data)), len(self.data)})
        return [self.data[start:end] for start, end in itertools.pairwise(at)]

    def request(self) -> httpcore.Request:
        """The request."""
        headers = [("Host", "server.example")] + [("Upgrade", "other")] * self.upgrade
        return httpcore.Request(self.method, URL, headers=headers)


@dataclass
class Outcome:
    """What a caller sees.

    Attributes:
        head: HTTP version, status, reason, headers; ``None`` if there was an error before.
        body: What came of the body.
        error: The class of the exception.
        message: Its text; not compared.
        reusable: Whether the connection would serve another request; not compared after an error.
        switched: What the caller finds on the stream after a switch of protocols.
    """

    head: Any = None
    body: bytes = b""
    error: str | None = None
    message: str = ""
    reusable: bool = False
    switched: bytes | None = None

    def seen(self) -> tuple[Any, ...]:
        """What is compared."""
        return self.head, self.body, self.error, self.reusable, self.switched


class _H11Stream(httpcore.NetworkStream):
    def __init__(self, parts: Iterable[bytes]) -> None:
        self.parts = list(parts)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self.parts.pop(0) if self.parts else b""

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        pass

    def close(self) -> None:
        pass

    def get_extra_info(self, info: str) -> Any:
        return None


def through_h11(case: Case) -> Outcome:
    """By httpcore's own connection."""
    stream = _H11Stream(_at_most(case.parts, 64 * 1024))
    connection = httpcore.HTTP11Connection(httpcore.URL(URL).origin, stream)
    outcome = Outcome()
    try:
        request = case.request()
        response = connection.handle_request(request)
        _head(outcome, response)
        if response.extensions["http_version"] == b"HTTP/1.0":
            keep_open(connection, request, response)
        network_stream = response.extensions["network_stream"]
        for part in response.iter_stream():
            outcome.body += part
        outcome.switched = _read_all(network_stream) if network_stream is not stream else None
        response.close()
    except (Exception, h11.ProtocolError) as error:
        _failed(outcome, error)
    leftovers = connection._h11_state.trailing_data[0]
    outcome.reusable = connection.is_available() and not leftovers and not stream.parts and outcome.error is None
    return outcome


class _Socket:
    """A socket that has something to give, and takes everything."""

    def __init__(self, parts: Iterable[bytes]) -> None:
        self.parts = list(parts)

    def setblocking(self, flag: bool) -> None:
        pass

    def fileno(self) -> int:
        return 0  # is never looked at: there is always something to be read

    def recv(self, size: int) -> bytes:
        return self.parts.pop(0) if self.parts else b""

    def send(self, data: bytes) -> int:
        return len(data)


class _SyncStream:
    def __init__(self, sock: _Socket) -> None:
        self.sock = sock

    def enter(self) -> None:
        pass

    leave = close = enter

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self.sock.recv(max_bytes)

    def get_extra_info(self, info: str) -> Any:
        return self.sock if info == "socket" else None


class _Backend:
    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def connect_tcp(self, **_: Any) -> Any:
        return self.stream


class _Listener:
    def lost(self) -> None:
        pass


def _wire() -> Wire:
    return Wire(FAMILY, _Listener(), OPTIONS)  # type: ignore[arg-type]


def through_sync(case: Case) -> Outcome:
    """By our connection for threads."""
    stream = _SyncStream(_Socket(_at_most(case.parts, 64 * 1024)))
    connection: Any = SYNC(KEY, _wire(), _Backend(stream), OPTIONS, None, RecentFields())
    outcome = Outcome()
    try:
        response = connection.handle_request(case.request())
        _head(outcome, response)
        network_stream = response.extensions["network_stream"]
        for part in response.stream:
            outcome.body += part
        outcome.switched = _read_all(network_stream) if network_stream is not stream else None
        response.stream.close()
    except Exception as error:
        _failed(outcome, error)
    outcome.reusable = connection.is_available() and outcome.error is None and not stream.sock.parts
    return outcome


class _Transport:
    """A transport that delivers its parts one by one, each in a turn of the loop of its own."""

    def __init__(self, protocol: AsyncioStream, parts: Sequence[bytes]) -> None:
        self.protocol = protocol
        self.parts = list(parts)
        self.loop = asyncio.get_running_loop()
        self.closed = self.paused = False
        protocol.connection_made(self)

    def write(self, data: bytes) -> None:
        self.loop.call_soon(self.deliver)

    def deliver(self) -> None:
        if self.closed or self.paused:
            return
        if self.parts:
            self.protocol.data_received(self.parts.pop(0))
            self.loop.call_soon(self.deliver)
        else:
            self.protocol.eof_received()

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False
        self.loop.call_soon(self.deliver)

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> Any:
        return None

    def close(self) -> None:
        self.closed = True


class _AsyncBackend:
    def __init__(self, stream: Any) -> None:
        self.stream = stream

    async def connect_tcp(self, **_: Any) -> Any:
        return self.stream


class _Shell:
    """What the agent puts around a stream."""

    def __init__(self, inner: AsyncioStream) -> None:
        self.inner = inner


async def through_asyncio(case: Case) -> Outcome:
    """By our connection for event loops."""
    stream = STREAM(httpcore, _Listener())
    transport = _Transport(stream, _at_most(case.parts, 64 * 1024))
    connection: Any = ASYNCIO(KEY, _wire(), _AsyncBackend(_Shell(stream)), OPTIONS, None, RecentFields())
    outcome = Outcome()
    try:
        response = await connection.handle_async_request(case.request())
        _head(outcome, response)
        switched = response.status == 101 or (case.method == "CONNECT" and 200 <= response.status < 300)
        async for part in response.stream:
            outcome.body += part
        if switched:
            outcome.switched = b""
            while data := await stream.read(1000):
                outcome.switched += data
        await response.stream.aclose()
    except Exception as error:
        _failed(outcome, error)
    outcome.reusable = connection.is_available() and outcome.error is None and not transport.parts
    return outcome


def _head(outcome: Outcome, response: Any) -> None:
    extensions = response.extensions
    outcome.head = extensions["http_version"], response.status, extensions["reason_phrase"], response.headers


def _failed(outcome: Outcome, error: BaseException) -> None:
    outcome.error = type(error).__name__
    outcome.message = str(error)


def _read_all(stream: Any) -> bytes:
    found = b""
    while data := stream.read(1000):
        found += data
    return found


def _at_most(parts: Iterable[bytes], size: int) -> list[bytes]:
    return [part[at : at + size] for part in parts for at in range(0, len(part), size)]


@contextlib.contextmanager
def event_loop() -> Any:
    """A loop for many cases."""
    with asyncio.Runner() as runner:
        yield lambda case: runner.run(through_asyncio(case))


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test in an event loop of its own."""

    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


def connected(*parts: bytes) -> tuple[Any, Any, Any]:
    """A connection, its stream and its transport."""
    stream = STREAM(httpcore, _Listener())
    transport = _Transport(stream, parts)
    connection = ASYNCIO(KEY, _wire(), _AsyncBackend(_Shell(stream)), OPTIONS, None, RecentFields())
    return connection, stream, transport
