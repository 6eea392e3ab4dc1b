"""Wait for a non-blocking socket, or look at it, with the best call that the system provides."""

from __future__ import annotations

import math
import select
from typing import Any


class Poll:
    """Wait for one socket, or look at it.

    Args:
        sock: The socket. It must stay open as long as this is used.
    """

    __slots__ = ("_look", "_socket")

    def __init__(self, sock: Any) -> None:
        self._socket = sock
        self._look: Any = None
        if hasattr(select, "poll"):
            poll = select.poll()
            poll.register(sock, select.POLLIN)
            self._look = poll.poll

    def is_readable(self) -> bool:
        """Return whether the socket can be read, or is broken."""
        if self._look is None:
            return bool(select.select([self._socket], [], [], 0)[0])
        return bool(self._look(0))

    def wait_readable(self, timeout: float | None) -> bool:
        """Wait until the socket can be read, or is broken; return false if `timeout` seconds pass first."""
        if self._look is None:
            return bool(select.select([self._socket], [], [], timeout)[0])
        return bool(self._look(None if timeout is None else math.ceil(timeout * 1000)))

    def wait_writable(self, timeout: float | None, *, or_readable: bool) -> tuple[bool, bool]:
        """Wait until the socket can be written, or optionally read; return whether it can be read, and written."""
        if self._look is None:
            ready = select.select([self._socket] * or_readable, [self._socket], [self._socket], timeout)
            return bool(ready[0]), bool(ready[1] or ready[2])
        poll = select.poll()
        poll.register(self._socket, select.POLLIN * or_readable | select.POLLOUT)
        found = poll.poll(None if timeout is None else math.ceil(timeout * 1000))
        events = found[0][1] if found else 0
        return bool(events & select.POLLIN), bool(events & ~select.POLLIN)
