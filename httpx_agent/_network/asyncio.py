"""Open connections for asyncio and compatible loops (uvloop), and run them with our own protocol.

Both HTTP/1.1 engines use them. Each connection has one timer, which is moved only when it fires.

TLS works on memory BIOs here, as in anyio: asyncio's own TLS keeps a buffer of 256 KiB for each connection, and cannot
resume a session.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from asyncio.trsock import TransportSocket
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol, Self

import anyio
import anyio.to_thread

from .._protocol.http1 import PIECE
from .._runtime.contexts import TimeLimit, detached
from .connecting import bindable, connect_unix, look_up, race
from .opening import Phase
from .poll import Poll
from .racing import literal
from .wire import CLOSED, LEFT_UNREAD

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from .racing import AddressInfo
    from .wire import Listener, Wire

#: The maximum number of bytes to keep for a slow reader; beyond it the server has to wait.
HIGH_WATER = 256 * 1024

_TLS_READ = 64 * 1024

#: Modules whose loops close the descriptor only after `connection_lost`, known by their sockets: asyncio and uvloop.
_CLOSING_LATE = (TransportSocket.__module__, "uvloop.loop")


class Consumer(Protocol):
    """A receiver of incoming data, called directly when the event loop delivers it."""

    def received(self, data: bytes) -> None:
        """Take bytes that have arrived."""

    def ended(self, error: Exception | None) -> None:
        """Note that the server closed the connection, or that the connection broke."""


class AsyncioConnector:
    """Open sockets as `httpcore.AnyIOBackend` does, for `AsyncioStream`.

    Args:
        wire: The wire of the socket.
        call_soon: Runs a function in the event loop, from any thread.
    """

    def __init__(self, wire: Wire, call_soon: Callable[[Callable[[], object]], None]) -> None:
        self._wire = wire
        self._call_soon = call_soon
        self._family = wire.family

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None, local_address: str | None, socket_options: Iterable[Any]
    ) -> Any:
        """Connect to the first address of a host that answers."""

        async def connect_to(entry: AddressInfo) -> socket.socket:
            family, kind, protocol, _, address = entry
            sock = self._wire.new_socket(family, kind, protocol)
            try:
                sock.setblocking(False)
                if local_address is not None:
                    sock.bind((local_address, 0))
                zoned = (literal(entry), *address[1:])  # uvloop does not look where the system puts the zone
                await asyncio.get_running_loop().sock_connect(sock, zoned)
            except BaseException:
                sock.close()
                raise
            return sock

        async def close(sock: socket.socket) -> None:
            sock.close()

        async def connect() -> socket.socket:
            addresses = await look_up(self._wire, host, port, self._call_soon)
            return await race(self._wire, bindable(addresses, local_address), connect_to, close)

        def prepare(sock: socket.socket) -> None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for option in socket_options:
                sock.setsockopt(*option)

        return await self._connect(connect, prepare, asyncio.get_running_loop().create_connection, timeout)

    async def connect_unix_socket(self, path: str, timeout: float | None, socket_options: Iterable[Any]) -> Any:
        """Connect to a path; while its queue is full, try again."""
        self._wire.opening.enter(Phase.UNIX)
        self._wire.opening.tried(path)

        async def connect() -> socket.socket:
            return await connect_unix(self._wire, path)

        def prepare(sock: socket.socket) -> None:
            for option in socket_options:
                sock.setsockopt(*option)

        return await self._connect(connect, prepare, asyncio.get_running_loop().create_unix_connection, timeout)

    async def sleep(self, seconds: float) -> None:
        """Wait between attempts to connect."""
        await asyncio.sleep(seconds)

    async def _connect(
        self,
        connect: Callable[[], Awaitable[socket.socket]],
        prepare: Callable[[socket.socket], None],
        create: Callable[..., Awaitable[Any]],
        timeout: float | None,
    ) -> Any:
        httpcore = self._family.httpcore
        try:
            async with asyncio.timeout(timeout):
                sock = await connect()
                try:
                    prepare(sock)
                    kind = self._family.dress(AsyncioStream, "AsyncNetworkStream")
                    stream = kind(httpcore, self._wire.listener)
                    await create(lambda: stream, sock=sock)
                    prepare(sock)  # asyncio itself sets TCP_NODELAY; the user's options come last and override it
                    self._wire.tells_of_loss = True
                except BaseException:
                    sock.close()
                    raise
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(str(error)) from error
        return stream


class AsyncioStream(asyncio.Protocol):
    """A connection as asyncio's protocol, and as httpcore's `AsyncNetworkStream`.

    Incoming data goes to `consumer`, if there is one; otherwise it is kept for `read`.

    Args:
        httpcore: The library whose exceptions to raise.
        listener: Notified of data, or the end, that arrives while nothing is being read.
    """

    def __init__(self, httpcore: Any, listener: Listener) -> None:
        self.consumer: Consumer | None = None
        self.has_ended = False  # nothing more will arrive
        self.error: Exception | None = None  # why
        self.is_lost = False  # the descriptor is closed, or about to be
        self.is_closed = False  # by this side
        self.can_write = True
        self._httpcore = httpcore
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._tls: _Tls | None = None
        self._kept = bytearray()
        self._is_paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._room: asyncio.Event | None = None  # for `write`: an upgraded stream may be read at the same time
        self._gone: asyncio.Future[None] | None = None
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._poll: Poll | None = None

    # asyncio's protocol -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        tls = self._tls
        if tls is not None:
            tls.incoming.write(data)
            if tls.is_shaking_hands:
                self.wake()
            else:
                self._read_tls(tls)
        elif self.consumer is not None:
            self.consumer.received(data)
        else:
            self._keep(data)

    def eof_received(self) -> bool:
        tls = self._tls
        if tls is not None:
            tls.incoming.write_eof()
            if not tls.is_shaking_hands:
                self._read_tls(tls)
        self._end(None)
        return True  # go on sending

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, OSError) and not self.has_ended and self._salvage() and isinstance(exc, BrokenPipeError):
            exc = None  # the server closed in order, then refused further data
        self.is_lost = True
        self.can_write = False
        self._tell_writer()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._end(exc)
        self.wake()
        if self._gone is not None:
            self._gone.set_result(None)

    def pause_writing(self) -> None:
        self.can_write = False

    def resume_writing(self) -> None:
        self.can_write = True
        self._tell_writer()
        self.wake()

    def _tell_writer(self) -> None:
        if self._room is not None:
            self._room.set()

    def _end(self, error: Exception | None) -> None:
        if self.has_ended:
            return
        self.has_ended = True
        self.error = error
        if self.consumer is not None:
            self.consumer.ended(error)
        elif self._waiter is None:
            self._listener.lost()
        self.wake()

    def _salvage(self) -> bool:
        """Read what the server sent before a write failed, which the loop leaves unread; return whether it closed."""
        sock = self._transport.get_extra_info("socket")
        if type(sock).__module__ not in _CLOSING_LATE:
            return False
        with suppress(OSError):
            while data := os.read(sock.fileno(), PIECE):
                self.data_received(data)
            return True
        return False

    def _keep(self, data: bytes) -> None:
        self._kept += data
        if len(self._kept) > HIGH_WATER:
            self.pause_reading()
        if self._waiter is None:
            self._listener.lost()
        self.wake()

    # What the connection uses -----------------------------------------------------------------------------------------

    def send(self, data: bytes | memoryview) -> None:
        """Write without waiting."""
        tls = self._tls
        if tls is not None:
            data = tls.encrypt(data)
        self._send_raw(data)

    def _send_raw(self, data: bytes | memoryview) -> None:
        Context().run(self._transport.write, data)  # the loop sends the rest

    def news(self, timeout: float | None) -> asyncio.Future[None]:
        """Return a future that is done when data arrives, when there is room for writing, or at the end.

        Raises:
            BusyResourceError: If another task is already waiting; anyio's and trio's streams do the same.
            TimeoutError: From the future, after `timeout` seconds.
        """
        if self._waiter is not None and not self._waiter.done():
            raise anyio.BusyResourceError("reading from")
        self._waiter = waiter = self._loop.create_future()
        if timeout is None:
            self._deadline = None
        else:
            self._arm(timeout)
        return waiter

    def pause_reading(self) -> None:
        """Make the server wait."""
        if not self._is_paused and not self.has_ended:
            self._is_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Let the server continue."""
        if self._is_paused:
            self._is_paused = False
            if not self._transport.is_closing():
                Context().run(self._transport.resume_reading)  # asks the loop for a new reader

    def close_soon(self) -> None:
        """Close without waiting: the loop does it in its next turn. If the loop has ended, close the raw descriptor."""
        self.is_closed = True
        if self._loop.is_closed():
            return
        self.wake()
        self._tell_writer()
        if self._transport.get_write_buffer_size():  # a server that does not read could keep it open
            self._transport.abort()
        else:
            self._transport.close()

    def is_closing(self) -> bool:
        """Return whether nothing more can be written."""
        return bool(self._transport.is_closing())

    def wake(self) -> None:
        """Wake the task that waits for news."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def take_over(self, data: bytes) -> None:
        """Keep incoming data from now on, after some first bytes, because nothing consumes it any more."""
        self.consumer = None
        self._kept += data

    def _arm(self, timeout: float) -> None:
        self._deadline = deadline = self._loop.time() + timeout
        if self._timer is None or self._timer_at > deadline:
            self._set_timer(deadline)

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = self._loop.call_at(when, self._ring, context=Context())

    def _ring(self) -> None:
        self._timer = None
        waiter = self._waiter
        if waiter is None or waiter.done() or self._deadline is None:
            return
        if self._deadline > self._timer_at:
            self._set_timer(self._deadline)
        else:
            waiter.set_exception(TimeoutError())

    # httpcore's network stream ----------------------------------------------------------------------------------------

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read at least one byte, or none at the end."""
        httpcore = self._httpcore
        while self.is_closed or not self._kept:
            if self.is_closed:
                raise httpcore.ReadError(CLOSED)
            if self.error is not None:
                raise httpcore.ReadError(str(self.error)) from self.error
            if self.has_ended:
                return b""
            try:
                await self.news(timeout)
            except TimeoutError as error:
                raise httpcore.ReadTimeout(str(error)) from error
        data = bytes(self._kept[:max_bytes])
        del self._kept[:max_bytes]
        self.resume_reading()
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write all of it."""
        httpcore = self._httpcore
        rest = memoryview(buffer)
        while rest:
            if self.is_closing():
                raise httpcore.WriteError(str(self.error or "the connection is closed"))
            self.send(rest[:PIECE])
            rest = rest[PIECE:]
            while not self.can_write or self.is_closed:
                if self.is_lost or self.is_closed:
                    raise httpcore.WriteError(str(self.error or CLOSED))
                self._room = self._room or asyncio.Event()
                self._room.clear()
                with TimeLimit(timeout) as limit:
                    await self._room.wait()
                if limit.cancelled_caught:
                    raise httpcore.WriteTimeout

    async def aclose(self) -> None:
        """Close, and wait until it is closed."""
        self.close_soon()
        if not self.is_lost:
            if self._gone is None:
                self._gone = self._loop.create_future()
            await asyncio.wait([self._gone])  # several tasks may wait, and none may cancel it for the others

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> Self:
        """Secure the connection."""
        httpcore = self._httpcore
        if self._tls is not None:
            raise NotImplementedError("TLS within TLS is not supported; use http1_engine='h11'")
        try:
            with TimeLimit(timeout) as limit:
                self._tls = tls = await _begin_tls(ssl_context, server_hostname)
                tls.incoming.write(self._kept)
                self._kept.clear()
                while not tls.shake_hands(self._send_raw):
                    if self.has_ended:
                        raise self.error or ssl.SSLEOFError("the server closed the connection during the handshake")
                    await self.news(None)
            if limit.cancelled_caught:
                raise httpcore.ConnectTimeout
        except BaseException as error:
            self.close_soon()
            if isinstance(error, OSError):
                raise httpcore.ConnectError(str(error)) from error
            raise
        self._read_tls(tls)
        return self

    def get_extra_info(self, info: str) -> Any:
        """Return the same information as httpcore's streams."""
        if info == "is_readable":
            return self.is_readable()
        if info == LEFT_UNREAD:
            return bool(self._kept) or self.has_ended
        if info == "ssl_object":
            return None if self._tls is None else self._tls.object
        if info == "client_addr":
            return self._transport.get_extra_info("sockname")
        if info == "server_addr":
            return self._transport.get_extra_info("peername")
        if info == "socket":
            return self._transport.get_extra_info("socket")
        return None

    def is_readable(self) -> bool:
        """Return whether there is unread data or an unread end, including any that the loop has not seen yet."""
        if self._kept or self.has_ended:
            return True
        if self._poll is None:
            self._poll = Poll(self._transport.get_extra_info("socket"))
        return self._poll.is_readable()

    def _read_tls(self, tls: _Tls) -> None:
        try:
            data = tls.decrypt(self._send_raw)
        except ssl.SSLError as error:
            self._end(error)
            return
        if data:
            if self.consumer is not None:
                self.consumer.received(data)
            else:
                self._keep(data)
        if tls.has_ended:
            self._end(None)


async def _begin_tls(context: ssl.SSLContext, server_hostname: str | None) -> _Tls:
    """Return TLS on memory BIOs; use a thread if the context has its own methods, which may read certificates."""
    if type(context) is ssl.SSLContext:
        return _Tls(context, server_hostname)
    return await detached(anyio.to_thread.run_sync(_Tls, context, server_hostname, limiter=anyio.CapacityLimiter(1)))


class _Tls:
    """TLS on memory BIOs."""

    __slots__ = ("has_ended", "incoming", "is_shaking_hands", "object", "outgoing")

    def __init__(self, context: ssl.SSLContext, server_hostname: str | None) -> None:
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.object = context.wrap_bio(self.incoming, self.outgoing, server_hostname=server_hostname)
        self.is_shaking_hands = True
        self.has_ended = False

    def shake_hands(self, write: Callable[[bytes], None]) -> bool:
        """Continue the handshake; return whether it is done."""
        try:
            self.object.do_handshake()
            self.is_shaking_hands = False
        except ssl.SSLWantReadError:
            pass
        finally:
            self.flush(write)
        return not self.is_shaking_hands

    def encrypt(self, data: bytes | memoryview) -> bytes:
        """Encrypt data and return the ciphertext to send."""
        self.object.write(data)
        return self.outgoing.read()

    def decrypt(self, write: Callable[[bytes], None]) -> bytes:
        """Decrypt and return what has arrived."""
        found = []
        try:
            while data := self.object.read(_TLS_READ):
                found.append(data)
            self.has_ended = True
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):  # an end without close_notify also counts, as in httpcore
            self.has_ended = True
        self.flush(write)
        return b"".join(found)

    def flush(self, write: Callable[[bytes], None]) -> None:
        """Send any data that TLS itself produced."""
        if self.outgoing.pending:
            write(self.outgoing.read())
