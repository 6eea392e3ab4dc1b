"""The dispatcher's record of a request, guarded by the dispatcher's lock."""

from __future__ import annotations

import weakref
from threading import get_ident
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .._rules.core import Grant
    from .._runtime.homes import Home
    from .._values.origins import Key
    from .socket import Socket


class BodyReference(weakref.ref[Any]):
    """A weak reference to the body of a response, whose callback notes that the body was dropped.

    The body's `__del__` does not suffice: an exception may interrupt it at its first instruction, and Python swallows
    that exception. The callback of a weak reference can be a C function, which no exception can interrupt.
    """

    __slots__ = ("number",)

    number: int  # the request's number in the core


class Ticket:
    """A request as the dispatcher sees it, from its arrival until it is over.

    What the core's decisions change is written under the dispatcher's lock: `number`, `grant`, `socket`, `event`,
    `queued`, `refused` and `over`. The request's flow reads these without the lock, because each of them is set at most
    once between two of its steps. The rest is written without the lock: `asked_for_at`, `body` (until the request is
    over), `started` and `detached` by the request's owner; `due`, `abandoned` and `ended_in_order` by the dispatcher,
    in the thread that ends the request or notes that its caller dropped it.

    Args:
        home: The home in which the request was made.
        key: The key of the sockets that it can use.
        request: httpcore's request.
        pool: The pool that made it.
        submitted: When it arrived, by the dispatcher's stopwatch.

    Attributes:
        thread: The thread that made the request.
        number: Its number in the core; negative until it is submitted.
        grant: The core's grant; ``None`` while it has no socket.
        socket: The socket that it got; ``None`` while it has none.
        event: The event that wakes it once it gets a socket or is refused; ``None`` if it never waited.
        queued: Whether it found no socket when it arrived, and has had none since.
        refused: Whether it was refused because the agent was closed.
        over: Whether the dispatcher has forgotten it.
        body: A reference to the body of its response; ``None`` before there is one.
        asked_for_at: The user's line that made the request, if the option `debug` is on.
        due: Sockets that it must close in its home before it goes on.
        abandoned: Whether its caller dropped it, so that it will soon be over.
        started: Whether something may have been sent on its socket.
        detached: Whether its socket now belongs to the caller (R25).
        ended_in_order: Whether all consequences of its end have been carried out.
    """

    number = -1
    grant: Grant | None = None
    socket: Socket | None = None
    event: Any = None
    queued = False
    refused = False
    over = False
    body: BodyReference | None = None
    asked_for_at: str | None = None
    # Written without the dispatcher's lock, like `body` and `asked_for_at`.
    abandoned = False
    started = False
    detached = False
    ended_in_order = False

    def __init__(self, home: Home, key: Key, request: Any, pool: object, submitted: float) -> None:
        self.home = home
        self.key = key
        self.request = request
        self.pool = pool
        self.thread = get_ident()
        self.submitted = submitted
        self.due: list[Socket] = []

    @property
    def title(self) -> str:
        """Method and origin, by which messages name the request. Paths and queries may contain secrets."""
        return f"{self.request.method.decode('ascii', errors='replace')} {self.key.origin}"
