"""A clock that the test sets."""

from __future__ import annotations

from typing import Any

from httpx_agent import Agent


class Clock:
    """Gives agents their time; their timers ring when the test moves on."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time

    def agent(self, **options: Any) -> Agent:
        """An agent that lives by this clock."""

        class ClockedAgent(Agent):
            _clock = staticmethod(self)

        return ClockedAgent(**options)

    def advance(self, agent: Agent, seconds: float) -> None:
        """Lets time pass, and rings whichever timer is due."""
        self.time += seconds
        engine = agent._engine
        for home in [engine.sync_home, *engine._homes.values()]:
            engine.expire(home)
