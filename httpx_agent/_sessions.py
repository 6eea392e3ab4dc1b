"""TLS sessions, kept to resume them: a second handshake with the same server costs less (R28)."""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Hashable
from typing import Any

from ._locks import Lock, is_held_here

#: Python loses some 7 KB whenever it gives a session away, until 3.12.8 and 3.13.1 (python/cpython#116810).
GIVING_LEAKS = sys.version_info[:3] < (3, 12, 8) or sys.version_info[:3] == (3, 13, 0)


#: The pause in asking a server that gives nothing doubles so often: 2 ** 10 connections are the longest.
_MOST_DOUBLINGS = 10


class SessionCache:
    """One session for each pool key; at the limit the key that came first goes, as in Node.

    Asking a connection for its session costs some fifth of a handshake, and memory where Python loses it; passing one
    on costs as much again. So where a server gives none that can be resumed, it is asked ever more rarely.

    Args:
        limit: How many; 0 keeps none.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = Lock()
        self._sessions: dict[Hashable, ssl.SSLSession] = {}
        self._fruitless: dict[Hashable, _Fruitless] = {}

    def is_locked_here(self) -> bool:
        """Whether this thread holds the cache's lock."""
        return is_held_here(self._lock)

    def get(self, key: Hashable) -> ssl.SSLSession | None:
        """The session to resume, if there is one."""
        return self._sessions.get(key)

    def learn(self, key: Hashable, ssl_object: Any) -> None:
        """Keeps the session of a connection in the place of the one before, if it can be resumed."""
        if GIVING_LEAKS and getattr(ssl_object, "session_reused", False):
            return  # the one that it has resumed can be resumed again
        with self._lock:
            fruitless = self._fruitless.get(key)
            if fruitless is not None and fruitless.is_passed_over():
                return
        session = getattr(ssl_object, "session", None)
        if session is not None:
            with self._lock:
                if _can_be_resumed(session, ssl_object):
                    self._fruitless.pop(key, None)
                    _put(self._sessions, key, session, self._limit)
                else:
                    _put(self._fruitless, key, fruitless or _Fruitless(), self._limit)

    def evict(self, key: Hashable) -> None:
        """Forgets the session of a key: its connection ended with an error."""
        with self._lock:
            self._sessions.pop(key, None)


class _Fruitless:
    """A server whose last sessions could not be resumed."""

    def __init__(self) -> None:
        self._doublings = 1
        self._passed_over = 0

    def is_passed_over(self) -> bool:
        """Whether the next connection need not be asked; counts it."""
        if self._passed_over < 2**self._doublings:
            self._passed_over += 1
            return True
        self._passed_over = 0
        self._doublings = min(self._doublings + 1, _MOST_DOUBLINGS)
        return False


def _can_be_resumed(session: ssl.SSLSession, ssl_object: Any) -> bool:
    """By a ticket or, until TLS 1.2, by the number that the server gave it."""
    return session.has_ticket or (ssl_object.version() != "TLSv1.3" and bool(session.id))


def _put(entries: dict[Hashable, Any], key: Hashable, value: Any, limit: int) -> None:
    if key not in entries and len(entries) >= limit:
        if not limit:
            return
        del entries[next(iter(entries))]
    entries[key] = value


class ResumingContext:
    """An `ssl.SSLContext` that resumes a session, for those who call it without one.

    httpcore's network backends do not pass a session on, but ask the context for what they need.

    Args:
        context: The context.
        session: A session that was made with it.
    """

    def __init__(self, context: ssl.SSLContext, session: ssl.SSLSession) -> None:
        self._context = context
        self._session = session

    def wrap_socket(self, sock: socket.socket, *, server_hostname: str | None = None) -> ssl.SSLSocket:
        """As `ssl.SSLContext.wrap_socket`."""
        return self._context.wrap_socket(sock, server_hostname=server_hostname, session=self._session)

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """As `ssl.SSLContext.wrap_bio`."""
        return self._context.wrap_bio(incoming, outgoing, server_side, server_hostname, session or self._session)
