"""HTTP/1.1 without I/O: write requests and read responses.

httptools (llhttp) reads heads and chunked bodies. Where llhttp accepts more than h11, this module adds checks;
where it accepts less (line ends without CR, folded lines, repeated lengths), `_read_unusual` reads the head by h11's
grammar. So both engines accept the same heads. The remaining differences are in `tests/unit/protocol/differences.py`.

Bodies of a known length, and those that end with the connection, need no parser: they are passed on unchanged.
"""

from __future__ import annotations

import importlib
import re
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

#: The maximum size of a head in bytes: the limit that httpcore gives h11 for an event.
MAX_INCOMPLETE = 100 * 1024

#: The maximum number of bytes before a response has begun: its own head, and the interim responses before it (RFC 9110,
#: 15.2), of which a server may send any number. Go also limits both together.
MAX_BEFORE_RESPONSE = 512 * 1024

#: The maximum number of bytes to send at once, so that a server that does not read costs no memory.
PIECE = 64 * 1024

#: The maximum number of digits of a Content-Length, as in h11.
_MAX_DIGITS = 20

_TOKEN = rb"[-!#$%&'*+.^_`|~0-9a-zA-Z]+"
_VALUE = rb"(?:[^\x00\s]+(?:[ \t]+[^\x00\s]+)*)?"

_is_token = re.compile(_TOKEN).fullmatch
_is_value = re.compile(_VALUE).fullmatch
_is_target = re.compile(rb"[\x21-\x7e]+").fullmatch
_is_number = re.compile(rb"[0-9]+").fullmatch
_is_hint = re.compile(rb"timeout=(\d+)").match  # Node reads the header only if it begins like this
_is_reason = re.compile(rb"(?:[ \t]|[^\x00\s])*").fullmatch

#: The end of a head as h11 sees it: an empty line, with or without CR.
find_end_of_head = re.compile(rb"\n\r?\n").search

#: The start of a status line that llhttp can be trusted to read.
_is_usual = re.compile(rb"HTTP/1\.[01] [1-9][0-9][0-9][ \r]").match

_STATUS_LINE = re.compile(rb"HTTP/([0-9]\.[0-9]) ([0-9]{3})(?: ((?:[ \t]|[^\x00\s])*))?")
_HEADER_LINE = re.compile(rb"(" + _TOKEN + rb"):[ \t]*(" + _VALUE + rb")[ \t]*")

#: Lower-case names of headers that are known to be well formed. A program uses only a few.
_names: dict[bytes, bytes] = {}
_MAX_NAMES = 1000

#: Headers of a request that say more than the server should know.
_SPECIAL = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade"})

#: The lengths of the names of headers that affect framing and reuse: connection, content-length,
#: proxy-connection, transfer-encoding.
_FRAMING_LENGTHS = frozenset({10, 14, 16, 17})

_CHUNKED = b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n"


def _find_httptools() -> Any:
    """Import httptools; return ``None`` if it is missing, or too old to be configured."""
    try:
        found: Any = importlib.import_module("httptools")
    except ImportError:
        return None
    return found if hasattr(found.HttpResponseParser, "set_dangerous_leniencies") else None


_httptools = _find_httptools()


def is_installed() -> bool:
    """Return whether a usable httptools is installed."""
    return _httptools is not None


#: Marks the end among the pieces of a chunked body; a piece is never empty.
_END = b""

#: Callbacks that receive nothing from llhttp: once it accepts a head, we read that ourselves.
_UNHEARD = object()


class _Chunks:
    """The callbacks of llhttp for a chunked body: only functions written in C, which nothing can interrupt.

    An exception in a callback, such as one from a signal handler, does not always leave httptools.

    Args:
        pieces: Receives the parts of the body, and its end.
    """

    __slots__ = ("on_body", "on_message_complete")

    def __init__(self, pieces: list[bytes]) -> None:
        self.on_body = pieces.append
        self.on_message_complete = partial(pieces.append, _END)


class Fields:
    """The headers of a request as sent, and their meaning for the connection; makes the same checks as h11.

    Args:
        error: The exception class to raise.
        headers: The headers.

    Raises:
        LocalProtocolError: If they cannot be sent as HTTP/1.1.

    Attributes:
        headers: The headers as given.
        lines: The headers as sent.
        length: The body's length; ``None`` if it is unknown, or the body is chunked.
        is_chunked: Whether the body is chunked.
        closes: Whether the connection must be closed after the response.
        proposes_upgrade: Whether there is an `Upgrade` header.
    """

    __slots__ = ("_error", "closes", "headers", "is_chunked", "length", "lines", "proposes_upgrade")

    def __init__(self, error: type[Exception], headers: list[tuple[bytes, bytes]]) -> None:
        self._error = error
        self.headers = headers.copy()
        self.length: int | None = None
        self.is_chunked = False
        self.closes = False
        self.proposes_upgrade = False
        self.lines = self._encode()

    def _encode(self) -> bytes:
        lines: list[bytes] = []
        host = length = None
        for name, value in self.headers:
            lower = _names.get(name) or self._check_name(name)
            if _is_value(value) is None:
                raise self._error(f"Illegal header value of {name.decode('latin-1')}")  # the value may be a secret
            if lower not in _SPECIAL:
                lines.append(b"%b: %b\r\n" % (name, value))
                continue
            if lower == b"host":
                if host is not None:
                    raise self._error("Found multiple Host: headers")
                host = b"%b: %b\r\n" % (name, value)
                continue
            if lower == b"content-length":
                value = _read_length(value, length, self._error)
                if length is not None:
                    continue
                length = value
            elif lower == b"transfer-encoding":
                value = _read_coding(value, self.is_chunked, self._error)
                self.is_chunked = True
            elif lower == b"connection":
                self.closes = self.closes or b"close" in _members(value)
            else:
                self.proposes_upgrade = self.proposes_upgrade or bool(_members(value))
            lines.append(b"%b: %b\r\n" % (name, value))
        if host is None:
            raise self._error("Missing mandatory Host: header")
        if length is not None and not self.is_chunked:
            self.length = int(length)
        return host + b"".join(lines)

    def _check_name(self, name: bytes) -> bytes:
        if _is_token(name) is None:
            raise self._error(f"Illegal header name {name!r}")
        if len(_names) >= _MAX_NAMES:
            _names.clear()
        lower = _names[name] = name.lower()
        return lower


class RecentFields:
    """The header fields of the last request sent; the next request's are often the same."""

    __slots__ = ("fields",)

    def __init__(self) -> None:
        self.fields: Fields | None = None


class Outgoing:
    """An outgoing request: its head, and the framing of its body.

    Args:
        httpcore: The library whose `LocalProtocolError` to raise.
        request: httpcore's request.
        known: Header fields of earlier requests, reused if they are the same.

    Raises:
        LocalProtocolError: If the request cannot be sent as HTTP/1.1.
    """

    __slots__ = ("_error", "_left", "fields", "head")

    def __init__(self, httpcore: Any, request: Any, *known: Fields | None) -> None:
        self._error = error = httpcore.LocalProtocolError
        for fields in known:
            if fields is not None and fields.headers == request.headers:
                break
        else:
            fields = Fields(error, request.headers)
        method, target = request.method, request.url.target
        if _is_token(method) is None:
            raise error("Illegal method characters")
        if _is_target(target) is None:
            raise error("Illegal target characters")
        self.fields = fields
        self._left = fields.length or 0
        self.head = b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, fields.lines)

    def whole(self, body: bytes) -> bytes:
        """Return head and body together."""
        if not body and not self._left and not self.fields.is_chunked:
            return self.head
        return b"".join((self.head, *self.parts(body), self.end()))

    def parts(self, data: bytes) -> Iterable[bytes]:
        """Return a part of the body as sent."""
        if self.fields.is_chunked:
            if len(data) <= PIECE:
                return (b"%x\r\n%b\r\n" % (len(data), data),) if data else ()
            return (b"%x\r\n" % len(data), data, b"\r\n")
        self._left -= len(data)
        if self._left < 0:
            raise self._error("Too much data for declared Content-Length")
        return (data,) if data else ()

    def end(self) -> bytes:
        """Return the bytes that follow the body."""
        if self.fields.is_chunked:
            return b"0\r\n\r\n"
        if self._left:
            raise self._error("Too little data for declared Content-Length")
        return b""


class Incoming:
    """An incoming response.

    Args:
        httpcore: The library whose `RemoteProtocolError` to raise.
        method: The request's method.
        proposes_upgrade: Whether the request has an `Upgrade` header.

    Attributes:
        has_head: Whether the head is complete, of the final response or of 101.
        version: The HTTP version, such as ``b"1.1"``.
        status: The status code.
        reason: The reason phrase.
        headers: The headers as received: with order, case and repetitions.
        pieces: The parts of the body that have arrived and not been taken.
        is_complete: Whether the response has ended.
        stays_open: Whether the connection stays open after the response, as far as this end knows.
        switches: Whether another protocol follows.
        failure: The error to raise once everything before it has been taken.
        rest: The first bytes of another protocol, if they arrived with the end of the response.
    """

    __slots__ = (
        "_buffer",
        "_error",
        "_expected",
        "_feed",
        "_interim",
        "_left",
        "_method",
        "_parser",
        "_proposes_upgrade",
        "_searched",
        "_unproductive",
        "failure",
        "has_head",
        "headers",
        "is_complete",
        "pieces",
        "reason",
        "rest",
        "status",
        "stays_open",
        "switches",
        "version",
    )

    def __init__(self, httpcore: Any, method: bytes, proposes_upgrade: bool) -> None:
        self._error = httpcore.RemoteProtocolError
        self._method = method
        self._proposes_upgrade = proposes_upgrade
        self._parser: Any = None
        self._feed = Incoming._feed_head  # not bound, which would create a reference cycle for each response
        self._buffer: bytes | bytearray = b""
        self._searched = 0
        self._interim = 0
        self.failure: Exception | None = None
        self.has_head = False
        self.is_complete = False
        self.switches = False
        self.stays_open = True
        self.version = b"1.1"
        self.status = 0
        self.reason = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.pieces: list[bytes] = []
        self.rest = b""

    @property
    def ends_upload(self) -> bool:
        """Whether the rest of a request is useless (RFC 9112, 9.5): its response has arrived, or never will."""
        return self.has_head or self.failure is not None

    def head(self) -> tuple[bytes, int, bytes, list[tuple[bytes, bytes]]]:
        """Return HTTP version, status, reason and headers, as httpcore's trace events show them."""
        return b"HTTP/" + self.version, self.status, self.reason, self.headers

    def feed(self, data: bytes) -> None:
        """Take incoming bytes. If they are invalid, set `failure`."""
        if self.failure is None:
            try:
                self._feed(self, data)
            except self._error as error:
                self.failure = error

    def feed_end(self) -> None:
        """Note the end of the connection; set `failure` if the response had not ended."""
        if self.is_complete or self.failure is not None:
            return
        if not self.has_head:
            self.failure = self._error("Server disconnected without sending a response.")
            return
        if self._feed is Incoming._feed_rest_of_connection:
            self.is_complete = True
            return
        what = "incomplete chunked read"
        if self._feed is Incoming._feed_length:
            what = f"received {self._expected - self._left} bytes, expected {self._expected}"
        self.failure = self._error(f"peer closed connection without sending complete message body ({what})")

    # Heads ------------------------------------------------------------------------------------------------------------

    def _feed_head(self, data: bytes) -> None:
        while data:
            if self._buffer:
                self._buffer += data  # a bytearray
                data = self._buffer  # type: ignore[assignment]
            if data[0] < 0x21:  # as in h11: no line begins like this; an empty one does, and is not a status line
                raise self._error("illegal status line")
            end = find_end_of_head(data, self._searched)
            if end is None:
                if len(data) > MAX_INCOMPLETE:
                    raise self._error("Receive buffer too long")
                if not self._buffer:
                    self._buffer = bytearray(data)
                self._searched = max(0, len(data) - 2)
                return
            at = end.end()
            if at > MAX_INCOMPLETE:
                raise self._error("Receive buffer too long")
            head, rest = bytes(data[:at]), bytes(data[at:])
            self._buffer = b""
            self._searched = 0
            self._read_head(head)
            framing = self._read_framing()
            if self.status >= 200 or self.status == 101:
                self._begin_body(framing)
                if rest:
                    self._feed(self, rest)
                return
            self.headers = []
            self.reason = b""
            self._interim += at
            if self._interim > MAX_BEFORE_RESPONSE:
                raise self._error(f"the server sent more than {MAX_BEFORE_RESPONSE} bytes before its response")
            data = rest

    def _read_head(self, head: bytes) -> None:
        if _is_usual(head) is not None:
            try:
                _httptools.HttpResponseParser(_UNHEARD).feed_data(head)
            except _httptools.HttpParserUpgrade:  # llhttp need not read the rest
                pass
            except _httptools.HttpParserError:
                self._read_unusual(head)
                return
            # A head that llhttp accepts has no folded lines, no other line ends, and a name and a colon in each line.
            first, *lines = head[:-4].split(b"\r\n")
            self.reason = first[13:]
            self.headers = [(name, value.strip(b" \t")) for name, _, value in [line.partition(b":") for line in lines]]
            if _is_reason(self.reason) is None:
                raise self._error(f"illegal status line: {head.splitlines()[0]!r}")
            self.status = int(head[9:12])
            self.version = head[5:8]
        else:
            self._read_unusual(head)

    def _read_unusual(self, head: bytes) -> None:
        """Read a head by h11's grammar."""
        lines = [line.removesuffix(b"\r") for line in head.split(b"\n")[:-2]]
        first = _STATUS_LINE.fullmatch(lines[0])
        if first is None:
            raise self._error(f"illegal status line: {lines[0]!r}")
        self.version, status, reason = first.groups()
        self.status, self.reason = int(status), reason or b""
        if self.status < 100:
            raise self._error(f"status code should be in range [100, 1000), not {self.status}")
        unfolded: list[bytes] = []
        for line in lines[1:]:
            if line[:1] in (b" ", b"\t"):
                if not unfolded:
                    raise self._error("continuation line at start of headers")
                unfolded[-1] += b" " + line.lstrip(b" \t")
            else:
                unfolded.append(line)
        self.headers = []
        for line in unfolded:
            found = _HEADER_LINE.fullmatch(line)
            if found is None:
                raise self._error(f"illegal header line: {line!r}")
            self.headers.append((found[1], found[2]))

    # Framing ----------------------------------------------------------------------------------------------------------

    def _read_framing(self) -> int | None:
        """Return the body's length; -1 if it is chunked, ``None`` if it ends with the connection."""
        headers = self.headers
        length = None
        chunked = False
        keeps_open = False
        repeated: list[int] = []
        for at, (name, value) in enumerate(headers):
            if len(name) not in _FRAMING_LENGTHS:
                continue
            lower = name.lower()
            if lower == b"content-length":
                value = _read_length(value, length, self._error)
                if length is not None:
                    repeated.append(at)
                length = value
                headers[at] = (name, value)
            elif lower == b"transfer-encoding":
                headers[at] = (name, _read_coding(value, chunked, self._error))
                chunked = True
            elif lower == b"connection":
                if b"close" in (members := _members(value)):
                    self.stays_open = self.stays_open and self.status < 200
                keeps_open = keeps_open or b"keep-alive" in members
            elif lower == b"proxy-connection":
                keeps_open = keeps_open or b"keep-alive" in _members(value)
        for at in reversed(repeated):
            del headers[at]
        if self.version < b"1.1" and self.status >= 200 and (self.version < b"1.0" or chunked or not keeps_open):
            self.stays_open = False
        if chunked:
            if length is not None:  # RFC 9112, 6.3: it may be an attempt at request smuggling
                self.stays_open = False
            return -1
        return None if length is None else int(length)

    def _begin_body(self, framing: int | None) -> None:
        status, method = self.status, self._method
        if status == 101 or (method == b"CONNECT" and 200 <= status < 300):
            if status == 101 and not self._proposes_upgrade:
                raise self._error("the server switched to another protocol unasked")
            self.switches = True
            self.stays_open = False
            framing = 0
        elif method == b"HEAD" or status in (204, 304):
            framing = 0
        self.has_head = True
        if framing == -1:
            self._feed = Incoming._feed_chunked
            self._unproductive = 0
            # Not the parser that read the head: it may have understood the framing differently.
            self._parser = _httptools.HttpResponseParser(_Chunks(self.pieces))
            self._parser.feed_data(_CHUNKED)
            self._parser.set_dangerous_leniencies(lenient_spaces_after_chunk_size=True)  # as in h11; it is harmless
            return
        if framing is None:
            self.stays_open = False
            self._feed = Incoming._feed_rest_of_connection
        elif framing:
            self._expected = self._left = framing
            self._feed = Incoming._feed_length
        else:
            self._end()

    def _feed_length(self, data: bytes) -> None:
        left = self._left
        if len(data) < left:
            self._left = left - len(data)
            self.pieces.append(data)
        elif len(data) == left:
            self.pieces.append(data)
            self._end()
        else:
            self.pieces.append(data[:left])
            self._end()
            self._feed_after_end(data[left:])

    def _feed_rest_of_connection(self, data: bytes) -> None:
        self.pieces.append(data)

    def _feed_chunked(self, data: bytes) -> None:
        # llhttp does not report where a message ended, and ignores line ends after it. But its last byte is LF.
        before = len(self.pieces)
        parser = self._parser
        try:
            if data[-1] == 10 and len(data) > 1:
                parser.feed_data(memoryview(data)[:-1])
                if not self._has_ended(before):
                    data = data[-1:]
                    parser.feed_data(data)
                    data = b""
            else:
                parser.feed_data(data)
                if data == b"\n":
                    data = b""
        except _httptools.HttpParserError as error:
            if not self._has_ended(before):
                raise self._error(f"illegal chunked body: {error}") from error
        self._has_ended(before)
        pieces = self.pieces
        if len(pieces) > before + 1:  # many small ones cost more than one copy
            pieces[before:] = [b"".join(pieces[before:])]
        if self.is_complete:
            self._end()
            if data:
                self.stays_open = False
        elif len(pieces) > before:
            self._unproductive = 0
        else:
            self._unproductive += len(data) or 1
            if self._unproductive > MAX_INCOMPLETE:
                raise self._error("Receive buffer too long")

    def _has_ended(self, before: int) -> bool:
        """Return whether a chunked body has ended; anything after it would be an unsolicited second response."""
        pieces = self.pieces
        if _END in pieces[before:]:
            del pieces[pieces.index(_END, before) :]
            self.is_complete = True
        return self.is_complete

    def _feed_after_end(self, data: bytes) -> None:
        self.stays_open = False
        if self.switches:
            self.rest += data

    def _end(self) -> None:
        self._parser = None
        self.is_complete = True
        self._feed = Incoming._feed_after_end


def _read_length(value: bytes, known: bytes | None, error: type[Exception]) -> bytes:
    """Read a Content-Length as h11 does: a single number, which may be repeated."""
    if not _is_number(value):
        numbers = {number.strip() for number in value.split(b",")}
        if len(numbers) != 1:
            raise error("conflicting Content-Length headers")
        value = numbers.pop()
    if not _is_number(value) or len(value) > _MAX_DIGITS:
        raise error("bad Content-Length")
    if known is not None and known != value:
        raise error("conflicting Content-Length headers")
    return value


def _read_coding(value: bytes, known: bool, error: type[Exception]) -> bytes:
    """Read a Transfer-Encoding: accept only `chunked`, once."""
    if known:
        raise error("multiple Transfer-Encoding headers")
    value = value.lower()
    if value != b"chunked":
        raise error("Only Transfer-Encoding: chunked is supported")
    return value


def stays_open(headers: list[tuple[bytes, bytes]]) -> bool:
    """Return whether an HTTP/1.0 response of known length leaves its connection open (R11).

    The same decision as in `Incoming`, for the engine that supports keep-alive for HTTP/1.1 only. A transfer coding in
    HTTP/1.0 is faulty framing (RFC 9112, 6.1), after which nothing is certain.
    """
    keeps_open = False
    for name, value in headers:
        lower = name.lower()
        if lower == b"transfer-encoding" or (lower == b"connection" and b"close" in _members(value)):
            return False
        if lower in (b"connection", b"proxy-connection"):
            keeps_open = keeps_open or b"keep-alive" in _members(value)
    return keeps_open


def says_close(headers: list[tuple[bytes, bytes]]) -> bool:
    """Return whether a message announces that its connection ends with it."""
    return any(name.lower() == b"connection" and b"close" in _members(value) for name, value in headers)


def read_keep_alive_hint(headers: list[tuple[bytes, bytes]]) -> float | None:
    """Return how many seconds a server keeps a free socket, from its `Keep-Alive` header; read as Node does (R15)."""
    values = [value for name, value in headers if len(name) == len(b"keep-alive") and name.lower() == b"keep-alive"]
    found = _is_hint(b", ".join(values)) if values else None
    return float(found[1]) if found else None


def _members(value: bytes) -> list[bytes]:
    """Return the members of a list in a header, in lower case."""
    return [member for part in value.lower().split(b",") if (member := part.strip())]
