"""For event loops: a network backend over anyio's or the user's that opens one socket, and its stream.

It wraps another backend for the reasons given in `sync.py`.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import anyio

from .._runtime.contexts import TimeLimit
from .trio_tls import keep_readable
from .upload import NoRoomError, awrite_listening
from .wire import ANSWERED, CLOSE_TIMEOUT, Wire


class AsyncBackend:
    """The `httpcore.AsyncNetworkBackend` of one socket.

    Args:
        wire: The socket's wire.
        inner: The backend that does the work.
        call_soon: Runs a function in the event loop, from any thread.
    """

    def __init__(self, wire: Wire, inner: Any, call_soon: Any) -> None:
        self._wire = wire
        self._inner = inner
        self._call_soon = call_soon

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> Any:
        """Open a TCP connection; the agent's own address and options apply, through proxies too."""
        options = self._wire.options
        timeout = self._wire.opening.begin(timeout, f"{host}:{port}")
        return await self._opened(
            await self._unless_broken(
                self._inner.connect_tcp, host, port, timeout, options.local_address, options.tcp_socket_options()
            )
        )

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> Any:
        """Open a connection to a Unix socket."""
        timeout = self._wire.opening.begin(timeout, path)
        return await self._opened(
            await self._unless_broken(self._inner.connect_unix_socket, path, timeout, socket_options or ())
        )

    async def sleep(self, seconds: float) -> None:
        """Wait between attempts to connect."""
        await self._unless_broken(self._inner.sleep, seconds)

    async def _unless_broken(self, function: Any, *args: Any) -> Any:
        wire = self._wire  # not `breakable`: hundreds may be opened at once, and memory counts
        with anyio.CancelScope() as scope:
            breaker = partial(self._call_soon, scope.cancel)
            wire.enter(breaker)
            try:
                return await function(*args)
            finally:
                wire.leave()
        wire.check()
        return None  # pragma: no cover - the scope is cancelled only when the wire is broken

    async def _opened(self, inner: Any) -> Any:
        kind = self._wire.family.dress(AsyncStream, "AsyncNetworkStream")
        stream = await _begin_async(self._wire, kind(self._wire, inner))
        self._wire.connected()
        return stream


async def _begin_async(wire: Wire, stream: Any) -> Any:
    """Give the wire a new stream, as `_begin_sync` does."""
    wire.stream = stream
    if wire.broken:
        with anyio.CancelScope(shield=True):
            await stream.aclose()
        wire.check()
    return stream


class AsyncStream:
    """The `httpcore.AsyncNetworkStream` of one socket; each TLS handshake adds another around it."""

    def __init__(self, wire: Wire, inner: Any) -> None:
        self._wire = wire
        self.inner = inner
        self._closed = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read at least one byte, or none at the end."""
        wire = self._wire
        if wire.opening.greets_proxy:
            with wire.opening.greeting(wire.family.httpcore) as left:
                return await self._read(max_bytes, left)
        return await self._read(max_bytes, timeout)

    async def _read(self, max_bytes: int, timeout: float | None) -> bytes:
        wire = self._wire
        if wire.impatient and not self.inner.get_extra_info("is_readable"):
            raise wire.family.httpcore.ReadError("the rest of the response has not arrived")
        data = wire.due()
        while data is None:
            data = wire.heard(await self.inner.read(max_bytes, timeout))
        wire.check_head()
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write all of it; if a shared connection is broken, the next read reports it, after what has arrived."""
        wire = self._wire
        if wire.opening.greets_proxy and wire.opening.still_greets(buffer):
            with wire.opening.greeting(wire.family.httpcore) as left:
                await self._write(buffer, left)
        else:
            await self._write(buffer, timeout)

    async def _write(self, buffer: bytes, timeout: float | None) -> None:
        wire, httpcore = self._wire, self._wire.family.httpcore
        wire.check_unanswered(buffer)
        listens = wire.listens(buffer, self.inner)
        wire.said(buffer)
        try:
            if not listens:
                await self.inner.write(buffer, timeout)
            elif not await awrite_listening(self.inner, buffer, timeout, wire.overhear):
                raise httpcore.WriteError(ANSWERED)
        except NoRoomError as error:
            wire.cut_off = True
            raise httpcore.WriteTimeout(str(error)) from None
        except httpcore.WriteError:
            wire.cut_off = True
            if wire.frames is None:
                raise

    async def aclose(self) -> None:
        """Close, once; do nothing in a forked child, which has a different event loop."""
        if not self._closed and not self._wire.inherited:
            with suppress(Exception), TimeLimit(CLOSE_TIMEOUT, shield=True) as patience:
                await self.inner.aclose()
            self._closed = True
            if patience.cancelled_caught:
                self._wire.abort()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> Any:
        """Secure the connection."""
        wire = self._wire
        wire.opening.secure(server_hostname)
        try:
            await wire.listener.load_certificates(ssl_context, wire.opening.time_left(timeout))
        except Exception:
            await self.aclose()  # as a failed handshake does: another attempt may follow
            raise
        with wire.listener.handshake(ssl_context, server_hostname) as (context, name):
            inner = await self.inner.start_tls(context, name, wire.opening.time_left(timeout))
        inner = keep_readable(inner, wire.family.httpcore)
        stream = await _begin_async(wire, type(self)(wire, inner))
        wire.secured(stream)
        return stream

    def get_extra_info(self, info: str) -> Any:
        """Return the same information as httpcore's streams."""
        return self.inner.get_extra_info(info)
