"""An agent whose time is the test's."""

from __future__ import annotations

from typing import Any

from httpx_agent import Agent


class Clock:
    """Stands still until the test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def agent_with_clock(**options: Any) -> tuple[Agent, Clock]:
    """An agent, and the clock that it looks at."""
    clock = Clock()

    class ClockedAgent(Agent):
        now = staticmethod(clock)

    return ClockedAgent(**options), clock
