"""The family of httpx and httpcore: the classes that users meet."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Any, ClassVar, Self, Unpack

import httpcore
import httpx

from ._agent import BaseAgent
from ._environment import proxies_from_environment
from ._family import Family
from ._mocks import register_with_respx
from ._options import UNSET, AgentKeywords, SocketOption, Unset
from ._pool import BasePool


class Agent(BaseAgent):
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

    family: ClassVar[Family] = Family(httpx, httpcore)

    def __init__(
        self,
        verify: ssl.SSLContext | str | bool | Unset = UNSET,
        cert: Any = UNSET,
        trust_env: bool | Unset = UNSET,
        http1: bool | Unset = UNSET,
        http2: bool | Unset = UNSET,
        limits: httpx.Limits | Unset | None = UNSET,
        proxy: httpx.Proxy | httpx.URL | str | Unset | None = UNSET,
        uds: str | Unset | None = UNSET,
        local_address: str | Unset | None = UNSET,
        retries: int | Unset = UNSET,
        socket_options: Iterable[SocketOption] | Unset | None = UNSET,
        **options: Unpack[AgentKeywords],
    ) -> None:
        super().__init__(
            {
                "verify": verify,
                "cert": cert,
                "trust_env": trust_env,
                "http1": http1,
                "http2": http2,
                "limits": limits,
                "proxy": proxy,
                "uds": uds,
                "local_address": local_address,
                "retries": retries,
                "socket_options": socket_options,
                **options,
            }
        )


class AgentPool(BasePool):
    """The pool under this family's transports; a class of its own, so that a mock can replace its methods."""


# The two bases declare `_pool` with types of their own, and mypy minds; one pool of ours serves both.
class AgentTransport(httpx.HTTPTransport, httpx.AsyncHTTPTransport):  # type: ignore[misc]
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

    def __init__(
        self,
        verify: ssl.SSLContext | str | bool | Unset = UNSET,
        cert: Any = UNSET,
        trust_env: bool | Unset = UNSET,
        http1: bool | Unset = UNSET,
        http2: bool | Unset = UNSET,
        limits: httpx.Limits | Unset | None = UNSET,
        proxy: httpx.Proxy | httpx.URL | str | Unset | None = UNSET,
        uds: str | Unset | None = UNSET,
        local_address: str | Unset | None = UNSET,
        retries: int | Unset = UNSET,
        socket_options: Iterable[SocketOption] | Unset | None = UNSET,
        *,
        agent: Agent | None = None,
        **options: Unpack[AgentKeywords],
    ) -> None:
        connect_options = {
            "verify": verify,
            "cert": cert,
            "trust_env": trust_env,
            "http1": http1,
            "http2": http2,
            "limits": limits,
            "proxy": proxy,
            "uds": uds,
            "local_address": local_address,
            "retries": retries,
            "socket_options": socket_options,
        }
        self._pool = AgentPool.for_transport(Agent, agent, {**connect_options, **options})  # type: ignore[assignment]
        register_with_respx(AgentPool)

    @classmethod
    def mounts_from_env(cls, **options: Any) -> dict[str, Self | None]:
        """The proxies of the environment as `mounts` of a client; httpx drops them where `transport=` is given.

        Reads `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` as httpx does, in capital or small letters; on
        macOS and Windows the system's settings count as well. Each proxy URL has an agent of its own: its limits hold
        for that proxy. Where a proxy stands under several patterns, the first transport owns the agent and the others
        borrow it. ``None`` is what httpx takes for "no proxy: use `transport=`".

            client = httpx.Client(transport=AgentTransport(), mounts=AgentTransport.mounts_from_env())

        Args:
            **options: Those of `AgentTransport`, for each agent; not `agent` and not `proxy`.

        Raises:
            TypeError: For `agent`, `proxy`, or an option's value of a wrong type.
            ValueError: For a proxy or an option's value that cannot be.
            ImportError: If a proxy or an option needs a package that is not installed.
        """
        for name in ("agent", "proxy"):
            if name in options:
                raise TypeError(f"{name}= cannot be given: each proxy of the environment has an agent of its own")
        owners: dict[str, Self] = {}
        mounts: dict[str, Self | None] = {}
        for pattern, url in proxies_from_environment().items():
            if url is None:
                mounts[pattern] = None
            elif url in owners:
                mounts[pattern] = cls(agent=owners[url].agent)
            else:
                mounts[pattern] = owners[url] = cls(proxy=url, **options)
        return mounts

    @property
    def agent(self) -> Agent:
        """The agent that manages the sockets."""
        agent: Agent = self._pool.agent  # type: ignore[attr-defined]
        return agent

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.agent!r}>"
