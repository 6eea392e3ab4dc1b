"""Print what the agent reports, and the results of a run, as tables and lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from math import ceil
from statistics import median

from httpx_agent import AgentOptions, AgentStatus, RequestInfo, SocketInfo

from .load import Tally
from .screen import Screen


def report_options(screen: Screen, options: AgentOptions) -> None:
    """Print every option, one per line."""
    screen.table(("option", "value"), [(field.name, repr(getattr(options, field.name))) for field in fields(options)])


def report_status(screen: Screen, status: AgentStatus) -> None:
    """Print the counters, and what the agent holds."""
    counters = [field.name for field in fields(status) if field.name.endswith("_count")]
    screen.table(("counter", "value"), [(name, str(getattr(status, name))) for name in counters])
    held = (status.sockets, status.free_sockets, status.requests)
    origins = dict.fromkeys(origin for table in held for origin in table)
    if origins:
        rows = [(origin, *(str(table.get(origin, 0)) for table in held)) for origin in origins]
        screen.table(("origin", "sockets", "free_sockets", "requests"), rows)


def report_sockets(screen: Screen, sockets: Iterable[SocketInfo]) -> None:
    """Print one line per socket."""
    screen.table(
        ("id", "state", "request_count", "age", "idle_for", "expires_in", "local_address", "http_version"),
        [
            (
                str(socket.id),
                socket.state,
                str(socket.request_count),
                _seconds(socket.age),
                _seconds(socket.idle_for),
                _seconds(socket.expires_in),
                _address(socket.local_address),
                socket.http_version or "-",
            )
            for socket in sockets
        ],
    )


def describe(info: RequestInfo) -> str:
    """Describe briefly how a response was obtained."""
    words = f"socket {info.socket_id}, "
    words += f"reused (request {info.requests_on_socket} on it)" if info.reused else "new"
    if info.queued_for:
        words += f", waited {info.queued_for:.2f} s for it"
    return words


def report_load(screen: Screen, tally: Tally) -> None:
    """Print the summary of a run."""
    answered = len(tally.latencies)
    reused = sum(info.reused for info in tally.infos)
    begun, failed = tally.status.create_socket_count, tally.status.create_socket_error_count
    screen.table(
        ("summary", "value"),
        [
            ("requests", f"{tally.done}: {answered} answered, {tally.failed} failed"),
            ("time", f"{tally.seconds:.3f} s"),
            ("requests per second", f"{answered / tally.seconds if answered else 0:.1f}"),
            ("status codes", _counts(tally.statuses)),
            ("HTTP versions", _counts(tally.versions)),
            ("sockets opened", str(begun - failed - tally.connecting)),
            ("sockets that failed to open", str(failed)),
            ("on a reused socket", f"{reused / answered:.1%} of the responses" if answered else "-"),
        ],
    )
    screen.table(
        ("milliseconds", "min", "median", "p95", "max"),
        [
            ("latency", *_spread(tally.latencies)),
            ("of it, in the queue", *_spread([info.queued_for for info in tally.infos])),
        ],
    )
    report_status(screen, tally.status)


def _counts(counts: Mapping[int, int] | Mapping[str, int]) -> str:
    return ", ".join(f"{what}: {count}" for what, count in sorted(counts.items())) or "-"


def _spread(seconds: list[float]) -> tuple[str, ...]:
    """Return the minimum, median, 95th percentile (nearest rank) and maximum, in milliseconds."""
    if not seconds:
        return ("-",) * 4
    ranked = sorted(seconds)
    picked = (ranked[0], median(ranked), ranked[ceil(0.95 * len(ranked)) - 1], ranked[-1])
    return tuple(f"{1000 * value:.2f}" for value in picked)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _address(address: tuple[str, int] | str | None) -> str:
    if isinstance(address, tuple):
        return f"{address[0]}:{address[1]}"
    return address or "-"
