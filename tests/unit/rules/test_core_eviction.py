"""Limits and eviction: a free socket that the waiting request cannot use is closed for it (N2)."""

from __future__ import annotations

import math

import pytest

from httpx_agent._rules.core import Close, CloseReason, State
from tests.unit.rules.tools import connect, connect_many, finish, make, new, states, used, waiting


@pytest.mark.rule("R6", "N2")
def test_at_the_total_limit_the_least_recently_used_free_socket_of_another_key_is_closed() -> None:
    """N2: the request is its heir, and opens its own the moment the other is closed."""
    core = make(max_total_sockets=3)
    connect(core, 0, "a")
    connect(core, 1, "b")
    connect(core, 2, "c")
    for request in (1, 0, 2):
        finish(core, request)

    assert core.submit(3, "d", "sync", 1.0) == [Close(1, CloseReason.EVICTED)]
    assert states(core) == {0: State.FREE, 1: State.CLOSING, 2: State.FREE}
    assert waiting(core) == [3]
    assert core.total == 3
    assert core.closed(1, 4.0) == [new(3, 3, queued=3.0)]
    assert core.total == 3


def test_being_used_again_makes_a_socket_recently_used() -> None:
    """N2: the order is that of the last becoming free."""
    core = make(max_total_sockets=2)
    connect(core, 0, "a")
    connect(core, 1, "b")
    finish(core, 0)
    finish(core, 1)
    core.submit(2, "a", "sync", 0.0)
    finish(core, 2)

    assert core.submit(3, "c", "sync", 0.0) == [Close(1, CloseReason.EVICTED)]


@pytest.mark.rule("R6")
def test_at_the_total_limit_a_free_socket_of_another_home_is_closed() -> None:
    """N2: a socket of another home cannot be used either."""
    core = make(max_total_sockets=1)
    connect(core, 0, "a", "loop")
    finish(core, 0)

    assert core.submit(1, "a", "sync", 0.0) == [Close(0, CloseReason.EVICTED)]
    assert core.closed(0, 0.0) == [new(1, 1)]


def test_at_the_limit_of_a_key_its_own_free_socket_in_another_home_is_closed() -> None:
    """N2: only the same key's closing makes room for it; the other key's older one stays."""
    core = make(max_sockets=1)
    connect(core, 0, "b", "loop")
    connect(core, 1, "a", "loop")
    finish(core, 0)
    finish(core, 1)

    assert core.submit(2, "a", "sync", 0.0) == [Close(1, CloseReason.EVICTED)]
    assert states(core) == {0: State.FREE, 1: State.CLOSING}


def test_at_both_limits_only_the_own_key_helps() -> None:
    """N2: closing another key's socket would leave its own key at the limit."""
    core = make(max_sockets=1, max_total_sockets=2)
    connect(core, 0, "a")
    connect(core, 1, "b")
    finish(core, 1)

    assert core.submit(2, "a", "sync", 0.0) == []
    assert states(core) == {0: State.ACTIVE, 1: State.FREE}


def test_unused_capacity_comes_before_closing_anything() -> None:
    """The sources of slots have an order: unused capacity first."""
    core = make(max_total_sockets=2)
    connect(core, 0, "a")
    finish(core, 0)

    assert core.submit(1, "b", "sync", 0.0) == [new(1, 1)]


def test_a_closing_socket_comes_before_a_free_one() -> None:
    """The sources of slots have an order: what is closing anyway is used before another is closed."""
    core = make(max_total_sockets=2)
    connect(core, 0, "a")
    connect(core, 1, "b")
    finish(core, 0)
    core.release(1, 0.0, reusable=False, complete=True)

    assert core.submit(2, "c", "sync", 0.0) == []
    assert core.closed(1, 0.0) == [new(2, 2)]
    assert states(core)[0] is State.FREE


def test_a_closing_socket_has_one_heir() -> None:
    """A slot is promised once; the second request has to have another one."""
    core = make(max_total_sockets=2)
    connect(core, 0, "a")
    connect(core, 1, "b")
    finish(core, 0)
    core.release(1, 0.0, reusable=False, complete=True)

    assert core.submit(2, "c", "sync", 0.0) == []
    assert core.submit(3, "c", "sync", 0.0) == [Close(0, CloseReason.EVICTED)]
    assert core.submit(4, "c", "sync", 0.0) == []
    assert core.closed(0, 0.0) == [new(3, 2)]
    assert core.closed(1, 0.0) == [new(2, 3)]
    assert waiting(core) == [4]


@pytest.mark.rule("N1")
def test_a_promised_slot_counts_for_the_key_of_its_heir() -> None:
    """Both limits hold at every moment, so a promise is counted as its socket will be."""
    core = make(max_sockets=1, max_total_sockets=2)
    connect(core, 0, "a")
    connect(core, 1, "b")
    finish(core, 0)
    finish(core, 1)

    assert core.submit(2, "c", "sync", 0.0) == [Close(0, CloseReason.EVICTED)]
    assert core.use_of("c")[0] == 1
    assert core.submit(3, "c", "sync", 0.0) == []
    assert states(core)[1] is State.FREE


@pytest.mark.rule("R9")
def test_a_free_socket_that_an_older_request_could_use_is_closed_for_it_at_once() -> None:
    """N2, R12: a socket that comes free with nobody waiting in its lane makes room for those who wait elsewhere."""
    core = make(max_total_sockets=1)
    connect(core, 0, "a")
    core.submit(1, "b", "sync", 0.0)

    assert finish(core, 0) == [Close(0, CloseReason.EVICTED)]
    assert core.closed(0, 0.0) == [new(1, 1)]


def test_a_withdrawn_heir_leaves_the_slot_to_the_next() -> None:
    """N12: the closing socket is inherited by the next oldest request."""
    core = make(max_total_sockets=1)
    connect(core, 0, "a")
    core.submit(1, "b", "sync", 0.0)
    core.submit(2, "c", "sync", 0.0)
    finish(core, 0)

    assert core.withdraw(1, 0.0) == []
    assert core.use_of("b")[0] == 0
    assert core.use_of("c")[0] == 1
    assert core.closed(0, 0.0) == [new(2, 1)]


def test_the_slot_of_a_withdrawn_heir_is_nobodys_if_nobody_waits() -> None:
    """N12: the socket closes all the same, and capacity is there again."""
    core = make(max_total_sockets=1)
    connect(core, 0, "a")
    core.submit(1, "b", "sync", 0.0)
    finish(core, 0)

    assert core.withdraw(1, 0.0) == []
    assert core.closed(0, 0.0) == []
    assert core.total == 0
    assert core.submit(2, "c", "sync", 0.0) == [new(2, 1)]


def test_a_withdrawn_heir_of_another_key_leaves_the_slot_to_the_closing_sockets_own_key() -> None:
    """N5, N12: who waits at its own key's limit is looked at too, before any newcomer is."""
    core = make(max_sockets=1, max_total_sockets=1)
    connect(core, 0, "a", "sync")
    core.submit(1, "b", "sync", 0.0)
    finish(core, 0)
    core.submit(2, "a", "loop", 0.0)

    core.withdraw(1, 0.0)
    assert core.submit(3, "c", "sync", 0.0) == []
    assert core.closed(0, 1.0) == [new(2, 1, queued=1.0)]


def test_a_withdrawn_heir_of_the_same_key_keeps_the_count() -> None:
    """The slot was counted by the closing socket all the time."""
    core = make(max_sockets=1)
    connect(core, 0, "a")
    core.release(0, 0.0, reusable=False, complete=True)
    core.submit(1, "a", "sync", 0.0)

    core.withdraw(1, 0.0)
    assert core.use_of("a")[0] == 1
    core.closed(0, 0.0)
    assert core.use_of("a")[0] == 0


def test_a_full_list_closes_the_socket_that_comes_free() -> None:
    """R12 (d): the newcomer goes, as in Node."""
    core = make(max_free_sockets=1)
    connect_many(core, 0, 1)

    assert finish(core, 0) == []
    assert finish(core, 1) == [Close(1, CloseReason.FREE_LIMIT)]


@pytest.mark.rule("R12")
def test_max_free_sockets_counts_per_key_over_its_homes() -> None:
    """R12 (d): another home of the key fills the same list, another key does not."""
    core = make(max_free_sockets=1)
    connect(core, 0, "a", "sync")
    connect(core, 1, "a", "loop")
    connect(core, 2, "b", "sync")

    assert finish(core, 0) == []
    assert finish(core, 1) == [Close(1, CloseReason.FREE_LIMIT)]
    assert finish(core, 2) == []


def test_max_free_sockets_zero_keeps_none() -> None:
    """N21: zero means none, yet a waiting request gets the socket."""
    core = make(max_free_sockets=0, max_sockets=1)
    connect(core, 0)
    core.submit(1, "a", "sync", 0.0)

    assert finish(core, 0) == [used(1, 0, 2)]
    assert finish(core, 1) == [Close(0, CloseReason.FREE_LIMIT)]


def test_above_max_total_free_sockets_the_least_recently_used_is_closed() -> None:
    """The older free socket goes, whatever its key."""
    core = make(max_total_free_sockets=1)
    connect(core, 0, "a")
    connect(core, 1, "b")

    assert finish(core, 0) == []
    assert finish(core, 1) == [Close(0, CloseReason.FREE_LIMIT)]


def test_max_total_free_sockets_zero_keeps_none() -> None:
    """It counts as the others do: the socket closes without having been free."""
    core = make(max_total_free_sockets=0)
    connect(core, 0)

    assert finish(core, 0) == [Close(0, CloseReason.FREE_LIMIT)]


def test_keep_alive_off_closes_a_socket_that_nobody_waits_for() -> None:
    """R13."""
    core = make(keep_alive=False)
    connect(core, 0)

    assert finish(core, 0) == [Close(0, CloseReason.KEEP_ALIVE_OFF)]


def test_keep_alive_off_still_hands_over() -> None:
    """R13: with a limit, a socket goes from request to request while any waits."""
    core = make(keep_alive=False, max_sockets=1)
    connect(core, 0)
    core.submit(1, "a", "sync", 0.0)

    assert finish(core, 0) == [used(1, 0, 2)]
    assert finish(core, 1) == [Close(0, CloseReason.KEEP_ALIVE_OFF)]


def test_no_limit_is_infinity() -> None:
    """A thousand requests open a thousand sockets."""
    core = make(max_sockets=math.inf)
    connect_many(core, *range(1000))

    assert core.total == 1000


def test_all_free_sockets_are_closed_when_the_system_has_no_room() -> None:
    """Of every key and home, and no other; who waits for a slot gets one as they close."""
    core = make(max_sockets=2, max_total_sockets=4)
    connect(core, 0, "a")
    connect(core, 1, "b", "loop")
    connect(core, 2, "c")
    connect(core, 3, "a")
    for request in (0, 1):
        finish(core, request)

    assert core.close_free(1.0) == [Close(0, CloseReason.EVICTED), Close(1, CloseReason.EVICTED)]
    assert core.close_free(1.0) == []
    assert states(core) == {0: State.CLOSING, 1: State.CLOSING, 2: State.ACTIVE, 3: State.ACTIVE}
    assert core.submit(4, "d", "sync", 1.0) == []
    assert core.closed(0, 2.0) == [new(4, 4, queued=1.0)]
