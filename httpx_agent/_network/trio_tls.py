"""TLS on trio that can still be read after a failed write."""

from __future__ import annotations

import sys
from typing import Any


def keep_readable(stream: Any, httpcore: Any) -> Any:
    """Return a TLS stream that can still be read after a failed write; on other loops, return the same stream.

    A server that refuses an upload responds, closes, and resets if more data comes. After a failed write,
    a `trio.SSLStream` also refuses to read, and the response is lost although the system has received it.

    Args:
        stream: An httpcore stream, after the handshake.
        httpcore: The library whose exceptions to raise.
    """
    trio = sys.modules.get("trio")
    sock = stream.get_extra_info("socket")
    return TrioTls(stream, sock, httpcore) if trio is not None and isinstance(sock, trio.socket.SocketType) else stream


class TrioTls:
    """An httpcore stream on trio whose TLS does not learn of failed writes: `write` raises in its place."""

    def __init__(self, inner: Any, sock: Any, httpcore: Any) -> None:
        self._inner = inner
        self._trio_socket = sock
        self._httpcore = httpcore
        self._error: ConnectionError | None = None
        send = sock.send

        async def note(data: Any) -> int:
            try:
                sent: int = await send(data)
            except ConnectionError as error:
                self._error = error
                return len(data)
            return sent

        sock.send = note

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read at least one byte, or none at the end."""
        data: bytes = await self._inner.read(max_bytes, timeout)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write all of it.

        Raises:
            WriteError: If the connection broke.
        """
        await self._inner.write(buffer, timeout)
        if self._error is not None:
            raise self._httpcore.WriteError(str(self._error)) from self._error

    async def aclose(self) -> None:
        """Close it."""
        vars(self._trio_socket).pop("send", None)  # otherwise the two would refer to each other
        await self._inner.aclose()

    async def start_tls(self, *args: Any, **kwargs: Any) -> Any:
        """Start TLS within this stream."""
        return await self._inner.start_tls(*args, **kwargs)

    def get_extra_info(self, info: str) -> Any:
        """Return the wrapped stream's information."""
        return self._inner.get_extra_info(info)
