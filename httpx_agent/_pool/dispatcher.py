"""The dispatcher owns the core, the lock around it, the homes and the sockets. It decides, then acts.

**Order.** Every operation has the same four phases: lock, core, unlock, I/O. Under the lock, the core decides and
`_apply` records the decision in the books. After the lock is released, `_carry_out` does everything that cannot block.
Closing a socket can block, so that is left to the flow `close_sockets`, which runs in the socket's home. A thread that
needs a home's watching lock as well takes it before the dispatcher's.

**Interruptions.** A signal handler may raise at any instruction: `KeyboardInterrupt`, or a time limit. What happens to
the work that it breaks off depends on where it strikes:

- *Under the lock.* `_guarded` sets `_is_deciding` before a decision and resets it afterwards. A thread that takes the
  lock and finds the flag set knows that the last decision was broken off. Before anything else it rebuilds the books
  from facts that cannot be half recorded: which socket each request has, which sockets exist, and which requests are
  not over (`_recover`, `Core.recover`).
- *Between a decision and its consequences.* `_unfinished` counts, by thread, the decisions whose consequences are still
  to be carried out. The consequences follow from the books: a waiting request that has got a socket must be woken, and
  a closing socket must be closed. When an exception leaves a request, `give_up` checks for unfinished decisions. If
  there are any, `sweep` carries out everything that follows from the books, whether it was done before or not, which is
  safe because each consequence can be carried out twice.
- *Outside both.* One object at a time is responsible for ending a request: first the call that sends it, then the body
  of its response. The call ends the request before it lets an exception out, whatever had been done by then. A body
  that is dropped leaves a note in `_abandoned`, by a callback in C, which no exception can interrupt (`Ticket.body`).

A second exception, raised while the first is being handled, may leave consequences undone until the next request
arrives. A request that an exception leaves is noted in `_abandoned` before anything else is done about it, and a thread
that begins another request first finishes what it left unfinished. The books balance meanwhile. Events for an observer
(telemetry) are lost if what was to report them is interrupted.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import deque
from contextlib import suppress
from dataclasses import replace
from functools import partial, wraps
from itertools import islice
from threading import get_ident
from typing import TYPE_CHECKING, Any, NamedTuple, NotRequired, TypedDict, TypeVar, TypeVarTuple, Unpack

import sniffio

from .._connection.factory import ConnectionFactory
from .._rules.core import Action, Close, Core, Counters, Grant, Refuse, Rules, SocketView, State
from .._runtime import process
from .._runtime.homes import AsyncHome, AsyncioHome, Home, SyncHome, TrioHome
from .._runtime.locks import Lock, is_held_here, let_go
from .._values.options import (
    UNSET,
    AgentOptions,
    OptionsPerOrigin,
    check_option,
    check_options,
    check_origin,
    no_limit,
    rules_of,
)
from .._values.origins import Key
from .socket import Socket
from .steps import CloseSocket
from .ticket import BodyReference, Ticket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from .._family import Family
    from .._runtime.flows import Flow
    from .observer import Observer

#: Maximum number of streams on an HTTP/2 connection, whatever its server allows: httpcore opens no more.
MAX_STREAMS = 100

#: Number of entries in each of the caches for keys and for options. It bounds the memory of an agent that visits ever
#: new origins. A full cache is emptied.
MAX_KNOWN_KEYS = 10_000

#: Number of the oldest requests that are searched for responses that their thread has lost. A lost response is older
#: than the requests that wait, of which there may be thousands.
MOST_LOST = 256

_log = logging.getLogger("httpx_agent")

_DEFAULT_PORTS = {b"http": 80, b"https": 443, b"ws": 80, b"wss": 443}


Args = TypeVarTuple("Args")
Result = TypeVar("Result")


class Outcome(TypedDict):
    """The end of a request in flight, as arguments of `Core.release`."""

    reusable: bool
    complete: bool
    hint: float | None
    error: NotRequired[bool]
    timed_out: NotRequired[bool]
    unheard: NotRequired[bool]
    ended: NotRequired[bool]


class Standing(NamedTuple):
    """The limits that a waiting request is up against, for the text of its `PoolTimeout`.

    Attributes:
        used: Number of slots that its key has taken.
        rules: The rules of its key.
        total: Number of sockets of all keys.
        max_total: The limit on that number.
        states: Number of its key's sockets, by state.
        waiting: Number of requests queued for its key, including this one.
    """

    used: int
    rules: Rules
    total: int
    max_total: int | float
    states: dict[State, int]
    waiting: int


class Effects:
    """The consequences of a decision, to be carried out once the lock is released.

    Attributes:
        wake: Waiting requests that got a socket or were refused.
        close: Sockets to close.
        unwatch: Sockets that their watchers must let go of, because they are not free any more.
        tell: Calls to the observer; empty without one.
    """

    __slots__ = ("close", "tell", "unwatch", "wake")

    def __init__(self) -> None:
        self.wake: list[Ticket] = []
        self.close: list[Socket] = []
        self.unwatch: list[Socket] = []
        self.tell: list[Callable[[], None]] = []


def _guarded(method: Callable[[Dispatcher, *Args], Result]) -> Callable[[Dispatcher, *Args], Result]:
    """Run a method as one decision: under the agent's lock, on intact books.

    Leave a mark while it runs. If it is broken off, the mark stays, and the next decision rebuilds the books first.
    """

    @wraps(method)
    def decide(dispatcher: Dispatcher, *args: *Args) -> Result:
        lock = dispatcher._lock
        try:
            with lock:
                is_nested = dispatcher._is_deciding and dispatcher._decides_already()
                dispatcher._is_deciding = True
                result = method(dispatcher, *args)
                dispatcher._is_deciding = is_nested
        except BaseException:
            let_go(lock)
            raise
        return result

    return decide


class Dispatcher:
    """Own the state of an `Agent`, and carry out what the core decides.

    Args:
        family: The client library and its core.
        given: The options that the user gave, by name; an option not given may be `UNSET`.
        clock: Returns the time in seconds since an arbitrary moment.
        stopwatch: Returns the time that measures how long requests wait. Unlike `clock`, it may stop while the machine
            sleeps.

    Raises:
        TypeError: If a value has the wrong type.
        ValueError: If a value is not allowed.
        ImportError: If an option needs a package that is not installed.
    """

    def __init__(
        self, family: Family, given: Mapping[str, Any], clock: Callable[[], float], stopwatch: Callable[[], float]
    ) -> None:
        given = {name: value for name, value in given.items() if value is not UNSET}
        self.family = family
        self.now = clock
        self.stopwatch = stopwatch
        self.options: AgentOptions = check_options(given, family)
        self.factory = ConnectionFactory(family, self.options)
        self.sync_home = SyncHome(self)
        self._observer: Observer | None = None
        self._observer_failed = False
        self._given = frozenset(given)
        self._per_origin = OptionsPerOrigin(self.options)
        self._known_keys: dict[tuple[bytes, bytes, int | None, Any], Key] = {}
        self._known_options: dict[Key, AgentOptions] = {}
        self._begin_empty()
        process.register(self)

    def _begin_empty(self) -> None:
        """Create the mutable state, empty. Decisions change it under the lock."""
        self._lock = Lock()
        self._core = Core(
            self._rules_for,
            max_total_sockets=no_limit(self.options.max_total_sockets),
            max_total_free_sockets=no_limit(self.options.max_total_free_sockets),
        )
        self._next_request = 0  # the number of the next request
        self._tickets: dict[int, Ticket] = {}  # requests that are not over, by number, in the order of their arrival
        self._sockets: dict[int, Socket] = {}  # sockets that the core knows, by number
        self._homes: dict[int, AsyncHome] = {}  # event loops in use, by the loop's `id`
        self._refused: set[Ticket] = set()  # refused requests that have perhaps not been woken yet
        self._is_deciding = False  # a decision is under way, or was broken off and left the books half written
        self._is_unswept = False  # the books were rebuilt; their consequences have perhaps not been carried out
        # Sockets that became free and will be watched soon. Most are in use again before that.
        self._not_watched: dict[int, Socket] = {}
        # Number of decisions whose consequences are still to come, by thread. Each thread touches only its own entry.
        self._unfinished: dict[int, int] = {}
        # Requests that their callers dropped or that an exception left, as their tickets or as references to their
        # bodies. Appending needs no lock, as finalisers must not take one. `_clear_up` ends these requests.
        self._abandoned: deque[Ticket | BodyReference] = deque()
        self.note_dropped = self._abandoned.append

    def after_fork(self) -> None:
        """Start afresh in a forked child, where all inherited sockets belong to the parent (see `_runtime.process`)."""
        tickets, sockets, homes = self._tickets, self._sockets, self._homes
        self._begin_empty()
        for ticket in tickets.values():
            ticket.over = True
        for socket in sockets.values():
            socket.wire.disown()
            if socket.home.is_async:
                process.bury(socket)
        for home in homes.values():
            home.disown()
            process.bury(home)
        self.sync_home.disown()
        self.factory.after_fork()

    def is_locked_here(self) -> bool:
        """Return whether this thread holds a lock that closing takes, so that a finaliser must be running in it.

        See `_runtime.locks`, and for the other locks *Finalisers* in `docs/contributing/architecture.md`.
        """
        homes = [self.sync_home, *self._homes.values()]
        return (
            is_held_here(self._lock)
            or self.factory.sessions.is_locked_here()
            or any(home.is_locked_here() for home in homes)
        )

    # Queries ----------------------------------------------------------------------------------------------------------

    @_guarded
    def counters(self) -> Counters:
        """Return a copy of the counters."""
        return replace(self._core.counters)

    @_guarded
    def snapshot(self) -> tuple[Counters, list[tuple[SocketView, Socket]], list[Key]]:
        """Return the counters, the sockets that count (oldest first), and the keys of the waiting requests."""
        sockets = [(view, self._sockets[view.id]) for view in self._core.sockets(self.now())]
        waiting = [self._tickets[number].key for number, _, _ in self._core.waiting()]
        return replace(self._core.counters), sockets, waiting

    @_guarded
    def tickets(self) -> list[Ticket]:
        """Return the requests that wait or are in flight, in the order of their arrival."""
        return list(self._tickets.values())

    @_guarded
    def renew_events(self, home: Home) -> list[Any]:
        """Replace the events that waiting requests of this home block on, and return the old ones.

        Setting those makes the requests read the clock again.
        """
        waiting = [t for t in self._tickets.values() if t.home is home and t.event is not None and not t.grant]
        events = [ticket.event for ticket in waiting]
        for ticket in waiting:
            ticket.event = home.new_event()
        return events

    def observe(self, observer: Observer | None) -> None:
        """Report events to this observer from now on, and to no other; to none if it is ``None``."""
        self._observer = observer
        self._observer_failed = False

    # Options ----------------------------------------------------------------------------------------------------------

    def set_option(self, name: str, value: object) -> None:
        """Change an option while the agent runs, and serve the queue under the new limits (N5)."""
        checked = check_option(name, value)
        try:
            self._carry_out(self._take_option(name, checked), None)
        except BaseException:
            self.mend()
            raise

    @_guarded
    def _take_option(self, name: str, value: object) -> Effects | None:
        self._given |= {name}
        self.options = AgentOptions(**{**vars(self.options), name: value})
        return self._apply(self._reconfigure())

    def _reconfigure(self) -> list[Action]:
        """Apply the current options. Requires holding the lock."""
        self._per_origin = OptionsPerOrigin(self.options)
        self._known_options = {}
        return self._core.reconfigure(
            self.now(),
            self._rules_for,
            max_total_sockets=no_limit(self.options.max_total_sockets),
            max_total_free_sockets=no_limit(self.options.max_total_free_sockets),
        )

    def given_options(self) -> dict[str, Any]:
        """Return the options that the user gave, or has set since, by name."""
        options = self.options
        return {name: getattr(options, name) for name in AgentOptions.__dataclass_fields__ if name in self._given}

    def options_for(self, key: Key) -> AgentOptions:
        """Return the options that apply to an origin."""
        known = self._known_options  # bound once: another thread that changes an option replaces the dict
        options = known.get(key)
        if options is None:
            options = self._per_origin.options(key.scheme, key.host, key.port)
            if len(known) >= MAX_KNOWN_KEYS:
                known.clear()
            known[key] = options
        return options

    def is_given(self, option: str, key: Key) -> bool:
        """Return whether the user gave an option, for all origins or for this one."""
        return option in self._given or self._per_origin.gives(option, key.scheme, key.host, key.port)

    def key_of(self, request: Any) -> Key:
        """Return the key of a request (R27).

        Raises:
            httpcore.UnsupportedProtocol: If the URL's scheme is not http, https, ws or wss.
        """
        url = request.url
        raw = (url.scheme, url.host, url.port, request.extensions.get("sni_hostname"))
        key = self._known_keys.get(raw)
        if key is None:
            scheme, host, port, name = raw
            if scheme not in _DEFAULT_PORTS:
                message = f"Request URL has an unsupported protocol '{scheme.decode('ascii', errors='replace')}://'."
                if not scheme:
                    message = "Request URL is missing an 'http://' or 'https://' protocol."
                raise self.family.httpcore.UnsupportedProtocol(message)
            if port is None:
                port = _DEFAULT_PORTS[scheme]
            key = Key(scheme.decode("ascii"), host.decode("ascii"), port, name)
            if len(self._known_keys) >= MAX_KNOWN_KEYS:
                self._known_keys.clear()
            self._known_keys[raw] = key
        return key

    def clear_sessions(self, origin: Any) -> None:
        """Forget the TLS sessions of an origin, or of all origins if it is ``None``."""
        if origin is None:
            self.factory.sessions.clear(lambda key: True)
        else:
            wanted = check_origin(origin, self.family.httpx)
            self.factory.sessions.clear(lambda key: key[:3] == wanted)

    # Homes ------------------------------------------------------------------------------------------------------------

    def find_async_home(self) -> AsyncHome | None:
        """Return the home of the running event loop, if the agent knows it."""
        return self._homes.get(id(_current_loop()[1]))

    async def new_async_home(self) -> AsyncHome:
        """Make the running event loop a home."""
        library, loop = _current_loop()
        home = TrioHome(self, loop) if library == "trio" else AsyncioHome(self, loop)
        self._bury_dead_homes()
        self._begin_home(home)
        await home.start()
        return home

    @_guarded
    def _begin_home(self, home: AsyncHome) -> None:
        self._homes[id(home.loop)] = home

    async def leave_home(self, home: AsyncHome) -> None:
        """End the home of the running event loop, unless it still has sockets or requests."""
        if self._give_back(home):
            await home.leave()

    @_guarded
    def _give_back(self, home: AsyncHome) -> bool:
        homes = {socket.home for socket in self._sockets.values()} | {t.home for t in self._tickets.values()}
        if home in homes:
            return False
        self._homes.pop(id(home.loop), None)
        return True

    async def end_home(self, home: AsyncHome) -> None:
        """Close the sockets of an event loop that is about to end, and free their slots."""
        home.is_ending = True
        try:
            for socket in self._sockets_in([home]):
                home.unwatch(socket)
                await socket.aclose()
        finally:
            self._forget_home(home)

    @_guarded
    def _sockets_in(self, homes: Sequence[Home]) -> list[Socket]:
        return [socket for socket in self._sockets.values() if socket.home in homes]

    def _bury_dead_homes(self) -> None:
        """Forget event loops that ended without notice. Only the descriptors of their sockets can still be closed."""
        dead = self._dead_homes()
        # Look at no socket if no home is dead, because every request that has to wait calls this.
        for socket in self._sockets_in(dead) if dead else ():
            socket.wire.close_raw()
        for home in dead:
            self._forget_home(home)

    @_guarded
    def _dead_homes(self) -> list[AsyncHome]:
        return [home for home in self._homes.values() if home.is_over()]

    def _forget_home(self, home: AsyncHome) -> None:
        home.end()
        self._carry_out(self._end_all_of(home), None)

    @_guarded
    def _end_all_of(self, home: AsyncHome) -> Effects:
        self._homes = {number: other for number, other in self._homes.items() if other is not home}
        effects = self._owe(None)
        for ticket in [t for t in self._tickets.values() if t.home is home]:
            self._end(ticket, effects)
        for socket in [s for s in self._sockets.values() if s.home is home]:
            self._note_closed(socket, effects)
        self._apply(self._core.end_home(home, self.now()), effects)
        self._sockets = {number: s for number, s in self._sockets.items() if s.home is not home}
        self._not_watched = {number: s for number, s in self._not_watched.items() if s.home is not home}
        return effects

    # What requests ask of the core. Each method returns the sockets that the request must close in its home. ----------

    def submit(self, ticket: Ticket) -> list[Socket]:
        """Take in a request: it gets a socket, or waits."""
        if self._abandoned:
            self._clear_up()
        if self._unfinished and get_ident() in self._unfinished:  # a second exception kept this thread from finishing
            self.sweep()
        home = ticket.home
        negotiates = home.is_async and self.factory.may_multiplex(ticket.key)
        effects = self._enter(ticket, negotiates)
        if effects is not None:
            self._carry_out(effects, home, ticket.due)
        if self._is_unswept:  # the books were rebuilt, by `_enter` or by a thread that did not come to sweep
            self.sweep()
        if ticket.grant is None and self._homes:
            self._bury_dead_homes()
        return ticket.due

    @_guarded
    def _enter(self, ticket: Ticket, negotiates: bool) -> Effects | None:
        ticket.number = self._next_request
        self._next_request += 1
        self._tickets[ticket.number] = ticket
        effects = self._apply(
            self._core.submit(ticket.number, ticket.key, ticket.home, self.now(), negotiates=negotiates)
        )
        if ticket.grant is None:
            ticket.event = ticket.home.new_event()
            ticket.queued = True
        return effects

    def withdraw(self, ticket: Ticket) -> list[Socket]:
        """End a request in whatever state it is. If it has sent nothing, its socket can serve the next request."""
        return self._end_of(ticket, self._core.abandon if ticket.started else self._core.withdraw)

    def release(self, ticket: Ticket, **outcome: Unpack[Outcome]) -> list[Socket]:
        """End a request in flight, and release its socket."""
        return self._end_of(ticket, self._core.release, **outcome)

    def replace(self, ticket: Ticket, *, fresh: bool = False, again: bool = False, error: bool = False) -> list[Socket]:
        """Take a dead socket away from its request, which gets another one.

        Args:
            ticket: The request.
            fresh: Whether only a new socket will do; see `Core.replace`.
            again: Whether the request may have been sent on the dead socket, so that this is its second attempt.
            error: Whether an error ended the use of the socket.
        """
        return self._follow(self._replace_socket(ticket, fresh, again, error), ticket)

    @_guarded
    def _replace_socket(self, ticket: Ticket, fresh: bool, again: bool, error: bool) -> Effects | None:
        if ticket.over:  # the agent was closed meanwhile
            return None
        ticket.grant = ticket.socket = None
        ticket.event = ticket.home.new_event()
        effects = self._apply(self._core.replace(ticket.number, self.now(), fresh=fresh, error=error))
        if again and self._observer is not None:
            effects = self._owe(effects)
            effects.tell.append(partial(self._observer.request_retried, ticket))
        return effects

    def detach(self, ticket: Ticket) -> list[Socket]:
        """Give the request's socket to the caller (R25)."""
        return self._follow(self._let_out(ticket), ticket)

    @_guarded
    def _let_out(self, ticket: Ticket) -> Effects | None:
        socket = ticket.socket
        assert socket is not None
        if ticket.over:
            return None
        actions = self._core.detach(ticket.number, self.now())
        del self._sockets[socket.id]
        self._not_watched.pop(socket.id, None)
        return self._apply(actions)

    def make_room(self, ticket: Ticket) -> list[Socket]:
        """Close all free sockets, because no descriptor is left. Other homes close theirs soon, by themselves."""
        return self._follow(self._give_up_free(), ticket)

    @_guarded
    def _give_up_free(self) -> Effects | None:
        return self._apply(self._core.close_free(self.now()))

    def close_free_sockets(self) -> None:
        """Close all free sockets, because no request may ever use them again. Event loops close theirs soon."""
        try:
            self._carry_out(self._give_up_free(), None)
        except BaseException:
            self.mend()
            raise

    def abandon(self, ticket: Ticket) -> None:
        """Note that a request was dropped by its caller, and have its home end it.

        Finalisers call this, so it takes no lock.
        """
        ticket.abandoned = True
        self._abandoned.append(ticket)
        ticket.home.call_soon(self._clear_up)

    def find_lost(self, ticket: Ticket) -> None:
        """End requests whose responses an interruption has taken from a thread after they left the transport.

        Only the garbage collector finds such a response, because httpx's client makes it refer to itself. A thread that
        waits allocates nothing that would start the collector, so run it here.

        Args:
            ticket: A waiting request of that thread.
        """
        if self._has_unread(ticket.thread):
            gc.collect()
            if self._abandoned:
                self._clear_up()

    @_guarded
    def _has_unread(self, thread: int) -> bool:
        """Return whether a thread made one of the oldest requests whose response nobody has begun to read."""
        return any(
            t.thread == thread and t.body is not None and (body := t.body()) is not None and body.is_untouched()
            for t in islice(self._tickets.values(), MOST_LOST)
        )

    def close_sockets(self, home: Home, due: list[Socket]) -> Flow[None]:
        """Close sockets in their home, and any others that must be closed as a consequence.

        An interruption is raised only once all are closed.

        Args:
            home: The home.
            due: The sockets. Each stays in this list until it is closed.
        """
        interruption: BaseException | None = None
        try:
            while due:
                socket = due[0]
                try:
                    yield CloseSocket(socket)
                except GeneratorExit:
                    raise
                except BaseException as error:
                    if interruption is None:  # the socket may still be open: try once more
                        interruption = error
                        continue
                self._carry_out(self._note_end_of(socket), home, due)
                due.remove(socket)
        except BaseException:  # nobody drives this flow any more, so leave the rest to the homes
            self._finish_outside(due)
            raise
        if interruption is not None:
            raise interruption

    @_guarded
    def standing_of(self, ticket: Ticket) -> Standing | None:
        """Return where a waiting request stands, for its `PoolTimeout`; `None` if it waits no longer."""
        if ticket.grant is not None or ticket.refused:  # another thread served or refused it just now
            return None
        # The core keeps these counts up to date. Counting here would be too slow when thousands of requests time out
        # together, because each of them asks.
        core, key = self._core, ticket.key
        used, rules = core.use_of(key)
        limit = no_limit(self.options.max_total_sockets)
        return Standing(used, rules, core.total, limit, core.states_of(key), core.queue_of(ticket.number))

    # What homes and sockets report ------------------------------------------------------------------------------------

    def socket_opened(self, socket: Socket, stream: Any) -> None:
        """Note that a new socket is open, and which protocol it speaks."""
        negotiates = socket.home.is_async and self.factory.may_multiplex(socket.key)
        http2 = socket.connection.opened(stream, shares=negotiates)
        if http2 and negotiates:
            socket.multiplexed = True
        self._carry_out(self._note_opened(socket, negotiates and not http2), socket.home)

    @_guarded
    def _note_opened(self, socket: Socket, speaks_http1: bool) -> Effects | None:
        socket.opened_at = self.now()
        effects = self._apply(self._core.opened(socket.id, socket.opened_at))
        if speaks_http1:
            answer = self._core.negotiated(socket.id, self.now(), capacity=1, multiplexes=False)
            effects = self._apply(answer, effects)
        return effects

    def socket_has_room(self, socket: Socket, streams: int | None) -> None:
        """Note how many streams the server of an HTTP/2 connection allows."""
        capacity = MAX_STREAMS if streams is None else max(1, min(streams, MAX_STREAMS))
        self._carry_out(self._note_capacity(socket, capacity), socket.home)

    @_guarded
    def _note_capacity(self, socket: Socket, capacity: int) -> Effects | None:
        return self._apply(self._core.negotiated(socket.id, self.now(), capacity=capacity, multiplexes=True))

    def socket_lost(self, number: int) -> None:
        """Close a free socket whose server closed it or sent unsolicited bytes (R14, N23)."""
        self._carry_out(self._note_lost(number), None)

    @_guarded
    def _note_lost(self, number: int) -> Effects | None:
        return self._apply(self._core.lost(number, self.now()))

    def sockets_to_watch(self, home: Home) -> list[tuple[int, int]]:
        """Return the descriptors and numbers of the sockets that a home is to watch from now on.

        They became free a while ago and still are.
        """
        candidates = self._take_not_watched(home)
        descriptors = {number: socket.wire.descriptor() for number, socket in candidates.items()}
        watched, deadline = self._note_watched(home, candidates, descriptors)
        if deadline is not None:  # the watcher may have been stopped meanwhile
            home.watcher.arm(deadline)
        return watched

    @_guarded
    def _take_not_watched(self, home: Home) -> dict[int, Socket]:
        candidates = {number: s for number, s in self._not_watched.items() if s.home is home}
        self._not_watched = {number: s for number, s in self._not_watched.items() if s.home is not home}
        return candidates

    @_guarded
    def _note_watched(
        self, home: Home, candidates: dict[int, Socket], descriptors: dict[int, int | None]
    ) -> tuple[list[tuple[int, int]], float | None]:
        watched = []
        free = [number for number in candidates if self._core.is_free(number)]
        for number in free:
            candidates[number].watched = descriptor = descriptors[number]
            if descriptor is not None:
                watched.append((descriptor, number))
        return watched, self._core.next_deadline(home) if free else None

    def expire(self, home: Home) -> None:
        """Close the free sockets of a home that have expired, and arm its watcher for the next deadline."""
        effects, again = self._note_expired(home)
        if again is not None:
            home.watcher.arm(again)
        self._carry_out(effects, None)

    @_guarded
    def _note_expired(self, home: Home) -> tuple[Effects | None, float | None]:
        effects = self._apply(self._core.expire(home, self.now()))
        return effects, self._core.next_deadline(home)

    # Carrying out decisions -------------------------------------------------------------------------------------------

    def _owe(self, effects: Effects | None) -> Effects:
        """Note that this decision has consequences, and return the `Effects` that collect them.

        `_carry_out` takes the note back. Requires holding the lock.
        """
        if effects is None:
            thread = get_ident()
            self._unfinished[thread] = self._unfinished.get(thread, 0) + 1
            effects = Effects()
        return effects

    def _apply(self, actions: Iterable[Action], effects: Effects | None = None) -> Effects | None:
        """Record what the core decided, and collect the consequences, if any. Requires holding the lock."""
        for action in actions:
            if isinstance(action, Grant):
                ticket = self._tickets[action.request]
                socket = self._give(action, ticket)
                if ticket.queued:
                    effects = self._owe(effects)
                    self._note_waited(ticket, action.queued_for, effects, served=True)
                if socket.watched is not None:
                    effects = self._owe(effects)
                    effects.unwatch.append(socket)
                if ticket.event is not None:
                    effects = self._owe(effects)
                    effects.wake.append(ticket)
            elif isinstance(action, Close):
                socket = self._sockets[action.socket]
                socket.close_reason = action.reason
                effects = self._owe(effects)
                effects.unwatch.append(socket)
                effects.close.append(socket)
            else:
                assert isinstance(action, Refuse)
                ticket = self._tickets[action.request]
                effects = self._owe(effects)
                self._refuse(ticket, effects)
        return effects

    def _give(self, grant: Grant, ticket: Ticket) -> Socket:
        """Record that a request has got a socket, and return the socket. Requires holding the lock."""
        socket = self._sockets.get(grant.socket)
        if socket is None:
            socket = self._sockets[grant.socket] = Socket(self, grant.socket, ticket.home, ticket.key)
        socket.request_count = grant.requests_on_socket
        ticket.socket = socket
        ticket.grant = grant
        return socket

    def _refuse(self, ticket: Ticket, effects: Effects) -> None:
        """Record that a request fails because the agent was closed. Requires holding the lock."""
        ticket.refused = True
        if ticket.event is not None:
            self._refused.add(ticket)
            effects.wake.append(ticket)
        self._end(ticket, effects)

    def _follow(self, effects: Effects | None, ticket: Ticket) -> list[Socket]:
        """Carry out the consequences for a request, and return the sockets that it must close in its home."""
        self._carry_out(effects, ticket.home, ticket.due)
        return ticket.due

    def _carry_out(self, effects: Effects | None, here: Home | None, due: list[Socket] | None = None) -> None:
        """Do everything that cannot block. Call it without the lock.

        Args:
            effects: The consequences to carry out; ``None`` if there are none.
            here: The home in which this is called; ``None`` if it is called outside any home.
            due: The list that receives the sockets to close in this home. Without it, and in other homes, the homes
                close them soon, by themselves.
        """
        if effects is None:
            return
        for socket in effects.unwatch:
            socket.home.unwatch(socket)
        for ticket in effects.wake:
            ticket.home.wake(ticket.event, here)
            self._refused.discard(ticket)
        for tell in effects.tell:
            self._tell(tell)
        if due is not None:
            due.extend(socket for socket in effects.close if socket.home is here)
        self._finish_outside(socket for socket in effects.close if due is None or socket.home is not here)
        thread = get_ident()
        left = self._unfinished.get(thread, 1) - 1
        if left:
            self._unfinished[thread] = left
        else:
            self._unfinished.pop(thread, None)

    def _tell(self, tell: Callable[[], None]) -> None:
        """Report one event to the observer. Nothing that it raises can break a request."""
        try:
            tell()
        except Exception:
            if not self._observer_failed:
                self._observer_failed = True
                _log.exception(
                    "An agent's observer raised an exception. Requests continue; further failures are not logged."
                )

    def _note_waited(self, ticket: Ticket, seconds: float, effects: Effects, *, served: bool) -> None:
        """Record the end of a request's wait in the queue. Requires holding the lock."""
        ticket.queued = False
        if self._observer is not None:
            effects.tell.append(partial(self._observer.request_waited, ticket, seconds, served=served))

    def _note_closed(self, socket: Socket, effects: Effects) -> None:
        """Report a closed socket, unless it was never usable: the observer does not know those.

        Requires holding the lock.
        """
        if self._observer is not None and socket.opened_at is not None:
            seconds = self.now() - socket.opened_at
            effects.tell.append(partial(self._observer.socket_closed, socket, seconds, socket.close_reason))

    def _finish_outside(self, closing: Iterable[Socket]) -> None:
        """Have sockets closed by their homes, because the caller cannot wait: at once if sync, else soon."""
        for socket in list(closing):
            socket.home.do_soon(self.close_sockets(socket.home, [socket]))

    @_guarded
    def _note_end_of(self, socket: Socket) -> Effects | None:
        if socket.id not in self._sockets:
            return None  # its home has ended meanwhile, or another thread has closed it too
        effects = self._owe(None)
        self._note_closed(socket, effects)
        actions = self._core.closed(socket.id, self.now())
        del self._sockets[socket.id]
        self._not_watched.pop(socket.id, None)
        return self._apply(actions, effects)

    def _end_of(self, ticket: Ticket, tell_core: Callable[..., list[Action]], **outcome: Any) -> list[Socket]:
        """End a request by one of the core's inputs, and have its socket watched if it is free now.

        Args:
            ticket: The request.
            tell_core: The input.
            outcome: Further arguments of the input.
        """
        effects, deadline, watch_later = self._note_over(ticket, tell_core, outcome)
        if effects is not None:
            self._carry_out(effects, ticket.home, ticket.due)
        if deadline is not None:
            ticket.home.watcher.arm(deadline)
        if watch_later:
            ticket.home.watcher.watch_later()
        ticket.ended_in_order = True
        return ticket.due

    @_guarded
    def _note_over(
        self, ticket: Ticket, tell_core: Callable[..., list[Action]], outcome: dict[str, Any]
    ) -> tuple[Effects | None, float | None, bool]:
        if ticket.over or ticket.number not in self._tickets:  # the agent was closed, or the request never arrived
            ticket.over = True
            return None, None, False
        socket, home = ticket.socket, ticket.home
        effects = self._end(ticket)
        actions = tell_core(ticket.number, self.now(), **outcome)
        if actions:
            effects = self._apply(actions, effects)
        if socket is None or not self._core.is_free(socket.id):
            return effects, None, False
        watch_later = not socket.wire.tells_of_loss
        if watch_later:
            self._not_watched[socket.id] = socket
        return effects, self._core.next_deadline(home), watch_later

    def _end(self, ticket: Ticket, effects: Effects | None = None) -> Effects | None:
        """Forget a request that is over, and return what is to be reported of it, if anything."""
        ticket.over = True
        ticket.body = None
        del self._tickets[ticket.number]
        if ticket.queued:
            effects = self._owe(effects)
            self._note_waited(ticket, self.stopwatch() - ticket.submitted, effects, served=False)
        return effects

    def close(self, home: Home) -> Flow[None]:
        """Refuse every request and close every socket.

        The sockets of this home and of the sync home are closed when this returns; other event loops close theirs soon.
        """
        try:
            effects, own = self._end_everything(home)
            # Wake every thread and task that uses a socket before closing the first one.
            for socket in effects.close:
                socket.wire.break_off()
            self._carry_out(effects, home, [])
            yield from self.close_sockets(home, own)
        except GeneratorExit:
            raise
        except BaseException:
            self.sweep()
            raise
        self.sync_home.end_idle_watcher()

    @_guarded
    def _end_everything(self, home: Home) -> tuple[Effects, list[Socket]]:
        effects = self._owe(None)
        self._apply(self._core.close(self.now()), effects)
        # This includes sockets that others are already closing, so that they too are closed when `close` returns.
        return effects, [socket for socket in self._sockets.values() if socket.home is home]

    def _clear_up(self) -> None:
        """End the requests that their callers dropped."""
        with suppress(IndexError):  # the deque is empty; other threads take from it too, and finalisers add to it
            while True:
                note = self._abandoned[0]
                # A reference has no number yet if its body was dropped while it was being made.
                ticket = self._tickets.get(getattr(note, "number", -1))
                if ticket is not None:
                    ticket.abandoned = True  # before it is over, because its body's finaliser may run after us
                    self._finish_outside(self.withdraw(ticket))
                with suppress(ValueError):
                    self._abandoned.remove(note)

    # After an interruption --------------------------------------------------------------------------------------------

    def give_up(self, ticket: Ticket, *, with_socket: bool = False) -> None:
        """Clean up when an exception leaves a request: end it, and finish what its thread left unfinished.

        Args:
            ticket: The request.
            with_socket: Whether to close its detached socket, if it has one, because no caller has it or wants it.
        """
        self.mend()
        if not ticket.over:
            self.withdraw(ticket)
        elif not ticket.ended_in_order:
            self._look_after(ticket.home)
        if with_socket and ticket.detached and ticket.socket is not None:
            ticket.due.append(ticket.socket)
        self._finish_outside(ticket.due)
        with suppress(ValueError):
            self._abandoned.remove(ticket)

    def mend(self) -> None:
        """Clean up when an exception leaves the agent: finish what this thread left unfinished, if anything."""
        if self._was_broken_off() or get_ident() in self._unfinished:
            self.sweep()

    @_guarded
    def _was_broken_off(self) -> bool:
        return self._is_unswept

    def _decides_already(self) -> bool:
        """Return whether this thread is in the middle of a decision, so that this call comes from a finaliser.

        If not, the decision that left the mark was broken off: rebuild the books. Requires holding the lock.
        """
        lock = self._lock
        try:
            lock.release()
            is_nested = is_held_here(lock)
        finally:
            lock.acquire()
        if self._is_deciding and not is_nested:
            self._recover()
        return is_nested

    def sweep(self) -> None:
        """Carry out everything that follows from the books, whether it was done before or not. Looks at everything."""
        effects = self._take_stock()
        self._carry_out(effects, None)
        for home in (self.sync_home, *self._homes.values()):
            self._look_after(home)
        self._unfinished.pop(get_ident(), None)

    def _look_after(self, home: Home) -> None:
        """Give the watcher of a home everything that it has to know: its next deadline, and sockets to watch."""
        deadline, watch_later = self._needs_of(home)
        if deadline is not None:
            home.watcher.arm(deadline)
        if watch_later:
            home.watcher.watch_later()

    @_guarded
    def _needs_of(self, home: Home) -> tuple[float | None, bool]:
        return self._core.next_deadline(home), any(s.home is home for s in self._not_watched.values())

    @_guarded
    def _take_stock(self) -> Effects:
        effects = self._owe(None)
        self._is_unswept = False
        for view in self._core.sockets(self.now()):
            socket = self._sockets[view.id]
            if view.state is State.CLOSING:
                effects.close.append(socket)
            elif view.state is State.FREE:
                if socket.watched is None and not socket.wire.tells_of_loss:
                    self._not_watched[socket.id] = socket
                continue
            effects.unwatch.append(socket)
        effects.wake.extend(t for t in self._tickets.values() if t.event is not None and t.grant is not None)
        effects.wake.extend(self._refused)
        return effects

    def _recover(self) -> None:
        """Rebuild the books. Requires holding the lock. If this is interrupted too, the next decision does it again."""
        self._is_unswept = True
        core, now = self._core, self.now()
        for number, ticket in list(self._tickets.items()):
            if ticket.over:
                del self._tickets[number]
        core.recover(self._tickets, now)
        homes = {socket.home for socket in self._sockets.values()} | {t.home for t in self._tickets.values()}
        for home in homes.difference(self._homes.values(), [self.sync_home]):
            core.end_home(home, now)
        self._reconfigure()
        for number in self._sockets.keys() - {view.id for view in core.sockets(now)}:
            del self._sockets[number]
        for ticket in list(self._tickets.values()):
            if not core.is_known(ticket.number):
                self._refuse(ticket, Effects())
        while unknown := [
            action.socket
            for action in core.standing(now)
            if isinstance(action, Close) and action.socket not in self._sockets
        ]:
            core.closed(unknown[0], now)  # nobody had begun to open it
        for action in core.standing(now):
            if isinstance(action, Close):
                self._sockets[action.socket].close_reason = action.reason
                continue
            ticket = self._tickets[action.request]
            if ticket.grant is None or ticket.grant.socket != action.socket:
                self._give(action, ticket)
        self._is_deciding = False

    def _rules_for(self, key: Any) -> Any:
        return rules_of(self.options_for(key))


def _current_loop() -> tuple[str, Any]:
    """Return the library that runs the calling task, and an object that identifies its event loop."""
    if sniffio.thread_local.name != "trio":  # trio sets this while it runs, even as a guest of asyncio's loop
        return "asyncio", asyncio.get_running_loop()
    import trio

    return "trio", trio.lowlevel.current_trio_token()
