"""The part that the transports of all families share: their arguments and their agent."""

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

#: The module with the transport for each client library.
_MODULES = {"httpx": "httpx_agent", "httpx2": "httpx_agent.httpx2"}


class BaseTransport(StrictAttributes, Generic[Limits, Proxy, URL, Agent]):
    """A transport of any family; see `httpx_agent.AgentTransport`.

    It precedes the family's own transports among the bases. It only replaces their constructors and checks a request
    before they do: everything else in them works with any object in `_pool`, and other tools replace their methods.
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
        """Make the pool of a transport, over the given agent or over its own.

        With an HTTP proxy, the pool is also an `httpcore.HTTPProxy`. This is how other tools learn whether a transport
        has a proxy, and which one: `proxy_url` in pytest-httpx, for instance.

        Raises:
            TypeError: If both an agent and options are given, or if the agent is of another family.
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
        """Return the proxies from the environment as a client's `mounts`; httpx ignores them if `transport=` is given.

        Read `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` as httpx does, in upper or lower case; on macOS and
        Windows also the system's settings. Each proxy URL has its own agent, whose limits apply to that proxy. If a
        proxy applies to several patterns, the first transport owns the agent and the others borrow it. ``None`` tells
        httpx to use `transport=`, without a proxy.

            client = httpx.Client(transport=AgentTransport(), mounts=AgentTransport.mounts_from_env())

        Args:
            **options: The options of `AgentTransport`, used for each agent; `agent` and `proxy` are not allowed.

        Raises:
            TypeError: If `agent`, `proxy` or an unknown option is given, or a value has the wrong type; raised
                regardless of the environment.
            ValueError: If a proxy or an option's value is invalid.
            ImportError: If a proxy or an option needs a package that is not installed.
        """
        for name in ("agent", "proxy"):
            if name in options:
                raise TypeError(f"{name}= is not allowed: each proxy from the environment has its own agent")
        if cls.__init__ is BaseTransport.__init__:  # only the subclass knows which options it takes
            given = {name: value for name, value in options.items() if value is not UNSET}
            checked = check_options(given, cls._agent_class.family)
            # Use the checked values: an iterator can be read only once, and there may be several agents.
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
        """Send a request, by the method of the family's own transport, which other tools may have replaced.

        Raises:
            TypeError: If the request is from another family's client, or its body is for event loops.
        """
        if not isinstance(getattr(request, "stream", None), self._sync_body):
            raise self._refusal(request, "an AsyncClient")
        return super().handle_request(request)  # type: ignore[misc]

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request, by the method of the family's own transport, which other tools may have replaced.

        Raises:
            TypeError: If the request is from another family's client, or its body is for threads.
        """
        if not isinstance(getattr(request, "stream", None), self._async_body):
            raise self._refusal(request, "a Client")
        return await super().handle_async_request(request)  # type: ignore[misc]

    def _refusal(self, request: Any, other_client: str) -> TypeError:
        """Return an error that explains what the family's own transport merely asserts."""
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
