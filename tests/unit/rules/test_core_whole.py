"""Operations on everything: close, the end of a home, changed limits (R24, N5, N13)."""

from __future__ import annotations

import pytest

from httpx_agent._rules.core import Close, CloseReason, Refuse, State
from tests.unit.rules.tools import (
    connect,
    connect_many,
    fail,
    finish,
    make,
    new,
    reconfigure,
    share,
    states,
    used,
    waiting,
)


def test_close_refuses_every_request_and_closes_every_socket() -> None:
    """R24, N13: those that wait, those that have been promised a slot, and those in flight."""
    core = make(max_total_sockets=3)
    connect(core, 0, "a")
    connect(core, 1, "b")
    core.submit(2, "c", "sync", 0.0)
    core.submit(3, "c", "loop", 0.0)
    assert finish(core, 0) == [Close(0, CloseReason.EVICTED)]  # for request 3
    core.submit(4, "c", "sync", 0.0)

    assert core.close(1.0) == [
        Refuse(1),
        Refuse(2),
        Refuse(3),
        Refuse(4),
        Close(1, CloseReason.AGENT_CLOSED),
        Close(2, CloseReason.AGENT_CLOSED),
    ]
    assert waiting(core) == []
    assert core.closed(0, 1.0) == []
    assert core.closed(1, 1.0) == []
    assert core.closed(2, 1.0) == []
    assert core._keys == {}


def test_close_closes_free_sockets() -> None:
    """R24: each socket in order of creation."""
    core = make()
    connect_many(core, 0, 1)
    finish(core, 1)

    assert core.close(0.0) == [Refuse(0), Close(0, CloseReason.AGENT_CLOSED), Close(1, CloseReason.AGENT_CLOSED)]


def test_close_leaves_a_detached_socket_and_its_request_alone() -> None:
    """R25: they are the caller's."""
    core = make()
    connect(core, 0)
    core.detach(0, 0.0)

    assert core.close(0.0) == []
    assert core.release(0, 0.0, reusable=False, complete=True) == []


def test_a_shared_socket_is_not_joined_after_close() -> None:
    """R24: it is closing."""
    core = make()
    share(core, 0, 5)
    core.close(0.0)

    assert core.submit(1, "a", "sync", 0.0, negotiates=True) == [new(1, 1)]


def test_a_socket_that_opens_while_it_is_closed_serves_nobody() -> None:
    """R24: its driver could not stop it any more; it says so, before the socket is closed or after."""
    core = make(max_sockets=1)
    core.submit(0, "a", "sync", 0.0, negotiates=True)
    assert core.close(0.0) == [Refuse(0), Close(0, CloseReason.AGENT_CLOSED)]
    core.submit(1, "a", "sync", 0.0, negotiates=True)

    assert core.opened(0, 0.0) == []
    assert core.negotiated(0, 0.0, capacity=5, multiplexes=True) == []
    assert core.closed(0, 0.0) == [new(1, 1)]
    assert core.opened(0, 0.0) == []
    assert core.negotiated(0, 0.0, capacity=5, multiplexes=True) == []


def test_closing_twice_closes_nothing_twice() -> None:
    """Idempotent."""
    core = make()
    connect_many(core, 0, 1)
    finish(core, 1)
    core.close(0.0)

    assert core.close(0.0) == []


@pytest.mark.rule("R24")
def test_the_core_stays_usable_after_close() -> None:
    """N13: used again, it opens new sockets, in the slots of those that close."""
    core = make(max_sockets=1)
    connect(core, 0)
    core.close(0.0)

    assert core.submit(1, "a", "sync", 0.0) == []
    assert core.closed(0, 0.0) == [new(1, 1)]


def test_close_forgets_keys_that_only_had_waiting_requests() -> None:
    """No growth: nothing else would come by to forget them."""
    core = make(max_total_sockets=1)
    connect(core, 0, "a")
    for request in range(1, 100):
        core.submit(request, f"key {request}", "sync", 0.0)

    core.close(0.0)
    assert list(core._keys) == ["a"]


def test_a_home_that_ended_frees_its_slots() -> None:
    """Its requests are gone, its sockets closed already; the waiting of other homes are served."""
    core = make(max_sockets=2)
    connect(core, 0, "a", "loop")
    connect(core, 1, "a", "loop")
    core.submit(2, "a", "sync", 0.0)
    core.submit(3, "a", "loop", 0.0)

    assert core.end_home("loop", 5.0) == [new(2, 2, queued=5.0)]
    assert core.total == 1
    assert waiting(core) == []
    assert core.counters.request_error == 3
    assert core.counters.close_socket == 2


def test_a_home_that_ended_leaves_no_timer_and_no_free_socket() -> None:
    """And no trace of itself."""
    core = make()
    connect(core, 0, "a", "loop")
    connect(core, 1, "a", "sync")
    finish(core, 0)

    assert core.end_home("loop", 0.0) == []
    assert core.next_deadline("loop") is None
    assert list(core._keys["a"].lanes) == ["sync"]
    assert core.submit(2, "a", "loop", 0.0) == [new(2, 2)]


def test_heirs_and_heritages_of_a_home_that_ended() -> None:
    """A socket that it was to inherit is anybody's; one of its own that was to be inherited is."""
    core = make(max_total_sockets=2)
    connect(core, 0, "a", "sync")
    connect(core, 1, "a", "loop")
    core.submit(2, "b", "loop", 0.0)
    core.submit(3, "c", "sync", 0.0)
    core.submit(4, "d", "sync", 0.0)
    assert finish(core, 0) == [Close(0, CloseReason.EVICTED)]  # for request 2
    assert finish(core, 1) == [Close(1, CloseReason.EVICTED)]  # for request 3

    assert core.end_home("loop", 0.0) == [new(3, 2)]
    assert core.closed(0, 0.0) == [new(4, 3)]


def test_a_request_with_a_detached_socket_ends_with_its_home() -> None:
    """R25: its end is a failure; the socket is no business of ours."""
    core = make()
    connect(core, 0, "a", "loop")
    core.detach(0, 0.0)

    assert core.end_home("loop", 0.0) == []
    assert core.counters.request_error == 1
    assert core.counters.close_socket == 0


def test_a_connecting_socket_of_a_home_that_ended_never_was_usable() -> None:
    """A7: it counts as failed."""
    core = make()
    core.submit(0, "a", "loop", 0.0)
    core.end_home("loop", 0.0)

    assert (core.counters.create_socket_error, core.counters.close_socket) == (1, 0)


def test_a_raised_limit_serves_those_that_wait() -> None:
    """N5: at once, oldest first over all keys."""
    core = make(max_total_sockets=1)
    connect(core, 0, "x")
    for request, key in enumerate("abca", start=1):
        core.submit(request, key, "sync", 0.0)

    assert reconfigure(core, 1.0, max_total_sockets=4) == [
        new(1, 1, queued=1.0),
        new(2, 2, queued=1.0),
        new(3, 3, queued=1.0),
    ]
    assert waiting(core) == [4]


def test_a_raised_limit_of_a_key_serves_those_that_wait() -> None:
    """N5."""
    core = make(max_sockets=1)
    connect(core, 0)
    core.submit(1, "a", "sync", 0.0)
    core.submit(2, "a", "sync", 0.0)

    assert reconfigure(core, 0.0, max_sockets=2) == [new(1, 1)]


def test_scheduling_may_be_changed() -> None:
    """R2: it is read at each choice."""
    core = make(lifo=True)
    connect_many(core, 0, 1)
    finish(core, 0)
    finish(core, 1)
    reconfigure(core, 0.0, lifo=False)

    assert core.submit(2, "a", "sync", 0.0) == [used(2, 0, 2, idle=0.0)]


@pytest.mark.rule("R12")
def test_after_lowering_surplus_sockets_die_when_they_finish() -> None:
    """R12 (c), C15: three in use, two allowed."""
    core = make()
    connect_many(core, 0, 1, 2)
    assert reconfigure(core, 0.0, max_sockets=2) == []

    assert finish(core, 0) == [Close(0, CloseReason.LIMIT_LOWERED)]
    assert core.closed(0, 0.0) == []
    assert finish(core, 1) == []
    assert finish(core, 2) == []
    assert states(core) == {1: State.FREE, 2: State.FREE}


@pytest.mark.rule("R12")
def test_after_lowering_the_total_surplus_sockets_die_when_they_finish() -> None:
    """R12 (b)."""
    core = make()
    connect(core, 0, "a")
    connect(core, 1, "b")
    reconfigure(core, 0.0, max_total_sockets=1)

    assert finish(core, 0) == [Close(0, CloseReason.LIMIT_LOWERED)]
    core.closed(0, 0.0)
    assert finish(core, 1) == []


def test_free_sockets_above_a_lowered_total_are_closed_when_a_request_waits() -> None:
    """N2, N5: the least recently used first; by itself lowering closes nothing, as in Node."""
    core = make()
    connect_many(core, 0, 1, 2)
    for request in (1, 0, 2):
        finish(core, request)

    assert reconfigure(core, 0.0, max_total_sockets=1) == []
    assert core.submit(3, "b", "sync", 0.0) == [
        Close(1, CloseReason.LIMIT_LOWERED),
        Close(0, CloseReason.LIMIT_LOWERED),
    ]
    assert core.closed(1, 0.0) == []
    assert core.closed(0, 0.0) == [Close(2, CloseReason.EVICTED)]
    assert core.closed(2, 0.0) == [new(3, 3)]


def test_free_sockets_above_a_lowered_limit_of_their_key_are_closed_when_a_request_waits() -> None:
    """N2, N5: so that the other home of the key has its turn."""
    core = make()
    connect(core, 0, "b")
    connect_many(core, 1, 2, 3)
    for request in (0, 1, 2):
        finish(core, request)

    assert reconfigure(core, 0.0, max_sockets=2) == []
    assert core.submit(4, "a", "loop", 0.0) == [Close(1, CloseReason.LIMIT_LOWERED)]
    assert core.closed(1, 0.0) == [Close(2, CloseReason.EVICTED)]
    assert core.closed(2, 0.0) == [new(4, 4)]


def test_above_a_lowered_limit_nobody_gets_a_slot() -> None:
    """A socket that closes brings the number down first."""
    core = make()
    connect_many(core, 0, 1, 2)
    reconfigure(core, 0.0, max_sockets=2)
    core.submit(3, "a", "loop", 0.0)

    assert finish(core, 0) == [Close(0, CloseReason.LIMIT_LOWERED)]
    assert core.closed(0, 0.0) == []
    assert finish(core, 1) == [Close(1, CloseReason.EVICTED)]
    assert core.closed(1, 0.0) == [new(3, 3)]


def test_when_a_lowered_total_is_reached_the_oldest_is_served_whatever_stopped_it() -> None:
    """N3, N5: what closed meanwhile was nobody's, and goes to its own key's older request, not to the younger one."""
    core = make(max_sockets=1)
    connect(core, 0, "a")
    connect(core, 1, "b")
    core.submit(2, "b", "sync", 0.0)
    reconfigure(core, 0.0, max_sockets=1, max_total_sockets=1)
    core.submit(3, "c", "sync", 0.0)
    assert fail(core, 1) == [Close(1, CloseReason.ABORTED)]

    assert core.detach(0, 0.0) == []
    assert core.closed(1, 0.0) == [new(2, 2)]
    assert waiting(core) == [3]
