"""Control the threads in which a scenario sends requests."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable
from typing import Any

import httpcore


class Interrupt(BaseException):
    """Comes out of a read, as a `KeyboardInterrupt` would."""


class SteeredBackend(httpcore.NetworkBackend):
    """httpcore's backend, in which reads can be interrupted and connecting can be held up.

    A task can be cancelled; a thread that reads can only be interrupted, as by Ctrl-C. In Node, the operations of a
    batch happen before any connection can succeed or fail; `may_connect` is cleared while threads are being started.
    """

    def __init__(self) -> None:
        self.may_connect = threading.Event()
        self.may_connect.set()
        self._inner = httpcore.SyncBackend()
        # By both ports: the system gives one port here to connections to several servers.
        self._streams: dict[tuple[int, int], _Stream] = {}

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect, when the time has come."""
        self.may_connect.wait()
        stream = _Stream(self._inner.connect_tcp(host, port, timeout, local_address, socket_options))
        self._streams[port, stream.get_extra_info("client_addr")[1]] = stream
        return stream

    def interrupt(self, server_port: int, port: int) -> None:
        """Make whoever reads from the connection between these ports stop; nothing is sent and nothing is closed."""
        self._streams[server_port, port].interrupt()


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner
        self._interrupted = False

    def interrupt(self) -> None:
        self._interrupted = True
        self._inner.get_extra_info("socket").shutdown(
            socket.SHUT_RD
        )  # wakes a thread in `recv`; the peer hears nothing

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = self._inner.read(max_bytes, timeout)
        if self._interrupted:
            raise Interrupt
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, timeout)

    def close(self) -> None:
        self._inner.close()

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
