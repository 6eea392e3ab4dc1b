"""Why a socket is closed: the first event that ruled out another request."""

from __future__ import annotations

import pytest

from httpx_agent._rules.core import Action, Close, CloseReason, Core, Grant
from tests.unit.rules.tools import connect, fail, finish, make, share, used


def reasons(actions: list[Action]) -> list[CloseReason]:
    return [action.reason for action in actions if isinstance(action, Close)]


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"complete": True}, CloseReason.NOT_REUSABLE),
        ({"complete": True, "ended": True}, CloseReason.NOT_REUSABLE),
        ({"complete": False}, CloseReason.ABORTED),
        ({"complete": False, "ended": True}, CloseReason.SERVER_CLOSED),
        ({"complete": False, "error": True}, CloseReason.ERROR),
        ({"complete": False, "error": True, "timed_out": True}, CloseReason.TIMEOUT),
    ],
)
def test_what_ended_a_request_ended_its_socket(how: dict[str, bool], reason: CloseReason) -> None:
    core = make()
    connect(core, 0)

    assert core.release(0, 1.0, reusable=False, **how) == [Close(0, reason)]


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({}, CloseReason.SERVER_CLOSED),
        ({"error": True}, CloseReason.ERROR),
        ({"error": True, "timed_out": True}, CloseReason.TIMEOUT),
    ],
)
def test_what_made_a_request_take_another_socket_ended_the_first(how: dict[str, bool], reason: CloseReason) -> None:
    core = make()
    connect(core, 0)

    assert core.replace(0, 1.0, **how) == [Close(0, reason)]


@pytest.mark.parametrize(("error", "reason"), [(False, CloseReason.SERVER_CLOSED), (True, CloseReason.ERROR)])
def test_a_free_socket_is_lost_to_its_server_or_to_an_error(error: bool, reason: CloseReason) -> None:
    core = make()
    connect(core, 0)
    finish(core, 0)

    assert core.lost(0, 1.0, error=error) == [Close(0, reason)]


@pytest.mark.parametrize(
    ("rules", "hint", "at", "reason"),
    [
        ({"free_socket_timeout": 5}, None, 5.0, CloseReason.IDLE_TIMEOUT),
        ({"free_socket_timeout": 5}, 6.0, 5.0, CloseReason.IDLE_TIMEOUT),
        ({"free_socket_timeout": 5}, 5.0, 4.0, CloseReason.SERVER_HINT),
        ({"free_socket_timeout": 5, "socket_active_ttl": 4}, 6.0, 4.0, CloseReason.TTL),
        ({"free_socket_timeout": 5, "socket_active_ttl": 3}, 5.0, 3.0, CloseReason.TTL),
        ({"free_socket_timeout": 5, "socket_active_ttl": 4}, 5.0, 4.0, CloseReason.SERVER_HINT),
    ],
)
def test_a_free_socket_expires_by_the_limit_that_comes_first(
    rules: dict[str, float], hint: float | None, at: float, reason: CloseReason
) -> None:
    """Where two come at once: the agent's own, then the server's, then the age."""
    core = make(**rules)
    connect(core, 0)
    finish(core, 0, 0.0, hint)

    assert core.expire("sync", at) == [Close(0, reason)]


def test_the_first_cause_counts() -> None:
    """A shared socket that an aborted request retired is not closed for what its last request met."""
    core = make()
    share(core, 0, 3)
    assert core.submit(1, "a", "sync", 0.0, negotiates=True) == [used(1, 0, 2)]
    assert core.submit(2, "a", "sync", 0.0, negotiates=True) == [used(2, 0, 3)]

    assert fail(core, 0) == []
    assert core.release(1, 1.0, reusable=False, complete=False, error=True) == []
    assert core.release(2, 1.0, reusable=False, complete=True) == [Close(0, CloseReason.ABORTED)]
    assert core.closed(0, 1.0) == []
    assert core.counters.error_socket == 1


def test_closing_the_agent_is_a_reason_of_its_own() -> None:
    """Also for a socket that would have been closed after its last request."""
    core = make(max_free_sockets=0)
    share(core, 0, 2)
    core.submit(1, "a", "sync", 0.0, negotiates=True)
    fail(core, 0)

    assert reasons(core.close(1.0)) == [CloseReason.AGENT_CLOSED]


def test_a_socket_beyond_the_free_ones_in_total_goes_for_that() -> None:
    core = make(max_total_free_sockets=1)
    connect(core, 0, "a")
    connect(core, 1, "b")
    finish(core, 0, 1.0)

    assert finish(core, 1, 2.0) == [Close(0, CloseReason.FREE_LIMIT)]


def test_a_late_heir_gets_its_socket_from_an_evicted_one() -> None:
    core: Core = make(max_total_sockets=1)
    connect(core, 0, "a")
    finish(core, 0)

    assert core.submit(1, "b", "sync", 1.0) == [Close(0, CloseReason.EVICTED)]
    (grant,) = core.closed(0, 2.0)
    assert isinstance(grant, Grant)
