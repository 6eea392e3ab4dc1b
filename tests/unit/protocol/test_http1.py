"""Requests as bytes: heads, bodies and chunks, and what is rejected."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import httpcore
import pytest

from httpx_agent import AgentTransport
from httpx_agent._protocol import http1 as _http1
from httpx_agent._protocol.http1 import Outgoing
from httpx_agent._values import options as _options
from tests.unit.protocol.drivers import (
    URL,
)


def outgoing(*headers: tuple[str, str], method: str = "GET", target: str = "/") -> Outgoing:
    request = httpcore.Request(method, URL, headers=list(headers), extensions={"target": target.encode()})
    return Outgoing(httpcore, request)


def test_a_head() -> None:
    """Host comes first, as h11 has it; the rest keeps order, case and repetition."""
    head = outgoing(("X-b", "1"), ("hOst", "a"), ("x-B", ""), ("X-b", "2"), method="PUT", target="*").head

    assert head == b"PUT * HTTP/1.1\r\nhOst: a\r\nX-b: 1\r\nx-B: \r\nX-b: 2\r\n\r\n"


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ([], "Missing mandatory Host: header"),
        ([("Host", "a"), ("host", "a")], "Found multiple Host: headers"),
        ([("Host", "a"), ("X Y", "a")], "Illegal header name b'X Y'"),
        ([("Host", "a"), ("X", "a\r\nY: b")], "Illegal header value of X"),
        ([("Host", "a"), ("X", " a")], "Illegal header value of X"),
        ([("Host", "a"), ("Content-Length", "x")], "bad Content-Length"),
        ([("Host", "a"), ("Content-Length", "1, 2")], "conflicting Content-Length headers"),
        ([("Host", "a"), ("Content-Length", "1"), ("Content-Length", "2")], "conflicting Content-Length headers"),
        ([("Host", "a"), ("Transfer-Encoding", "gzip")], "Only Transfer-Encoding: chunked is supported"),
        ([("Host", "a"), *[("Transfer-Encoding", "chunked")] * 2], "multiple Transfer-Encoding headers"),
    ],
)
def test_headers_that_are_refused(headers: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(httpcore.LocalProtocolError, match=f"^{message}$"):
        outgoing(*headers)


def test_request_lines_that_are_refused() -> None:
    with pytest.raises(httpcore.LocalProtocolError, match="Illegal method characters"):
        outgoing(("Host", "a"), method="GE T")
    with pytest.raises(httpcore.LocalProtocolError, match="Illegal target characters"):
        outgoing(("Host", "a"), target="/a b")


def test_a_length_said_twice_is_sent_once() -> None:
    found = outgoing(("Host", "a"), ("Content-Length", "2, 2"), ("content-length", "2"))

    assert found.head.lower().count(b"content-length: 2\r\n") == 1
    assert found.whole(b"ok").endswith(b"\r\n\r\nok")


def test_bodies_must_fit() -> None:
    length = ("Content-Length", "2")
    with pytest.raises(httpcore.LocalProtocolError, match="Too much data"):
        outgoing(("Host", "a"), length).whole(b"oka")
    with pytest.raises(httpcore.LocalProtocolError, match="Too little data"):
        outgoing(("Host", "a"), length).whole(b"o")
    with pytest.raises(httpcore.LocalProtocolError, match="Too much data"):
        outgoing(("Host", "a")).whole(b"o")


def test_chunks() -> None:
    found = outgoing(("Host", "a"), ("Transfer-Encoding", "Chunked"))

    assert b"Transfer-Encoding: chunked\r\n" in found.head
    assert b"".join(found.parts(b"x" * 26)) == b"1a\r\n" + b"x" * 26 + b"\r\n"
    assert tuple(found.parts(b"")) == ()
    assert found.end() == b"0\r\n\r\n"


def test_names_of_headers_are_remembered_but_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http1, "_names", {})
    monkeypatch.setattr(_http1, "_MAX_NAMES", 3)
    for number in range(10):
        outgoing(("Host", "a"), (f"X-{number}", "a"))
        assert len(_http1._names) <= 3


def test_the_engine_by_name_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_options, "is_installed", lambda: False)
    with pytest.raises(ImportError, match=r"needs the package 'httptools': pip install .httpx-agent\[fast\]."):
        AgentTransport(http1_engine="httptools")


def test_httptools_that_is_not_there_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _http1._find_httptools() is not None
    old = SimpleNamespace(HttpResponseParser=object)
    for found in (None, old):
        monkeypatch.setitem(sys.modules, "httptools", found)
        assert _http1._find_httptools() is None
