"""HTTP/2: many requests on a socket, and waiting until the protocol is known."""

from __future__ import annotations

from httpx_agent._rules.core import MAX_REMEMBERED_PROTOCOLS, Close, CloseReason, State
from tests.unit.rules.tools import connect, fail, finish, make, new, share, states, used, waiting


def test_the_first_request_opens_and_the_others_wait_for_the_protocol() -> None:
    """With limits to spare, one socket is opened, not two."""
    core = make()
    core.submit(0, "a", "loop", 0.0, negotiates=True)

    assert core.submit(1, "a", "loop", 0.0, negotiates=True) == []
    assert core.submit(2, "a", "loop", 0.0, negotiates=True) == []
    assert core.opened(0, 1.0) == []
    assert core.negotiated(0, 1.0, capacity=100, multiplexes=True) == [
        used(1, 0, 2, queued=1.0),
        used(2, 0, 3, queued=1.0),
    ]


def test_if_it_is_http_1_all_go_on_at_once() -> None:
    """Each opens its own, as the limits allow, oldest first."""
    core = make(max_sockets=3)
    for request in range(4):
        core.submit(request, "a", "loop", 0.0, negotiates=True)
    core.opened(0, 1.0)

    assert core.negotiated(0, 1.0, capacity=1, multiplexes=False) == [
        new(1, 1, queued=1.0),
        new(2, 2, queued=1.0),
    ]
    assert waiting(core) == [3]


def test_http_1_is_remembered() -> None:
    """The next request of the key, in any home, waits for nobody."""
    core = make()
    core.submit(0, "a", "loop", 0.0, negotiates=True)
    core.opened(0, 0.0)
    core.negotiated(0, 0.0, capacity=1, multiplexes=False)

    assert core.submit(1, "a", "loop", 0.0, negotiates=True) == [new(1, 1)]
    assert core.submit(2, "a", "other", 0.0, negotiates=True) == [new(2, 2)]
    assert core.submit(3, "a", "other", 0.0, negotiates=True) == [new(3, 3)]


def test_only_so_many_protocols_are_remembered() -> None:
    """No growth: the key heard of longest ago is forgotten first."""
    core = make()
    core._remember("a", multiplexes=False)
    core._remember("b", multiplexes=False)
    core._remember("a", multiplexes=False)
    for number in range(MAX_REMEMBERED_PROTOCOLS - 1):
        core._remember(number, multiplexes=False)

    core.submit(0, "a", "loop", 0.0, negotiates=True)
    core.submit(1, "b", "loop", 0.0, negotiates=True)
    assert core.submit(2, "a", "loop", 0.0, negotiates=True) == [new(2, 2)]
    assert core.submit(3, "b", "loop", 0.0, negotiates=True) == []


def test_a_lane_that_does_not_negotiate_waits_for_nobody() -> None:
    """The sync world serves one request per socket."""
    core = make()

    assert core.submit(0, "a", "sync", 0.0) == [new(0, 0)]
    assert core.submit(1, "a", "sync", 0.0) == [new(1, 1)]


def test_if_the_first_fails_the_next_leads() -> None:
    """The others go on by the usual rules: one opens, the rest wait for its protocol."""
    core = make()
    for request in range(3):
        core.submit(request, "a", "loop", 0.0, negotiates=True)

    assert fail(core, 0, 1.0) == [Close(0, CloseReason.ABORTED), new(1, 1, queued=1.0)]
    assert waiting(core) == [2]


def test_if_the_first_is_cancelled_the_next_leads() -> None:
    """Connecting or an heir, it leads no longer."""
    core = make(max_sockets=1)
    for request in range(3):
        core.submit(request, "a", "loop", 0.0, negotiates=True)

    assert core.withdraw(0, 0.0) == [Close(0, CloseReason.ABORTED)]
    assert core.withdraw(1, 0.0) == []
    assert core.closed(0, 0.0) == [new(2, 1)]


def test_a_leader_whose_response_is_over_before_its_protocol_was_told_leads_no_longer() -> None:
    """A driver that does not know the protocol holds nobody up for ever."""
    core = make()
    core.submit(0, "a", "loop", 0.0, negotiates=True)
    core.submit(1, "a", "loop", 0.0, negotiates=True)
    core.opened(0, 0.0)

    assert finish(core, 0) == [used(1, 0, 2)]


def test_a_leader_whose_socket_is_detached_leads_no_longer() -> None:
    """R25: the others go on at once, not when its request ends."""
    core = make()
    core.submit(0, "a", "loop", 0.0, negotiates=True)
    core.submit(1, "a", "loop", 0.0, negotiates=True)
    core.opened(0, 0.0)

    assert core.detach(0, 0.0) == [new(1, 1)]


def test_a_leader_that_finds_another_socket_leads_no_longer() -> None:
    """N8: nothing will be learned from it, so the next one opens."""
    core = make()
    connect(core, 0, "a", "loop")
    core.submit(1, "a", "loop", 0.0, negotiates=True)
    core.submit(2, "a", "loop", 0.0, negotiates=True)
    core.opened(1, 0.0)
    assert finish(core, 0) == [used(2, 0, 2)]
    assert finish(core, 2) == []
    assert core.replace(1, 0.0) == [Close(1, CloseReason.SERVER_CLOSED), used(1, 0, 3, idle=0.0)]

    assert core.submit(3, "a", "loop", 0.0, negotiates=True) == [new(3, 2)]


def test_a_request_that_opens_in_place_of_a_dead_socket_leads() -> None:
    """N16: those that come after it wait for its protocol."""
    core = make()
    share(core, 0, 1, home="loop")
    assert core.replace(0, 0.0, fresh=True) == [Close(0, CloseReason.SERVER_CLOSED)]

    assert core.submit(1, "a", "loop", 0.0, negotiates=True) == []
    assert core.closed(0, 0.0) == [new(0, 1)]
    core.opened(1, 0.0)
    assert core.negotiated(1, 0.0, capacity=2, multiplexes=True) == [used(1, 1, 2)]


def test_a_request_that_opens_in_place_of_a_dead_socket_does_not_lead_beside_another() -> None:
    """The others wait for the one that opened first."""
    core = make()
    share(core, 0, 1, home="loop")
    core.submit(1, "a", "loop", 0.0, negotiates=True)
    core.replace(0, 0.0)
    core.submit(2, "a", "loop", 0.0, negotiates=True)
    core.opened(1, 0.0)

    assert core.negotiated(1, 0.0, capacity=2, multiplexes=True) == [used(2, 1, 2)]


def test_a_socket_with_room_is_joined() -> None:
    """A newcomer needs no slot; nothing had been free."""
    core = make(max_sockets=1)
    share(core, 0, 3)

    assert core.submit(1, "a", "sync", 0.0, negotiates=True) == [used(1, 0, 2)]
    assert core.submit(2, "a", "sync", 0.0, negotiates=True) == [used(2, 0, 3)]
    assert core.submit(3, "a", "sync", 0.0, negotiates=True) == []
    assert waiting(core) == [3]


def test_a_full_socket_is_followed_by_another_within_the_limits() -> None:
    """And those behind it wait to share that one."""
    core = make(max_sockets=2)
    share(core, 0, 1)
    core.submit(1, "a", "sync", 0.0, negotiates=True)

    assert core.submit(2, "a", "sync", 0.0, negotiates=True) == []
    core.opened(1, 0.0)
    assert core.negotiated(1, 0.0, capacity=2, multiplexes=True) == [used(2, 1, 2)]


def test_an_ended_stream_goes_to_the_oldest_waiter() -> None:
    """R7: on a shared socket, too."""
    core = make(max_sockets=1)
    share(core, 0, 2)
    for request in (1, 2, 3):
        core.submit(request, "a", "sync", 0.0, negotiates=True)

    assert finish(core, 1) == [used(2, 0, 3)]
    assert finish(core, 0) == [used(3, 0, 4)]
    assert finish(core, 2) == []
    assert states(core) == {0: State.ACTIVE}
    assert finish(core, 3) == []
    assert states(core) == {0: State.FREE}


def test_a_free_shared_socket_is_joined_again() -> None:
    """R2: taken from the free ones first, then joined."""
    core = make()
    share(core, 0, 2)
    finish(core, 0)

    assert core.submit(1, "a", "sync", 1.0, negotiates=True) == [used(1, 0, 2, idle=1.0)]
    assert core.submit(2, "a", "sync", 1.0, negotiates=True) == [used(2, 0, 3)]


def test_a_failed_stream_retires_its_socket() -> None:
    """R11: what is not known to be fit takes no further request, and closes after the last."""
    core = make()
    share(core, 0, 5)
    core.submit(1, "a", "sync", 0.0, negotiates=True)

    assert fail(core, 0) == []
    assert core.submit(2, "a", "sync", 0.0, negotiates=True) == [new(2, 1)]
    assert finish(core, 1) == [Close(0, CloseReason.ABORTED)]


def test_a_shared_socket_past_its_age_is_not_joined() -> None:
    """R34: it closes after its last stream."""
    core = make(socket_active_ttl=10)
    share(core, 0, 5)
    assert core.submit(1, "a", "sync", 9.0, negotiates=True) == [used(1, 0, 2)]

    assert core.submit(2, "a", "sync", 10.0, negotiates=True) == [new(2, 1)]
    assert finish(core, 0, 10.0) == []
    assert finish(core, 1, 11.0) == [Close(0, CloseReason.TTL)]


def test_a_socket_that_took_longer_to_open_than_it_may_live_is_not_shared() -> None:
    """R34: the followers go on with one of their own."""
    core = make(socket_active_ttl=10)
    core.submit(0, "a", "sync", 0.0, negotiates=True)
    core.submit(1, "a", "sync", 0.0, negotiates=True)
    core.opened(0, 10.0)

    assert core.negotiated(0, 10.0, capacity=5, multiplexes=True) == [new(1, 1, queued=10.0)]


def test_a_capacity_may_shrink() -> None:
    """The server's settings come late: streams above them go on, and no other joins."""
    core = make()
    share(core, 0, 5)
    core.submit(1, "a", "sync", 0.0, negotiates=True)
    core.negotiated(0, 0.0, capacity=1, multiplexes=True)

    assert core.submit(2, "a", "sync", 0.0, negotiates=True) == [new(2, 1)]
    assert finish(core, 0) == []
    assert core.submit(3, "a", "sync", 0.0, negotiates=True) == []


def test_a_capacity_may_grow() -> None:
    """Those that wait have the room at once."""
    core = make(max_sockets=1)
    share(core, 0, 1)
    core.submit(1, "a", "sync", 0.0, negotiates=True)

    assert core.negotiated(0, 0.0, capacity=2, multiplexes=True) == [used(1, 0, 2)]


def test_the_protocol_of_a_socket_that_is_no_longer_in_use_gives_nothing_away() -> None:
    """It is closing: its request gave up while it was opened."""
    core = make()
    core.submit(0, "a", "sync", 0.0, negotiates=True)
    core.submit(1, "a", "sync", 0.0, negotiates=True)
    assert core.withdraw(0, 0.0) == [Close(0, CloseReason.ABORTED), new(1, 1)]
    core.submit(2, "a", "sync", 0.0, negotiates=True)

    assert core.negotiated(0, 0.0, capacity=5, multiplexes=True) == []
    assert waiting(core) == [2]


def test_a_follower_waits_even_where_a_slot_is_free_for_others() -> None:
    """It may have no socket of its own yet; requests of other keys go past it."""
    core = make(max_total_sockets=2)
    core.submit(0, "a", "loop", 0.0, negotiates=True)
    core.submit(1, "a", "loop", 0.0, negotiates=True)

    assert core.submit(2, "b", "loop", 0.0) == [new(2, 1)]
    assert core.submit(3, "b", "loop", 0.0) == []
    assert core.opened(0, 0.0) == []
    assert core.negotiated(0, 0.0, capacity=1, multiplexes=False) == []
    assert fail(core, 2) == [Close(1, CloseReason.ABORTED)]
    assert core.closed(1, 0.0) == [new(1, 2)]
