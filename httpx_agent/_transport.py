"""What the transports of all families have in common: their arguments and their agent."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Any, ClassVar, Generic, TypeVar, Unpack

from ._agent import URL, AnyAgent, Limits, Proxy
from ._mocks import register_with_respx
from ._options import UNSET, AgentKeywords, SocketOption, Unset
from ._pool import BasePool

Agent = TypeVar("Agent", bound=AnyAgent)


class BaseTransport(Generic[Limits, Proxy, URL, Agent]):
    """A transport of any family; see `httpx_agent.AgentTransport`.

    It comes before the family's own transports among the bases, and takes only their constructors' place: all that
    they have besides works with whatever stands in `_pool`, and other tools replace their methods.
    """

    _agent_class: ClassVar[type[AnyAgent]]
    _pool_class: ClassVar[type[BasePool]]
    _pool: BasePool

    def __init__(
        self,
        verify: ssl.SSLContext | str | bool | Unset = UNSET,
        cert: Any = UNSET,
        trust_env: bool | Unset = UNSET,
        http1: bool | Unset = UNSET,
        http2: bool | Unset = UNSET,
        limits: Limits | Unset | None = UNSET,
        proxy: Proxy | URL | str | Unset | None = UNSET,
        uds: str | Unset | None = UNSET,
        local_address: str | Unset | None = UNSET,
        retries: int | Unset = UNSET,
        socket_options: Iterable[SocketOption] | Unset | None = UNSET,
        *,
        agent: Agent | None = None,
        **options: Unpack[AgentKeywords],
    ) -> None:
        given = {
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
        self._pool = self._pool_class.for_transport(self._agent_class, agent, given)
        register_with_respx(self._pool_class, self._agent_class.family.httpcore)

    @property
    def agent(self) -> Agent:
        """The agent that manages the sockets."""
        agent: Agent = self._pool.agent  # type: ignore[assignment]
        return agent

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.agent!r}>"
