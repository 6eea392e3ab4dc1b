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

#: The class whose attributes give all agents their clocks, for once to be set.
_AGENTS: Any = BaseAgent


class VirtualClock:
    """Gives agents their time, which stands still until the test moves it.

        with VirtualClock() as clock:
            agent = Agent(free_socket_timeout=15)
        ...
        clock.advance(15)

    Agents that are made within the block live by this clock, also after it; those of transports, too. All times of
    an agent go by it: how long a socket is free, how old it grows, how long a request waits for one. The timeouts of
    the network (connect, read, write) do not; a `Network` has `TIMEOUT` for these.

    Within the block every agent that is made gets this clock, by whichever thread: one block at a time.
    """

    def __init__(self) -> None:
        self.time = 1000.0
        """Seconds since some moment."""
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
        """Make an `httpx_agent.Agent` that lives by this clock."""
        from .. import Agent

        with self:
            return Agent(**options)

    def advance(self, seconds: float) -> None:
        """Lets time pass: sockets expire, and requests that have waited for long enough give up.

        What belongs to the calling event loop, and to the sync world, has been told when this returns; a loop does
        the closing as soon as it comes to run. Other event loops are told, and do the same when they get to it.
        """
        self.time += seconds
        for agent in list(self._agents):
            _look_at_the_clock(agent._dispatcher)


class _Registering:
    """Stands as the clocks of agents, and notes who asks for it: an agent that is made."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock

    def __get__(self, agent: BaseAgent[Any, Any, Any], owner: type) -> VirtualClock:
        self._clock._agents.add(agent)
        return self._clock


def _look_at_the_clock(dispatcher: Dispatcher) -> None:
    here: Home | None = None
    with suppress(RuntimeError):  # no event loop runs here
        here = dispatcher.find_async_home()
    _ring(dispatcher, dispatcher.sync_home, here)
    for home in list(dispatcher._homes.values()):
        if home is here:
            _ring(dispatcher, home, here)
        else:
            home.call_soon(partial(_ring, dispatcher, home, home))


def _ring(dispatcher: Dispatcher, home: Home, here: Home | None) -> None:
    """Do what a home's timers do, and make those who wait for a socket look at their deadlines."""
    dispatcher.expire(home)
    for event in dispatcher.renew_events(home):
        home.wake(event, here)
