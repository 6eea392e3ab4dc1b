"""Short forms for an agent's status: everything not given is zero or empty."""

from __future__ import annotations

import dataclasses
from typing import Any

from httpx_agent import AgentStatus, SocketInfo

A = "http://a.test:80"


def status_of(**values: Any) -> AgentStatus:
    """Return a status with all counters 0 and all mappings empty, except those given."""
    names = [field.name for field in dataclasses.fields(AgentStatus)]
    empty: dict[str, Any] = {name: 0 if name.endswith("_count") else {} for name in names}
    assert values.keys() <= empty.keys()
    return AgentStatus(**{**empty, **values})


def info_of(**values: Any) -> SocketInfo:
    """Return the first socket, in use for its first request, except for the values given."""
    usual: dict[str, Any] = {
        "id": 0,
        "origin": A,
        "state": "active",
        "request_count": 1,
        "age": 0.0,
        "idle_for": None,
        "expires_in": None,
        "local_address": ("127.0.0.1", 50_000),
        "peer_address": ("a.test", 80),
        "http_version": "HTTP/1.1",
    }
    assert values.keys() <= usual.keys()
    return SocketInfo(**{**usual, **values})
