"""A small HTTP/1.1 server on loopback, for the examples: `with serve() as url:`.

The path determines what the server does:

- ``/hint/3``: answer with `Keep-Alive: timeout=3`, which says how long the server
  keeps a free socket;
- ``/wait/0.1``: answer after 0.1 seconds;
- ``/big``: answer with ten million bytes;
- ``/leave``: answer, then close the socket a moment later;
- ``/drop``: answer the first request on a socket; close a used socket without
  answering;
- ``/upgrade``: answer with 101, then echo what is received;
- anything else: answer ``hello``.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class Handler(BaseHTTPRequestHandler):
    """A handler for the requests on one socket."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    served = 0

    def do_GET(self) -> None:
        """Answer as the path demands."""
        name, _, argument = self.path.lstrip("/").partition("/")
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if name == "drop" and self.served:
            self.close_connection = True
            return
        self.served += 1
        if name == "upgrade":
            self.upgrade()
            return
        if name == "wait":
            time.sleep(float(argument))
        body = b"x" * 10_000_000 if name == "big" else b"hello\n"
        self.send_response_only(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        if name == "hint":
            self.send_header("Keep-Alive", f"timeout={argument}")
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
        if name == "leave":
            time.sleep(0.1)
            self.close_connection = True

    do_POST = do_GET

    def upgrade(self) -> None:
        """Switch to another protocol: an echo, until the client closes."""
        self.send_response_only(101)
        self.send_header("Connection", "upgrade")
        self.send_header("Upgrade", "echo")
        self.end_headers()
        self.wfile.flush()
        while data := self.connection.recv(1024):
            self.connection.sendall(data)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Log nothing."""


class Server(ThreadingHTTPServer):
    """A server with one thread for each socket."""

    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Ignore errors: clients may hang up at any time."""


@contextmanager
def serve() -> Iterator[str]:
    """Run a server in a thread; yield its address, `http://127.0.0.1:<port>`."""
    with Server(("127.0.0.1", 0), Handler) as server:
        Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@contextmanager
def silence() -> Iterator[str]:
    """Yield the address of a server that accepts connections but never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def refusal() -> Iterator[str]:
    """Yield an address where nothing can listen, because the port is taken."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
