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


def take_session(ssl_object: Any) -> ssl.SSLSession | None:
    """The session of a connection, to be kept; none if it has none that is new and worth its price."""
    if GIVING_LEAKS and getattr(ssl_object, "session_reused", False):
        return None  # the one that it has resumed can be resumed again
    return getattr(ssl_object, "session", None)


class SessionCache:
    """One session for each pool key; at the limit the key that came first goes, as in Node.

    Args:
        limit: How many; 0 keeps none.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = Lock()
        self._sessions: dict[Hashable, ssl.SSLSession] = {}

    def is_locked_here(self) -> bool:
        """Whether this thread holds the cache's lock."""
        return is_held_here(self._lock)

    def get(self, key: Hashable) -> ssl.SSLSession | None:
        """The session to resume, if there is one."""
        return self._sessions.get(key)

    def put(self, key: Hashable, session: ssl.SSLSession) -> None:
        """Keeps the newest session of a key, in the place of the one before."""
        with self._lock:
            if key not in self._sessions and len(self._sessions) >= self._limit:
                if not self._limit:
                    return
                del self._sessions[next(iter(self._sessions))]
            self._sessions[key] = session

    def evict(self, key: Hashable) -> None:
        """Forgets the session of a key: its connection ended with an error."""
        with self._lock:
            self._sessions.pop(key, None)


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
