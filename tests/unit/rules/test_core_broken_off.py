"""An input broken off at a named step: literal cases of what `recover` makes of it.

`test_core_recovery.py` breaks off any input at any instruction; here each repair has its own case.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import pytest

from httpx_agent._rules.core import Close, CloseReason, Core, Counters, Grant, State
from tests.support.interrupting import Interrupted
from tests.unit.rules.tools import connect, connect_many, finish, make, new, reconfigure, share, states, used, waiting

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def broken_off(core: Core, step: str) -> Iterator[None]:
    """Expect the input in this block to be interrupted where it is about to take a step, one of the core's methods."""

    def interrupt(*_: object, **__: object) -> NoReturn:
        raise Interrupted

    setattr(core, step, interrupt)
    try:
        with pytest.raises(Interrupted):
            yield
    finally:
        delattr(core, step)


def recover(core: Core, *requests: int) -> list[Grant | Close]:
    """Recover with these requests alive, and return what holds then."""
    core.recover(set(requests), 0.0)
    return core.standing(0.0)


# Sockets that leave ---------------------------------------------------------------------------------------------------


def test_a_socket_removed_but_not_counted() -> None:
    """It counts as closed; its heir gets the slot."""
    core = make(max_sockets=1)
    connect(core, 0)
    core.submit(1, "a", "sync", 0.0)
    core.release(0, 0.0, reusable=False, complete=True)
    with broken_off(core, "_count_gone"):
        core.closed(0, 0.0)

    assert recover(core, 1) == [new(1, 1)]
    assert core.counters == Counters(create_socket=2, close_socket=1, request=1)


def test_a_socket_counted_but_its_slot_not_given_back() -> None:
    """It counts once, and the slot is there for the next request."""
    core = make(max_sockets=1)
    connect(core, 0)
    core.release(0, 0.0, reusable=False, complete=True)
    with broken_off(core, "_serve_queue"):
        core.closed(0, 0.0)

    assert recover(core) == []
    assert core.counters == Counters(create_socket=1, close_socket=1, request=1)
    assert core.submit(1, "a", "sync", 0.0) == [new(1, 1)]


def test_a_socket_detached_but_not_counted() -> None:
    """It counts as detached, and no socket of the agent serves its request."""
    core = make()
    connect(core, 0)
    with broken_off(core, "_count_gone"):
        core.detach(0, 0.0)

    assert recover(core, 0) == []
    assert core.counters == Counters(create_socket=1, detached_socket=1)
    assert core.is_known(0)


def test_a_socket_detached_but_still_counted_as_open() -> None:
    """It has no request any more, and is closed: whoever called got the exception, and not the socket."""
    core = make()
    connect(core, 0)
    with broken_off(core, "_remove"):
        core.detach(0, 0.0)

    assert recover(core) == [Close(0, CloseReason.ABORTED)]
    core.closed(0, 0.0)
    assert core.counters == Counters(create_socket=1, detached_socket=1, request_error=1)


def test_a_socket_whose_request_was_dropped_is_closed() -> None:
    """What was sent on it is unknown."""
    core = make(max_sockets=1)
    connect(core, 0)
    core.submit(1, "a", "sync", 0.0)
    with broken_off(core, "_end_use"):
        finish(core, 0)

    assert recover(core, 1) == [Close(0, CloseReason.ABORTED)]
    assert core.closed(0, 0.0) == [new(1, 1)]


def test_a_socket_that_is_closing_keeps_its_reason() -> None:
    core = make()
    connect(core, 0)
    core.release(0, 0.0, reusable=False, complete=True)

    assert recover(core) == [Close(0, CloseReason.NOT_REUSABLE)]
    assert core.states_of("a") == {State.CLOSING: 1}


@pytest.mark.parametrize("limit", ["max_sockets", "max_total_sockets"])
def test_nobody_inherits_from_a_socket_that_is_gone(limit: str) -> None:
    """A request that waits for the slot of such a socket would wait for ever."""
    core = make(**{limit: 1})
    connect(core, 0)
    core.release(0, 0.0, reusable=False, complete=True)
    with broken_off(core, "_count_gone"):
        core.closed(0, 0.0)

    assert recover(core) == []
    connect(core, 1)
    assert core.submit(2, "a", "sync", 0.0) == []
    assert finish(core, 1) == [used(2, 1, 2)]


def test_a_detached_socket_is_not_granted_again() -> None:
    """Its request had not let go of it yet."""
    core = make()
    connect(core, 0)
    with broken_off(core, "_remove"):
        core.detach(0, 0.0)
    core._requests[0].socket = core._sockets[0]  # as one statement earlier

    assert recover(core, 0) == [Close(0, CloseReason.ABORTED)]
    assert not core._requests[0].is_waiting()


def test_a_socket_granted_but_still_called_free() -> None:
    """It is active: a request has it."""
    core = make()
    connect(core, 0)
    finish(core, 0)
    core.submit(1, "a", "sync", 0.0)
    core._sockets[0].state = State.FREE  # as a few statements earlier

    assert recover(core, 1) == [used(1, 0, 2)]
    assert states(core) == {0: State.ACTIVE}
    assert core.states_of("a") == {State.ACTIVE: 1}


def test_a_socket_made_but_not_counted() -> None:
    """It counts as made, has no request yet, and is closed; the request gets the next slot."""

    class Breaking(Counters):
        @property
        def create_socket(self) -> int:  # type: ignore[override]
            raise Interrupted

        @create_socket.setter
        def create_socket(self, value: int) -> None:
            pass

    core = make(max_sockets=1)
    core.counters = Breaking()
    with pytest.raises(Interrupted):
        core.submit(0, "a", "sync", 0.0)
    core.counters = Counters()

    assert recover(core, 0) == [Close(0, CloseReason.ABORTED)]
    assert core.counters == Counters(create_socket=1)
    assert core.closed(0, 0.0) == [new(0, 1)]
    assert core.counters == Counters(create_socket=2, create_socket_error=1)


# Requests -------------------------------------------------------------------------------------------------------------


def test_requests_that_are_over_for_the_driver() -> None:
    """They count as failed, and cost no slot."""
    core = make(max_sockets=1)
    connect(core, 0)
    core.submit(1, "a", "sync", 0.0)

    assert recover(core) == [Close(0, CloseReason.ABORTED)]
    assert waiting(core) == []
    assert core.counters == Counters(create_socket=1, request_error=2)


def test_a_request_dropped_but_not_counted() -> None:
    """It counts as failed, though it was complete: nothing says how it ended."""
    core = make()
    connect(core, 0)
    with broken_off(core, "_drop"):
        finish(core, 0)
    assert core.is_known(0)
    del core._requests[0]  # the first line of `_drop`

    assert recover(core) == [Close(0, CloseReason.ABORTED)]
    assert core.counters == Counters(create_socket=1, request_error=1)


def test_a_request_known_but_not_counted() -> None:
    """It counts from now on, so that it is not forgotten if it gets lost later."""
    core = make()
    connect(core, 0)
    core._submitted = 0  # as one statement earlier
    assert recover(core, 0) == [new(0, 0)._replace(new=False)]

    del core._requests[0]
    assert recover(core) == [Close(0, CloseReason.ABORTED)]
    assert core.counters.request_error == 1


def test_a_key_that_nobody_needs_is_forgotten() -> None:
    core = make()
    with broken_off(core, "_find_socket"):
        core.submit(0, "a", "sync", 0.0)

    assert recover(core) == []
    assert core._keys == {}


def test_a_request_that_never_came() -> None:
    """An input broken off before its first change leaves nothing."""
    core = make()
    with broken_off(core, "_lane"):
        core.submit(0, "a", "sync", 0.0)

    assert recover(core, 0) == []
    assert not core.is_known(0)
    assert core.counters == Counters()


def test_a_request_that_found_no_socket_in_time_finds_it_now() -> None:
    """It is broken off before it looks at the free socket of its lane."""
    core = make()
    connect(core, 0)
    finish(core, 0)
    with broken_off(core, "_find_socket"):
        core.submit(1, "a", "sync", 0.0)

    assert recover(core, 1) == [used(1, 0, 2)]
    assert waiting(core) == []


def test_a_request_without_a_place_in_the_queue_gets_one() -> None:
    core = make(max_sockets=1)
    connect(core, 0)
    with broken_off(core, "_put_on_queue"):
        core.submit(1, "a", "sync", 0.0)

    assert recover(core, 0, 1) == [new(0, 0)._replace(new=False)]
    assert waiting(core) == [1]
    assert finish(core, 0) == [used(1, 0, 2)]


def test_requests_keep_their_order() -> None:
    core = make(max_sockets=1)
    connect(core, 0)
    for request in (1, 2, 3):
        core.submit(request, "a", "sync", 0.0)
    with broken_off(core, "_serve_queue"):
        core.withdraw(2, 0.0)

    recover(core, 0, 1, 3)
    assert finish(core, 0) == [used(1, 0, 2)]
    assert finish(core, 1) == [used(3, 0, 3)]


# Heirs ----------------------------------------------------------------------------------------------------------------


def closing_with_heir(*, key: str = "a") -> Core:
    """A core of one socket in all, which is closing; request 1, of some key, is its heir and 2 waits."""
    core = make(max_total_sockets=1)
    connect(core, 0)
    core.submit(1, key, "sync", 0.0)
    core.submit(2, "a", "sync", 0.0)
    core.release(0, 0.0, reusable=False, complete=True)
    assert waiting(core) == [1, 2]
    return core


@pytest.mark.parametrize("key", ["a", "b"])
def test_an_heir_stays_heir(key: str) -> None:
    """Its slot is counted for its own key, be it another one than the socket's."""
    core = closing_with_heir(key=key)

    assert recover(core, 1, 2) == [Close(0, CloseReason.NOT_REUSABLE)]
    assert core.use_of(key)[0] == 1
    assert core.queue_of(1) == (2 if key == "a" else 1)
    assert core.closed(0, 0.0) == [new(1, 1)]
    assert waiting(core) == [2]


def test_an_heir_that_is_over_leaves_the_slot_to_the_next() -> None:
    """It is broken off between the end of the request and the end of its claim."""
    core = closing_with_heir()
    with broken_off(core, "_disinherit"):
        core.withdraw(1, 0.0)

    assert recover(core, 2) == [Close(0, CloseReason.NOT_REUSABLE)]
    assert core.closed(0, 0.0) == [new(2, 1)]


def test_an_heir_whose_socket_is_gone_opens_its_own() -> None:
    core = closing_with_heir()
    with broken_off(core, "_count_gone"):
        core.closed(0, 0.0)

    assert recover(core, 1, 2) == [new(1, 1)]
    assert waiting(core) == [2]


def test_a_closing_socket_without_an_heir_is_there_for_the_next_request() -> None:
    core = make(max_total_sockets=1)
    connect(core, 0)
    core.release(0, 0.0, reusable=False, complete=True)
    with broken_off(core, "_serve_queue"):
        core.submit(1, "a", "sync", 0.0)

    assert recover(core, 1) == [Close(0, CloseReason.NOT_REUSABLE)]
    assert core.closed(0, 0.0) == [new(1, 1)]


def test_a_closing_socket_is_claimed_before_a_free_one() -> None:
    """Also after a recovery: no free socket is closed for a request that can have the slot of a closing one."""
    core = make(max_total_sockets=2)
    connect_many(core, 0, 1)
    finish(core, 0)
    core.release(1, 0.0, reusable=False, complete=True)
    with broken_off(core, "_serve_queue"):
        core.submit(2, "b", "sync", 0.0)

    assert recover(core, 2) == [Close(1, CloseReason.NOT_REUSABLE)]
    assert core.closed(1, 0.0) == [new(2, 2)]


# Free sockets ---------------------------------------------------------------------------------------------------------


def test_free_sockets_above_the_limit_are_closed() -> None:
    """The least recently used first, as without the interruption."""
    core = make(max_total_free_sockets=1)
    connect_many(core, 0, 1)
    finish(core, 0)
    with broken_off(core, "_close"):
        finish(core, 1)

    assert recover(core) == [Close(0, CloseReason.FREE_LIMIT)]
    assert states(core) == {0: State.CLOSING, 1: State.FREE}


def test_a_free_socket_stays_free_and_expires() -> None:
    """Its alarm is set again."""
    core = make(free_socket_timeout=15.0)
    connect(core, 0)
    finish(core, 0)

    assert recover(core) == []
    assert core.is_free(0)
    assert core.next_deadline("sync") == 15.0
    assert core.expire("sync", 15.0) == [Close(0, CloseReason.IDLE_TIMEOUT)]


def test_a_free_socket_about_to_be_closed_for_another_request() -> None:
    """It is closed for that request after all."""
    core = make(max_total_sockets=1)
    connect(core, 0)
    finish(core, 0)
    with broken_off(core, "_close"):
        core.submit(1, "b", "sync", 0.0)

    assert recover(core, 1) == [Close(0, CloseReason.EVICTED)]
    assert core.closed(0, 0.0) == [new(1, 1)]


def test_a_socket_that_was_never_opened_is_closed() -> None:
    core = make()
    core.submit(0, "a", "sync", 0.0)

    assert recover(core) == [Close(0, CloseReason.ABORTED)]
    core.closed(0, 0.0)
    assert core.counters == Counters(create_socket=1, create_socket_error=1, request_error=1)


def test_a_socket_being_opened_stays_with_its_request() -> None:
    core = make()
    core.submit(0, "a", "sync", 0.0)

    assert recover(core, 0) == [new(0, 0)]
    assert core.states_of("a") == {State.CONNECTING: 1}


# Limits ---------------------------------------------------------------------------------------------------------------


def test_a_lowered_total_is_still_exceeded() -> None:
    """No request gets a slot until the total is down to the limit."""
    core = make()
    connect_many(core, 0, 1)
    reconfigure(core, 0.0, max_total_sockets=1)
    core.submit(2, "b", "sync", 0.0)

    assert recover(core, 0, 1, 2) == [new(0, 0)._replace(new=False), new(1, 1)._replace(new=False)]
    assert finish(core, 0) == [Close(0, CloseReason.LIMIT_LOWERED)]
    assert core.closed(0, 0.0) == []
    assert finish(core, 1) == [Close(1, CloseReason.EVICTED)]
    assert core.closed(1, 0.0) == [new(2, 2)]


# HTTP/2 ---------------------------------------------------------------------------------------------------------------


def test_a_shared_socket_keeps_its_requests_and_its_room() -> None:
    core = make(max_sockets=1)
    share(core, 0, 3)
    core.submit(1, "a", "sync", 0.0, negotiates=True)
    with broken_off(core, "_end_use"):
        finish(core, 0)

    assert recover(core, 1) == [used(1, 0, 2)]
    assert core.submit(2, "a", "sync", 0.0, negotiates=True) == [used(2, 0, 3)]
    assert core.submit(3, "a", "sync", 0.0, negotiates=True) == [used(3, 0, 4)]
    assert core.submit(4, "a", "sync", 0.0, negotiates=True) == []


def test_a_leader_that_is_over_leads_no_longer() -> None:
    """Else its lane would wait for ever for a protocol that nobody learns."""
    core = make()
    core.submit(0, "a", "sync", 0.0, negotiates=True)
    assert core.submit(1, "a", "sync", 0.0, negotiates=True) == []
    with broken_off(core, "_resign"):
        core.withdraw(0, 0.0)

    assert recover(core, 1) == [new(1, 1), Close(0, CloseReason.ABORTED)]


def test_a_leader_that_opens_no_socket_leads_no_longer() -> None:
    """It waits like the others then, and opens one."""
    core = make()
    with broken_off(core, "_open"):
        core.submit(0, "a", "sync", 0.0, negotiates=True)

    assert recover(core, 0) == [new(0, 0)]
    core.opened(0, 0.0)
    assert core.negotiated(0, 0.0, capacity=1, multiplexes=False) == []
    assert core.submit(1, "a", "sync", 0.0, negotiates=True) == [new(1, 1)]


def test_a_leader_that_is_opening_its_socket_still_leads() -> None:
    core = make()
    core.submit(0, "a", "sync", 0.0, negotiates=True)

    assert recover(core, 0) == [new(0, 0)]
    assert core.submit(1, "a", "sync", 0.0, negotiates=True) == []


def test_nothing_is_lost_where_nothing_was_broken_off() -> None:
    """Every state at once; the answer to a recovery is empty, and a second one changes nothing."""
    core = make(max_total_sockets=3, free_socket_timeout=math.inf)
    connect_many(core, 0, 1, 2)
    finish(core, 0)
    core.release(1, 0.0, reusable=False, complete=True)
    core.submit(3, "b", "sync", 0.0)
    held = core.standing(0.0)

    assert held == [new(2, 2)._replace(new=False), Close(1, CloseReason.NOT_REUSABLE)]
    assert recover(core, 2, 3) == held
    assert recover(core, 2, 3) == held
    assert states(core) == {0: State.FREE, 1: State.CLOSING, 2: State.ACTIVE}
    assert core.next_deadline("sync") is None
    assert core.closed(1, 0.0) == [new(3, 3)]
