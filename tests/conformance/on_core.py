"""Play a trace on the pure core, with a virtual clock in milliseconds.

The core decides; what is here is the driver around it, as plain as can be: it opens and closes sockets in no time,
lets the server answer when the scenario says so, and keeps the timeouts of requests.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from httpx_agent._rules.core import Action, Close, Core, Counters, Grant, Refuse, Rules, State
from httpx_agent._rules.resend import Facts, Loss, Verdict, is_idempotent, judge

from .options import agent_options, setting
from .trace import Ending, Op, Pool, Record, Seen, Trace, flatten

HOME = "home"


@dataclass(eq=False)
class Request:
    """A request of the scenario; ``number`` is its name in the core."""

    id: int
    number: int
    op: Op
    origin: int
    deadline: float = math.inf
    """When it times out, if nothing happens."""
    grant: Grant | None = None
    queued: bool = False
    sent: bool = True
    answered: bool = False
    held: Op | None = None
    partial: bool = False
    retried: bool = False
    outcome: str | None = None
    error: str | None = None


def play(trace: Trace, *, retry_stale_sockets: bool = True) -> Record:
    """What the core does."""
    return _Player(trace, retry_stale_sockets).play()


class _Player:
    def __init__(self, trace: Trace, retry_stale_sockets: bool) -> None:
        self.trace = trace
        self.retries = retry_stale_sockets
        self.options = agent_options(trace)
        self.core = Core(lambda key: self.rules(), max_total_sockets=self.options["max_total_sockets"] or math.inf)
        self.now = 0.0
        self.requests: dict[int, Request] = {}
        self.numbers: dict[int, Request] = {}  # those that the core knows
        self.carries: dict[int, Request] = {}  # by socket
        self.opened: set[int] = set()
        self.detached: set[int] = set()
        self.dead: set[int] = set()  # sockets that the client's system has closed
        self.closed = 0
        self.lists: dict[str, tuple[list[int], list[int]]] = {}  # active and free, in Node's order
        self.refusing: set[int] = set()
        self.news: list[Callable[[], None]] = []
        self.reference = Counters()

    def rules(self) -> Rules:
        """The options, in milliseconds."""
        options = self.options

        def milliseconds(name: str) -> float:
            return math.inf if options[name] is None else round(options[name] * 1000)

        return Rules(
            keep_alive=options["keep_alive"],
            max_sockets=options["max_sockets"] or math.inf,
            max_free_sockets=options["max_free_sockets"],
            lifo=options["scheduling"] == "lifo",
            free_socket_timeout=milliseconds("free_socket_timeout"),
            socket_active_ttl=milliseconds("socket_active_ttl"),
            keep_alive_timeout_buffer=milliseconds("keep_alive_timeout_buffer"),
        )

    # Playing ----------------------------------------------------------------------------------------------------------

    def play(self) -> Record:
        record = Record()
        for operation in self.trace.steps:
            changed = None
            if operation["op"] == "advance":
                self.advance(operation["ms"])
            elif operation["op"] == "status_changed":
                changed = self.core.counters != self.reference
                if changed:
                    self.reference = Counters(*_numbers(self.core.counters))
            else:
                for single in flatten(operation):
                    getattr(self, f"do_{single['op']}")(single)
            self.hear()
            record.steps.append(self.seen(changed))
        for request in self.requests.values():
            grant = request.grant
            record.requests[request.id] = Ending(
                socket=grant.socket if grant else None,
                reused=grant.requests_on_socket > 1 if grant else None,
                queued=request.queued,
                outcome=request.outcome,
                error=request.error,
            )
        return record

    def hear(self) -> None:
        """What the network says, in order."""
        while self.news:
            self.news.pop(0)()

    def advance(self, duration: float) -> None:
        end = self.now + duration
        while True:
            alarm = self.core.next_deadline(HOME)
            timeouts = [request for request in self.requests.values() if request.outcome is None]
            first = min(timeouts, key=lambda request: request.deadline, default=None)
            deadline = first.deadline if first is not None else math.inf
            soonest = min(deadline, math.inf if alarm is None else alarm)
            if soonest > end:
                break
            self.now = max(self.now, soonest)
            if alarm is not None and alarm <= self.now:
                self.carry_out(self.core.expire(HOME, self.now))
            elif first is not None:
                self.release(first, "ERR_SOCKET_TIMEOUT", error=True, timed_out=True)
            self.hear()
        self.now = end

    def carry_out(self, actions: list[Action]) -> None:
        """Does what the core says, and notes in which order sockets become active and free."""
        self.note()
        for action in actions:
            if isinstance(action, Grant):
                self.granted(self.numbers[action.request], action)
            elif isinstance(action, Close):
                self.closed += 1
                self.carry_out(self.core.closed(action.socket, self.now))
            elif isinstance(action, Refuse):
                request = self.numbers.pop(action.request)
                self.end(request, "ECONNRESET" if request.grant is not None else "AGENT_CLOSED")

    def granted(self, request: Request, grant: Grant) -> None:
        if not grant.new and grant.socket in self.dead:  # the look before use
            self.carry_out(self.core.replace(request.number, self.now))
            return
        request.grant = grant
        self.carries[grant.socket] = request
        self.touch(request)
        if grant.new:
            self.news.append(lambda: self.connect(request, grant.socket))

    def connect(self, request: Request, socket: int) -> None:
        if self.carries.get(socket) is not request:
            return
        if request.origin in self.refusing:
            self.release(request, "ECONNREFUSED", error=True)
        elif self.trace.strict_tls:
            self.release(request, "DEPTH_ZERO_SELF_SIGNED_CERT", error=True)
        else:
            self.opened.add(socket)
            self.carry_out(self.core.opened(socket, self.now))

    # Operations -------------------------------------------------------------------------------------------------------

    def do_noop(self, operation: Op) -> None:
        pass

    do_status = do_noop
    do_continue = do_noop

    def do_request(self, operation: Op) -> None:
        number = len(self.requests)
        origin = operation.get("origin", 0)
        request = Request(operation["id"], number, operation, origin, sent=operation.get("end", True))
        self.requests[request.id] = self.numbers[number] = request
        self.carry_out(self.core.submit(number, origin, HOME, self.now))
        request.queued = request.grant is None

    def do_end_request(self, operation: Op) -> None:
        self.requests[operation["id"]].sent = True
        self.do_consume(operation)

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
        self.touch(request)
        if request.op.get("read") == "hold" or not request.sent:
            request.held = operation
        else:
            self.complete(request, operation)

    def do_finish_partial(self, operation: Op) -> None:
        request = self.at_server(operation)
        if request is not None:
            request.answered = request.partial = True
            request.held = operation
            self.touch(request)

    def do_finish_rest(self, operation: Op) -> None:
        request = self.requests[operation["id"]]
        if request.partial:
            request.partial = False
            self.do_consume(operation)

    def do_respond_upgrade(self, operation: Op) -> None:
        request = self.at_server(operation)
        if request is None:
            return
        assert request.grant is not None
        self.carries.pop(request.grant.socket)
        self.detached.add(request.grant.socket)
        self.carry_out(self.core.detach(request.number, self.now))
        request.outcome = "connect" if request.op.get("method") == "CONNECT" else "upgrade"

    def do_server_close(self, operation: Op) -> None:
        request = self.at_server(operation)
        if request is not None:
            assert request.grant is not None
            self.break_off(request.grant.socket, reset=operation.get("how") == "rst")

    def do_server_close_idle(self, operation: Op) -> None:
        self.news.append(lambda: self.break_off(operation["conn"], reset=operation.get("how") == "rst"))

    def do_server_data(self, operation: Op) -> None:
        self.news.append(lambda: self.break_off(operation["conn"], reset=False))

    def do_client_destroy(self, operation: Op) -> None:
        self.dead.add(operation["conn"])
        self.do_server_close_idle(operation)

    def do_abort(self, operation: Op) -> None:
        request = self.requests[operation["id"]]
        if request.outcome is None and request.grant is None:
            self.end(request, "ECONNRESET")
            self.carry_out(self.core.withdraw(request.number, self.now))
        elif request.outcome is None:
            self.release(request, "ECONNRESET", error=False)

    def do_destroy_agent(self, operation: Op) -> None:
        self.carry_out(self.core.close(self.now))

    def do_set(self, operation: Op) -> None:
        name, value = setting(operation["key"], operation["value"])
        self.options[name] = value
        self.carry_out(
            self.core.reconfigure(
                self.now,
                lambda key: self.rules(),
                max_total_sockets=self.options["max_total_sockets"] or math.inf,
                max_total_free_sockets=math.inf,
            )
        )

    def do_listen(self, operation: Op) -> None:
        (self.refusing.discard if operation.get("on", True) else self.refusing.add)(operation.get("origin", 0))

    # What becomes of a request ----------------------------------------------------------------------------------------

    def at_server(self, operation: Op) -> Request | None:
        request = self.requests.get(operation["id"])
        if request is None or request.grant is None or request.answered or request.outcome is not None:
            return None
        early = request.op.get("headers", {}).get("X-Early") == "1"
        return request if request.sent or early else None

    def touch(self, request: Request) -> None:
        """It has a socket, or heard from its server: its timeout counts from now."""
        timeout = request.op.get("timeout") or (self.options["timeout"] or 0) * 1000
        request.deadline = self.now + timeout if timeout else math.inf

    def complete(self, request: Request, answer: Op) -> None:
        """The response was read to its end."""
        assert request.grant is not None
        socket = request.grant.socket
        hint = re.match(r"timeout=(\d+)", answer.get("keep_alive_header", ""))
        self.numbers.pop(request.number)
        self.carries.pop(socket)
        request.outcome = "ok"
        if answer.get("fin"):
            self.news.append(lambda: self.break_off(socket, reset=False))
        self.carry_out(
            self.core.release(
                request.number,
                self.now,
                reusable=self.is_reusable(request, answer),
                complete=True,
                hint=float(hint[1]) * 1000 if hint else None,
            )
        )

    def is_reusable(self, request: Request, answer: Op) -> bool:
        """What the connection says (R11); one that neither is kept alive nor handed over was asked to close (R13)."""
        status = answer.get("status", 200)
        no_body = request.op.get("method") == "HEAD" or status in (204, 304)
        header = "close" if answer.get("close") or answer.get("close_header") else answer.get("connection", "").lower()
        return (
            header != "close"
            and (answer.get("version", "1.1") == "1.1" or header == "keep-alive")
            and (no_body or answer.get("framing", "length") in ("length", "chunked"))
            and request.op.get("headers", {}).get("Connection", "").lower() != "close"
            and (self.options["keep_alive"] or self.options["max_sockets"] is not None)
        )

    def break_off(self, socket: int, *, reset: bool) -> None:
        """The socket is found closed by its server, or readable while free."""
        request = self.carries.get(socket)
        if request is None:
            self.carry_out(self.core.lost(socket, self.now))
            return
        assert request.grant is not None
        is_stale = request.grant.requests_on_socket > 1 and not request.answered
        if is_stale and judge(Loss.STALE, self.facts(request)) is Verdict.RESEND:
            request.retried = True
            self.carries.pop(socket)
            self.carry_out(self.core.replace(request.number, self.now, fresh=True, error=reset))
        else:
            self.release(request, "ECONNRESET", error=reset)

    def facts(self, request: Request) -> Facts:
        """The scenarios' bodies can be sent again."""
        method = request.op.get("method", "GET").encode()
        return Facts(
            is_idempotent=is_idempotent(method, ()),
            is_replayable=True,
            was_resent=request.retried,
            is_allowed=self.retries,
        )

    def release(self, request: Request, code: str, *, error: bool, timed_out: bool = False) -> None:
        assert request.grant is not None
        self.end(request, code)
        self.carry_out(
            self.core.release(
                request.number,
                self.now,
                reusable=False,
                complete=False,
                error=error,
                timed_out=timed_out,
                unheard=not request.answered,
            )
        )

    def end(self, request: Request, code: str) -> None:
        request.outcome = "res_error" if request.partial and code == "ECONNRESET" else "error"
        request.error = code
        self.numbers.pop(request.number, None)
        if request.grant is not None:
            self.carries.pop(request.grant.socket, None)

    # Looking ----------------------------------------------------------------------------------------------------------

    def note(self) -> None:
        """Keeps Node's lists: a socket enters one at its end and keeps its place."""
        states = {view.id: (str(view.key), view.state) for view in self.core.sockets(self.now)}
        for origin, (active, free) in self.lists.items():
            in_use = (State.ACTIVE, State.CONNECTING)
            active[:] = [socket for socket in active if socket in states and states[socket][1] in in_use]
            free[:] = [socket for socket in free if states.get(socket) == (origin, State.FREE)]
        for socket, (origin, state) in states.items():
            active, free = self.lists.setdefault(origin, ([], []))
            if state is State.FREE and socket not in free:
                free.append(socket)
            elif state in (State.ACTIVE, State.CONNECTING) and socket not in active:
                active.append(socket)

    def seen(self, changed: bool | None) -> Seen:
        self.note()
        waiting: dict[str, list[int]] = {}
        for number, origin, _ in self.core.waiting():
            waiting.setdefault(str(origin), []).append(self.numbers[number].id)
        pools = {}
        for origin in sorted(self.lists.keys() | waiting.keys()):
            active, free = self.lists.get(origin, ([], []))
            pool = Pool(tuple(active), tuple(free), tuple(waiting.get(origin, ())))
            if pool != Pool():
                pools[origin] = pool
        views = list(self.core.sockets(self.now))
        counters = self.core.counters
        return Seen(
            pools=pools,
            total=self.core.total,
            created=counters.create_socket,
            closed=self.closed,
            server_open=tuple(sorted({view.id for view in views if view.id in self.opened} | self.detached)),
            limits={
                view.id: 0 if view.expires_in is None or view.idle_for is None else view.idle_for + view.expires_in
                for view in views
                if view.state is State.FREE
            },
            counters={f"{name}_count": getattr(counters, name) for name in Counters.__slots__},
            status_changed=changed,
        )


def _numbers(counters: Counters) -> list[int]:
    return [getattr(counters, name) for name in Counters.__slots__]
