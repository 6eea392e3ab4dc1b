"""Parts of TLS in isolation: names, and data that was received but not yet read."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import pytest

from httpx_agent._network.tls import server_name
from httpx_agent._network.wire import _holds_data
from tests.support.servers import Certificates


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("a.test", "a.test"),
        ("a.test.", "a.test"),
        ("a.test..", "a.test."),
        (".", "."),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("fe80::1%25eth0", "fe80::1"),
    ],
)
def test_names_in_tls(host: str, name: str) -> None:
    assert server_name(host) == name


class Pair:
    """The two ends of a TLS connection over memory."""

    def __init__(self, certificates: Certificates) -> None:
        self.up, self.down = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = certificates.client().wrap_bio(self.down, self.up, server_hostname="localhost")
        self.server = certificates.server().wrap_bio(self.up, self.down, server_side=True)
        for end in (self.client, self.server, self.client, self.server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue


def nothing(pair: Pair) -> None:
    """Not even session tickets are for the reader."""


def bytes_(pair: Pair) -> None:
    pair.server.write(b"unasked")


def the_end(pair: Pair) -> None:
    with pytest.raises(ssl.SSLWantReadError):
        pair.server.unwrap()


def garbage(pair: Pair) -> None:
    pair.down.write(b"\x17\x03\x03\x00\x20" + bytes(32))


@pytest.mark.both_engines
@pytest.mark.parametrize(
    ("what", "held"), [(nothing, False), (bytes_, True), (the_end, True), (garbage, True)], ids=lambda x: str(x)[:14]
)
def test_what_is_held(certificates: Certificates, what: Callable[[Pair], None], held: bool) -> None:
    pair = Pair(certificates)
    what(pair)
    assert _holds_data(pair.client) is held


@pytest.mark.both_engines
def test_what_does_no_tls_holds_nothing() -> None:
    assert not _holds_data(None)
