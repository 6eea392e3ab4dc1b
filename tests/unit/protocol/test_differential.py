"""The same bytes, split in the same or in different places, give a caller the same result on both engines.

Here a fixed number of cases; `python -m tests.unit.protocol.fuzz --minutes N --seed S` looks at as many as one likes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.protocol.cases import cuts, make_case
from tests.unit.protocol.differences import DIFFERENCES, OTHERS, explain
from tests.unit.protocol.drivers import Case, Outcome, event_loop, through_h11, through_sync

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"

CORPUS = [
    Case(OK + b"Content-Length: 2\r\n\r\nok"),
    Case(OK + b"Content-Length: 2\r\n\r\no"),
    Case(OK + b"Content-Length: 2\r\n\r\nokay"),
    Case(OK + b"Content-Length: 2\r\n\r\nok\r\n"),
    Case(OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok"),
    Case(OK + b"Content-Length: 2, 2\r\n\r\nok"),
    Case(OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nokx"),
    Case(OK + b"Content-Length: 2, 3\r\n\r\nok"),
    Case(OK + b"Content-Length: 99999999999999999999\r\n\r\nok"),
    Case(OK + b"Content-Length: 999999999999999999999\r\n\r\nok"),
    Case(OK + b"Content-Length: -2\r\n\r\nok"),
    Case(OK + b"Content-Length:\r\n\r\nok"),
    Case(OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    Case(OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    Case(OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    Case(OK + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    Case(OK + b"Transfer-Encoding: chunked\t\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    Case(OK + b"Transfer-Encoding: chunked \t \r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    Case(OK + b"Transfer-Encoding: \t chunked\t\r\nUpgrade: other\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    Case(OK + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    Case(CHUNKED + b"2\r\nok\r\n0\r\n\r\n"),
    Case(CHUNKED + b"2\r\nok\r\n0\r\nX: y\r\nZ: w\r\n\r\n"),
    Case(CHUNKED + b"2\r\nok\r\n0\r\n\r\n\r\n"),
    Case(CHUNKED + b"2\r\nok\r\n0\r\n\r\nHTTP/1.1 500 Smuggled\r\nX: y\r\nContent-Length: 1\r\n\r\nx"),
    Case(CHUNKED + b"2\r\nok\r\n0\r\n\r\nx"),
    Case(CHUNKED + b"2\r\nok"),
    Case(CHUNKED + b"2\r\nok\r\n0\r\n"),
    Case(CHUNKED + b"2\r\nokx\r\n0\r\n\r\n"),
    Case(CHUNKED + b"2 \r\nok\r\n0\r\n\r\n"),
    Case(CHUNKED + b"2 ;a\r\nok\r\n0\r\n\r\n"),
    Case(CHUNKED + b"2;\r\nok\r\n0\r\n\r\n"),
    Case(CHUNKED + b"2;a\r\r\nok\r\n0\r\n\r\n"),
    Case(CHUNKED + b"2\nok\r\n0\r\n\r\n"),
    Case(CHUNKED + b"2\r\nok\r\n0\r\nX: y\n\r\n"),
    Case(CHUNKED + b"0\r\nTransfer-Encoding: gzip\r\n\r\n"),
    Case(CHUNKED + b"0\r\nContent-Length: 5\r\n\r\n"),
    Case(CHUNKED + b"g\r\n"),
    Case(CHUNKED + b"ffffffffffffffffff\r\nok"),
    Case(OK + b"A: b\r\n\r\nuntil the end"),
    Case(OK + b"Connection: close\r\nContent-Length: 0\r\n\r\n"),
    Case(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
    Case(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n"),
    Case(b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok"),
    Case(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nokay"),
    Case(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\no"),
    Case(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nto the end"),
    Case(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
    Case(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    Case(b"HTTP/1.0 200 OK\r\nProxy-Connection: keep-alive\r\nContent-Length: 2\r\n\r\nok"),
    Case(b"HTTP/1.0 204 OK\r\nConnection: keep-alive\r\n\r\n"),
    Case(b"HTTP/1.0 304 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n"),
    Case(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", method="HEAD"),
    Case(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", method="CONNECT"),
    Case(b"HTTP/0.9 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n"),
    Case(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"),
    Case(b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n"),
    Case(OK + b"Content-Length: 5\r\n\r\n", method="HEAD"),
    Case(OK + b"Transfer-Encoding: chunked\r\n\r\n", method="HEAD"),
    Case(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: a\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n"),
    Case(b"HTTP/1.1 100 Continue\r\nContent-Length: x\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n"),
    Case(b"HTTP/1.1 100 Continue\r\nConnection: close\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n"),
    Case(b"HTTP/1.1 101 Switching\r\nUpgrade: other\r\n\r\nhello", upgrade=True),
    Case(b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\nhello", upgrade=True),
    Case(b"HTTP/1.1 101 Switching\r\nUpgrade: other\r\n\r\nhello"),
    Case(OK + b"Content-Length: 0\r\n\r\n", upgrade=True),
    Case(OK + b"\r\nhello", method="CONNECT"),
    Case(OK + b"Content-Length: 3\r\n\r\nhello", method="CONNECT"),
    Case(b"HTTP/1.1 407 No\r\nContent-Length: 2\r\n\r\nok", method="CONNECT"),
    Case(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok"),
    Case(b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nReason: kept\n\n2\r\nok\r\n0\r\n\r\n"),
    Case(OK + b"X: a\r\n  b\r\n\tc\r\nContent-Length: 0\r\n\r\n"),
    Case(OK + b" X: a\r\n\r\n"),
    Case(OK + b"X: a\x01b\r\nContent-Length: 0\r\n\r\n"),
    Case(OK + b"X: a\x00b\r\n\r\n"),
    Case(OK + b"X: a\rb\r\n\r\n"),
    Case(OK + b"X Y: a\r\n\r\n"),
    Case(OK + b": a\r\n\r\n"),
    Case(OK + b"no colon\r\n\r\n"),
    Case(OK + b"x-MiXed: \t a b\t \r\nX-Empty:\r\nX-Mixed: 2\r\nContent-Length: 0\r\n\r\n"),
    Case(b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"),
    Case(b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n"),
    Case(b"HTTP/1.1 200 O\x00K\r\nContent-Length: 0\r\n\r\n"),
    Case(b"HTTP/1.1 200 O\x0bK\r\nContent-Length: 0\r\n\r\n"),
    Case(b"HTTP/1.1 200OK\r\n\r\n"),
    Case(b"HTTP/1.1  200 OK\r\n\r\n"),
    Case(b"HTTP/1.1 099 OK\r\n\r\n"),
    Case(b"HTTP/1.1 999 OK\r\nContent-Length: 0\r\n\r\n"),
    Case(b"HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n"),
    Case(b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
    Case(b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n"),
    Case(b"RTSP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
    Case(b"ICY 200 OK\r\n\r\n"),
    Case(b"\r\nHTTP/1.1 200 OK\r\n\r\n"),
    Case(b"\x16\x03\x01 TLS"),
    Case(b"HTTP/1.1 200 OK\r\nX: y"),
    Case(b"SSH-2.0-OpenSSH"),
    Case(b""),
    Case(OK + b"X: " + b"a" * 99_000 + b"\r\nContent-Length: 0\r\n\r\n"),
    Case(OK + b"X: " + b"a" * 200_000 + b"\r\nContent-Length: 0\r\n\r\n"),
    Case(OK + b"X: " + b"a" * 110_000 + b"\r\nContent-Length: 0\r\n\r\n"),
    Case(OK + b"X: y\r\n" * 50_000 + b"Content-Length: 0\r\n\r\n"),
    Case(CHUNKED + b"2;" + b"a" * 200_000 + b"\r\nok\r\n0\r\n\r\n"),
    Case(CHUNKED + b"2\r\nok\r\n0\r\nX: " + b"a" * 200_000 + b"\r\n\r\n"),
    Case(CHUNKED + b"2\r\nok\r\n0\r\n" + b"X: y\r\n" * 50_000 + b"\r\n"),
]


@pytest.fixture(scope="module")
def through_asyncio() -> Iterator[Callable[[Case], Outcome]]:
    """The engine for event loops, over one loop for all cases."""
    with event_loop() as run:
        yield run


def check(case: Case, others: list[tuple[int, ...]], through_asyncio: Callable[[Case], Outcome]) -> set[str]:
    """Compare; give the names of the accepted differences that were met."""
    theirs = through_h11(case)
    found = set()
    for cutting in [case.cuts, *others]:
        again = Case(case.data, cutting, case.method, case.upgrade)
        sync, loop = through_sync(again), through_asyncio(again)
        assert (sync.seen(), sync.message) == (loop.seen(), loop.message)
        if sync.seen() != theirs.seen():
            difference = explain(again, theirs, sync)
            assert difference is not None, (again, theirs, sync)
            found.add(difference.name)
    return found


@pytest.mark.slow
def test_the_corpus(through_asyncio: Callable[[Case], Outcome]) -> None:
    """Whole, in two at each place of interest, byte by byte; and each accepted difference is met."""
    met = set()
    for case in CORPUS:
        length = len(case.data)
        everywhere = [tuple(range(length))] if length < 1000 else []
        places = [(at,) for at in range(1, min(length, 150))]
        met |= check(case, everywhere + places, through_asyncio)
    assert met == {difference.name for difference in DIFFERENCES}


@pytest.mark.slow
@settings(derandomize=True, max_examples=2000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32))
def test_whatever_a_server_says(through_asyncio: Callable[[Case], Outcome], seed: int) -> None:
    chance = Random(seed)
    case = make_case(chance)

    check(case, [cuts(chance, case.data)], through_asyncio)


def test_the_page_on_engines_lists_them_all() -> None:
    page = (Path(__file__).parents[3] / "docs" / "engines.md").read_text()
    listed = [(difference.name, difference.reason) for difference in DIFFERENCES] + list(OTHERS.items())

    assert [f"| {name} | {reason} |" in page for name, reason in listed] == [True] * len(listed)


def test_noise(through_asyncio: Callable[[Case], Outcome]) -> None:
    """No grammar at all; an error, or the same."""
    chance = random.Random(0)
    for _ in range(200):
        check(Case(chance.randbytes(chance.randrange(60))), [], through_asyncio)
        check(Case(OK + chance.randbytes(chance.randrange(60))), [], through_asyncio)
        check(Case(CHUNKED + chance.randbytes(chance.randrange(60))), [], through_asyncio)
