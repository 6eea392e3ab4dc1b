"""Arrival and choice: a free socket, a new one, or waiting (R1–R6, R10)."""

from __future__ import annotations

import pytest

from httpx_agent._rules.core import Close, CloseReason, State
from tests.unit.rules.tools import connect, connect_many, finish, make, new, reconfigure, states, used, waiting


@pytest.mark.rule("R1", "R4")
def test_a_first_request_opens_a_socket() -> None:
    """R4: it belongs to the request from the start, and counts at once."""
    core = make(max_sockets=1)

    assert core.submit(0, "a", "sync", 0.0) == [new(0, 0)]
    assert states(core) == {0: State.CONNECTING}
    assert core.total == 1


def test_an_opened_socket_is_active() -> None:
    """Opening it answers nothing: its request waits for it already."""
    core = make()
    core.submit(0, "a", "sync", 0.0)

    assert core.opened(0, 1.0) == []
    assert states(core) == {0: State.ACTIVE}


@pytest.mark.rule("R3")
def test_a_free_socket_is_taken_first_and_knows_how_long_it_was_free() -> None:
    """R2, R10: the grant says how many requests it was given to and how long it was free."""
    core = make()
    connect(core, 0)
    assert finish(core, 0, 1.0) == []
    assert states(core) == {0: State.FREE}

    assert core.submit(1, "a", "sync", 3.5) == [used(1, 0, 2, idle=2.5)]
    assert states(core) == {0: State.ACTIVE}


@pytest.mark.rule("R2")
@pytest.mark.parametrize(("lifo", "taken"), [(True, [2, 1, 0]), (False, [0, 1, 2])])
def test_scheduling_chooses_by_order_of_becoming_free(lifo: bool, taken: list[int]) -> None:
    """R2: lifo takes the socket that came free last, fifo the first."""
    core = make(lifo=lifo)
    connect_many(core, 0, 1, 2)
    for request in (0, 1, 2):
        finish(core, request)

    assert [core.submit(3 + n, "a", "sync", 0.0) for n in range(3)] == [
        [used(3 + n, socket, 2, idle=0.0)] for n, socket in enumerate(taken)
    ]


@pytest.mark.rule("R27")
def test_a_free_socket_of_another_key_or_home_is_not_taken() -> None:
    """R2, R27: sockets are handed on within one key and one home only."""
    core = make()
    connect(core, 0, "a", "sync")
    finish(core, 0)

    assert core.submit(1, "b", "sync", 0.0) == [new(1, 1)]
    assert core.submit(2, "a", "loop", 0.0) == [new(2, 2)]


@pytest.mark.rule("R5")
def test_a_request_at_the_limit_waits() -> None:
    """R5: the limit of its key stops it, another key's does not."""
    core = make(max_sockets=1)
    connect(core, 0)

    assert core.submit(1, "a", "sync", 0.0) == []
    assert core.submit(2, "b", "sync", 0.0) == [new(2, 1)]
    assert list(core.waiting()) == [(1, "a", "sync")]


@pytest.mark.rule("R4")
def test_the_limit_of_a_key_holds_over_its_homes() -> None:
    """R4: ``max_sockets`` counts per key, not per key and home."""
    core = make(max_sockets=1)
    connect(core, 0, "a", "sync")

    assert core.submit(1, "a", "loop", 0.0) == []


@pytest.mark.rule("R6")
def test_the_total_limit_stops_all_keys() -> None:
    """R6: with every socket in use, a request of any key waits."""
    core = make(max_total_sockets=2)
    connect(core, 0, "a")
    connect(core, 1, "b")

    assert core.submit(2, "c", "sync", 0.0) == []
    assert core.submit(3, "a", "sync", 0.0) == []
    assert waiting(core) == [2, 3]


@pytest.mark.rule("N1")
def test_a_closing_socket_still_counts() -> None:
    """N1, N15: its slot is free when it is closed, not when that is decided; who asks meanwhile is its heir."""
    core = make(max_sockets=1)
    connect(core, 0)
    assert core.release(0, 0.0, reusable=False, complete=True) == [Close(0, CloseReason.NOT_REUSABLE)]

    assert core.submit(1, "a", "sync", 0.0) == []
    assert waiting(core) == [1]
    assert core.closed(0, 2.0) == [new(1, 1, queued=2.0)]
    assert waiting(core) == []


@pytest.mark.rule("R5", "N5")
def test_a_newcomer_does_not_overtake_at_the_total_limit() -> None:
    """N5: room that comes free goes to the oldest request; the newcomer's turn is later."""
    core = make(max_total_sockets=1)
    connect(core, 0, "a")
    core.submit(1, "b", "sync", 0.0)
    assert core.release(0, 0.0, reusable=False, complete=True) == [Close(0, CloseReason.NOT_REUSABLE)]

    assert core.submit(2, "a", "sync", 0.0) == []
    assert core.closed(0, 1.0) == [new(1, 1, queued=1.0)]
    assert waiting(core) == [2]


@pytest.mark.rule("R5")
def test_a_newcomer_does_not_overtake_when_a_limit_was_raised() -> None:
    """N5: those who wait are served by the raise itself, so the newcomer finds what is left."""
    core = make(max_sockets=1)
    connect(core, 0)
    core.submit(1, "a", "sync", 0.0)

    assert reconfigure(core, 1.0, max_sockets=2) == [new(1, 1, queued=1.0)]
    assert core.submit(2, "a", "sync", 1.0) == []


def test_a_newcomer_may_pass_those_that_could_not_use_the_slot() -> None:
    """N5: the older request waits for its own key's limit, which the other key's slot does not help."""
    core = make(max_sockets=1, max_total_sockets=3)
    connect(core, 0, "a")
    core.submit(1, "a", "sync", 0.0)

    assert core.submit(2, "b", "sync", 0.0) == [new(2, 1)]


@pytest.mark.rule("R9", "N3")
def test_capacity_goes_to_the_oldest_request_over_all_keys() -> None:
    """N3: not the first key in some table, but the oldest request that may have it."""
    core = make(max_sockets=1, max_total_sockets=2)
    connect(core, 0, "a")
    connect(core, 1, "b")
    core.submit(2, "a", "sync", 0.0)  # at its own limit
    core.submit(3, "d", "sync", 0.0)
    core.submit(4, "c", "sync", 0.0)

    assert core.release(1, 0.0, reusable=False, complete=True) == [Close(1, CloseReason.NOT_REUSABLE)]
    assert core.closed(1, 0.0) == [new(3, 2)]
    assert waiting(core) == [2, 4]


@pytest.mark.rule("R9")
def test_capacity_goes_to_the_oldest_request_over_homes_of_a_key() -> None:
    """N3: the homes of a key share its limit, and take turns by age."""
    core = make(max_sockets=1)
    connect(core, 0, "a", "sync")
    core.submit(1, "a", "loop", 0.0)
    core.submit(2, "a", "other", 0.0)

    assert core.release(0, 0.0, reusable=False, complete=True) == [Close(0, CloseReason.NOT_REUSABLE)]
    assert core.closed(0, 0.0) == [new(1, 1)]


def test_the_lane_of_a_served_request_goes_on_with_its_next() -> None:
    """N3: ages are compared anew after each grant."""
    core = make(max_total_sockets=2)
    connect_many(core, 0, 1, key="x")
    for request, key in enumerate("abab", start=2):
        core.submit(request, key, "sync", 0.0)
    order = []
    for request in (0, 1, 2, 3):
        (close,) = core.release(request, 0.0, reusable=False, complete=True)
        order += core.closed(close.socket, 0.0)  # type: ignore[union-attr]
        core.opened(request + 2, 0.0)

    assert order == [new(2, 2), new(3, 3), new(4, 4), new(5, 5)]
