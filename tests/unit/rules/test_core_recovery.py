"""An operation is interrupted at any point: the books are rebuilt, and no slot is lost."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from httpx_agent._rules import core as _core
from httpx_agent._rules.core import Close, Grant, State
from tests.support.interrupting import Interrupted, Interruption
from tests.unit.rules.test_core_invariants import Invariants

if TYPE_CHECKING:
    from collections.abc import Sequence

    from httpx_agent._rules.core import Action


class Recovery(Invariants):
    """Breaks operations off, and recovers as a driver does: by what the core says that holds now."""

    at = 0
    instructions = False

    @precondition(lambda self: not self.at)
    @rule(at=st.one_of(st.integers(1, 40), st.integers(1, 150)), instructions=st.booleans())
    def interrupt_next(self, at: int, instructions: bool) -> None:
        self.at, self.instructions = at * (1 + 6 * instructions), instructions

    def call(self, method: str, *args: Any, **options: Any) -> Sequence[Action]:
        at, self.at = self.at, 0
        if not at:
            return super().call(method, *args, **options)
        self.sound = False
        error, submitted = Interrupted(), self.core._submitted
        actions: Sequence[Action] = []
        with (
            suppress(Interrupted),
            Interruption(at, error, files=[_core.__file__], instructions=self.instructions) as it,
        ):
            actions = getattr(self.core, method)(*args, **options)
        if it.where is not None:
            self.recover(method, *args, **options)
            self.never_came += method == "submit" and self.core._submitted == submitted
        self.sound = True
        return actions

    def recover(self, method: str, *args: Any, **options: Any) -> None:
        alive = set(self.lanes)
        if method in ("submit", "withdraw", "release", "replace", "detach"):  # whose caller got the exception
            self.leave(args[0])
            alive.discard(args[0])
            self.detached.discard(args[0])
        if method in ("submit", "replace", "detach"):  # of the others, the machine does so itself
            del self.lanes[args[0]]
        self.core.recover(alive, self.now)
        if method in ("end_home", "reconfigure"):
            getattr(self.core, method)(*args, **options)
        for request in [request for request in alive if not self.core.is_known(request)]:
            assert method == "close"
            alive.remove(request)
            del self.lanes[request]
        actions = self.core.standing(self.now)
        views = list(self.core.sockets(self.now))
        grants = [action for action in actions if isinstance(action, Grant)]
        self.homes = {view.id: view.home for view in views}
        self.unopened = {grant.socket for grant in grants if grant.new}
        self.closing = {action.socket for action in actions if isinstance(action, Close)}
        self.users = {view.id: [] for view in views if view.state is not State.CLOSING}
        self.on = {}
        for grant in grants:
            self.on[grant.request] = grant.socket
            self.users[grant.socket].append(grant.request)
        self.waiting = alive - self.on.keys() - self.detached

    def teardown(self) -> None:
        self.at = 0
        super().teardown()

    def count_passed_over(self, candidates: Any, granted: Any) -> None:
        """Who was passed over by what was lost is not counted."""


TestRecovery = pytest.mark.slow(pytest.mark.timeout(600)(Recovery.TestCase))
TestRecovery.settings = settings(
    max_examples=200, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
