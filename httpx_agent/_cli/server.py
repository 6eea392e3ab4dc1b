"""A small HTTP/1.1 server on loopback whose behaviour is controlled by the query of each request."""

from __future__ import annotations

import socket
import socketserver
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

#: Seconds between two checks whether to stop.
_POLL = 0.02


class DemoServer:
    """Serve until the `with` block ends; then close every connection and end every thread.

    The response to a GET request is 200 and ``hello``, on a connection that stays open. The query changes this:
    ``delay`` is the number of seconds before the response, ``hint`` sends ``Keep-Alive: timeout=<hint>``, ``status``
    sets a different status code.
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
        """Stop accepting, wake the threads, and wait for them."""
        self.shutdown()
        self.stopping.set()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):  # already gone
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
        """Ignore clients that went away: that is not an error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # send each response in one piece

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
        """Print nothing: the demo shows the client's side."""
