"""A second implementation of the agent's rules, as plain as possible: lists, loops and the documentation's words.

It predicts each action of the core. Nothing in it is fast, and nothing is kept that can be counted: how many sockets a
key has is found by looking at all of them, and after every input all waiting requests are tried, oldest first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from httpx_agent._rules.core import Action, Close, CloseReason, Counters, Grant, Refuse, Rules

Lane = tuple[Hashable, Hashable]


@dataclass(eq=False)
class Socket:
    """A socket that counts."""

    id: int
    key: Hashable
    home: Hashable
    created: float
    state: str = "connecting"
    users: list[Request] = field(default_factory=list)
    served: int = 0
    capacity: int = 1
    usable: bool = False
    retired: str | None = None  # why
    error: bool = False
    heir: Request | None = None
    hint: float | None = None
    idle_from: float = 0.0
    free_since: float = 0.0
    deadline: float = math.inf
    expires_by: str = ""
    heard: int = 0  # the line of the log with which something came from it last


@dataclass(eq=False)
class Request:
    """A request that is not over."""

    id: int
    key: Hashable
    home: Hashable
    since: float
    state: str = "waiting"  # or "heir", "in flight", "detached"
    passed_over: int = 0
    socket: Socket | None = None
    given: int = 0  # the line of the log with which it was given that
    reuses: bool = False


class Model:
    """The rules; its methods are those of the core."""

    def __init__(
        self, rules_for: Callable[[Hashable], Rules], *, max_total_sockets: float, max_total_free_sockets: float
    ) -> None:
        self.rules_for = rules_for
        self.max_total = max_total_sockets
        self.max_total_free = max_total_free_sockets
        self.counters = Counters()
        self.created = 0
        self.open: list[Socket] = []  # all that count, oldest first
        self.free: list[Socket] = []  # the one free for longest first
        self.slots: list[Socket] = []  # closing, and nobody's heritage: the first to become so first
        self.roomy: list[Socket] = []  # in use, with room for more: the first to become so first
        self.requests: list[Request] = []  # oldest first
        self.negotiates: dict[Lane, bool] = {}
        self.leaders: dict[Lane, Request] = {}
        self.multiplexes: dict[Hashable, bool] = {}
        self.now = 0.0
        self.log = 0  # lines written so far: one for whatever came from a socket, and for each that was given away
        self.actions: list[Action] = []

    # Inputs -----------------------------------------------------------------------------------------------------------

    def submit(self, request: int, key: Hashable, home: Hashable, now: float, *, negotiates: bool) -> list[Action]:
        self.now = now
        self.negotiates[key, home] = negotiates
        asking = Request(request, key, home, now)
        self.requests.append(asking)
        self.find(asking)
        return self.answer()

    def withdraw(self, request: int, now: float) -> list[Action]:
        self.now = now
        leaving = self.request(request)
        self.counters.request_error += 1
        self.forget(leaving)
        if leaving.socket is not None:
            leaving.socket.served -= 1
            self.end_use(leaving.socket, leaving, None if leaving.socket.usable else "aborted")
        return self.answer()

    def release(
        self,
        request: int,
        now: float,
        *,
        reusable: bool,
        complete: bool,
        hint: float | None = None,
        error: bool = False,
        timed_out: bool = False,
        unheard: bool = False,
        ended: bool = False,
    ) -> list[Action]:
        self.now = now
        leaving = self.request(request)
        self.forget(leaving)
        self.counters.timeout_socket += timed_out
        self.counters.request += complete
        self.counters.request_error += not complete
        socket = leaving.socket
        if socket is not None:
            socket.error |= error
            socket.hint = hint
            socket.idle_from = now
            if reusable:
                self.hear(socket)
            reasons = {
                "timeout": timed_out,
                "error": error,
                "not_reusable": complete,
                "server_closed": ended,
                "aborted": True,
            }
            reason = next(reason for reason, holds in reasons.items() if holds)
            self.end_use(socket, leaving, None if reusable else reason)
            if timed_out and unheard and leaving.reuses:
                for other in list(self.free):
                    if other.key == leaving.key and other.heard < leaving.given:
                        self.shut(other, "in_doubt")
        return self.answer()

    def replace(
        self, request: int, now: float, *, fresh: bool = False, error: bool = False, timed_out: bool = False
    ) -> list[Action]:
        self.now = now
        asking = self.request(request)
        self.step_down(asking)
        self.counters.timeout_socket += timed_out
        dead = asking.socket
        assert dead is not None
        dead.error |= error
        asking.socket = None
        self.end_use(dead, asking, "timeout" if timed_out else "error" if error else "server_closed")
        asking.state = "waiting"
        if not fresh:
            self.find(asking)
        if asking.state == "waiting" and dead.state == "closing":
            self.inherit(asking, dead)
        if asking.state == "waiting":
            self.serve()
        if asking.state == "waiting":
            self.find(asking)
        return self.answer()

    def detach(self, request: int, now: float) -> list[Action]:
        self.now = now
        leaving = self.request(request)
        self.step_down(leaving)
        self.counters.detached_socket += 1
        assert leaving.socket is not None
        self.remove(leaving.socket)
        leaving.socket = None
        leaving.state = "detached"
        return self.answer()

    def opened(self, socket: int, now: float) -> list[Action]:
        self.now = now
        opening = self.socket(socket)
        opening.usable = True
        opening.idle_from = now
        self.hear(opening)
        if opening.state == "connecting":
            opening.state = "active"
        return self.answer()

    def negotiated(self, socket: int, now: float, *, capacity: int, multiplexes: bool) -> list[Action]:
        self.now = now
        opening = self.socket(socket)
        self.multiplexes[opening.key] = multiplexes
        opening.capacity = capacity
        for user in opening.users:
            self.step_down(user)
        if opening.state == "active":
            self.share(opening)
        return self.answer()

    def lost(self, socket: int, now: float, *, error: bool = False) -> list[Action]:
        self.now = now
        for gone in list(self.free):
            if gone.id == socket:
                gone.error = error
                self.shut(gone, "error" if error else "server_closed")
        return self.answer()

    def close_free(self, now: float) -> list[Action]:
        self.now = now
        for gone in sorted(self.free, key=lambda socket: socket.id):
            self.shut(gone, "evicted")
        return self.answer()

    def closed(self, socket: int, now: float) -> list[Action]:
        self.now = now
        gone = self.socket(socket)
        self.count(gone)
        self.remove(gone)
        return self.answer()

    def expire(self, home: Hashable, now: float, in_order: Sequence[Action]) -> list[Action]:
        """In which order several sockets are closed that expired meanwhile is left open, so it is told."""
        self.now = now
        expired = [socket for socket in self.free if socket.home == home and socket.deadline <= now]
        order = [action.socket for action in in_order if isinstance(action, Close)]
        for socket in sorted(expired, key=lambda socket: order.index(socket.id)):
            self.time_out(socket)
        return self.answer()

    def close(self, now: float) -> list[Action]:
        self.now = now
        for request in list(self.requests):
            if request.state != "detached":
                self.counters.request_error += 1
                self.forget(request)
                self.actions.append(Refuse(request.id))
        for socket in self.open:
            if socket.state != "closing":
                self.shut(socket, "agent_closed")
                self.mind_room(socket)
        return self.answer()

    def end_home(self, home: Hashable, now: float) -> list[Action]:
        self.now = now
        for request in list(self.requests):
            if request.home == home:
                self.counters.request_error += 1
                self.forget(request)
        for socket in list(self.open):
            if socket.home == home:
                self.count(socket)
                self.remove(socket)
        return self.answer()

    def reconfigure(
        self,
        now: float,
        rules_for: Callable[[Hashable], Rules],
        *,
        max_total_sockets: float,
        max_total_free_sockets: float,
    ) -> list[Action]:
        self.now = now
        self.rules_for = rules_for
        self.max_total = max_total_sockets
        self.max_total_free = max_total_free_sockets
        return self.answer()

    # Choosing ---------------------------------------------------------------------------------------------------------

    def find(self, asking: Request) -> None:
        """One that is there already: with room on it, or free."""
        lane = (asking.key, asking.home)
        rules = self.rules_for(asking.key)
        for socket in list(self.roomy):
            if (socket.key, socket.home) == lane and asking.state == "waiting":
                self.offer(socket, asking)
        for socket in list(reversed(self.free) if rules.lifo else self.free):
            if (socket.key, socket.home) == lane and asking.state == "waiting":
                if socket.deadline <= self.now:
                    self.time_out(socket)
                else:
                    self.free.remove(socket)
                    self.give(socket, asking, idle_for=self.now - socket.free_since)

    def serve(self) -> None:
        """Slots for all that may have one, oldest first."""
        while any(self.give_slot(request) for request in self.requests if request.state == "waiting"):
            pass

    def give_slot(self, asking: Request) -> bool:
        if (asking.key, asking.home) in self.leaders:
            return False
        limit = self.rules_for(asking.key).max_sockets
        used = self.used(asking.key)
        if used < limit and len(self.open) < self.max_total:
            self.lead(asking)
            self.connect(asking)
            return True
        if used > limit or len(self.open) > self.max_total:
            self.shed(asking.key, limit)
            return False
        for source in self.slots + self.free:
            if used < limit or source.key == asking.key:
                if source.state == "free":
                    self.shut(source, "evicted")
                self.inherit(asking, source)
                return True
        return False

    def shed(self, key: Hashable, limit: float) -> None:
        """A limit was lowered, and somebody waits: what is free above it goes."""
        for socket in [one for one in self.free if one.key == key]:
            if self.used(key) - len([slot for slot in self.slots if slot.key == key]) > limit:
                self.shut(socket, "limit_lowered")
        for socket in list(self.free):
            if len(self.open) - len(self.slots) > self.max_total:
                self.shut(socket, "limit_lowered")

    def used(self, key: Hashable) -> int:
        """Sockets of a key, and those that it is promised in exchange for others'."""
        own = [socket for socket in self.open if socket.key == key]
        promised = [s for s in self.open if s.heir is not None and s.heir.key == key and s.key != key]
        return len(own) + len(promised)

    # Handing over -----------------------------------------------------------------------------------------------------

    def end_use(self, socket: Socket, leaving: Request, unfit: str | None) -> None:
        socket.users.remove(leaving)
        socket.retired = socket.retired or unfit
        self.share(socket)
        if not socket.users:
            self.keep_or_shut(socket)

    def share(self, socket: Socket) -> None:
        for request in self.requests:
            same_lane = (request.key, request.home) == (socket.key, socket.home)
            if same_lane and request.state == "waiting" and len(socket.users) < socket.capacity and not socket.retired:
                self.offer(socket, request)
        self.mind_room(socket)

    def offer(self, socket: Socket, asking: Request) -> None:
        """The request may join unless the socket is too old, or an older request was passed over often enough."""
        if self.now >= socket.created + self.rules_for(socket.key).socket_active_ttl:
            socket.retired = "ttl"
        else:
            for rival in self.requests:
                if rival.id < asking.id and self.is_rival(rival, socket):
                    rival.passed_over += 1
                    if rival.passed_over == 17:
                        rival.passed_over = 0
                        socket.retired = "evicted"
                    break
        if socket.retired:
            self.mind_room(socket)
        else:
            self.give(socket, asking)

    def is_rival(self, request: Request, socket: Socket) -> bool:
        """Whether it waits, elsewhere, for something that the socket's end would bring nearer."""
        lane = (request.key, request.home)
        if request.state != "waiting" or lane in self.leaders or lane == (socket.key, socket.home):
            return False
        below = self.used(request.key) < self.rules_for(request.key).max_sockets
        return request.key == socket.key or (below and len(self.open) >= self.max_total)

    def keep_or_shut(self, socket: Socket) -> None:
        rules = self.rules_for(socket.key)
        limits = {"idle_timeout": socket.idle_from + rules.free_socket_timeout}
        if socket.hint is not None:
            limits["server_hint"] = socket.idle_from + socket.hint - rules.keep_alive_timeout_buffer
        limits["ttl"] = socket.created + rules.socket_active_ttl
        socket.deadline = min(limits.values())
        socket.expires_by = next(name for name, time in limits.items() if time == socket.deadline)
        free = [other for other in self.free if other.key == socket.key]
        reasons = [
            (socket.retired, socket.retired is not None),
            ("keep_alive_off", not rules.keep_alive),
            (socket.expires_by, socket.deadline <= self.now),
            ("limit_lowered", len(self.open) > self.max_total or self.used(socket.key) > rules.max_sockets),
            ("free_limit", len(free) + 1 > rules.max_free_sockets or self.max_total_free < 1),
        ]
        for reason, holds in reasons:
            if holds:
                assert reason is not None
                self.shut(socket, reason)
                return
        socket.state = "free"
        socket.free_since = self.now
        self.free.append(socket)
        if len(self.free) > self.max_total_free:
            self.shut(self.free[0], "free_limit")

    # Small ------------------------------------------------------------------------------------------------------------

    def answer(self) -> list[Action]:
        self.serve()
        actions, self.actions = self.actions, []
        return actions

    def request(self, number: int) -> Request:
        return next(request for request in self.requests if request.id == number)

    def socket(self, number: int) -> Socket:
        return next(socket for socket in self.open if socket.id == number)

    def connect(self, asking: Request) -> None:
        socket = Socket(self.created, asking.key, asking.home, self.now, idle_from=self.now)
        self.created += 1
        self.counters.create_socket += 1
        self.open.append(socket)
        self.give(socket, asking)

    def give(self, socket: Socket, asking: Request, *, idle_for: float | None = None) -> None:
        asking.state = "in flight"
        asking.socket = socket
        asking.reuses = socket.served > 0
        self.log += 1
        asking.given = self.log
        socket.users.append(asking)
        socket.served += 1
        if socket.usable:
            socket.state = "active"
        self.mind_room(socket)
        self.actions.append(
            Grant(asking.id, socket.id, not socket.usable, socket.served, self.now - asking.since, idle_for)
        )

    def hear(self, socket: Socket) -> None:
        self.log += 1
        socket.heard = self.log

    def mind_room(self, socket: Socket) -> None:
        room = socket.state == "active" and 0 < len(socket.users) < socket.capacity and not socket.retired
        if room and socket not in self.roomy:
            self.roomy.append(socket)
        elif not room and socket in self.roomy:
            self.roomy.remove(socket)

    def shut(self, socket: Socket, reason: str) -> None:
        if socket in self.free:
            self.free.remove(socket)
        socket.state = "closing"
        self.slots.append(socket)
        self.actions.append(Close(socket.id, CloseReason(reason)))

    def time_out(self, socket: Socket) -> None:
        self.counters.timeout_socket += 1
        self.shut(socket, socket.expires_by)

    def inherit(self, asking: Request, source: Socket) -> None:
        self.lead(asking)
        asking.state = "heir"
        source.heir = asking
        self.slots.remove(source)

    def lead(self, asking: Request) -> None:
        lane = (asking.key, asking.home)
        if self.negotiates[lane] and lane not in self.leaders and self.multiplexes.get(asking.key) is not False:
            self.leaders[lane] = asking

    def step_down(self, request: Request) -> None:
        if self.leaders.get((request.key, request.home)) is request:
            del self.leaders[request.key, request.home]

    def forget(self, request: Request) -> None:
        self.requests.remove(request)
        self.step_down(request)
        for source in self.open:
            if source.heir is request:
                source.heir = None
                self.slots.append(source)

    def remove(self, socket: Socket) -> None:
        for tier in (self.open, self.free, self.slots, self.roomy):
            if socket in tier:
                tier.remove(socket)
        if socket.heir is not None:
            self.connect(socket.heir)

    def count(self, socket: Socket) -> None:
        if socket.usable:
            self.counters.close_socket += 1
            self.counters.error_socket += socket.error
        else:
            self.counters.create_socket_error += 1
