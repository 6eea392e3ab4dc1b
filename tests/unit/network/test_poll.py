"""Polls of the system for whether a socket can be read or written."""

from __future__ import annotations

import select
import socket
from contextlib import suppress

import pytest

from httpx_agent._network.poll import Poll


@pytest.mark.parametrize("system", ["poll", "select"])
def test_waiting_for_a_socket(monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    """Where there is no `poll`, as on Windows, `select` does it."""
    if system == "select":
        monkeypatch.delattr(select, "poll")
    ours, theirs = socket.socketpair()
    with ours:
        poll = Poll(ours)
        assert not poll.is_readable()
        assert not poll.wait_readable(0.0)
        assert poll.wait_writable(0.0, or_readable=True) == (False, True)
        theirs.send(b"a")
        assert poll.is_readable()
        assert poll.wait_readable(None)
        assert poll.wait_writable(None, or_readable=True) == (True, True)
        assert poll.wait_writable(None, or_readable=False) == (False, True)
        ours.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                ours.send(bytes(1 << 20))
        assert poll.wait_writable(0.0, or_readable=False) == (False, False)
        theirs.close()
        assert poll.wait_writable(0.0, or_readable=False) == (False, True)
