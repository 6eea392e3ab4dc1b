"""Real servers on loopback, each in threads of its own, that end without leaving a socket or a thread behind.

    with Server() as server:                                  # HTTP/1.1
        httpx.get(f"{server.url}/bytes/10")
        server.accepted, server.open, [len(peer.requests) for peer in server.peers]

    with Server(tls=certificates.server(alpn=["h2", "http/1.1"])) as server: ...      # TLS, HTTP/2 by ALPN
    with Server(h2=True) as server: ...                                               # HTTP/2, prior knowledge
    with Server(uds=path) as server: ...
    with Proxy(credentials=("user", "pass"), tls=...) as proxy: ...                   # absolute form and CONNECT
    with Socks(credentials=...) as socks: ...
    with hanging_port() as port: ...                          # connects get no answer
    with refusing_port() as port: ...                         # connects are refused

What a request gets is decided by its path: see `ROUTES` and the functions below it. A route that has to wait waits
for `server.gate(name).open()`; nothing sleeps. `server.wait_for(predicate)` waits until something that happened on
the server makes the predicate true. `close_idle()`, `reset_idle()` and `send_idle()` do something to the connections
that wait for their next request.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import select
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import trustme

from httpx_agent._network import close_forgotten

LIMIT = 10.0
"""Seconds after which a wait is taken for a deadlock."""

BLOCK = bytes(range(256)) * 256
"""What the bodies are made of: 64 KiB, again and again."""


class Certificates:
    """A certificate authority of our own, and the TLS contexts that come from it."""

    def __init__(self) -> None:
        self.authority = trustme.CA()
        self._server = self.authority.issue_cert("127.0.0.1", "localhost", "::1", "name.example")
        self._client = self.authority.issue_cert("client@example.com")

    def server(self, *, alpn: Sequence[str] | None = None, client_certificate: bool = False) -> ssl.SSLContext:
        """What a server needs; with `client_certificate` it asks the client for one and insists."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._server.configure_cert(context)
        if alpn is not None:
            context.set_alpn_protocols(list(alpn))
        if client_certificate:
            context.verify_mode = ssl.CERT_REQUIRED
            self.authority.configure_trust(context)
        return context

    def client(self, *, certificate: bool = False) -> ssl.SSLContext:
        """What a client needs that trusts this authority; with `certificate` it has one of its own."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # reading the system's authorities would take 20 ms
        self.authority.configure_trust(context)
        if certificate:
            self._client.configure_cert(context)
        return context

    def write(self, folder: Path) -> dict[str, str]:
        """Write `ca`, `cert` and `key` of the client as files, and give their paths."""
        paths = {name: str(folder / f"{name}.pem") for name in ("ca", "cert", "key")}
        self.authority.cert_pem.write_to_path(paths["ca"])
        self._client.cert_chain_pems[0].write_to_path(paths["cert"])
        self._client.private_key_pem.write_to_path(paths["key"])
        return paths


@dataclass
class Request:
    """What came in."""

    method: str
    target: str
    version: str
    headers: list[tuple[str, str]]
    head: bytes = b""
    body_length: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def get(self, name: str, default: str = "") -> str:
        """The first header of that name, in any case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), default)

    def get_all(self, name: str) -> list[str]:
        """All headers of that name, in any case."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    @property
    def path(self) -> str:
        """The path of the target, also of one in absolute form, without the query."""
        target = self.target
        if "://" in target:
            target = "/" + target.split("://", 1)[1].partition("/")[2]
        return target.partition("?")[0]

    @property
    def query(self) -> str:
        """What stands after the question mark."""
        return self.target.partition("?")[2]

    def take(self, data: bytes) -> None:
        """Count a piece of the body."""
        self.body_length += len(data)
        self.digest.update(data)

    def as_json(self) -> bytes:
        """What the routes `echo` and `sink` answer."""
        seen = {
            "method": self.method,
            "target": self.target,
            "headers": self.headers,
            "length": self.body_length,
            "sha256": self.digest.hexdigest(),
        }
        return json.dumps(seen).encode()


class ServerGate:
    """Holds answers until the test opens it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._event = threading.Event()
        self.waiting = 0
        """How many requests have come to it."""

    @property
    def is_open(self) -> bool:
        """Whether it lets pass."""
        return self._event.is_set()

    def open(self) -> None:
        """Let pass whoever waits here, and all who come later."""
        self._event.set()
        for peer in list(self._server.peers):
            peer.wake()

    def pass_through(self) -> None:
        """Wait here, in a connection's thread."""
        self.arrive()
        self._event.wait(LIMIT)

    def arrive(self) -> None:
        """Count one that has come."""
        with self._server.changes:
            self.waiting += 1
            self._server.changes.notify_all()


class Hangup(Exception):
    """Raised by a route to end the connection: with a FIN, or a reset."""

    def __init__(self, reset: bool = False) -> None:
        self.reset = reset


class Peer:
    """One connection as the server sees it."""

    def __init__(self, server: Server, number: int, sock: socket.socket) -> None:
        self.server = server
        self.number = number
        self.sock = sock
        self.requests: list[Request] = []
        self.is_open = True
        self.is_idle = False
        self.server_name: str | None = None
        self.client_certificate: dict[str, Any] | None = None
        self.http_version = "HTTP/1.1"
        self.streams = 0
        """HTTP/2: streams open now."""
        self.peak_streams = 0
        """HTTP/2: the most that were open at once."""
        self.goaway = False
        self._commands: deque[str | bytes] = deque()
        self._buffer = b""
        self._wake_out, self._wake_in = socket.socketpair()
        self.thread = threading.Thread(target=self._main, name=f"{type(server).__name__}-{number}", daemon=True)

    # -- From other threads -----------------------------------------------------------------------------------------

    def command(self, command: str | bytes) -> None:
        """Have something done in the connection's thread when it is idle: `"fin"`, `"rst"`, or bytes to send."""
        self._commands.append(command)
        self.wake()

    def wake(self) -> None:
        """Let the connection's thread look at its commands and gates."""
        with suppress(OSError):
            self._wake_in.send(b"x")

    def shut_down(self) -> None:
        """End it whatever it does."""
        self.command("fin")
        with suppress(OSError):
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    # -- In the connection's thread -----------------------------------------------------------------------------------

    def _main(self) -> None:
        reset = False
        try:
            if self.server.tls is not None:
                self._handshake(self.server.tls)
            self.server.serve(self)
        except Hangup as exc:
            reset = exc.reset
        except (OSError, EOFError, h2.exceptions.ProtocolError):
            pass
        except Exception as exc:
            self.server.errors.append(exc)
        finally:
            with suppress(OSError, ValueError):
                if reset:
                    self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                elif isinstance(self.sock, ssl.SSLSocket):
                    self.sock.setblocking(False)
                    self.sock.unwrap()
            self.sock.close()
            self._wake_in.close()
            self._wake_out.close()
            with self.server.changes:
                self.is_open = self.is_idle = False
                self.streams = 0
                self.server.changes.notify_all()

    def _handshake(self, context: ssl.SSLContext) -> None:
        def note_name(sock: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
            self.server.server_names.append(name)

        context.sni_callback = note_name
        try:
            self.sock = context.wrap_socket(self.sock, server_side=True)
        except (OSError, ssl.SSLError) as exc:
            close_forgotten(exc)
            with self.server.changes:
                self.server.handshake_errors.append(exc)
                self.server.changes.notify_all()
            raise Hangup from exc
        self.client_certificate = self.sock.getpeercert() or None
        if self.sock.selected_alpn_protocol() == "h2":
            self.http_version = "HTTP/2"

    def wait(self, *others: socket.socket) -> list[socket.socket]:
        """Wait until this connection or one of the others can be read, or someone calls `wake`."""
        mine = self.sock
        ready = [sock for sock in (mine, *others) if isinstance(sock, ssl.SSLSocket) and sock.pending()]
        if ready:
            return ready
        poll = select.poll()
        by_number = {sock.fileno(): sock for sock in (mine, *others)}
        for number in (*by_number, self._wake_out.fileno()):
            poll.register(number, select.POLLIN)
        found = [by_number.get(number) for number, _ in poll.poll()]
        if None in found:
            self._wake_out.recv(4096)
        return [sock for sock in found if sock is not None]

    def obey(self) -> None:
        """Do what was commanded."""
        while self._commands:
            command = self._commands[0]
            if not isinstance(command, bytes):
                raise Hangup(reset=command == "rst")
            self.sock.sendall(command)
            with self.server.changes:
                self._commands.popleft()
                self.server.changes.notify_all()

    def wait_idle(self) -> None:
        """Wait for the next request, and obey meanwhile."""
        if self._buffer:
            return
        with self.server.changes:
            self.is_idle = True
            self.server.changes.notify_all()
        try:
            while True:
                ready = self.wait()
                self.obey()
                if ready:
                    return
        finally:
            self.is_idle = False

    def more(self) -> bytes:
        """The next bytes; raises `EOFError` at their end."""
        data = self.sock.recv(65536)
        if not data:
            raise EOFError
        return data

    def read_until(self, end: bytes) -> bytes:
        """Bytes up to and including `end`."""
        while end not in self._buffer:
            self._buffer += self.more()
        found, _, self._buffer = self._buffer.partition(end)
        return found + end

    def read_exactly(self, count: int) -> Iterator[bytes]:
        """So many bytes, in pieces."""
        while count:
            piece, self._buffer = self._buffer[:count], self._buffer[count:]
            piece = piece or self.more()
            if len(piece) > count:
                piece, self._buffer = piece[:count], piece[count:]
            count -= len(piece)
            yield piece

    def read_request(self) -> Request:
        """The head of the next request."""
        head = self.read_until(b"\r\n\r\n")
        line, *lines = head[:-4].decode("latin-1").split("\r\n")
        method, target, version = line.split(" ")
        fields = [line.partition(":") for line in lines]
        request = Request(method, target, version, [(name, value.strip()) for name, _, value in fields], head)
        with self.server.changes:
            self.requests.append(request)
            self.server.requests.append(request)
            self.server.changes.notify_all()
        return request

    def read_body(self, request: Request) -> None:
        """Read the body of the request, and count it; asks for it first if the client waits to be asked."""
        if request.get("expect").lower() == "100-continue":
            self.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if request.get("transfer-encoding").lower() == "chunked":
            while size := int(self.read_until(b"\r\n"), 16):
                for piece in self.read_exactly(size):
                    request.take(piece)
                self.read_until(b"\r\n")
            self.read_until(b"\r\n")
        else:
            for piece in self.read_exactly(int(request.get("content-length", "0"))):
                request.take(piece)

    def respond(
        self,
        request: Request,
        body: bytes = b"",
        *,
        status: str = "200 OK",
        headers: Sequence[tuple[str, str]] = (),
        length: bool = True,
        version: str = "HTTP/1.1",
    ) -> None:
        """Send a response; to a HEAD without its body."""
        lines = [f"{version} {status}", *(f"{name}: {value}" for name, value in headers)]
        if length:
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        self.sock.sendall(head if request.method == "HEAD" else head + body)

    def wait_for_end(self) -> None:
        """Wait until the client hangs up."""
        while True:
            self.more()


class Server:
    """An HTTP server, of HTTP/1.1 or HTTP/2: see the module's docstring.

    Args:
        tls: The context to serve TLS with; HTTP/2 where ALPN agrees on it.
        h2: Serve HTTP/2 without TLS, to clients that know.
        uds: The path of a Unix socket to listen on, in place of a port.
        max_concurrent_streams: What HTTP/2 clients are told.
    """

    scheme = "http"

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        h2: bool = False,
        uds: str | None = None,
        max_concurrent_streams: int = 100,
    ) -> None:
        self.tls = tls
        self.h2 = h2
        self.uds = uds
        self.max_concurrent_streams = max_concurrent_streams
        self.peers: list[Peer] = []
        """All connections ever accepted, in order."""
        self.requests: list[Request] = []
        """All requests, in the order in which their heads came."""
        self.server_names: list[str | None] = []
        """What the clients sent as SNI."""
        self.handshake_errors: list[Exception] = []
        self.errors: list[Exception] = []
        self.raw: dict[str, bytes] = {}
        """Responses of the test's own, byte for byte, by path; the connection stays open behind them."""
        self.changes = threading.Condition()
        self._gates: dict[str, ServerGate] = {}
        self._stopping = False

    def __enter__(self) -> Self:
        if self.uds is None:
            self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
            self.port: int = self._listener.getsockname()[1]
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(self.uds)
            self._listener.listen(128)
            self.port = 0
        self._wake_out, self._wake_in = socket.socketpair()
        self._thread = threading.Thread(target=self._accept, name=type(self).__name__, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping = True
        self._wake_in.send(b"x")
        self._thread.join(LIMIT)
        self._listener.close()
        self._wake_in.close()
        self._wake_out.close()
        for gate in list(self._gates.values()):
            gate.open()
        for peer in self.peers:
            peer.shut_down()
        for peer in self.peers:
            peer.thread.join(LIMIT)
        alive = [peer.thread.name for peer in self.peers if peer.thread.is_alive()]
        if exc is None:
            assert not alive, f"threads that did not end: {alive}"
            assert not self.errors, self.errors

    def _accept(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._wake_out, select.POLLIN)
        while True:
            poll.poll()
            if self._stopping:
                return
            sock, _ = self._listener.accept()
            if self.uds is None:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.changes:
                peer = Peer(self, len(self.peers), sock)
                self.peers.append(peer)
                self.changes.notify_all()
            peer.thread.start()

    # -- What the test asks and does ----------------------------------------------------------------------------------

    @property
    def netloc(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}" if self.uds is None else "uds"

    @property
    def url(self) -> str:
        """Where it is, without a slash at the end."""
        return f"{self.scheme}{'s' if self.tls else ''}://{self.netloc}"

    @property
    def accepted(self) -> int:
        """Connections accepted so far."""
        return len(self.peers)

    @property
    def open(self) -> int:
        """Connections open now."""
        return sum(peer.is_open for peer in self.peers)

    @property
    def idle(self) -> int:
        """Connections that wait for their next request."""
        return sum(peer.is_idle for peer in self.peers)

    @property
    def requests_per_connection(self) -> list[int]:
        """How many requests came on the first, second, … connection."""
        return [len(peer.requests) for peer in self.peers]

    def gate(self, name: str) -> ServerGate:
        """The gate of that name, made when it is first asked for."""
        with self.changes:
            return self._gates.setdefault(name, ServerGate(self))

    def wait_for(self, predicate: Callable[[], Any]) -> None:
        """Wait until something that happens on this server makes the predicate true."""
        with self.changes:
            assert self.changes.wait_for(predicate, LIMIT), f"did not come true within {LIMIT:.0f} s"

    def wait_closed(self) -> None:
        """Wait until no connection is open."""
        self.wait_for(lambda: self.open == 0)

    def close_idle(self) -> None:
        """Send a FIN on the connections that wait for their next request, and wait until it is done."""
        self._command_idle("fin")

    def reset_idle(self) -> None:
        """Reset the connections that wait for their next request, and wait until it is done."""
        self._command_idle("rst")

    def send_idle(self, data: bytes) -> None:
        """Send bytes that nobody asked for on the connections that wait for their next request."""
        self._command_idle(data)

    def _command_idle(self, command: str | bytes) -> None:
        # A client that has read a response may be here before the server's thread has gone back to waiting.
        self.wait_for(lambda: any(peer.is_idle for peer in self.peers))
        peers = [peer for peer in self.peers if peer.is_idle]
        for peer in peers:
            peer.command(command)
        self.wait_for(lambda: not any(peer.is_open and peer._commands for peer in peers))

    def goaway(self) -> None:
        """HTTP/2: announce on all connections that no further stream is accepted, and finish those there are."""
        for peer in self.peers:
            peer.goaway = True
            peer.wake()

    # -- Serving ------------------------------------------------------------------------------------------------------

    def serve(self, peer: Peer) -> None:
        """Serve one connection, in its thread, until `Hangup`, an `OSError` or an `EOFError`."""
        if peer.http_version == "HTTP/2" or (self.h2 and self.tls is None):
            peer.http_version = "HTTP/2"
            _HTTP2(peer).serve()
        while True:
            peer.wait_idle()
            request = peer.read_request()
            if request.path in self.raw:
                peer.read_body(request)
                peer.sock.sendall(self.raw[request.path])
                continue
            name, _, argument = request.path.lstrip("/").partition("/")
            ROUTES.get(name, not_found)(peer, request, argument)
            if request.get("connection").lower() == "close":
                raise Hangup


Route = Callable[[Peer, Request, str], None]


def echo(peer: Peer, request: Request, argument: str) -> None:
    """What came in, as JSON; the body read in full."""
    peer.read_body(request)
    headers = [("Content-Type", "application/json"), ("X-MiXed-Case", "1"), ("X-Twice", "a"), ("x-twice", "b")]
    peer.respond(request, request.as_json(), headers=headers)


def body_of(peer: Peer, request: Request, argument: str) -> None:
    """`/bytes/N`: N bytes with their length."""
    peer.read_body(request)
    peer.respond(request, (BLOCK * (int(argument) // len(BLOCK) + 1))[: int(argument)])


def status(peer: Peer, request: Request, argument: str) -> None:
    """`/status/N`: that status with an empty body, which 204 and 304 have by rule."""
    peer.read_body(request)
    code = int(argument)
    peer.respond(request, b"", status=f"{code} Reason {code}", length=code not in (204, 304))


def chunked(peer: Peer, request: Request, argument: str) -> None:
    """`/chunked/N`: N chunks."""
    peer.read_body(request)
    parts = [f"chunk {number};".encode() for number in range(int(argument))]
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    peer.respond(request, body, headers=[("Transfer-Encoding", "chunked")], length=False)


def trailers(peer: Peer, request: Request, argument: str) -> None:
    """A chunked body with a trailer behind it."""
    peer.read_body(request)
    headers = [("Transfer-Encoding", "chunked"), ("Trailer", "X-Sum")]
    peer.respond(request, b"5;note=1\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", headers=headers, length=False)


def close_delimited(peer: Peer, request: Request, argument: str) -> None:
    """A body that ends with the connection."""
    peer.read_body(request)
    peer.respond(request, b"until the end", length=False)
    if request.method != "HEAD":  # whose response says nothing of the end
        raise Hangup


def http10(peer: Peer, request: Request, argument: str) -> None:
    """A response of HTTP/1.0; `/http10/keep-alive` says that the connection stays."""
    peer.read_body(request)
    headers = [("Connection", "keep-alive")] if argument else []
    peer.respond(request, b"old", headers=headers, version="HTTP/1.0")
    if not argument:
        raise Hangup


def connection_close(peer: Peer, request: Request, argument: str) -> None:
    """`Connection: close`, and closed."""
    peer.read_body(request)
    peer.respond(request, b"bye", headers=[("Connection", "close")])
    raise Hangup


def keep_alive(peer: Peer, request: Request, argument: str) -> None:
    """`/keep-alive/N`: the hint `Keep-Alive: timeout=N`."""
    peer.read_body(request)
    peer.respond(request, b"ok", headers=[("Connection", "keep-alive"), ("Keep-Alive", f"timeout={argument}")])


def early_hints(peer: Peer, request: Request, argument: str) -> None:
    """Two interim responses, 102 and 103, before the final one."""
    peer.read_body(request)
    peer.sock.sendall(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
    peer.respond(request, b"final")


def stream(peer: Peer, request: Request, argument: str) -> None:
    """`/stream/N`: N bytes that are never in memory at once."""
    peer.read_body(request)
    left = int(argument)
    peer.respond(request, headers=[("Content-Length", argument)], length=False)
    while left:
        piece = BLOCK[:left] if left < len(BLOCK) else BLOCK
        peer.sock.sendall(piece)
        left -= len(piece)


def hold(peer: Peer, request: Request, argument: str) -> None:
    """`/hold/NAME`: answers when the gate of that name opens."""
    peer.read_body(request)
    peer.server.gate(argument).pass_through()
    peer.respond(request, b"held")


def hold_body(peer: Peer, request: Request, argument: str) -> None:
    """`/hold-body/NAME`: the head and a first part at once, the rest when the gate opens."""
    peer.read_body(request)
    peer.respond(request, b"first ", headers=[("Content-Length", "10")], length=False)
    peer.server.gate(argument).pass_through()
    peer.sock.sendall(b"last")


def early(peer: Peer, request: Request, argument: str) -> None:
    """A refusal before the body has been read, and then closed."""
    peer.respond(request, b"no", status="413 Too Large", headers=[("Connection", "close")])
    with suppress(EOFError):
        peer.read_body(request)
    raise Hangup


def garbage(peer: Peer, request: Request, argument: str) -> None:
    """Something that is not HTTP."""
    peer.read_body(request)
    peer.sock.sendall(b"SSH-2.0-nonsense\r\n\r\n")
    raise Hangup


def bad_header(peer: Peer, request: Request, argument: str) -> None:
    """A response with a header that has no colon."""
    peer.read_body(request)
    peer.sock.sendall(b"HTTP/1.1 200 OK\r\nno colon here\r\nContent-Length: 2\r\n\r\nok")


def bad_chunk(peer: Peer, request: Request, argument: str) -> None:
    """A chunk whose size is no number."""
    peer.read_body(request)
    peer.sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n")


def huge_headers(peer: Peer, request: Request, argument: str) -> None:
    """`/huge-headers/N`: a header of N bytes."""
    peer.read_body(request)
    peer.respond(request, b"ok", headers=[("X-Huge", "x" * int(argument))])


def disconnect(peer: Peer, request: Request, argument: str) -> None:
    """Hangs up without an answer."""
    peer.read_body(request)
    raise Hangup


def reset(peer: Peer, request: Request, argument: str) -> None:
    """Resets the connection in place of an answer."""
    peer.read_body(request)
    raise Hangup(reset=True)


def truncated(peer: Peer, request: Request, argument: str) -> None:
    """Hangs up within a body: `/truncated`, `/truncated/chunked`, `/truncated/head`, `/truncated/reset`."""
    peer.read_body(request)
    if argument == "chunked":
        peer.respond(request, b"5\r\nhel", headers=[("Transfer-Encoding", "chunked")], length=False)
    elif argument == "head":
        peer.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Le")
    else:
        peer.respond(request, b"only this", headers=[("Content-Length", "100")], length=False)
    if argument == "reset":
        peer.server.gate("truncated").pass_through()
    raise Hangup(reset=argument == "reset")


def half_close(peer: Peer, request: Request, argument: str) -> None:
    """A whole response, then a FIN from the server, which goes on reading."""
    peer.read_body(request)
    peer.respond(request, b"half")
    peer.sock.shutdown(socket.SHUT_WR)
    peer.wait_for_end()


def silence(peer: Peer, request: Request, argument: str) -> None:
    """No answer, until the client hangs up."""
    peer.wait_for_end()


def deaf(peer: Peer, request: Request, argument: str) -> None:
    """Neither an answer nor a reader: a large upload cannot be written."""
    peer.server.gate(argument or "deaf").pass_through()
    raise Hangup(reset=True)


def upgrade(peer: Peer, request: Request, argument: str) -> None:
    """101, and then every byte back."""
    peer.sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello ")
    while True:
        peer.sock.sendall(peer.more())


def redirect(peer: Peer, request: Request, argument: str) -> None:
    """`/redirect/N`: N redirects, then the echo."""
    peer.read_body(request)
    count = int(argument)
    target = "/echo" if count <= 1 else f"/redirect/{count - 1}"
    peer.respond(request, b"", status="302 Found", headers=[("Location", target)])


def cookies(peer: Peer, request: Request, argument: str) -> None:
    """Sets two cookies."""
    peer.read_body(request)
    peer.respond(request, b"set", headers=[("Set-Cookie", "a=1; Path=/"), ("Set-Cookie", "b=2; Path=/")])


def basic(peer: Peer, request: Request, argument: str) -> None:
    """Wants `user:pass`."""
    peer.read_body(request)
    expected = "Basic " + base64.b64encode(b"user:pass").decode()
    if request.get("authorization") == expected:
        peer.respond(request, b"welcome")
    else:
        peer.respond(request, b"who?", status="401 Unauthorized", headers=[("WWW-Authenticate", 'Basic realm="a"')])


def digest(peer: Peer, request: Request, argument: str) -> None:
    """Wants digest credentials, and does not look at them closely."""
    peer.read_body(request)
    if request.get("authorization").startswith("Digest "):
        peer.respond(request, b"welcome")
    else:
        challenge = 'Digest realm="a", nonce="abc", qop="auth", algorithm=SHA-256'
        peer.respond(request, b"who?", status="401 Unauthorized", headers=[("WWW-Authenticate", challenge)])


def gzipped(peer: Peer, request: Request, argument: str) -> None:
    """A body in gzip."""
    peer.read_body(request)
    peer.respond(request, gzip.compress(b"hello " * 100, mtime=0), headers=[("Content-Encoding", "gzip")])


def not_found(peer: Peer, request: Request, argument: str) -> None:
    """Everything else."""
    peer.read_body(request)
    peer.respond(request, b"no such route", status="404 Not Found")


ROUTES: dict[str, Route] = {
    "": echo,
    "echo": echo,
    "sink": echo,
    "bytes": body_of,
    "status": status,
    "chunked": chunked,
    "trailers": trailers,
    "close-delimited": close_delimited,
    "http10": http10,
    "close": connection_close,
    "keep-alive": keep_alive,
    "early-hints": early_hints,
    "stream": stream,
    "hold": hold,
    "hold-body": hold_body,
    "early": early,
    "garbage": garbage,
    "bad-header": bad_header,
    "bad-chunk": bad_chunk,
    "huge-headers": huge_headers,
    "disconnect": disconnect,
    "reset": reset,
    "truncated": truncated,
    "half-close": half_close,
    "silence": silence,
    "deaf": deaf,
    "upgrade": upgrade,
    "redirect": redirect,
    "cookies": cookies,
    "basic": basic,
    "digest": digest,
    "gzip": gzipped,
}


class _HTTP2:
    """One HTTP/2 connection. Routes: `echo`, `sink`, `bytes`, `stream`, `status`, `hold`, `silence`, `reset`."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.server = peer.server
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self.connection = h2.connection.H2Connection(config)
        self.requests: dict[int, Request] = {}
        self.held: dict[int, str] = {}
        self.sending: dict[int, tuple[int, int]] = {}
        self.goaway_sent = False

    def serve(self) -> None:
        codes = h2.settings.SettingCodes
        limit = {codes.MAX_CONCURRENT_STREAMS: self.server.max_concurrent_streams}
        self.connection.local_settings = h2.settings.Settings(client=False, initial_values=limit)
        self.connection.initiate_connection()
        self.flush()
        while True:
            ready = self.peer.wait()
            self.peer.obey()
            if ready:
                for event in self.connection.receive_data(self.peer.more()):
                    self.handle(event)
            for stream_id, name in list(self.held.items()):
                if self.server.gate(name).is_open:
                    del self.held[stream_id]
                    self.respond(stream_id, b"held")
            for stream_id in list(self.sending):
                self.send_some(stream_id)
            if self.peer.goaway and not self.goaway_sent:
                self.goaway_sent = True
                last = max(self.requests, default=0)
                # `close_connection` would end the state machine; streams that run are to be finished.
                frame = struct.pack(">I", 8)[1:] + b"\x07\x00" + struct.pack(">III", 0, last, 0)
                self.flush()
                self.peer.sock.sendall(frame)
            self.flush()
            self.count()
            if self.goaway_sent and not self.peer.streams:
                raise Hangup

    def count(self) -> None:
        with self.server.changes:
            self.peer.streams = self.connection.open_inbound_streams
            self.peer.peak_streams = max(self.peer.peak_streams, self.peer.streams)
            self.server.changes.notify_all()

    def flush(self) -> None:
        self.peer.sock.sendall(self.connection.data_to_send())

    def handle(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            fields = [(str(name), str(value)) for name, value in event.headers]
            pseudo = dict(field for field in fields if field[0].startswith(":"))
            headers = [field for field in fields if not field[0].startswith(":")]
            request = Request(pseudo[":method"], pseudo[":path"], "HTTP/2", [("host", pseudo[":authority"]), *headers])
            self.requests[event.stream_id] = request
            with self.server.changes:
                self.peer.requests.append(request)
                self.server.requests.append(request)
                self.server.changes.notify_all()
            self.count()
        elif isinstance(event, h2.events.DataReceived):
            if event.stream_id in self.requests:
                self.requests[event.stream_id].take(event.data)
            self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.answer(event.stream_id, self.requests[event.stream_id])
        elif isinstance(event, h2.events.StreamReset):
            self.held.pop(event.stream_id, None)
            self.sending.pop(event.stream_id, None)
        elif isinstance(event, h2.events.ConnectionTerminated):
            raise Hangup

    def answer(self, stream_id: int, request: Request) -> None:
        name, _, argument = request.path.lstrip("/").partition("/")
        if name == "hold":
            self.held[stream_id] = argument
            self.server.gate(argument).arrive()
        elif name == "reset":
            self.connection.reset_stream(stream_id, h2.errors.ErrorCodes.INTERNAL_ERROR)
        elif name in ("bytes", "stream"):
            headers = [(":status", "200"), ("content-length", argument)]
            self.connection.send_headers(stream_id, headers)
            self.sending[stream_id] = (0, int(argument))
        elif name == "status":
            self.respond(stream_id, b"", status=argument)
        elif name != "silence":
            self.respond(stream_id, request.as_json())

    def respond(self, stream_id: int, body: bytes, status: str = "200") -> None:
        headers = [(":status", status), ("content-type", "application/json"), ("x-twice", "a"), ("x-twice", "b")]
        if self.requests[stream_id].method == "HEAD":
            self.connection.send_headers(stream_id, headers, end_stream=True)
        else:
            self.connection.send_headers(stream_id, headers)
            self.connection.send_data(stream_id, body, end_stream=True)

    def send_some(self, stream_id: int) -> None:
        sent, total = self.sending[stream_id]
        while sent < total:
            window = self.connection.local_flow_control_window(stream_id)
            size = min(window, self.connection.max_outbound_frame_size, total - sent, len(BLOCK) - sent % len(BLOCK))
            if size <= 0:
                break
            start = sent % len(BLOCK)
            self.connection.send_data(stream_id, BLOCK[start : start + size])
            self.flush()
            sent += size
        self.sending[stream_id] = (sent, total)
        if sent == total:
            self.connection.end_stream(stream_id)
            del self.sending[stream_id]


def _relay(peer: Peer, target: socket.socket) -> None:
    """Carry bytes both ways until one side hangs up."""
    with target:
        while True:
            ready = peer.wait(target)
            peer.obey()
            for source, sink in ((peer.sock, target), (target, peer.sock)):
                if source in ready:
                    data = source.recv(65536)
                    if not data:
                        raise Hangup
                    sink.sendall(data)


class Proxy(Server):
    """An HTTP proxy: requests in absolute form, and CONNECT tunnels.

    Args:
        tls: The context to speak TLS with the client.
        credentials: User and password it insists on, with a 407.
        refuse: The status line that every request gets, such as `"502 Bad Gateway"`.
    """

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        credentials: tuple[str, str] | None = None,
        refuse: str | None = None,
    ) -> None:
        super().__init__(tls=tls)
        self.credentials = credentials
        self.refuse = refuse

    def serve(self, peer: Peer) -> None:
        """Serve one connection: it belongs to the first target that is asked for."""
        while True:
            peer.wait_idle()
            request = peer.read_request()
            if self.credentials is not None:
                expected = "Basic " + base64.b64encode(":".join(self.credentials).encode()).decode()
                if request.get("proxy-authorization") != expected:
                    headers = [("Proxy-Authenticate", 'Basic realm="proxy"')]
                    peer.respond(request, b"who?", status="407 Proxy Authentication Required", headers=headers)
                    continue
            if self.refuse is not None:
                peer.respond(request, b"no", status=self.refuse)
                continue
            netloc = request.target
            if request.method != "CONNECT":
                netloc = netloc.split("://", 1)[1].partition("/")[0]
            host, _, port = netloc.rpartition(":")
            try:
                target = socket.create_connection((host, int(port)), timeout=LIMIT)
            except OSError:
                peer.respond(request, b"", status="502 Bad Gateway")
                continue
            if request.method == "CONNECT":
                peer.respond(request, b"", status="200 Connection established", length=False)
            else:
                target.sendall(request.head)
            if peer._buffer:
                target.sendall(peer._buffer)
            _relay(peer, target)


class Socks(Server):
    """A SOCKS5 proxy.

    Args:
        credentials: User and password it insists on.
        refuse: The code of the reply that every connect gets, such as 5 for "refused".
    """

    scheme = "socks5"

    def __init__(self, *, credentials: tuple[str, str] | None = None, refuse: int = 0) -> None:
        super().__init__()
        self.credentials = credentials
        self.refuse = refuse
        self.targets: list[tuple[int, str, int]] = []
        """Address type (1 IPv4, 3 name, 4 IPv6), host and port of each connect."""

    def serve(self, peer: Peer) -> None:
        """Serve one connection."""

        def read(count: int) -> bytes:
            return b"".join(peer.read_exactly(count))

        _, count = read(2)
        methods = read(count)
        wanted = 2 if self.credentials else 0
        if wanted not in methods:
            peer.sock.sendall(b"\x05\xff")
            raise Hangup
        peer.sock.sendall(bytes([5, wanted]))
        if self.credentials:
            _, count = read(2)
            user = read(count).decode()
            (count,) = read(1)
            accepted = (user, read(count).decode()) == self.credentials
            peer.sock.sendall(b"\x01\x00" if accepted else b"\x01\x01")
            if not accepted:
                raise Hangup
        _, _, _, kind = read(4)
        if kind == 3:
            (count,) = read(1)
            host = read(count).decode()
        else:
            host = socket.inet_ntop(socket.AF_INET if kind == 1 else socket.AF_INET6, read(4 if kind == 1 else 16))
        (port,) = struct.unpack(">H", read(2))
        with self.changes:
            self.targets.append((kind, host, port))
            self.changes.notify_all()
        peer.sock.sendall(bytes([5, self.refuse, 0, 1, 127, 0, 0, 1, 0, 0]))
        if self.refuse:
            raise Hangup
        _relay(peer, socket.create_connection((host, port), timeout=LIMIT))


@contextmanager
def refusing_port() -> Iterator[int]:
    """A port on loopback where nobody listens, and where nobody else will meanwhile."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@contextmanager
def hanging_port() -> Iterator[int]:
    """A port on loopback whose backlog is full: a connect gets no answer."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        clients = []
        try:
            for _ in range(8):
                client = socket.socket()
                clients.append(client)
                client.setblocking(False)
                with suppress(BlockingIOError):
                    client.connect(listener.getsockname())
            yield listener.getsockname()[1]
        finally:
            for client in clients:
                client.close()
