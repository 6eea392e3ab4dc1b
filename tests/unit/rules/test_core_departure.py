"""How requests and sockets leave: withdraw, replace, lost, detach (R14, R22, R23, R25, N8, N12, N16)."""

from __future__ import annotations

import pytest

from httpx_agent._rules.core import Close, CloseReason, State
from tests.unit.rules.tools import connect, connect_many, fail, finish, make, new, share, states, used, waiting


def test_withdrawing_the_only_waiter_changes_nothing_else() -> None:
    """N12: it leaves at once."""
    core = make(max_sockets=1)
    connect(core, 0)
    core.submit(1, "a", "sync", 0.0)

    assert core.withdraw(1, 0.0) == []
    assert waiting(core) == []
    assert finish(core, 0) == []


def test_withdrawing_while_connecting_closes_the_socket() -> None:
    """R23: it was never usable; its slot goes to the next request."""
    core = make(max_sockets=1)
    core.submit(0, "a", "sync", 0.0)
    core.submit(1, "a", "sync", 0.0)

    assert core.withdraw(0, 1.0) == [Close(0, CloseReason.ABORTED)]
    assert core.closed(0, 2.0) == [new(1, 1, queued=2.0)]
    assert core.counters.create_socket_error == 1


def test_a_socket_that_opens_after_its_request_withdrew_is_still_closing() -> None:
    """R23: the driver may have been too late to stop it; then it was usable."""
    core = make()
    core.submit(0, "a", "sync", 0.0)
    core.withdraw(0, 1.0)

    assert core.opened(0, 1.0) == []
    assert states(core) == {0: State.CLOSING}
    assert core.closed(0, 1.0) == []
    assert core.counters.close_socket == 1


@pytest.mark.rule("R22")
def test_withdrawing_a_fresh_grant_makes_the_socket_free() -> None:
    """R22: a socket that is open and unused is not wasted."""
    core = make()
    connect(core, 0)

    assert core.withdraw(0, 0.0) == []
    assert states(core) == {0: State.FREE}
    assert core.submit(1, "a", "sync", 0.0) == [used(1, 0, 1, idle=0.0)]


def test_withdrawing_from_a_shared_socket_leaves_it_to_the_others() -> None:
    """R22."""
    core = make()
    share(core, 0, 2)
    core.submit(1, "a", "sync", 0.0, negotiates=True)

    assert core.withdraw(1, 0.0) == []
    assert states(core) == {0: State.ACTIVE}
    assert core.submit(2, "a", "sync", 0.0, negotiates=True) == [used(2, 0, 2)]


def test_an_aborted_response_closes_its_socket() -> None:
    """R23: never reused."""
    core = make()
    connect(core, 0)

    assert fail(core, 0) == [Close(0, CloseReason.ABORTED)]


def test_a_dead_socket_is_replaced_by_another_free_one() -> None:
    """N8, N16: the next free socket is tried, before the slot of the dead one is given away."""
    core = make()
    connect_many(core, 0, 1)
    finish(core, 0, 0.0)
    finish(core, 1, 0.0)
    assert core.submit(2, "a", "sync", 1.0) == [used(2, 1, 2, idle=1.0)]

    assert core.replace(2, 1.0) == [Close(1, CloseReason.SERVER_CLOSED), used(2, 0, 2, idle=1.0)]


def test_a_dead_socket_is_replaced_by_a_fresh_one_when_asked_for() -> None:
    """N16: other free sockets may be dead as well, so the second attempt opens its own in place of the first."""
    core = make()
    connect_many(core, 0, 1)
    finish(core, 0)
    finish(core, 1)
    core.submit(2, "a", "sync", 1.0)

    assert core.replace(2, 1.0, fresh=True) == [Close(1, CloseReason.SERVER_CLOSED)]
    assert core.closed(1, 3.0) == [new(2, 2, queued=2.0)]
    assert states(core)[0] is State.FREE


def test_a_request_keeps_its_place_when_its_socket_is_dead() -> None:
    """N8, N16: at the limit, those that wait do not get the slot before it."""
    core = make(max_sockets=1)
    connect(core, 0)
    finish(core, 0)
    core.submit(1, "a", "sync", 0.0)
    core.submit(2, "a", "sync", 0.0)

    assert core.replace(1, 0.0) == [Close(0, CloseReason.SERVER_CLOSED)]
    assert waiting(core) == [1, 2]
    assert core.closed(0, 0.0) == [new(1, 1)]


def test_the_slot_of_a_dead_socket_goes_on_when_another_was_found() -> None:
    """N8: its request did not need it."""
    core = make(max_total_sockets=2)
    connect_many(core, 0, 1)
    finish(core, 0)
    finish(core, 1)
    core.submit(2, "a", "sync", 0.0)
    assert core.replace(2, 0.0) == [Close(1, CloseReason.SERVER_CLOSED), used(2, 0, 2, idle=0.0)]

    assert core.submit(3, "b", "sync", 0.0) == []
    assert core.closed(1, 0.0) == [new(3, 2)]


def test_a_request_may_be_replaced_twice() -> None:
    """N8: each dead socket is closed, the last one leaves its slot."""
    core = make()
    connect_many(core, 0, 1)
    finish(core, 0)
    finish(core, 1)
    core.submit(2, "a", "sync", 0.0)
    core.replace(2, 0.0)

    assert core.replace(2, 0.0) == [Close(0, CloseReason.SERVER_CLOSED)]
    assert core.closed(0, 0.0) == [new(2, 2)]


def test_the_place_of_a_replaced_request_can_be_withdrawn() -> None:
    """N12: it is an heir like any other."""
    core = make(max_sockets=1)
    connect(core, 0)
    core.replace(0, 0.0)

    assert core.withdraw(0, 0.0) == []
    assert core.closed(0, 0.0) == []
    assert core.total == 0


def test_on_a_dead_shared_socket_each_request_goes_on_by_itself() -> None:
    """N8: the first takes another slot, the last the one of the dead socket."""
    core = make(max_sockets=2)
    share(core, 0, 2)
    core.submit(1, "a", "sync", 0.0, negotiates=True)

    assert core.replace(0, 1.0) == [new(0, 1, queued=1.0)]
    assert core.replace(1, 1.0) == [Close(0, CloseReason.SERVER_CLOSED)]
    assert core.closed(0, 1.0) == [new(1, 2, queued=1.0)]


def test_on_a_dead_shared_socket_requests_go_back_to_the_queue_in_order_of_age() -> None:
    """N5: those that come back are older than all that wait, and among them the oldest is first."""
    core = make(max_sockets=2)
    share(core, 0, 3)
    core.submit(1, "a", "sync", 0.0, negotiates=True)
    core.submit(2, "a", "sync", 0.0, negotiates=True)
    core.submit(3, "a", "loop", 0.0)
    core.opened(1, 0.0)
    core.submit(4, "a", "sync", 0.0, negotiates=True)
    assert waiting(core) == [4]

    assert core.replace(0, 0.0) == []
    assert core.replace(1, 0.0) == []
    assert fail(core, 3) == [Close(1, CloseReason.ABORTED)]
    assert core.closed(1, 0.0) == [new(0, 2)]


def test_on_a_dead_shared_socket_a_request_takes_any_that_is_there_if_it_has_to() -> None:
    """N5, N16: no slot can be had for a fresh one, and it must not wait beside a socket that a newcomer would get."""
    core = make(max_sockets=2)
    share(core, 0, 2)
    core.submit(1, "a", "sync", 0.0, negotiates=True)
    core.submit(2, "a", "sync", 0.0, negotiates=True)
    core.opened(1, 0.0)
    core.negotiated(1, 0.0, capacity=3, multiplexes=True)

    assert core.replace(0, 1.0, fresh=True) == [used(0, 1, 2, queued=1.0)]
    assert core.replace(1, 1.0) == [Close(0, CloseReason.SERVER_CLOSED), used(1, 1, 3, queued=1.0)]


def test_on_a_dead_shared_socket_a_fresh_one_is_preferred() -> None:
    """N16: there is a slot, so another socket, which may be as dead, is left alone."""
    core = make()
    share(core, 0, 2)
    core.submit(1, "a", "sync", 0.0, negotiates=True)
    core.submit(2, "a", "sync", 0.0, negotiates=True)
    core.opened(1, 0.0)
    core.negotiated(1, 0.0, capacity=3, multiplexes=True)

    assert core.replace(0, 1.0, fresh=True) == [new(0, 2, queued=1.0)]


@pytest.mark.rule("R14")
def test_a_free_socket_that_its_server_closed_leaves_at_once() -> None:
    """R14, N23: with no request needed."""
    core = make()
    connect(core, 0)
    finish(core, 0)

    assert core.lost(0, 1.0) == [Close(0, CloseReason.SERVER_CLOSED)]
    assert core.submit(1, "a", "sync", 1.0) == [new(1, 1)]


def test_only_a_free_socket_is_lost() -> None:
    """R14: one in use is its request's business, one that is closing or gone is nobody's."""
    core = make()
    connect_many(core, 0, 1)
    fail(core, 1)

    assert core.lost(0, 0.0) == []
    assert core.lost(1, 0.0) == []
    assert core.lost(99, 0.0) == []
    assert states(core) == {0: State.ACTIVE, 1: State.CLOSING}


@pytest.mark.rule("R25")
def test_a_detached_socket_frees_its_slot_at_once() -> None:
    """R25: it is the caller's now, though still open."""
    core = make(max_sockets=1)
    connect(core, 0)
    core.submit(1, "a", "sync", 0.0)

    assert core.detach(0, 2.0) == [new(1, 1, queued=2.0)]
    assert core.total == 1
    assert core.counters.detached_socket == 1


def test_the_request_of_a_detached_socket_goes_on_and_ends() -> None:
    """R25: its end closes nothing."""
    core = make()
    connect(core, 0)
    core.detach(0, 0.0)

    assert waiting(core) == []
    assert core.release(0, 1.0, reusable=False, complete=True) == []
    assert core.counters.request == 1
    assert core.counters.close_socket == 0


# Given up in whatever state ------------------------------------------------------------------------------------------


def test_abandoning_a_request_in_flight_costs_its_socket() -> None:
    """Something may have been sent on it, so the next request does not get it."""
    core = make(max_sockets=1)
    connect(core, 0)
    core.submit(1, "a", "sync", 0.0)

    assert core.abandon(0, 0.0) == [Close(0, CloseReason.ABORTED)]
    assert core.closed(0, 0.0) == [new(1, 1)]
    assert core.counters.request_error == 1


def test_abandoning_a_waiting_request_costs_nothing() -> None:
    core = make(max_sockets=1)
    connect(core, 0)
    core.submit(1, "a", "sync", 0.0)

    assert core.abandon(1, 0.0) == []
    assert waiting(core) == []
    assert finish(core, 0) == []
    assert core.is_free(0)


def test_abandoning_an_heir_leaves_the_slot_to_the_next_of_any_key() -> None:
    """The heir is of another key than the socket, and both get what they can."""
    core = make(max_total_sockets=1)
    connect(core, 0)
    core.submit(1, "b", "sync", 0.0)
    core.submit(2, "c", "sync", 0.0)
    core.release(0, 0.0, reusable=False, complete=True)

    assert core.abandon(1, 0.0) == []
    assert core.use_of("b")[0] == 0
    assert core.closed(0, 0.0) == [new(2, 1)]


def test_after_abandoning_an_heir_the_oldest_request_of_the_sockets_key_is_next() -> None:
    """It waits for the limit of its own key; a newcomer of a third key must not overtake it."""
    core = make(max_sockets=1, max_total_sockets=1)
    connect(core, 0)
    core.submit(1, "b", "sync", 0.0)
    core.submit(2, "a", "sync", 0.0)
    core.release(0, 0.0, reusable=False, complete=True)

    assert core.abandon(1, 0.0) == []
    core.submit(3, "c", "sync", 0.0)
    assert core.closed(0, 0.0) == [new(2, 1)]


def test_after_abandoning_a_request_in_flight_the_oldest_waiting_one_is_next() -> None:
    """It waits for the limit of its own key; a newcomer of another key must not overtake it."""
    core = make(max_sockets=1, max_total_sockets=1)
    connect(core, 0)
    core.submit(1, "a", "sync", 0.0)

    core.abandon(0, 0.0)
    core.submit(2, "b", "sync", 0.0)
    assert core.closed(0, 0.0) == [new(1, 1)]
