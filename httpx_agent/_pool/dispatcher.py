"""Where an agent decides and acts: the dispatcher owns the core, the lock around it, the homes and the sockets.

Order everywhere: lock, core, unlock, I/O. What is decided is noted under the lock (`_apply`); what needs no waiting is
done right after it (`_carry_out`); sockets are closed by whoever can wait for that (`settle`).

**Interruptions.** A signal's handler may raise at any instruction: `KeyboardInterrupt`, a time limit. What it breaks
off is finished or undone, by these rules:

- *Under the lock* (`_guarded`) whoever decides says so, and takes it back at the end. Whoever has the lock next and
  finds it said makes the books anew, before anything else, from what cannot be half true: which socket a request has,
  which sockets there are, and whose requests are not over (`_recover`, `Core.recover`).
- *Between the decision and its consequences* the thread is noted in `_unfinished`. Consequences follow from the books:
  whoever has a socket is to be woken, what is closing is to be closed. So an exception that comes out of a request
  calls `give_up`, and that carries out all that holds, whether it was done before or not (`sweep`): each may be done
  twice.
- *Outside of both* a request has one owner: the call that sends it, then the body of its response. The call ends it
  with the exception that it lets out, whatever had been done; a body that is dropped has left a note before Python can
  be interrupted (`Ticket.owner`).

A second exception, raised while the first one is dealt with, may leave something undone until the next request arrives:
a request that is let out is noted before anything else is done for it, and a thread that begins another one finishes
what it did not. The books still balance.
What only tells others (telemetry's events) is lost with what was interrupted.
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

from .._connection.factory import Connector
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
from .ticket import Owner, Ticket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from .._family import Family
    from .._runtime.flows import Flow
    from .observer import Observer

#: Streams of an HTTP/2 connection at most: as many as httpcore opens.
MAX_STREAMS = 100

#: For how many origins keys and options are kept at hand.
MAX_KNOWN_KEYS = 10_000

#: How many of the oldest requests are searched for responses that their thread has lost.
MOST_LOST = 32

_log = logging.getLogger("httpx_agent")

_DEFAULT_PORTS = {b"http": 80, b"https": 443, b"ws": 80, b"wss": 443}


Args = TypeVarTuple("Args")
Result = TypeVar("Result")


class Outcome(TypedDict):
    """How a request in flight ended; see `Core.release`."""

    reusable: bool
    complete: bool
    hint: float | None
    error: NotRequired[bool]
    timed_out: NotRequired[bool]
    unheard: NotRequired[bool]
    ended: NotRequired[bool]


class Standing(NamedTuple):
    """Where a waiting request stands, and what stands in its way."""

    used: int
    rules: Rules
    total: int
    max_total: int | float
    states: dict[State, int]
    waiting: int


class Effects:
    """What the core's answer asks of its driver, once the lock is released."""

    __slots__ = ("close", "tell", "unwatch", "wake")

    def __init__(self) -> None:
        self.wake: list[Ticket] = []
        self.close: list[Socket] = []
        self.unwatch: list[Socket] = []
        self.tell: list[Callable[[], None]] = []  # stays empty while nobody looks on


def _guarded(method: Callable[[Dispatcher, *Args], Result]) -> Callable[[Dispatcher, *Args], Result]:
    """Make a method run under the agent's lock, over books that are whole; the next one knows if it was broken off."""

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
    """Carry out for an `Agent` what the core decides.

    Args:
        family: The libraries.
        given: The options that the user gave, by name; those not given are `UNSET`.
        clock: Gives the time; seconds since any moment.
        stopwatch: Gives the time by which requests wait. It may stand still while the machine sleeps.

    Raises:
        TypeError: For a value of a wrong type.
        ValueError: For a value that cannot be.
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
        self.connector = Connector(family, self.options)
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
        """The mutable state, all of it guarded by the lock."""
        self._lock = Lock()
        self._core = Core(
            self._rules_for,
            max_total_sockets=no_limit(self.options.max_total_sockets),
            max_total_free_sockets=no_limit(self.options.max_total_free_sockets),
        )
        self._next_request = 0
        self._tickets: dict[int, Ticket] = {}
        self._sockets: dict[int, Socket] = {}
        self._homes: dict[int, AsyncHome] = {}
        self._refused: set[Ticket] = set()  # and may not be woken yet
        self._is_deciding = False  # somebody is, or was broken off, and the books may be wrong
        self._is_unswept = False  # they were made anew, and what follows from them may not be done yet
        self._not_watched: dict[int, Socket] = {}  # came free, and may be in use again before they are watched
        self._unfinished: dict[int, int] = {}  # threads, and how many of their decisions have consequences to come
        # Requests that were dropped, or what had them. Finalisers append, without the lock, and have them cleared up.
        self._abandoned: deque[Ticket | Owner] = deque()
        self.note_dropped = self._abandoned.append

    def begin_anew(self) -> None:
        """In a forked child: everything that it inherited is the parent's (see `_fork`)."""
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
        self.connector.begin_anew()

    def is_locked_here(self) -> bool:
        """Whether this thread holds one of the agent's locks: then a finaliser runs (see `_locks`)."""
        homes = [self.sync_home, *self._homes.values()]
        return (
            is_held_here(self._lock)
            or self.connector.sessions.is_locked_here()
            or any(home.is_locked_here() for home in homes)
        )

    # Looking ----------------------------------------------------------------------------------------------------------

    @_guarded
    def counters(self) -> Counters:
        """What happened so far."""
        return replace(self._core.counters)

    @_guarded
    def snapshot(self) -> tuple[Counters, list[tuple[SocketView, Socket]], list[Key]]:
        """The counters, the sockets that count, oldest first, and the keys of the waiting requests."""
        sockets = [(view, self._sockets[view.id]) for view in self._core.sockets(self.now())]
        waiting = [self._tickets[number].key for number, _, _ in self._core.waiting()]
        return replace(self._core.counters), sockets, waiting

    @_guarded
    def tickets(self) -> list[Ticket]:
        """The requests that wait or are in flight, in the order of their arrival."""
        return list(self._tickets.values())

    @_guarded
    def renew_events(self, home: Home) -> list[Any]:
        """Gives those who wait in a home a new event to wait for; set the old ones, and they look at the clock."""
        waiting = [t for t in self._tickets.values() if t.home is home and t.event is not None and not t.grant]
        events = [ticket.event for ticket in waiting]
        for ticket in waiting:
            ticket.event = home.new_event()
        return events

    def observe(self, observer: Observer | None) -> None:
        """From now on this one, and no other, hears of what happens."""
        self._observer = observer
        self._observer_failed = False

    # Options ----------------------------------------------------------------------------------------------------------

    def set_option(self, name: str, value: object) -> None:
        """Changes an option while the agent runs; requests that now may go are served (N5)."""
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
        """The options hold. Requires holding the lock."""
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
        """The options that hold for an origin."""
        known = self._known_options  # another thread may change an option meanwhile, and put a new one here
        options = known.get(key)
        if options is None:
            options = self._per_origin.options(key.scheme, key.host, key.port)
            if len(known) >= MAX_KNOWN_KEYS:
                known.clear()
            known[key] = options
        return options

    def is_given(self, option: str, key: Key) -> bool:
        """Whether the user gave an option, for all origins or for this one."""
        return option in self._given or self._per_origin.gives(option, key.scheme, key.host, key.port)

    def key_of(self, request: Any) -> Key:
        """The key of a request (R27).

        Raises:
            httpcore.UnsupportedProtocol: If the URL has another scheme than http, https, ws or wss.
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
        """Forget the TLS sessions of an origin, or of all."""
        if origin is None:
            self.connector.sessions.clear(lambda key: True)
        else:
            wanted = check_origin(origin, self.family.httpx)
            self.connector.sessions.clear(lambda key: key[:3] == wanted)

    # Homes ------------------------------------------------------------------------------------------------------------

    def find_async_home(self) -> AsyncHome | None:
        """The home of the running event loop, if the agent knows it."""
        return self._homes.get(id(_current_loop()[1]))

    async def new_async_home(self) -> AsyncHome:
        """Makes the running event loop a home."""
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
        """Ends the home of the running event loop, if nothing of it is left."""
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
        """The event loop is about to end: closes the sockets there and frees their slots."""
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
        """Event loops that ended without a word: their sockets' descriptors are closed, and nothing else."""
        dead = self._dead_homes()
        # With none dead, no socket is looked at: every request that has to wait comes by.
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

    # What requests ask of the core: each answers with the sockets to be closed in their home -------------------------

    def submit(self, ticket: Ticket) -> list[Socket]:
        """The request arrives."""
        if self._abandoned:
            self._clear_up()
        if self._unfinished and get_ident() in self._unfinished:  # interrupted again, while it saw to that
            self.sweep()
        home = ticket.home
        negotiates = home.is_async and self.connector.may_multiplex(ticket.key)
        effects = self._enter(ticket, negotiates)
        if effects is not None:
            self._carry_out(effects, home, ticket.due)
        if self._is_unswept:  # by a thread that did not see to it, or since we entered
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
        """The request gives up, in whatever state it is; a socket on which nothing was sent goes on to the next."""
        return self._end_of(ticket, self._core.abandon if ticket.started else self._core.withdraw)

    def release(self, ticket: Ticket, **outcome: Unpack[Outcome]) -> list[Socket]:
        """The request is over."""
        return self._end_of(ticket, self._core.release, **outcome)

    def replace(self, ticket: Ticket, *, fresh: bool = False, again: bool = False, error: bool = False) -> list[Socket]:
        """The request's socket is dead, and it needs another; `again` if it may have been sent on that one."""
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
        """The request's socket is the caller's now (R25)."""
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

    def close_free_sockets(self, ticket: Ticket) -> list[Socket]:
        """No descriptor is left: all free sockets are given up; those of other event loops by these, soon."""
        return self._follow(self._give_up_free(), ticket)

    @_guarded
    def _give_up_free(self) -> Effects | None:
        return self._apply(self._core.close_free(self.now()))

    def rest(self) -> None:
        """Close all free sockets, those of event loops soon: nobody may come back for them."""
        try:
            self._carry_out(self._give_up_free(), None)
        except BaseException:
            self.mend()
            raise

    def abandon(self, ticket: Ticket) -> None:
        """The request was dropped by its caller. Finalisers call this, so it takes no lock; the home clears up."""
        ticket.abandoned = True
        self._abandoned.append(ticket)
        ticket.home.call_soon(self._clear_up)

    def find_lost(self, ticket: Ticket) -> None:
        """Free what an interruption has taken from a waiting thread once the response had left the transport.

        httpx's client makes such a response refer to itself, so only the collector finds it; and a thread that waits
        allocates nothing that would start the collector.
        """
        if self._has_unread(ticket.thread):
            gc.collect()
            if self._abandoned:
                self._clear_up()

    @_guarded
    def _has_unread(self, thread: int) -> bool:
        # The oldest requests only: what is lost is older than those that wait, of which there may be thousands.
        return any(
            t.thread == thread and t.owner is not None and (body := t.owner()) is not None and body.is_untouched()
            for t in islice(self._tickets.values(), MOST_LOST)
        )

    def settle(self, home: Home, due: list[Socket]) -> Flow[None]:
        """Closes sockets in their home, and what that leads to; an interruption comes out at the end.

        Args:
            home: The home.
            due: The sockets; each stays in this list until it is closed.
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
                    if interruption is None:  # it may not be closed yet
                        interruption = error
                        continue
                self._carry_out(self._note_end_of(socket), home, due)
                due.remove(socket)
        except BaseException:  # whoever waited for this is thrown out; the homes do it by themselves
            self._finish_outside(due)
            raise
        if interruption is not None:
            raise interruption

    @_guarded
    def standing_of(self, ticket: Ticket) -> Standing | None:
        """Return where a waiting request stands, for its `PoolTimeout`; `None` if it waits no longer."""
        if ticket.grant is not None or ticket.refused:  # another thread did that just now
            return None
        # Counted by the core, and not here: where thousands run out of time together, each of them asks.
        core, key = self._core, ticket.key
        used, rules = core.use_of(key)
        limit = no_limit(self.options.max_total_sockets)
        return Standing(used, rules, core.total, limit, core.states_of(key), core.queue_of(ticket.number))

    # What homes and sockets report ------------------------------------------------------------------------------------

    def socket_opened(self, socket: Socket, stream: Any) -> None:
        """A new socket is usable."""
        negotiates = socket.home.is_async and self.connector.may_multiplex(socket.key)
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
        """The server of an HTTP/2 connection said how many streams it takes."""
        capacity = MAX_STREAMS if streams is None else max(1, min(streams, MAX_STREAMS))
        self._carry_out(self._note_capacity(socket, capacity), socket.home)

    @_guarded
    def _note_capacity(self, socket: Socket, capacity: int) -> Effects | None:
        return self._apply(self._core.negotiated(socket.id, self.now(), capacity=capacity, multiplexes=True))

    def socket_lost(self, number: int) -> None:
        """A free socket was closed by its server, or written to unasked (R14, N23)."""
        self._carry_out(self._note_lost(number), None)

    @_guarded
    def _note_lost(self, number: int) -> Effects | None:
        return self._apply(self._core.lost(number, self.now()))

    def sockets_to_watch(self, home: Home) -> list[tuple[int, int]]:
        """Return descriptors and numbers of sockets that came free a while ago and still are: they are watched now."""
        candidates = self._take_not_watched(home)
        descriptors = {number: socket.wire.descriptor() for number, socket in candidates.items()}
        watched, deadline = self._note_watched(home, candidates, descriptors)
        if deadline is not None:  # the watcher may have been told to rest meanwhile
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
        """Closes the free sockets of a home whose time is over, and looks when to come again."""
        effects, again = self._note_expired(home)
        if again is not None:
            home.watcher.arm(again)
        self._carry_out(effects, None)

    @_guarded
    def _note_expired(self, home: Home) -> tuple[Effects | None, float | None]:
        effects = self._apply(self._core.expire(home, self.now()))
        return effects, self._core.next_deadline(home)

    # Carrying out -----------------------------------------------------------------------------------------------------

    def _owe(self, effects: Effects | None) -> Effects:
        """From here on there is something to be done (see `_carry_out`). Requires holding the lock."""
        if effects is None:
            thread = get_ident()
            self._unfinished[thread] = self._unfinished.get(thread, 0) + 1
            effects = Effects()
        return effects

    def _apply(self, actions: Iterable[Action], effects: Effects | None = None) -> Effects | None:
        """Notes what the core decided, and collects what is to be done, if anything is. Requires holding the lock."""
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
        """The request has a socket. Requires holding the lock."""
        socket = self._sockets.get(grant.socket)
        if socket is None:
            socket = self._sockets[grant.socket] = Socket(self, grant.socket, ticket.home, ticket.key)
        socket.request_count = grant.requests_on_socket
        ticket.socket = socket
        ticket.grant = grant
        return socket

    def _refuse(self, ticket: Ticket, effects: Effects) -> None:
        """The agent was closed. Requires holding the lock."""
        ticket.refused = True
        if ticket.event is not None:
            self._refused.add(ticket)
            effects.wake.append(ticket)
        self._end(ticket, effects)

    def _follow(self, effects: Effects | None, ticket: Ticket) -> list[Socket]:
        """As `_carry_out`, for a request; gives what it has to close in its home."""
        self._carry_out(effects, ticket.home, ticket.due)
        return ticket.due

    def _carry_out(self, effects: Effects | None, here: Home | None, due: list[Socket] | None = None) -> None:
        """Does what needs no waiting. Without the lock.

        Args:
            effects: What is to be done.
            here: The home in which this is called; ``None`` if in none.
            due: Where to put the sockets that are to be closed here; without it they are closed by their homes, soon.
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
        """Tells the observer of one event; nothing that it does can break a request."""
        try:
            tell()
        except Exception:
            if not self._observer_failed:
                self._observer_failed = True
                _log.exception("An observer of an agent failed. The requests go on; it is not said again.")

    def _note_waited(self, ticket: Ticket, seconds: float, effects: Effects, *, served: bool) -> None:
        """A request that found no socket waits no longer. Requires holding the lock, as the next one."""
        ticket.queued = False
        if self._observer is not None:
            effects.tell.append(partial(self._observer.request_waited, ticket, seconds, served=served))

    def _note_closed(self, socket: Socket, effects: Effects) -> None:
        """A socket is closed; one that was never usable is none that the observer knows."""
        if self._observer is not None and socket.opened_at is not None:
            seconds = self.now() - socket.opened_at
            effects.tell.append(partial(self._observer.socket_closed, socket, seconds, socket.close_reason))

    def _finish_outside(self, closing: Iterable[Socket]) -> None:
        """Closes sockets from where nothing can be awaited."""
        for socket in list(closing):
            socket.home.do_soon(self.settle(socket.home, [socket]))

    @_guarded
    def _note_end_of(self, socket: Socket) -> Effects | None:
        if socket.id not in self._sockets:
            return None  # its home has ended meanwhile, or another thread has closed it as well
        effects = self._owe(None)
        self._note_closed(socket, effects)
        actions = self._core.closed(socket.id, self.now())
        del self._sockets[socket.id]
        self._not_watched.pop(socket.id, None)
        return self._apply(actions, effects)

    def _end_of(self, ticket: Ticket, tell_core: Callable[..., list[Action]], **outcome: Any) -> list[Socket]:
        """The request is over; its socket may be free now."""
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
        if ticket.over or ticket.number not in self._tickets:  # the agent was closed meanwhile, or it never came
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
        """The request is over; gives what there is to be told of it, if anything is."""
        ticket.over = True
        ticket.owner = None
        del self._tickets[ticket.number]
        if ticket.queued:
            effects = self._owe(effects)
            self._note_waited(ticket, self.stopwatch() - ticket.submitted, effects, served=False)
        return effects

    def close(self, home: Home) -> Flow[None]:
        """Ends everything; the sockets of this home, and the sync ones, are closed when this is done."""
        try:
            effects, own = self._end_everything(home)
            # Whoever uses a socket is woken before the first one is closed.
            for socket in effects.close:
                socket.wire.break_off()
            self._carry_out(effects, home, [])
            yield from self.settle(home, own)
        except GeneratorExit:
            raise
        except BaseException:
            self.sweep()
            raise
        self.sync_home.rest()

    @_guarded
    def _end_everything(self, home: Home) -> tuple[Effects, list[Socket]]:
        effects = self._owe(None)
        self._apply(self._core.close(self.now()), effects)
        # Some may be closing already, by others; they are closed when this returns, too.
        return effects, [socket for socket in self._sockets.values() if socket.home is home]

    def _clear_up(self) -> None:
        """Ends the requests that were dropped."""
        with suppress(IndexError):  # other threads do the same, and finalisers add some, all the while
            while True:
                note = self._abandoned[0]
                ticket = self._tickets.get(getattr(note, "number", -1))  # it may have been on its way
                if ticket is not None:
                    ticket.abandoned = True  # before it is over: its body's finaliser may come after us
                    self._finish_outside(self.withdraw(ticket))
                with suppress(ValueError):
                    self._abandoned.remove(note)

    # After an interruption --------------------------------------------------------------------------------------------

    def give_up(self, ticket: Ticket, *, with_socket: bool = False) -> None:
        """An exception comes out of a request: leave nothing of it, nor anything that its thread did not finish.

        Args:
            ticket: The request.
            with_socket: Whether to close a socket that was detached: no caller has it, or wants it.
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
        """An exception comes out of the agent: finish what this thread did not, if there is anything."""
        if self._was_broken_off() or get_ident() in self._unfinished:
            self.sweep()

    @_guarded
    def _was_broken_off(self) -> bool:
        return self._is_unswept

    def _decides_already(self) -> bool:
        """Whether this thread is in the middle of a decision, where a finaliser runs. Requires holding the lock.

        Else the one who was is gone, and the books are made anew.
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
        """Carries out all that follows from the books as they are, done before or not. Looks at everything."""
        effects = self._take_stock()
        self._carry_out(effects, None)
        for home in (self.sync_home, *self._homes.values()):
            self._look_after(home)
        self._unfinished.pop(get_ident(), None)

    def _look_after(self, home: Home) -> None:
        """Have the watcher of a home know of all that it is to do."""
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
        """Makes the books anew. Requires holding the lock; may itself be interrupted, and is then done again."""
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
            core.closed(unknown[0], now)  # its opening had not begun
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
    """What runs the calling task: its library, and what stands for the loop."""
    if sniffio.thread_local.name != "trio":  # trio says so while it runs, also where it is a guest of asyncio's loop
        return "asyncio", asyncio.get_running_loop()
    import trio

    return "trio", trio.lowlevel.current_trio_token()
