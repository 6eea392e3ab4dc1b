"""A request that times out in silence on a used socket puts in doubt the free ones not heard from since."""

from __future__ import annotations

import pytest

from httpx_agent._rules.core import Action, Close, CloseReason, Core, State
from tests.unit.rules.tools import connect, connect_many, finish, make, new, share, states, used


def in_doubt(*sockets: int) -> list[Close]:
    return [Close(socket, CloseReason.IN_DOUBT) for socket in sockets]


def time_out(core: Core, request: int, now: float, *, unheard: bool = True) -> list[Action]:
    """The request's limit fires; not one byte of its response came, or some did."""
    return core.release(request, now, reusable=False, complete=False, error=True, timed_out=True, unheard=unheard)


def free(core: Core, *requests: int, now: float = 0.0) -> None:
    for request in requests:
        assert finish(core, request, now) == []


@pytest.mark.rule("N30")
def test_ten_free_sockets_cost_one_timeout() -> None:
    core = make()
    connect_many(core, *range(10))
    free(core, *range(10))
    assert core.submit(10, "a", "sync", 5.0) == [used(10, 9, 2, idle=5.0)]

    assert time_out(core, 10, 10.0) == [Close(9, CloseReason.TIMEOUT), *in_doubt(0, 1, 2, 3, 4, 5, 6, 7, 8)]
    for socket in range(10):
        core.closed(socket, 10.0)
    assert core.submit(11, "a", "sync", 11.0) == [new(11, 10)]


def test_it_counts_as_closed_and_as_nothing_else() -> None:
    """No limit fired on it and no error closed it: the one timeout is that of the request."""
    core = make()
    connect_many(core, 0, 1)
    free(core, 0, 1)
    core.submit(2, "a", "sync", 1.0)
    time_out(core, 2, 2.0)
    core.closed(0, 2.0)
    core.closed(1, 2.0)

    counters = core.counters
    assert (counters.close_socket, counters.timeout_socket, counters.error_socket) == (2, 1, 1)


def test_the_timeout_of_a_new_socket_proves_nothing() -> None:
    """It says that the server is slow, or away; nothing of connections that stood before."""
    core = make()
    connect(core, 0, home="loop")
    free(core, 0)
    connect(core, 1)

    assert time_out(core, 1, 5.0) == [Close(1, CloseReason.TIMEOUT)]
    assert states(core)[0] is State.FREE


def test_nor_does_one_after_the_first_byte() -> None:
    core = make()
    connect_many(core, 0, 1)
    free(core, 0, 1)
    core.submit(2, "a", "sync", 1.0)

    assert time_out(core, 2, 5.0, unheard=False) == [Close(1, CloseReason.TIMEOUT)]
    assert states(core)[0] is State.FREE


@pytest.mark.parametrize("how", [{"error": True}, {"ended": True}, {}], ids=["an error", "an end", "an abort"])
def test_nor_does_another_end_in_silence(how: dict[str, bool]) -> None:
    """The end of a connection is told at once, and costs nobody a timeout; who gives up may have any reason."""
    core = make()
    connect_many(core, 0, 1)
    free(core, 0, 1)
    core.submit(2, "a", "sync", 1.0)

    (close,) = core.release(2, 5.0, reusable=False, complete=False, unheard=True, **how)
    assert isinstance(close, Close)
    assert close.socket == 1
    assert states(core)[0] is State.FREE


def test_a_socket_that_answered_since_is_not_in_doubt() -> None:
    core = make()
    connect_many(core, 0, 1, 2)
    free(core, 0, 1)
    core.submit(3, "a", "sync", 1.0)  # on socket 1
    free(core, 2, now=1.0)  # in the same tick of the clock

    assert time_out(core, 3, 6.0) == [Close(1, CloseReason.TIMEOUT), *in_doubt(0)]
    assert states(core)[2] is State.FREE


def test_nor_is_one_that_was_opened_since() -> None:
    """It came free without a request: the one that opened it had given up."""
    core = make()
    connect(core, 0)
    free(core, 0)
    core.submit(1, "a", "sync", 1.0)
    assert core.submit(2, "a", "sync", 1.0) == [new(2, 1)]
    core.opened(1, 1.0)
    core.withdraw(2, 1.0)

    assert time_out(core, 1, 6.0) == [Close(0, CloseReason.TIMEOUT)]
    assert states(core)[1] is State.FREE


def test_coming_free_is_not_being_heard_from() -> None:
    """The request that had it gave up before it sent anything."""
    core = make()
    connect_many(core, 0, 1)
    free(core, 0, 1)
    core.submit(2, "a", "sync", 1.0)  # on socket 1
    core.submit(3, "a", "sync", 2.0)  # on socket 0
    core.withdraw(3, 2.0)

    assert time_out(core, 2, 6.0) == [Close(1, CloseReason.TIMEOUT), *in_doubt(0)]


def test_an_active_socket_is_left_alone() -> None:
    """It may be slow, and its request has a limit of its own."""
    core = make()
    connect_many(core, 0, 1)
    free(core, 0, 1)
    core.submit(2, "a", "sync", 1.0)
    core.submit(3, "a", "sync", 1.0)

    assert time_out(core, 2, 6.0) == [Close(1, CloseReason.TIMEOUT)]
    assert finish(core, 3, 7.0) == []
    assert states(core)[0] is State.FREE


def test_other_keys_are_not_in_doubt() -> None:
    core = make()
    connect(core, 0, "a")
    connect(core, 1, "b")
    free(core, 0, 1)
    core.submit(2, "a", "sync", 1.0)

    assert time_out(core, 2, 6.0) == [Close(0, CloseReason.TIMEOUT)]
    assert states(core)[1] is State.FREE


def test_all_homes_of_the_key_are() -> None:
    """A way to a server is the machine's, not an event loop's."""
    core = make()
    connect(core, 0, "a", "sync")
    connect(core, 1, "a", "loop")
    connect(core, 2, "a", "other loop")
    free(core, 0, 1, 2)
    core.submit(3, "a", "loop", 1.0)

    assert time_out(core, 3, 6.0) == [Close(1, CloseReason.TIMEOUT), *in_doubt(0, 2)]


def test_a_socket_that_came_free_after_a_hand_over_was_heard_from_since() -> None:
    """A hand-over is a use like another; but no socket of the lane was free then."""
    core = make(max_sockets=2)
    connect_many(core, 0, 1)
    core.submit(2, "a", "sync", 0.0)
    assert finish(core, 0, 1.0) == [used(2, 0, 2, queued=1.0)]
    free(core, 1, now=1.0)

    assert time_out(core, 2, 6.0) == [Close(0, CloseReason.TIMEOUT)]


def test_requests_that_time_out_together_close_each_free_socket_once() -> None:
    core = make()
    connect_many(core, 0, 1, 2)
    free(core, 0, 1, 2)
    core.submit(3, "a", "sync", 1.0)
    core.submit(4, "a", "sync", 1.0)

    assert time_out(core, 3, 6.0) == [Close(2, CloseReason.TIMEOUT), *in_doubt(0)]
    assert time_out(core, 4, 6.0) == [Close(1, CloseReason.TIMEOUT)]


def test_the_slots_of_sockets_in_doubt_go_to_those_who_wait() -> None:
    core = make(max_total_sockets=2)
    connect(core, 0, "a")
    connect(core, 1, "a")
    free(core, 0, 1)
    core.submit(2, "a", "sync", 1.0)  # on socket 1
    assert core.submit(3, "b", "sync", 1.0) == [Close(0, CloseReason.EVICTED)]
    core.submit(4, "b", "sync", 1.0)

    assert time_out(core, 2, 6.0) == [Close(1, CloseReason.TIMEOUT)]
    assert core.closed(1, 6.0) == [new(4, 2, queued=5.0)]


def test_a_shared_socket_on_which_all_is_silent_takes_no_more_and_puts_others_in_doubt() -> None:
    core = make()
    connect(core, 0, home="loop")
    free(core, 0)
    share(core, 1, 3, home="other loop")
    free(core, 1)
    core.submit(2, "a", "other loop", 1.0, negotiates=True)
    core.submit(3, "a", "other loop", 1.0, negotiates=True)

    assert time_out(core, 2, 6.0) == in_doubt(0)
    assert core.submit(4, "a", "other loop", 6.0, negotiates=True) == [new(4, 2)]
    assert time_out(core, 3, 6.0) == [Close(1, CloseReason.TIMEOUT)]


def test_one_silent_stream_among_others_is_no_silence() -> None:
    """Something came on the socket, if only for another stream: the way is there."""
    core = make()
    connect(core, 0, home="loop")
    free(core, 0)
    share(core, 1, 3, home="other loop")
    core.submit(2, "a", "other loop", 1.0, negotiates=True)

    assert time_out(core, 2, 6.0, unheard=False) == []
    assert states(core)[0] is State.FREE
