"""TLS sessions, kept to resume them: a second handshake with the same server costs less (R28)."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from .._runtime.locks import Lock, held, is_held_here

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Hashable

#: Python loses some 7 KB whenever it gives a session away, until 3.12.8 and 3.13.1 (python/cpython#116810).
GIVING_LEAKS = sys.version_info[:3] < (3, 12, 8) or sys.version_info[:3] == (3, 13, 0)


#: How often the pause in asking a server that gives nothing doubles: it grows to 2 ** 10 connections.
_MOST_DOUBLINGS = 10


class SessionRefused(Exception):
    """A handshake that offered a session failed; another one without it is worth a try. The cause is what happened.

    Not one of httpcore's errors, so that none of its retries is spent on it.
    """


class SessionCache:
    """One session for each pool key; at the limit the oldest key goes, as in Node.

    A session is offered to each new connection, as in Node, until one fails with it: then it is never offered again.

    Asking a connection for its session costs about a fifth of a handshake, and memory where Python leaks it; passing
    one on costs as much again. So a server that gives none that can be resumed, or refuses those that it gave, is asked
    less and less often.

    Args:
        limit: Sessions to keep, at most; 0 keeps none.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = Lock()
        self._sessions: dict[Hashable, ssl.SSLSession] = {}
        self._fruitless: dict[Hashable, _Fruitless] = {}
        #: Grows when sessions are cleared. Connections note it when they begin; the sessions of older ones are ignored.
        self.generation = 0

    def is_locked_here(self) -> bool:
        """Return whether this thread holds the cache's lock."""
        return is_held_here(self._lock)

    def get(self, key: Hashable) -> ssl.SSLSession | None:
        """Return the session to resume, if there is one."""
        return self._sessions.get(key)

    def learn(self, key: Hashable, ssl_object: Any, generation: int) -> None:
        """Keep the session of a connection in place of the previous one, if it can be resumed.

        Args:
            key: What it is for.
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
                return False  # the session that it has resumed can be resumed again
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
        """Forget a session with which a connection failed; for a while, keep no other of this server either."""
        if self._sessions.get(key) is session:  # else another connection failed before, or taught a newer one
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
        """Forget all that is known for some keys; connections that have begun already bring nothing of it back."""
        self.generation += 1
        for known in (self._sessions, self._fruitless):
            for key in [key for key in known if concerns(key)]:
                del known[key]


class _Fruitless:
    """A server whose last sessions could not be resumed."""

    def __init__(self) -> None:
        self.refuses = False  # they looked as if they could be
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
    """Return whether it can be: by a ticket or, until TLS 1.2, by the ID that the server gave it."""
    return session.has_ticket or (ssl_object.version() != "TLSv1.3" and bool(session.id))


def _put(entries: dict[Hashable, Any], key: Hashable, value: Any, limit: int) -> None:
    if key not in entries and len(entries) >= limit:
        if not limit:
            return
        del entries[next(iter(entries))]
    entries[key] = value
