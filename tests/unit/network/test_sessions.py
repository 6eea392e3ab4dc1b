"""The cache of TLS sessions: which are kept, and how long the pause is before another is requested."""

from __future__ import annotations

import pytest

from httpx_agent._network.sessions import SessionCache
from tests.support.tls import Connection, Session


def test_the_sessions_that_are_kept() -> None:
    cache = SessionCache(2)
    sessions = {name: Session(name) for name in ("a1", "b1", "a2", "c1")}
    for name, session in sessions.items():
        cache.learn(name[0], Connection(session), cache.generation)
    assert [cache.get(key) for key in "abc"] == [None, sessions["b1"], sessions["c1"]]
    cache.evict("b")
    cache.evict("nothing")
    assert cache.get("b") is None
    nothing = SessionCache(0)
    nothing.learn("a", Connection(Session()), nothing.generation)
    assert nothing.get("a") is None


@pytest.mark.parametrize(
    ("version", "has_ticket", "id", "kept"),
    [
        ("TLSv1.2", False, b"", False),
        ("TLSv1.2", False, b"number", True),
        ("TLSv1.2", True, b"", True),
        ("TLSv1.3", False, b"made up", False),  # by this end, which needs some number
        ("TLSv1.3", True, b"made up", True),
    ],
)
def test_a_session_that_cannot_be_resumed_is_not_kept(version: str, has_ticket: bool, id: bytes, kept: bool) -> None:
    cache = SessionCache(1)
    cache.learn("a", Connection(Session(has_ticket=has_ticket, id=id), version=version), cache.generation)
    assert (cache.get("a") is not None) is kept


def test_a_server_whose_sessions_cannot_be_resumed_is_asked_ever_more_rarely() -> None:
    """Its sessions would cost some half of a handshake, for nothing; it may change its mind."""
    cache = SessionCache(2)
    barren = Connection(Session(has_ticket=False))
    turns = []
    for turn in range(10_000):
        before = barren.asked
        cache.learn("a", barren, cache.generation)
        turns += [turn] if barren.asked > before else []
    assert turns[:6] == [0, 3, 8, 17, 34, 67]
    assert [after - before for before, after in zip(turns[-3:], turns[-2:], strict=False)] == [1025, 1025]
    other = Connection(Session(has_ticket=False))
    cache.learn("b", other, cache.generation)
    assert other.asked == 1
    fertile = Connection(Session())
    for _ in range(1025):
        cache.learn("a", fertile, cache.generation)
    assert cache.get("a") is not None
    cache.learn("a", fertile, cache.generation)
    assert fertile.asked > 1  # every one counts again
