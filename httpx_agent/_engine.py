"""The engine of an agent: it owns the core, the lock around it, the homes and the sockets, and does what the core says.

Order everywhere: lock, core, unlock, I/O. What is decided is noted under the lock (`_apply`); what needs no waiting is
done right after it (`_carry_out`); sockets are closed by whoever can wait for that (`settle`).

**Interruptions.** A signal's handler may raise at any instruction: `KeyboardInterrupt`, a time limit. What it breaks
off is finished or undone, by these rules:

- *Under the lock* (`_guarded`) whoever decides says so, and takes it back at the end. Whoever has the lock next and
  finds it said makes the books anew, before anything else, from what cannot be half true: which socket a request has,
  which sockets there are, and whose exchanges are not over (`_recover`, `Core.recover`).
- *Between the decision and its consequences* the thread is noted in `_unfinished`. Consequences follow from the books:
  whoever has a socket is to be woken, what is closing is to be closed. So an exception that comes out of a request
  calls `give_up`, and that carries out all that holds, whether it was done before or not (`sweep`): each may be done
  twice.
- *Outside of both* a request has one owner: the call that sends it, then the body of its response. The call ends it
  with the exception that it lets out, whatever had been done; a body that is dropped has left a note before Python can
  be interrupted (`Exchange.owner`).

A second exception, raised while the first one is dealt with, may leave something undone until the next request arrives:
a request that is let out is noted before anything else is done for it, and a thread that begins another one finishes
what it did not. The books still balance.
What only tells others (telemetry's events) is lost with what was interrupted.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections import deque
from contextlib import suppress
from dataclasses import replace
from functools import partial, wraps
from itertools import islice
from threading import get_ident
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, TypeVar, TypeVarTuple, Unpack

import sniffio

from . import _fork
from ._connector import Connector, Key
from ._core import Action, Close, Core, Counters, Grant, Refuse, Rules, SocketView, State
from ._goaway import GoawayHold
from ._homes import AsyncHome, AsyncioHome, Home, SyncHome, TrioHome
from ._locks import Lock, is_held_here, let_go
from ._options import (
    UNSET,
    AgentOptions,
    OptionsPerOrigin,
    check_option,
    check_options,
    check_origin,
    no_limit,
    rules_of,
)
from ._socket import Socket
from ._steps import CloseSocket, Flow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ._exchange import Exchange
    from ._family import Family
    from ._observer import Observer

#: Streams of an HTTP/2 connection at most: as many as httpcore opens.
MAX_STREAMS = 100

#: For how many origins keys and options are kept at hand.
MAX_KNOWN_KEYS = 10_000

#: So many of the oldest requests are looked at for responses that their thread has lost.
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


class Owner(weakref.ref[Any]):
    """The body of a response, for its exchange.

    Python calls `__del__` when it is dropped, and swallows what is raised there, be it at the first instruction. What a
    reference calls is a function of C here, which cannot be interrupted.
    """

    __slots__ = ("number",)

    number: int


class Effects:
    """What the core's answer asks of its driver, once the lock is released."""

    __slots__ = ("close", "tell", "unwatch", "wake")

    def __init__(self) -> None:
        self.wake: list[Exchange] = []
        self.close: list[Socket] = []
        self.unwatch: list[Socket] = []
        self.tell: list[Callable[[], None]] = []  # stays empty while nobody looks on


def _guarded(method: Callable[[Engine, *Args], Result]) -> Callable[[Engine, *Args], Result]:
    """Make a method run under the agent's lock, over books that are whole; the next one knows if it was broken off."""

    @wraps(method)
    def decide(engine: Engine, *args: *Args) -> Result:
        lock = engine._lock
        try:
            with lock:
                is_nested = engine._is_deciding and engine._decides_already()
                engine._is_deciding = True
                result = method(engine, *args)
                engine._is_deciding = is_nested
        except BaseException:
            let_go(lock)
            raise
        return result

    return decide


class Engine:
    """What works behind an `Agent`.

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
        _fork.register(self)

    def _begin_empty(self) -> None:
        """The mutable state, all of it guarded by the lock."""
        self._lock = Lock()
        self._core = Core(
            self._rules_for,
            max_total_sockets=no_limit(self.options.max_total_sockets),
            max_total_free_sockets=no_limit(self.options.max_total_free_sockets),
        )
        self._next_request = 0
        self._exchanges: dict[int, Exchange] = {}
        self._sockets: dict[int, Socket] = {}
        self._homes: dict[int, AsyncHome] = {}
        self._refused: set[Exchange] = set()  # and may not be woken yet
        self._is_deciding = False  # somebody is, or was broken off, and the books may be wrong
        self._is_unswept = False  # they were made anew, and what follows from them may not be done yet
        self._unfinished: dict[int, int] = {}  # threads, and how many of their decisions have consequences to come
        # Exchanges that were dropped, or what had them. Finalisers append, without the lock, and have them cleared up.
        self._abandoned: deque[Exchange | Owner] = deque()
        self.note_dropped = self._abandoned.append

    def begin_anew(self) -> None:
        """In a forked child: everything that it inherited is the parent's (see `_fork`)."""
        exchanges, sockets, homes = self._exchanges, self._sockets, self._homes
        self._begin_empty()
        for exchange in exchanges.values():
            exchange.over = True
        for socket in sockets.values():
            socket.wire.disown()
            if socket.home.is_async:
                _fork.bury(socket)
        for home in homes.values():
            home.disown()
            _fork.bury(home)
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
        waiting = [self._exchanges[number].key for number, _, _ in self._core.waiting()]
        return replace(self._core.counters), sockets, waiting

    @_guarded
    def exchanges(self) -> list[Exchange]:
        """The requests that wait or are in flight, in the order of their arrival."""
        return list(self._exchanges.values())

    @_guarded
    def renew_events(self, home: Home) -> list[Any]:
        """Gives those who wait in a home a new event to wait for; set the old ones, and they look at the clock."""
        waiting = [e for e in self._exchanges.values() if e.home is home and e.event is not None and not e.grant]
        events = [exchange.event for exchange in waiting]
        for exchange in waiting:
            exchange.event = home.new_event()
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
        homes = {socket.home for socket in self._sockets.values()} | {e.home for e in self._exchanges.values()}
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
        for exchange in [e for e in self._exchanges.values() if e.home is home]:
            self._end(exchange, effects)
        for socket in [s for s in self._sockets.values() if s.home is home]:
            self._note_closed(socket, effects)
        self._apply(self._core.end_home(home, self.now()), effects)
        self._sockets = {number: s for number, s in self._sockets.items() if s.home is not home}
        home.settling = {}
        return effects

    # What exchanges ask of the core: each answers with the sockets to be closed in their home -------------------------

    def submit(self, exchange: Exchange) -> list[Socket]:
        """The request arrives."""
        if self._abandoned:
            self._clear_up()
        if self._unfinished and get_ident() in self._unfinished:  # interrupted again, while it saw to that
            self.sweep()
        home = exchange.home
        negotiates = home.is_async and self.connector.may_multiplex(exchange.key)
        effects = self._enter(exchange, negotiates)
        if effects is not None:
            self._carry_out(effects, home, exchange.due)
        if self._is_unswept:  # by a thread that did not see to it, or since we entered
            self.sweep()
        if exchange.grant is None and self._homes:
            self._bury_dead_homes()
        return exchange.due

    @_guarded
    def _enter(self, exchange: Exchange, negotiates: bool) -> Effects | None:
        exchange.number = self._next_request
        self._next_request += 1
        self._exchanges[exchange.number] = exchange
        effects = self._apply(
            self._core.submit(exchange.number, exchange.key, exchange.home, self.now(), negotiates=negotiates)
        )
        if exchange.grant is None:
            exchange.event = exchange.home.new_event()
            exchange.queued = True
        return effects

    def withdraw(self, exchange: Exchange) -> list[Socket]:
        """The request gives up, in whatever state it is; a socket on which nothing was sent goes on to the next."""
        return self._end_of(exchange, self._core.abandon if exchange.started else self._core.withdraw)

    def release(self, exchange: Exchange, **outcome: Unpack[Outcome]) -> list[Socket]:
        """The request is over."""
        return self._end_of(exchange, self._core.release, **outcome)

    def replace(
        self, exchange: Exchange, *, fresh: bool = False, again: bool = False, error: bool = False
    ) -> list[Socket]:
        """The request's socket is dead, and it needs another; `again` if it may have been sent on that one."""
        return self._follow(self._exchange_socket(exchange, fresh, again, error), exchange)

    @_guarded
    def _exchange_socket(self, exchange: Exchange, fresh: bool, again: bool, error: bool) -> Effects | None:
        if exchange.over:  # the agent was closed meanwhile
            return None
        exchange.grant = exchange.socket = None
        exchange.event = exchange.home.new_event()
        effects = self._apply(self._core.replace(exchange.number, self.now(), fresh=fresh, error=error))
        if again and self._observer is not None:
            effects = self._owe(effects)
            effects.tell.append(partial(self._observer.request_retried, exchange))
        return effects

    def detach(self, exchange: Exchange) -> list[Socket]:
        """The request's socket is the caller's now (R25)."""
        return self._follow(self._let_out(exchange), exchange)

    @_guarded
    def _let_out(self, exchange: Exchange) -> Effects | None:
        socket = exchange.socket
        assert socket is not None
        if exchange.over:
            return None
        actions = self._core.detach(exchange.number, self.now())
        del self._sockets[socket.id]
        socket.home.settling.pop(socket.id, None)
        return self._apply(actions)

    def close_free_sockets(self, exchange: Exchange) -> list[Socket]:
        """No descriptor is left: all free sockets are given up; those of other event loops by these, soon."""
        return self._follow(self._give_up_free(), exchange)

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

    def abandon(self, exchange: Exchange) -> None:
        """The request was dropped by its caller. Finalisers call this, so it takes no lock; the home clears up."""
        exchange.abandoned = True
        self._abandoned.append(exchange)
        exchange.home.call_soon(self._clear_up)

    def find_lost(self, exchange: Exchange) -> None:
        """Before a request waits: free what an interruption took from its thread, after the response had left here.

        httpx's client makes such a response refer to itself, so that only the collector finds it; and who waits makes
        nothing that has the collector come.
        """
        if self._has_unread(exchange.thread):
            gc.collect()
            if self._abandoned:
                self._clear_up()

    @_guarded
    def _has_unread(self, thread: int) -> bool:
        # The first that came: what is lost is older than those that wait, of which there may be thousands.
        return any(
            e.thread == thread and e.owner is not None and (body := e.owner()) is not None and body.is_untouched()
            for e in islice(self._exchanges.values(), MOST_LOST)
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

    def why_waiting(self, exchange: Exchange) -> str | None:
        """What stands in the way of a request that waits, for its `PoolTimeout`; ``None`` if it waits no longer."""
        found = self._look_at_queue(exchange)
        if found is None:
            return None
        used, rules, total, states, waiting = found
        if used >= rules.max_sockets:
            limit = f"max_sockets={rules.max_sockets:g} is reached"
        elif total >= no_limit(self.options.max_total_sockets):
            limit = f"max_total_sockets={self.options.max_total_sockets} is reached"
        else:
            limit = "it waits to learn whether the first socket speaks HTTP/2"
        held = ", ".join(f"{count} {state.value}" for state, count in states.items()) or "none"
        timeout = exchange.request.extensions["timeout"]["pool"]
        return (
            f"{exchange.title}: no socket within "
            f"{timeout:g} s (pool timeout): {limit}; sockets of this origin: {held}, of all origins: {total}; "
            f"{waiting} request(s) of this origin wait, this one included. Raise the limit or the pool timeout, "
            "and read or close every response."
        )

    @_guarded
    def _look_at_queue(self, exchange: Exchange) -> tuple[int, Rules, int, dict[State, int], int] | None:
        if exchange.grant is not None or exchange.refused:  # another thread did that just now
            return None
        # Counted by the core, and not here: where thousands run out of time together, each of them comes by.
        core, key = self._core, exchange.key
        return *core.use_of(key), core.total, core.states_of(key), core.queue_of(exchange.number)

    # What homes and sockets report ------------------------------------------------------------------------------------

    def socket_opened(self, socket: Socket, stream: Any) -> None:
        """A new socket is usable."""
        http2 = self.connector.speaks_http2(stream)
        negotiates = socket.home.is_async and self.connector.may_multiplex(socket.key)
        if http2 and socket.http_version is None:  # else its first answer has come already
            socket.wire.goaway = GoawayHold()
        if http2 and negotiates:
            socket.multiplexed = True
            socket.wire.preface = bytearray()
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

    def settled(self, home: Home) -> list[tuple[int, int]]:
        """Descriptors and numbers of sockets that came free a while ago and still are; from now on they are watched."""
        candidates = self._take_settling(home)
        descriptors = {number: socket.wire.descriptor() for number, socket in candidates.items()}
        watched, deadline = self._note_watched(home, candidates, descriptors)
        if deadline is not None:  # the keeper may have been told to rest meanwhile
            home.keeper.arm(deadline)
        return watched

    @_guarded
    def _take_settling(self, home: Home) -> dict[int, Socket]:
        candidates, home.settling = home.settling, {}
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
            home.keeper.arm(again)
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
                exchange = self._exchanges[action.request]
                socket = self._give(action, exchange)
                if exchange.queued:
                    effects = self._owe(effects)
                    self._note_waited(exchange, action.queued_for, effects, served=True)
                if socket.watched is not None:
                    effects = self._owe(effects)
                    effects.unwatch.append(socket)
                if exchange.event is not None:
                    effects = self._owe(effects)
                    effects.wake.append(exchange)
            elif isinstance(action, Close):
                socket = self._sockets[action.socket]
                socket.close_reason = action.reason
                effects = self._owe(effects)
                effects.unwatch.append(socket)
                effects.close.append(socket)
            else:
                assert isinstance(action, Refuse)
                exchange = self._exchanges[action.request]
                effects = self._owe(effects)
                self._refuse(exchange, effects)
        return effects

    def _give(self, grant: Grant, exchange: Exchange) -> Socket:
        """The exchange has a socket. Requires holding the lock."""
        socket = self._sockets.get(grant.socket)
        if socket is None:
            socket = self._sockets[grant.socket] = Socket(self, grant.socket, exchange.home, exchange.key)
        socket.request_count = grant.requests_on_socket
        exchange.socket = socket
        exchange.grant = grant
        return socket

    def _refuse(self, exchange: Exchange, effects: Effects) -> None:
        """The agent was closed. Requires holding the lock."""
        exchange.refused = True
        if exchange.event is not None:
            self._refused.add(exchange)
            effects.wake.append(exchange)
        self._end(exchange, effects)

    def _follow(self, effects: Effects | None, exchange: Exchange) -> list[Socket]:
        """As `_carry_out`, for an exchange; gives what it has to close in its home."""
        self._carry_out(effects, exchange.home, exchange.due)
        return exchange.due

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
        for exchange in effects.wake:
            exchange.home.wake(exchange.event, here)
            self._refused.discard(exchange)
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

    def _note_waited(self, exchange: Exchange, seconds: float, effects: Effects, *, served: bool) -> None:
        """A request that found no socket waits no longer. Requires holding the lock, as the next one."""
        exchange.queued = False
        if self._observer is not None:
            effects.tell.append(partial(self._observer.request_waited, exchange, seconds, served=served))

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
        socket.home.settling.pop(socket.id, None)
        return self._apply(actions, effects)

    def _end_of(self, exchange: Exchange, tell_core: Callable[..., list[Action]], **outcome: Any) -> list[Socket]:
        """The request is over; its socket may be free now."""
        effects, deadline, settles = self._note_over(exchange, tell_core, outcome)
        if effects is not None:
            self._carry_out(effects, exchange.home, exchange.due)
        if deadline is not None:
            exchange.home.keeper.arm(deadline)
        if settles:
            exchange.home.keeper.settle()
        exchange.ended_in_order = True
        return exchange.due

    @_guarded
    def _note_over(
        self, exchange: Exchange, tell_core: Callable[..., list[Action]], outcome: dict[str, Any]
    ) -> tuple[Effects | None, float | None, bool]:
        if exchange.over or exchange.number not in self._exchanges:  # the agent was closed meanwhile, or it never came
            exchange.over = True
            return None, None, False
        socket, home = exchange.socket, exchange.home
        effects = self._end(exchange)
        actions = tell_core(exchange.number, self.now(), **outcome)
        if actions:
            effects = self._apply(actions, effects)
        if socket is None or not self._core.is_free(socket.id):
            return effects, None, False
        settles = not socket.wire.tells_of_loss
        if settles:
            home.settling[socket.id] = socket
        return effects, self._core.next_deadline(home), settles

    def _end(self, exchange: Exchange, effects: Effects | None = None) -> Effects | None:
        """The request is over; gives what there is to be told of it, if anything is."""
        exchange.over = True
        exchange.owner = None
        del self._exchanges[exchange.number]
        if exchange.queued:
            effects = self._owe(effects)
            self._note_waited(exchange, self.stopwatch() - exchange.submitted, effects, served=False)
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
        """Ends the exchanges that were dropped."""
        with suppress(IndexError):  # other threads do the same, and finalisers add some, all the while
            while True:
                note = self._abandoned[0]
                exchange = self._exchanges.get(getattr(note, "number", -1))  # it may have been on its way
                if exchange is not None:
                    exchange.abandoned = True  # before it is over: its body's finaliser may come after us
                    self._finish_outside(self.withdraw(exchange))
                with suppress(ValueError):
                    self._abandoned.remove(note)

    # After an interruption --------------------------------------------------------------------------------------------

    def give_up(self, exchange: Exchange, *, with_socket: bool = False) -> None:
        """An exception comes out of a request: leave nothing of it, nor anything that its thread did not finish.

        Args:
            exchange: The request.
            with_socket: Whether to close a socket that was detached: no caller has it, or wants it.
        """
        self.mend()
        if not exchange.over:
            self.withdraw(exchange)
        elif not exchange.ended_in_order:
            self._look_after(exchange.home)
        if with_socket and exchange.detached and exchange.socket is not None:
            exchange.due.append(exchange.socket)
        self._finish_outside(exchange.due)
        with suppress(ValueError):
            self._abandoned.remove(exchange)

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
        """Has the keeper of a home know of all that it is to do."""
        deadline, settles = self._needs_of(home)
        if deadline is not None:
            home.keeper.arm(deadline)
        if settles:
            home.keeper.settle()

    @_guarded
    def _needs_of(self, home: Home) -> tuple[float | None, bool]:
        return self._core.next_deadline(home), bool(home.settling)

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
                    socket.home.settling[socket.id] = socket
                continue
            effects.unwatch.append(socket)
        effects.wake.extend(e for e in self._exchanges.values() if e.event is not None and e.grant is not None)
        effects.wake.extend(self._refused)
        return effects

    def _recover(self) -> None:
        """Makes the books anew. Requires holding the lock; may itself be interrupted, and is then done again."""
        self._is_unswept = True
        core, now = self._core, self.now()
        for number, exchange in list(self._exchanges.items()):
            if exchange.over:
                del self._exchanges[number]
        core.recover(self._exchanges, now)
        homes = {socket.home for socket in self._sockets.values()} | {e.home for e in self._exchanges.values()}
        for home in homes.difference(self._homes.values(), [self.sync_home]):
            core.end_home(home, now)
        self._reconfigure()
        for number in self._sockets.keys() - {view.id for view in core.sockets(now)}:
            del self._sockets[number]
        for exchange in list(self._exchanges.values()):
            if not core.is_known(exchange.number):
                self._refuse(exchange, Effects())
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
            exchange = self._exchanges[action.request]
            if exchange.grant is None or exchange.grant.socket != action.socket:
                self._give(action, exchange)
        self._is_deciding = False

    def _rules_for(self, key: Any) -> Any:
        return rules_of(self.options_for(key))


def _current_loop() -> tuple[str, Any]:
    """What runs the calling task: its library, and what stands for the loop."""
    if sniffio.thread_local.name != "trio":  # trio says so while it runs, also where it is a guest of asyncio's loop
        return "asyncio", asyncio.get_running_loop()
    import trio

    return "trio", trio.lowlevel.current_trio_token()
