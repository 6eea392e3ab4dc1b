"""A socket agent for httpx: Node's `http.Agent` and `agentkeepalive`, with their defects repaired.

Importing this module imports neither httpx nor httpcore; access to one of its names does (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._api.httpx import Agent, AgentTransport
    from ._values.options import AgentOptions
    from ._values.status import AgentStatus, RequestInfo, SocketInfo, request_info

__version__ = "0.1.0"

__all__ = ["Agent", "AgentOptions", "AgentStatus", "AgentTransport", "RequestInfo", "SocketInfo", "request_info"]

#: The module of each public name.
_EXPORTS = {
    "Agent": "._api.httpx",
    "AgentOptions": "._values.options",
    "AgentStatus": "._values.status",
    "AgentTransport": "._api.httpx",
    "RequestInfo": "._values.status",
    "SocketInfo": "._values.status",
    "request_info": "._values.status",
}


def __getattr__(name: str) -> Any:
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(module, __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
