"""Node's agents as a naive model, with every repair of ours behind a switch.

With all switches off it does what the recorded agents did, defects included: that proves the model. With all switches
on it says what our agent has to do. Rules (R...) and repairs (N..., A...) are those of the documentation's pages
"Node's rules" and "Coming from Node".

Nothing here is clever or fast. Lists are searched, everything that can be counted is counted, and what Node leaves to a
later turn of its event loop is put into lists that `settle` empties in Node's order: next ticks, then closed sockets
(the last destroyed first, as libuv has it), then news from the network. Times are milliseconds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from .trace import Ending, Op, Pool, Record, Seen, Trace, flatten

#: The repairs that a scenario can show, each a switch of the model, in the words of what is switched on.
REPAIRS = {
    "N1": "limits are checked whenever a waiting request gets a socket",
    "N2": "at the total, the least recently used free socket is closed for a request that cannot use it",
    "N3": "capacity that comes free goes to the oldest request that may use it, of whatever origin",
    "N4": "a hint acts without any other limit",
    "N5": "nobody overtakes a request that could use the same slot; setting a limit serves the queue",
    "N6": "a socket that has served before is reused, after a hand-over too",
    "N7": "a socket is opened with the options of the request that gets it",
    "N8": "a dead socket is passed over",
    "N9": "`Connection: close` in the request counts",
    "N10": "a request has its timeout after a hand-over",
    "N11": "a request has its timeout on a socket that a hint had limited",
    "N12": "an aborted request leaves the queue and fails at once",
    "N13": "closing the agent ends the queue",
    "N14": "if a socket cannot be created for a waiting request, the next one is served",
    "N15": "a socket counts from the moment its opening begins",
    "N16": "a request on a socket that turns out dead is sent again, where that is safe",
    "N17": "the timeout ends a request",
    "N29": "an origin does not keep a slot while older requests of others wait, but for 16 hand-overs",
    "A1": "a request runs under its timeout, not under that of free sockets",
    "A2": "a socket that timed out is replaced once",
    "A3": "the hint and the timeout of free sockets both count",
    "A4": "the age of a socket counts on a hand-over",
    "A5": "the age of a socket limits how long it is free, whatever other limits there are",
    "A6": "the age of a socket limits its own idle time too",
    "A7": "the counters add up",
}
ALL_REPAIRS = frozenset(REPAIRS)

#: RFC 9110, 9.2.2.
IDEMPOTENT = ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE")

#: How often the oldest waiting request is passed over by hand-overs (N29).
MAX_OVERTAKEN = 16

#: Timers closer than this to another one, or to the end of a step, depend on the machine's speed.
CLOSE = 100.0


@dataclass(eq=False)
class Socket:
    """A connection of Node's, with what Node keeps in its `socket` object."""

    id: int
    origin: str
    created: float
    limit: float = 0
    """How long it may be silent; 0 means no limit."""
    armed: float = 0
    """When that began to count."""
    inherited: float = 0
    """The limit that it was created with, which is that of its replacement (N7)."""
    own_free_timeout: float = 0
    """agentkeepalive's per-socket idle time (R35)."""
    fired: bool = False
    request: Request | None = None
    served: int = 0
    hint: str | None = None
    connected: bool = False
    destroyed: bool = False
    closed: bool = False
    detached: bool = False
    failed: bool = False
    error: bool = False


@dataclass(eq=False)
class Request:
    """A request, and what became of it."""

    id: int
    origin: str
    op: Op
    age: int
    socket: Socket | None = None
    reused: bool | None = None
    queued: bool = False
    dead: bool = False
    sent: bool = True
    attached: bool = False
    answered: bool = False
    held: Op | None = None
    """The answer that nobody has read yet, or of which only a part came."""
    partial: bool = False
    retried: bool = False
    passed_over: int = 0
    outcome: str | None = None
    error: str | None = None

    @property
    def timeout(self) -> float | None:
        """Its own timeout."""
        value: float | None = self.op.get("timeout")
        return value


def play(trace: Trace, repairs: Collection[str]) -> Record:
    """What the agent does with the repairs given."""
    return Model(trace, repairs).play()


class Model:
    """One agent, its server, and a clock.

    Args:
        trace: What to play.
        repairs: The switches that are on.
    """

    def __init__(self, trace: Trace, repairs: Collection[str]) -> None:
        self.trace = trace
        self.repairs = repairs
        self.asked: set[str] = set()
        """The switches that mattered to how the run went, or may have."""
        self.fragile: set[str] = set()
        """Why the same run on a real machine may depend on its speed."""
        options = trace.options
        self.keepalive = trace.agent == "agentkeepalive"
        self.keep_alive = options.get("keepAlive") is not False if self.keepalive else bool(options.get("keepAlive"))
        self.max_sockets = _limit(options.get("maxSockets"))
        self.max_total = _limit(options.get("maxTotalSockets"))
        self.max_free = options.get("maxFreeSockets") or 256
        self.lifo = options.get("scheduling", "lifo") != "fifo"
        self.buffer = options.get("agentKeepAliveTimeoutBuffer", 1000)
        self.ttl = options.get("socketActiveTTL") or 0
        if self.keepalive:
            self.free_timeout = options.get("freeSocketTimeout", 4000)
            self.timeout = options.get("timeout", max(2 * self.free_timeout, 8000))
        else:
            self.free_timeout = 0
            self.timeout = options.get("timeout", 0)
        self.now = 0.0
        self.created = 0
        self.closed = 0
        self.sockets: list[Socket] = []  # all there ever were, by number
        self.active: dict[str, list[Socket]] = {}
        self.free: dict[str, list[Socket]] = {}
        self.freed: list[Socket] = []  # those of `free`, the one free for longest first
        self.queues: dict[str, list[Request]] = {}  # in order of coming into being
        self.total = 0
        self.requests: dict[int, Request] = {}
        self.refusing: set[int] = set()
        self.creations_to_fail = 0
        self.sessions: set[str] = set()
        self.resumed: dict[int, bool] = {}
        self.counters = dict.fromkeys(NODE_COUNTERS, 0)
        self.own_counters = dict.fromkeys(OWN_COUNTERS, 0)
        self.reference: dict[str, int] | None = None
        self.ticks: list[Callable[[], None]] = []
        self.closing: list[Socket] = []
        self.news: list[Callable[[], None]] = []
        self.delayed: list[tuple[float, Callable[[], None]]] = []

    def repaired(self, repair: str) -> bool:
        """Whether a switch is on."""
        self.asked.add(repair)
        return repair in self.repairs

    # Playing ----------------------------------------------------------------------------------------------------------

    def play(self) -> Record:
        """All steps of the trace."""
        return self.follow(self.trace.steps)

    def follow(self, steps: Iterable[Op]) -> Record:
        """These steps; each is asked for when the one before has settled."""
        record = Record()
        for operation in steps:
            changed = self.step(operation)
            record.steps.append(self.seen(changed))
        record.requests = {request.id: self.ending(request) for request in self.requests.values()}
        record.resumed = self.resumed
        return record

    def step(self, operation: Op) -> bool | None:
        """One step, until nothing moves any more; answers what `status_changed` asks."""
        changed = None
        if operation["op"] == "advance":
            self.advance(operation["ms"])
        elif operation["op"] == "status_changed":
            changed = self.status_changed()
        else:
            for single in flatten(operation):
                getattr(self, f"do_{single['op']}")(single)
        self.settle()
        return changed

    def settle(self) -> None:
        """Empties the lists of what is left to later."""
        while self.ticks or self.closing or self.news:
            if self.ticks:
                self.ticks.pop(0)()
            elif self.closing:
                closing, self.closing = self.closing, []
                for socket in reversed(closing):
                    self.on_close(socket)
                    self.run_ticks()
            else:
                news, self.news = self.news, []
                for event in news:
                    event()
                    self.run_ticks()

    def run_ticks(self) -> None:
        while self.ticks:
            self.ticks.pop(0)()

    def advance(self, duration: float) -> None:
        """Lets time pass: timers fire in order of their times, each in a turn of its own."""
        start, end = self.now, self.now + duration
        fired: list[tuple[float, float]] = []  # when, and when it was set
        while True:
            armed = [socket for socket in self.sockets if self.is_armed(socket)]
            due = min(armed, key=lambda socket: (self.due(socket), age(socket.request)), default=None)
            soonest = min([time for time, _ in self.delayed] + [self.due(socket) for socket in armed], default=math.inf)
            if soonest > end:
                break
            self.now = soonest
            for item in [item for item in self.delayed if item[0] <= soonest]:
                self.delayed.remove(item)
                item[1]()
            if due is not None and self.due(due) <= soonest:
                if min(soonest - start, end - soonest) < CLOSE:
                    self.fragile.add("boundary")
                if any(soonest - time < CLOSE and (soonest, due.armed) != (time, set_at) for time, set_at in fired):
                    self.fragile.add("close timers")
                fired.append((soonest, due.armed))
                self.on_timeout(due)
            self.settle()
        self.now = end
        if any(self.is_armed(socket) and self.due(socket) - end < CLOSE for socket in self.sockets):
            self.fragile.add("boundary")

    def due(self, socket: Socket) -> float:
        return socket.armed + socket.limit

    def is_armed(self, socket: Socket) -> bool:
        return socket.limit > 0 and not (socket.fired or socket.destroyed or socket.detached)

    # Operations -------------------------------------------------------------------------------------------------------

    def do_noop(self, operation: Op) -> None:
        pass

    do_status = do_noop
    do_continue = do_noop  # an interim answer does not count (R18)

    def do_request(self, operation: Op) -> None:
        origin = str(operation.get("origin", 0))
        if self.trace.tls and "Host" in operation.get("headers", {}):  # R28
            origin += " " + operation["headers"]["Host"].partition(":")[0]
        request = Request(operation["id"], origin, operation, len(self.requests), sent=operation.get("end", True))
        self.requests[request.id] = request
        self.arrive(request)

    def do_end_request(self, operation: Op) -> None:
        request = self.requests[operation["id"]]
        request.sent = True
        if request.answered and request.held is not None:
            answer, request.held = request.held, None
            self.complete(request, answer)

    def do_consume(self, operation: Op) -> None:
        request = self.requests[operation["id"]]
        if request.held is not None:
            answer, request.held = request.held, None
            self.complete(request, answer)

    def do_finish(self, operation: Op) -> None:
        request = self.at_server(operation)
        if request is None:
            return
        request.answered = True
        self.active_again(request)
        if request.op.get("read") == "hold" or not request.sent:
            request.held = operation
        else:
            self.complete(request, operation)

    def do_finish_partial(self, operation: Op) -> None:
        request = self.at_server(operation)
        if request is not None:
            request.answered = request.partial = True
            request.held = operation
            self.active_again(request)

    def do_finish_rest(self, operation: Op) -> None:
        request = self.requests[operation["id"]]
        if request.partial and request.held is not None:
            answer, request.held, request.partial = request.held, None, False
            self.active_again(request)
            self.complete(request, answer)

    def do_respond_upgrade(self, operation: Op) -> None:
        request = self.at_server(operation)
        if request is None:
            return
        socket = request.socket
        assert socket is not None
        request.answered = True
        request.outcome = "connect" if request.op.get("method") == "CONNECT" else "upgrade"
        self.own_counters["detached_socket_count"] += 1  # the request is over when its caller says so
        self.detach(socket)

    def do_server_close(self, operation: Op) -> None:
        request = self.at_server(operation)
        if request is not None:
            assert request.socket is not None
            self.broken(request.socket, reset=operation.get("how") == "rst")

    def do_server_close_idle(self, operation: Op) -> None:
        for socket in self.named(operation):
            self.news.append(partial(self.broken, socket, reset=operation.get("how") == "rst"))

    do_server_data = do_server_close_idle  # R14

    def do_client_destroy(self, operation: Op) -> None:
        for socket in self.named(operation):
            self.destroy(socket)
            if socket.request is not None:
                self.fail(socket.request, "ECONNRESET")

    def do_abort(self, operation: Op) -> None:
        request = self.requests[operation["id"]]
        if request.outcome is not None or request.dead:
            return
        socket = request.socket
        if socket is None or not request.attached:
            request.dead = True
            if socket is None and self.repaired("N12"):
                self.leave_queue(request)
                self.fail(request, "ECONNRESET")
                self.serve(request.origin)
        else:
            self.fail(request, "ECONNRESET")
            self.destroy(socket)

    def do_agent_remove(self, operation: Op) -> None:
        for socket in self.named(operation):
            self.detach(socket)

    def do_destroy_agent(self, operation: Op) -> None:
        if self.repaired("N13"):
            for queue in list(self.queues.values()):
                for request in list(queue):
                    self.leave_queue(request)
                    self.fail(request, "AGENT_CLOSED")
        for table in (self.free, self.active):
            for sockets in list(table.values()):
                for socket in list(sockets):
                    if socket.request is not None:
                        self.fail(socket.request, "ECONNRESET")
                    self.destroy(socket)

    def do_set(self, operation: Op) -> None:
        value = operation["value"]
        match operation["key"]:
            case "maxSockets":
                self.max_sockets = _limit(value)
            case "maxTotalSockets":
                self.max_total = _limit(value)
            case "maxFreeSockets":
                self.max_free = value or 256
            case "scheduling":
                self.lifo = value != "fifo"
        self.serve(None)

    def do_listen(self, operation: Op) -> None:
        (self.refusing.discard if operation.get("on", True) else self.refusing.add)(operation.get("origin", 0))

    def do_fail_creates(self, operation: Op) -> None:
        self.creations_to_fail = operation.get("n", 1)

    def named(self, operation: Op) -> list[Socket]:
        """The socket that an operation names: none, if the repairs brought it about that there is no such socket."""
        return [socket for socket in self.sockets if socket.id == operation["conn"]]

    # Arrival and choice -----------------------------------------------------------------------------------------------

    def arrive(self, request: Request) -> None:
        """R1 to R5."""
        self.active.setdefault(request.origin, [])  # which tells in what order `destroy()` goes
        free = self.free.get(request.origin, [])
        while free and free[0].destroyed:
            free.pop(0)
        if any(socket.destroyed for socket in free) and self.repaired("N8"):
            free[:] = [socket for socket in free if not socket.destroyed]
        if free:
            socket = free.pop() if self.lifo else free.pop(0)
            if not free:
                del self.free[request.origin]
            self.freed.remove(socket)
            self.active[request.origin].append(socket)
            request.reused = True
            self.reuse(socket, request)
            self.assign(socket, request)
        elif self.has_room(request.origin):  # nobody waits who could use it, if N5 is repaired
            self.create(request, inherited=0)
        else:
            self.queues.setdefault(request.origin, []).append(request)
            if not self.make_room_for(request):
                self.serve(request.origin)
            request.queued = request.socket is None

    def has_room(self, origin: str) -> bool:
        """R4, R6."""
        return self.sockets_of(origin) < self.max_sockets and self.total < self.max_total

    def sockets_of(self, origin: str) -> int:
        return len(self.active.get(origin, [])) + len(self.free.get(origin, []))

    def make_room_for(self, request: Request) -> bool:
        """Closes a free socket of another origin for a waiting request, and creates one for it (N2)."""
        is_stopped_by_total = self.sockets_of(request.origin) < self.max_sockets and self.total >= self.max_total
        if not is_stopped_by_total or not self.freed or not self.repaired("N2"):
            return False
        while self.freed and self.total >= self.max_total:
            self.close_at_once(self.freed[0])
        if self.total >= self.max_total:
            return False
        self.leave_queue(request)
        self.create(request, inherited=0)
        return True

    def create(self, request: Request, *, inherited: float, queued: bool = False) -> None:
        """R4, R8, R9. What is made for a waiting request is offered to the queue, and the oldest gets it."""
        number = self.created
        self.created += 1
        if self.creations_to_fail:
            self.creations_to_fail -= 1
            self.counters["createSocketErrorCount"] += 1
            self.own_counters["create_socket_count"] += 1
            self.own_counters["create_socket_error_count"] += 1
            self.sockets.append(Socket(number, request.origin, self.now, failed=True, destroyed=True, closed=True))
            if queued:
                self.leave_queue(request)
                if not self.repaired("N14"):
                    request.dead = True
                    self.queues.setdefault(request.origin, []).insert(0, request)
                else:
                    self.ticks.append(lambda: self.look(request.origin, 0))
            self.fail(request, "EORACLE")
            return
        limit = request.timeout or self.timeout
        if queued and not limit and inherited and not self.repaired("N7"):
            limit = inherited
        socket = Socket(number, request.origin, self.now, limit=limit, armed=self.now, inherited=limit)
        self.sockets.append(socket)
        self.counters["createSocketCount"] += 1
        self.own_counters["create_socket_count"] += 1
        if self.trace.create_delay and not self.repaired("N15"):
            self.delayed.append((self.now + self.trace.create_delay, lambda: self.made(socket, request, queued)))
        else:
            self.made(socket, request, queued)

    def made(self, socket: Socket, request: Request, queued: bool) -> None:
        """The socket is there; it may still be connecting."""
        socket.armed = self.now
        self.active.setdefault(socket.origin, []).append(socket)
        self.total += 1
        self.news.append(lambda: self.connect(socket))
        if queued:
            self.offer(socket)
        else:
            request.reused = False
            self.assign(socket, request)

    def connect(self, socket: Socket) -> None:
        """The attempt to connect comes to its end."""
        error = None
        if socket.destroyed:
            return
        if int(socket.origin.split()[0]) in self.refusing:
            error = "ECONNREFUSED"
        elif self.trace.strict_tls:
            error = "DEPTH_ZERO_SELF_SIGNED_CERT"
        if error is not None:
            socket.failed = True
            self.counters["errorSocketCount"] += 1
            if socket.request is not None:
                self.fail(socket.request, error)
            self.destroy(socket)
            return
        socket.connected = True
        if self.trace.tls:
            self.resumed[socket.id] = socket.origin in self.sessions
            if self.trace.options.get("maxCachedSessions", 100):
                self.sessions.add(socket.origin)

    # Handing over -----------------------------------------------------------------------------------------------------

    def assign(self, socket: Socket, request: Request) -> None:
        """The request gets the socket, and is written on the next tick (R3)."""
        request.socket = socket
        request.attached = False
        socket.request = request
        socket.served += 1
        if request.reused is None:
            request.reused = False
        if socket.served > 1 and not request.reused and self.repaired("N6"):
            request.reused = True
        if request.timeout is not None and request.timeout != self.timeout:
            self.set_limit(socket, request.timeout)
        self.ticks.append(lambda: self.attach(socket, request))

    def attach(self, socket: Socket, request: Request) -> None:
        if request.dead:  # R22, R23
            request.socket = None
            request.reused = None
            socket.hint = None  # it goes with the last response, and this request had none
            if request.outcome is None:
                self.fail(request, "ECONNRESET")
            if not socket.destroyed:
                self.offer(socket)
        elif socket.destroyed:
            self.fail(request, "ECONNRESET")
        else:
            request.attached = True
            self.touch(socket)

    def reuse(self, socket: Socket, request: Request) -> None:
        """A socket leaves the free list (R3, R36)."""
        if self.keepalive or (socket.limit != self.timeout and self.repaired("N11")):
            self.set_limit(socket, self.timeout)

    def offer(self, socket: Socket) -> None:
        """The signal "free": to the oldest of its own queue (R7), else to the free list (R12)."""
        if socket.detached:
            return
        if socket.request is not None:
            self.counters["requestCount"] += 1
        self.hand_over_or_keep(socket)
        limit = self.free_limit_of_keepalive(socket)  # agentkeepalive sets it whatever happened to the socket
        if self.keepalive and limit > 0 and socket.limit != limit and not socket.destroyed:
            if socket not in self.freed and self.repaired("A1"):
                return
            if socket not in self.freed:
                self.set_limit(socket, limit)

    def hand_over_or_keep(self, socket: Socket) -> None:
        origin = socket.origin
        if socket.destroyed:
            return
        queue = self.queues.get(origin)
        if not queue:
            self.keep_or_destroy(socket)
            return
        used_before = socket.request is not None
        if used_before and self.ttl and self.now >= socket.created + self.ttl and self.repaired("A4"):
            self.destroy(socket)
            return
        if used_before and self.must_yield(socket, queue[0]):
            self.destroy(socket)
            return
        request = queue[0]
        self.leave_queue(request)
        if used_before and self.repaired("A1" if self.keepalive else "N10"):
            self.set_limit(socket, self.timeout)
        self.assign(socket, request)

    def must_yield(self, socket: Socket, request: Request) -> bool:
        """Whether an older request of another origin, which only the total stops, was passed over too often (N29)."""
        if self.total < self.max_total:
            return False
        for rival in sorted(self.waiting(), key=lambda other: other.age):
            if rival.origin != socket.origin and self.sockets_of(rival.origin) < self.max_sockets:
                break
        else:
            return False
        if rival.age > request.age or not self.repaired("N29"):
            return False
        rival.passed_over += 1
        if rival.passed_over <= MAX_OVERTAKEN:
            return False
        rival.passed_over = 0
        return True

    def keep_or_destroy(self, socket: Socket) -> None:
        """R12."""
        origin = socket.origin
        free = self.free.get(origin, [])
        limit = self.free_limit(socket)
        if (
            socket.request is None
            or not self.wants_keep_alive(socket.request)
            or not self.keep_alive
            or self.total > self.max_total
            or self.sockets_of(origin) > self.max_sockets
            or len(free) >= self.max_free
            or limit is None
        ):
            self.destroy(socket)
            return
        if socket.limit != limit:
            self.set_limit(socket, limit)
        socket.request = None
        self.remove_from(self.active, socket)
        if self.repaired("N2"):  # it may be closed for the one who gets its slot
            self.free.setdefault(origin, []).append(socket)
            self.freed.append(socket)
            self.look(origin, socket.inherited)
        else:
            self.look(origin, socket.inherited)
            self.free.setdefault(origin, []).append(socket)
            self.freed.append(socket)

    # Who is next ------------------------------------------------------------------------------------------------------

    def look(self, origin: str, inherited: float) -> None:
        """A socket left: one look for a request to open another one for (R8, R9), or as many as are served (N5)."""
        if self.queues:
            self.serve_one(origin, inherited, check=self.repaired("N1"))
        self.serve(origin)

    def serve(self, origin: str | None) -> None:
        """Nobody waits who may go (N5)."""
        while self.queues and self.repaired("N5") and self.serve_one(origin, 0, check=True):
            pass

    def serve_one(self, origin: str | None, inherited: float, *, check: bool) -> bool:
        """Opens a socket for the first of those who wait; with ``check`` within the limits (N1)."""
        for request in self.candidates(origin):
            if not check or self.has_room(request.origin):
                self.create(request, inherited=inherited if request.origin == origin else 0, queued=True)
                return True
            if self.make_room_for(request):
                return True
        return False

    def candidates(self, origin: str | None) -> list[Request]:
        """Who may get what the origin gave up, in order: its own oldest (R8), or one of another origin (R9)."""
        own = self.queues.get(origin or "", [])[:1]
        others = [queue[0] for name, queue in self.queues.items() if name != origin]
        if others and self.repaired("N3"):
            others = [request for request in others if self.sockets_of(request.origin) < self.max_sockets]
            others.sort(key=lambda request: request.age)
        elif others:
            others = [request for request in others[:1] if not self.active.get(request.origin)]
        if own and others and self.repaired("N29"):
            return sorted(own + others, key=lambda request: request.age)
        return own or others

    def waiting(self) -> list[Request]:
        return [request for queue in self.queues.values() for request in queue]

    def leave_queue(self, request: Request) -> None:
        queue = self.queues[request.origin]
        queue.remove(request)
        if not queue:
            del self.queues[request.origin]

    # Responses --------------------------------------------------------------------------------------------------------

    def at_server(self, operation: Op) -> Request | None:
        """The request, if the server holds it and has not answered."""
        return next((request for request in self.in_flight() if request.id == operation["id"]), None)

    def in_flight(self) -> list[Request]:
        """Those that the server holds, by number."""
        held = []
        for request in sorted(self.requests.values(), key=lambda request: request.id):
            arrived = request.sent or request.op.get("headers", {}).get("X-Early") == "1"
            waits = request.attached and not request.answered and request.outcome is None
            if arrived and waits and request.socket is not None and request.socket.connected:
                held.append(request)
        return held

    def active_again(self, request: Request) -> None:
        assert request.socket is not None
        self.touch(request.socket)

    def complete(self, request: Request, answer: Op) -> None:
        """The response was read to its end, and the request was written (R18)."""
        socket = request.socket
        assert socket is not None
        request.outcome = "ok"
        self.own_counters["request_count"] += 1
        socket.hint = answer.get("keep_alive_header")
        socket.own_free_timeout = request.op.get("socket_free_timeout", socket.own_free_timeout)
        if not self.is_reusable(request, answer):
            self.destroy(socket)
            return
        if request.timeout or self.timeout:
            self.set_limit(socket, 0)
        self.ticks.append(lambda: self.offer(socket))
        if answer.get("fin"):
            self.news.append(lambda: self.broken(socket, reset=False))

    def is_reusable(self, request: Request, answer: Op) -> bool:
        """R11."""
        version = answer.get("version", "1.1")
        header = "close" if answer.get("close") or answer.get("close_header") else answer.get("connection", "").lower()
        status = answer.get("status", 200)
        no_body = request.op.get("method") == "HEAD" or status in (204, 304)
        framing = answer.get("framing", "length")
        if header == "close" or (version == "1.0" and header != "keep-alive"):
            return False
        if framing not in ("length", "chunked") and not no_body:
            return False
        own_header = request.op.get("headers", {}).get("Connection", "").lower()
        if own_header == "close" and self.repaired("N9"):
            return False
        return self.wants_keep_alive(request)

    def wants_keep_alive(self, request: Request) -> bool:
        """R13."""
        return self.keep_alive or self.max_sockets < math.inf

    # Failures ---------------------------------------------------------------------------------------------------------

    def broken(self, socket: Socket, *, reset: bool) -> None:
        """The server closed the connection, or wrote out of turn (R14, R20)."""
        if socket.destroyed:
            return
        request = socket.request
        self.destroy(socket)
        if request is None:
            return
        socket.error = reset
        self.counters["errorSocketCount"] += reset
        if reset:
            self.sessions.discard(socket.origin)
        if self.may_send_again(socket, request) and self.repaired("N16"):
            request.retried = True
            request.attached = False
            socket.request = None
            self.closing.remove(socket)
            self.on_close(socket, replaced_for=request)
        else:
            self.fail(request, "ECONNRESET")

    def may_send_again(self, socket: Socket, request: Request) -> bool:
        """The agent's rules for stale sockets."""
        idempotent = request.op.get("method", "GET") in IDEMPOTENT
        return socket.served > 1 and not request.answered and not request.retried and idempotent

    def fail(self, request: Request, code: str) -> None:
        if request.outcome is None:
            request.outcome = "res_error" if request.partial and code == "ECONNRESET" else "error"
            request.error = code
            self.own_counters["request_error_count"] += 1

    def destroy(self, socket: Socket) -> None:
        if not socket.destroyed:
            socket.destroyed = True
            self.closing.append(socket)

    def detach(self, socket: Socket) -> None:
        """R25."""
        socket.detached = True
        self.total -= 1
        self.leave_lists(socket)
        self.look(socket.origin, socket.inherited)

    def close_at_once(self, socket: Socket) -> None:
        socket.destroyed = True
        self.gone(socket)

    def on_close(self, socket: Socket, replaced_for: Request | None = None) -> None:
        """A socket's close event (R8, R9)."""
        if socket.closed:
            return
        self.gone(socket)
        if socket.request is not None:
            self.fail(socket.request, "ECONNRESET")
        if socket.detached:
            return
        if replaced_for is not None:
            self.create(replaced_for, inherited=0)
            replaced_for.reused = False
        else:
            self.look(socket.origin, socket.inherited)

    def gone(self, socket: Socket) -> None:
        socket.closed = True
        self.closed += 1
        if socket.detached:
            return
        self.total -= 1
        self.counters["closeSocketCount"] += 1
        if socket.failed:
            self.own_counters["create_socket_error_count"] += 1
        else:
            self.own_counters["close_socket_count"] += 1
            self.own_counters["error_socket_count"] += socket.error
        self.leave_lists(socket)

    def leave_lists(self, socket: Socket) -> None:
        self.remove_from(self.active, socket)
        self.remove_from(self.free, socket)
        if socket in self.freed:
            self.freed.remove(socket)

    def remove_from(self, table: dict[str, list[Socket]], socket: Socket) -> None:
        if socket in table.get(socket.origin, []):
            table[socket.origin].remove(socket)
            if not table[socket.origin]:
                del table[socket.origin]

    # Limits -----------------------------------------------------------------------------------------------------------

    def set_limit(self, socket: Socket, limit: float) -> None:
        socket.limit = limit
        self.touch(socket)

    def touch(self, socket: Socket) -> None:
        """Something happened on it: its limit counts from now."""
        socket.armed = self.now
        socket.fired = False

    def free_limit(self, socket: Socket) -> float | None:
        """How long it may be free (R15, R16, R31, R34); nothing if it is not to be kept."""
        limit = self.timeout
        keep: float | None = None
        found = re.match(r"timeout=(\d+)", socket.hint or "")
        if found:
            keep = int(found[1]) * 1000 - self.buffer
            if keep <= 0:
                return None
            if keep < limit or (not limit and self.repaired("N4")):
                limit = keep
        if not self.keepalive:
            return limit
        own = self.free_limit_of_keepalive(socket)
        if own < 0 or (self.ttl and self.now >= socket.created + self.ttl):
            return None
        if own:
            limit = own
            if keep is not None and keep < own and self.repaired("A3"):
                limit = keep
        elif self.ttl and self.repaired("A5"):
            limit = min(limit or math.inf, socket.created + self.ttl - self.now)
        return limit

    def free_limit_of_keepalive(self, socket: Socket) -> float:
        """R31, R34, R35; 0 if it has nothing to say."""
        limit: float = self.free_timeout
        left = math.inf
        if self.ttl:
            left = socket.created + self.ttl - self.now
            if left <= 0:
                return left
            limit = min(limit, left)
        if limit and socket.own_free_timeout:
            limit = socket.own_free_timeout
            if limit > left and self.repaired("A6"):
                limit = left
        return limit

    def on_timeout(self, socket: Socket) -> None:
        """A limit fires (R16, R17, R31, R33)."""
        socket.fired = True
        request = socket.request
        self.counters["timeoutSocketCount"] += 1
        if socket in self.freed:
            self.own_counters["timeout_socket_count"] += 1
            self.destroy(socket)
            if self.keepalive:
                self.left_early(socket)
            return
        assert request is not None
        heard = request.op.get("on_timeout") if request.timeout or self.timeout else None
        ends = self.keepalive and not request.op.get("on_timeout")
        if ends or self.repaired("N17"):
            self.own_counters["timeout_socket_count"] += 1
            socket.error = True
            self.counters["errorSocketCount"] += 1
            self.fail(request, "ERR_SOCKET_TIMEOUT")
            self.destroy(socket)
            if self.keepalive:
                self.left_early(socket)
        elif heard == "destroy":
            self.fail(request, "ECONNRESET")
            self.destroy(socket)

    def left_early(self, socket: Socket) -> None:
        """The lists lose a socket that timed out before it closes, and a replacement is looked for (A2)."""
        self.leave_lists(socket)
        if self.queues and not self.repaired("A2"):
            self.look(socket.origin, socket.inherited)

    # Looking ----------------------------------------------------------------------------------------------------------

    def status_changed(self) -> bool:
        """R39."""
        counters = self.all_counters()
        changed = counters != (self.reference or dict.fromkeys(counters, 0))
        if changed:
            self.reference = counters
        return changed

    def all_counters(self) -> dict[str, int]:
        """Node's, or ours (A7)."""
        if self.repaired("A7"):
            return dict(self.own_counters)
        return dict(self.counters) if self.keepalive else {}

    def seen(self, changed: bool | None) -> Seen:
        """What can be seen of it now."""
        names = sorted(self.active.keys() | self.free.keys() | self.queues.keys())
        pools = {}
        for name in names:
            queue = self.queues.get(name, [])
            pools[name] = Pool(
                active=tuple(socket.id for socket in self.active.get(name, [])),
                free=tuple(socket.id for socket in self.free.get(name, [])),
                waiting=tuple(request.id for request in queue),
                dead=tuple(request.id for request in queue if request.dead),
            )
        pools = {name: pool for name, pool in pools.items() if pool != Pool()}
        given_away = ("upgrade", "connect")
        return Seen(
            pools=pools,
            total=self.total,
            created=self.created,
            closed=self.closed,
            server_open=tuple(socket.id for socket in self.sockets if socket.connected and not socket.closed),
            limits={
                socket.id: socket.limit
                for socket in self.sockets
                if socket.connected
                and not socket.destroyed
                and not (socket.request is not None and socket.request.outcome in given_away)
            },
            counters=self.all_counters(),
            status_changed=changed,
        )

    def ending(self, request: Request) -> Ending:
        """What became of a request."""
        socket = request.socket
        return Ending(
            socket=socket.id if socket is not None else None,
            reused=request.reused if socket is not None else None,
            queued=request.queued,
            outcome=request.outcome,
            error=request.error,
        )


#: agentkeepalive's `getCurrentStatus()` (R38).
NODE_COUNTERS = (
    "createSocketCount",
    "createSocketErrorCount",
    "closeSocketCount",
    "errorSocketCount",
    "timeoutSocketCount",
    "requestCount",
)

#: `AgentStatus` (A7).
OWN_COUNTERS = (
    "create_socket_count",
    "create_socket_error_count",
    "close_socket_count",
    "detached_socket_count",
    "error_socket_count",
    "timeout_socket_count",
    "request_count",
    "request_error_count",
)


#: Those of ours that agentkeepalive has.
NODE_NAMES = {
    "create_socket_count": "createSocketCount",
    "create_socket_error_count": "createSocketErrorCount",
    "close_socket_count": "closeSocketCount",
    "error_socket_count": "errorSocketCount",
    "timeout_socket_count": "timeoutSocketCount",
    "request_count": "requestCount",
}


def age(request: Request | None) -> int:
    """For putting requests in order; a socket without one comes first."""
    return -1 if request is None else request.age


def _limit(value: Any) -> float:
    return math.inf if value in (None, 0, "Infinity") else value
