"""Convert Node's options to ours: milliseconds become seconds, and defaults are given explicitly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .trace import Trace

#: agentkeepalive 4.6, in milliseconds.
FREE_SOCKET_TIMEOUT = 4000
TIMEOUT = 8000


def agent_options(trace: Trace) -> dict[str, Any]:
    """The options of `Agent` that mean what the trace's options mean to its agent."""
    given = trace.options
    keepalive = trace.agent == "agentkeepalive"
    timeout, free_socket_timeout = _timeouts(given) if keepalive else _timeouts_of_node(given)
    return {
        "keep_alive": given.get("keepAlive") is not False if keepalive else bool(given.get("keepAlive")),
        "max_sockets": _limit(given.get("maxSockets")),
        "max_total_sockets": _limit(given.get("maxTotalSockets")),
        "max_free_sockets": max(0, given.get("maxFreeSockets") or 256),  # in Node 0 means 256, and -1 none (N21)
        "scheduling": given.get("scheduling") or "lifo",
        "timeout": _seconds(timeout),
        "free_socket_timeout": _seconds(free_socket_timeout),
        "socket_active_ttl": _seconds(given.get("socketActiveTTL")),
        "keep_alive_timeout_buffer": given.get("agentKeepAliveTimeoutBuffer", 1000) / 1000,
        "max_cached_sessions": given.get("maxCachedSessions", 100),
    }


def setting(key: str, value: Any) -> tuple[str, Any]:
    """What the step `set` assigns, as an attribute of `Agent`."""
    names = {
        "maxSockets": "max_sockets",
        "maxTotalSockets": "max_total_sockets",
        "maxFreeSockets": "max_free_sockets",
        "scheduling": "scheduling",
    }
    return names[key], _limit(value) if key != "scheduling" else value


def _timeouts_of_node(given: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Node has one limit, for sockets in use and for free ones (R16, R17)."""
    timeout = given.get("timeout")
    return timeout, timeout


def _timeouts(given: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Two with agentkeepalive (R31, R33); without its own for free sockets, that of Node's agent stays."""
    free_socket_timeout = given.get("freeSocketTimeout", FREE_SOCKET_TIMEOUT)
    timeout = given.get("timeout", max(2 * free_socket_timeout, TIMEOUT))
    return timeout, free_socket_timeout or timeout


def _limit(value: Any) -> int | None:
    return None if value in (None, 0, "Infinity") else value


def _seconds(milliseconds: float | None) -> float | None:
    """Nothing and 0 mean no limit; less than that means never (R31)."""
    return max(0.0, milliseconds / 1000) if milliseconds else None
