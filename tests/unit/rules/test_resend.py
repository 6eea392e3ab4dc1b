"""Whether a request is sent again: literal cases, one rule at a time, and properties of all of them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from httpx_agent._rules.resend import MAX_GOAWAYS, Facts, Loss, Verdict, is_idempotent, judge

GET = Facts(is_idempotent=True, is_replayable=True)
POST = Facts(is_idempotent=False, is_replayable=True)
STREAMED_PUT = Facts(is_idempotent=True, is_replayable=False)


def facts(request: Facts, **changes: Any) -> Facts:
    names = ("is_idempotent", "is_replayable", "wrote", "was_resent", "goaways", "is_allowed")
    return Facts(**{name: getattr(request, name) for name in names} | changes)


@pytest.mark.parametrize("loss", [Loss.STALE, Loss.SESSION_REFUSED])
@pytest.mark.parametrize(
    ("request_", "verdict"),
    [
        (GET, Verdict.RESEND),
        (POST, Verdict.NOT_IDEMPOTENT),
        (STREAMED_PUT, Verdict.BODY_IS_GONE),
        (facts(POST, wrote=False), Verdict.RESEND),
        (facts(STREAMED_PUT, wrote=False), Verdict.RESEND),
        (facts(GET, was_resent=True), Verdict.ALREADY_RESENT),
        (facts(GET, was_resent=True, wrote=False), Verdict.ALREADY_RESENT),
        (facts(GET, is_allowed=False), Verdict.SWITCHED_OFF),
        (facts(GET, is_allowed=False, wrote=False), Verdict.SWITCHED_OFF),
        (facts(GET, goaways=MAX_GOAWAYS), Verdict.RESEND),
    ],
)
def test_a_dead_socket(loss: Loss, request_: Facts, verdict: Verdict) -> None:
    """N8, N16: once, and nothing that the server may have begun to do, unless twice is as once."""
    assert judge(loss, request_) is verdict


@pytest.mark.parametrize(
    ("request_", "verdict"),
    [
        (GET, Verdict.RESEND),
        (POST, Verdict.NOT_IDEMPOTENT),
        (facts(POST, wrote=False), Verdict.NOT_IDEMPOTENT),
        (STREAMED_PUT, Verdict.BODY_IS_GONE),
        (facts(STREAMED_PUT, wrote=False), Verdict.RESEND),
        (facts(GET, was_resent=True, is_allowed=False), Verdict.RESEND),
        (facts(GET, goaways=MAX_GOAWAYS - 1), Verdict.RESEND),
        (facts(GET, goaways=MAX_GOAWAYS), Verdict.TOO_MANY_LOSSES),
    ],
)
def test_a_shared_connection_closed_before_the_answer(request_: Facts, verdict: Verdict) -> None:
    """It is no stale socket: the option, and having been sent again before, say nothing about it."""
    assert judge(Loss.CLOSED_UNANSWERED, request_) is verdict


@pytest.mark.parametrize(
    ("request_", "verdict"),
    [
        (GET, Verdict.RESEND),
        (POST, Verdict.RESEND),
        (STREAMED_PUT, Verdict.BODY_IS_GONE),
        (facts(POST, goaways=MAX_GOAWAYS), Verdict.TOO_MANY_LOSSES),
    ],
)
def test_a_request_that_the_server_did_not_process(request_: Facts, verdict: Verdict) -> None:
    """RFC 9113, 6.8: whatever its method."""
    assert judge(Loss.UNPROCESSED, request_) is verdict


def test_nothing_is_done_twice() -> None:
    """Of all cases, none sends again what may have begun to be done and is not idempotent, or a body that is gone."""
    flags = list(itertools.product((False, True), repeat=5))
    resent = 0
    for loss, (idempotent, replayable, wrote, again, allowed) in itertools.product(Loss, flags):
        request = Facts(
            is_idempotent=idempotent, is_replayable=replayable, wrote=wrote, was_resent=again, is_allowed=allowed
        )
        if judge(loss, request) is Verdict.RESEND:
            resent += 1
            assert idempotent or not wrote or loss is Loss.UNPROCESSED
            assert replayable or not wrote
    assert resent == 2 * 5 + 4 * 3 + 4 * 2 * 3


@pytest.mark.parametrize(
    ("method", "headers", "twice_is_once"),
    [
        (b"GET", [], True),
        (b"POST", [], False),
        (b"PATCH", [(b"Accept", b"*/*")], False),
        (b"POST", [(b"Idempotency-Key", b"1")], True),
        (b"POST", [(b"X-IDEMPOTENCY-KEY", b"")], True),
        (b"get", [], False),
    ],
)
def test_idempotent_by_method_or_by_key(method: bytes, headers: list[tuple[bytes, bytes]], twice_is_once: bool) -> None:
    """RFC 9110, 9.2.2; a method is spelled in capitals."""
    assert is_idempotent(method, headers) is twice_is_once
