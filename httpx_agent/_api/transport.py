"""What the transports of all families have in common: their arguments and their agent."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Generic, Self, TypeVar, Unpack

from .._pool.pool import BasePool
from .._values.environment import proxies_from_environment
from .._values.options import (
    LIVE_OPTIONS,
    UNSET,
    AgentKeywords,
    AgentOptions,
    SocketOption,
    Unset,
    check_names,
    check_options,
    check_proxy,
    full_name,
    root_of,
)
from .agent import MEMBERS, URL, AnyAgent, Limits, Proxy, hint_of_agent
from .attributes import StrictAttributes
from .pickling import state_of

Agent = TypeVar("Agent", bound=AnyAgent)

#: Where the transport of each client library is.
_MODULES = {"httpx": "httpx_agent", "httpx2": "httpx_agent.httpx2"}


class BaseTransport(StrictAttributes, Generic[Limits, Proxy, URL, Agent]):
    """A transport of any family; see `httpx_agent.AgentTransport`.

    It comes before the family's own transports among the bases, and takes only their constructors' place, and looks at
    a request before they do: all that they have works with whatever stands in `_pool`, and other tools replace their
    methods.
    """

    _agent_class: ClassVar[type[AnyAgent]]
    _pool_class: ClassVar[type[BasePool]]
    _sync_body: ClassVar[type]
    _async_body: ClassVar[type]
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
        check_names(given, "agent")
        self._pool = self._make_pool(agent, given)

    @classmethod
    def _make_pool(cls, agent: object, options: Mapping[str, Any]) -> BasePool:
        """Make the pool of a transport: over the agent that was given, or over one of its own.

        Where an HTTP proxy is used, the pool is also an `httpcore.HTTPProxy`. That is how others tell that a transport
        has a proxy, and which one: the `proxy_url` of pytest-httpx, for instance.

        Raises:
            TypeError: If both an agent and options were given, or an agent of another family.
        """
        owns_agent = agent is None
        if owns_agent:
            agent = cls._agent_class(**options)
        else:
            given = [name for name, value in options.items() if value is not UNSET]
            if given:
                names = ", ".join(given)
                raise TypeError(f"agent= cannot be combined with other options (got {names}): pass them to the agent")
        if not isinstance(agent, cls._agent_class):
            expected, found = full_name(cls._agent_class), full_name(type(agent))
            raise TypeError(f"agent={agent!r}: expected an {expected}, got {found}")
        kind, proxy = cls._pool_class, agent.options.proxy
        if proxy is not None and not proxy.url.scheme.startswith("socks"):
            kind = agent.family.dress(kind, "HTTPProxy")
        return kind(agent, agent._dispatcher, owns_agent=owns_agent)

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
            TypeError: For `agent`, `proxy`, an unknown option, or an option's value of a wrong type, whatever the
                environment says.
            ValueError: For a proxy or an option's value that cannot be.
            ImportError: If a proxy or an option needs a package that is not installed.
        """
        for name in ("agent", "proxy"):
            if name in options:
                raise TypeError(f"{name}= is not allowed: each proxy from the environment has its own agent")
        if cls.__init__ is BaseTransport.__init__:  # which of its own a subclass takes, it alone knows
            given = {name: value for name, value in options.items() if value is not UNSET}
            checked = check_options(given, cls._agent_class.family)
            # Those that were checked: an iterator gives its values once, and the agents may be several.
            options = {name: getattr(checked, name) for name in given}
        owners: dict[str, Self] = {}
        mounts: dict[str, Self | None] = {}
        for pattern, url in proxies_from_environment().items():
            if url is None:
                mounts[pattern] = None
            elif url in owners:
                mounts[pattern] = cls(agent=owners[url].agent)
            else:
                proxy = check_proxy(url, cls._agent_class.family.httpx, f"{pattern.removesuffix('://')}_proxy")
                mounts[pattern] = owners[url] = cls(proxy=proxy, **options)
        return mounts

    def handle_request(self, request: Any) -> Any:
        """As in the family's own transport, whose method does the work, and which others may have replaced.

        Raises:
            TypeError: For a request of another family's client, or with a body for event loops.
        """
        if not isinstance(getattr(request, "stream", None), self._sync_body):
            raise self._refusal(request, "an AsyncClient")
        return super().handle_request(request)  # type: ignore[misc]

    async def handle_async_request(self, request: Any) -> Any:
        """As in the family's own transport, whose method does the work, and which others may have replaced.

        Raises:
            TypeError: For a request of another family's client, or with a body for threads.
        """
        if not isinstance(getattr(request, "stream", None), self._async_body):
            raise self._refusal(request, "a Client")
        return await super().handle_async_request(request)  # type: ignore[misc]

    def _refusal(self, request: Any, other_client: str) -> TypeError:
        """Explain what the family's own transport asserts."""
        httpx = self._agent_class.family.httpx
        named = full_name(type(self))
        if isinstance(request, httpx.Request):
            return TypeError(
                f"{named} got a request whose body is for {other_client} ({full_name(type(request.stream))}); "
                f"nothing was sent. Use {other_client}, or pass the body as bytes"
            )
        theirs = next((root for base in type(request).__mro__ if (root := root_of(base)) in _MODULES), httpx.__name__)
        if theirs == httpx.__name__:
            return TypeError(f"{named}: expected an {theirs}.Request, got {full_name(type(request))}")
        return TypeError(
            f"{named} works with {httpx.__name__} clients but got an {theirs} request ({full_name(type(request))}); "
            f"nothing was sent. Use `from {_MODULES[theirs]} import AgentTransport`"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _borrow, (type(self), self.agent), state_of(self, {"_pool"}) or None

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)

    def _hint(self, name: str, *, is_set: bool) -> str | None:
        if name in AgentOptions.__dataclass_fields__ and is_set and name not in LIVE_OPTIONS:
            return f"it is set when the agent is made: AgentTransport({name}=…)"
        if name in AgentOptions.__dataclass_fields__ or name in MEMBERS:
            return f"it belongs to the agent: transport.agent.{name}"
        text = hint_of_agent(name, is_set=is_set)
        return text and f"on transport.agent, {text}"

    @property
    def agent(self) -> Agent:
        """The agent that manages the sockets."""
        agent: Agent = self._pool.agent  # type: ignore[assignment]
        return agent

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.agent!r}>"


def _borrow(kind: type[Any], agent: AnyAgent) -> Any:
    """Return a copy of a transport, in this or another process; it borrows the agent, which outlives it."""
    transport: Any = object.__new__(kind)
    transport._pool = kind._make_pool(agent, {})
    return transport
