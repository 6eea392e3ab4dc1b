"""Hand-over within a lane, and bounded overtaking (R7, N29)."""

from __future__ import annotations

import pytest

from httpx_agent._rules.core import MAX_OVERTAKEN, Close, CloseReason
from tests.unit.rules.tools import connect, connect_many, finish, make, new, reconfigure, share, used, waiting


@pytest.mark.rule("R7")
def test_a_socket_goes_to_the_oldest_request_of_its_lane() -> None:
    """R7: by whichever socket comes free first, in order of arrival."""
    core = make(max_sockets=2)
    connect_many(core, 0, 1)
    core.submit(2, "a", "sync", 0.0)
    core.submit(3, "a", "sync", 1.0)

    assert finish(core, 1, 2.0) == [used(2, 1, 2, queued=2.0)]
    assert finish(core, 0, 3.0) == [used(3, 0, 2, queued=2.0)]


@pytest.mark.rule("R7")
def test_hand_over_does_not_look_at_max_free_sockets_or_the_hint() -> None:
    """R7: neither is consulted: the socket does not become free."""
    core = make(max_sockets=1, max_free_sockets=0, free_socket_timeout=0)
    connect(core, 0)
    core.submit(1, "a", "sync", 0.0)

    assert finish(core, 0, hint=0.0) == [used(1, 0, 2)]


def test_hand_over_does_not_look_at_a_lowered_limit() -> None:
    """R7: what is in use stays in use while its own lane wants it."""
    core = make()
    connect_many(core, 0, 1)
    assert reconfigure(core, 0.0, max_sockets=1) == []
    assert core.submit(2, "a", "sync", 0.0) == []

    assert finish(core, 0) == [used(2, 0, 2)]
    assert finish(core, 1) == [Close(1, CloseReason.LIMIT_LOWERED)]


@pytest.mark.rule("R34", "A4")
def test_a_socket_past_its_age_is_not_handed_over() -> None:
    """A4, R34: the waiting request gets a new one in its place."""
    core = make(max_sockets=1, socket_active_ttl=10)
    connect(core, 0)
    core.submit(1, "a", "sync", 0.0)

    assert finish(core, 0, 10.0) == [Close(0, CloseReason.TTL)]
    assert core.closed(0, 11.0) == [new(1, 1, queued=11.0)]


def test_a_socket_not_quite_past_its_age_is_handed_over() -> None:
    """A4, R34."""
    core = make(max_sockets=1, socket_active_ttl=10)
    connect(core, 0)
    core.submit(1, "a", "sync", 0.0)

    assert finish(core, 0, 9.5) == [used(1, 0, 2, queued=9.5)]


@pytest.mark.rule("R8")
def test_a_socket_that_is_not_reusable_is_replaced_for_the_next() -> None:
    """R8, R11: a failure costs its slot nothing."""
    core = make(max_sockets=1)
    connect(core, 0)
    core.submit(1, "a", "sync", 0.0)

    assert core.release(0, 0.0, reusable=False, complete=True) == [Close(0, CloseReason.NOT_REUSABLE)]
    assert core.closed(0, 0.0) == [new(1, 1)]


@pytest.mark.rule("R21")
def test_a_failed_connection_goes_on_to_the_next_request() -> None:
    """N14, R21: each waiting request gets its own attempt, one after another."""
    core = make(max_sockets=1)
    core.submit(0, "a", "sync", 0.0)
    core.submit(1, "a", "sync", 0.0)

    assert core.release(0, 1.0, reusable=False, complete=False, error=True) == [Close(0, CloseReason.ERROR)]
    assert core.closed(0, 1.0) == [new(1, 1, queued=1.0)]
    assert core.counters.create_socket_error == 1


def pass_over(home: str, key: str, **options: float) -> None:
    core = make(**options)
    connect(core, 0, "a", "sync")
    core.submit(1, key, home, 0.0)
    for request in range(2, 2 + MAX_OVERTAKEN):
        core.submit(request, "a", "sync", 0.0)
        on_it = request - 1 if request > 2 else 0
        assert finish(core, on_it) == [used(request, 0, request)]
    core.submit(18, "a", "sync", 0.0)

    assert finish(core, 17) == [Close(0, CloseReason.EVICTED)]
    assert core.closed(0, 1.0) == [new(1, 1, queued=1.0)]
    assert waiting(core) == [18]


@pytest.mark.rule("R7", "N29")
def test_a_request_of_another_key_is_passed_over_sixteen_times() -> None:
    """N29: then the socket closes for it, though one of its own lane waits."""
    pass_over("sync", "b", max_total_sockets=1)


def test_a_request_of_another_home_is_passed_over_sixteen_times_at_the_total_limit() -> None:
    """N29: another home of the same key cannot use the socket either."""
    pass_over("loop", "a", max_total_sockets=1)


def test_a_request_of_another_home_is_passed_over_sixteen_times_at_the_limit_of_the_key() -> None:
    """N29: the limit of the key is shared by its homes."""
    pass_over("loop", "a", max_sockets=1)


def test_an_older_request_of_the_own_lane_overtakes_nobody() -> None:
    """N29: only younger ones count."""
    core = make(max_total_sockets=1)
    connect(core, 0, "a")
    for request in range(1, 31):
        core.submit(request, "a", "sync", 0.0)
    core.submit(99, "b", "sync", 0.0)

    for request in range(1, 31):
        assert finish(core, request - 1) == [used(request, 0, request + 1)]
    assert finish(core, 30) == [Close(0, CloseReason.EVICTED)]


def test_a_request_that_could_not_use_the_slot_is_not_passed_over() -> None:
    """N29: it waits for its own key's limit, which another key's socket has nothing to do with."""
    core = make(max_sockets=1, max_total_sockets=2)
    connect(core, 0, "a")
    connect(core, 1, "b")
    core.submit(2, "b", "sync", 0.0)
    core.submit(3, "a", "sync", 0.0)
    for request in range(4, 40):
        core.submit(request, "a", "sync", 0.0)
        assert finish(core, request - 2 if request > 4 else 0) == [used(request - 1, 0, request - 2)]


def test_a_request_is_not_passed_over_below_the_total_limit() -> None:
    """N29: nothing but its own key's limit stops it, so another key's hand-over takes nothing from it."""
    core = make(max_sockets=1)
    connect(core, 0, "b")
    connect(core, 1, "a")
    core.submit(2, "b", "sync", 0.0)
    for request in range(3, 40):
        core.submit(request, "a", "sync", 0.0)
        assert finish(core, request - 1 if request > 3 else 1) == [used(request, 1, request - 1)]


def test_a_lowered_limit_does_not_let_one_home_starve_another() -> None:
    """N29: after sixteen times a socket closes, though its slot is one too many."""
    core = make(max_sockets=2)
    connect_many(core, 0, 1)
    core.submit(2, "a", "loop", 0.0)
    reconfigure(core, 0.0, max_sockets=1)
    for request in range(3, 3 + MAX_OVERTAKEN):
        core.submit(request, "a", "sync", 0.0)
        assert finish(core, request - 1 if request > 3 else 0) == [used(request, 0, request - 1)]
    core.submit(19, "a", "sync", 0.0)

    assert finish(core, 18) == [Close(0, CloseReason.EVICTED)]


def test_who_joins_a_shared_socket_overtakes_as_well() -> None:
    """N29: a socket whose streams overlap would never be free; after sixteen times it takes no more."""
    core = make(max_total_sockets=1)
    share(core, 0, 2)
    core.submit(1, "b", "sync", 0.0)
    for request in range(2, 2 + MAX_OVERTAKEN):
        assert core.submit(request, "a", "sync", 0.0, negotiates=True) == [used(request, 0, request)]
        assert finish(core, request - 1 if request > 2 else 0) == []

    assert core.submit(18, "a", "sync", 0.0, negotiates=True) == []
    assert finish(core, 17) == [Close(0, CloseReason.EVICTED)]
    assert core.closed(0, 0.0) == [new(1, 1)]


def test_followers_of_a_shared_socket_overtake_one_by_one() -> None:
    """N29: when the protocol is known, sixteen younger ones join and the others wait their turn."""
    core = make(max_total_sockets=1)
    core.submit(0, "a", "sync", 0.0, negotiates=True)
    core.submit(1, "b", "sync", 0.0)
    for request in range(2, 32):
        core.submit(request, "a", "sync", 0.0, negotiates=True)
    core.opened(0, 0.0)

    assert core.negotiated(0, 0.0, capacity=100, multiplexes=True) == [used(n, 0, n) for n in range(2, 18)]


def test_the_count_begins_anew_when_a_socket_is_to_close_for_the_request() -> None:
    """N29: one shared socket runs out of its streams; the next one is not given up at once too."""
    core = make(max_total_sockets=2)
    share(core, 0, 2)
    core.submit(1, "a", "sync", 0.0, negotiates=True)
    core.submit(2, "a", "sync", 0.0, negotiates=True)
    core.opened(1, 0.0)
    core.negotiated(1, 0.0, capacity=100, multiplexes=True)
    core.submit(3, "b", "sync", 0.0)
    granted = []
    for request in range(4, 4 + 2 * MAX_OVERTAKEN):
        granted += core.submit(request, "a", "sync", 0.0, negotiates=True)

    assert len(granted) == MAX_OVERTAKEN
    assert waiting(core) == [3, *range(20, 36)]
    assert finish(core, 0) == [used(20, 0, 3)]


@pytest.mark.rule("R22")
def test_a_withdrawn_grant_goes_on_to_the_next_request() -> None:
    """N12, R22: a socket handed to one that has gone is handed on; it served nobody."""
    core = make(max_sockets=1)
    connect(core, 0)
    core.submit(1, "a", "sync", 0.0)
    core.submit(2, "a", "sync", 0.0)
    assert finish(core, 0) == [used(1, 0, 2)]

    assert core.withdraw(1, 1.0) == [used(2, 0, 2, queued=1.0)]


@pytest.mark.rule("R22")
@pytest.mark.parametrize("leaves", [1, 2])
def test_a_withdrawn_waiter_leaves_at_once(leaves: int) -> None:
    """N12: the other one is served in its place."""
    core = make(max_sockets=1)
    connect(core, 0)
    core.submit(1, "a", "sync", 0.0)
    core.submit(2, "a", "sync", 0.0)

    assert core.withdraw(leaves, 0.0) == []
    assert waiting(core) == [3 - leaves]
    assert finish(core, 0) == [used(3 - leaves, 0, 2)]


def test_the_first_waiter_of_a_lane_withdraws_and_the_lane_keeps_its_place() -> None:
    """N3, N12: the next one of the lane competes with its own age."""
    core = make(max_total_sockets=1)
    connect(core, 0, "x")
    core.submit(1, "a", "sync", 0.0)
    core.submit(2, "b", "sync", 0.0)
    core.submit(3, "a", "sync", 0.0)
    core.withdraw(1, 0.0)

    finish(core, 0)
    assert core.closed(0, 0.0) == [new(2, 1)]
