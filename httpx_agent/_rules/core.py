"""The rules of the agent: a pure state machine.

Theory
======

The core decides which socket serves which request, when to open a socket and when to close one. It does no I/O, reads
no clock and takes no lock. It knows sockets and requests by number only. Every input takes the time ``now`` and returns
a list of actions, which the driver carries out *after* it has released its lock:

``Grant``   this request may use this socket, and must open it first if it is ``new``
``Close``   close this socket, then report ``closed``
``Refuse``  fail this request: the agent was closed, and the core has forgotten the request

**A socket** moves through these states. It counts against both limits until ``closed`` or ``detach``::

    submit ──> CONNECTING ──opened──> ACTIVE <──────────> FREE
                   │                    │  release / grant  │
                   │                    ├──detach──> (gone) │ expire, lost, evicted
                   └──────> CLOSING <───┴───────────────────┘
                               └──closed──> (gone)

**A request** is waiting, the heir of a closing socket, or in flight.

**A key** is what sockets are pooled by: the origin and ``sni_hostname``. **A home** is where a socket can be used: one
event loop, or the sync world. **A lane** is one key in one home, with its sockets and requests. A socket can pass from
one request to another only within its lane.

**A slot** is the right to have a socket. A request takes its slot from the first of these sources that has one: unused
capacity; a closing socket; the free socket that has been free longest, which is closed because the request cannot use
it. A request that takes its slot from one of the last two is the *heir* of that socket: it leaves the queue, and its
own socket is opened the moment the other one is closed. So both limits hold at every moment.

**The one rule of dispatch.** After every input, no request waits that could have a slot, and slots go to the oldest
request that may use them. Hence a new request never overtakes: if it finds a socket or a slot, no older request could
use it.

**Bounded overtaking.** A released socket goes to the oldest request waiting in its lane, even if an older request in
another lane could use its slot. A request is passed over at most ``MAX_OVERTAKEN`` times; then the socket is closed for
it. A request that joins others on a shared socket counts as overtaking too, because it delays the moment at which the
socket becomes free.

**Streams.** A socket that turns out to speak HTTP/2 serves up to ``capacity`` requests at once. In a lane that may
negotiate HTTP/2, the first request opens a socket, and the others wait until its protocol is known.

**Doubt.** A request may time out on a reused socket without having received one byte. Its path to the server may then
be gone: a NAT has forgotten the connections, or the machine slept. So the other free sockets of its key are closed, in
all homes, except those on which something arrived after the request got its socket. If the server was only slow, this
costs one handshake for each socket; without it, each socket could cost a request its timeout.

**A lowered limit** closes nothing by itself, as in Node. Free sockets above the limit are closed once a request waits
that cannot use them; active ones, when they are released and no request in their lane waits. No request gets a slot
until the number of sockets is back at the limit.

Rule numbers (R1 … R41) and defect numbers (N…, A…) are those of the page "Node's rules" in the documentation.

Cost: every operation is O(1) in sockets and waiting requests, except that it is O(log n) to keep deadlines, and the
lanes' oldest waiting requests, in order (both heaps are swept occasionally, at an amortised cost of O(1)), and linear
in the number of homes of one key. Doubt looks at the free sockets of one key. ``close``, ``close_free``, ``end_home``,
``reconfigure``, ``recover``, ``standing``, ``sockets`` and ``waiting`` look at everything, as their docstrings say. So
does the input that brings the total back down to a lowered limit.
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

#: Number of times that younger requests may overtake the oldest waiting request that could use a slot. A handover saves
#: a handshake, so it is worth some delay to others; the bound keeps a busy lane from starving them. Our choice: Node
#: has no such bound (N29).
MAX_OVERTAKEN = 16

#: Number of keys for which the core remembers whether they speak HTTP/2. It bounds the memory of an agent that visits
#: ever new origins. A forgotten key only makes its next requests wait again to learn the protocol.
MAX_REMEMBERED_PROTOCOLS = 1000

#: Number of outdated entries that a heap may hold, beyond a share that grows with it, before it is swept. Without this
#: minimum, small heaps would be swept again and again.
SPARE_ENTRIES = 64


class State(Enum):
    """A stage in the life of a socket."""

    CONNECTING = "connecting"
    ACTIVE = "active"
    FREE = "free"
    CLOSING = "closing"


class CloseReason(Enum):
    """The reason for closing a socket: the first one that ruled out another request."""

    IDLE_TIMEOUT = "idle_timeout"  # free for as long as `free_socket_timeout` allows
    SERVER_HINT = "server_hint"  # free for as long as the server's hint allows
    TTL = "ttl"  # as old as `socket_active_ttl` allows
    KEEP_ALIVE_OFF = "keep_alive_off"
    FREE_LIMIT = "free_limit"  # as many others are free as a limit allows
    EVICTED = "evicted"  # to make room for a request that cannot use it
    LIMIT_LOWERED = "limit_lowered"  # more sockets are open than a lowered limit allows
    SERVER_CLOSED = "server_closed"  # its server closed it, or sent unsolicited bytes
    NOT_REUSABLE = "not_reusable"  # the response was read to its end, but leaves the socket unfit for another request
    ABORTED = "aborted"  # the request was given up before its response ended
    TIMEOUT = "timeout"  # the limit on an active socket was reached
    ERROR = "error"
    IN_DOUBT = "in_doubt"  # silent since a request on another socket of its key timed out in silence
    AGENT_CLOSED = "agent_closed"
    LOOP_ENDED = "loop_ended"  # set by the driver, not by the core: see ``end_home``


@dataclass(frozen=True, slots=True)
class Rules:
    """The limits and choices that apply to the sockets of one key; see `httpx_agent.AgentOptions` for each.

    Times are in seconds; ``math.inf`` means no limit.
    """

    keep_alive: bool = True
    max_sockets: float = math.inf
    max_free_sockets: float = 256
    lifo: bool = True
    free_socket_timeout: float = 15.0
    socket_active_ttl: float = math.inf
    keep_alive_timeout_buffer: float = 1.0


class Grant(NamedTuple):
    """Permission for a request to use a socket.

    Attributes:
        request: The request's number.
        socket: The socket's number.
        new: Whether the request has to open the socket.
        requests_on_socket: Number of requests that have got this socket, including this one.
        queued_for: Seconds between ``submit`` and this grant.
        idle_for: Seconds for which the socket had been free; ``None`` if it was not free.
    """

    request: int
    socket: int
    new: bool
    requests_on_socket: int
    queued_for: float
    idle_for: float | None


class Close(NamedTuple):
    """An order to close a socket and to call ``closed`` once that is done."""

    socket: int
    reason: CloseReason


class Refuse(NamedTuple):
    """An order to fail a request, which the core has already forgotten."""

    request: int


Action = Grant | Close | Refuse


@dataclass(slots=True)
class Counters:
    """Totals since the agent was made; `httpx_agent.AgentStatus` defines each one."""

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
    """One socket as the core sees it; `httpx_agent.SocketInfo` defines the fields."""

    id: int
    key: Hashable
    home: Hashable
    state: State
    request_count: int
    age: float
    idle_for: float | None
    expires_in: float | None


class _Socket:
    """A socket, from the decision to open it until it is closed or detached."""

    __slots__ = (
        "alarm", "capacity", "created", "deadline", "detached", "error", "expires_by", "free_since", "heard", "heir",
        "hint", "id", "idle_from", "lane", "request_count", "retired", "state", "streams", "usable",
    )  # fmt: skip

    def __init__(self, id: int, lane: _Lane, now: float) -> None:
        self.id = id
        self.lane = lane
        self.created = now
        self.state = State.CONNECTING
        self.request_count = 0  # requests that have got it
        self.streams = 0  # requests in flight on it now
        self.capacity = 1  # requests that may be in flight on it at once
        self.usable = False  # set once it has been opened, and never reset
        self.retired: CloseReason | None = None  # why it takes no further request
        self.error = False  # an error is the reason for closing it
        self.detached = False  # it now belongs to the caller of its request
        self.heir: _Request | None = None  # the request that will get its slot
        self.hint: float | None = None  # the server's hint in its last response, in seconds
        self.idle_from = now  # when its last response ended, from which its deadline counts
        self.heard = 0  # the value of `Core._heard` when its server last sent something
        self.free_since = now
        self.deadline = math.inf  # when it expires, if it is free
        self.expires_by = CloseReason.IDLE_TIMEOUT  # the limit that sets the deadline
        self.alarm = math.inf  # the time of its only valid entry in the heap of alarms

    def end_of_life(self) -> float:
        """Return the time from which it is too old for another request (R34)."""
        return self.created + self.lane.key.rules.socket_active_ttl


class _Request:
    """A request, from its arrival until it is released, withdrawn, abandoned or refused."""

    __slots__ = ("detached", "heard", "heir_of", "id", "lane", "passed_over", "reuses", "since", "socket")

    def __init__(self, id: int, lane: _Lane, now: float) -> None:
        self.id = id
        self.lane = lane
        self.since = now  # when it arrived
        self.passed_over = 0  # times that younger requests have overtaken it
        self.socket: _Socket | None = None
        self.reuses = False  # its socket had served another request before
        self.heard = 0  # the value of `Core._heard` when it got its socket
        self.heir_of: _Socket | None = None  # the closing socket whose slot it will get
        self.detached = False  # its socket now belongs to its caller

    def is_waiting(self) -> bool:
        """Return whether it has no socket yet. A request whose socket was detached is in flight, not waiting."""
        return self.socket is None and not self.detached


class _Lane:
    """One key in one home: the sockets and requests among which a socket can be handed over."""

    __slots__ = ("free", "home", "key", "leader", "negotiates", "queued_as", "shareable", "waiting")

    def __init__(self, key: _Key, home: Hashable) -> None:
        self.key = key
        self.home = home
        self.negotiates = False  # a new socket may turn out to speak HTTP/2
        self.waiting: OrderedDict[int, _Request] = OrderedDict()  # oldest first
        self.free: OrderedDict[int, _Socket] = OrderedDict()  # in the order in which they became free
        self.shareable: OrderedDict[int, _Socket] = OrderedDict()  # active HTTP/2 sockets with room for more requests
        self.leader: _Request | None = None  # opens a socket; the other requests wait to learn its protocol
        self.queued_as: int | None = None  # the number of the request that represents it in the heap of lanes

    def oldest(self) -> _Request | None:
        """Return the oldest waiting request that may open a socket."""
        if self.leader is not None:
            return None
        return next(iter(self.waiting.values()), None)

    def oldest_below_limit(self) -> _Request | None:
        """Return the oldest waiting request that may open a socket, if the key is below its limit."""
        return self.oldest() if self.key.used < self.key.rules.max_sockets else None


class _Key:
    """What sockets are pooled by, with the counts that its limit needs, over all homes."""

    __slots__ = ("closing", "connecting", "free", "lanes", "name", "rules", "sockets", "unclaimed", "used")

    def __init__(self, name: Hashable, rules: Rules) -> None:
        self.name = name
        self.rules = rules
        self.used = 0  # slots taken: its sockets, and other keys' closing sockets whose heir belongs to this key
        self.sockets = 0  # its sockets, in whatever state
        self.connecting = 0  # its sockets in the state CONNECTING
        self.closing = 0  # its sockets in the state CLOSING
        self.lanes: dict[Hashable, _Lane] = {}  # by home
        self.free: OrderedDict[int, _Socket] = OrderedDict()  # least recently used first
        self.unclaimed: OrderedDict[int, _Socket] = OrderedDict()  # closing sockets without an heir

    def oldest(self) -> _Request | None:
        """Return the oldest waiting request of any home that may open a socket."""
        candidates = [request for lane in self.lanes.values() if (request := lane.oldest()) is not None]
        return min(candidates, key=lambda request: request.id, default=None)


class Core:
    """The agent's rules. Not thread-safe: its driver holds one lock around every call.

    Args:
        rules_for: Returns the rules of a key. Called when the core first meets the key, and again if it had forgotten
            it.
        max_total_sockets: Maximum number of sockets of all keys.
        max_total_free_sockets: Maximum number of free sockets of all keys. Above it, the least recently used is closed.
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
        self._too_many = False  # the total was lowered, and more sockets than that are still open
        self._next_socket = 0  # the number of the next socket
        self._submitted = 0  # requests that have ever arrived
        # A socket that has been removed, and perhaps not yet counted as gone: needed by `recover`.
        self._leaving: _Socket | None = None
        # Number of times that a server sent something. Not a time, because two events may share a tick of the clock.
        self._heard = 0
        self._keys: dict[Hashable, _Key] = {}  # keys with sockets or requests
        self._sockets: dict[int, _Socket] = {}  # sockets that count against the limits, by number, oldest first
        self._requests: dict[int, _Request] = {}  # requests that are not over, by number, oldest first
        self._queued = 0  # requests that wait in lanes; heirs have left the queue
        self._free: OrderedDict[int, _Socket] = OrderedDict()  # free sockets of all keys, least recently used first
        self._unclaimed: OrderedDict[int, _Socket] = OrderedDict()  # closing sockets of all keys without an heir
        # A heap of lanes by the number of their oldest request. Entries may be outdated: check one before using it.
        self._lanes: list[tuple[int, int, _Lane]] = []
        self._sweep_above = SPARE_ENTRIES  # the length above which the heap of lanes is swept
        self._alarms: dict[Hashable, list[tuple[float, int]]] = {}  # by home, a heap of (time, socket's number)
        self._multiplexes: OrderedDict[Hashable, bool] = OrderedDict()  # whether a key speaks HTTP/2, where known
        self._actions: list[Action] = []  # collected for the answer to the current input

    # Requests ---------------------------------------------------------------------------------------------------------

    def submit(
        self, request: int, key: Hashable, home: Hashable, now: float, *, negotiates: bool = False
    ) -> list[Action]:
        """Take in a request (R1): it gets a free socket (R2) or a new one (R4), or waits (R5).

        Args:
            request: Its number, greater than every number before, because the order of numbers is the order of arrival.
            key: What its sockets are pooled by.
            home: Where its sockets can be used.
            now: The time.
            negotiates: Whether a socket opened for it may turn out to speak HTTP/2.
        """
        lane = self._lane(key, home)
        lane.negotiates = negotiates
        asking = self._requests[request] = _Request(request, lane, now)
        self._submitted += 1
        if not self._find_socket(asking, now):
            if not self._queued and lane.leader is None and self._has_slot(lane.key):  # no older request waits
                self._take_slot(asking, now)
            else:
                self._put_on_queue(asking)
                self._serve_queue(now, lane.key)
        return self._answer()

    def withdraw(self, request: int, now: float) -> list[Action]:
        """End a request that has sent nothing, whether it waits or has a socket. An open socket serves the next one."""
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
        self._serve_queue(now, *keys)
        return self._answer()

    def abandon(self, request: int, now: float) -> list[Action]:
        """End a request in whatever state it is. Its socket, if it has one, takes no further request."""
        leaving = self._requests[request]
        keys = [leaving.lane.key]
        if leaving.heir_of is not None:
            keys.append(leaving.heir_of.lane.key)
        self._give_up(leaving)
        if leaving.socket is not None:
            self._end_use(leaving.socket, now, unfit=CloseReason.ABORTED)
        self._serve_queue(now, *keys)
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
        """End a request in flight and release its socket (R7, R11, R12, R18, R23).

        Args:
            request: Its number.
            now: The time.
            reusable: Whether its socket is known to be fit for another request.
            complete: Whether its response was read to the end.
            hint: The server's ``Keep-Alive: timeout=``, in seconds (R15).
            error: Whether an error ended the use of the socket.
            timed_out: Whether the limit on an active socket ended it (R33).
            unheard: Whether nothing arrived on its socket after the request got it.
            ended: Whether the server had closed the socket.
        """
        leaving = self._drop(request, complete=complete)
        socket = leaving.socket
        self.counters.timeout_socket += timed_out
        if socket is not None:  # a detached socket belongs to the caller
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
            self._serve_queue(now, socket.lane.key)
        return self._answer()

    def replace(
        self, request: int, now: float, *, fresh: bool = False, error: bool = False, timed_out: bool = False
    ) -> list[Action]:
        """Take a dead socket away from its request, which keeps its place and gets another socket (N8, N16).

        Args:
            request: Its number.
            now: The time.
            fresh: Whether only a new socket will do. The exception: if other requests still use the dead socket, so
                that its slot cannot be taken, and there is no other slot, then any socket will do.
            error: Whether an error ended the use of the socket.
            timed_out: Whether the limit on an active socket ended it.
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
        else:  # other requests still use the dead socket
            self._queue_again(asking)
            self._serve_queue(now, lane.key)
            if request in lane.waiting and self._find_socket(asking, now):
                self._take_off_queue(asking)
        self._serve_queue(now, lane.key)
        return self._answer()

    def detach(self, request: int, now: float) -> list[Action]:
        """Give the socket of a request to the caller, after 101 or a 2xx to CONNECT (R25).

        The request must be the only one on the socket. It stays in flight.
        """
        leaving = self._requests[request]
        socket = leaving.socket
        assert socket is not None
        assert socket.streams == 1
        leaving.detached = socket.detached = True
        leaving.socket = None
        self._resign(leaving)
        self._remove(socket, now)
        self._serve_queue(now, socket.lane.key)
        return self._answer()

    # Sockets ----------------------------------------------------------------------------------------------------------

    def opened(self, socket: int, now: float) -> list[Action]:
        """Note that a new socket is open. It serves one request at a time until ``negotiated`` says otherwise."""
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
        """Note the protocol of an open socket, or a change of its capacity.

        Args:
            socket: Its number.
            now: The time.
            capacity: Number of requests that it may serve at once.
            multiplexes: Whether its key speaks HTTP/2, which the core remembers.
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
        self._serve_queue(now, lane.key)
        return self._answer()

    def lost(self, socket: int, now: float, *, error: bool = False) -> list[Action]:
        """Close a free socket whose server closed it or sent unsolicited bytes (R14, N23). Ignore any other socket."""
        gone = self._sockets.get(socket)
        if gone is not None and gone.state is State.FREE:
            gone.error = error
            self._close(gone, CloseReason.ERROR if error else CloseReason.SERVER_CLOSED)
            self._serve_queue(now, gone.lane.key)
        return self._answer()

    def close_free(self, now: float) -> list[Action]:
        """Close all free sockets: the process has no descriptor left, or the agent is to rest. Looks at everything."""
        free = [socket for socket in self._sockets.values() if socket.state is State.FREE]
        for gone in free:
            self._close(gone, CloseReason.EVICTED)
        for gone in free:
            self._serve_queue(now, gone.lane.key)
        return self._answer()

    def closed(self, socket: int, now: float) -> list[Action]:
        """Forget a socket that is now closed. Its slot goes to its heir, or to the oldest eligible request (R8, R9)."""
        gone = self._sockets[socket]
        self._remove(gone, now)
        self._serve_queue(now, gone.lane.key)
        return self._answer()

    # Time -------------------------------------------------------------------------------------------------------------

    def next_deadline(self, home: Hashable) -> float | None:
        """Return when to call ``expire`` for a home; ``None`` if nothing in it can expire.

        No socket expires before that time; it may turn out then that none has expired yet.
        """
        alarms = self._alarms.get(home)
        return alarms[0][0] if alarms else None

    def expire(self, home: Hashable, now: float) -> list[Action]:
        """Close the free sockets of a home that have expired (R16, R31, R34)."""
        alarms = self._alarms.get(home, [])
        while alarms and alarms[0][0] <= now:
            time, number = heapq.heappop(alarms)
            socket = self._sockets.get(number)
            if socket is None or socket.alarm != time:  # the socket is gone, or an earlier alarm replaced this one
                continue
            socket.alarm = math.inf
            if socket.state is State.FREE:
                if socket.deadline <= now:
                    self._time_out(socket)
                    self._serve_queue(now, socket.lane.key)
                else:
                    self._set_alarm(socket)
        if not alarms:
            self._alarms.pop(home, None)
        return self._answer()

    # The agent as a whole ---------------------------------------------------------------------------------------------

    def close(self, now: float) -> list[Action]:
        """Close every socket and refuse every request, except those whose socket was detached. Looks at everything.

        This is Node's ``destroy()`` (R24), except that it also ends the queue (N13). The core stays usable.
        """
        for request in list(self._requests.values()):
            if request.socket is not None or request.is_waiting():
                self._give_up(request)
                self._actions.append(Refuse(request.id))
        for socket in list(self._sockets.values()):
            if socket.state is not State.CLOSING:
                socket.lane.shareable.pop(socket.id, None)
                self._close(socket, CloseReason.AGENT_CLOSED)
        self._serve_queue(now, *self._keys.values())
        return self._answer()

    def end_home(self, home: Hashable, now: float) -> list[Action]:
        """Forget a home that has ended, with its requests and its sockets, which are closed. Looks at everything.

        The answer contains no ``Close`` for these sockets; the driver records `CloseReason.LOOP_ENDED` for them.
        """
        for request in [r for r in self._requests.values() if r.lane.home == home]:
            self._give_up(request)
        for socket in [s for s in self._sockets.values() if s.lane.home == home]:
            if socket.state is State.FREE:
                self._leave_free(socket)
            self._remove(socket, now)
        for key in self._keys.values():
            key.lanes.pop(home, None)
        self._alarms.pop(home, None)
        self._serve_queue(now, *self._keys.values())
        return self._answer()

    def reconfigure(
        self,
        now: float,
        rules_for: Callable[[Hashable], Rules],
        *,
        max_total_sockets: float,
        max_total_free_sockets: float,
    ) -> list[Action]:
        """Apply new limits from now on, and serve the queue under them (N5). Looks at every key."""
        self._rules_for = rules_for
        self._max_total = max_total_sockets
        self._max_total_free = max_total_free_sockets
        for key in self._keys.values():
            key.rules = rules_for(key.name)
        self._too_many = len(self._sockets) > max_total_sockets
        self._serve_queue(now, *self._keys.values())
        return self._answer()

    # After an interruption --------------------------------------------------------------------------------------------

    def recover(self, requests: Container[int], now: float) -> None:
        """Rebuild the books after an input that was interrupted at any instruction. Looks at everything.

        The interrupted input's answer is lost. ``standing`` returns every decision that holds now.

        Args:
            requests: Numbers of the requests that are not over. The core forgets every other request, as failed.
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
        self._serve_queue(now, *self._keys.values())
        self._actions = []

    def standing(self, now: float) -> list[Grant | Close]:
        """Return every grant and every order to close that holds, old ones included. Looks at everything."""
        grants = [
            Grant(request.id, socket.id, not socket.usable, socket.request_count, now - request.since, None)
            for request in self._requests.values()
            if (socket := request.socket) is not None
        ]
        closing = [socket for socket in self._sockets.values() if socket.state is State.CLOSING]
        return [*grants, *(Close(socket.id, socket.retired or CloseReason.ABORTED) for socket in closing)]

    def _count_anew(self) -> None:
        """Correct the counters: every socket and every request that came is either known or gone."""
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
        """Undo half-made changes: a relation that only one side records, and an active socket without a request."""
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
        """Rebuild every count and every index from the sockets and requests themselves."""
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

    # Queries ----------------------------------------------------------------------------------------------------------

    def is_known(self, request: int) -> bool:
        """Return whether a request is not over."""
        return request in self._requests

    def sockets(self, now: float) -> Iterator[SocketView]:
        """Yield every socket that counts against the limits, oldest first. Looks at everything."""
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
        """Yield number, key and home of each waiting request, oldest first. Looks at everything."""
        for request in self._requests.values():
            if request.is_waiting():
                yield request.id, request.lane.key.name, request.lane.home

    def is_free(self, socket: int) -> bool:
        """Return whether a socket is free; false if it is unknown."""
        known = self._sockets.get(socket)
        return known is not None and known.state is State.FREE

    @property
    def total(self) -> int:
        """Number of sockets that count against the limit on all keys together."""
        return len(self._sockets)

    def use_of(self, key: Hashable) -> tuple[int, Rules]:
        """Return the number of slots that a key has taken, and its rules."""
        known = self._keys.get(key)
        return (known.used, known.rules) if known is not None else (0, self._rules_for(key))

    def states_of(self, key: Hashable) -> dict[State, int]:
        """Return the number of a known key's sockets by state, leaving out states with none."""
        known = self._keys[key]
        counts = {
            State.CONNECTING: known.connecting,
            State.ACTIVE: known.sockets - known.connecting - len(known.free) - known.closing,
            State.FREE: len(known.free),
            State.CLOSING: known.closing,
        }
        return {state: count for state, count in counts.items() if count}

    def queue_of(self, request: int) -> int:
        """Return the number of requests queued for the same key, counting this one even if it has left the queue."""
        asking = self._requests[request]
        waiting = sum(len(lane.waiting) for lane in asking.lane.key.lanes.values())
        return waiting + (request not in asking.lane.waiting)

    # Choosing who gets what -------------------------------------------------------------------------------------------

    def _find_socket(self, request: _Request, now: float) -> bool:
        """Grant the request an open socket of its lane, and return whether there was one (R2)."""
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
            if socket.deadline <= now:  # it has expired, but its timer is late
                self._time_out(socket)
                continue
            idle_for = now - socket.free_since
            self._leave_free(socket)
            self._grant(request, socket, now, idle_for=idle_for)
            return True
        return False

    def _serve_queue(self, now: float, *keys: _Key) -> None:
        """Serve every waiting request that may have a slot, oldest first. Call it with the keys that changed.

        A request waits for one of two reasons. If only the total stops it, it can use the slot of any key. If the limit
        of its key stops it, it can use only a slot of that key.
        """
        if self._too_many and len(self._sockets) <= self._max_total:
            self._too_many = False
            keys = tuple(self._keys.values())  # above the limit, closing sockets of any key got no heir
        if self._queued:
            self._give_slots(now, keys)
        for key in keys:
            if key.used == 0:
                self._forget_if_unused(key)

    def _give_slots(self, now: float, keys: tuple[_Key, ...]) -> None:
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
        """Give a waiting request a slot, now or as the heir of a closing socket; return whether there was one."""
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
        """Return whether one more socket may be opened for a key now."""
        return key.used < key.rules.max_sockets and len(self._sockets) < self._max_total

    def _take_slot(self, request: _Request, now: float) -> None:
        self._lead(request)
        request.lane.key.used += 1
        self._open(request, now)

    def _shed(self, key: _Key) -> None:
        """Close free sockets above a lowered limit, least recently used first, because a request waits."""
        while key.free and key.used - len(key.unclaimed) > key.rules.max_sockets:
            self._close(next(iter(key.free.values())), CloseReason.LIMIT_LOWERED)
        while self._free and len(self._sockets) - len(self._unclaimed) > self._max_total:
            self._close(next(iter(self._free.values())), CloseReason.LIMIT_LOWERED)

    def _oldest_below_limit(self) -> _Request | None:
        """Return the oldest waiting request whose key is below its limit, dropping outdated heap entries on the way."""
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
        """Enter the lane in the heap under its oldest request, if the key's limit lets that be served."""
        oldest = lane.oldest_below_limit()
        if oldest is None or lane.queued_as == oldest.id:
            return
        lane.queued_as = oldest.id
        heapq.heappush(self._lanes, (oldest.id, id(lane), lane))
        if len(self._lanes) > self._sweep_above:
            self._sweep_lanes()

    def _sweep_lanes(self) -> None:
        """Drop outdated entries from the heap of lanes.

        They pile up below the top while one request waits for long and many others arrive and give up.
        """
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
        """Return the oldest request waiting in another lane that closing this socket would bring nearer to a slot."""
        lane = socket.lane
        rivals = [self._oldest_below_limit(), *(other.oldest() for other in lane.key.lanes.values())]
        return min(
            (r for r in rivals if r is not None and r.lane is not lane), key=lambda request: request.id, default=None
        )

    # Moving sockets and requests --------------------------------------------------------------------------------------

    def _end_use(self, socket: _Socket, now: float, *, unfit: CloseReason | None) -> None:
        """Take a request off its socket; then hand over (R7), keep free (R12), share or close the socket."""
        socket.streams -= 1
        if socket.retired is None:
            socket.retired = unfit
        self._share(socket, now)
        if socket.streams:
            return
        lane = socket.lane
        key = lane.key
        socket.deadline, socket.expires_by = _idle_deadline(socket)
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
        """Return why a socket that is fit for another request cannot stay free; ``None`` if it can."""
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
        """Fill the room on a socket with the requests waiting in its lane, oldest first."""
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
        """Return whether a socket takes one more request of its lane.

        If not, retire it: it takes no request any more, and is closed when those on it are over.
        """
        if socket.retired is None:
            if socket.end_of_life() <= now:
                socket.retired = CloseReason.TTL
            elif self._must_yield(socket, request):
                socket.retired = CloseReason.EVICTED
        return socket.retired is None

    def _must_yield(self, socket: _Socket, request: _Request) -> bool:
        """Return whether the socket must close for an older request that was passed over often enough (N29).

        Count the overtaking otherwise. Once the answer has been yes, the count begins at zero again.
        """
        rival = self._rival(socket)
        if rival is None or rival.id > request.id:
            return False
        rival.passed_over = (rival.passed_over + 1) % (MAX_OVERTAKEN + 1)
        return rival.passed_over == 0

    def _grant(self, request: _Request, socket: _Socket, now: float, *, idle_for: float | None = None) -> None:
        """Put a request on a socket."""
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
        """Open a socket for a request. Its key's ``used`` must count the slot already."""
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
        """Make a request the heir of a closing socket: its own socket will be opened when ``source`` is closed."""
        source.heir = heir
        heir.heir_of = source
        self._unclaimed.pop(source.id, None)
        source.lane.key.unclaimed.pop(source.id, None)
        if heir.lane.key is not source.lane.key:
            heir.lane.key.used += 1

    def _disinherit(self, heir: _Request, source: _Socket) -> None:
        """Leave a closing socket without an heir, because the heir is over. Any eligible request may claim the slot."""
        source.heir = heir.heir_of = None
        self._unclaimed[source.id] = source.lane.key.unclaimed[source.id] = source
        if heir.lane.key is not source.lane.key:
            heir.lane.key.used -= 1

    def _close(self, socket: _Socket, reason: CloseReason) -> None:
        """Order a socket to be closed. Its slot is unclaimed until a request becomes its heir."""
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
        """Close the free sockets of a key on which nothing has arrived since ``_heard`` had the given value (N30)."""
        for socket in [other for other in key.free.values() if other.heard <= heard]:
            self._close(socket, CloseReason.IN_DOUBT)

    def _leave_free(self, socket: _Socket) -> None:
        del socket.lane.free[socket.id]
        del socket.lane.key.free[socket.id]
        del self._free[socket.id]

    def _remove(self, socket: _Socket, now: float) -> None:
        """Stop counting a socket, and open a socket for its heir, if any. The caller must serve the queue next."""
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

    # Bookkeeping ------------------------------------------------------------------------------------------------------

    def _answer(self) -> list[Action]:
        actions = self._actions
        if actions:
            self._actions = []
        return actions

    def _set_alarm(self, socket: _Socket) -> None:
        """Make sure that an alarm rings by the socket's deadline.

        A socket needs only one valid entry in the heap. An earlier one will do: ``expire`` sets it again.
        """
        if socket.deadline >= socket.alarm:
            return
        socket.alarm = socket.deadline
        alarms = self._alarms.setdefault(socket.lane.home, [])
        heapq.heappush(alarms, (socket.alarm, socket.id))
        if len(alarms) > 2 * len(self._sockets) + SPARE_ENTRIES:  # most sockets went before their alarm
            known = {self._sockets[number] for _, number in alarms if number in self._sockets}
            alarms[:] = [(other.alarm, other.id) for other in known if other.alarm < math.inf]
            heapq.heapify(alarms)

    def _lead(self, request: _Request) -> None:
        """Make a request that is about to open a socket the leader of its lane, if HTTP/2 may be negotiated there."""
        lane = request.lane
        if lane.negotiates and lane.leader is None and self._multiplexes.get(lane.key.name) is not False:
            lane.leader = request

    def _resign(self, request: _Request) -> None:
        """End the leadership of a request, if it leads its lane, so that the others need not wait for its protocol."""
        if request.lane.leader is request:
            request.lane.leader = None

    def _drop(self, number: int, *, complete: bool) -> _Request:
        """Forget a request, and count how it ended."""
        request = self._requests.pop(number)
        if complete:
            self.counters.request += 1
        else:
            self.counters.request_error += 1
        self._resign(request)
        return request

    def _queue_again(self, request: _Request) -> None:
        """Put a request back in its lane's queue, in order of age.

        It is older than every other request there, except those that also came back.
        """
        waiting = request.lane.waiting
        self._put_on_queue(request)
        older = [other.id for other in takewhile(lambda other: other.id < request.id, waiting.values())]
        for number in (request.id, *reversed(older)):
            waiting.move_to_end(number, last=False)

    def _give_up(self, request: _Request) -> None:
        """End a request and its place in the queue or as an heir. Its socket, if it has one, is left as it is."""
        self._drop(request.id, complete=False)
        if request.id in request.lane.waiting:
            self._take_off_queue(request)
        if request.heir_of is not None:
            self._disinherit(request, request.heir_of)

    def _count_gone(self, socket: _Socket) -> None:
        """Count a removed socket by how it ended."""
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
        """Forget a key without sockets and waiting requests. A long-lived agent may meet millions of keys."""
        if not any(lane.waiting for lane in key.lanes.values()):
            self._keys.pop(key.name, None)


def _idle_deadline(socket: _Socket) -> tuple[float, CloseReason]:
    """Return until when a socket may stay free (R15, R16, R31, R34), and the reason for closing it then."""
    rules = socket.lane.key.rules
    limit, expires_by = rules.free_socket_timeout, CloseReason.IDLE_TIMEOUT
    if socket.hint is not None and socket.hint - rules.keep_alive_timeout_buffer < limit:
        limit, expires_by = socket.hint - rules.keep_alive_timeout_buffer, CloseReason.SERVER_HINT
    deadline = socket.idle_from + limit
    end_of_life = socket.created + rules.socket_active_ttl
    return (end_of_life, CloseReason.TTL) if end_of_life < deadline else (deadline, expires_by)


def _what_ended(timed_out: bool, error: bool, *, otherwise: CloseReason) -> CloseReason:
    """Return what made an active socket unfit for another request."""
    if timed_out:
        return CloseReason.TIMEOUT
    return CloseReason.ERROR if error else otherwise
