"""The engine of an agent: it owns the core, the lock around it, the homes and the sockets, and does what the core says.

Order everywhere: lock, core, unlock, I/O. What is decided is noted under the lock (`_apply`); what needs no waiting is
done right after it (`_carry_out`); sockets are closed by whoever can wait for that (`settle`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, Unpack

import sniffio

from . import _fork
from ._connector import Connector, Key
from ._core import Action, Close, Core, Counters, Grant, Refuse, SocketView
from ._goaway import GoawayHold
from ._homes import AsyncHome, AsyncioHome, Home, SyncHome, TrioHome
from ._locks import Lock, is_held_here
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
from ._steps import CloseSocket, Flow, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ._exchange import Exchange
    from ._family import Family
    from ._observer import Observer

#: Streams of an HTTP/2 connection at most: as many as httpcore opens.
MAX_STREAMS = 100

#: For how many origins keys and options are kept at hand.
MAX_KNOWN_KEYS = 10_000

_log = logging.getLogger("httpx_agent")

_DEFAULT_PORTS = {b"http": 80, b"https": 443, b"ws": 80, b"wss": 443}


class Outcome(TypedDict):
    """How a request in flight ended; see `Core.release`."""

    reusable: bool
    complete: bool
    hint: float | None
    error: NotRequired[bool]
    timed_out: NotRequired[bool]
    unheard: NotRequired[bool]
    ended: NotRequired[bool]


class Effects:
    """What the core's answer asks of its driver, once the lock is released."""

    __slots__ = ("close", "tell", "unwatch", "wake")

    def __init__(self) -> None:
        self.wake: list[Exchange] = []
        self.close: list[Socket] = []
        self.unwatch: list[Socket] = []
        self.tell: list[Callable[[], None]] = []  # stays empty while nobody looks on


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
        # Exchanges that were dropped. Finalisers append, without the lock, and have them cleared up.
        self._abandoned: deque[Exchange] = deque()

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

    def counters(self) -> Counters:
        """What happened so far."""
        with self._lock:
            return replace(self._core.counters)

    def snapshot(self) -> tuple[Counters, list[tuple[SocketView, Socket]], list[Key]]:
        """The counters, the sockets that count, oldest first, and the keys of the waiting requests."""
        with self._lock:
            sockets = [(view, self._sockets[view.id]) for view in self._core.sockets(self.now())]
            waiting = [self._exchanges[number].key for number, _, _ in self._core.waiting()]
            return replace(self._core.counters), sockets, waiting

    def exchanges(self) -> list[Exchange]:
        """The requests that wait or are in flight, in the order of their arrival."""
        with self._lock:
            return list(self._exchanges.values())

    def renew_events(self, home: Home) -> list[Any]:
        """Gives those who wait in a home a new event to wait for; set the old ones, and they look at the clock."""
        with self._lock:
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
        options = check_option(name, value)
        with self._lock:
            self._given |= {name}
            self.options = AgentOptions(**{**vars(self.options), name: options})
            self._per_origin = OptionsPerOrigin(self.options)
            self._known_options = {}
            effects = self._apply(
                self._core.reconfigure(
                    self.now(),
                    self._rules_for,
                    max_total_sockets=no_limit(self.options.max_total_sockets),
                    max_total_free_sockets=no_limit(self.options.max_total_free_sockets),
                )
            )
        self._finish_outside(self._carry_out(effects, None))

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
        with self._lock:
            self._homes[id(loop)] = home
        await home.start()
        return home

    async def leave_home(self, home: AsyncHome) -> None:
        """Ends the home of the running event loop, if nothing of it is left."""
        with self._lock:
            homes = {socket.home for socket in self._sockets.values()} | {e.home for e in self._exchanges.values()}
            if home in homes:
                return
            self._homes.pop(id(home.loop), None)
        await home.leave()

    async def end_home(self, home: AsyncHome) -> None:
        """The event loop is about to end: closes the sockets there and frees their slots."""
        home.is_ending = True
        with self._lock:
            sockets = [socket for socket in self._sockets.values() if socket.home is home]
        try:
            for socket in sockets:
                home.unwatch(socket)
                await socket.aclose()
        finally:
            self._forget_home(home)

    def _bury_dead_homes(self) -> None:
        """Event loops that ended without a word: their sockets' descriptors are closed, and nothing else."""
        with self._lock:
            dead = [home for home in self._homes.values() if home.is_over()]
            # With none dead, no socket is looked at: every request that has to wait comes by.
            sockets = [socket for socket in self._sockets.values() if socket.home in dead] if dead else []
        for socket in sockets:
            socket.wire.close_raw()
        for home in dead:
            self._forget_home(home)

    def _forget_home(self, home: AsyncHome) -> None:
        home.end()
        with self._lock:
            self._homes = {number: other for number, other in self._homes.items() if other is not home}
            effects = Effects()
            for exchange in [e for e in self._exchanges.values() if e.home is home]:
                self._end(exchange, effects)
            for socket in [s for s in self._sockets.values() if s.home is home]:
                self._note_closed(socket, effects)
            self._apply(self._core.end_home(home, self.now()), effects)
            self._sockets = {number: s for number, s in self._sockets.items() if s.home is not home}
            home.settling = {}
        self._finish_outside(self._carry_out(effects, None))

    # What exchanges ask of the core: each answers with the sockets to be closed in their home -------------------------

    def submit(self, exchange: Exchange) -> list[Socket]:
        """The request arrives."""
        if self._abandoned:
            self._clear_up()
        home = exchange.home
        negotiates = home.is_async and self.connector.may_multiplex(exchange.key)
        with self._lock:
            exchange.number = self._next_request
            self._next_request += 1
            self._exchanges[exchange.number] = exchange
            effects = self._apply(
                self._core.submit(exchange.number, exchange.key, home, self.now(), negotiates=negotiates)
            )
            if exchange.grant is None:
                exchange.event = home.new_event()
                exchange.queued = True
        closing = self._carry_out(effects, home)
        if exchange.grant is None and self._homes:
            self._bury_dead_homes()
        return closing

    def withdraw(self, exchange: Exchange) -> list[Socket]:
        """The request gives up before anything was sent."""
        return self._end_of(exchange, self._core.withdraw)

    def release(self, exchange: Exchange, **outcome: Unpack[Outcome]) -> list[Socket]:
        """The request is over."""
        return self._end_of(exchange, self._core.release, **outcome)

    def replace(
        self, exchange: Exchange, *, fresh: bool = False, again: bool = False, error: bool = False
    ) -> list[Socket]:
        """The request's socket is dead, and it needs another; `again` if it may have been sent on that one."""
        with self._lock:
            if exchange.over:  # the agent was closed meanwhile
                return []
            exchange.grant = exchange.socket = None
            exchange.event = exchange.home.new_event()
            effects = self._apply(self._core.replace(exchange.number, self.now(), fresh=fresh, error=error))
            if again and self._observer is not None:
                effects = effects or Effects()
                effects.tell.append(partial(self._observer.request_retried, exchange))
        return self._carry_out(effects, exchange.home)

    def detach(self, exchange: Exchange) -> list[Socket]:
        """The request's socket is the caller's now (R25)."""
        socket = exchange.socket
        assert socket is not None
        with self._lock:
            if exchange.over:
                return []
            del self._sockets[socket.id]
            socket.home.settling.pop(socket.id, None)
            effects = self._apply(self._core.detach(exchange.number, self.now()))
        return self._carry_out(effects, exchange.home)

    def close_free_sockets(self, home: Home) -> list[Socket]:
        """No descriptor is left: all free sockets are given up; those of other event loops by these, soon."""
        with self._lock:
            effects = self._apply(self._core.close_free(self.now()))
        return self._carry_out(effects, home)

    def rest(self) -> None:
        """Close all free sockets, those of event loops soon: nobody may come back for them."""
        run(self.settle(self.sync_home, self.close_free_sockets(self.sync_home)))

    def abandon(self, exchange: Exchange) -> None:
        """The request was dropped by its caller. Finalisers call this, so it takes no lock; the home clears up."""
        self._abandoned.append(exchange)
        exchange.home.call_soon(self._clear_up)

    def settle(self, home: Home, closing: list[Socket]) -> Flow[None]:
        """Closes sockets in their home, and what that leads to; an interruption comes out at the end."""
        interruption: BaseException | None = None
        queue = deque(closing)
        while queue:
            socket = queue.popleft()
            try:
                yield CloseSocket(socket)
            except GeneratorExit:  # whoever waited for this is dropped; the home does it by itself
                self._finish_outside([socket, *queue])
                raise
            except Exception:
                pass  # it was to be closed, and is
            except BaseException as error:
                interruption = error
            queue.extend(self._closed(socket, home))
        if interruption is not None:
            raise interruption

    def why_waiting(self, exchange: Exchange) -> str | None:
        """What stands in the way of a request that waits, for its `PoolTimeout`; ``None`` if it waits no longer."""
        with self._lock:
            if exchange.grant is not None or exchange.refused:  # another thread did that just now
                return None
            # Counted by the core, and not here: where thousands run out of time together, each of them comes by.
            used, rules = self._core.use_of(exchange.key)
            total = self._core.total
            states = self._core.states_of(exchange.key)
            waiting = self._core.queue_of(exchange.number)
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
        with self._lock:
            socket.opened_at = self.now()
            effects = self._apply(self._core.opened(socket.id, socket.opened_at))
            if negotiates and not http2:
                answer = self._core.negotiated(socket.id, self.now(), capacity=1, multiplexes=False)
                effects = self._apply(answer, effects)
        self._finish_outside(self._carry_out(effects, socket.home))

    def socket_has_room(self, socket: Socket, streams: int | None) -> None:
        """The server of an HTTP/2 connection said how many streams it takes."""
        capacity = MAX_STREAMS if streams is None else max(1, min(streams, MAX_STREAMS))
        with self._lock:
            effects = self._apply(self._core.negotiated(socket.id, self.now(), capacity=capacity, multiplexes=True))
        self._finish_outside(self._carry_out(effects, socket.home))

    def socket_lost(self, number: int) -> None:
        """A free socket was closed by its server, or written to unasked (R14, N23)."""
        with self._lock:
            effects = self._apply(self._core.lost(number, self.now()))
        self._finish_outside(self._carry_out(effects, None))

    def settled(self, home: Home) -> list[tuple[int, int]]:
        """Descriptors and numbers of sockets that came free a while ago and still are; from now on they are watched."""
        with self._lock:
            candidates, home.settling = home.settling, {}
        descriptors = {number: socket.wire.descriptor() for number, socket in candidates.items()}
        watched = []
        with self._lock:
            free = [number for number in candidates if self._core.is_free(number)]
            for number in free:
                candidates[number].watched = descriptor = descriptors[number]
                if descriptor is not None:
                    watched.append((descriptor, number))
            deadline = self._core.next_deadline(home) if free else None
        if deadline is not None:  # the keeper may have been told to rest meanwhile
            home.keeper.arm(deadline)
        return watched

    def expire(self, home: Home) -> None:
        """Closes the free sockets of a home whose time is over, and looks when to come again."""
        with self._lock:
            effects = self._apply(self._core.expire(home, self.now()))
            again = self._core.next_deadline(home)
        if again is not None:
            home.keeper.arm(again)
        self._finish_outside(self._carry_out(effects, None))

    # Carrying out -----------------------------------------------------------------------------------------------------

    def _apply(self, actions: Iterable[Action], effects: Effects | None = None) -> Effects | None:
        """Notes what the core decided, and collects what is to be done, if anything is. Requires holding the lock."""
        for action in actions:
            if isinstance(action, Grant):
                exchange = self._exchanges[action.request]
                socket = self._sockets.get(action.socket)
                if socket is None:
                    socket = Socket(self, action.socket, exchange.home, exchange.key)
                    self._sockets[action.socket] = socket
                exchange.grant = action
                exchange.socket = socket
                socket.request_count = action.requests_on_socket
                if exchange.queued:
                    effects = effects or Effects()
                    self._note_waited(exchange, action.queued_for, effects, served=True)
                if socket.watched is not None:
                    effects = effects or Effects()
                    effects.unwatch.append(socket)
                if exchange.event is not None:
                    effects = effects or Effects()
                    effects.wake.append(exchange)
            elif isinstance(action, Close):
                socket = self._sockets[action.socket]
                socket.close_reason = action.reason
                effects = effects or Effects()
                effects.unwatch.append(socket)
                effects.close.append(socket)
            else:
                assert isinstance(action, Refuse)
                exchange = self._exchanges[action.request]
                exchange.refused = True
                effects = effects or Effects()
                self._end(exchange, effects)
                if exchange.event is not None:
                    effects.wake.append(exchange)
        return effects

    def _carry_out(self, effects: Effects | None, here: Home | None) -> list[Socket]:
        """Does what needs no waiting; gives back the sockets that are to be closed here. Without the lock."""
        if effects is None:
            return []
        for socket in effects.unwatch:
            socket.home.unwatch(socket)
        for exchange in effects.wake:
            exchange.home.wake(exchange.event, here)
        closing = []
        for socket in effects.close:
            if socket.home is here:
                closing.append(socket)
            else:
                socket.home.do_soon(self.settle(socket.home, [socket]))
        for tell in effects.tell:
            self._tell(tell)
        return closing

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

    def _finish_outside(self, closing: list[Socket]) -> None:
        """Closes sockets from where nothing can be awaited."""
        for socket in closing:
            socket.home.do_soon(self.settle(socket.home, [socket]))

    def _closed(self, socket: Socket, here: Home | None) -> list[Socket]:
        with self._lock:
            if self._sockets.pop(socket.id, None) is None:
                return []  # its home has ended meanwhile
            socket.home.settling.pop(socket.id, None)
            effects = Effects()
            self._note_closed(socket, effects)
            self._apply(self._core.closed(socket.id, self.now()), effects)
        return self._carry_out(effects, here)

    def _end_of(self, exchange: Exchange, tell_core: Callable[..., list[Action]], **outcome: Any) -> list[Socket]:
        """The request is over; its socket may be free now."""
        socket, home = exchange.socket, exchange.home
        deadline, settles = None, False
        with self._lock:
            if exchange.over:  # the agent was closed meanwhile
                return []
            effects = self._end(exchange)
            actions = tell_core(exchange.number, self.now(), **outcome)
            if actions:
                effects = self._apply(actions, effects)
            if socket is not None and self._core.is_free(socket.id):
                deadline = self._core.next_deadline(home)
                settles = not socket.wire.tells_of_loss
                if settles:
                    home.settling[socket.id] = socket
        closing = self._carry_out(effects, home)
        if deadline is not None:
            home.keeper.arm(deadline)
        if settles:
            home.keeper.settle()
        return closing

    def _end(self, exchange: Exchange, effects: Effects | None = None) -> Effects | None:
        """The request is over; gives what there is to be told of it, if anything is."""
        exchange.over = True
        del self._exchanges[exchange.number]
        if exchange.queued:
            effects = effects or Effects()
            self._note_waited(exchange, self.stopwatch() - exchange.submitted, effects, served=False)
        return effects

    def close(self, home: Home) -> Flow[None]:
        """Ends everything; the sockets of this home, and the sync ones, are closed when this is done."""
        with self._lock:
            effects = Effects()
            self._apply(self._core.close(self.now()), effects)
            # Some may be closing already, by others; they are closed when this returns, too.
            own = [socket for socket in self._sockets.values() if socket.home is home]
        # Whoever uses a socket is woken before the first one is closed.
        for socket in effects.close:
            socket.wire.break_off()
        self._carry_out(effects, home)
        yield from self.settle(home, own)
        self.sync_home.rest()

    def _clear_up(self) -> None:
        """Ends the exchanges that were dropped."""
        dropped: list[Exchange] = []
        with suppress(IndexError):  # other threads take some, and finalisers add some, all the while
            while True:
                dropped.append(self._abandoned.popleft())
        for exchange in dropped:
            if exchange.started:
                closing = self.release(exchange, reusable=False, complete=False, hint=None)
            else:
                closing = self.withdraw(exchange)
            self._finish_outside(closing)

    def _rules_for(self, key: Any) -> Any:
        return rules_of(self.options_for(key))


def _current_loop() -> tuple[str, Any]:
    """What runs the calling task: its library, and what stands for the loop."""
    if sniffio.thread_local.name != "trio":  # trio says so while it runs, also where it is a guest of asyncio's loop
        return "asyncio", asyncio.get_running_loop()
    import trio

    return "trio", trio.lowlevel.current_trio_token()
