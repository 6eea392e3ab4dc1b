"""What an agent tells about itself: frozen values that print well."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol

SocketState = Literal["connecting", "active", "free", "closing"]
Address = tuple[str, int] | str


class _Plain:
    """A value that can be told in plain types."""

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes by their names, in types that JSON has.

        Counters and times are numbers, what is not known is ``None``, a table by origin is a `dict`, and an address of
        host and port a list of the two.
        """
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}  # type: ignore[arg-type]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True, kw_only=True)
class AgentStatus(_Plain):
    """A snapshot of an agent's counters and of what it holds; `print` shows it as a table.

    At every moment ``create_socket_count`` = ``create_socket_error_count`` + ``close_socket_count`` +
    ``detached_socket_count`` + all of ``sockets`` + all of ``free_sockets`` (repair A7; Node's own is R38, R40).

    Origins are written ``scheme://host:port``, then `` (name)`` where `sni_hostname` is another; empty ones are absent.

    Attributes:
        create_socket_count: Sockets whose opening began.
        create_socket_error_count: Of those, never usable: refused, DNS, TLS, timed out, cancelled.
        close_socket_count: Once usable, now closed, for any reason.
        detached_socket_count: Given to the caller (101, CONNECT).
        error_socket_count: Of the closed, those that an error closed.
        timeout_socket_count: Limits that fired, on sockets in use and on free ones.
        request_count: Responses read to their end.
        request_error_count: Requests that ended otherwise.
        sockets: Sockets connecting, active and closing, by origin.
        free_sockets: Free sockets by origin.
        requests: Waiting requests by origin.
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
        origin: What it is connected for, as in `AgentStatus`.
        state: ``"connecting"``, ``"active"``, ``"free"`` or ``"closing"``.
        request_count: Requests that it was given to.
        age: Seconds since its opening began.
        idle_for: Seconds that it has been free; ``None`` if it is not.
        expires_in: Seconds until it is closed for being free or too old; ``None`` if it is not free or never.
        local_address: ``(host, port)`` of this end, or the path of a Unix socket; ``None`` until connected.
        peer_address: The same of the other end, which is the proxy's where there is one.
        http_version: ``"HTTP/1.1"`` or ``"HTTP/2"``; ``None`` until a response came.
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
    """How a response was got: ``response.extensions["agent"]``, or by `request_info`.

    Attributes:
        socket_id: The socket that served it; as in `SocketInfo.id`.
        reused: Whether the socket had served before, after a hand-over too (repair N6; Node's `reusedSocket`, R10).
        requests_on_socket: Requests that the socket was given to so far, this one included.
        queued_for: Seconds that the request waited for its socket.
        idle_for: Seconds that the socket had been free; ``None`` if it was not.
        retried: Whether it was sent a second time because the first socket turned out dead.
    """

    socket_id: int
    reused: bool
    requests_on_socket: int
    queued_for: float
    idle_for: float | None
    retried: bool


class HasExtensions(Protocol):
    """A response of httpx, of httpx2, or of a library that is made like them."""

    @property
    def extensions(self) -> Mapping[str, Any]:
        """What a transport tells of the response."""
        ...


def request_info(response: HasExtensions) -> RequestInfo | None:
    """Return how a response was got, or ``None`` if no agent got it.

    A mock's response has none, and neither has one that came from a cache or another transport.

    Args:
        response: A response of httpx or httpx2.
    """
    found = response.extensions.get("agent")
    return found if isinstance(found, RequestInfo) else None


def format_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in plain text; what looks like a number stands to the right."""
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
    """Whether a cell of a table shows a number, or nothing where numbers stand."""
    return cell in ("", "-") or cell.replace(".", "", 1).isdigit()
