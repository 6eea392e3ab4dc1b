"""A network without sockets, where the server follows a script.

One `Network` provides an `httpcore.NetworkBackend` and an `httpcore.AsyncNetworkBackend` (asyncio and trio), which can
be used at the same time. The n-th connection follows the n-th `Script`; any further connections follow `default`.

    network = Network(Script(respond(b"one"), Gate(), then=FIN), Script(connect=REFUSED))
    AgentTransport(network_backend=network.backend, async_network_backend=network.async_backend)

Afterwards, tests can inspect `network.ops` (every operation on every connection, in order), `network.open` and
`network.peak` (connections count from the start of a connect to the end of a close), and `network.connections[n]`.

Two properties help to catch bugs. Every async operation passes a checkpoint before it takes effect, so tests can cancel
each one in turn. And a close that is cancelled at that checkpoint has closed nothing, so a missing shield around a
close shows as a connection left open.

Nothing here sleeps. Whatever waits (a `Gate`, `HANG`, a read without an answer) waits for an event. After `LIMIT`
seconds without one, an `AssertionError` describes the network.
"""

from __future__ import annotations

import functools
import ssl
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import anyio
import anyio.lowlevel
import httpcore
import sniffio

from .._runtime.contexts import TimeLimit
from ._scripts import FIN, HANG, REFUSED, RST, TIMEOUT, Gate, Mark, Step, respond

LIMIT = 10.0
"""Seconds after which a wait without a timeout counts as a deadlock."""


Answer: TypeAlias = "Step | Sequence[Step] | Callable[[Connection, bytes], Answer]"


@dataclass
class Script:
    """The behaviour of the server on one connection.

    Args:
        answers: The answers to the first, second, … complete request: bytes, a gate, a mark, an exception for the read
            to raise, several of these, or a function that takes the connection and the request's head and returns them.
        then: The answer to all further requests; by default a 200.
        connect: The steps of the connect; `REFUSED`, `TIMEOUT` and exceptions make it fail.
        tls: The same for each `start_tls`.
        writes: The same for individual writes, by their number, counted from 0.
        close: The steps of the close: a gate or `HANG` delays it, in event loops only; an exception is raised by it. In
            either case the connection is closed afterwards.
        early: The numbers of the requests, counted from 0, that are answered as soon as their head has arrived.
        greeting: What the server sends, unsolicited, after the connect.
        alpn: The protocol that TLS negotiates.
        raw: Replaces the answers: a function called with the connection and the bytes of each write.
    """

    answers: tuple[Answer, ...]
    then: Answer
    connect: Step | Sequence[Step]
    tls: Step | Sequence[Step]
    writes: dict[int, Step | Sequence[Step]]
    close: Step | Sequence[Step]
    early: frozenset[int]
    greeting: Answer
    alpn: str | None
    raw: Callable[[Connection, bytes], Answer] | None

    def __init__(
        self,
        *answers: Answer,
        then: Answer | None = None,
        connect: Step | Sequence[Step] = (),
        tls: Step | Sequence[Step] = (),
        writes: dict[int, Step | Sequence[Step]] | None = None,
        close: Step | Sequence[Step] = (),
        early: Iterable[int] = (),
        greeting: Answer = (),
        alpn: str | None = None,
        raw: Callable[[Connection, bytes], Answer] | None = None,
    ) -> None:
        self.answers = answers
        self.then = respond() if then is None else then
        self.connect = connect
        self.tls = tls
        self.writes = writes or {}
        self.close = close
        self.early = frozenset(early)
        self.greeting = greeting
        self.alpn = alpn
        self.raw = raw


@dataclass
class Op:
    """One operation of the client: its connection, name, arguments and outcome.

    `outcome` is `"pending"`, then `"ok"` or the name of the exception's class.
    """

    connection: int
    name: str
    details: dict[str, Any] = field(default_factory=dict)
    outcome: str = "pending"


class _Framer:
    """Find where the heads and bodies of HTTP/1.1 requests end in the bytes written to a connection."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.head: bytes | None = None
        self.announced = False
        self.remaining = 0
        self.is_chunked = False

    def feed(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        """Yield `("head", head)` and `("complete", head)` in turn."""
        self.buffer += data
        while self.head is not None or self._take_head():
            assert self.head is not None
            if not self.announced:
                self.announced = True
                yield "head", self.head
            if not self._take_body():
                return
            head, self.head, self.announced = self.head, None, False
            yield "complete", head

    def _take_head(self) -> bool:
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        self.head = bytes(self.buffer[: end + 4])
        del self.buffer[: end + 4]
        fields = {}
        for line in self.head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            fields[name.strip().lower()] = value.strip().lower()
        self.is_chunked = fields.get(b"transfer-encoding", b"") == b"chunked"
        self.remaining = int(fields.get(b"content-length", b"0"))
        return True

    def _take_body(self) -> bool:
        if not self.is_chunked:
            taken = min(self.remaining, len(self.buffer))
            del self.buffer[:taken]
            self.remaining -= taken
            return not self.remaining
        while (line := self.buffer.find(b"\r\n")) >= 0:
            size = int(self.buffer[:line].split(b";")[0], 16)
            if len(self.buffer) < line + 2 + size + 2:
                return False
            del self.buffer[: line + 2 + size + 2]
            if not size:
                return True
        return False


class Connection:
    """One connection: the record of what the client did, and control of the server's side."""

    def __init__(self, network: Network, number: int, script: Script, host: str, port: int) -> None:
        self.network = network
        self.number = number
        self.script = script
        self.host = host
        self.port = port
        self.state = "connecting"
        """`"connecting"`, `"open"`, `"closed"`, or `"failed"` if the connect did not succeed."""
        self.written = bytearray()
        self.requests: list[bytes] = []
        """The heads of the requests that have arrived in full."""
        self.heads: list[bytes] = []
        """The heads of all requests, including those whose body has not ended."""
        self.polls = 0
        """How often `get_extra_info("is_readable")` was called."""
        self.tls: list[str | None] = []
        """The `server_hostname` of each `start_tls`."""
        self.streams: list[int] = []
        """HTTP/2: the streams that the client has opened."""
        self.peak_streams = 0
        """HTTP/2: the highest number of streams open at once; a stream is open until the client reads its answer."""
        self._later: list[tuple[Gate | None, Callable[[], bytes]]] = []
        self.reset_streams: list[int] = []
        """HTTP/2: the streams that the client has reset."""
        self.http2: Any = None
        self._inbox: deque[Step] = deque()
        self._framer = _Framer()
        self._writes = 0
        self._reset = False

    def __repr__(self) -> str:
        return f"<Connection {self.number} to {self.host}:{self.port}, {self.state}, {len(self.heads)} requests>"

    @property
    def is_open(self) -> bool:
        """Whether it is connecting or open; a connection counts as open until its close has taken effect."""
        return self.state in ("connecting", "open")

    @property
    def ops(self) -> list[Op]:
        """The operations on this connection, in order."""
        return [op for op in self.network.ops if op.connection == self.number]

    @property
    def op_names(self) -> list[str]:
        """The names of these operations."""
        return [op.name for op in self.ops]

    # -- The server's side ------------------------------------------------------------------------------------------

    def send(self, *steps: Step) -> None:
        """Make the server send unsolicited bytes, for instance while the connection is idle."""
        with self.network.condition:
            self._inbox.extend(steps)
            if RST in steps:
                self._reset = True
        self.network.changed()

    def fin(self) -> None:
        """Make the server close its end."""
        self.send(FIN)

    def rst(self) -> None:
        """Make the server reset the connection; data that the client has not read yet is lost."""
        with self.network.condition:
            self._inbox.clear()
        self.send(RST)

    # -- For the streams; all under the network's lock ----------------------------------------------------------------

    def _skip_gates(self) -> None:
        for gate, make in list(self._later):
            if gate is None or gate.is_open:
                self._later.remove((gate, make))
                if data := make():
                    self._inbox.append(data)
        while self._inbox and isinstance(self._inbox[0], Gate) and self._inbox[0].is_open:
            self._inbox.popleft()

    def _readable(self) -> bool:
        self._skip_gates()
        return self.state != "open" or (
            bool(self._inbox) and self._inbox[0] is not HANG and not isinstance(self._inbox[0], Gate)
        )

    def _take(self, max_bytes: int) -> bytes:
        exceptions = self.network.exceptions
        if self.state != "open":
            raise exceptions.ReadError("the stream was closed")
        step = self._inbox[0]
        if isinstance(step, bytes):
            self._inbox.popleft()
            if len(step) > max_bytes:
                self._inbox.appendleft(step[max_bytes:])
            return step[:max_bytes]
        if step is FIN:
            return b""
        if step is TIMEOUT:
            self._inbox.popleft()
            raise exceptions.ReadTimeout("scripted")
        if step is RST:
            raise exceptions.ReadError("[Errno 104] Connection reset by peer")
        assert isinstance(step, Exception), step
        raise step

    def _put(self, answer: Answer, head: bytes) -> None:
        if callable(answer):
            self._put(answer(self, head), head)
        elif isinstance(answer, (bytes, Gate, Mark, Exception)):
            if isinstance(answer, Gate):
                self.network.adopt(answer)
            if answer is RST:
                self._reset = True
            if answer != b"":
                self._inbox.append(answer)
        else:
            for step in answer:
                self._put(step, head)

    def _past(self, gate: Gate) -> Callable[[], bool]:
        """Return a function that tells whether the client may continue, or has given up the connection."""
        return lambda: gate.is_open or not self.is_open

    def _write_checks(self) -> list[Any]:
        with self.network.condition:
            steps = self.script.writes.get(self._writes, ())
            self._writes += 1
            if steps is RST:
                self._reset = True
                self._inbox.append(RST)
        return self.network._checks(steps, self.network.exceptions.WriteError, self.network.exceptions.WriteTimeout)

    def _close_checks(self) -> list[Any]:
        if not self.is_open:
            return []
        errors = self.network.exceptions
        return self.network._checks(self.script.close, errors.WriteError, errors.WriteTimeout)

    def _receive(self, data: bytes) -> None:
        if self._reset or self.state != "open":
            raise self.network.exceptions.WriteError("[Errno 32] Broken pipe")
        self.written += data
        if self.script.raw is not None:
            self._put(self.script.raw(self, data), data)
            return
        for event, head in self._framer.feed(data):
            if event == "head":
                self.heads.append(head)
            else:
                self.requests.append(head)
            number = len(self.heads) - 1
            if (event == "head") == (number in self.script.early):
                answers = self.script.answers
                self._put(answers[number] if number < len(answers) else self.script.then, head)

    def _end(self, state: str) -> None:
        if self.is_open:
            self.network.opened[(self.host, self.port)] -= 1
            self.network.open -= 1
        self.state = state


class Network:
    """A scripted network; see the module's docstring.

    Args:
        scripts: The behaviour of the first, second, … connection.
        default: The behaviour of further connections; by default they answer each request with a 200.
        library: The module whose exceptions to raise: `httpcore` or `httpcore2`.
    """

    def __init__(self, *scripts: Script, default: Script | None = None, library: Any = httpcore) -> None:
        self.scripts = scripts
        self.default = Script() if default is None else default
        self.exceptions = library
        self.connections: list[Connection] = []
        self.ops: list[Op] = []
        self.sleeps: list[float] = []
        """The delays requested between attempts to connect, in seconds; the network does not actually wait."""
        self.open = 0
        self.peak = 0
        self.opened: Counter[tuple[str, int]] = Counter()
        """The number of connections open now, by host and port."""
        self.peaks: dict[tuple[str, int], int] = {}
        """The highest number of connections open at once, by host and port."""
        self.condition = threading.Condition(threading.RLock())
        self._wakers: list[Callable[[], None]] = []
        self.backend: httpcore.NetworkBackend = _Backend(self)
        self.async_backend: httpcore.AsyncNetworkBackend = _AsyncBackend(self)

    def __repr__(self) -> str:
        return f"<Network {self.open} open, {self.peak} at most, {self.connections}>"

    @property
    def options(self) -> dict[str, Any]:
        """The two backends, as options of an agent."""
        return {"network_backend": self.backend, "async_network_backend": self.async_backend}

    @property
    def polls(self) -> int:
        """How often connections were asked whether they are readable, in total."""
        return sum(connection.polls for connection in self.connections)

    @property
    def request_count(self) -> int:
        """The number of requests that have arrived in full, on all connections."""
        return sum(len(connection.requests) for connection in self.connections)

    def wait_for(self, predicate: Callable[[], bool], timeout: float = LIMIT) -> None:
        """Block this thread until an event on the network makes `predicate` true."""
        with self.condition:
            assert self.condition.wait_for(predicate, timeout), f"condition not met: {self!r}"

    def adopt(self, gate: Gate) -> None:
        """Arrange to be notified when a gate opens."""
        gate.tell(self)

    def changed(self) -> None:
        """Wake everything that waits, to check again."""
        with self.condition:
            wakers, self._wakers = self._wakers, []
            self.condition.notify_all()
        for wake in wakers:
            wake()

    # -- The life of a connection, under the lock -------------------------------------------------------------------

    def _begin(self, host: str, port: int) -> Connection:
        number = len(self.connections)
        script = self.scripts[number] if number < len(self.scripts) else self.default
        connection = Connection(self, number, script, host, port)
        self.connections.append(connection)
        self.open += 1
        self.peak = max(self.peak, self.open)
        key = (host, port)
        self.opened[key] += 1
        self.peaks[key] = max(self.peaks.get(key, 0), self.opened[key])
        return connection

    @contextmanager
    def _op(self, connection: int, name: str, **details: Any) -> Iterator[Op]:
        """Record an operation and how it ends."""
        op = Op(connection, name, details)
        with self.condition:
            self.ops.append(op)
        self.changed()
        try:
            yield op
            op.outcome = "ok"
        except BaseException as exc:
            op.outcome = type(exc).__name__
            raise
        finally:
            self.changed()

    @contextmanager
    def _connecting(self, host: str, port: int, **details: Any) -> Iterator[tuple[Connection, list[Any]]]:
        """Record an attempt to connect and how it ends; yield the connection, and the steps that it has to pass."""
        with self.condition:
            connection = self._begin(host, port)
        errors = self.exceptions
        with self._op(connection.number, "connect", host=host, port=port, **details):
            try:
                yield connection, self._checks(connection.script.connect, errors.ConnectError, errors.ConnectTimeout)
            except BaseException:
                with self.condition:
                    connection._end("failed")
                raise
            with self.condition:
                connection.state = "open"
                connection._put(connection.script.greeting, b"")

    def _checks(self, steps: Step | Sequence[Step], refused: type[Exception], timed_out: type[Exception]) -> list[Any]:
        """Return the steps that an operation has to pass: gates to wait for, and an exception to raise, if any."""
        checks: list[Any] = []
        for step in [steps] if isinstance(steps, (bytes, Gate, Mark, Exception)) else steps:
            if isinstance(step, Gate):
                self.adopt(step)
                checks.append(step)
            elif step is HANG:
                checks.append(Gate("never"))
            elif step is TIMEOUT:
                checks.append(timed_out("scripted"))
            elif isinstance(step, Exception):
                checks.append(step)
            else:
                assert step in (REFUSED, RST), step
                checks.append(refused("[Errno 111] Connection refused" if step is REFUSED else "[Errno 104] Reset"))
        return checks

    # -- Waiting ----------------------------------------------------------------------------------------------------

    def _wait(self, predicate: Callable[[], bool], timeout: float | None, expired: type[Exception]) -> None:
        """Block the thread until `predicate` is true; it is called under the lock."""
        with self.condition:
            if not self.condition.wait_for(predicate, LIMIT if timeout is None else min(timeout, LIMIT)):
                if timeout is None:
                    raise AssertionError(f"the scripted network timed out after {LIMIT:.0f} s: {self!r}")
                raise expired("timed out")

    async def _wait_async(self, predicate: Callable[[], bool], timeout: float | None, expired: type[Exception]) -> None:
        """Suspend the task until `predicate` is true; it is called under the lock."""
        with TimeLimit(LIMIT if timeout is None else min(timeout, LIMIT)):
            while True:
                with self.condition:
                    if predicate():
                        return
                    event = anyio.Event()
                    self._wakers.append(_waker(event))
                await event.wait()
        if timeout is None:
            raise AssertionError(f"the scripted network timed out after {LIMIT:.0f} s: {self!r}")
        raise expired("timed out")


def _waker(event: anyio.Event) -> Callable[[], None]:
    """Return a function that sets this task's event from any thread; it does nothing once the loop has ended."""
    if sniffio.current_async_library() == "trio":
        import trio

        token = trio.lowlevel.current_trio_token()

        def wake_trio() -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(event.set)

        return wake_trio

    import asyncio

    loop = asyncio.get_running_loop()

    def wake_asyncio() -> None:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(event.set)

    return wake_asyncio


def http2(
    *,
    max_concurrent_streams: int = 100,
    hold: Gate | Callable[[int], Gate | None] | None = None,
    body: bytes = b"ok",
    prior_knowledge: bool = False,
) -> Script:
    """Return a script that serves HTTP/2 and answers each stream with a 200.

    `network.connections[n].streams` lists the streams of a connection; `goaway(network.connections[n])` ends it gently.

    Args:
        max_concurrent_streams: The limit that the server announces and enforces.
        hold: A gate that delays every answer, or a function that takes a stream's id and returns its gate, or ``None``.
        body: The body of all answers.
        prior_knowledge: Whether to serve without TLS.
    """
    import h2.config
    import h2.connection
    import h2.events
    import h2.settings

    limit = {h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: max_concurrent_streams}

    def receive(connection: Connection, data: bytes) -> Answer:
        if connection.http2 is None:
            config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
            connection.http2 = h2.connection.H2Connection(config)
            connection.http2.local_settings = h2.settings.Settings(client=False, initial_values=limit)
            connection.http2.initiate_connection()
        state = connection.http2

        def answer(stream: int) -> bytes:
            if stream in connection.reset_streams:
                return b""
            state.send_headers(stream, [(":status", "200"), ("content-length", str(len(body)))])
            state.send_data(stream, body, end_stream=True)
            return bytes(state.data_to_send())

        for event in state.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                connection.streams.append(event.stream_id)
                connection.peak_streams = max(connection.peak_streams, state.open_inbound_streams)
            elif isinstance(event, h2.events.DataReceived):
                state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamReset):
                connection.reset_streams.append(event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                gate = hold(event.stream_id) if callable(hold) else hold
                if gate is not None:
                    connection.network.adopt(gate)
                connection._later.append((gate, functools.partial(answer, event.stream_id)))
        return bytes(state.data_to_send())

    return Script(raw=receive, alpn=None if prior_knowledge else "h2")


def goaway(connection: Connection) -> None:
    """HTTP/2: make the server accept no further streams, while those already open continue."""
    last = max(connection.streams, default=0)
    connection.send(b"\0\0\x08\x07\0" + bytes(4) + last.to_bytes(4, "big") + bytes(4))


class _TLSObject:
    """The part of an `ssl.SSLObject` that httpcore uses."""

    def __init__(self, alpn: str | None) -> None:
        self._alpn = alpn

    def selected_alpn_protocol(self) -> str | None:
        return self._alpn

    def version(self) -> str:
        return "TLSv1.3"


class _Info:
    """`get_extra_info`, the same for both kinds of stream."""

    def __init__(self, connection: Connection, tls: bool = False) -> None:
        self.connection = connection
        self._tls = tls

    def get_extra_info(self, info: str) -> Any:
        connection = self.connection
        if info == "is_readable":
            with connection.network.condition:
                connection.polls += 1
                return connection._readable()
        if info == "ssl_object":
            return _TLSObject(connection.script.alpn) if self._tls else None
        if info == "client_addr":
            return ("127.0.0.1", 50000 + connection.number)
        if info == "server_addr":
            return (connection.host, connection.port)
        return None


class _Stream(_Info, httpcore.NetworkStream):
    """The client's end, for threads."""

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        connection, network = self.connection, self.connection.network
        with network._op(connection.number, "read", timeout=timeout):
            network._wait(connection._readable, timeout, network.exceptions.ReadTimeout)
            with network.condition:
                return connection._take(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not buffer:
            return
        connection, network = self.connection, self.connection.network
        with network._op(connection.number, "write", data=bytes(buffer), timeout=timeout):
            errors = network.exceptions
            for check in connection._write_checks():
                if isinstance(check, Exception):
                    raise check
                network._wait(connection._past(check), timeout, errors.WriteTimeout)
            with network.condition:
                connection._receive(bytes(buffer))

    def close(self) -> None:
        connection, network = self.connection, self.connection.network
        with network._op(connection.number, "close"):
            checks = connection._close_checks()
            with network.condition:
                connection._end("closed")
            for check in checks:
                if isinstance(check, Exception):
                    raise check

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        connection, network = self.connection, self.connection.network
        with network._op(connection.number, "start_tls", server_hostname=server_hostname, timeout=timeout):
            errors = network.exceptions
            connection.tls.append(server_hostname)
            try:
                for check in network._checks(connection.script.tls, errors.ConnectError, errors.ConnectTimeout):
                    if isinstance(check, Exception):
                        raise check
                    network._wait(connection._past(check), timeout, errors.ConnectTimeout)
                if not connection.is_open:
                    raise errors.ConnectError("the stream was closed")
            except Exception:
                self.close()
                raise
            return _Stream(connection, tls=True)


class _AsyncStream(_Info, httpcore.AsyncNetworkStream):
    """The client's end, for tasks. Each operation is one checkpoint, then its effect, then whatever it waits for."""

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        connection, network = self.connection, self.connection.network
        with network._op(connection.number, "read", timeout=timeout):
            await anyio.lowlevel.checkpoint()
            await network._wait_async(connection._readable, timeout, network.exceptions.ReadTimeout)
            with network.condition:
                return connection._take(max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not buffer:
            return
        connection, network = self.connection, self.connection.network
        with network._op(connection.number, "write", data=bytes(buffer), timeout=timeout):
            await anyio.lowlevel.checkpoint()
            errors = network.exceptions
            for check in connection._write_checks():
                if isinstance(check, Exception):
                    raise check
                await network._wait_async(connection._past(check), timeout, errors.WriteTimeout)
            with network.condition:
                connection._receive(bytes(buffer))

    async def aclose(self) -> None:
        connection, network = self.connection, self.connection.network
        with network._op(connection.number, "close"):
            await anyio.lowlevel.checkpoint()
            try:
                for check in connection._close_checks():
                    if isinstance(check, Exception):
                        raise check
                    await network._wait_async(connection._past(check), None, network.exceptions.WriteTimeout)
            finally:
                with network.condition:
                    connection._end("closed")

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        connection, network = self.connection, self.connection.network
        with network._op(connection.number, "start_tls", server_hostname=server_hostname, timeout=timeout):
            errors = network.exceptions
            connection.tls.append(server_hostname)
            try:
                await anyio.lowlevel.checkpoint()
                for check in network._checks(connection.script.tls, errors.ConnectError, errors.ConnectTimeout):
                    if isinstance(check, Exception):
                        raise check
                    await network._wait_async(connection._past(check), timeout, errors.ConnectTimeout)
                if not connection.is_open:
                    raise errors.ConnectError("the stream was closed")
            except Exception:
                await self.aclose()  # as httpcore's own backends do: close after an error, but not after a cancellation
                raise
            return _AsyncStream(connection, tls=True)


class _Backend(httpcore.NetworkBackend):
    def __init__(self, network: Network) -> None:
        self.network = network

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        return self._connect(host, port, timeout, local_address=local_address, socket_options=socket_options)

    def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        return self._connect(path, 0, timeout, socket_options=socket_options)

    def _connect(self, host: str, port: int, timeout: float | None, **details: Any) -> httpcore.NetworkStream:
        network = self.network
        with network._connecting(host, port, timeout=timeout, **details) as (connection, checks):
            for check in checks:
                if isinstance(check, Exception):
                    raise check
                network._wait(connection._past(check), timeout, network.exceptions.ConnectTimeout)
        return _Stream(connection)

    def sleep(self, seconds: float) -> None:
        self.network.sleeps.append(seconds)


class _AsyncBackend(httpcore.AsyncNetworkBackend):
    def __init__(self, network: Network) -> None:
        self.network = network

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return await self._connect(host, port, timeout, local_address=local_address, socket_options=socket_options)

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return await self._connect(path, 0, timeout, socket_options=socket_options)

    async def _connect(
        self, host: str, port: int, timeout: float | None, **details: Any
    ) -> httpcore.AsyncNetworkStream:
        network = self.network
        with network._connecting(host, port, timeout=timeout, **details) as (connection, checks):
            await anyio.lowlevel.checkpoint()
            for check in checks:
                if isinstance(check, Exception):
                    raise check
                await network._wait_async(connection._past(check), timeout, network.exceptions.ConnectTimeout)
        return _AsyncStream(connection)

    async def sleep(self, seconds: float) -> None:
        await anyio.lowlevel.checkpoint()
        self.network.sleeps.append(seconds)
