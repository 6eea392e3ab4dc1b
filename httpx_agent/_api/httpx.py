"""The family of httpx and httpcore: the classes that users meet."""

from __future__ import annotations

from typing import ClassVar

import httpcore
import httpx

from .._family import Family
from .._pool.pool import BasePool
from .agent import BaseAgent
from .transport import BaseTransport


class Agent(BaseAgent[httpx.Limits, httpx.Proxy, httpx.URL]):
    """Manages sockets for `AgentTransport`, by the rules of Node's `http.Agent` and of `agentkeepalive`.

    One agent may serve several transports, sync and async clients, threads and event loops at once; its limits and
    counters hold over all of it. A socket stays where it was opened: in the sync world, or in its event loop.

    Times are seconds (`float`) or `datetime.timedelta`; ``None`` means no limit. `AgentOptions` says what each option
    means; every option can be read as an attribute, and `max_sockets`, `max_total_sockets`, `max_free_sockets` and
    `scheduling` can be set while the agent runs.

    Args:
        verify: TLS verification, as in `httpx.HTTPTransport`.
        cert: Client certificate, as in `httpx.HTTPTransport`.
        trust_env: Whether `SSL_CERT_FILE` and `SSL_CERT_DIR` count.
        http1: Whether HTTP/1.1 may be spoken.
        http2: Whether HTTP/2 may be spoken; needs the extra `http2`.
        limits: `httpx.Limits`: `max_connections` is `max_total_sockets`, `max_keepalive_connections` is
            `max_total_free_sockets`, `keepalive_expiry` is `free_socket_timeout`; an option given by name wins.
        proxy: A proxy, as in `httpx.HTTPTransport`: http, https, or socks5 with the extra `socks`.
        uds: Path of a Unix socket to connect to instead.
        local_address: Address to connect from.
        retries: Further attempts to connect.
        socket_options: Arguments for `socket.setsockopt`, set last.
        **options: The agent's own options; see `AgentOptions`.

    Raises:
        TypeError: For a value of a wrong type.
        ValueError: For a value that cannot be.
        ImportError: If an option needs a package that is not installed.
    """

    __module__ = "httpx_agent"  # where users know it from

    family: ClassVar[Family] = Family(httpx, httpcore)


class AgentPool(BasePool):
    """The pool under this family's transports; a class of its own, so that a mock can replace its methods."""


# The bases declare `_pool` with types of their own, and mypy minds; one pool of ours serves both of httpx's.
class AgentTransport(  # type: ignore[misc]
    BaseTransport[httpx.Limits, httpx.Proxy, httpx.URL, Agent], httpx.HTTPTransport, httpx.AsyncHTTPTransport
):
    """A transport for `httpx.Client` and `httpx.AsyncClient` alike, whose sockets an `Agent` manages.

    It takes the place of `httpx.HTTPTransport` and `httpx.AsyncHTTPTransport`: the same arguments in the same places,
    the same responses and exceptions. Every response carries a `RequestInfo` in ``response.extensions["agent"]``.

    Args:
        verify: This and the other positional ones: as in `Agent`.
        cert: See `Agent`.
        trust_env: See `Agent`.
        http1: See `Agent`.
        http2: See `Agent`.
        limits: See `Agent`.
        proxy: See `Agent`.
        uds: See `Agent`.
        local_address: See `Agent`.
        retries: See `Agent`.
        socket_options: See `Agent`.
        agent: An agent to borrow: closing the transport leaves it alone. Without one, the transport makes its own
            from the other options and closes it.
        **options: The agent's own options; see `AgentOptions`.

    Raises:
        TypeError: For a value of a wrong type, or another option beside `agent`.
        ValueError: For a value that cannot be.
        ImportError: If an option needs a package that is not installed.
    """

    __module__ = "httpx_agent"

    _agent_class = Agent
    _pool_class = AgentPool
    _sync_body = httpx.SyncByteStream
    _async_body = httpx.AsyncByteStream
