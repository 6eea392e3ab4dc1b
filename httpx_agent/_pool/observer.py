"""What an agent tells to somebody who looks on, as it happens; what can be asked for is in `_status`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .._rules.core import CloseReason
    from .socket import Socket
    from .ticket import Ticket


class Observer(Protocol):
    """Hears of what happens in an agent, in the thread in which it happens, and without its lock.

    Every call is made while a request waits for it, so it must be quick. What it raises is logged, once, and harms
    nobody.
    """

    def request_waited(self, ticket: Ticket, seconds: float, *, served: bool) -> None:
        """A request that found no socket waits no longer.

        Args:
            ticket: The request.
            seconds: How long it waited.
            served: Whether it got a socket; else its time was over, it was cancelled, or the agent was closed.
        """

    def request_retried(self, ticket: Ticket) -> None:
        """A request is sent again, because its socket turned out dead."""

    def socket_closed(self, socket: Socket, seconds: float, reason: CloseReason) -> None:
        """A socket that was usable is closed.

        Args:
            socket: The socket.
            seconds: For how long it was open.
            reason: Why it was closed.
        """
