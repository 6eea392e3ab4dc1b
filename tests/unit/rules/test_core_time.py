"""How long a socket may stay free, its maximum age, and the timers for both (R15, R16, R31, R34)."""

from __future__ import annotations

import math

import pytest

from httpx_agent._rules.core import SPARE_ENTRIES, Close, CloseReason, State
from tests.unit.rules.tools import connect, connect_many, fail, finish, make, new, states, used, view


@pytest.mark.rule("R16")
def test_a_free_socket_expires_by_timer() -> None:
    """R16, R31: not a moment before its time, and with no request needed."""
    core = make(free_socket_timeout=15)
    connect(core, 0)
    finish(core, 0, 2.0)

    assert core.next_deadline("sync") == 17.0
    assert core.expire("sync", 16.5) == []
    assert core.expire("sync", 17.0) == [Close(0, CloseReason.IDLE_TIMEOUT)]
    assert core.counters.timeout_socket == 1
    assert core.next_deadline("sync") is None


@pytest.mark.rule("R16")
def test_each_home_has_its_own_timer() -> None:
    """A home closes its own sockets only."""
    core = make(free_socket_timeout=5)
    connect(core, 0, "a", "sync")
    connect(core, 1, "a", "loop")
    finish(core, 0, 0.0)
    finish(core, 1, 1.0)

    assert (core.next_deadline("sync"), core.next_deadline("loop"), core.next_deadline("other")) == (5.0, 6.0, None)
    assert core.expire("loop", 6.0) == [Close(1, CloseReason.IDLE_TIMEOUT)]
    assert core.expire("other", 6.0) == []
    assert states(core) == {0: State.FREE, 1: State.CLOSING}


def test_several_sockets_expire_in_order() -> None:
    """Only those whose time is over."""
    core = make(free_socket_timeout=5)
    connect_many(core, 0, 1, 2)
    for request in (2, 0, 1):
        finish(core, request, float(request))

    assert core.expire("sync", 6.5) == [Close(0, CloseReason.IDLE_TIMEOUT), Close(1, CloseReason.IDLE_TIMEOUT)]
    assert core.next_deadline("sync") == 7.0


def test_without_limits_no_timer_runs() -> None:
    """``None`` means no limit."""
    core = make(free_socket_timeout=math.inf)
    connect(core, 0)
    finish(core, 0)

    assert core.next_deadline("sync") is None
    assert view(core, 0, 1e9).expires_in is None


@pytest.mark.rule("R32")
@pytest.mark.parametrize(
    ("free_socket_timeout", "hint", "buffer", "ttl", "deadline"),
    [
        (15, None, 1, math.inf, 16),  # the option
        (15, 5.0, 1, math.inf, 5),  # the hint less the buffer
        (15, 60.0, 1, math.inf, 16),  # a long hint does not lengthen
        (15, 5.0, 0, math.inf, 6),  # no buffer
        (math.inf, 5.0, 1, math.inf, 5),  # N4: the hint alone is enough
        (15, None, 1, 10, 10),  # A6: what is left of its age
        (math.inf, None, 1, 10, 10),  # A5
        (15, 5.0, 1, 3, 3),
        (2, 5.0, 1, 4, 3),
    ],
)
def test_the_idle_limit_is_the_smallest_of_three(
    free_socket_timeout: float, hint: float | None, buffer: float, ttl: float, deadline: float
) -> None:
    """N4, A3, A5, A6: of option, hint less buffer, and age left; the response ended at 1, the socket began at 0."""
    core = make(
        free_socket_timeout=free_socket_timeout, keep_alive_timeout_buffer=buffer, socket_active_ttl=ttl, lifo=True
    )
    connect(core, 0)

    assert finish(core, 0, 1.0, hint) == []
    assert core.next_deadline("sync") == deadline
    assert view(core, 0, 1.0).expires_in == deadline - 1.0


@pytest.mark.rule("R15")
@pytest.mark.parametrize(("hint", "kept"), [(0.0, False), (0.5, False), (1.0, False), (1.5, True)])
def test_a_hint_within_the_buffer_is_not_kept(hint: float, kept: bool) -> None:
    """R15: the server may close it before a request could arrive."""
    core = make(keep_alive_timeout_buffer=1.0)
    connect(core, 0)

    assert finish(core, 0, 0.0, hint) == ([] if kept else [Close(0, CloseReason.SERVER_HINT)])


def test_the_hint_of_the_last_response_counts() -> None:
    """R15: an earlier one is forgotten."""
    core = make(free_socket_timeout=15)
    connect(core, 0)
    finish(core, 0, 0.0, hint=5.0)
    core.submit(1, "a", "sync", 1.0)
    finish(core, 1, 2.0)

    assert view(core, 0, 2.0).expires_in == 15.0


@pytest.mark.rule("R31")
def test_free_socket_timeout_zero_never_keeps() -> None:
    """R31: zero means never, and no timer has fired."""
    core = make(free_socket_timeout=0)
    connect(core, 0)

    assert finish(core, 0) == [Close(0, CloseReason.IDLE_TIMEOUT)]
    assert core.counters.timeout_socket == 0


@pytest.mark.rule("R34")
def test_the_age_limit_is_checked_on_release() -> None:
    """R34."""
    core = make(socket_active_ttl=10)
    connect(core, 0)

    assert finish(core, 0, 10.0) == [Close(0, CloseReason.TTL)]


@pytest.mark.rule("R34")
def test_the_age_begins_with_the_connecting() -> None:
    """R34: age counts from before the connect."""
    core = make(socket_active_ttl=10)
    core.submit(0, "a", "sync", 0.0)
    core.opened(0, 4.0)
    finish(core, 0, 5.0)

    assert core.next_deadline("sync") == 10.0


def test_the_age_limit_does_not_cut_a_long_response() -> None:
    """A11: a socket in use stays, however old."""
    core = make(socket_active_ttl=10)
    connect(core, 0)

    assert core.expire("sync", 100.0) == []
    assert states(core) == {0: State.ACTIVE}


@pytest.mark.parametrize(
    ("limit", "reason"),
    [({"free_socket_timeout": 5}, CloseReason.IDLE_TIMEOUT), ({"socket_active_ttl": 5}, CloseReason.TTL)],
)
def test_a_late_timer_does_not_let_an_expired_socket_be_picked(limit: dict[str, float], reason: CloseReason) -> None:
    """A5, N8: whoever asks first finds out, and it counts as a limit that fired."""
    core = make(**limit)
    connect(core, 0)
    finish(core, 0, 0.0)

    assert core.submit(1, "a", "sync", 5.0) == [Close(0, reason), new(1, 1)]
    assert core.counters.timeout_socket == 1
    assert core.expire("sync", 6.0) == []
    assert core.counters.timeout_socket == 1


def test_a_late_timer_at_the_limit_makes_an_heir() -> None:
    """A2, N8: the request that finds the expired socket has its slot."""
    core = make(free_socket_timeout=5, max_sockets=1)
    connect(core, 0)
    finish(core, 0, 0.0)

    assert core.submit(1, "a", "sync", 5.0) == [Close(0, CloseReason.IDLE_TIMEOUT)]
    assert core.closed(0, 6.0) == [new(1, 1, queued=1.0)]


def test_an_alarm_that_rings_early_is_set_again() -> None:
    """One alarm for each socket: reused meanwhile, it is not expired when the first alarm rings."""
    core = make(free_socket_timeout=5)
    connect(core, 0)
    finish(core, 0, 0.0)
    core.submit(1, "a", "sync", 3.0)
    finish(core, 1, 4.0)

    assert core.next_deadline("sync") == 5.0
    assert core.expire("sync", 5.0) == []
    assert core.next_deadline("sync") == 9.0
    assert core.expire("sync", 9.0) == [Close(0, CloseReason.IDLE_TIMEOUT)]


def test_an_alarm_that_rings_while_the_socket_is_in_use_is_forgotten() -> None:
    """The next one is set when it comes free again."""
    core = make(free_socket_timeout=5)
    connect(core, 0)
    finish(core, 0, 0.0)
    core.submit(1, "a", "sync", 3.0)

    assert core.expire("sync", 5.0) == []
    assert core.next_deadline("sync") is None
    finish(core, 1, 6.0)
    assert core.next_deadline("sync") == 11.0


def test_an_earlier_deadline_gets_an_earlier_alarm() -> None:
    """A shorter hint must not wait for the alarm that is set already."""
    core = make(free_socket_timeout=15)
    connect(core, 0)
    finish(core, 0, 0.0)
    core.submit(1, "a", "sync", 1.0)
    finish(core, 1, 1.0, hint=3.0)

    assert core.next_deadline("sync") == 3.0
    assert core.expire("sync", 3.0) == [Close(0, CloseReason.SERVER_HINT)]


def test_an_outdated_alarm_is_not_set_again() -> None:
    """A socket with changing hints does not collect alarms."""
    core = make(free_socket_timeout=10)
    connect(core, 0)
    finish(core, 0, 0.0)  # alarm at 10
    core.submit(1, "a", "sync", 0.0)
    finish(core, 1, 0.0, hint=3.0)  # alarm at 2
    core.submit(2, "a", "sync", 1.0)
    assert core.expire("sync", 2.0) == []
    finish(core, 2, 5.0)  # alarm at 15

    assert core.expire("sync", 10.0) == []
    assert core._alarms == {"sync": [(15.0, 0)]}


def test_alarms_of_sockets_that_went_before_their_time_are_swept() -> None:
    """No growth: with a long idle limit and servers that close early, alarms would pile up for hours."""
    core = make(free_socket_timeout=3600)
    connect(core, 0)
    core.submit(1, "b", "sync", 0.0)
    core.opened(1, 0.0)
    finish(core, 1)
    core.submit(2, "b", "sync", 0.0)  # in use, its alarm is set
    for request in range(3, 1000):
        socket = connect(core, request, now=float(request))
        finish(core, request, float(request))
        core.lost(socket, float(request))
        core.closed(socket, float(request))
        assert len(core._alarms["sync"]) <= 2 * 3 + SPARE_ENTRIES

    assert core.next_deadline("sync") == 3600.0


def test_a_sweep_leaves_out_sockets_in_use_whose_alarm_has_rung() -> None:
    """They get another when they come free."""
    core = make(free_socket_timeout=3600)
    connect(core, 0)
    finish(core, 0, 0.0)  # alarm at 3600
    core.submit(1, "a", "sync", 0.0)
    finish(core, 1, 0.0, hint=2.0)  # alarm at 1
    core.submit(2, "a", "sync", 0.0)
    core.expire("sync", 1.0)  # rung; the one at 3600 is outdated
    for request in range(3, 3 + SPARE_ENTRIES * 3):
        socket = connect(core, request, now=float(request))
        finish(core, request, float(request))
        core.lost(socket, float(request))
        core.closed(socket, float(request))

    assert (3600.0, 0) not in core._alarms["sync"]
    assert all(time < math.inf for time, _ in core._alarms["sync"])


def test_a_withdrawn_grant_keeps_its_idle_deadline_and_hint() -> None:
    """R15, R22: it has not heard from its server since the last response, so the server's clock runs on."""
    core = make(free_socket_timeout=15)
    connect(core, 0)
    finish(core, 0, 0.0, hint=6.0)
    core.submit(1, "a", "sync", 3.0)

    assert core.withdraw(1, 4.0) == []
    assert view(core, 0, 4.0).expires_in == 1.0
    assert core.expire("sync", 5.0) == [Close(0, CloseReason.SERVER_HINT)]


def test_a_withdrawn_grant_whose_deadline_has_passed_is_closed() -> None:
    """R16: as if it had been free all the time."""
    core = make(free_socket_timeout=5)
    connect(core, 0)
    finish(core, 0, 0.0)
    core.submit(1, "a", "sync", 4.0)

    assert core.withdraw(1, 5.0) == [Close(0, CloseReason.IDLE_TIMEOUT)]


def test_a_socket_that_never_served_is_idle_since_it_was_opened() -> None:
    """R16, R22: a slow connect does not use up the time it may stay free."""
    core = make(free_socket_timeout=5)
    core.submit(0, "a", "sync", 0.0)
    core.opened(0, 8.0)

    assert core.withdraw(0, 9.0) == []
    assert view(core, 0, 9.0).expires_in == 4.0
    assert core.submit(1, "a", "sync", 10.0) == [used(1, 0, 1, idle=1.0)]


def test_expiry_closes_nothing_that_is_closing_already() -> None:
    """An alarm may outlive its socket's being free, or the socket."""
    core = make(free_socket_timeout=5)
    connect_many(core, 0, 1)
    finish(core, 0)
    finish(core, 1)
    core.lost(0, 1.0)
    core.lost(1, 1.0)
    core.closed(1, 1.0)

    assert core.expire("sync", 5.0) == []
    assert core.counters.timeout_socket == 0


def test_a_failed_request_leaves_no_timer() -> None:
    """R23."""
    core = make()
    connect(core, 0)

    assert fail(core, 0) == [Close(0, CloseReason.ABORTED)]
    assert core.next_deadline("sync") is None
