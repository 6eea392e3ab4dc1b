"""Keep TLS sessions for resumption, which makes the next handshake with the same server cheaper (R28)."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from .._runtime.locks import Lock, held, is_held_here

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Hashable

#: Python leaks some 7 KB whenever it returns a session, until 3.12.8 and 3.13.1 (python/cpython#116810).
GIVING_LEAKS = sys.version_info[:3] < (3, 12, 8) or sys.version_info[:3] == (3, 13, 0)


#: How often the pause doubles if a server gives no usable session; it grows to 2 ** 10 connections.
_MOST_DOUBLINGS = 10


class SessionRefused(Exception):
    """Raised if a handshake that offered a session failed; one without it may succeed. The cause is the original error.

    Not an httpcore error, so it does not use up one of httpcore's retries.
    """


class SessionCache:
    """One session for each key; at the limit, the oldest key is dropped, as in Node.

    A session is offered to each new connection, as in Node, until one fails with it; then it is never offered again.

    Asking a connection for its session costs about a fifth of a handshake, and memory where Python leaks it; passing
    the session on costs the same again. So if a server gives none that can be resumed, or refuses its own, its
    connections are asked less and less often.

    Args:
        limit: The maximum number of sessions to keep; 0 keeps none.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = Lock()
        self._sessions: dict[Hashable, ssl.SSLSession] = {}
        self._fruitless: dict[Hashable, _Fruitless] = {}
        #: Increased when sessions are cleared. Each connection records it first; sessions of older ones are ignored.
        self.generation = 0

    def is_locked_here(self) -> bool:
        """Return whether this thread holds the cache's lock."""
        return is_held_here(self._lock)

    def get(self, key: Hashable) -> ssl.SSLSession | None:
        """Return the session to resume, if there is one."""
        return self._sessions.get(key)

    def learn(self, key: Hashable, ssl_object: Any, generation: int) -> None:
        """Keep the session of a connection instead of the previous one, if it can be resumed.

        Args:
            key: The key of the connection.
            ssl_object: The connection's TLS object.
            generation: The cache's generation when the connection began.
        """
        if self._is_worth_asking(key, ssl_object, generation):
            session = getattr(ssl_object, "session", None)
            if session is not None:
                self._keep(key, session, _can_be_resumed(session, ssl_object), generation)

    @held("_lock")
    def _is_worth_asking(self, key: Hashable, ssl_object: Any, generation: int) -> bool:
        if generation != self.generation:
            return False
        if getattr(ssl_object, "session_reused", False):
            self._fruitless.pop(key, None)
            if GIVING_LEAKS:
                return False  # the session that it resumed can be resumed again
        fruitless = self._fruitless.get(key)
        return fruitless is None or not fruitless.is_passed_over()

    @held("_lock")
    def _keep(self, key: Hashable, session: ssl.SSLSession, can_be_resumed: bool, generation: int) -> None:
        if generation != self.generation:  # cleared meanwhile
            return
        fruitless = self._fruitless.get(key)
        if not can_be_resumed:
            _put(self._fruitless, key, fruitless or _Fruitless(), self._limit)
            return
        if fruitless is not None and not fruitless.refuses:
            del self._fruitless[key]
        _put(self._sessions, key, session, self._limit)

    @held("_lock")
    def refuse(self, key: Hashable, session: ssl.SSLSession) -> None:
        """Forget a session with which a connection failed; for a while, keep no others from this server."""
        if self._sessions.get(key) is session:  # otherwise another connection has already failed, or taught a newer one
            del self._sessions[key]
            fruitless = self._fruitless.get(key) or _Fruitless()
            fruitless.refuses = True
            _put(self._fruitless, key, fruitless, self._limit)

    @held("_lock")
    def evict(self, key: Hashable) -> None:
        """Forget the session of a key: its connection ended with an error."""
        self._sessions.pop(key, None)

    @held("_lock")
    def clear(self, concerns: Callable[[Any], bool]) -> None:
        """Forget everything about some keys; connections that have already begun will not bring any of it back."""
        self.generation += 1
        for known in (self._sessions, self._fruitless):
            for key in [key for key in known if concerns(key)]:
                del known[key]


class _Fruitless:
    """A server whose last sessions could not be resumed."""

    def __init__(self) -> None:
        self.refuses = False  # they looked resumable
        self._doublings = 1
        self._passed_over = 0

    def is_passed_over(self) -> bool:
        """Return whether the next connection need not be asked, and count it."""
        if self._passed_over < 2**self._doublings:
            self._passed_over += 1
            return True
        self._passed_over = 0
        self._doublings = min(self._doublings + 1, _MOST_DOUBLINGS)
        return False


def _can_be_resumed(session: ssl.SSLSession, ssl_object: Any) -> bool:
    """Return whether a session can be resumed: by a ticket or, up to TLS 1.2, by its ID."""
    return session.has_ticket or (ssl_object.version() != "TLSv1.3" and bool(session.id))


def _put(entries: dict[Hashable, Any], key: Hashable, value: Any, limit: int) -> None:
    if key not in entries and len(entries) >= limit:
        if not limit:
            return
        del entries[next(iter(entries))]
    entries[key] = value
