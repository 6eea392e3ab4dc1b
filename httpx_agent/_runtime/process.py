"""Forks: a child starts with nothing that its parent's agents hold, and leaves the parent's sockets intact.

A child has a copy of every descriptor. As long as it keeps one, the server never hears that the parent closed its own;
and whatever the child does through the inherited event loop, its selector or a TLS object, it does to the parent's
connection. So the child closes its copies with `close(2)`, and forgets the rest.
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
    """Begins anew in every child."""

    def begin_anew(self) -> None:
        """Forget everything that belongs to the parent.

        No other thread exists. Threads that did may have left locks held.
        """


_restartables: weakref.WeakSet[Any] = weakref.WeakSet()

#: Kept for ever in a child. These are tied to the parent's event loops: finalised here, they would reach for the loop's
#: selector, which the two processes share, or close descriptors that mean something else by now.
_remains: list[Any] = []

#: Held while a descriptor is opened and noted: a child forked in between would not know of it.
opening = threading.RLock()


def register(restartable: Restartable) -> None:
    """Have an object begin anew in every child from now on; it is referred to weakly."""
    _restartables.add(restartable)


def bury(remains: object) -> None:
    """Keep something of the parent's from being finalised in this process."""
    _remains.append(remains)


class Descriptors:
    """The descriptors of one socket, from the moment they are opened.

    A descriptor may have been closed and its number given to another file meanwhile, so each is noted together with
    the file that it stood for.
    """

    __slots__ = ("_files",)

    def __init__(self) -> None:
        self._files: dict[int, tuple[int, int]] = {}

    def note(self, descriptor: int) -> None:
        """Note a descriptor of the socket, which has just been opened."""
        file = _file(descriptor)
        if file is not None:
            self._files[descriptor] = file

    def knows(self, descriptor: int) -> bool:
        """Return whether a number was noted, whatever it stands for by now."""
        return descriptor in self._files

    def is_open(self, descriptor: int) -> bool:
        """Return whether a number still stands for what was noted."""
        return _file(descriptor) == self._files[descriptor]

    def close(self) -> None:
        """Close those that are still open, and do nothing else to them."""
        for descriptor in self._files:
            if self.is_open(descriptor):
                os.close(descriptor)
        self._files.clear()


def open_noted(make: Callable[[], Socket], descriptors: Descriptors) -> Socket:
    """Open a socket so that every child of this process knows of it."""
    try:
        with opening:
            sock = make()
            descriptors.note(sock.fileno())
    except BaseException:
        let_go(opening)
        raise
    return sock


def _file(descriptor: int) -> tuple[int, int] | None:
    """Return what a descriptor stands for; the system gives each socket a number of its own."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _begin_anew() -> None:
    opening.release()  # by the thread that forked, which is the one that goes on
    for restartable in list(_restartables):
        restartable.begin_anew()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows cannot fork
    os.register_at_fork(
        before=opening.acquire,
        after_in_parent=opening.release,
        after_in_child=_begin_anew,
    )
