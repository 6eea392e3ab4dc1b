"""Counters, views, and what is forgotten (R38–R40, A7, N27)."""

from __future__ import annotations

import pytest

from httpx_agent._rules.core import SPARE_ENTRIES, Close, CloseReason, Counters, Rules, SocketView, State
from tests.unit.rules.tools import connect, connect_many, fail, finish, make, new, share


def test_all_counters_begin_at_zero() -> None:
    """R38."""
    assert make().counters == Counters(0, 0, 0, 0, 0, 0, 0, 0)


@pytest.mark.rule("R38")
def test_a_life_without_trouble() -> None:
    """R38, A7: opened, used twice, closed."""
    core = make()
    connect(core, 0)
    finish(core, 0)
    core.submit(1, "a", "sync", 0.0)
    core.release(1, 0.0, reusable=False, complete=True)
    core.closed(0, 0.0)

    assert core.counters == Counters(create_socket=1, close_socket=1, request=2)


def test_a_socket_that_an_error_closed() -> None:
    """R38: counted when it is closed, not before."""
    core = make()
    connect(core, 0)
    core.release(0, 0.0, reusable=False, complete=False, error=True)
    assert core.counters.error_socket == 0
    core.closed(0, 0.0)

    assert core.counters == Counters(create_socket=1, close_socket=1, error_socket=1, request_error=1)


def test_a_socket_that_never_was_usable_is_not_among_the_closed() -> None:
    """A7: nor among those that an error closed."""
    core = make()
    core.submit(0, "a", "sync", 0.0)
    core.release(0, 0.0, reusable=False, complete=False, error=True, timed_out=True)
    core.closed(0, 0.0)

    assert core.counters == Counters(create_socket=1, create_socket_error=1, timeout_socket=1, request_error=1)


@pytest.mark.parametrize("error", [True, False])
def test_a_free_socket_that_its_server_ended(error: bool) -> None:
    """R38: a reset is an error, a plain end is none."""
    core = make()
    connect(core, 0)
    finish(core, 0)
    core.lost(0, 0.0, error=error)
    core.closed(0, 0.0)

    assert core.counters == Counters(create_socket=1, close_socket=1, error_socket=int(error), request=1)


def test_both_limits_count_as_timeouts() -> None:
    """R31, R33: the one on a socket in use and the one on a free one."""
    core = make(free_socket_timeout=5)
    connect_many(core, 0, 1)
    core.release(0, 0.0, reusable=False, complete=False, error=True, timed_out=True)
    finish(core, 1)
    core.expire("sync", 5.0)

    assert core.counters.timeout_socket == 2


def test_a_replaced_socket_says_why() -> None:
    """N16: the request is not over, so it is not counted."""
    core = make()
    connect(core, 0)
    core.replace(0, 0.0, error=True, timed_out=True)
    core.closed(0, 0.0)

    assert core.counters == Counters(create_socket=2, close_socket=1, error_socket=1, timeout_socket=1)


def test_an_error_on_a_shared_socket_is_remembered_until_it_closes() -> None:
    """R38: whichever of its requests met it."""
    core = make()
    share(core, 0, 2)
    core.submit(1, "a", "sync", 0.0, negotiates=True)
    core.release(0, 0.0, reusable=False, complete=False, error=True)
    core.release(1, 0.0, reusable=True, complete=True)
    core.closed(0, 0.0)

    assert core.counters.error_socket == 1


@pytest.mark.rule("R38")
@pytest.mark.parametrize("leave", ["withdraw", "close"])
def test_requests_that_were_not_read_to_their_end_count_as_errors(leave: str) -> None:
    """A7: each ends once, whichever way."""
    core = make(max_sockets=1)
    connect(core, 0)
    core.submit(1, "a", "sync", 0.0)
    if leave == "withdraw":
        core.withdraw(1, 0.0)
        core.release(0, 0.0, reusable=False, complete=False)
    else:
        core.close(0.0)

    assert core.counters.request_error == 2


def test_a_view_of_a_socket_in_use() -> None:
    """N27."""
    core = make()
    core.submit(0, "a", "sync", 1.0)

    assert list(core.sockets(3.0)) == [
        SocketView(
            id=0,
            key="a",
            home="sync",
            state=State.CONNECTING,
            request_count=1,
            age=2.0,
            idle_for=None,
            expires_in=None,
        )
    ]


def test_a_view_of_a_free_socket() -> None:
    """N27: how long it has been free and how long it will be."""
    core = make(free_socket_timeout=15)
    connect(core, 0, now=1.0)
    finish(core, 0, 3.0)

    assert list(core.sockets(5.0)) == [
        SocketView(
            id=0, key="a", home="sync", state=State.FREE, request_count=1, age=4.0, idle_for=2.0, expires_in=13.0
        )
    ]
    assert next(core.sockets(99.0)).expires_in == 0.0


def test_whether_a_socket_is_free() -> None:
    """One that is not known is not."""
    core = make()
    connect_many(core, 0, 1)
    finish(core, 0)

    assert [core.is_free(socket) for socket in (0, 1, 2)] == [True, False, False]


def test_views_are_in_order_of_creation() -> None:
    """Oldest first, numbers from 0."""
    core = make()
    connect_many(core, 0, 1, 2)
    finish(core, 1)
    finish(core, 0)

    assert [view.id for view in core.sockets(0.0)] == [0, 1, 2]


def test_the_use_of_a_key() -> None:
    """For the words of a ``PoolTimeout``: slots taken, and the rules."""
    core = make(max_sockets=7)
    connect_many(core, 0, 1)

    assert core.use_of("a") == (2, Rules(max_sockets=7))
    assert core.use_of("unknown") == (0, Rules(max_sockets=7))


def test_the_states_and_the_queue_of_a_key() -> None:
    """For the same words: counted as they change, so that they cost no look at every socket and request."""
    core = make(max_sockets=4)
    connect_many(core, 0, 1, 2)
    core.submit(3, "a", "sync", 0.0)
    core.submit(4, "a", "loop", 0.0)
    core.submit(5, "a", "sync", 0.0)

    assert core.states_of("a") == {State.CONNECTING: 1, State.ACTIVE: 3}
    assert core.queue_of(5) == 2

    finish(core, 0)  # goes to the one of its home, and the other is passed over

    assert core.queue_of(4) == 1
    core.release(1, 0.0, reusable=False, complete=False)
    assert core.states_of("a") == {State.CONNECTING: 1, State.ACTIVE: 2, State.CLOSING: 1}
    assert core.queue_of(4) == 1  # it has left the queue, and will have the slot of the one that closes


def test_a_socket_that_is_kept_before_it_was_opened() -> None:
    """Nothing is said of it but that it can be used again: it is connecting no more."""
    core = make()
    core.submit(0, "a", "sync", 0.0)
    core.release(0, 0.0, reusable=True, complete=True)

    assert core.states_of("a") == {State.FREE: 1}


def test_rules_are_asked_for_once_for_each_key() -> None:
    """When it is first met."""
    asked = []
    core = make()
    core._rules_for = lambda key: (asked.append(key), Rules())[1]  # type: ignore[func-returns-value]
    connect_many(core, 0, 1)
    connect_many(core, 2, key="b")

    assert asked == ["a", "b"]


def test_a_key_without_sockets_and_requests_is_forgotten() -> None:
    """No growth over millions of keys."""
    core = make()
    for request in range(100):
        connect(core, request, f"key {request}")
        fail(core, request)
        core.closed(request, 0.0)

    for place in (core._keys, core._sockets, core._requests, core._unclaimed, core._free, core._lanes, core._alarms):
        assert len(place) == 0


def test_a_key_that_only_waited_is_forgotten() -> None:
    """No growth when requests give up."""
    core = make(max_total_sockets=1)
    connect(core, 0, "a")
    for request in range(1, 100):
        core.submit(request, f"key {request}", "sync", 0.0)
        core.withdraw(request, 0.0)

    assert list(core._keys) == ["a"]


def test_a_key_is_not_forgotten_while_a_socket_is_promised_to_it() -> None:
    """It will have one."""
    core = make(max_total_sockets=1)
    connect(core, 0, "a")
    core.submit(1, "b", "sync", 0.0)
    assert finish(core, 0) == [Close(0, CloseReason.EVICTED)]
    assert set(core._keys) == {"a", "b"}

    core.closed(0, 0.0)
    assert set(core._keys) == {"b"}


def test_the_end_of_a_detached_socket_does_not_forget_its_key() -> None:
    """R25: meanwhile the key may have been forgotten and met again."""
    core = make(max_sockets=1)
    connect(core, 0)
    core.detach(0, 0.0)
    assert core._keys == {}
    connect(core, 1)
    core.release(0, 0.0, reusable=False, complete=True)

    assert core.submit(2, "a", "sync", 0.0) == []


def test_requests_that_give_up_behind_one_that_waits_leave_nothing() -> None:
    """No growth: the heap of lanes is swept, and those that still wait are served in order."""
    core = make(max_total_sockets=1, max_sockets=1)
    connect(core, 0, "a")
    core.submit(1, "b", "sync", 0.0)
    core.submit(2, "c", "sync", 0.0)
    for request in range(3, 2000):
        core.submit(request, f"key {request % 300}", "sync", 0.0)
        core.withdraw(request, 0.0)
        assert len(core._lanes) <= 3 * SPARE_ENTRIES

    finish(core, 0)
    assert core.closed(0, 0.0) == [new(1, 1)]
    core.opened(1, 0.0)
    finish(core, 1)
    assert core.closed(1, 0.0) == [new(2, 2)]


def test_an_empty_answer_is_not_kept() -> None:
    """Each input answers for itself."""
    core = make()
    first = core.submit(0, "a", "sync", 0.0)
    second = core.submit(1, "a", "sync", 0.0)

    assert (first, second) == ([new(0, 0)], [new(1, 1)])
