"""`Agent` and `AgentTransport` for httpx2, which is based on httpcore2: the same implementation and arguments.

    import httpx2
    from httpx_agent.httpx2 import AgentTransport

    with httpx2.Client(transport=AgentTransport(max_sockets=10)) as client: ...

Importing this module imports neither httpx nor httpcore. `AgentOptions` and the values that an agent returns
(`AgentStatus`, `SocketInfo`, `RequestInfo`) are those of `httpx_agent`.
"""

from __future__ import annotations

from typing import ClassVar

from ._values.options import install

try:
    import httpcore2
    import httpx2
except ImportError as error:
    raise ImportError(f"httpx_agent.httpx2 needs the package 'httpx2': {install('httpx2')}") from error

from ._api.agent import BaseAgent
from ._api.transport import BaseTransport
from ._family import Family
from ._pool.pool import BasePool

__all__ = ["Agent", "AgentTransport"]


class Agent(BaseAgent[httpx2.Limits, httpx2.Proxy, httpx2.URL]):
    """The same as `httpx_agent.Agent`, but for httpx2: `limits` and `proxy` are of its classes."""

    family: ClassVar[Family] = Family(httpx2, httpcore2)


class AgentPool(BasePool):
    """The pool of this family's transports; a separate class, so that a mock can replace its methods."""


# The bases declare `_pool` with different types, to which mypy objects; our one pool serves both.
class AgentTransport(  # type: ignore[misc]
    BaseTransport[httpx2.Limits, httpx2.Proxy, httpx2.URL, Agent], httpx2.HTTPTransport, httpx2.AsyncHTTPTransport
):
    """A transport for `httpx2.Client` and `httpx2.AsyncClient` with sockets managed by an `Agent`.

    It replaces `httpx2.HTTPTransport` and `httpx2.AsyncHTTPTransport`, as `httpx_agent.AgentTransport` does in httpx.
    The arguments are the same, except that `agent` is an `Agent` of this module.
    """

    _agent_class = Agent
    _pool_class = AgentPool
    _sync_body = httpx2.SyncByteStream
    _async_body = httpx2.AsyncByteStream
