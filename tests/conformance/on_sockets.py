"""Play a trace through httpx over real sockets, against a server that responds when the scenario says so.

    record = await play(trace, world, expected, portal=portal, certificates=certificates)

After every operation it waits until nothing moves any more and both sides agree on what is open and who waits, and
notes what it sees: `agent.sockets()`, `agent.status()`, the `RequestInfo` of responses, the errors that callers get,
and what the server has. If that is not what is expected, it looks again for a while, for slow machines.

What is expected decides nothing but this: how long to look; which number a new socket gets of those that are due, when
several are opened at once (their order is nobody's promise); and, in the sync world, which requests will be given up
while they wait. A thread cannot be cancelled. Its true ways out are the pool timeout, while it waits, and an interrupt,
while it reads: a request that will be given up in the queue has a pool timeout, and the operation `abort` waits for it.
"""

from __future__ import annotations

import math
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import anyio
import httpx
from anyio.from_thread import BlockingPortal

from httpx_agent import Agent, AgentStatus, AgentTransport, RequestInfo, SocketInfo
from tests.support.servers import Certificates
from tests.support.worlds import LIMIT, Job, Tasks, World

from .compare import ALL, differing
from .options import agent_options, setting
from .scenario_server import Address, Connection, ScenarioServer, View
from .threads import Interrupt, SteeredBackend
from .trace import Ending, Op, Pool, Record, Seen, Trace, flatten

PATIENCE = 4.0
"""Seconds to look again when something else is seen than what is expected, by default; slow machines need them."""

TIMED_PATIENCE = 0.5
"""The same where timers go on meanwhile."""

IMPATIENCE = 0.2
"""The same once there was a difference: what comes after it tells little."""

ROUND = 0.001
"""Seconds between two looks, to begin with: whoever looks all the time keeps others from moving."""

LONGEST_ROUND = 0.05
"""Seconds between two looks in the end."""

QUIET_ROUNDS = 3
"""So many looks in a row that show the same mean that nothing moves."""

GLANCE = 0.02
"""Seconds between two looks while time passes."""

LATENESS = 0.06
"""Seconds by which the replay of a trace with timers may be late. They ring at least 0.1 s away from any step."""

ATTEMPTS = 7
"""How often a trace is played for which the machine was too slow; threads wait twice as long in the queue each time."""

PAUSE = 0.5
"""Seconds before the second attempt, and so many more before each of the next: others are playing, too."""

QUEUE_TIME = 0.05
QUEUE_TIME_PER_STEP = 0.015
"""How much later than on the scenario's clock a thread leaves the queue: so many seconds, and for each step since the
last `advance` so many more, because steps take time here and none there."""

REQUEST_FIELDS = frozenset(
    {"op", "id", "origin", "method", "path", "headers", "body_bytes", "chunked", "end", "read", "timeout", "on_timeout"}
)


class TooSlow(Exception):
    """The machine did not keep up with the clock of the scenario, so that nothing can be said."""


async def play(
    trace: Trace,
    world: World,
    expected: Record,
    what: frozenset[str] = ALL,
    *,
    portal: BlockingPortal,
    certificates: Certificates,
    patience: float = PATIENCE,
    **options: Any,
) -> Record:
    """Play a trace and tell what was seen.

    Args:
        trace: The trace.
        world: Where.
        expected: What should be seen.
        what: In what that is to be compared; see `compare`.
        portal: The thread of the servers; see `scenario_server.running`.
        certificates: For TLS.
        patience: Seconds to look again when something else is seen than what is expected.
        options: Options of the agent that the trace does not know of.

    Raises:
        TooSlow: If the machine does not keep time.
        ValueError: For an operation that cannot be done to an agent of ours.
    """
    for attempt in range(ATTEMPTS):
        await anyio.sleep(attempt * PAUSE)
        with ScenarioServer(portal, origins=trace.origins, tls=certificates.server() if trace.tls else None) as server:
            replay = _Replay(trace, world, expected, what, server, certificates, options, patience, attempt)
            try:
                return await replay.run()
            except TooSlow as exc:
                reason = exc
    raise reason


class _Sent:
    """A request, and what is known of it."""

    def __init__(self, number: int, origin: int, operation: Op) -> None:
        self.number = number
        self.origin = origin
        self.method = operation.get("method", "GET")
        self.job: Job
        self.consume = anyio.Event()  # when its response is to be read
        self.write_end: Any = None  # when its body is to end; an event of this world
        self.response: Any = None
        self.info: RequestInfo | None = None
        self.error: BaseException | None = None
        self.aborted = False
        self.detached = False
        self.socket: int | None = None
        self.reused: bool | None = None

    @property
    def pending(self) -> bool:
        """Its caller still waits for something."""
        return not self.job.done and not self.detached

    @property
    def stuck(self) -> bool:
        """Nothing comes of an answer before its caller does something."""
        return not self.consume.is_set() or not (self.write_end is None or self.write_end.is_set())

    def ending(self, socket: int | None, queued: bool) -> Ending:
        """What became of it."""
        if self.info is not None:  # what its caller was told is what its server saw
            assert (self.info.socket_id, self.info.reused) == (self.socket, self.reused), self.number
        outcome, error = None, None
        if self.detached:
            outcome = "connect" if self.method == "CONNECT" else "upgrade"
        elif self.aborted or self.error is not None:
            error = "ECONNRESET" if self.aborted or self.error is None else _code(self.error)
            outcome = "error" if self.response is None or error == "ERR_SOCKET_TIMEOUT" else "res_error"
        elif self.job.done:
            outcome = "ok"
        return Ending(socket, self.reused, queued, outcome, error)


@dataclass(frozen=True)
class _Look:
    """What both sides showed at one moment."""

    view: View
    sockets: tuple[SocketInfo, ...]
    status: AgentStatus
    done: int
    """How many requests are over."""

    def key(self) -> Any:
        """The same as before, if nothing has moved."""
        sockets = [(socket.id, socket.state, socket.request_count) for socket in self.sockets]
        return self.view.happenings, sockets, self.status, self.done


class _Replay:
    client: Any
    tasks: Tasks

    def __init__(
        self,
        trace: Trace,
        world: World,
        expected: Record,
        what: frozenset[str],
        server: ScenarioServer,
        certificates: Certificates,
        options: Mapping[str, Any],
        patience: float,
        attempt: int,
    ) -> None:
        self.trace = trace
        self.world = world
        self.expected = expected
        self.what = what
        is_timed = any(operation["op"] == "advance" for operation in trace.steps)
        self.patience = min(patience, TIMED_PATIENCE) if is_timed else patience
        self.may_be_late = LATENESS if is_timed else _shortest_limit(expected) / 2
        self.server = server
        self.queue_factor = 2.0**attempt
        self.is_last_attempt = attempt == ATTEMPTS - 1
        self.steered = SteeredBackend() if world.is_sync and _needs_steering(trace, expected) else None
        own: dict[str, Any] = {}
        if trace.tls:  # a context without authorities trusts nobody
            own["verify"] = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if trace.strict_tls else certificates.client()
        if self.steered is not None:
            own["network_backend"] = self.steered
        self.agent = Agent(**{**agent_options(trace), **own, **options})
        self.transport = AgentTransport(agent=self.agent)
        scheme = "https" if trace.tls else "http"
        self.urls = [f"{scheme}://127.0.0.1:{port}" for port in server.ports]
        self.over = anyio.Event()
        self.record = Record()
        self.sent: dict[int, _Sent] = {}
        self.step = -1
        self.start = 0.0
        self.virtual = 0.0
        self.lateness = 0.0  # the most by which a step was late
        self.left_early: int | None = None  # a request that the machine was too slow to abort in time
        self.differed = False
        # Sockets, as the agent numbers them:
        self.created = 0
        self.numbers: dict[int, int] = {}  # as the expectation does
        self.at: dict[Address, int] = {}
        self.carried: dict[int, int] = {}  # the last request of each
        self.heard = 0  # requests of `View.received` that are taken into account
        self.active: dict[int, list[int]] = {}  # by origin, in Node's order

    async def run(self) -> Record:
        async with self.world.client(transport=self.transport, timeout=None) as self.client:
            async with self.world.tasks() as self.tasks:
                try:
                    self.start = time.monotonic()
                    for operation in self.trace.steps:
                        await self._take(operation)
                    self._note_endings()
                finally:
                    with anyio.CancelScope(shield=True):
                        await self._end()
        return self.record

    async def _end(self) -> None:
        """Close everything, and see that nothing is left."""
        self.over.set()
        for sent in self.sent.values():
            sent.consume.set()
            if sent.write_end is not None:
                sent.write_end.set()
        await self.world.close(self.agent)
        for job in self.tasks.jobs:
            await job.wait()
        await self.world.until(lambda: not self.server.view.connections)
        assert not self.agent.sockets()
        assert not self.transport._pool._requests  # type: ignore[attr-defined]

    def _note_endings(self) -> None:
        for number, sent in self.sent.items():
            socket = None if sent.socket is None else self.numbers[sent.socket]
            expected = self.expected.requests.get(number)
            # Whether it had to wait when it was made is asked of the core: here, it is a matter of microseconds.
            queued = expected is not None and expected.queued
            self.record.requests[number] = sent.ending(socket, queued)

    # Doing ------------------------------------------------------------------------------------------------------------

    async def _take(self, operation: Op) -> None:
        """One step."""
        self.step += 1
        self.lateness = max(self.lateness, time.monotonic() - self.start - self.virtual)
        changed = await self._do(operation)
        self.record.steps.append(await self._settle(changed))
        if self.differed and self.lateness > self.may_be_late and not self.is_last_attempt:
            raise TooSlow(f"{self.trace.name} step {self.step}: a difference, but {self.lateness:.3f} s late")

    async def _do(self, operation: Op) -> bool | None:
        """Do what the scenario says; gives what `status_changed` said."""
        if operation["op"] == "status_changed":
            return self.agent.status_changed
        if operation["op"] == "advance":
            await self._advance(operation["ms"] / 1000)
            return None
        if self.steered is not None:
            self.steered.may_connect.clear()
        try:
            for one in flatten(operation):
                await self._do_one(one)
        finally:
            if self.steered is not None:
                self.steered.may_connect.set()
        return None

    async def _do_one(self, operation: Op) -> None:
        server = self.server
        match dict(operation):
            case {"op": "noop" | "status"}:
                pass
            case {"op": "request"}:
                await self._request(operation)
            case {"op": "end_request", "id": number}:
                self.sent[number].write_end.set()
            case {"op": "consume", "id": number}:
                self.sent[number].consume.set()
            case {"op": "abort", "id": number}:
                await self._abort(self.sent[number])
            case {"op": "client_destroy", "conn": number}:
                self._client_destroy(number)
            case {"op": "set", "key": key, "value": value}:
                setattr(self.agent, *setting(key, value))
            case {"op": "destroy_agent"}:
                await self.world.close(self.agent)
            case {"op": "finish", "id": number, **answer}:
                server.finish(number, **answer)
            case {"op": "finish_partial", "id": number, "bytes": count, **answer}:
                server.finish_partial(number, count, **answer)
            case {"op": "finish_rest", "id": number}:
                server.finish_rest(number)
            case {"op": "continue", "id": number}:
                server.write(number, b"HTTP/1.1 100 Continue\r\n\r\n")
            case {"op": "respond_upgrade", "id": number}:
                server.write(number, _SWITCH[self.sent[number].method == "CONNECT"], answers=True)
            case {"op": "server_close", "id": number, "how": how}:
                server.close(number, reset=how == "rst")
            case {"op": "server_close_idle", "conn": number, "how": how}:
                server.close_idle(self._address(number), reset=how == "rst")
            case {"op": "server_data", "conn": number, "data": data}:
                server.send_idle(self._address(number), data.encode())
            case {"op": "listen", "on": on, **origin}:
                server.listen(origin.get("origin", 0), on=on)
            case _:
                raise ValueError(f"{self.trace.name}: {dict(operation)} cannot be done to an agent of ours")

    async def _advance(self, seconds: float) -> None:
        self.virtual += seconds
        while (left := self.start + self.virtual - time.monotonic()) > 0:
            await anyio.sleep(min(left, GLANCE))
            self._look()  # for what comes and goes meanwhile
        late = time.monotonic() - self.start - self.virtual
        if late > LATENESS:
            raise TooSlow(f"{self.trace.name} step {self.step}: {late:.3f} s late")

    async def _request(self, operation: Op) -> None:
        if not operation.keys() <= REQUEST_FIELDS:
            raise ValueError(f"{self.trace.name}: {dict(operation)} cannot be sent to an agent of ours")
        number, origin = operation["id"], operation.get("origin", 0)
        sent = self.sent[number] = _Sent(number, origin, operation)
        if operation.get("read") != "hold":
            sent.consume.set()
        headers = {"X-Id": str(number), **operation.get("headers", {})}
        timeout = operation["timeout"] / 1000 if "timeout" in operation else None
        request = self.client.build_request(
            sent.method,
            self.urls[origin] + "/" + operation.get("path", f"/r/{number}").lstrip("/"),
            headers=headers,
            content=self._body(sent, operation, headers),
            timeout=httpx.Timeout(timeout, pool=self._time_in_queue(number)),
        )
        pool = self.transport._pool._requests  # type: ignore[attr-defined]
        before = set(pool)
        sent.job = self.tasks.start(self._exchange, sent, request)
        with anyio.fail_after(LIMIT):
            # A loop comes to the request at once; a thread, when the system lets it.
            while not self._has_taken(sent, before):
                await anyio.sleep(0.0002 if self.world.is_sync else 0)

    def _has_taken(self, sent: _Sent, before: set[Any]) -> bool:
        """Whether the agent has given the request a socket or a place in the queue."""
        if sent.job.done:
            return True
        now = set(self.transport._pool._requests)  # type: ignore[attr-defined]
        in_use = sum(info.state in ("connecting", "active") for info in self.agent.sockets())
        status = self.agent.status()
        # The pool knows a request a moment before the agent does.
        return bool(now - before) and len(now) - status.detached_socket_count <= in_use + sum(status.requests.values())

    def _body(self, sent: _Sent, operation: Op, headers: Mapping[str, str]) -> Any:
        if operation.get("end") is False:
            if headers.get("X-Early") != "1":
                raise ValueError(f"{self.trace.name}: the server has to take {dict(operation)} before its end")
            sent.write_end = threading.Event() if self.world.is_sync else anyio.Event()
            rest = b"a" * int(headers.get("Content-Length", 0))
            return _late_body(sent.write_end, rest) if self.world.is_sync else _late_body_async(sent.write_end, rest)
        body = b"a" * operation.get("body_bytes", 0)
        if operation.get("chunked"):
            return self.world.body([body])
        return body or None

    async def _exchange(self, sent: _Sent, request: httpx.Request) -> None:
        """What a caller does."""
        try:
            response = sent.response = await self.client.send(request, stream=True)
            try:
                sent.info = response.extensions["agent"]
                sent.detached = response.status_code == 101 or (sent.method == "CONNECT" and response.is_success)
                if sent.detached:
                    await self.over.wait()
                else:
                    await sent.consume.wait()
                    await response.aread()
            finally:
                with anyio.CancelScope(shield=True):
                    await response.aclose()
        except (httpx.HTTPError, Interrupt) as error:
            sent.error = error
            if isinstance(error, httpx.PoolTimeout) and not sent.aborted:
                self.left_early = sent.number

    async def _abort(self, sent: _Sent) -> None:
        if not sent.pending:
            return
        sent.aborted = True
        carrier = self.server.view.carrier(sent.number)
        if self.world.is_sync and carrier is None:
            # A patient attempt gives it more time in the queue than other waits have.
            with anyio.fail_after(LIMIT + max(0.0, self._time_in_queue(sent.number) or 0.0)):
                while not sent.job.done:
                    await anyio.sleep(ROUND)
            return
        if self.steered is not None and carrier is not None:
            origin, port = carrier.address
            self.steered.interrupt(self.server.ports[origin], port)
        sent.job.cancel()

    def _time_in_queue(self, number: int) -> float | None:
        """How long a thread waits for its socket: without end, unless it will give up."""
        abort = _aborts(self.trace).get(number)
        if not self.world.is_sync or abort is None or not _is_waiting(self.expected, abort - 1, number):
            return None
        before = self.trace.steps[:abort]
        advances = [step for step, operation in enumerate(before) if operation["op"] == "advance"]
        nominal = sum(before[step]["ms"] for step in advances) / 1000
        steps_since = abort - max(advances, default=0)
        allowance = (QUEUE_TIME + QUEUE_TIME_PER_STEP * steps_since) * self.queue_factor
        return self.start + nominal + allowance - time.monotonic()

    def _client_destroy(self, number: int) -> None:
        """Shut a socket of the agent down, which the last response that came on it gives access to."""
        id = self._id(number)
        response = [s.response for s in self.sent.values() if s.info is not None and s.info.socket_id == id][-1]
        response.extensions["network_stream"].get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    # Seeing -----------------------------------------------------------------------------------------------------------

    async def _settle(self, status_changed: bool | None) -> Seen:
        """Wait until nothing moves, and tell what there is to see."""
        begun = time.monotonic()
        patience = min(self.patience, IMPATIENCE) if self.differed else self.patience
        ready: float | None = None  # since when it could be told
        last, quiet, looks = None, 0, 0
        while True:
            looks += 1
            await anyio.sleep(min(ROUND * max(1.0, looks / 10), LONGEST_ROUND))
            if self.left_early is not None and (ready is None or not self.is_last_attempt):
                raise TooSlow(f"{self.trace.name} step {self.step}: {self.left_early} has left the queue already")
            look = self._look()
            quiet = quiet + 1 if look.key() == last else 0
            last = look.key()
            now = time.monotonic()
            if (quiet < QUIET_ROUNDS or not self._agree(look)) and now < begun + patience:
                continue
            ready = now if ready is None else ready
            numbers = self._number(look)
            seen = self._seen(look, numbers, status_changed)
            same = not differing(self.expected.steps[self.step], seen, self.what)
            if same or self.differed or now > begun + patience:
                self.differed = self.differed or not same
                self.start += now - ready  # to look again takes no time
                self._remember(look, numbers)
                return seen

    def _look(self) -> _Look:
        view = self.server.view  # first: what the server has, the agent knows
        sockets = self.agent.sockets()
        self.at |= {self._address_of(info): info.id for info in sockets if info.local_address is not None}
        for number, address, nth in view.received[self.heard :]:
            if address not in self.at:
                break
            sent = self.sent[number]
            sent.socket, sent.reused = self.at[address], nth > 1
            self.carried[sent.socket] = number
            self.heard += 1
        return _Look(view, sockets, self.agent.status(), sum(not sent.pending for sent in self.sent.values()))

    def _agree(self, look: _Look) -> bool:
        """Whether both sides say the same of what is open and who waits, and nobody owes anything."""
        if any(info.state in ("connecting", "closing") for info in look.sockets):
            return False
        detached = {sent.number for sent in self.sent.values() if sent.detached}
        open_here = {self._address_of(info) for info in look.sockets}
        open_there = {c.address for c in look.view.connections if c.request not in detached}
        if open_here != open_there:
            return False
        for sent in self.sent.values():
            carrier = look.view.carrier(sent.number)
            if sent.pending and (sent.aborted or (carrier is not None and not _rests(sent, carrier))):
                return False
        waiting = Counter(self.urls[sent.origin] for sent in self._waiting(look))
        return waiting == look.status.requests

    def _waiting(self, look: _Look) -> list[_Sent]:
        """Requests that have not come to the server, oldest first."""
        return [s for s in self.sent.values() if s.pending and look.view.carrier(s.number) is None]

    def _seen(self, look: _Look, numbers: Mapping[int, int], status_changed: bool | None) -> Seen:
        status = look.status
        active = self._active(look)
        pools = {}
        for origin, url in enumerate(self.urls):
            free = [info for info in look.sockets if info.origin == url and info.idle_for is not None]
            free.sort(key=lambda info: -(info.idle_for or 0))
            pool = Pool(
                active=tuple(numbers[id] for id in active.get(origin, ())),
                free=tuple(numbers[info.id] for info in free),
                waiting=tuple(sent.number for sent in self._waiting(look) if sent.origin == origin),
            )
            if pool != Pool():
                pools[str(origin)] = pool
        return Seen(
            pools=pools,
            total=len(look.sockets),
            created=status.create_socket_count,
            closed=status.close_socket_count + status.create_socket_error_count,
            server_open=tuple(
                sorted(numbers[self.at[c.address]] for c in look.view.connections if c.address in self.at)
            ),
            limits={
                numbers[info.id]: (info.idle_for + info.expires_in) * 1000 if info.expires_in is not None else 0
                for info in look.sockets
                if info.idle_for is not None
            },
            counters={f.name: getattr(status, f.name) for f in fields(status) if f.name.endswith("_count")},
            status_changed=status_changed,
        )

    def _active(self, look: _Look) -> dict[int, list[int]]:
        """Sockets in use by origin, in Node's order: as they came into use; a hand-over changes nothing."""
        active: dict[int, list[int]] = {}
        for origin, url in enumerate(self.urls):
            now = [info.id for info in look.sockets if info.origin == url and info.idle_for is None]
            old = [id for id in self.active.get(origin, ()) if id in now]
            new = sorted((id for id in now if id not in old), key=lambda id: self.carried.get(id, math.inf))
            active[origin] = old + new
        return active

    def _number(self, look: _Look) -> dict[int, int]:
        """The expectation's numbers of all sockets so far; it tells those that are new by the request they carry."""
        new = list(range(self.created, look.status.create_socket_count))
        due = list(new)
        numbers = dict(self.numbers)
        for id in new:
            expected = self.expected.requests.get(self.carried.get(id, 0))
            if expected is not None and expected.socket in due:
                numbers[id] = expected.socket
                due.remove(expected.socket)
        return numbers | dict(zip((id for id in new if id not in numbers), due, strict=True))

    def _remember(self, look: _Look, numbers: dict[int, int]) -> None:
        """What later steps need to know."""
        new = range(self.created, look.status.create_socket_count)
        self.active = self._active(look)
        self.numbers = numbers
        self.created = look.status.create_socket_count
        for connection in look.view.connections:
            if connection.resumed is not None and connection.address in self.at:
                self.record.resumed[numbers[self.at[connection.address]]] = connection.resumed
        # Requests that could not connect: nobody saw which sockets were theirs.
        failed = [s for s in self.sent.values() if s.socket is None and isinstance(s.error, _FAILED_TO_CONNECT)]
        unseen = [id for id in new if id not in self.carried]
        for sent, id in zip((s for s in failed if _code(s.error) != "AGENT_CLOSED"), unseen, strict=False):
            sent.socket, sent.reused = id, False

    def _address_of(self, info: SocketInfo) -> Address:
        port = info.local_address[1] if isinstance(info.local_address, tuple) else 0
        return self.urls.index(info.origin), port

    def _id(self, number: int) -> int | None:
        """The agent's number of a socket, if there is such a one."""
        return next((id for id, known in self.numbers.items() if known == number), None)

    def _address(self, number: int) -> Address:
        """Where a socket is connected; nowhere if there is no such socket."""
        id = self._id(number)
        return next((address for address, known in self.at.items() if known == id), (-1, 0))


_SWITCH = {
    False: b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n",
    True: b"HTTP/1.1 200 Connection Established\r\n\r\n",
}

_FAILED_TO_CONNECT = (httpx.ConnectError, httpx.ConnectTimeout)


def _rests(sent: _Sent, carrier: Connection) -> bool:
    """Whether nothing more happens to a request that is at the server, until somebody does something."""
    if sent.stuck:
        return True
    return not carrier.leaving and not carrier.answered and (not carrier.begun or sent.response is not None)


def _aborts(trace: Trace) -> dict[int, int]:
    """When requests are aborted: steps by request."""
    return {one["id"]: step for step, op in enumerate(trace.steps) for one in flatten(op) if one["op"] == "abort"}


def _is_waiting(expected: Record, step: int, request: int) -> bool:
    """Whether a request should wait after a step."""
    return 0 <= step < len(expected.steps) and any(
        request in pool.waiting for pool in expected.steps[step].pools.values()
    )


def _shortest_limit(expected: Record) -> float:
    """How long the shortest limit on a socket is, in seconds: a replay that takes longer sees it act."""
    return min((limit for seen in expected.steps for limit in seen.limits.values() if limit), default=math.inf) / 1000


def _needs_steering(trace: Trace, expected: Record) -> bool:
    """Whether threads will be interrupted, or have to wait until others have been started."""
    refusals = any(operation["op"] == "listen" for operation in trace.steps)
    return refusals or any(not _is_waiting(expected, step - 1, request) for request, step in _aborts(trace).items())


def _late_body(end: threading.Event, rest: bytes) -> Iterator[bytes]:
    end.wait()
    yield rest


async def _late_body_async(end: anyio.Event, rest: bytes) -> AsyncIterator[bytes]:
    await end.wait()
    yield rest


def _code(error: BaseException | None) -> str:
    """Node's code for an error of ours."""
    causes = set(_causes(error))
    match error:
        case httpx.ReadTimeout() | httpx.WriteTimeout() | httpx.ConnectTimeout():
            return "ERR_SOCKET_TIMEOUT"
        case httpx.ReadError() | httpx.WriteError() | httpx.RemoteProtocolError():
            return "ECONNRESET"
        case httpx.ConnectError() if "the agent was closed" in str(error):
            return "AGENT_CLOSED"
        case httpx.ConnectError() if any(issubclass(cause, ssl.SSLError) for cause in causes):
            return "DEPTH_ZERO_SELF_SIGNED_CERT"
        case httpx.ConnectError() if ConnectionRefusedError in causes:
            return "ECONNREFUSED"
    return repr(error)


def _causes(error: BaseException | None) -> Iterator[type]:
    """The classes of an error and of all that led to it."""
    if error is not None:
        yield type(error)
        yield from _causes(error.__cause__ or error.__context__)
    if isinstance(error, BaseExceptionGroup):  # trio's, of one attempt for each address
        for one in error.exceptions:
            yield from _causes(one)
