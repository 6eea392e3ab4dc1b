"""Properties that hold at every moment, for any input."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import invariant, precondition

from httpx_agent._rules.core import MAX_OVERTAKEN, SPARE_ENTRIES, Grant, State, _Lane, _Request
from tests.unit.rules.machine import HOMES, Driver

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from httpx_agent._rules.core import Action


class Invariants(Driver):
    """Looks inside the core after every step."""

    were_free: Mapping[str | None, int] = MappingProxyType({})

    def call(self, method: str, *args: Any, **options: Any) -> Sequence[Action]:
        self.sound = False
        before = set(self.core._sockets)
        heirs = {request.id for request in self.core._requests.values() if request.heir_of is not None}
        passed_over = self.who_may_be_passed_over()
        actions = super().call(method, *args, **options)
        granted = [action for action in actions if isinstance(action, Grant)]
        for grant in granted:
            self.check_grant(grant, before)
        self.count_passed_over(passed_over, [grant for grant in granted if grant.request not in heirs])
        if method == "expire":
            home, now = args
            assert all(s.deadline > now for s in self.core._free.values() if s.lane.home == home)
            self.finds_nothing_more_to_expire(home, now)
        self.sound = True
        return actions

    def finds_nothing_more_to_expire(self, home: str, now: float) -> None:
        announced = self.core.next_deadline(home)
        assert announced is None or announced > now

    def check_grant(self, grant: Grant, before: set[int]) -> None:
        """It names a live socket of the request's key and home, with room; a new one is new."""
        socket = self.core._sockets[grant.socket]
        request = self.core._requests[grant.request]
        assert request.socket is socket
        assert socket.lane is request.lane
        assert (socket.lane.key.name, socket.lane.home) == self.lanes[grant.request]
        assert socket.state in (State.CONNECTING, State.ACTIVE)
        assert grant.new == (socket.state is State.CONNECTING) == (grant.socket not in before)
        assert socket.deadline > self.now or grant.idle_for is None
        assert socket.capacity > 1 or socket.streams == 1

    # Overtaking, counted once more ------------------------------------------------------------------------------------

    overtaken: dict[int, int]

    def who_may_be_passed_over(self) -> list[_Request]:
        """Those that wait for a slot of their own."""
        self.overtaken = getattr(self, "overtaken", {})
        return [
            request
            for request in self.core._requests.values()
            if request.id in request.lane.waiting and request.lane.leader is None
        ]

    def count_passed_over(self, candidates: list[_Request], granted: list[Grant]) -> None:
        """Without shared streams and lowered limits, the oldest that waits sees sixteen younger ones at most."""
        if self.http2 or self.lowered:
            return
        for request in candidates:
            if request.id not in request.lane.waiting:
                self.overtaken.pop(request.id, None)
                continue
            key = request.lane.key
            for grant in granted:
                socket = self.core._sockets[grant.socket]
                could_use = socket.lane.key is key or (
                    key.used < key.rules.max_sockets and self.core.total >= self.max_total
                )
                oldest = all(other.id >= request.id for other in candidates if other.lane is not socket.lane)
                if grant.request > request.id and socket.lane is not request.lane and could_use and oldest:
                    assert not grant.new
                    self.overtaken[request.id] = self.overtaken.get(request.id, 0) + 1
                    assert self.overtaken[request.id] <= MAX_OVERTAKEN

    # Invariants -------------------------------------------------------------------------------------------------------

    @invariant()
    @precondition(lambda self: hasattr(self, "core"))
    def both_limits_hold(self) -> None:
        if self.lowered:
            return
        assert self.core.total <= self.max_total
        for key in self.core._keys.values():
            assert len([s for s in self.core._sockets.values() if s.lane.key is key]) <= key.used
            assert key.used <= self.rules_of[key.name].max_sockets

    @invariant()
    @precondition(lambda self: hasattr(self, "core"))
    def free_lists_are_no_longer_than_allowed(self) -> None:
        """Nor longer than they were, where less is allowed since."""
        free = {None: len(self.core._free), **{key.name: len(key.free) for key in self.core._keys.values()}}
        allowed = {None: self.max_total_free}
        allowed.update((key.name, key.rules.max_free_sockets) for key in self.core._keys.values())
        for name, length in free.items():
            assert length <= max(allowed[name], self.were_free.get(name, 0))
        self.were_free = free

    @invariant()
    @precondition(lambda self: hasattr(self, "core"))
    def nobody_waits_beside_a_slot(self) -> None:
        core = self.core
        for request in core._requests.values():
            lane, key = request.lane, request.lane.key
            if request.id not in lane.waiting:
                continue
            assert not lane.shareable
            if lane.leader is not None:
                continue
            assert not lane.free
            below = key.used < key.rules.max_sockets
            assert not (below and core.total < core._max_total)
            if core.total > core._max_total or key.used > key.rules.max_sockets:
                continue
            assert not key.unclaimed
            assert not key.free
            if below:
                assert not core._unclaimed
                assert not core._free

    @invariant()
    @precondition(lambda self: hasattr(self, "core"))
    def nobody_waits_beside_a_free_surplus(self) -> None:
        """Above a lowered limit, what is free would be within it once the closing ones are closed."""
        core = self.core
        for request in core._requests.values():
            lane, key = request.lane, request.lane.key
            if request.id not in lane.waiting or lane.leader is not None:
                continue
            if core._free:
                assert core.total - len(core._unclaimed) <= core._max_total
            if key.free:
                assert key.used - len(key.unclaimed) <= key.rules.max_sockets

    @invariant()
    @precondition(lambda self: hasattr(self, "core"))
    def the_indexes_agree(self) -> None:
        core = self.core
        sockets = core._sockets.values()
        lanes = [lane for key in core._keys.values() for lane in key.lanes.values()]
        free = {s.id for s in sockets if s.state is State.FREE}
        unclaimed = {s.id for s in sockets if s.state is State.CLOSING and s.heir is None}
        assert set(core._free) == free
        assert set(core._unclaimed) == unclaimed
        for key in core._keys.values():
            assert list(key.free) == [n for n in core._free if core._sockets[n].lane.key is key]
            assert list(key.unclaimed) == [n for n in core._unclaimed if core._sockets[n].lane.key is key]
            promised = [s for s in sockets if s.heir is not None and s.heir.lane.key is key]
            elsewhere = [s for s in promised if s.lane.key is not key]
            assert key.used == len([s for s in sockets if s.lane.key is key]) + len(elsewhere)
            assert key.used or any(lane.waiting for lane in key.lanes.values())
        for lane in lanes:
            assert list(lane.free) == [n for n in lane.key.free if core._sockets[n].lane is lane]
            assert list(lane.waiting) == sorted(lane.waiting)
            roomy = {
                s.id
                for s in sockets
                if s.lane is lane and s.state is State.ACTIVE and not s.retired and 0 < s.streams < s.capacity
            }
            assert set(lane.shareable) == roomy
            assert lane.leader is None or lane.leader.socket is not None or lane.leader.heir_of is not None
        for socket in sockets:
            users = [request for request in core._requests.values() if request.socket is socket]
            assert (len(users) > 0) == (socket.state in (State.CONNECTING, State.ACTIVE))
            assert socket.streams == len(users) or socket.state is State.CLOSING
            assert socket.lane in lanes
            assert socket.heir is None or socket.heir.heir_of is socket
        for request in core._requests.values():
            assert request.heir_of is None or request.heir_of.heir is request
            assert sum(
                [request.socket is not None, request.heir_of is not None, request.id in request.lane.waiting]
            ) == (0 if request.id in self.detached else 1)

    @invariant()
    @precondition(lambda self: hasattr(self, "core"))
    def the_heaps_find_everything(self) -> None:
        core = self.core
        entries: set[tuple[int, _Lane]] = {(number, lane) for number, _, lane in core._lanes}
        for key in core._keys.values():
            for lane in key.lanes.values():
                oldest = lane.oldest_below_limit()
                assert oldest is None or (oldest.id, lane) in entries
        assert len(core._lanes) <= core._sweep_above
        for home in HOMES:
            alarms = core._alarms.get(home, [])
            assert len(alarms) <= 2 * core.counters.create_socket + SPARE_ENTRIES
            for socket in core._free.values():
                if socket.lane.home == home and socket.deadline < float("inf"):
                    assert (socket.alarm, socket.id) in alarms
                    assert socket.alarm <= socket.deadline

    def teardown(self) -> None:
        """When all have left and all is closed, nothing is left over."""
        if not getattr(self, "sound", False):
            return
        for request in sorted(self.lanes):
            self.leave(request)
            if request in self.detached:
                self.detached.remove(request)
                self.do("release", request, self.now, reusable=False, complete=False)
            else:
                self.do("withdraw", request, self.now)
        self.do("close", self.now)
        while self.closing:
            self.closed(0)
        assert self.core.total == 0
        assert not self.core._keys
        assert not self.core._requests
        assert not self.core._free
        assert not self.core._unclaimed


TestInvariants = pytest.mark.slow(
    pytest.mark.timeout(600)(Invariants.TestCase)
)  # a failure takes its time to be shortened
TestInvariants.settings = settings(
    max_examples=200, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
