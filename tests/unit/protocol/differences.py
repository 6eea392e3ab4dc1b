"""All differences between the engines that are accepted, each with its reason. The page on engines shows this list.

Everything else that differs is a defect: `tests.unit.protocol.fuzz` and `test_differential` look for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.unit.protocol.drivers import Case, Outcome


@dataclass(frozen=True)
class Difference:
    """One of them.

    Attributes:
        name: What differs.
        reason: Why that is right.
        explains: Whether it is the reason why, for a case, h11's outcome and ours are not the same.
    """

    name: str
    reason: str
    explains: Callable[[Case, Outcome, Outcome], bool]


def _refused_by_llhttp(*messages: str) -> Callable[[Case, Outcome, Outcome], bool]:
    """Ours is an error of llhttp's in a chunked body; up to there, both are the same."""

    def explains(case: Case, theirs: Outcome, ours: Outcome) -> bool:
        return (
            ours.error == "RemoteProtocolError"
            and ours.message.startswith("illegal chunked body: ")
            and any(message in ours.message for message in messages)
            and ours.head == theirs.head
            and theirs.body.startswith(ours.body)
        )

    return explains


def _refused_by_h11(*messages: str) -> Callable[[Case, Outcome, Outcome], bool]:
    """h11 gives an error in a chunked body, and ours goes on."""

    def explains(case: Case, theirs: Outcome, ours: Outcome) -> bool:
        return (
            theirs.error == "RemoteProtocolError"
            and any(message in theirs.message for message in messages)
            and ours.head == theirs.head
            and ours.body.startswith(theirs.body)
        )

    return explains


def _is_spent(case: Case, theirs: Outcome, ours: Outcome) -> bool:
    """Both are the same but for reuse, after a body that ended with the connection, or with two framings."""
    same = (theirs.head, theirs.body, theirs.error, theirs.switched) == (
        ours.head,
        ours.body,
        ours.error,
        ours.switched,
    )
    if not same or not theirs.reusable or ours.reusable:
        return False
    names = [name.lower() for name, _ in theirs.head[3]]
    return b"content-length" not in names or b"transfer-encoding" in names


DIFFERENCES = [
    Difference(
        "A connection does not serve again if its server ended the body by closing, or sent both "
        "Content-Length and Transfer-Encoding.",
        "The first is closed; h11 does not check. The second may be an attempt at request smuggling (RFC 9112, 6.3).",
        _is_spent,
    ),
    Difference(
        "A chunk extension that is invalid by RFC 9112, 7.1.1, such as a lone semicolon or one that "
        "contains a CR, is an error.",
        "llhttp parses extensions; h11 accepts anything after a semicolon, which makes smuggling possible.",
        _refused_by_llhttp("chunk extension", "Expected LF after chunk size"),
    ),
    Difference(
        "In a chunked body, a line must end with CR LF, and a trailer must be well formed by RFC 9110, 5.5.",
        "llhttp is strict here. h11 accepts a lone LF after a trailer, and control characters in it.",
        _refused_by_llhttp(
            "Missing expected CR after header value",
            "Missing expected LF after header value",
            "Invalid header field char",
            "Invalid header value char",
            "Invalid header token",
            "Unexpected whitespace after header value",
            "Expected LF after headers",
        ),
    ),
    Difference(
        "A Content-Length trailer is an error; a Transfer-Encoding trailer is dropped with the others.",
        "RFC 9110, 6.5.1 forbids both. h11 decides by their values; neither can change the body any more.",
        lambda *found: (
            _refused_by_llhttp("Content-Length")(*found)
            or _refused_by_h11("Transfer-Encoding", "Content-Length")(*found)
        ),
    ),
    Difference(
        "White space between a chunk's size and its extension is not an error, nor is a size of more than 20 digits.",
        'RFC 9112, 7.1.1 says that recipients must accept this "bad" white space; leading zeros change nothing.',
        _refused_by_h11("illegal chunk header"),
    ),
    Difference(
        "A chunk of 2**64 bytes or more is an error at once.",
        "It can never end. h11 accepts up to 20 hexadecimal digits.",
        _refused_by_llhttp("Chunk size overflow"),
    ),
    Difference(
        "A head of more than 100 KiB is always an error, and so are 100 KiB that contain no part of a body.",
        "h11 has the same limit, but checks only when it needs more data, so the outcome depends on how "
        "the bytes arrive.",
        lambda case, theirs, ours: ours.message == "Receive buffer too long" and len(case.data) > 100 * 1024,
    ),
]

#: Differences that are not in what is received, and are tested elsewhere.
OTHERS = {
    "A body that does not match its Content-Length is an `httpx.LocalProtocolError`.": (
        "httpcore lets h11's own exception through, which is not one of httpx's."
    ),
    "A small body that does not match its Content-Length sends nothing, not even the head.": (
        "It goes out together with the head, so it is checked first."
    ),
    "On asyncio, a response that arrived before a write failed is read.": "httpcore's stream loses it.",
    "Parts of a body may be larger than 64 KiB, and several chunks may come as one.": (
        "What arrived together is passed on together."
    ),
    "On asyncio, `start_tls` on a network stream that already uses TLS is a `NotImplementedError`.": (
        "TLS within TLS is needed only for proxies, whose connections are httpcore's."
    ),
}


def explain(case: Case, theirs: Outcome, ours: Outcome) -> Difference | None:
    """The accepted difference between two outcomes that are not the same; ``None`` if there is none."""
    return next((each for each in DIFFERENCES if each.explains(case, theirs, ours)), None)
