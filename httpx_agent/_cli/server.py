"""A small HTTP/1.1 server on loopback that does what a request's query asks for."""

from __future__ import annotations

import socket
import socketserver
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

#: Seconds between two looks whether the server shall stop.
_POLL = 0.02


class DemoServer:
    """Serves until its `with` block is left; then every connection is closed and every thread ended.

    A GET request is answered with 200 and ``hello``, on a connection that stays open. Its query changes that:
    ``delay`` gives seconds before the answer, ``hint`` sends ``Keep-Alive: timeout=<hint>``, ``status`` gives another
    status code.
    """

    def __init__(self) -> None:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL,), name="httpx-agent demo server"
        )

    @property
    def url(self) -> str:
        """The server's URL, without a path."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    @property
    def connection_count(self) -> int:
        """Connections accepted so far."""
        return self._server.connection_count

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._server.stop()
        self._thread.join()


class _Server(socketserver.ThreadingTCPServer):
    """One thread per connection."""

    request_queue_size = 128

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.connection_count = 0
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()

    def stop(self) -> None:
        """Accepts no more, wakes the threads, waits for them."""
        self.shutdown()
        self.stopping.set()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):  # gone already
                    connection.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        with self._lock:
            self.connection_count += 1
            self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nobody's error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # an answer leaves in one piece

    def do_GET(self) -> None:
        assert isinstance(self.server, _Server)
        query = dict(parse_qsl(urlsplit(self.path).query))
        self.server.stopping.wait(float(query.get("delay", 0)))
        self.send_response_only(int(query.get("status", 200)))
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", "6")
        if "hint" in query:
            self.send_header("Keep-Alive", f"timeout={query['hint']}")
        self.end_headers()
        self.wfile.write(b"hello\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: the client's side is what is shown."""
