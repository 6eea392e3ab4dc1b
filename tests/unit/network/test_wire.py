"""What a failed handshake leaves open, and where it is found."""

from __future__ import annotations

import ssl

import httpcore
import pytest

from httpx_agent._network.wire import close_forgotten
from tests.support.errors import caught, ring

pytestmark = pytest.mark.timeout(10)


def test_a_socket_in_the_frames_of_a_ring_is_closed() -> None:
    """Whichever error of the ring it was that a handshake left it in; it may be half made, as `ssl` makes it."""

    class Handshake(ssl.SSLSocket):
        def __init__(self) -> None:
            super(ssl.SSLSocket, self).__init__()

        def fail(self) -> None:
            del self._io_refs  # type: ignore[attr-defined]
            raise ConnectionResetError("reset")

    forgotten = Handshake()
    reset = caught(forgotten.fail)
    close_forgotten(ring(RuntimeError("no socket is here")))
    assert forgotten.fileno() >= 0
    close_forgotten(ring(httpcore.ConnectError("1"), RuntimeError("2"), reset))
    assert forgotten.fileno() == -1
