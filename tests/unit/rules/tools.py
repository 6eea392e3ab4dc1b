"""Shorthands for the tests of the core. Times are literal seconds, requests and sockets are integers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from httpx_agent._rules.core import Action, Core, Grant, Rules, SocketView, State

if TYPE_CHECKING:
    from collections.abc import Hashable


def make(*, max_total_sockets: float = math.inf, max_total_free_sockets: float = math.inf, **rules: Any) -> Core:
    """A core with the same rules for all keys."""
    return Core(
        lambda key: Rules(**rules),
        max_total_sockets=max_total_sockets,
        max_total_free_sockets=max_total_free_sockets,
    )


def reconfigure(
    core: Core,
    now: float,
    *,
    max_total_sockets: float = math.inf,
    max_total_free_sockets: float = math.inf,
    **rules: Any,
) -> list[Action]:
    """Other options for all keys."""
    return core.reconfigure(
        now,
        lambda key: Rules(**rules),
        max_total_sockets=max_total_sockets,
        max_total_free_sockets=max_total_free_sockets,
    )


def new(request: int, socket: int, *, queued: float = 0.0) -> Grant:
    """The request opens a socket."""
    return Grant(request, socket, new=True, requests_on_socket=1, queued_for=queued, idle_for=None)


def used(request: int, socket: int, nth: int, *, queued: float = 0.0, idle: float | None = None) -> Grant:
    """The request is the nth on a socket that is there."""
    return Grant(request, socket, new=False, requests_on_socket=nth, queued_for=queued, idle_for=idle)


def connect(core: Core, request: int, key: Hashable = "a", home: Hashable = "sync", now: float = 0.0) -> int:
    """A request arrives and opens a socket, whose number is returned."""
    (grant,) = core.submit(request, key, home, now)
    assert isinstance(grant, Grant)
    assert grant.new
    assert core.opened(grant.socket, now) == []
    return grant.socket


def connect_many(core: Core, *requests: int, key: Hashable = "a", home: Hashable = "sync", now: float = 0.0) -> None:
    """Each of the requests opens a socket."""
    for request in requests:
        connect(core, request, key, home, now)


def share(core: Core, request: int, capacity: int, key: Hashable = "a", home: Hashable = "sync") -> int:
    """A request arrives and opens an HTTP/2 socket at time 0."""
    (grant,) = core.submit(request, key, home, 0.0, negotiates=True)
    assert isinstance(grant, Grant)
    core.opened(grant.socket, 0.0)
    core.negotiated(grant.socket, 0.0, capacity=capacity, multiplexes=True)
    return grant.socket


def finish(core: Core, request: int, now: float = 0.0, hint: float | None = None) -> list[Action]:
    """The response was read to its end and the socket is fit for another request."""
    return core.release(request, now, reusable=True, complete=True, hint=hint)


def fail(core: Core, request: int, now: float = 0.0) -> list[Action]:
    """The request ends otherwise, and its socket with it."""
    return core.release(request, now, reusable=False, complete=False)


def waiting(core: Core) -> list[int]:
    """The numbers of the waiting requests."""
    return [number for number, _, _ in core.waiting()]


def states(core: Core) -> dict[int, State]:
    """The state of each socket."""
    return {view.id: view.state for view in core.sockets(0.0)}


def view(core: Core, socket: int, now: float) -> SocketView:
    """What the core says of a socket."""
    return next(view for view in core.sockets(now) if view.id == socket)
