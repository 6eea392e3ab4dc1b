"""The values that an agent returns about itself; they are frozen and print well."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol

SocketState = Literal["connecting", "active", "free", "closing"]
Address = tuple[str, int] | str


class _Plain:
    """A value that can be converted to plain types."""

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes by name, in types that JSON supports.

        Counters and times are numbers, an unknown value is ``None``, a mapping by origin is a `dict`, and an address of
        host and port is a list of the two.
        """
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}  # type: ignore[arg-type]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True, kw_only=True)
class AgentStatus(_Plain):
    """A snapshot of an agent's counters, sockets and waiting requests; `print` shows it as a table.

    At every moment ``create_socket_count`` = ``create_socket_error_count`` + ``close_socket_count`` +
    ``detached_socket_count`` + all of ``sockets`` + all of ``free_sockets`` (repair A7; Node's own is R38, R40).

    Origins are written as ``scheme://host:port``, followed by `` (name)`` if `sni_hostname` differs from the host.
    Origins with a count of zero are left out.

    Attributes:
        create_socket_count: Sockets that the agent began to open.
        create_socket_error_count: Those that never became usable: refused, DNS, TLS, timed out, cancelled.
        close_socket_count: Sockets that were usable and have been closed, for any reason.
        detached_socket_count: Sockets given to the caller (101, CONNECT).
        error_socket_count: Closed sockets that were closed because of an error.
        timeout_socket_count: Time limits reached, by sockets in use and by free ones.
        request_count: Responses read to the end.
        request_error_count: Requests that ended in any other way.
        sockets: The number of connecting, active and closing sockets, by origin.
        free_sockets: The number of free sockets, by origin.
        requests: The number of waiting requests, by origin.
    """

    create_socket_count: int
    create_socket_error_count: int
    close_socket_count: int
    detached_socket_count: int
    error_socket_count: int
    timeout_socket_count: int
    request_count: int
    request_error_count: int
    sockets: Mapping[str, int]
    free_sockets: Mapping[str, int]
    requests: Mapping[str, int]

    def __str__(self) -> str:
        names = [field.name for field in fields(self)]
        counters = [(name, str(getattr(self, name))) for name in names if name.endswith("_count")]
        origins = {origin: None for table in (self.sockets, self.free_sockets, self.requests) for origin in table}
        rows = [
            (origin, *(str(table.get(origin, 0)) for table in (self.sockets, self.free_sockets, self.requests)))
            for origin in origins
        ]
        text = format_table(("counter", "value"), counters)
        if rows:
            text += "\n\n" + format_table(("origin", "sockets", "free_sockets", "requests"), rows)
        return text


@dataclass(frozen=True, kw_only=True)
class SocketInfo(_Plain):
    """One socket of an agent.

    Attributes:
        id: Its number, in order of creation.
        origin: The origin that it serves, written as in `AgentStatus`.
        state: ``"connecting"``, ``"active"``, ``"free"`` or ``"closing"``.
        request_count: The number of requests that got it.
        age: Seconds since the agent began to open it.
        idle_for: Seconds that it has been free; ``None`` if it is not free.
        expires_in: Seconds until it is closed as free for too long or too old; ``None`` if it is not free, or if there
            is no limit.
        local_address: ``(host, port)`` of this end, or the path of a Unix socket; ``None`` until connected.
        peer_address: The same for the other end; with a proxy, the proxy's address.
        http_version: ``"HTTP/1.1"`` or ``"HTTP/2"``; ``None`` until the first response.
    """

    id: int
    origin: str
    state: SocketState
    request_count: int
    age: float
    idle_for: float | None
    expires_in: float | None
    local_address: Address | None
    peer_address: Address | None
    http_version: str | None


@dataclass(frozen=True, kw_only=True)
class RequestInfo(_Plain):
    """How a response was obtained; found in ``response.extensions["agent"]``, or with `request_info`.

    Attributes:
        socket_id: The socket that served it, as in `SocketInfo.id`.
        reused: Whether the socket had served before, including by hand-over (repair N6; Node's `reusedSocket`, R10).
        requests_on_socket: The number of requests that have got the socket so far, including this one.
        queued_for: Seconds that the request waited for its socket.
        idle_for: Seconds that the socket had been free; ``None`` if it had not been free.
        retried: Whether the request was sent again because the first socket turned out to be dead.
    """

    socket_id: int
    reused: bool
    requests_on_socket: int
    queued_for: float
    idle_for: float | None
    retried: bool


class HasExtensions(Protocol):
    """A response from httpx, httpx2, or a similar library."""

    @property
    def extensions(self) -> Mapping[str, Any]:
        """Additional information from the transport."""
        ...


def request_info(response: HasExtensions) -> RequestInfo | None:
    """Return how a response was obtained, or ``None`` if it did not come through an agent.

    It is ``None`` for a response from a mock, a cache or another transport.

    Args:
        response: A response from httpx or httpx2.
    """
    found = response.extensions.get("agent")
    return found if isinstance(found, RequestInfo) else None


def format_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as plain text; columns of numbers are right-aligned."""
    lines = [tuple(heads), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    numeric = [all(is_number(cell) for cell in column[1:]) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )


def is_number(cell: str) -> bool:
    """Return whether a cell of a table shows a number, or is a placeholder in a column of numbers."""
    return cell in ("", "-") or cell.replace(".", "", 1).isdigit()
