"""A server on loopback with one thread per connection, which leaves no socket or thread behind.

Subclasses decide what to serve. Nothing here sleeps: a connection's thread waits for its client, or to be woken.
"""

from __future__ import annotations

import hashlib
import selectors
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from .._network.wire import close_forgotten

LIMIT = 10.0
"""Seconds after which a wait counts as a deadlock."""

#: Unlike `select`, works with descriptors of any number; unlike `epoll`, uses none itself.
_Selector: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)


@dataclass
class ReceivedRequest:
    """A request as the server received it.

    Attributes:
        method: The method.
        target: The request target: a path with its query, or a URL if the server is a proxy.
        version: The protocol version, such as ``"HTTP/1.1"``.
        headers: Names and values, unchanged and in order.
        head: The bytes of all that, including the empty line.
        connection: The number of its connection, counted from 0.
        body_length: How many bytes of the body have arrived so far.
        body_hash: SHA-256 of the body so far.
    """

    method: str
    target: str
    version: str
    headers: list[tuple[str, str]]
    head: bytes = b""
    connection: int = -1
    body_length: int = 0
    body_hash: Any = field(default_factory=hashlib.sha256, repr=False)

    def get(self, name: str, default: str = "") -> str:
        """Return the value of the first header with that name, ignoring case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), default)

    def get_all(self, name: str) -> list[str]:
        """Return the values of all headers with that name, ignoring case."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    @property
    def path(self) -> str:
        """The path of the target, without the query; the target may be in absolute form."""
        target = self.target
        if "://" in target:
            target = "/" + target.split("://", 1)[1].partition("/")[2]
        return target.partition("?")[0]

    @property
    def query(self) -> str:
        """The query of the target, without the question mark."""
        return self.target.partition("?")[2]

    def take(self, data: bytes) -> None:
        """Count a piece of the body."""
        self.body_length += len(data)
        self.body_hash.update(data)


class Hangup(Exception):
    """Raised in a connection's thread to end the connection, with a FIN or a reset."""

    def __init__(self, reset: bool = False) -> None:
        self.reset = reset


class Peer:
    """One connection as the server sees it."""

    def __init__(self, server: LoopbackServer, number: int, sock: socket.socket) -> None:
        self.server = server
        self.number = number
        self.sock = sock
        self.requests: list[ReceivedRequest] = []
        self.is_open = True
        self.is_idle = False
        self.is_returning = False
        """Whether the client may have the whole response although the thread has not yet returned to `wait_idle`."""
        self.client_certificate: dict[str, Any] | None = None
        self.http_version = "HTTP/1.1"
        self.streams = 0
        """HTTP/2: the number of streams open now."""
        self.peak_streams = 0
        """HTTP/2: the highest number of streams open at once."""
        self.goaway = False
        self.commands: deque[str | bytes] = deque()
        self.buffer = b""
        self._wake_out, self._wake_in = socket.socketpair()
        self.thread = threading.Thread(target=self._main, name=f"{type(server).__name__}-{number}", daemon=True)

    def __repr__(self) -> str:
        state = "idle" if self.is_idle else "open" if self.is_open else "closed"
        last = f", the last for {self.requests[-1].target}" if self.requests else ""
        return f"<connection {self.number}: {state}, {len(self.requests)} requests{last}>"

    # -- From other threads -----------------------------------------------------------------------------------------

    def command(self, command: str | bytes) -> None:
        """Make the connection's thread do something when it is idle: `"fin"`, `"rst"`, or send bytes."""
        self.commands.append(command)
        self.wake()

    def wake(self) -> None:
        """Wake the connection's thread, to check its commands and gates."""
        with suppress(OSError):
            self._wake_in.send(b"x")

    def shut_down(self) -> None:
        """End the connection, whatever it is doing."""
        self.command("fin")
        with suppress(OSError):
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    # -- In the connection's thread -----------------------------------------------------------------------------------

    def _main(self) -> None:
        reset = False
        try:
            self.server.welcome(self)
            if self.server.tls is not None:
                self._handshake(self.server.tls)
            self.server.serve(self)
        except Hangup as exc:
            reset = exc.reset
        except (OSError, EOFError):
            pass
        except Exception as exc:
            if not isinstance(exc, self.server.expected_errors):
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
                self.is_open = self.is_idle = self.is_returning = False
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
        """Wait until this connection or one of the others is readable, or until `wake` is called."""
        mine = self.sock
        ready: list[socket.socket] = [s for s in (mine, *others) if isinstance(s, ssl.SSLSocket) and s.pending()]
        if ready:
            return ready
        with _Selector() as selector:
            for sock in (mine, *others, self._wake_out):
                selector.register(sock, selectors.EVENT_READ)
            found: list[Any] = [key.fileobj for key, _ in selector.select()]
        if self._wake_out in found:
            found.remove(self._wake_out)
            self._wake_out.recv(4096)
        return found

    def obey(self) -> None:
        """Carry out the pending commands."""
        while self.commands:
            command = self.commands[0]
            if not isinstance(command, bytes):
                raise Hangup(reset=command == "rst")
            self.sock.sendall(command)
            with self.server.changes:
                self.commands.popleft()
                self.server.changes.notify_all()

    def wait_idle(self) -> None:
        """Wait for the next request; meanwhile, carry out commands."""
        with self.server.changes:
            self.is_returning = False
            self.is_idle = not self.buffer
            self.server.changes.notify_all()
        if not self.is_idle:
            return
        try:
            while True:
                ready = self.wait()
                self.obey()
                if ready:
                    return
        finally:
            self.is_idle = False

    def more(self) -> bytes:
        """Return the next bytes; raise `EOFError` at their end."""
        if self.is_returning:  # a thread that waits for bytes here is not returning to `wait_idle`
            with self.server.changes:
                self.is_returning = False
                self.server.changes.notify_all()
        data = self.sock.recv(65536)
        if not data:
            raise EOFError
        return data

    def read_until(self, end: bytes) -> bytes:
        """Return the bytes up to and including `end`."""
        while end not in self.buffer:
            self.buffer += self.more()
        found, _, self.buffer = self.buffer.partition(end)
        return found + end

    def read_exactly(self, count: int) -> Iterator[bytes]:
        """Yield exactly `count` bytes, in pieces."""
        while count:
            piece, self.buffer = self.buffer[:count], self.buffer[count:]
            piece = piece or self.more()
            if len(piece) > count:
                piece, self.buffer = piece[:count], piece[count:]
            count -= len(piece)
            yield piece

    def read_request(self) -> ReceivedRequest:
        """Read the head of the next request."""
        head = self.read_until(b"\r\n\r\n")
        line, *lines = head[:-4].decode("latin-1").split("\r\n")
        method, target, version = line.split(" ")
        fields = [line.partition(":") for line in lines]
        headers = [(name, value.strip()) for name, _, value in fields]
        request = ReceivedRequest(method, target, version, headers, head, self.number)
        self.note(request)
        return request

    def note(self, request: ReceivedRequest) -> None:
        """Record a request."""
        with self.server.changes:
            self.requests.append(request)
            self.server.requests.append(request)
            self.server.changes.notify_all()

    def read_body(self, request: ReceivedRequest) -> None:
        """Read and record the body of the request; first send a 100 if the client waits for one."""
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
        request: ReceivedRequest,
        body: bytes = b"",
        *,
        status: str = "200 OK",
        headers: Sequence[tuple[str, str]] = (),
        length: bool = True,
        version: str = "HTTP/1.1",
    ) -> None:
        """Send a response, without its body if the request is a HEAD."""
        lines = [f"{version} {status}", *(f"{name}: {value}" for name, value in headers)]
        if length:
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        without_body = request.method == "HEAD"
        self.send(head if without_body else head + body, last=length or without_body)  # otherwise the caller sends more

    def send(self, data: bytes, *, last: bool) -> None:
        """Send a part of a response; after the last part, the thread returns to `wait_idle`."""
        self.is_returning = last  # set first, because the client may act on what it reads
        self.sock.sendall(data)

    def wait_for_end(self) -> None:
        """Wait until the client closes the connection."""
        while True:
            self.more()


class LoopbackServer:
    """A server that accepts connections and serves each in its own thread.

    Args:
        tls: The context for TLS; ``None`` serves plain text.
        uds: The path of a Unix socket to listen on instead of a port.
    """

    scheme = "http"

    #: The exceptions that a connection's thread may meet, other than network errors.
    expected_errors: tuple[type[Exception], ...] = ()

    def __init__(self, *, tls: ssl.SSLContext | None = None, uds: str | None = None) -> None:
        self.tls = tls
        self.uds = uds
        self.peers: list[Peer] = []
        """All connections accepted so far, in order."""
        self.requests: list[ReceivedRequest] = []
        """All requests, in the order in which their heads arrived."""
        self.server_names: list[str | None] = []
        """The server names that clients sent (SNI)."""
        self.handshake_errors: list[Exception] = []
        self.errors: list[Exception] = []
        """Unexpected errors of the server itself."""
        self.changes = threading.Condition()
        self.port = 0
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        if self.uds is None:
            self._listen(socket.create_server(("127.0.0.1", 0), backlog=1024))
            self.port = self._listener.getsockname()[1]
        else:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(self.uds)
            listener.listen(128)
            self._listen(listener)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._stop_listening()
        self.release()
        for peer in self.peers:
            peer.shut_down()
        for peer in self.peers:
            peer.thread.join(LIMIT)
        alive = [peer.thread.name for peer in self.peers if peer.thread.is_alive()]
        if exc is None:
            assert not alive, f"threads still running: {alive}"
            assert not self.errors, self.errors

    def _listen(self, listener: socket.socket) -> None:
        self._listener = listener
        self._wake_out, self._wake_in = socket.socketpair()
        self._thread = threading.Thread(target=self._accept, name=type(self).__name__, daemon=True)
        self._thread.start()

    def _stop_listening(self) -> None:
        self._wake_in.send(b"x")
        self._thread.join(LIMIT)
        self._listener.close()
        self._wake_in.close()
        self._wake_out.close()

    def _accept(self) -> None:
        with _Selector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake_out, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select()]
                if self._wake_out in ready:
                    return
                sock, _ = self._listener.accept()
                if self.uds is None:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self.changes:
                    peer = Peer(self, len(self.peers), sock)
                    self.peers.append(peer)
                    self.changes.notify_all()
                peer.thread.start()

    # -- For subclasses -----------------------------------------------------------------------------------------------

    def welcome(self, peer: Peer) -> None:
        """Do something first in a connection's thread, before TLS."""

    def serve(self, peer: Peer) -> None:
        """Serve one connection, in its thread, until a `Hangup`, an `OSError` or an `EOFError` is raised."""
        raise NotImplementedError

    def release(self) -> None:
        """Release the threads that wait, because the server is ending."""

    # -- For the test -------------------------------------------------------------------------------------------------

    @property
    def netloc(self) -> str:
        """The host and port."""
        return f"127.0.0.1:{self.port}" if self.uds is None else "uds"

    @property
    def url(self) -> str:
        """The server's URL, without a trailing slash."""
        return f"{self.scheme}{'s' if self.tls else ''}://{self.netloc}"

    @property
    def accepted(self) -> int:
        """The number of connections accepted so far."""
        return len(self.peers)

    @property
    def open(self) -> int:
        """The number of connections open now."""
        return sum(peer.is_open for peer in self.peers)

    @property
    def idle(self) -> int:
        """The number of connections waiting for their next request."""
        return sum(peer.is_idle for peer in self.peers)

    @property
    def requests_per_connection(self) -> list[int]:
        """The number of requests on the first, second, … connection."""
        return [len(peer.requests) for peer in self.peers]

    def wait_for(self, predicate: Callable[[], Any], timeout: float = LIMIT) -> None:
        """Wait until an event on this server makes the predicate true.

        Raises:
            AssertionError: If it is still false after `timeout` seconds.
        """
        with self.changes:
            if not self.changes.wait_for(predicate, timeout):
                raise AssertionError(f"condition not met within {timeout:g} s; connections: {self.peers}")

    def wait_closed(self, timeout: float = LIMIT) -> None:
        """Wait until no connection is open.

        Raises:
            AssertionError: If one is still open after `timeout` seconds; the message lists those open.
        """
        with self.changes:
            if not self.changes.wait_for(lambda: self.open == 0, timeout):
                left = [peer for peer in self.peers if peer.is_open]
                raise AssertionError(f"the client left {len(left)} connections open: {left}")

    def close_idle(self) -> None:
        """Close the connections that are waiting for their next request; return when that is done."""
        self._command_idle("fin")

    def reset_idle(self) -> None:
        """Reset the connections that are waiting for their next request; return when that is done."""
        self._command_idle("rst")

    def send_idle(self, data: bytes) -> None:
        """Send unsolicited bytes on the connections that wait for their next request; return when that is done."""
        self._command_idle(data)

    def _command_idle(self, command: str | bytes) -> None:
        # A client that has read a response may get here before the server's thread has returned to waiting.
        self.wait_for(lambda: self.idle and not any(peer.is_returning for peer in self.peers))
        peers = [peer for peer in self.peers if peer.is_idle]
        for peer in peers:
            peer.command(command)
        self.wait_for(lambda: not any(peer.is_open and peer.commands for peer in peers))

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Within the block, refuse new connections; open connections stay open."""
        with self._not_accepting():
            yield

    @contextmanager
    def unresponsive(self) -> Iterator[None]:
        """Within the block, leave new connections without an answer (on Linux); open connections stay open."""
        with self._not_accepting() as reserved:
            reserved.listen(0)
            waiting = fill_backlog(reserved)
            try:
                yield
            finally:
                for sock in waiting:
                    sock.close()

    @contextmanager
    def _not_accepting(self) -> Iterator[socket.socket]:
        """Keep the port, but stop listening."""
        self._stop_listening()
        with socket.socket() as reserved:
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reserved.bind(("127.0.0.1", self.port))
            try:
                yield reserved
            finally:
                reserved.close()
                self._listen(socket.create_server(("127.0.0.1", self.port), backlog=1024))


def fill_backlog(listener: socket.socket) -> list[socket.socket]:
    """Fill a listener's backlog of 0, so that further connects get no answer; return the sockets, to be closed."""
    clients = []
    for _ in range(8):
        client = socket.socket(listener.family)
        clients.append(client)
        client.setblocking(False)
        with suppress(BlockingIOError):
            client.connect(listener.getsockname())
    return clients
