"""The interface through which an agent reports events as they happen. `_values.status` has what can be asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .._rules.core import CloseReason
    from .socket import Socket
    from .ticket import Ticket


class Observer(Protocol):
    """Receives the events of an agent, in the thread in which they happen, while the agent's lock is not held.

    A request waits during every call, so calls must be quick. The first exception of an observer is logged; none of
    them affects a request.
    """

    def request_waited(self, ticket: Ticket, seconds: float, *, served: bool) -> None:
        """Take note that a request that found no socket no longer waits.

        Args:
            ticket: The request.
            seconds: How long it waited.
            served: Whether it got a socket. If not, it timed out or was cancelled, or the agent was closed.
        """

    def request_retried(self, ticket: Ticket) -> None:
        """Take note that a request is sent again because its socket turned out to be dead."""

    def socket_closed(self, socket: Socket, seconds: float, reason: CloseReason) -> None:
        """Take note that a socket that had been usable is closed.

        Args:
            socket: The socket.
            seconds: How long it was open.
            reason: The reason for closing it.
        """
