"""Random responses, both valid and invalid."""

from __future__ import annotations

from random import Random

from tests.unit.protocol.drivers import Case

VERSIONS = (
    [b"HTTP/1.1"] * 12 + [b"HTTP/1.0"] * 3 + [b"HTTP/0.9", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/11.1", b"ICY", b"http/1.1"]
)
STATUSES = [b"200"] * 12 + [
    b"204",
    b"304",
    b"404",
    b"500",
    b"100",
    b"101",
    b"103",
    b"099",
    b"000",
    b"999",
    b"20",
    b"2000",
    b"2x0",
]
REASONS = [b" OK"] * 8 + [
    b"",
    b" ",
    b" Not Found",
    b" \xe4\xff",
    b" a\tb",
    b"  OK",
    b" O\x00K",
    b" O\x01K",
    b"\tOK",
    b" O\rK",
]
LINE_ENDS = [b"\r\n"] * 30 + [b"\n"] * 3 + [b"\r", b"\r\r\n", b"\n\r", b" \r\n"]

HEADERS = [
    b"Content-Type: text/plain",
    b"X-Mixed-CASE: Value",
    b"x-empty:",
    b"X-Spaces:  \t a  b \t ",
    b"X-Latin: \xe9\x80\xff",
    b"Set-Cookie: a=b",
    b"Set-Cookie: c=d",
    b"Server: nobody",
    b"Connection: close",
    b"Connection: keep-alive",
    b"Connection: Close, x",
    b"Connection: Upgrade",
    b"Upgrade: other",
    b"Keep-Alive: timeout=5",
    b"Proxy-Connection: close",
    b"Proxy-Connection: keep-alive",
    b"Trailer: X",
]
ODD_HEADERS = [
    b"X-Control: a\x01b",
    b"X-Nul: a\x00b",
    b"X-Delete: a\x7fb",
    b"X-Return: a\rb",
    b"X-Form: a\x0cb",
    b"X Space: a",
    b"X-Before : a",
    b" X-Leading: a",
    b"\tfolded",
    b" folded again",
    b":no name",
    b"no colon",
    b"",
    b"X-\xe9: a",
    b'X"Quote: a',
    b"(X): a",
    b"Content-Length",
    b"Connection : close",
]
LENGTHS = [
    b"+%d",
    b"-%d",
    b"0x%x",
    b"%d, %d",
    b"%d,%d,%d",
    b"%d %d",
    b"0%d",
    b"%d.0",
    b"%da",
    b"",
    b"%d,",
    b",%d",
    b"0000000000000000000000%d",
]
CODINGS = [
    b"Chunked",
    b"CHUNKED",
    b"chunked\t",
    b" \t chunked \t ",
    b"gzip",
    b"gzip, chunked",
    b"chunked, chunked",
    b"identity",
    b"",
    b"chunked,",
    b"xchunked",
    b"chunked;q=1",
]
BODIES = [b"", b"a", b"hello", b"\r\n", b"line\n", b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 100, b"0\r\n\r\n", b"\n\n\n"]
SIZES = [b"%x"] * 20 + [
    b"%X",
    b"0%x",
    b"%x ",
    b"%x  ",
    b" %x",
    b"%x;a=b",
    b"%x;a",
    b"%x ;a",
    b"%x; a=b",
    b'%x;a="b"',
    b"%x;",
    b"%x;\x01",
    b"+%x",
    b"0x%x",
    b"%xg",
    b"",
    b"-%x",
]
TRAILERS = [b"X: y\r\n"] * 3 + [
    b"X:y\r\nZ: w\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: gzip\r\n",
    b"bad trailer\r\n",
    b"X: y\n",
    b" folded\r\n",
    b"X: \x01\r\n",
]
AFTER = [b""] * 20 + [
    b"\r\n",
    b"\n",
    b"x",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"\r\n\r\n",
    b" ",
    b"0\r\n\r\n",
]


def make_case(random: Random) -> Case:
    """One of very many; most are nearly right."""
    odd = random.random() < 0.4
    parts = []
    while random.random() < 0.1:
        parts.append(_head(random, odd, random.choice([b"100", b"102", b"103"]), []))
    body = random.choice(BODIES)
    framing, framed = _framing(random, odd, body)
    status = random.choice(STATUSES) if odd else random.choice(STATUSES[:17])
    parts.append(_head(random, odd, status, framing))
    parts.append(framed)
    parts.append(random.choice(AFTER))
    data = b"".join(parts)
    if random.random() < 0.2:
        data = data[: random.randrange(len(data) + 1)]
    if random.random() < 0.2:
        data = _mutate(random, data)
    method = random.choice(["GET"] * 8 + ["HEAD", "HEAD", "POST", "CONNECT"])
    return Case(data, cuts(random, data), method, random.random() < 0.15)


def cuts(random: Random, data: bytes) -> tuple[int, ...]:
    """Where to cut: nowhere, somewhere, everywhere."""
    kind = random.random()
    if kind < 0.3:
        return ()
    if kind < 0.4:
        return tuple(range(len(data)))
    return tuple(random.randrange(len(data) + 1) for _ in range(random.randrange(1, 6)))


def _head(random: Random, odd: bool, status: bytes, framing: list[bytes]) -> bytes:
    lines = [random.choice(HEADERS) for _ in range(random.randrange(5))] + framing
    if odd and random.random() < 0.4:
        lines.append(random.choice(ODD_HEADERS))
    random.shuffle(lines)
    version = random.choice(VERSIONS) if odd else random.choice(VERSIONS[:15])
    reason = random.choice(REASONS) if odd else random.choice(REASONS[:12])
    lines = [version + b" " + status + reason, *lines, b""]
    if not odd:
        return b"".join(line + b"\r\n" for line in lines)
    common = random.choice([b"\r\n", b"\r\n", b"\n"])
    return b"".join(line + (common if random.random() < 0.9 else random.choice(LINE_ENDS)) for line in lines)


def _framing(random: Random, odd: bool, body: bytes) -> tuple[list[bytes], bytes]:
    """Headers, and the body as they say."""
    kind = random.random()
    length = b"Content-Length: %d" % len(body)
    if kind < 0.35:
        headers = [length]
        if odd and random.random() < 0.4:
            form = random.choice(LENGTHS)
            headers = [b"Content-Length: " + form.replace(b"%d", b"%d" % len(body)).replace(b"%x", b"%x" % len(body))]
        if odd and random.random() < 0.2:
            headers.append(random.choice([length, b"content-length: %d" % len(body), b"Content-Length: 1"]))
        return headers, body
    if kind < 0.75:
        headers = [b"Transfer-Encoding: chunked"]
        if odd and random.random() < 0.3:
            headers = [b"Transfer-Encoding: " + random.choice(CODINGS)]
        if odd and random.random() < 0.15:
            headers.append(random.choice([length, b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip"]))
        return headers, _chunked(random, odd, body)
    return [], body


def _chunked(random: Random, odd: bool, body: bytes) -> bytes:
    sizes = SIZES if odd else SIZES[:22]
    found = b""
    at = 0
    while at < len(body):
        part = body[at : at + random.randrange(1, 20)]
        at += len(part)
        size = random.choice(sizes).replace(b"%x", b"%x" % len(part)).replace(b"%X", b"%X" % len(part))
        found += size + b"\r\n" + part + (b"\r\n" if not odd or random.random() < 0.95 else random.choice(LINE_ENDS))
    found += (
        b"0" if not odd or random.random() < 0.9 else random.choice([b"00", b"0 ", b"0;a", b"000000000000000000000"])
    ) + b"\r\n"
    if random.random() < 0.2:
        found += random.choice(TRAILERS if odd else TRAILERS[:4])
    return found + (b"\r\n" if not odd or random.random() < 0.95 else random.choice(LINE_ENDS))


def _mutate(random: Random, data: bytes) -> bytes:
    found = bytearray(data)
    for _ in range(random.randrange(1, 4)):
        at = random.randrange(len(found) + 1)
        kind = random.randrange(3)
        byte = random.choice(b"\r\n \t:;,\x00\x7f\x80\xff019afZ") if random.random() < 0.7 else random.randrange(256)
        if kind == 0:
            found.insert(at, byte)
        elif found and kind == 1:
            del found[at - 1 : at]
        elif found:
            found[at - 1] = byte
    return bytes(found)
