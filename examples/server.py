"""A small HTTP/1.1 server on loopback, for the examples: `with serve() as url:`.

The path says what it does:

- ``/hint/3``: answers with `Keep-Alive: timeout=3`, which says how
  long the server keeps a free socket;
- ``/wait/0.1``: answers after 0.1 seconds;
- ``/big``: answers with ten million bytes;
- ``/leave``: answers, and closes the socket a moment later;
- ``/drop``: answers the first request of a socket; closes a used socket without an
  answer;
- ``/upgrade``: answers 101, then sends back what it receives;
- anything else: answers ``hello``.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one socket."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    served = 0

    def do_GET(self) -> None:
        """Answer, as the path says."""
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
        """Speak another protocol: an echo, until the client closes."""
        self.send_response_only(101)
        self.send_header("Connection", "upgrade")
        self.send_header("Upgrade", "echo")
        self.end_headers()
        self.wfile.flush()
        while data := self.connection.recv(1024):
            self.connection.sendall(data)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """One thread for each socket."""

    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients may leave when they like."""


@contextmanager
def serve() -> Iterator[str]:
    """Run a server in a thread, and give its address: `http://127.0.0.1:<port>`."""
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
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def refusal() -> Iterator[str]:
    """An address where nobody listens, nor will: the port is taken."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
