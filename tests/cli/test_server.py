"""The demo's server does what a request specifies, and leaves nothing behind."""

from __future__ import annotations

import socket
import threading

from httpx_agent._cli.server import DemoServer


def ask(client: socket.socket, path: str) -> bytes:
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    answer = b""
    while not answer.endswith(b"hello\n"):
        answer += client.recv(4096)
    return answer


def connect(server: DemoServer) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)))


def test_it_answers_on_a_connection_that_stays_open() -> None:
    with DemoServer() as server, connect(server) as client:
        head = b"Content-Type: text/plain\r\nContent-Length: 6\r\n"
        assert ask(client, "/") == b"HTTP/1.1 200 OK\r\n" + head + b"\r\nhello\n"
        hinted = head + b"Keep-Alive: timeout=7\r\n\r\nhello\n"
        assert ask(client, "/?hint=7&status=404") == b"HTTP/1.1 404 Not Found\r\n" + hinted
        assert server.connection_count == 1


def test_it_ends_with_connections_open_and_answers_outstanding() -> None:
    before = threading.active_count()
    with DemoServer() as server:
        idle, waiting, gone = connect(server), connect(server), connect(server)
        ask(idle, "/")
        ask(gone, "/")
        gone.close()
        waiting.sendall(b"GET /?delay=30 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert threading.active_count() == before
    assert idle.recv(1) == b""
    idle.close()
    waiting.close()


def test_a_request_that_it_cannot_read_is_not_reported() -> None:
    with DemoServer() as server, connect(server) as client:
        client.sendall(b"GET /?delay=x HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(1) == b""
