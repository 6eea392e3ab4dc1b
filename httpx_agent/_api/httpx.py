"""The public classes for the family of httpx and httpcore."""

from __future__ import annotations

from typing import ClassVar

import httpcore
import httpx

from .._family import Family
from .._pool.pool import BasePool
from .agent import BaseAgent
from .transport import BaseTransport


class Agent(BaseAgent[httpx.Limits, httpx.Proxy, httpx.URL]):
    """An agent that manages the sockets of `AgentTransport` by the rules of Node's `http.Agent` and `agentkeepalive`.

    One agent may serve several transports, sync and async clients, threads and event loops at once; its limits and
    counters apply to all of them together. A socket stays where it was opened: in the sync world, or in its event loop.

    Times are in seconds (`float`) or `datetime.timedelta`; ``None`` means no limit. `AgentOptions` describes each
    option. Every option can be read as an attribute; `max_sockets`, `max_total_sockets`, `max_free_sockets` and
    `scheduling` can also be set while the agent runs.

    Args:
        verify: TLS verification, as in `httpx.HTTPTransport`.
        cert: Client certificate, as in `httpx.HTTPTransport`.
        trust_env: Whether to use `SSL_CERT_FILE` and `SSL_CERT_DIR`.
        http1: Whether to allow HTTP/1.1.
        http2: Whether to allow HTTP/2; needs the extra `http2`.
        limits: An `httpx.Limits`: `max_connections` sets `max_total_sockets`, `max_keepalive_connections` sets
            `max_total_free_sockets`, and `keepalive_expiry` sets `free_socket_timeout`. An option given by name takes
            precedence.
        proxy: A proxy, as in `httpx.HTTPTransport`: http, https, or socks5 with the extra `socks`.
        uds: The path of a Unix socket to connect to instead.
        local_address: The address to connect from.
        retries: How many further attempts to connect to make.
        socket_options: Arguments for `socket.setsockopt`, applied last.
        **options: The agent's own options; see `AgentOptions`.

    Raises:
        TypeError: If an option is unknown, or a value has the wrong type.
        ValueError: If a value is invalid.
        ImportError: If an option needs a package that is not installed.
    """

    __module__ = "httpx_agent"  # where users import it from

    family: ClassVar[Family] = Family(httpx, httpcore)


class AgentPool(BasePool):
    """The pool of this family's transports; a separate class, so that a mock can replace its methods."""


# The bases declare `_pool` with different types, to which mypy objects; our one pool serves both.
class AgentTransport(  # type: ignore[misc]
    BaseTransport[httpx.Limits, httpx.Proxy, httpx.URL, Agent], httpx.HTTPTransport, httpx.AsyncHTTPTransport
):
    """A transport for `httpx.Client` and `httpx.AsyncClient` with sockets managed by an `Agent`.

    It replaces `httpx.HTTPTransport` and `httpx.AsyncHTTPTransport`, with the same arguments in the same order and the
    same responses and exceptions. Every response carries a `RequestInfo` in ``response.extensions["agent"]``.

    Args:
        verify: See `Agent`; the other positional arguments are the same too.
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
        agent: An agent to borrow; closing the transport does not close it. Without one, the transport makes its own
            from the other options, and closes it.
        **options: The agent's own options; see `AgentOptions`.

    Raises:
        TypeError: If an option is unknown, a value has the wrong type, or another option is given with `agent`.
        ValueError: If a value is invalid.
        ImportError: If an option needs a package that is not installed.
    """

    __module__ = "httpx_agent"

    _agent_class = Agent
    _pool_class = AgentPool
    _sync_body = httpx.SyncByteStream
    _async_body = httpx.AsyncByteStream
