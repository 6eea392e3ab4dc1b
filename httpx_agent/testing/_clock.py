"""A clock that the test sets."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakSet

from .._api.agent import BaseAgent

if TYPE_CHECKING:
    from .. import Agent
    from .._pool.dispatcher import Dispatcher
    from .._runtime.homes import Home

#: The class whose attributes are the clocks of all agents; `Any`, so that they can be set.
_AGENTS: Any = BaseAgent


class VirtualClock:
    """A clock for agents that stands still until the test moves it.

        with VirtualClock() as clock:
            agent = Agent(free_socket_timeout=15)
        ...
        clock.advance(15)

    Agents made within the block, including those of transports, use this clock for good, even after the block. It
    governs all times of an agent: how long a socket is free, how old it is, how long a request waits for one. It does
    not govern the timeouts of the network (connect, read, write); to simulate these, a `Network` has `TIMEOUT`.

    Every agent made during the block gets this clock, whichever thread makes it, so use one block at a time.
    """

    def __init__(self) -> None:
        self.time = 1000.0
        """The time in seconds, from an arbitrary start."""
        self._agents: WeakSet[BaseAgent[Any, Any, Any]] = WeakSet()
        self._before: list[Any] = []

    def __call__(self) -> float:
        """Return the time."""
        return self.time

    def __enter__(self) -> Self:
        self._before.append((vars(_AGENTS)["_clock"], vars(_AGENTS)["_stopwatch"]))
        _AGENTS._clock = _AGENTS._stopwatch = _Registering(self)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _AGENTS._clock, _AGENTS._stopwatch = self._before.pop()

    def agent(self, **options: Any) -> Agent:
        """Make an `httpx_agent.Agent` that uses this clock."""
        from .. import Agent

        with self:
            return Agent(**options)

    def advance(self, seconds: float) -> None:
        """Move the time forward: sockets expire, and requests whose pool timeout has passed give up.

        When this returns, the expired sockets and requests of the sync world and of the calling event loop have been
        notified; the loop closes its sockets when it next runs. Other event loops are woken to do the same.

        Args:
            seconds: How far to move the time.
        """
        self.time += seconds
        for agent in list(self._agents):
            _look_at_the_clock(agent._dispatcher)


class _Registering:
    """A descriptor that stands in for the clocks of agents, and records each agent that gets it when it is made."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock

    def __get__(self, agent: BaseAgent[Any, Any, Any], owner: type) -> VirtualClock:
        self._clock._agents.add(agent)
        return self._clock


def _look_at_the_clock(dispatcher: Dispatcher) -> None:
    here: Home | None = None
    with suppress(RuntimeError):  # no event loop is running here
        here = dispatcher.find_async_home()
    _ring(dispatcher, dispatcher.sync_home, here)
    for home in list(dispatcher._homes.values()):
        if home is here:
            _ring(dispatcher, home, here)
        else:
            home.call_soon(partial(_ring, dispatcher, home, home))


def _ring(dispatcher: Dispatcher, home: Home, here: Home | None) -> None:
    """Do what a home's timers would do, and wake the requests that wait for a socket, to check their deadlines."""
    dispatcher.expire(home)
    for event in dispatcher.renew_events(home):
        home.wake(event, here)
