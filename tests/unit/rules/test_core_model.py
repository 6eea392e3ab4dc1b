"""The core does exactly what a naive model of the rules does, for any input."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import invariant, precondition

from httpx_agent._rules.core import State
from tests.unit.rules.machine import HOMES, Driver
from tests.unit.rules.model import Model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from httpx_agent._rules.core import Action


class Comparison(Driver):
    """Core and model side by side."""

    def make(self, **options: float) -> None:
        super().make(**options)
        self.model = Model(self.rules_of.__getitem__, **options)

    def call(self, method: str, *args: Any, **options: Any) -> Sequence[Action]:
        actions = super().call(method, *args, **options)
        if method == "expire":
            options["in_order"] = actions
        assert actions == getattr(self.model, method)(*args, **options)
        return actions

    @invariant()
    @precondition(lambda self: hasattr(self, "model"))
    def the_views_agree(self) -> None:
        assert self.core.counters == self.model.counters
        assert self.core.total == len(self.model.open)
        for key, rules in self.rules_of.items():
            assert self.core.use_of(key) == (self.model.used(key), rules)
            states = Counter(State(socket.state) for socket in self.model.open if socket.key == key)
            if self.model.used(key):
                assert self.core.states_of(key) == states
        for request in self.model.requests:
            if request.state in ("waiting", "heir"):
                queue = [r for r in self.model.requests if r.key == request.key and r.state == "waiting"]
                assert self.core.queue_of(request.id) == len({r.id for r in [*queue, request]})
        assert list(self.core.waiting()) == [
            (request.id, request.key, request.home)
            for request in self.model.requests
            if request.state in ("waiting", "heir")
        ]
        views = list(self.core.sockets(self.now))
        assert [(v.id, v.key, v.home, v.state.value, v.request_count, v.age) for v in views] == [
            (s.id, s.key, s.home, s.state, s.served, self.now - s.created) for s in self.model.open
        ]
        for view, socket in zip(views, self.model.open, strict=True):
            free = socket.state == "free"
            assert view.idle_for == (self.now - socket.free_since if free else None)
            remaining = max(0.0, socket.deadline - self.now)
            assert view.expires_in == (remaining if free and remaining < float("inf") else None)

    @invariant()
    @precondition(lambda self: hasattr(self, "model"))
    def nothing_expires_unannounced(self) -> None:
        for home in HOMES:
            deadlines = [s.deadline for s in self.model.free if s.home == home and s.deadline < float("inf")]
            if deadlines:
                announced = self.core.next_deadline(home)
                assert announced is not None
                assert announced <= min(deadlines)


TestComparison = pytest.mark.slow(
    pytest.mark.timeout(600)(Comparison.TestCase)
)  # a failure takes its time to be shortened
TestComparison.settings = settings(
    max_examples=250, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
