"""A request's place in the agent: what the dispatcher's lock guards of it."""

from __future__ import annotations

import weakref
from threading import get_ident
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .._rules.core import Grant
    from .._runtime.homes import Home
    from .._values.origins import Key
    from .socket import Socket


class Owner(weakref.ref[Any]):
    """Refers to the body of a response, on behalf of its ticket.

    Python calls `__del__` when a body is dropped, and swallows what is raised there, be it at the first instruction.
    The callback of a weak reference can be a C function, which nothing interrupts.
    """

    __slots__ = ("number",)

    number: int


class Ticket:
    """What the dispatcher knows of a request, from its arrival until it is over.

    Written under the dispatcher's lock, except for the four fields at the end, which belong to the flow that sends the
    request. The flow reads the others without the lock: each is set once between two of its steps.

    Args:
        home: Where the request was made.
        key: What it needs a socket for.
        request: httpcore's request.
        pool: The pool that made it.
        submitted: When it arrived, by the dispatcher's stopwatch.

    Attributes:
        thread: The thread that made the request.
        number: Its name in the core; negative until it is submitted.
        grant: The core's answer, once it has a socket.
        socket: The socket that it has.
        event: Set when a grant or a refusal came; exists while the request waits.
        queued: Whether it found no socket when it arrived, and has had none since.
        refused: Whether the agent was closed.
        over: Whether the dispatcher has forgotten it.
        owner: The body of its response, once there is one.
        asked_for_at: The line that made the request, with the option `debug`.
        due: Sockets to be closed in its home before it goes on.
        abandoned: Whether its caller dropped it, so that it is over soon.
        started: Whether something may have been sent on its socket.
        detached: Whether its socket is the caller's now (R25).
        ended_in_order: Whether everything that its end entails has been done.
    """

    number = -1
    grant: Grant | None = None
    socket: Socket | None = None
    event: Any = None
    queued = False
    refused = False
    over = False
    owner: Owner | None = None
    asked_for_at: str | None = None
    # Of the flow.
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
        """Method and origin, as messages name the request: no path, no query, nothing secret."""
        return f"{self.request.method.decode('ascii', errors='replace')} {self.key.origin}"
