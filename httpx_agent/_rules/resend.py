"""Judge whether to send a request again that lost its connection. Pure: facts in, verdict out.

The rules are Go's (`net/http/transport.go`, `shouldRetryRequest`), extended by those of HTTP/2. A request is sent again
only if its connection failed in a way that says nothing about the request itself, and only if sending it twice cannot
have more effect than sending it once.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

#: Methods for which sending a request twice has the effect of sending it once (RFC 9110, 9.2.2).
IDEMPOTENT_METHODS = frozenset({b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"TRACE"})

#: Headers by which a client declares that its request may be sent twice: the same two as in Go.
IDEMPOTENCY_KEYS = frozenset({b"idempotency-key", b"x-idempotency-key"})

#: Maximum number of HTTP/2 connections that a request may lose before it fails. A request may be unlucky several times
#: in a row, through no fault of its own, but a server that closes every connection must not keep it for ever.
MAX_GOAWAYS = 20


class Loss(enum.Enum):
    """A way to lose a connection that says nothing about the request itself."""

    STALE = "a reused socket was dead: not one byte of a response came"
    SESSION_REFUSED = "the server ended a connection because of the TLS session that it had resumed"
    CLOSED_UNANSWERED = "the server closed a shared HTTP/2 connection before it answered"
    UNPROCESSED = "the server closed an HTTP/2 connection and did nothing about the request"  # RFC 9113, 6.8

    @property
    def is_http2(self) -> bool:
        """Whether the server closed an HTTP/2 connection, which it may do at any time."""
        return self in (Loss.CLOSED_UNANSWERED, Loss.UNPROCESSED)


class Verdict(enum.Enum):
    """The decision to send a request again, or the first rule that forbids it."""

    RESEND = "sent again"
    SWITCHED_OFF = "`retry_stale_sockets` is off"
    ALREADY_RESENT = "it was sent again once already"
    NOT_IDEMPOTENT = "sending it twice may do more than sending it once"
    BODY_IS_GONE = "its body cannot be replayed"
    TOO_MANY_LOSSES = f"it lost {MAX_GOAWAYS} connections before"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The facts about a request that `judge` needs.

    Attributes:
        is_idempotent: Whether sending it twice has the effect of sending it once; see `is_idempotent`.
        is_replayable: Whether its body can be read again.
        wrote: Whether a byte of it may have reached the server.
        was_resent: Whether it was sent again before, because of a stale socket or a refused session.
        goaways: Number of HTTP/2 connections it lost before this one.
        is_allowed: The option `retry_stale_sockets`, which has no say in losses of HTTP/2 connections.
    """

    is_idempotent: bool
    is_replayable: bool
    wrote: bool = True
    was_resent: bool = False
    goaways: int = 0
    is_allowed: bool = True


def judge(loss: Loss, request: Facts) -> Verdict:
    """Decide whether to send a request again that lost its connection."""
    if not loss.is_http2:
        if not request.is_allowed:
            return Verdict.SWITCHED_OFF
        if request.was_resent:
            return Verdict.ALREADY_RESENT
        must_be_idempotent = request.wrote
    else:
        must_be_idempotent = loss is not Loss.UNPROCESSED
    if must_be_idempotent and not request.is_idempotent:
        return Verdict.NOT_IDEMPOTENT
    if request.wrote and not request.is_replayable:
        return Verdict.BODY_IS_GONE
    if loss.is_http2 and request.goaways >= MAX_GOAWAYS:
        return Verdict.TOO_MANY_LOSSES
    return Verdict.RESEND


def is_idempotent(method: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether sending a request twice has the effect of sending it once, by its method or its headers."""
    return method in IDEMPOTENT_METHODS or any(name.lower() in IDEMPOTENCY_KEYS for name, _ in headers)
