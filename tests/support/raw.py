"""Servers in a few lines: a function handles each connection, in a thread."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

LIMIT = 10.0
"""Seconds after which a wait counts as a deadlock."""


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = b""

    def read_head(self) -> bytes:
        """Read the head of a request."""
        while b"\r\n\r\n" not in self._buffer:
            data = self.sock.recv(65536)
            if not data:
                raise ConnectionResetError
            self._buffer += data
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return head

    def send(self, data: bytes) -> None:
        """Send all of the data."""
        self.sock.sendall(data)

    def wait_closed(self) -> None:
        """Wait until the client has closed."""
        with suppress(ConnectionError):
            while self.sock.recv(65536):
                pass


@contextmanager
def raw_server(
    serve: Callable[[Peer], None], *, family: int = socket.AF_INET, tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """Serve each connection with a function; yield the URL. An exception from the function fails the test."""
    errors: list[BaseException] = []
    threads: list[threading.Thread] = []
    listener = socket.socket(family)
    listener.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
    listener.listen()

    def run(sock: socket.socket) -> None:
        sock.settimeout(LIMIT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what is sent has left when a reset follows
        try:
            secured = sock if tls is None else tls.wrap_socket(sock, server_side=True)
        except OSError as error:
            sock.close()
            errors.append(error)
            return
        with secured:
            try:
                serve(Peer(secured))
            except ConnectionError:
                pass
            except BaseException as error:
                errors.append(error)

    def accept() -> None:
        with suppress(OSError):
            while True:
                sock, _ = listener.accept()
                thread = threading.Thread(target=run, args=(sock,))
                threads.append(thread)
                thread.start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    host = "127.0.0.1" if family == socket.AF_INET else "[::1]"
    try:
        if tls is not None:
            host = "localhost"
        yield f"http{'s' * (tls is not None)}://{host}:{listener.getsockname()[1]}"
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join(LIMIT)
        for thread in threads:
            thread.join(LIMIT)
    assert not errors, errors
