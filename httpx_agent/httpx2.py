"""`Agent` and `AgentTransport` for httpx2, which stands on httpcore2: the same engine, the same arguments.

    import httpx2
    from httpx_agent.httpx2 import AgentTransport

    with httpx2.Client(transport=AgentTransport(max_sockets=10)) as client: ...

Importing this module imports neither httpx nor httpcore. What an agent tells, `AgentStatus`, `SocketInfo` and
`RequestInfo`, and `AgentOptions` are those of `httpx_agent`.
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
    """Manages sockets for `AgentTransport`: `httpx_agent.Agent`, where `limits` and `proxy` are httpx2's."""

    family: ClassVar[Family] = Family(httpx2, httpcore2)


class AgentPool(BasePool):
    """The pool under this family's transports; a class of its own, so that a mock can replace its methods."""


# The bases declare `_pool` with types of their own, and mypy minds; one pool of ours serves both of httpx2's.
class AgentTransport(  # type: ignore[misc]
    BaseTransport[httpx2.Limits, httpx2.Proxy, httpx2.URL, Agent], httpx2.HTTPTransport, httpx2.AsyncHTTPTransport
):
    """A transport for `httpx2.Client` and `httpx2.AsyncClient` alike, whose sockets an `Agent` manages.

    It takes the place of `httpx2.HTTPTransport` and `httpx2.AsyncHTTPTransport`, as `httpx_agent.AgentTransport` does
    in httpx; the arguments are the same, with the `Agent` of this module.
    """

    _agent_class = Agent
    _pool_class = AgentPool
    _sync_body = httpx2.SyncByteStream
    _async_body = httpx2.AsyncByteStream
