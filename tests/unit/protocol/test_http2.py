"""A GOAWAY is held back until every stream that it promises to answer has ended (RFC 9113, 6.8)."""

from __future__ import annotations

import struct

import pytest

from httpx_agent._protocol.http2 import GoawayHold

END_STREAM = 1

NO_ERROR, INTERNAL_ERROR = 0, 2


def frame(kind: str, stream: int = 0, payload: bytes = b"", flags: int = 0) -> bytes:
    number = ["DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH_PROMISE", "PING", "GOAWAY"].index(kind)
    return len(payload).to_bytes(3, "big") + bytes([number, flags]) + stream.to_bytes(4, "big") + payload


def going_away(last: int, code: int = NO_ERROR) -> bytes:
    return frame("GOAWAY", payload=struct.pack(">II", last, code) + b"for a reason")


def with_open_streams(*streams: int) -> GoawayHold:
    hold = GoawayHold()
    hold.sent(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame("SETTINGS"))
    for stream in streams:
        hold.sent(frame("HEADERS", stream, b"headers") + frame("DATA", stream, b"body", END_STREAM))
    return hold


def test_all_else_passes_however_it_arrives() -> None:
    """Cut anywhere; a frame passes when it is whole."""
    frames = [frame("SETTINGS"), frame("HEADERS", 1, b"h"), frame("DATA", 1, b"x" * 30), frame("PING", 0, b"12345678")]
    stream = b"".join([*frames[:2], going_away(1), *frames[2:]])
    for cut in range(len(stream) + 1):
        hold = with_open_streams(1)
        assert hold.received(stream[:cut] or frame("SETTINGS")) is not None
        if cut:
            passed = with_open_streams(1)
            parts = [passed.received(part) for part in (stream[:cut], stream[cut:]) if part]
            assert b"".join(parts) == b"".join(frames)
            assert passed.is_leaving


def test_byte_by_byte() -> None:
    hold = with_open_streams(1)
    stream = frame("DATA", 1, b"x") + going_away(1) + frame("DATA", 1, b"y")
    assert b"".join(hold.received(bytes([byte])) for byte in stream) == frame("DATA", 1, b"x") + frame("DATA", 1, b"y")


def test_an_error_is_not_kept_back() -> None:
    hold = with_open_streams(1)
    assert hold.received(going_away(0, INTERNAL_ERROR)) == going_away(0, INTERNAL_ERROR)
    assert not hold.is_leaving


@pytest.mark.parametrize(
    "end",
    [
        frame("DATA", 1, b"the end", END_STREAM),
        frame("HEADERS", 1, b"no body", END_STREAM),
        frame("RST_STREAM", 1, bytes(4)),
    ],
    ids=["DATA", "HEADERS", "RST_STREAM"],
)
def test_it_is_due_when_those_that_count_are_over_and_others_wait(end: bytes) -> None:
    hold = with_open_streams(1, 3)
    assert hold.received(going_away(1)) == b""
    assert hold.due() == b""
    assert hold.received(frame("DATA", 1, b"more")) == frame("DATA", 1, b"more")
    assert hold.due() == b""
    assert hold.received(end) == end
    assert hold.due() == going_away(1)
    assert hold.due() == b""


def test_a_stream_that_the_client_ended_does_not_count() -> None:
    hold = with_open_streams(1, 3)
    hold.received(going_away(1))
    hold.sent(frame("RST_STREAM", 1, bytes(4)))
    assert hold.due() == going_away(1)


def test_it_is_not_due_if_nobody_waits() -> None:
    hold = with_open_streams(1)
    hold.received(going_away(1) + frame("DATA", 1, b"", END_STREAM))
    assert hold.due() == b""


def test_at_the_end_of_the_connection_it_comes_first() -> None:
    hold = with_open_streams(1)
    assert hold.received(going_away(1)) == b""
    assert hold.received(b"") == going_away(1)
    assert hold.received(b"") == b""


def test_the_last_word_counts() -> None:
    """A server first says that it is about to leave, and then up to where it went."""
    hold = with_open_streams(1, 3)
    hold.received(going_away(2**31 - 1) + frame("DATA", 1, b"", END_STREAM))
    assert hold.is_leaving
    assert hold.due() == b""
    hold.received(going_away(1))
    assert hold.due() == going_away(1)


def test_heads_are_counted_until_the_body_begins_or_the_stream_ends() -> None:
    hold = with_open_streams(1, 3, 5, 7)
    head = b"x" * 91
    for stream in (1, 3, 5, 7):
        hold.received(frame("HEADERS", stream, head))
    hold.received(frame("PING", 0, bytes(8)))
    hold.received(frame("DATA", 1, b"body"))
    hold.received(frame("HEADERS", 3, b"the last", END_STREAM))
    hold.sent(frame("RST_STREAM", 5, bytes(4)))
    for stream in (1, 3, 5):
        hold.received(frame("HEADERS", stream, head))
        assert hold.longest_heads == 100
    hold.received(frame("HEADERS", 7, head))
    assert hold.longest_heads == 200
