"""Random but valid input for the core: the calls that a driver may make, and when."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from httpx_agent._rules.core import Close, Core, Grant, Refuse, Rules

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from httpx_agent._rules.core import Action

HOMES = ("sync", "loop", "other loop")
picks = st.integers(0, 11)
limits = st.sampled_from([2, 1, 3, math.inf])


def mostly(usual: Any, *others: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from([usual] * 3 * len(others) + [*others])


rules = st.builds(
    Rules,
    keep_alive=mostly(True, False),
    max_sockets=limits,
    max_free_sockets=mostly(math.inf, 1, 0),
    lifo=st.booleans(),
    free_socket_timeout=mostly(6.0, math.inf, 2.5, 0.0),
    socket_active_ttl=mostly(math.inf, 9.0, 2.0),
    keep_alive_timeout_buffer=st.sampled_from([0.0, 1.0]),
)
hints = mostly(None, 1.0, 2.0, 5.0)
total_free = mostly(math.inf, 2, 1, 0)


class Driver(RuleBasedStateMachine):
    """Calls the core as a driver would; a subclass looks at what comes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.next_request = 0
        self.never_came = 0  # of these
        self.lowered = False
        self.lanes: dict[int, tuple[Hashable, Hashable]] = {}  # of each request that is not over
        self.waiting: set[int] = set()
        self.users: dict[int, list[int]] = {}  # of each open socket that is not closing
        self.homes: dict[int, Hashable] = {}  # of each socket that is open or closing
        self.on: dict[int, int] = {}  # request in flight: its socket
        self.detached: set[int] = set()
        self.unopened: set[int] = set()
        self.closing: set[int] = set()

    @initialize(a=rules, b=rules, total=limits, free=total_free, http2=st.booleans())
    def start(self, a: Rules, b: Rules, total: float, free: float, http2: bool) -> None:
        self.rules_of: dict[Hashable, Rules] = {"a": a, "b": b, "c": a}
        self.max_total, self.max_total_free = total, free
        self.http2 = http2
        self.make(max_total_sockets=total, max_total_free_sockets=free)

    def make(self, *, max_total_sockets: float, max_total_free_sockets: float) -> None:
        self.core = Core(
            self.rules_of.__getitem__,
            max_total_sockets=max_total_sockets,
            max_total_free_sockets=max_total_free_sockets,
        )

    def call(self, method: str, *args: Any, **options: Any) -> Sequence[Action]:
        actions: Sequence[Action] = getattr(self.core, method)(*args, **options)
        return actions

    def do(self, method: str, *args: Any, **options: Any) -> None:
        for action in self.call(method, *args, **options):
            match action:
                case Grant(request, socket, new):
                    self.waiting.discard(request)
                    self.on[request] = socket
                    self.users.setdefault(socket, []).append(request)
                    self.homes[socket] = self.lanes[request][1]
                    if new:
                        self.unopened.add(socket)
                case Close(socket):
                    assert self.users.pop(socket) == []
                    self.closing.add(socket)
                case Refuse(request):
                    self.leave(request)
                    del self.lanes[request]
        self.check_books()

    def check_books(self) -> None:
        """What the core has counted is what came in: after every call, in each machine.

        Created = failed + closed + detached + open; made = finished + failed + waiting + in flight.
        """
        counters = self.core.counters
        gone = counters.create_socket_error + counters.close_socket + counters.detached_socket
        assert counters.create_socket == gone + len(self.homes)
        assert self.core.total == len(self.homes)
        over = counters.request + counters.request_error
        assert self.next_request - self.never_came == over + len(self.waiting) + len(self.on) + len(self.detached)
        assert len(list(self.core.waiting())) == len(self.waiting)
        assert counters.error_socket <= counters.close_socket

    def leave(self, request: int) -> int | None:
        """The request's number is taken off its socket."""
        self.waiting.discard(request)
        socket = self.on.pop(request, None)
        if socket is not None:
            self.users[socket].remove(request)
        return socket

    @staticmethod
    def choose(pick: int, among: Iterable[int]) -> int:
        candidates = sorted(among)
        return candidates[pick % len(candidates)]

    # Requests ---------------------------------------------------------------------------------------------------------

    @rule(key=st.sampled_from("aabc"), home=st.sampled_from(HOMES[:1] * 3 + HOMES), capacity=st.sampled_from([1, 2]))
    def ask(self, key: str, home: str, capacity: int) -> None:
        """A request arrives; a socket made for it opens at once."""
        self.submit(key, home)
        self.open_all(capacity)

    @rule(key=st.sampled_from("aabc"), home=st.sampled_from(HOMES[:1] * 3 + HOMES))
    def submit(self, key: str, home: str) -> None:
        self.lanes[self.next_request] = (key, home)
        self.waiting.add(self.next_request)
        self.next_request += 1
        self.do("submit", self.next_request - 1, key, home, self.now, negotiates=self.http2 and home != "other loop")

    @rule(key=st.sampled_from("aab"), home=st.sampled_from(HOMES[:2]), count=st.integers(2, 6))
    def submit_many(self, key: str, home: str, count: int) -> None:
        for _ in range(count):
            self.submit(key, home)

    @precondition(lambda self: self.waiting or self.on)
    @rule(pick=picks)
    def withdraw(self, pick: int) -> None:
        request = self.choose(pick, self.waiting | self.on.keys())
        self.leave(request)
        self.do("withdraw", request, self.now)
        del self.lanes[request]

    @precondition(lambda self: self.on)
    @rule(
        pick=picks,
        reusable=mostly(True, False),
        hint=hints,
        flags=st.integers(0, 31),
    )
    def release(self, pick: int, reusable: bool, hint: float | None, flags: int) -> None:
        request = self.choose(pick, self.on)
        socket = self.leave(request)
        reusable = reusable and socket not in self.unopened
        self.do(
            "release",
            request,
            self.now,
            reusable=reusable,
            complete=reusable or flags & 4 > 0,
            hint=hint if reusable else None,
            error=flags & 1 > 0 and not reusable,
            timed_out=flags & 2 > 0 and not reusable,
            unheard=flags & 16 > 0 and not reusable,
            ended=flags & 8 > 0 and not reusable,
        )
        del self.lanes[request]

    @precondition(lambda self: len(self.on) > 1)
    @rule(pick=picks)
    def time_out_in_silence(self, pick: int) -> None:
        """The youngest of some free others, so that there is something to be in doubt."""
        self.finish_many(0, None, pick)
        if self.on:
            request = max(self.on)
            self.leave(request)
            self.do(
                "release", request, self.now, reusable=False, complete=False, error=True, timed_out=True, unheard=True
            )
            del self.lanes[request]

    @precondition(lambda self: self.on.keys() - self.unopened_users())
    @rule(pick=picks, hint=st.sampled_from([None, None, 3.0]), count=st.integers(1, 20))
    def finish_many(self, pick: int, hint: float | None, count: int) -> None:
        """The younger first, so that those who wait elsewhere may be passed over."""
        for _ in range(count):
            busy = self.on.keys() - self.unopened_users()
            if not busy:
                return
            request = max(busy) if pick else min(busy)
            self.leave(request)
            self.do("release", request, self.now, reusable=True, complete=True, hint=hint)
            lane = self.lanes.pop(request)
            if pick > 5:
                self.submit(*lane)

    @precondition(lambda self: len(self.on) > 1)
    @rule()
    def finish_all(self) -> None:
        self.open_all(1)
        self.finish_many(0, None, len(self.on))

    def unopened_users(self) -> set[int]:
        return {request for socket in self.unopened for request in self.users.get(socket, [])}

    @precondition(lambda self: len(self.on) > 1)
    @rule(pick=picks, fresh=st.booleans(), error=st.booleans(), timed_out=st.booleans())
    def replace(self, pick: int, fresh: bool, error: bool, timed_out: bool) -> None:
        request = self.choose(pick, self.on)
        self.leave(request)
        self.waiting.add(request)
        self.do("replace", request, self.now, fresh=fresh, error=error, timed_out=timed_out)

    def lonely(self) -> set[int]:
        return {users[0] for socket, users in self.users.items() if len(users) == 1 and socket not in self.unopened}

    @precondition(lambda self: len(self.lonely()) > 2)
    @rule(pick=picks)
    def detach(self, pick: int) -> None:
        request = self.choose(pick, self.lonely())
        socket = self.leave(request)
        assert socket is not None
        del self.users[socket], self.homes[socket]
        self.detached.add(request)
        self.do("detach", request, self.now)

    @precondition(lambda self: self.detached)
    @rule(pick=picks, complete=st.booleans())
    def release_detached(self, pick: int, complete: bool) -> None:
        request = self.choose(pick, self.detached)
        self.detached.remove(request)
        self.do("release", request, self.now, reusable=False, complete=complete)
        del self.lanes[request]

    # Sockets ----------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.unopened)
    @rule(pick=picks, capacity=st.sampled_from([0, 1, 1, 2, 3, 100]))
    def opened(self, pick: int, capacity: int) -> None:
        self.open(self.choose(pick, self.unopened), capacity)

    @precondition(lambda self: self.unopened)
    @rule(capacity=st.sampled_from([1, 2]))
    def open_all(self, capacity: int) -> None:
        for socket in sorted(self.unopened):
            self.open(socket, capacity)

    def open(self, socket: int, capacity: int) -> None:
        self.unopened.discard(socket)
        self.do("opened", socket, self.now)
        if self.http2 and capacity:  # a driver may not get to know it
            self.do("negotiated", socket, self.now, capacity=capacity, multiplexes=capacity > 1)

    @precondition(lambda self: self.http2 and self.users.keys() - self.unopened)
    @rule(pick=picks, capacity=st.integers(1, 4))
    def settings_changed(self, pick: int, capacity: int) -> None:
        socket = self.choose(pick, self.users.keys() - self.unopened)
        self.do("negotiated", socket, self.now, capacity=capacity, multiplexes=True)

    @precondition(lambda self: len(self.homes) > 3)
    @rule(pick=picks, error=st.booleans())
    def lost(self, pick: int, error: bool) -> None:
        self.do("lost", self.choose(pick, self.homes), self.now, error=error)

    @precondition(lambda self: self.closing)
    @rule(pick=picks)
    def closed(self, pick: int) -> None:
        socket = self.choose(pick, self.closing)
        self.closing.remove(socket)
        self.unopened.discard(socket)
        del self.homes[socket]
        self.do("closed", socket, self.now)

    @precondition(lambda self: self.closing)
    @rule()
    def all_closed(self) -> None:
        for pick in reversed(range(len(self.closing))):
            self.closed(pick)

    # Time, and the whole ----------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0, 5.0, 20.0]), homes=st.sets(st.sampled_from(HOMES)))
    def advance(self, seconds: float, homes: set[str]) -> None:
        """Time goes by; the timers of some homes are late."""
        self.now += seconds
        for home in HOMES:
            if home in homes:
                self.do("expire", home, self.now)

    @precondition(lambda self: self.next_request % 8 == 7)
    @rule(what=mostly(2, 3, 1, 0), home=st.sampled_from(HOMES), a=limits, b=limits, total=limits, free=total_free)
    def upheaval(self, what: int, home: str, a: float, b: float, total: float, free: float) -> None:
        if what == 0:
            self.do("close", self.now)
        elif what == 1:
            self.end_home(home)
        elif what == 3:
            self.do("close_free", self.now)
        else:
            self.reconfigure(a, b, total, free)

    def end_home(self, home: Hashable) -> None:
        gone = {request for request, lane in self.lanes.items() if lane[1] == home}
        dead = {socket for socket, where in self.homes.items() if where == home}
        for socket in dead:
            self.users.pop(socket, None)
            del self.homes[socket]
        self.unopened -= dead
        self.closing -= dead
        self.waiting -= gone
        self.detached -= gone
        self.on = {request: socket for request, socket in self.on.items() if request not in gone}
        self.lanes = {request: lane for request, lane in self.lanes.items() if request not in gone}
        self.do("end_home", home, self.now)

    def reconfigure(self, a: float, b: float, total: float, free: float) -> None:
        before = (self.max_total, *(rules.max_sockets for rules in self.rules_of.values()))
        one, two = self.rules_of["a"], self.rules_of["b"]
        self.rules_of = {
            "a": replace(one, max_sockets=a),
            "b": replace(two, max_sockets=b),
            "c": replace(one, lifo=True),
        }
        self.max_total, self.max_total_free = total, free
        after = (self.max_total, *(rules.max_sockets for rules in self.rules_of.values()))
        self.lowered |= any(new < old for new, old in zip(after, before, strict=True))
        self.do(
            "reconfigure",
            self.now,
            self.rules_of.__getitem__,
            max_total_sockets=total,
            max_total_free_sockets=free,
        )
