"""Look up names in threads of our own, so that a wait for one can end with the request that needs it.

The system's look-up cannot be interrupted, and a name whose servers are silent takes half a minute. In the calling
thread it would ignore the connect timeout; in an event loop's executor, which has few threads, some silent names would
hold up everyone's look-ups. Here a request can stop waiting at any time; only the thread remains until the system gives
up.
"""

from __future__ import annotations

import copy
import socket
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from functools import partial
from urllib.parse import unquote

from .._runtime import process
from .._runtime.locks import Lock, held
from .racing import AddressInfo

#: The maximum number of threads. Further look-ups wait for another one to end.
MAX_THREADS = 256

#: How many seconds a thread waits for another look-up before it ends.
_IDLE = 5.0

Name = tuple[str, int]


class LookUp:
    """The look-up of one name, shared by everything that needs it at the time."""

    def __init__(self, name: Name) -> None:
        self.name = name
        self.is_done = False
        self._found: list[AddressInfo] = []
        self._error: Exception | None = None
        self._callbacks: list[Callable[[], object]] = []

    def result(self) -> list[AddressInfo]:
        """Return the addresses found.

        Raises:
            OSError: If the name has no address.
            UnicodeError: If the name is invalid.
        """
        error = self._error
        if error is None:
            return self._found
        with suppress(Exception):  # a user's resolver may raise an error that cannot be copied
            error = copy.copy(error)  # one for each caller: a traceback grows with each raise
        raise error


class Resolver:
    """Look up names in daemon threads, with at most one look-up of the same name at a time.

    Use the single instance, `resolver`, from any thread and event loop.
    """

    def __init__(self) -> None:
        self._begin_empty()
        process.register(self)

    def after_fork(self) -> None:
        """Forget the parent's look-ups in a forked child, where its threads do not exist."""
        self._begin_empty()

    def _begin_empty(self) -> None:
        self._lock = Lock()
        self._work = threading.Condition(self._lock)
        self._queue: deque[LookUp] = deque()
        self._look_ups: dict[Name, LookUp] = {}
        self._threads = 0
        self._idle = 0

    @held("_lock")
    def look_up(self, name: Name, on_done: Callable[[], object]) -> LookUp:
        """Begin to look up a name, or join a look-up of the same name.

        Args:
            name: Host and port.
            on_done: Called once, in any thread, when the result is available; must not raise.
        """
        found = self._look_ups.get(name)
        if found is None:
            found = LookUp(name)
            self._queue.append(found)
            self._look_ups[name] = found
        found._callbacks.append(on_done)
        if self._queue:  # even for an existing one: the thread that began it may have been interrupted
            if self._idle >= len(self._queue):
                self._work.notify()
            elif self._threads < MAX_THREADS:
                self._start_thread()
        return found

    def leave(self, look_up: LookUp, on_done: Callable[[], object]) -> None:
        """Stop waiting; drop the look-up if it has not begun and nothing else waits for it.

        Takes no lock: finalisers of dropped tasks call this, in any thread and under any lock.
        """
        with suppress(ValueError):  # it has been called already
            look_up._callbacks.remove(on_done)

    def _start_thread(self) -> None:
        """Start one more thread; if there can be none, those running serve the queue. Requires holding the lock."""
        self._threads += 1
        run = partial(self._run, self._lock, self._work)
        try:
            thread = threading.Thread(target=run, name="httpx-agent-names", daemon=True)
            Context().run(thread.start)  # since Python 3.14 it may inherit the context, and would keep it alive
        except BaseException as error:
            self._threads -= 1
            if not isinstance(error, RuntimeError):
                raise
            if not self._threads:
                self._forget(self._queue.pop())
                raise OSError("cannot start a thread for the name look-up") from None

    def _run(self, lock: threading.RLock, work: threading.Condition) -> None:
        while True:
            with lock:
                while not self._queue:
                    self._idle += 1
                    came = work.wait(_IDLE)
                    self._idle -= 1
                    if not came and not self._queue:
                        self._threads -= 1
                        return
                look_up = self._queue.popleft()
                if not look_up._callbacks:  # nothing waits for it any more
                    self._forget(look_up)
                    continue
            error: Exception | None = None
            found: list[AddressInfo] = []
            try:
                found = socket.getaddrinfo(*look_up.name, 0, socket.SOCK_STREAM)
            except Exception as raised:
                error = raised.with_traceback(None)
            with lock:
                look_up._found, look_up._error = found, error
                look_up.is_done = True
                self._forget(look_up)
                callbacks = tuple(look_up._callbacks)  # a caller that leaves meanwhile must not displace the others
                look_up._callbacks.clear()
            for callback in callbacks:
                callback()
            del look_up, callbacks

    def _forget(self, look_up: LookUp) -> None:
        """Stop others from joining a look-up. Requires holding the lock."""
        if self._look_ups.get(look_up.name) is look_up:
            del self._look_ups[look_up.name]


def look_up_literal(host: str, port: int) -> list[AddressInfo] | None:
    """Return the address if a host is a literal address, or ``None`` if it is a name; never blocks."""
    try:
        # By position, as Python's own callers do: a replacement may accept nothing else.
        return socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        return None


def without_zone_escape(host: str) -> str:
    """Decode the zone of an IPv6 address: ``fe80::1%25eth0`` in URLs (RFC 6874) is ``fe80::1%eth0`` to the system."""
    address, escape, zone = host.partition("%25")
    return f"{address}%{unquote(zone)}" if escape and ":" in address else host


resolver = Resolver()
