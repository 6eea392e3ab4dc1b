"""Read the frames of an HTTP/2 connection: how many streams the server allows, and that it is about to close.

Hold back a server's GOAWAY until every stream that it promised to answer has ended (RFC 9113, 6.8). A server that
ends a connection names the last stream that it will answer. httpcore abandons every stream as soon as it reads that,
finished or not. So it gets the frame only when the last promised stream has ended. The server has not processed the
remaining streams, and httpcore reports that.

Also read from the server's SETTINGS how many streams it allows, and count the bytes of heads before a response begins,
on which h2 has no limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_HEADER = 9  # bytes before each frame's payload: length, type, flags, stream
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _GOAWAY, _CONTINUATION = 0, 1, 3, 4, 7, 9
_END_STREAM = 1
_NO_ERROR = 0

#: RFC 9113, 6.5.2: SETTINGS_MAX_CONCURRENT_STREAMS.
_MAX_CONCURRENT_STREAMS = 3

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Frames:
    """The outgoing and incoming frames of an httpcore connection that uses HTTP/2. No I/O.

    Args:
        hold: Holds back a GOAWAY; ``None`` if the first frames have already passed.
        tell_streams: Called with the number of streams that the server accepts, ``None`` if not announced; used for a
            connection that several requests share.
    """

    def __init__(self, hold: GoawayHold | None, tell_streams: Callable[[int | None], None] | None) -> None:
        self.are_shared = tell_streams is not None
        self._hold = hold
        self._tell_streams = tell_streams
        self._first = bytearray()  # the beginning of the server's first frame, while its settings are awaited

    @property
    def are_ending(self) -> bool:
        """Whether the server accepts no new streams."""
        return self._hold is not None and self._hold.is_leaving

    @property
    def longest_heads(self) -> int:
        """The highest number of bytes in heads that any stream got before its body began."""
        return 0 if self._hold is None else self._hold.longest_heads

    def sent(self, data: bytes) -> None:
        """Note data that httpcore has written."""
        if self._hold is not None:
            self._hold.sent(data)

    def received(self, data: bytes) -> bytes | None:
        """Take incoming data (empty at the end); return the part for httpcore, ``None`` if nothing yet."""
        if data and self._tell_streams is not None:
            self._first += data
            self._read_settings(self._first, self._tell_streams)
        if self._hold is None:
            return data
        passing = self._hold.received(data)
        return passing if passing or not data else self.due()

    def due(self) -> bytes | None:
        """Return data that httpcore must get before it reads more, if any."""
        return (self._hold and self._hold.due()) or None

    def _read_settings(self, first: bytearray, tell_streams: Callable[[int | None], None]) -> None:
        """Read the first frame of a server, which is its SETTINGS (RFC 9113, 3.4)."""
        length = int.from_bytes(first[:3], "big")
        if len(first) < _HEADER + length:
            return
        self._tell_streams = None
        self._first = bytearray()
        entries = [first[at : at + 6] for at in range(_HEADER, _HEADER + length, 6)] if first[3] == _SETTINGS else []
        values = {int.from_bytes(entry[:2], "big"): int.from_bytes(entry[2:], "big") for entry in entries}
        tell_streams(values.get(_MAX_CONCURRENT_STREAMS))


class GoawayHold:
    """A filter between one connection and its bytes. No I/O."""

    def __init__(self) -> None:
        #: Whether the server accepts no new streams.
        self.is_leaving = False
        #: The highest number of bytes in heads that any stream got before its body began; many mean interim responses.
        self.longest_heads = 0
        self._incoming = bytearray()
        self._open: set[int] = set()
        self._heads: dict[int, int] = {}  # bytes of heads, by stream, until its body begins or it ends
        self._last = 0  # the last stream that the server answers
        self._held = b""

    def sent(self, data: bytes) -> None:
        """Note data that the client has written: whole frames, as h2 returns them."""
        at = len(_PREFACE) if data.startswith(_PREFACE) else 0
        while at < len(data):
            length, kind, _, stream = _read_header(data, at)
            if kind == _HEADERS:
                self._open.add(stream)
            elif kind == _RST_STREAM:
                self._open.discard(stream)
                self._heads.pop(stream, None)
            at += _HEADER + length

    def received(self, data: bytes) -> bytes:
        """Return the incoming bytes that the client may have now; an empty result may mean that more are needed.

        At the end of the connection (no bytes), return the bytes held back.
        """
        if not data:
            return self._let_go()
        incoming = self._incoming
        incoming += data
        passing = bytearray()
        at = 0
        while at + _HEADER <= len(incoming):
            length, kind, flags, stream = _read_header(incoming, at)
            end = at + _HEADER + length
            if end > len(incoming):
                break
            frame = incoming[at:end]
            if kind == _GOAWAY and int.from_bytes(frame[13:17], "big") == _NO_ERROR:
                self.is_leaving = True
                self._last = _read_stream(frame[9:13])
                self._held = bytes(frame)
            else:
                passing += frame
            if kind == _RST_STREAM or (kind in (_DATA, _HEADERS) and flags & _END_STREAM):
                self._open.discard(stream)
            if kind in (_HEADERS, _CONTINUATION) and stream in self._open:
                heads = self._heads[stream] = self._heads.get(stream, 0) + _HEADER + length
                self.longest_heads = max(self.longest_heads, heads)
            elif kind != _GOAWAY:
                self._heads.pop(stream, None)
            at = end
        del incoming[:at]
        return bytes(passing)

    def due(self) -> bytes:
        """Return the GOAWAY, once, if every open stream is one that the server will not answer."""
        if self._held and self._open and min(self._open) > self._last:
            return self._let_go()
        return b""

    def _let_go(self) -> bytes:
        held, self._held = self._held, b""
        return held


def _read_header(data: bytes | bytearray, at: int) -> tuple[int, int, int, int]:
    """Return a frame's payload length, type, flags and stream."""
    header = data[at : at + _HEADER]
    return int.from_bytes(header[:3], "big"), header[3], header[4], _read_stream(header[5:])


def _read_stream(data: bytes | bytearray) -> int:
    return int.from_bytes(data, "big") & 0x7FFF_FFFF
