"""Check that no request or socket is left over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .._api.agent import BaseAgent
    from .._pool.ticket import Ticket


def assert_no_leaks(agent: BaseAgent[Any, Any, Any]) -> None:
    """Check that no request of an agent waits or holds a socket, and that the agent's counters add up.

    Call this when everything that the test began should have ended: every response read or closed, every task finished.
    Free sockets are not leaks, nor are sockets that another event loop is about to close.

    Args:
        agent: The agent. If it was made with ``debug=True``, the message says where each response was requested.

    Raises:
        AssertionError: If a request is left over, or the counters do not add up; the message gives the details.
    """
    status = agent.status()
    held = sum(status.sockets.values()) + sum(status.free_sockets.values())
    known = status.create_socket_error_count + status.close_socket_count + status.detached_socket_count + held
    if status.create_socket_count != known:
        raise AssertionError(
            f"the agent's books do not balance: of {status.create_socket_count} sockets {known} are "
            f"accounted for\n{status}"
        )
    left = agent._dispatcher.tickets()
    if left:
        hint = "" if agent.debug else "\nAgent(debug=True) records where each was requested."
        lines = "".join(f"\n  {_describe(ticket)}" for ticket in left)
        raise AssertionError(f"{len(left)} request(s) have not ended:{lines}{hint}")


def _describe(ticket: Ticket) -> str:
    socket = ticket.socket
    what = "is waiting for a socket" if socket is None else f"holds socket {socket.id}; read or close its response"
    where = f", requested at {ticket.asked_for_at}" if ticket.asked_for_at else ""
    return f"{ticket.title}{where}: {what}"
