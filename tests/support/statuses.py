"""What an agent tells about itself, in short: all that is not said is nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

from httpx_agent import AgentStatus, SocketInfo

A = "http://a.test:80"


def status_of(**values: Any) -> AgentStatus:
    """A status whose counters are 0 and whose mappings are empty, but for those given."""
    names = [field.name for field in dataclasses.fields(AgentStatus)]
    empty: dict[str, Any] = {name: 0 if name.endswith("_count") else {} for name in names}
    assert values.keys() <= empty.keys()
    return AgentStatus(**{**empty, **values})


def info_of(**values: Any) -> SocketInfo:
    """The first socket, in use for its first request, but for the values given."""
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
