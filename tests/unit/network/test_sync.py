"""The backend and the stream for threads, and the wire that they belong to."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from httpx_agent import Agent
from httpx_agent._network.sync import SyncBackend
from httpx_agent._network.wire import Wire
from tests.support.interrupting import Interrupted
from tests.unit.protocol.drivers import KEY, OPTIONS


class Listener:
    """Interrupts whoever tells it that the stream is there."""

    multiplexed = False

    def connected(self, stream: Any) -> None:
        raise Interrupted


class Inner:
    """A backend whose streams tell whether they are closed."""

    def __init__(self) -> None:
        self.closed = 0

    def connect_tcp(self, *_: Any) -> Inner:
        return self

    connect_unix_socket = connect_tcp

    def get_extra_info(self, info: str) -> None:
        return None

    def close(self) -> None:
        self.closed += 1


def new_wire() -> Wire:
    return Wire(Agent.family, Listener(), OPTIONS, proxy="")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_an_interrupted_connect_closes_what_it_opened(kind: str) -> None:
    """Nobody else refers to it."""
    inner = Inner()
    backend = SyncBackend(new_wire(), inner)
    connect = {
        "tcp": lambda: backend.connect_tcp(KEY.host, KEY.port),
        "unix": lambda: backend.connect_unix_socket("/run/app.sock"),
    }
    with pytest.raises(Interrupted):
        connect[kind]()
    assert inner.closed == 1


def test_a_child_disowns_a_socket_that_is_being_connected() -> None:
    """Python's object does not close the number, which may stand for something else later; its descriptor is closed."""
    wire = new_wire()
    sock = wire.new_socket(socket.AF_INET, socket.SOCK_STREAM)
    number = sock.fileno()
    wire.disown()
    assert sock.fileno() == -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        socket.socket(fileno=number)
