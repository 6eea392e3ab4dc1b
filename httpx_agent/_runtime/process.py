"""Handle forks: a child starts without its parent's sockets and requests, and leaves the parent's sockets intact.

A child has a copy of every descriptor. As long as it keeps one, the server never learns that the parent has closed its
own; and anything that the child does through the inherited event loop, its selector or a TLS object affects the
parent's connection. So the child closes its copies with `close(2)`, and forgets the rest.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from .locks import let_go

if TYPE_CHECKING:
    import socket

    Socket = TypeVar("Socket", bound=socket.SocketType)


class Restartable(Protocol):
    """An object that starts afresh in every forked child."""

    def after_fork(self) -> None:
        """Forget everything that belongs to the parent.

        No other thread exists in the child. Threads of the parent may have left locks held.
        """


_restartables: weakref.WeakSet[Any] = weakref.WeakSet()

#: Objects that a child keeps for ever. They are tied to the parent's event loops: finalised here, they would use the
#: loop's selector, which the two processes share, or close descriptors that now belong to something else.
_remains: list[Any] = []

#: Held while a descriptor is opened and recorded: a child forked in between would not know of it.
opening = threading.RLock()


def register(restartable: Restartable) -> None:
    """Make an object start afresh in every child from now on; it is referred to weakly."""
    _restartables.add(restartable)


def bury(remains: object) -> None:
    """Prevent an object of the parent from being finalised in this process."""
    _remains.append(remains)


class Descriptors:
    """The descriptors of one socket, from the moment they are opened.

    A descriptor may be closed and its number reused for another file, so each is recorded together with the file that
    it stands for.
    """

    __slots__ = ("_files",)

    def __init__(self) -> None:
        self._files: dict[int, tuple[int, int]] = {}

    def note(self, descriptor: int) -> None:
        """Record a descriptor of the socket that has just been opened."""
        file = _file(descriptor)
        if file is not None:
            self._files[descriptor] = file

    def knows(self, descriptor: int) -> bool:
        """Return whether a descriptor number was recorded, whatever file it now stands for."""
        return descriptor in self._files

    def is_open(self, descriptor: int) -> bool:
        """Return whether a recorded number still stands for the same file."""
        return _file(descriptor) == self._files[descriptor]

    def close(self) -> None:
        """Close the descriptors that are still open, and do nothing else to them."""
        for descriptor in self._files:
            if self.is_open(descriptor):
                os.close(descriptor)
        self._files.clear()


def open_noted(make: Callable[[], Socket], descriptors: Descriptors) -> Socket:
    """Open a socket and record it, so that every child of this process knows of it."""
    try:
        with opening:
            sock = make()
            descriptors.note(sock.fileno())
    except BaseException:
        let_go(opening)
        raise
    return sock


def _file(descriptor: int) -> tuple[int, int] | None:
    """Return an identifier of the file behind a descriptor; the system numbers each socket uniquely."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _after_fork() -> None:
    opening.release()  # by the thread that forked, the only one that continues
    for restartable in list(_restartables):
        restartable.after_fork()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows cannot fork
    os.register_at_fork(
        before=opening.acquire,
        after_in_parent=opening.release,
        after_in_child=_after_fork,
    )
