"""The rules of the agent: a pure state machine.

Theory
======

The core decides which socket serves which request, when a socket is opened and when one is closed. It does no I/O,
reads no clock and takes no lock; it knows sockets and requests by number only. Every input takes the time ``now``
and answers with a list of actions that its driver carries out *after* it has let go of the lock:

``Grant``   this request may use this socket (to be opened by it, when ``new``)
``Close``   close this socket, then report ``closed``
``Refuse``  this request fails, the core knows it no more: the agent was closed

**A socket** lives through these states; each one counts against both limits until ``closed`` or ``detach``::

    submit ──> CONNECTING ──opened──> ACTIVE <──────────> FREE
                   │                    │  release / grant  │
                   │                    ├──detach──> (gone) │ expire, lost, evicted
                   └──────> CLOSING <───┴───────────────────┘
                               └──closed──> (gone)

**A request** is waiting, or heir of a closing socket, or in flight. **A lane** is what requests and sockets of one
key (origin) and one home (event loop, or the sync world) have in common: only within a lane can a socket be handed
from request to request.

**A slot** is the right to have a socket. Slots come from three sources, taken in this order: unused capacity; a
socket that is closing; a free socket that the waiting request cannot use, which is then closed for it (the one free
for longest). A request that takes a slot of the last two kinds is the *heir* of that socket: it leaves the queue, and
its own socket is opened the moment the other one is closed. So both limits hold at every moment.

**The one rule of dispatch.** After every input, no request waits that could have a slot, and slots go to the oldest
request that may use them. Hence a newcomer never overtakes: when it finds something, nobody older could use it.

**Bounded overtaking.** A socket that comes free goes to the oldest request waiting in its lane, even if an older one
elsewhere could use its slot; that one is passed over ``MAX_OVERTAKEN`` times at most, then the socket closes for it. A
request that joins others on a socket overtakes in the same way: without it the socket would be free sooner.

**Streams.** A socket that turns out to be HTTP/2 serves up to ``capacity`` requests at once. In a lane that may
negotiate HTTP/2, the first request opens a socket and the others wait until its protocol is known.

**Doubt.** A request that times out on a socket that had served before, and of whose response not one byte came, tells
that its way to the server may be gone: a NAT has forgotten its connections, or the machine slept. So the other free
sockets of its key are closed, in all homes, but for those that were heard from since the request had its socket. If the
server was only slow, that costs a handshake each; without it, each could cost a request its timeout.

**A lowered limit** closes nothing by itself, as in Node: what is free above it is closed once a request waits that
cannot use it, what is in use when nobody in its lane waits for it.
Until the number is down to the limit, no request gets a slot.

Rule numbers (R1 … R41) and defect numbers (N…, A…) are those of the page "Node's rules" in the documentation.

Cost: every operation is O(1) in sockets and waiting requests, O(log n) where a deadline or the oldest waiting
request among lanes is kept in order (both heaps are swept now and then, which is O(1) on average), and linear only in
the number of homes of one key. Doubt looks at the free sockets of one key. ``close``, ``end_home``, ``reconfigure``,
``sockets`` and ``waiting`` look at everything, and say so; so does the one input that ends what a lowered total began.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Container, Hashable, Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import takewhile
from typing import NamedTuple

#: How often the oldest waiting request that could use a slot is passed over by younger ones.
MAX_OVERTAKEN = 16

#: For how many keys the core remembers whether they speak HTTP/2.
MAX_REMEMBERED_PROTOCOLS = 1000

#: So many outdated entries a heap may have beyond those that count before it is swept.
SPARE_ENTRIES = 64


class State(Enum):
    """Where a socket is in its life."""

    CONNECTING = "connecting"
    ACTIVE = "active"
    FREE = "free"
    CLOSING = "closing"


class CloseReason(Enum):
    """Why a socket is closed: the first thing that forbade it another request."""

    IDLE_TIMEOUT = "idle_timeout"  # free for as long as `free_socket_timeout` allows
    SERVER_HINT = "server_hint"  # free for as long as the server said that it keeps it
    TTL = "ttl"  # as old as `socket_active_ttl` allows
    KEEP_ALIVE_OFF = "keep_alive_off"
    FREE_LIMIT = "free_limit"  # enough others are free
    EVICTED = "evicted"  # for a request that it cannot serve
    LIMIT_LOWERED = "limit_lowered"  # more are open than a limit allows by now
    SERVER_CLOSED = "server_closed"  # or wrote unasked
    NOT_REUSABLE = "not_reusable"  # its last response, read to the end, leaves it unfit
    ABORTED = "aborted"  # a request was given up before its end
    TIMEOUT = "timeout"  # the limit on a socket in use
    ERROR = "error"
    IN_DOUBT = "in_doubt"  # not heard from since a request on another one of its key timed out in silence
    AGENT_CLOSED = "agent_closed"
    LOOP_ENDED = "loop_ended"  # the only one that a driver finds by itself, after ``end_home``


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for the sockets of one key. Times are seconds; ``math.inf`` means no limit."""

    keep_alive: bool = True
    max_sockets: float = math.inf
    max_free_sockets: float = 256
    lifo: bool = True
    free_socket_timeout: float = 15.0
    socket_active_ttl: float = math.inf
    keep_alive_timeout_buffer: float = 1.0


class Grant(NamedTuple):
    """The request may use the socket.

    Attributes:
        request: The request's number.
        socket: The socket's number.
        new: Whether the request has to open it.
        requests_on_socket: How many requests the socket was given to, this one included.
        queued_for: Seconds between ``submit`` and this grant.
        idle_for: Seconds that the socket had been free, ``None`` if it was not.
    """

    request: int
    socket: int
    new: bool
    requests_on_socket: int
    queued_for: float
    idle_for: float | None


class Close(NamedTuple):
    """The socket is to be closed; ``closed`` is to be called when it is."""

    socket: int
    reason: CloseReason


class Refuse(NamedTuple):
    """The request is to fail; it is over."""

    request: int


Action = Grant | Close | Refuse


@dataclass(slots=True)
class Counters:
    """What happened so far; `httpx_agent.AgentStatus` says what each one means."""

    create_socket: int = 0
    create_socket_error: int = 0
    close_socket: int = 0
    detached_socket: int = 0
    error_socket: int = 0
    timeout_socket: int = 0
    request: int = 0
    request_error: int = 0


@dataclass(frozen=True, slots=True)
class SocketView:
    """What the core knows of one socket."""

    id: int
    key: Hashable
    home: Hashable
    state: State
    request_count: int
    age: float
    idle_for: float | None
    expires_in: float | None


class _Socket:
    __slots__ = (
        "alarm", "capacity", "created", "deadline", "detached", "error", "expires_by", "free_since", "heard", "heir",
        "hint", "id", "idle_from", "lane", "request_count", "retired", "state", "streams", "usable",
    )  # fmt: skip

    def __init__(self, id: int, lane: _Lane, now: float) -> None:
        self.id = id
        self.lane = lane
        self.created = now
        self.state = State.CONNECTING
        self.request_count = 0
        self.streams = 0  # requests in flight on it
        self.capacity = 1  # how many may be
        self.usable = False  # has ever been open
        self.retired: CloseReason | None = None  # why it takes no further request
        self.error = False  # an error is what closes it
        self.detached = False  # it goes to the caller of its request
        self.heir: _Request | None = None
        self.hint: float | None = None  # what its last response said of how long the server will keep it
        self.idle_from = now  # when its last response ended
        self.heard = 0  # which of all that the core heard from servers was the last from this one
        self.free_since = now
        self.deadline = math.inf  # when a free one expires
        self.expires_by = CloseReason.IDLE_TIMEOUT  # and by which limit
        self.alarm = math.inf  # its one entry that counts in the heap of deadlines

    def end_of_life(self) -> float:
        """When it is too old for another request (R34)."""
        return self.created + self.lane.key.rules.socket_active_ttl


class _Request:
    __slots__ = ("detached", "heard", "heir_of", "id", "lane", "passed_over", "reuses", "since", "socket")

    def __init__(self, id: int, lane: _Lane, now: float) -> None:
        self.id = id
        self.lane = lane
        self.since = now
        self.passed_over = 0
        self.socket: _Socket | None = None
        self.reuses = False  # its socket had served before
        self.heard = 0  # how much the core had heard from servers when it got that
        self.heir_of: _Socket | None = None
        self.detached = False  # its socket is the caller's

    def is_waiting(self) -> bool:
        """Whether it has no socket yet (one that was detached from its request leaves it in flight)."""
        return self.socket is None and not self.detached


class _Lane:
    """One key in one home."""

    __slots__ = ("free", "home", "key", "leader", "negotiates", "queued_as", "shareable", "waiting")

    def __init__(self, key: _Key, home: Hashable) -> None:
        self.key = key
        self.home = home
        self.negotiates = False
        self.waiting: OrderedDict[int, _Request] = OrderedDict()
        self.free: OrderedDict[int, _Socket] = OrderedDict()  # in order of becoming free
        self.shareable: OrderedDict[int, _Socket] = OrderedDict()  # HTTP/2, in use, with room for more
        self.leader: _Request | None = None  # opens a socket whose protocol the others wait to learn
        self.queued_as: int | None = None  # the request for which the lane stands in the heap of lanes

    def oldest(self) -> _Request | None:
        """The oldest waiting request that may have a socket of its own."""
        if self.leader is not None:
            return None
        return next(iter(self.waiting.values()), None)

    def oldest_below_limit(self) -> _Request | None:
        """The same, if the limit of its key leaves room for one."""
        return self.oldest() if self.key.used < self.key.rules.max_sockets else None


class _Key:
    __slots__ = ("closing", "connecting", "free", "lanes", "name", "rules", "sockets", "unclaimed", "used")

    def __init__(self, name: Hashable, rules: Rules) -> None:
        self.name = name
        self.rules = rules
        self.used = 0  # sockets, and slots of other keys' closing sockets that an heir of this key will have
        self.sockets = 0
        self.connecting = 0  # of these
        self.closing = 0  # of these
        self.lanes: dict[Hashable, _Lane] = {}
        self.free: OrderedDict[int, _Socket] = OrderedDict()  # least recently used first
        self.unclaimed: OrderedDict[int, _Socket] = OrderedDict()  # closing, without an heir

    def oldest(self) -> _Request | None:
        """The oldest waiting request over all homes that may have a socket of its own."""
        candidates = [request for lane in self.lanes.values() if (request := lane.oldest()) is not None]
        return min(candidates, key=lambda request: request.id, default=None)


class Core:
    """The agent's rules. Not thread-safe: its driver holds one lock around every call.

    Args:
        rules_for: Gives the rules of a key when the key is first met.
        max_total_sockets: Open sockets over all keys.
        max_total_free_sockets: Free sockets over all keys; above it the least recently used is closed.
    """

    def __init__(
        self,
        rules_for: Callable[[Hashable], Rules],
        *,
        max_total_sockets: float = math.inf,
        max_total_free_sockets: float = math.inf,
    ) -> None:
        self.counters = Counters()
        self._rules_for = rules_for
        self._max_total = max_total_sockets
        self._max_total_free = max_total_free_sockets
        self._too_many = False  # sockets, since the total was lowered
        self._next_socket = 0
        self._submitted = 0  # requests, ever
        self._leaving: _Socket | None = None  # is no longer known, and may not be counted as gone yet
        self._heard = 0  # so often something came from a server; not a time: two may come within a tick of the clock
        self._keys: dict[Hashable, _Key] = {}
        self._sockets: dict[int, _Socket] = {}
        self._requests: dict[int, _Request] = {}
        self._queued = 0  # how many of them wait in lanes
        self._free: OrderedDict[int, _Socket] = OrderedDict()  # least recently used first
        self._unclaimed: OrderedDict[int, _Socket] = OrderedDict()  # closing, without an heir
        self._lanes: list[tuple[int, int, _Lane]] = []  # heap: lanes by their oldest request, validated when looked at
        self._sweep_above = SPARE_ENTRIES  # the length at which that heap is swept
        self._alarms: dict[Hashable, list[tuple[float, int]]] = {}  # per home, a heap of (time, socket)
        self._multiplexes: OrderedDict[Hashable, bool] = OrderedDict()  # keys known to speak HTTP/2, or not to
        self._actions: list[Action] = []

    # Requests ---------------------------------------------------------------------------------------------------------

    def submit(
        self, request: int, key: Hashable, home: Hashable, now: float, *, negotiates: bool = False
    ) -> list[Action]:
        """A request arrives (R1): it gets a free socket (R2), a new one (R4), or waits (R5).

        Args:
            request: Its number, greater than every one before: numbers are ages.
            key: What its sockets have in common.
            home: Where its sockets can be used.
            now: The time.
            negotiates: Whether a socket opened for it may turn out to serve many requests at once.
        """
        lane = self._lane(key, home)
        lane.negotiates = negotiates
        asking = self._requests[request] = _Request(request, lane, now)
        self._submitted += 1
        if not self._find_socket(asking, now):
            if not self._queued and lane.leader is None and self._has_slot(lane.key):  # nobody is before it
                self._take_slot(asking, now)
            else:
                self._put_on_queue(asking)
                self._settle(now, lane.key)
        return self._answer()

    def withdraw(self, request: int, now: float) -> list[Action]:
        """A request that has sent nothing gives up, waiting or just granted; a socket it holds goes on to the next."""
        leaving = self._drop(request, complete=False)
        keys = [leaving.lane.key]
        if leaving.socket is not None:
            leaving.socket.request_count -= 1
            self._end_use(leaving.socket, now, unfit=None if leaving.socket.usable else CloseReason.ABORTED)
        elif leaving.heir_of is not None:
            keys.append(leaving.heir_of.lane.key)
            self._disinherit(leaving, leaving.heir_of)
        else:
            self._take_off_queue(leaving)
        self._settle(now, *keys)
        return self._answer()

    def abandon(self, request: int, now: float) -> list[Action]:
        """A request is given up, in whatever state it is; a socket that it holds serves no other."""
        leaving = self._requests[request]
        keys = [leaving.lane.key]
        if leaving.heir_of is not None:
            keys.append(leaving.heir_of.lane.key)
        self._give_up(leaving)
        if leaving.socket is not None:
            self._end_use(leaving.socket, now, unfit=CloseReason.ABORTED)
        self._settle(now, *keys)
        return self._answer()

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
        """A request in flight is over (R7, R11, R12, R18, R23).

        Args:
            request: Its number.
            now: The time.
            reusable: Whether its socket is known to be fit for another request.
            complete: Whether its response was read to the end.
            hint: What the server's ``Keep-Alive: timeout=`` said, in seconds (R15).
            error: Whether an error is what ended the socket.
            timed_out: Whether the limit on a socket in use is what ended it (R33).
            unheard: Whether nothing came on its socket since the request had it.
            ended: Whether the server had closed it.
        """
        leaving = self._drop(request, complete=complete)
        socket = leaving.socket
        self.counters.timeout_socket += timed_out
        if socket is not None:  # a detached one is no longer ours
            socket.error = socket.error or error
            socket.hint = hint
            socket.idle_from = now
            if reusable:
                self._heard = socket.heard = self._heard + 1
            unfit = None
            if not reusable:
                unfit = CloseReason.SERVER_CLOSED if ended else CloseReason.ABORTED
                unfit = _what_ended(timed_out, error, otherwise=CloseReason.NOT_REUSABLE if complete else unfit)
            self._end_use(socket, now, unfit=unfit)
            if timed_out and unheard and leaving.reuses:
                self._doubt(socket.lane.key, leaving.heard)
            self._settle(now, socket.lane.key)
        return self._answer()

    def replace(
        self, request: int, now: float, *, fresh: bool = False, error: bool = False, timed_out: bool = False
    ) -> list[Action]:
        """The socket of a request in flight is dead; the request goes on with another and keeps its place (N8, N16).

        Args:
            request: Its number.
            now: The time.
            fresh: Whether only a new socket will do. If others still use the dead one, so that its slot cannot be had,
                and no other slot is there, any will do.
            error: Whether an error is what ended the socket.
            timed_out: Whether the limit on a socket in use is what ended it.
        """
        asking = self._requests[request]
        dead = asking.socket
        assert dead is not None
        dead.error = dead.error or error
        self.counters.timeout_socket += timed_out
        asking.socket = None
        lane = asking.lane
        self._resign(asking)
        self._end_use(dead, now, unfit=_what_ended(timed_out, error, otherwise=CloseReason.SERVER_CLOSED))
        if not fresh and self._find_socket(asking, now):
            pass
        elif dead.state is State.CLOSING:
            self._inherit(dead, asking)
            self._lead(asking)
        else:  # others still use it
            self._queue_again(asking)
            self._settle(now, lane.key)
            if request in lane.waiting and self._find_socket(asking, now):
                self._take_off_queue(asking)
        self._settle(now, lane.key)
        return self._answer()

    def detach(self, request: int, now: float) -> list[Action]:
        """The socket of a request, which no other uses, now belongs to the caller: 101, or 2xx to CONNECT (R25).

        The request goes on.
        """
        leaving = self._requests[request]
        socket = leaving.socket
        assert socket is not None
        assert socket.streams == 1
        leaving.detached = socket.detached = True
        leaving.socket = None
        self._resign(leaving)
        self._remove(socket, now)
        self._settle(now, socket.lane.key)
        return self._answer()

    # Sockets ----------------------------------------------------------------------------------------------------------

    def opened(self, socket: int, now: float) -> list[Action]:
        """A new socket is open and serves one request at a time, as far as is known."""
        opening = self._sockets.get(socket)
        if opening is not None:
            opening.usable = True
            opening.idle_from = now
            self._heard = opening.heard = self._heard + 1
            if opening.state is State.CONNECTING:
                opening.state = State.ACTIVE
                opening.lane.key.connecting -= 1
        return self._answer()

    def negotiated(self, socket: int, now: float, *, capacity: int, multiplexes: bool) -> list[Action]:
        """The protocol of an open socket is known, or its capacity is another than was thought.

        Args:
            socket: Its number.
            now: The time.
            capacity: How many requests it may serve at once.
            multiplexes: Whether its key speaks HTTP/2; remembered.
        """
        opening = self._sockets.get(socket)
        if opening is None:  # closed meanwhile
            return self._answer()
        lane = opening.lane
        self._remember(lane.key.name, multiplexes)
        if lane.leader is not None and lane.leader.socket is opening:
            lane.leader = None
        opening.capacity = capacity
        if opening.state is State.ACTIVE:
            self._share(opening, now)
        self._settle(now, lane.key)
        return self._answer()

    def lost(self, socket: int, now: float, *, error: bool = False) -> list[Action]:
        """A free socket was closed by its server, or wrote unasked (R14, N23). Anything else is not touched."""
        gone = self._sockets.get(socket)
        if gone is not None and gone.state is State.FREE:
            gone.error = error
            self._close(gone, CloseReason.ERROR if error else CloseReason.SERVER_CLOSED)
            self._settle(now, gone.lane.key)
        return self._answer()

    def close_free(self, now: float) -> list[Action]:
        """All free sockets are closed, because the system has no room for another one."""
        free = [socket for socket in self._sockets.values() if socket.state is State.FREE]
        for gone in free:
            self._close(gone, CloseReason.EVICTED)
        for gone in free:
            self._settle(now, gone.lane.key)
        return self._answer()

    def closed(self, socket: int, now: float) -> list[Action]:
        """A socket that was to be closed is closed: its slot goes to its heir, or to whom it may concern (R8, R9)."""
        gone = self._sockets[socket]
        self._remove(gone, now)
        self._settle(now, gone.lane.key)
        return self._answer()

    # Time -------------------------------------------------------------------------------------------------------------

    def next_deadline(self, home: Hashable) -> float | None:
        """When ``expire`` is to be called next for a home, or earlier; ``None`` if nothing in it can expire."""
        alarms = self._alarms.get(home)
        return alarms[0][0] if alarms else None

    def expire(self, home: Hashable, now: float) -> list[Action]:
        """Closes the free sockets of a home whose time is over (R16, R31, R34)."""
        alarms = self._alarms.get(home, [])
        while alarms and alarms[0][0] <= now:
            time, number = heapq.heappop(alarms)
            socket = self._sockets.get(number)
            if socket is None or socket.alarm != time:  # gone, or an earlier alarm took the place of this one
                continue
            socket.alarm = math.inf
            if socket.state is State.FREE:
                if socket.deadline <= now:
                    self._time_out(socket)
                    self._settle(now, socket.lane.key)
                else:
                    self._set_alarm(socket)
        if not alarms:
            self._alarms.pop(home, None)
        return self._answer()

    # The whole --------------------------------------------------------------------------------------------------------

    def close(self, now: float) -> list[Action]:
        """Node's ``destroy()`` (R24), which also ends the queue (N13). The core stays usable. Looks at everything.

        Every request is refused, but for those whose socket was detached; every socket is to be closed.
        """
        for request in list(self._requests.values()):
            if request.socket is not None or request.is_waiting():
                self._give_up(request)
                self._actions.append(Refuse(request.id))
        for socket in list(self._sockets.values()):
            if socket.state is not State.CLOSING:
                socket.lane.shareable.pop(socket.id, None)
                self._close(socket, CloseReason.AGENT_CLOSED)
        self._settle(now, *self._keys.values())
        return self._answer()

    def end_home(self, home: Hashable, now: float) -> list[Action]:
        """A home is no more: its requests are gone and its sockets are closed already. Looks at everything."""
        for request in [r for r in self._requests.values() if r.lane.home == home]:
            self._give_up(request)
        for socket in [s for s in self._sockets.values() if s.lane.home == home]:
            if socket.state is State.FREE:
                self._leave_free(socket)
            self._remove(socket, now)
        for key in self._keys.values():
            key.lanes.pop(home, None)
        self._alarms.pop(home, None)
        self._settle(now, *self._keys.values())
        return self._answer()

    def reconfigure(
        self,
        now: float,
        rules_for: Callable[[Hashable], Rules],
        *,
        max_total_sockets: float,
        max_total_free_sockets: float,
    ) -> list[Action]:
        """Other limits from now on; requests that now may go are served (N5). Looks at every key."""
        self._rules_for = rules_for
        self._max_total = max_total_sockets
        self._max_total_free = max_total_free_sockets
        for key in self._keys.values():
            key.rules = rules_for(key.name)
        self._too_many = len(self._sockets) > max_total_sockets
        self._settle(now, *self._keys.values())
        return self._answer()

    # After an interruption --------------------------------------------------------------------------------------------

    def recover(self, requests: Container[int], now: float) -> None:
        """Makes the books anew after an operation that was broken off in any place. Looks at everything.

        What the operation would have answered is lost; ``standing`` tells what holds now.

        Args:
            requests: Numbers; the core forgets every other request, as one that failed.
            now: The time.
        """
        for number in [number for number in self._requests if number not in requests]:
            self._drop(number, complete=False)
        self._count_anew()
        self._undo_halves()
        self._index_anew()
        while len(self._free) > self._max_total_free:
            self._close(next(iter(self._free.values())), CloseReason.FREE_LIMIT)
        for lane in [lane for key in self._keys.values() for lane in key.lanes.values()]:
            while lane.waiting and self._find_socket(request := next(iter(lane.waiting.values())), now):
                self._take_off_queue(request)
        self._settle(now, *self._keys.values())
        self._actions = []

    def standing(self, now: float) -> list[Grant | Close]:
        """Every grant and every order to close that holds, whether the driver was told or not. Looks at everything."""
        grants = [
            Grant(request.id, socket.id, not socket.usable, socket.request_count, now - request.since, None)
            for request in self._requests.values()
            if (socket := request.socket) is not None
        ]
        closing = [socket for socket in self._sockets.values() if socket.state is State.CLOSING]
        return [*grants, *(Close(socket.id, socket.retired or CloseReason.ABORTED) for socket in closing)]

    def _count_anew(self) -> None:
        """Whoever came is known or has gone."""
        counters = self.counters
        gone = counters.create_socket_error + counters.close_socket + counters.detached_socket
        if self._leaving is not None and counters.create_socket > gone + len(self._sockets):
            self._count_gone(self._leaving)
        gone = counters.create_socket_error + counters.close_socket + counters.detached_socket
        counters.create_socket = gone + len(self._sockets)
        known = counters.request + counters.request_error + len(self._requests)
        counters.request_error += max(0, self._submitted - known)
        self._submitted = counters.request + counters.request_error + len(self._requests)

    def _undo_halves(self) -> None:
        """Leaves no relation that only one of the two knows, and no socket in use that nobody uses."""
        for request in self._requests.values():
            if request.detached:
                request.socket = None
            source = request.heir_of
            if source is not None and (source.heir is not request or source.id not in self._sockets):
                request.heir_of = None
        in_use = Counter(request.socket for request in self._requests.values())
        for socket in self._sockets.values():
            heir = socket.heir
            if heir is not None and (heir.heir_of is not socket or heir.id not in self._requests):
                socket.heir = None
            socket.streams = in_use[socket]
            if socket.streams:
                socket.state = State.ACTIVE if socket.usable else State.CONNECTING
            elif socket.state is not State.FREE or socket.retired is not None:
                socket.retired = socket.retired or CloseReason.ABORTED
                socket.state = State.CLOSING

    def _index_anew(self) -> None:
        """Everything that only helps to find sockets and requests, or counts them."""
        requests = [request for request in self._requests.values() if not request.detached]
        lanes = dict.fromkeys([*(socket.lane for socket in self._sockets.values()), *(r.lane for r in requests)])
        keys = dict.fromkeys(lane.key for lane in lanes)
        for key in keys:
            key.used = key.sockets = key.connecting = key.closing = 0
            key.lanes, key.free, key.unclaimed = {}, OrderedDict(), OrderedDict()
        for lane in lanes:
            lane.waiting, lane.free, lane.shareable = OrderedDict(), OrderedDict(), OrderedDict()
            lane.queued_as = None
            lane.key.lanes[lane.home] = lane
            leader = lane.leader
            if leader is not None and (leader.id not in self._requests or leader.socket is leader.heir_of is None):
                lane.leader = None
        self._keys = {key.name: key for key in keys}
        free = {number: place for place, number in enumerate(self._free)}
        unclaimed = {number: place for place, number in enumerate(self._unclaimed)}
        self._free, self._unclaimed, self._queued = OrderedDict(), OrderedDict(), 0
        self._lanes, self._sweep_above, self._alarms = [], SPARE_ENTRIES, {}
        self._too_many = len(self._sockets) > self._max_total
        by_time = sorted(self._sockets.values(), key=lambda s: (s.free_since, free.get(s.id, len(free))))
        for socket in sorted(by_time, key=lambda s: unclaimed.get(s.id, len(unclaimed))):
            self._index(socket)
        for request in requests:
            if request.is_waiting() and request.heir_of is None:
                self._put_on_queue(request)
        for lane in lanes:
            self._enqueue(lane)

    def _index(self, socket: _Socket) -> None:
        lane, number = socket.lane, socket.id
        key = lane.key
        key.used += 1
        key.sockets += 1
        key.connecting += socket.state is State.CONNECTING
        key.closing += socket.state is State.CLOSING
        socket.alarm = math.inf
        if socket.state is State.FREE:
            lane.free[number] = key.free[number] = self._free[number] = socket
            self._set_alarm(socket)
        elif socket.state is State.ACTIVE and socket.streams < socket.capacity and socket.retired is None:
            lane.shareable[number] = socket
        elif socket.heir is not None:
            socket.heir.lane.key.used += socket.heir.lane.key is not key
        elif socket.state is State.CLOSING:
            self._unclaimed[number] = key.unclaimed[number] = socket

    # Looking ----------------------------------------------------------------------------------------------------------

    def is_known(self, request: int) -> bool:
        """Whether the request is not over."""
        return request in self._requests

    def sockets(self, now: float) -> Iterator[SocketView]:
        """Every socket that counts, oldest first. Looks at everything."""
        for socket in self._sockets.values():
            free = socket.state is State.FREE
            yield SocketView(
                id=socket.id,
                key=socket.lane.key.name,
                home=socket.lane.home,
                state=socket.state,
                request_count=socket.request_count,
                age=now - socket.created,
                idle_for=now - socket.free_since if free else None,
                expires_in=max(0.0, socket.deadline - now) if free and socket.deadline < math.inf else None,
            )

    def waiting(self) -> Iterator[tuple[int, Hashable, Hashable]]:
        """The waiting requests (number, key, home), oldest first. Looks at everything."""
        for request in self._requests.values():
            if request.is_waiting():
                yield request.id, request.lane.key.name, request.lane.home

    def is_free(self, socket: int) -> bool:
        """Whether the socket is free."""
        known = self._sockets.get(socket)
        return known is not None and known.state is State.FREE

    @property
    def total(self) -> int:
        """Sockets that count against the limit."""
        return len(self._sockets)

    def use_of(self, key: Hashable) -> tuple[int, Rules]:
        """How many slots a key has taken, and its rules."""
        known = self._keys.get(key)
        return (known.used, known.rules) if known is not None else (0, self._rules_for(key))

    def states_of(self, key: Hashable) -> dict[State, int]:
        """How many sockets a key that is in use has in each state."""
        known = self._keys[key]
        counts = {
            State.CONNECTING: known.connecting,
            State.ACTIVE: known.sockets - known.connecting - len(known.free) - known.closing,
            State.FREE: len(known.free),
            State.CLOSING: known.closing,
        }
        return {state: count for state, count in counts.items() if count}

    def queue_of(self, request: int) -> int:
        """How many requests of its key wait in the queue with a request, which counts even where it has left it."""
        asking = self._requests[request]
        waiting = sum(len(lane.waiting) for lane in asking.lane.key.lanes.values())
        return waiting + (request not in asking.lane.waiting)

    # Choosing ---------------------------------------------------------------------------------------------------------

    def _find_socket(self, request: _Request, now: float) -> bool:
        """Gives the request a socket of its lane that is there already (R2)."""
        lane = request.lane
        while lane.shareable:
            socket = next(iter(lane.shareable.values()))
            if self._takes(socket, request, now):
                self._grant(request, socket, now)
                return True
            del lane.shareable[socket.id]
        while lane.free:
            number = next(reversed(lane.free)) if lane.key.rules.lifo else next(iter(lane.free))
            socket = lane.free[number]
            if socket.deadline <= now:  # its timer is late
                self._time_out(socket)
                continue
            idle_for = now - socket.free_since
            self._leave_free(socket)
            self._grant(request, socket, now, idle_for=idle_for)
            return True
        return False

    def _settle(self, now: float, *keys: _Key) -> None:
        """Serves every waiting request that may have a slot, oldest first. Call it with the keys that changed.

        Two kinds wait: those that only the total stops, over all keys, and those that the limit of their key stops; the
        latter can use a slot of their own key only.
        """
        if self._too_many and len(self._sockets) <= self._max_total:
            self._too_many = False
            keys = tuple(self._keys.values())  # what was closing meanwhile was nobody's
        if self._queued:
            self._serve(now, keys)
        for key in keys:
            if key.used == 0:
                self._forget_if_unused(key)

    def _serve(self, now: float, keys: tuple[_Key, ...]) -> None:
        for key in keys:
            for lane in key.lanes.values():
                self._enqueue(lane)
        served = True
        while served:
            candidates = [key.oldest() for key in keys if key.used >= key.rules.max_sockets]
            candidates.append(self._oldest_below_limit())
            by_age = sorted((r for r in candidates if r is not None), key=lambda request: request.id)
            served = any(self._give_slot(request, now) for request in by_age)

    def _give_slot(self, request: _Request, now: float) -> bool:
        """Opens a socket for a waiting request, now or once another is closed; tells whether it could."""
        key = request.lane.key
        if self._has_slot(key):
            self._take_off_queue(request)
            self._take_slot(request, now)
            return True
        below = key.used < key.rules.max_sockets
        if len(self._sockets) > self._max_total or key.used > key.rules.max_sockets:  # a limit was lowered
            self._shed(key)
            return False
        unclaimed, free = (self._unclaimed, self._free) if below else (key.unclaimed, key.free)
        source = next(iter(unclaimed.values()), None) or next(iter(free.values()), None)
        if source is None:
            return False
        self._take_off_queue(request)
        self._lead(request)
        if source.state is State.FREE:
            self._close(source, CloseReason.EVICTED)
        self._inherit(source, request)
        return True

    def _has_slot(self, key: _Key) -> bool:
        """Whether one more socket may be opened for a key now."""
        return key.used < key.rules.max_sockets and len(self._sockets) < self._max_total

    def _take_slot(self, request: _Request, now: float) -> None:
        self._lead(request)
        request.lane.key.used += 1
        self._open(request, now)

    def _shed(self, key: _Key) -> None:
        """Closes free sockets above a lowered limit, the least recently used first, because a request waits."""
        while key.free and key.used - len(key.unclaimed) > key.rules.max_sockets:
            self._close(next(iter(key.free.values())), CloseReason.LIMIT_LOWERED)
        while self._free and len(self._sockets) - len(self._unclaimed) > self._max_total:
            self._close(next(iter(self._free.values())), CloseReason.LIMIT_LOWERED)

    def _oldest_below_limit(self) -> _Request | None:
        """The oldest waiting request whose key is below its limit; brings the heap of lanes up to date."""
        while self._lanes:
            number, _, lane = self._lanes[0]
            oldest = lane.oldest_below_limit()
            if oldest is not None and oldest.id == number:
                return oldest
            heapq.heappop(self._lanes)
            if lane.queued_as == number:
                lane.queued_as = None
                self._enqueue(lane)
        return None

    def _enqueue(self, lane: _Lane) -> None:
        """Makes the lane stand in the heap with its oldest request, if that may be served."""
        oldest = lane.oldest_below_limit()
        if oldest is None or lane.queued_as == oldest.id:
            return
        lane.queued_as = oldest.id
        heapq.heappush(self._lanes, (oldest.id, id(lane), lane))
        if len(self._lanes) > self._sweep_above:
            self._sweep_lanes()

    def _sweep_lanes(self) -> None:
        """Throws out what no longer counts: behind one request that waits for long, many may come and give up."""
        lanes = {lane for _, _, lane in self._lanes}
        self._lanes = []
        for lane in lanes:
            oldest = lane.oldest_below_limit()
            lane.queued_as = None
            if oldest is not None:
                lane.queued_as = oldest.id
                self._lanes.append((oldest.id, id(lane), lane))
        heapq.heapify(self._lanes)
        self._sweep_above = 2 * len(self._lanes) + SPARE_ENTRIES

    def _rival(self, socket: _Socket) -> _Request | None:
        """The oldest request waiting outside the socket's lane that its closing would bring nearer to a slot."""
        lane = socket.lane
        rivals = [self._oldest_below_limit(), *(other.oldest() for other in lane.key.lanes.values())]
        return min(
            (r for r in rivals if r is not None and r.lane is not lane), key=lambda request: request.id, default=None
        )

    # Moving -----------------------------------------------------------------------------------------------------------

    def _end_use(self, socket: _Socket, now: float, *, unfit: CloseReason | None) -> None:
        """A socket lost one of its requests: hand it over (R7), keep it free (R12), share it, or close it."""
        socket.streams -= 1
        if socket.retired is None:
            socket.retired = unfit
        self._share(socket, now)
        if socket.streams:
            return
        lane = socket.lane
        key = lane.key
        rules = key.rules
        limit, expires_by = rules.free_socket_timeout, CloseReason.IDLE_TIMEOUT
        if socket.hint is not None and socket.hint - rules.keep_alive_timeout_buffer < limit:
            limit, expires_by = socket.hint - rules.keep_alive_timeout_buffer, CloseReason.SERVER_HINT
        deadline = socket.idle_from + limit
        end_of_life = socket.created + rules.socket_active_ttl  # R34
        if end_of_life < deadline:
            deadline, expires_by = end_of_life, CloseReason.TTL
        socket.deadline, socket.expires_by = deadline, expires_by
        reason = socket.retired or self._why_not_keep(socket, now)
        if reason is not None:
            self._close(socket, reason)
            return
        if socket.state is State.CONNECTING:
            key.connecting -= 1
        number = socket.id
        socket.state = State.FREE
        socket.free_since = now
        lane.free[number] = key.free[number] = self._free[number] = socket
        self._set_alarm(socket)
        if len(self._free) > self._max_total_free:
            self._close(next(iter(self._free.values())), CloseReason.FREE_LIMIT)

    def _why_not_keep(self, socket: _Socket, now: float) -> CloseReason | None:
        """What forbids that a socket fit for another request stays free, if anything does."""
        key = socket.lane.key
        if not key.rules.keep_alive:
            return CloseReason.KEEP_ALIVE_OFF
        if socket.deadline <= now:
            return socket.expires_by
        if len(self._sockets) > self._max_total or key.used > key.rules.max_sockets:
            return CloseReason.LIMIT_LOWERED
        if len(key.free) >= key.rules.max_free_sockets or self._max_total_free < 1:
            return CloseReason.FREE_LIMIT
        return None

    def _share(self, socket: _Socket, now: float) -> None:
        """Gives the room on a socket to the requests waiting in its lane, oldest first."""
        lane = socket.lane
        while lane.waiting and socket.streams < socket.capacity:
            request = next(iter(lane.waiting.values()))
            if not self._takes(socket, request, now):
                break
            self._take_off_queue(request)
            self._grant(request, socket, now)
        if 0 < socket.streams < socket.capacity and socket.retired is None:
            lane.shareable[socket.id] = socket
        elif lane.shareable:
            lane.shareable.pop(socket.id, None)

    def _takes(self, socket: _Socket, request: _Request, now: float) -> bool:
        """Whether a socket takes one more request of its lane; if not, it takes no other, and closes after its last."""
        if socket.retired is None:
            if socket.end_of_life() <= now:
                socket.retired = CloseReason.TTL
            elif self._must_yield(socket, request):
                socket.retired = CloseReason.EVICTED
        return socket.retired is None

    def _must_yield(self, socket: _Socket, request: _Request) -> bool:
        """Whether one older than the request was passed over often enough for the socket to close for it (N29)."""
        rival = self._rival(socket)
        if rival is None or rival.id > request.id:
            return False
        rival.passed_over = (rival.passed_over + 1) % (MAX_OVERTAKEN + 1)
        return rival.passed_over == 0

    def _grant(self, request: _Request, socket: _Socket, now: float, *, idle_for: float | None = None) -> None:
        request.reuses = socket.request_count > 0
        request.heard = self._heard
        socket.request_count += 1
        request.socket = socket
        socket.streams += 1
        if socket.usable:
            socket.state = State.ACTIVE
        if socket.streams < socket.capacity:
            socket.lane.shareable[socket.id] = socket
        elif socket.capacity > 1:
            socket.lane.shareable.pop(socket.id, None)
        grant = Grant(request.id, socket.id, not socket.usable, socket.request_count, now - request.since, idle_for)
        self._actions.append(grant)

    def _open(self, request: _Request, now: float) -> None:
        """Makes a socket for a request, whose key has counted it already."""
        lane = request.lane
        socket = _Socket(self._next_socket, lane, now)
        self._next_socket += 1
        self._sockets[socket.id] = socket
        lane.key.sockets += 1
        lane.key.connecting += 1
        self.counters.create_socket += 1
        self._grant(request, socket, now)

    def _put_on_queue(self, request: _Request) -> None:
        request.lane.waiting[request.id] = request
        self._queued += 1

    def _take_off_queue(self, request: _Request) -> None:
        del request.lane.waiting[request.id]
        self._queued -= 1

    def _inherit(self, source: _Socket, heir: _Request) -> None:
        """The heir's socket will be opened when ``source`` is closed."""
        source.heir = heir
        heir.heir_of = source
        self._unclaimed.pop(source.id, None)
        source.lane.key.unclaimed.pop(source.id, None)
        if heir.lane.key is not source.lane.key:
            heir.lane.key.used += 1

    def _disinherit(self, heir: _Request, source: _Socket) -> None:
        """The heir is gone; the slot of the closing socket is anybody's."""
        source.heir = heir.heir_of = None
        self._unclaimed[source.id] = source.lane.key.unclaimed[source.id] = source
        if heir.lane.key is not source.lane.key:
            heir.lane.key.used -= 1

    def _close(self, socket: _Socket, reason: CloseReason) -> None:
        key = socket.lane.key
        if socket.state is State.FREE:
            self._leave_free(socket)
        elif socket.state is State.CONNECTING:
            key.connecting -= 1
        key.closing += 1
        socket.retired = reason
        socket.state = State.CLOSING
        self._unclaimed[socket.id] = key.unclaimed[socket.id] = socket
        self._actions.append(Close(socket.id, reason))

    def _time_out(self, socket: _Socket) -> None:
        self.counters.timeout_socket += 1
        self._close(socket, socket.expires_by)

    def _doubt(self, key: _Key, heard: int) -> None:
        """Close the free sockets of a key from which nothing came since the core had heard so much (N30)."""
        for socket in [other for other in key.free.values() if other.heard <= heard]:
            self._close(socket, CloseReason.IN_DOUBT)

    def _leave_free(self, socket: _Socket) -> None:
        del socket.lane.free[socket.id]
        del socket.lane.key.free[socket.id]
        del self._free[socket.id]

    def _remove(self, socket: _Socket, now: float) -> None:
        """The socket counts no longer; its slot goes to its heir, or is free: ``_settle`` is to be called."""
        self._leaving = socket
        del self._sockets[socket.id]
        self._count_gone(socket)
        lane, heir = socket.lane, socket.heir
        key = lane.key
        self._unclaimed.pop(socket.id, None)
        key.unclaimed.pop(socket.id, None)
        lane.shareable.pop(socket.id, None)
        key.used -= 1
        key.sockets -= 1
        key.closing -= socket.state is State.CLOSING
        key.connecting -= socket.state is State.CONNECTING
        if heir is not None:
            heir.heir_of = None
            if heir.lane.key is key:
                key.used += 1
            self._open(heir, now)

    # Small ------------------------------------------------------------------------------------------------------------

    def _answer(self) -> list[Action]:
        actions = self._actions
        if actions:
            self._actions = []
        return actions

    def _set_alarm(self, socket: _Socket) -> None:
        """One entry in the heap is enough for a socket: one that rings too early is set again (see ``expire``)."""
        if socket.deadline >= socket.alarm:
            return
        socket.alarm = socket.deadline
        alarms = self._alarms.setdefault(socket.lane.home, [])
        heapq.heappush(alarms, (socket.alarm, socket.id))
        if len(alarms) > 2 * len(self._sockets) + SPARE_ENTRIES:  # most are of sockets that went before their time
            known = {self._sockets[number] for _, number in alarms if number in self._sockets}
            alarms[:] = [(other.alarm, other.id) for other in known if other.alarm < math.inf]
            heapq.heapify(alarms)

    def _lead(self, request: _Request) -> None:
        """The request is about to open a socket; the others of its lane may have to wait for the protocol."""
        lane = request.lane
        if lane.negotiates and lane.leader is None and self._multiplexes.get(lane.key.name) is not False:
            lane.leader = request

    def _resign(self, request: _Request) -> None:
        """If others wait for the request to learn the protocol, they wait no more."""
        if request.lane.leader is request:
            request.lane.leader = None

    def _drop(self, number: int, *, complete: bool) -> _Request:
        """The request is no longer known; counts how it ended."""
        request = self._requests.pop(number)
        if complete:
            self.counters.request += 1
        else:
            self.counters.request_error += 1
        self._resign(request)
        return request

    def _queue_again(self, request: _Request) -> None:
        """It is older than all that wait in its lane, save those that came back like it."""
        waiting = request.lane.waiting
        self._put_on_queue(request)
        older = [other.id for other in takewhile(lambda other: other.id < request.id, waiting.values())]
        for number in (request.id, *reversed(older)):
            waiting.move_to_end(number, last=False)

    def _give_up(self, request: _Request) -> None:
        """The request ends without a word to its socket."""
        self._drop(request.id, complete=False)
        if request.id in request.lane.waiting:
            self._take_off_queue(request)
        if request.heir_of is not None:
            self._disinherit(request, request.heir_of)

    def _count_gone(self, socket: _Socket) -> None:
        if socket.detached:
            self.counters.detached_socket += 1
        elif socket.usable:
            self.counters.close_socket += 1
            self.counters.error_socket += socket.error
        else:
            self.counters.create_socket_error += 1
        self._leaving = None

    def _remember(self, key: Hashable, multiplexes: bool) -> None:
        self._multiplexes[key] = multiplexes
        self._multiplexes.move_to_end(key)
        if len(self._multiplexes) > MAX_REMEMBERED_PROTOCOLS:
            self._multiplexes.popitem(last=False)

    def _lane(self, name: Hashable, home: Hashable) -> _Lane:
        key = self._keys.get(name)
        if key is None:
            key = self._keys[name] = _Key(name, self._rules_for(name))
        lane = key.lanes.get(home)
        if lane is None:
            lane = key.lanes[home] = _Lane(key, home)
        return lane

    def _forget_if_unused(self, key: _Key) -> None:
        """A key without sockets and requests is dropped: there may be millions over a long life."""
        if not any(lane.waiting for lane in key.lanes.values()):
            self._keys.pop(key.name, None)


def _what_ended(timed_out: bool, error: bool, *, otherwise: CloseReason) -> CloseReason:
    """What made a socket unfit while it was in use."""
    if timed_out:
        return CloseReason.TIMEOUT
    return CloseReason.ERROR if error else otherwise
