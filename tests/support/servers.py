"""Real servers on loopback, each in its own threads, which leave no socket or thread behind.

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

The path of a request decides its response: see `ROUTES` and the functions below it. A route that has to wait waits
for `server.gate(name).open()`; nothing sleeps. `server.wait_for(predicate)` waits until an event on the server makes
the predicate true. `close_idle()`, `reset_idle()` and `send_idle()` act on the connections that are waiting for their
next request.
"""

from __future__ import annotations

import base64
import gzip
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import trustme

from httpx_agent.testing._server import LIMIT, Hangup, LoopbackServer, Peer, ReceivedRequest, fill_backlog

BLOCK = bytes(range(256)) * 256
"""The content of bodies: these 64 KiB, repeated."""


class Certificates:
    """Our own certificate authority, and the TLS contexts based on it."""

    def __init__(self) -> None:
        self.authority = trustme.CA()
        self._server = self.authority.issue_cert("127.0.0.1", "localhost", "::1", "name.example")
        self._client = self.authority.issue_cert("client@example.com")

    def server(self, *, alpn: Sequence[str] | None = None, client_certificate: bool = False) -> ssl.SSLContext:
        """Return a context for a server; with `client_certificate`, it requires one from the client."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._server.configure_cert(context)
        if alpn is not None:
            context.set_alpn_protocols(list(alpn))
        if client_certificate:
            context.verify_mode = ssl.CERT_REQUIRED
            self.authority.configure_trust(context)
        return context

    def client(self, *, certificate: bool = False) -> ssl.SSLContext:
        """Return a context for a client that trusts this authority; with `certificate`, it has its own certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # reading the system's authorities would take 20 ms
        self.authority.configure_trust(context)
        if certificate:
            self._client.configure_cert(context)
        return context

    def write(self, folder: Path) -> dict[str, str]:
        """Write `ca`, `cert` and `key` of the client as files, and return their paths."""
        paths = {name: str(folder / f"{name}.pem") for name in ("ca", "cert", "key")}
        self.authority.cert_pem.write_to_path(paths["ca"])
        self._client.cert_chain_pems[0].write_to_path(paths["cert"])
        self._client.private_key_pem.write_to_path(paths["key"])
        return paths


def as_json(request: ReceivedRequest) -> bytes:
    """The response of the routes `echo` and `sink`."""
    seen = {
        "method": request.method,
        "target": request.target,
        "headers": request.headers,
        "length": request.body_length,
        "sha256": request.body_hash.hexdigest(),
    }
    return json.dumps(seen).encode()


class ServerGate:
    """A gate that holds back responses until the test opens it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._event = threading.Event()
        self.waiting = 0
        """The number of requests that have reached it."""

    @property
    def is_open(self) -> bool:
        """Whether it is open."""
        return self._event.is_set()

    def open(self) -> None:
        """Let through everything that waits here, and everything that comes later."""
        self._event.set()
        for peer in list(self._server.peers):
            peer.wake()

    def pass_through(self) -> None:
        """Wait here, in a connection's thread."""
        self.arrive()
        self._event.wait(LIMIT)

    def arrive(self) -> None:
        """Count a request that has reached it."""
        with self._server.changes:
            self.waiting += 1
            self._server.changes.notify_all()


class Server(LoopbackServer):
    """A server for HTTP/1.1 or HTTP/2; see the module's docstring.

    Args:
        tls: The context for TLS; HTTP/2 is used if ALPN selects it.
        h2: Serve HTTP/2 without TLS, to clients that know.
        uds: The path of a Unix socket to listen on instead of a port.
        max_concurrent_streams: The limit announced to HTTP/2 clients.
    """

    expected_errors = (h2.exceptions.ProtocolError,)

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        h2: bool = False,
        uds: str | None = None,
        max_concurrent_streams: int = 100,
    ) -> None:
        super().__init__(tls=tls, uds=uds)
        self.h2 = h2
        self.max_concurrent_streams = max_concurrent_streams
        self.raw: dict[str, bytes] = {}
        """The test's own responses, byte for byte, by path; the connection stays open after them."""
        self._gates: dict[str, ServerGate] = {}

    def release(self) -> None:
        """Open all gates."""
        for gate in list(self._gates.values()):
            gate.open()

    # -- What the test asks and does ----------------------------------------------------------------------------------

    def gate(self, name: str) -> ServerGate:
        """Return the gate with that name, created on first use."""
        with self.changes:
            return self._gates.setdefault(name, ServerGate(self))

    def goaway(self) -> None:
        """HTTP/2: announce on all connections that no further streams are accepted, and finish the open ones."""
        for peer in self.peers:
            peer.goaway = True
            peer.wake()

    # -- Serving ------------------------------------------------------------------------------------------------------

    def serve(self, peer: Peer) -> None:
        """Serve one connection, in its thread, until a `Hangup`, an `OSError` or an `EOFError` is raised."""
        if peer.http_version == "HTTP/2" or (self.h2 and self.tls is None):
            peer.http_version = "HTTP/2"
            _HTTP2(peer).serve()
        while True:
            peer.wait_idle()
            request = peer.read_request()
            if request.path in self.raw:
                peer.read_body(request)
                peer.send(self.raw[request.path], last=True)
                continue
            name, _, argument = request.path.lstrip("/").partition("/")
            ROUTES.get(name, not_found)(peer, request, argument)
            if request.get("connection").lower() == "close":
                raise Hangup


Route = Callable[[Peer, ReceivedRequest, str], None]


def echo(peer: Peer, request: ReceivedRequest, argument: str) -> None:
    """What came in, as JSON; the body read in full."""
    peer.read_body(request)
    headers = [("Content-Type", "application/json"), ("X-MiXed-Case", "1"), ("X-Twice", "a"), ("x-twice", "b")]
    peer.respond(request, as_json(request), headers=headers)


def body_of(peer: Peer, request: ReceivedRequest, argument: str) -> None:
    """`/bytes/N`: N bytes with their length."""
    peer.read_body(request)
    peer.respond(request, (BLOCK * (int(argument) // len(BLOCK) + 1))[: int(argument)])


def status(peer: Peer, request: ReceivedRequest, argument: str) -> None:
    """`/status/N`: that status with an empty body, which 204 and 304 require."""
    peer.read_body(request)
    code = int(argument)
    peer.respond(request, b"", status=f"{code} Reason {code}", length=code not in (204, 304))


def chunked(peer: Peer, request: ReceivedRequest, argument: str) -> None:
    """`/chunked/N`: N chunks."""
    peer.read_body(request)
    parts = [f"chunk {number};".encode() for number in range(int(argument))]
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    peer.respond(request, body, headers=[("Transfer-Encoding", "chunked")], length=False)


def trailers(peer: Peer, request: ReceivedRequest, argument: str) -> None:
    """A chunked body followed by a trailer."""
    peer.read_body(request)
    headers = [("Transfer-Encoding", "chunked"), ("Trailer", "X-Sum")]
    peer.respond(request, b"5;note=1\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", headers=headers, length=False)


def close_delimited(peer: Peer, request: ReceivedRequest, argument: str) -> None:
    """A body that ends with the connection; `/close-delimited/keep-alive`, of HTTP/1.0, says otherwise."""
    peer.read_body(request)
    headers = [("Connection", "keep-alive")] if argument else []
    version = "HTTP/1.0" if argument else "HTTP/1.1"
    peer.respond(request, b"until the end", headers=headers, version=version, length=False)
    if request.method != "HEAD":  # whose response says nothing of the end
        raise Hangup


def http10(peer: Peer, request: ReceivedRequest, argument: str) -> None:
    """A response of HTTP/1.0; `/http10/keep-alive` announces that the connection stays open."""
    peer.read_body(request)
    headers = [("Connection", "keep-alive")] if argument else []
    peer.respond(request, b"old", headers=headers, version="HTTP/1.0")
    if not argument:
        raise Hangup


def connection_close(peer: Peer, request: ReceivedRequest, argument: str) -> None:
    """`Connection: close`, and closed."""
    peer.read_body(request)
    peer.respond(request, b"bye", headers=[("Connection", "close")])
    raise Hangup


def keep_alive(peer: Peer, request: ReceivedRequest, argument: str) -> None:
    """`/keep-alive/N`: the hint `Keep-Alive: timeout=N`."""
    peer.read_body(request)
    peer.respond(request, b"ok", headers=[("Connection", "keep-alive"), ("Keep-Alive", f"timeout={argument}")])


def early_hints(peer: Peer, request: ReceivedRequest, argument: str) -> None:
    """Two interim responses, 102 and 103, before the final one."""
    peer.read_body(request)
    peer.sock.sendall(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
    peer.respond(request, b"final")


def stream(peer: Peer, request: ReceivedRequest, argument: str) -> None:
    """`/stream/N`: N bytes that are never all in memory."""
    peer.read_body(request)
    left = int(argument)
    peer.respond(request, headers=[("Content-Length", argument)], length=False)
    while left:
        piece = BLOCK[:left] if left < len(BLOCK) else BLOCK
        peer.sock.sendall(piece)
        left -= len(piece)


def hold(peer: Peer, request: ReceivedRequest, argument: str) -> None:
    """`/hold/NAME`: responds when the gate with that name opens."""
    peer.read_body(request)
    peer.server.gate(argument).pass_through()
    peer.respond(request, b"held")


def hold_body(peer: Peer, request: ReceivedRequest, argument: str) -> None:
    """`/hold-body/NAME`: the head and a first part at once, the rest when the gate opens."""
    peer.read_body(request)
    peer.respond(request, b"first ", headers=[("Content-Length", "10")], length=False)
    peer.server.gate(argument).pass_through()
    peer.sock.sendall(b"last")


def early(peer: Peer, request: ReceivedRequest, argument: str) -> None:
    """A refusal before the body has been read, followed by a close."""
    peer.respond(request, b"no", status="413 Too Large", headers=[("Connection", "close")])
    with suppress(EOFError):
        peer.read_body(request)
    raise Hangup


def garbage(peer: Peer, request: ReceivedRequest, argument: str) -> None:
    """Something that is not HTTP."""
    peer.read_body(request)
    peer.sock.sendall(b"SSH-2.0-nonsense\r\n\r\n")
    raise Hangup


def bad_header(peer: Peer, request: ReceivedRequest, argument: str) -> None:
    """A response with a header that has no colon."""
    peer.read_body(request)
    peer.sock.sendall(b"HTTP/1.1 200 OK\r\nno colon here\r\nContent-Length: 2\r\n\r\nok")


def bad_chunk(peer: Peer, request: ReceivedRequest, argument: str) -> None:
    """A chunk whose size is not a number."""
    peer.read_body(request)
    peer.sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n")


def huge_headers(peer: Peer, request: ReceivedRequest, argument: str) -> None:
    """`/huge-headers/N`: a header of N bytes."""
    peer.read_body(request)
    peer.respond(request, b"ok", headers=[("X-Huge", "x" * int(argument))])


def disconnect(peer: Peer, request: ReceivedRequest, argument: str) -> None:
    """Hangs up without a response."""
    peer.read_body(request)
    raise Hangup


def reset(peer: Peer, request: ReceivedRequest, argument: str) -> None:
    """Resets the connection instead of responding."""
    peer.read_body(request)
    raise Hangup(reset=True)


def truncated(peer: Peer, request: ReceivedRequest, argument: str) -> None:
    """Hangs up in the middle of a body: `/truncated`, `/truncated/chunked`, `/truncated/head`, `/truncated/reset`."""
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


def half_close(peer: Peer, request: ReceivedRequest, argument: str) -> None:
    """A whole response, then a FIN from the server, which keeps reading."""
    peer.read_body(request)
    peer.respond(request, b"half")
    peer.sock.shutdown(socket.SHUT_WR)
    peer.wait_for_end()


def silence(peer: Peer, request: ReceivedRequest, argument: str) -> None:
    """No response until the client hangs up."""
    peer.wait_for_end()


def deaf(peer: Peer, request: ReceivedRequest, argument: str) -> None:
    """Neither responds nor reads, so a large upload cannot be written."""
    peer.server.gate(argument or "deaf").pass_through()
    raise Hangup(reset=True)


def upgrade(peer: Peer, request: ReceivedRequest, argument: str) -> None:
    """101, then every byte is echoed."""
    peer.sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello ")
    while True:
        peer.sock.sendall(peer.more())


def redirect(peer: Peer, request: ReceivedRequest, argument: str) -> None:
    """`/redirect/N`: N redirects, then the echo."""
    peer.read_body(request)
    count = int(argument)
    target = "/echo" if count <= 1 else f"/redirect/{count - 1}"
    peer.respond(request, b"", status="302 Found", headers=[("Location", target)])


def cookies(peer: Peer, request: ReceivedRequest, argument: str) -> None:
    """Sets two cookies."""
    peer.read_body(request)
    peer.respond(request, b"set", headers=[("Set-Cookie", "a=1; Path=/"), ("Set-Cookie", "b=2; Path=/")])


def basic(peer: Peer, request: ReceivedRequest, argument: str) -> None:
    """Requires `user:pass`."""
    peer.read_body(request)
    expected = "Basic " + base64.b64encode(b"user:pass").decode()
    if request.get("authorization") == expected:
        peer.respond(request, b"welcome")
    else:
        peer.respond(request, b"who?", status="401 Unauthorized", headers=[("WWW-Authenticate", 'Basic realm="a"')])


def digest(peer: Peer, request: ReceivedRequest, argument: str) -> None:
    """Requires digest credentials, but does not check them closely."""
    peer.read_body(request)
    if request.get("authorization").startswith("Digest "):
        peer.respond(request, b"welcome")
    else:
        challenge = 'Digest realm="a", nonce="abc", qop="auth", algorithm=SHA-256'
        peer.respond(request, b"who?", status="401 Unauthorized", headers=[("WWW-Authenticate", challenge)])


def gzipped(peer: Peer, request: ReceivedRequest, argument: str) -> None:
    """A gzipped body."""
    peer.read_body(request)
    peer.respond(request, gzip.compress(b"hello " * 100, mtime=0), headers=[("Content-Encoding", "gzip")])


def not_found(peer: Peer, request: ReceivedRequest, argument: str) -> None:
    """Any other path."""
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
    """One HTTP/2 connection.

    Routes: `echo`, `sink`, `bytes`, `stream`, `status`, `hold`, `hold-body`, `silence`, `reset`.
    """

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.server = peer.server
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self.connection = h2.connection.H2Connection(config)
        self.requests: dict[int, ReceivedRequest] = {}
        self.held: dict[int, str] = {}
        self.half_sent: dict[int, str] = {}
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
            for stream_id, name in list(self.half_sent.items()):
                if self.server.gate(name).is_open:
                    del self.half_sent[stream_id]
                    self.connection.send_data(stream_id, b"last", end_stream=True)
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
            headers.insert(0, ("host", pseudo[":authority"]))
            request = ReceivedRequest(pseudo[":method"], pseudo[":path"], "HTTP/2", headers)
            self.requests[event.stream_id] = request
            self.peer.note(request)
            self.count()
        elif isinstance(event, h2.events.DataReceived):
            if event.stream_id in self.requests:
                self.requests[event.stream_id].take(event.data)
            self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.answer(event.stream_id, self.requests[event.stream_id])
        elif isinstance(event, h2.events.StreamReset):
            self.held.pop(event.stream_id, None)
            self.half_sent.pop(event.stream_id, None)
            self.sending.pop(event.stream_id, None)
        elif isinstance(event, h2.events.ConnectionTerminated):
            raise Hangup

    def answer(self, stream_id: int, request: ReceivedRequest) -> None:
        name, _, argument = request.path.lstrip("/").partition("/")
        if name == "hold":
            self.held[stream_id] = argument
            self.server.gate(argument).arrive()
        elif name == "hold-body":
            self.connection.send_headers(stream_id, [(":status", "200")])
            self.connection.send_data(stream_id, b"first ")
            self.half_sent[stream_id] = argument
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
            self.respond(stream_id, as_json(request))

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
        tls: The context for TLS with the client.
        credentials: The user and password that it requires, with a 407.
        refuse: The status line of the response to every request, such as `"502 Bad Gateway"`.
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
        """Serve one connection, which belongs to the first target requested."""
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
            if peer.buffer:
                target.sendall(peer.buffer)
            _relay(peer, target)


class Socks(Server):
    """A SOCKS5 proxy.

    Args:
        credentials: The user and password that it requires.
        refuse: The code of the reply to every connect, such as 5 for "refused".
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
    """A port on loopback where nothing listens, reserved so that nothing else will."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@contextmanager
def hanging_port() -> Iterator[int]:
    """A port on loopback whose backlog is full: a connect gets no answer."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        clients = fill_backlog(listener)
        try:
            yield listener.getsockname()[1]
        finally:
            for client in clients:
                client.close()
