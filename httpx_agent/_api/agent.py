"""The public face of an agent; the dispatcher behind it does the work."""

from __future__ import annotations

import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, Unpack, overload

from .._pool.dispatcher import Dispatcher
from .._rules.core import State
from .._runtime.clock import find_clock
from .._runtime.flows import arun, run
from .._values.frozen import FrozenDict
from .._values.option_hints import ANSWERS, CALLS, hint
from .._values.options import LIVE_OPTIONS, UNSET, AgentKeywords, AgentOptions, SocketOption, Unset
from .._values.status import AgentStatus, SocketInfo
from .attributes import StrictAttributes
from .pickling import check_options as check_picklable
from .pickling import identities, revive, state_of

if TYPE_CHECKING:
    from types import TracebackType

    from .._family import Family

T = TypeVar("T")

# Stand for a family's classes, under the same names, so that signatures read as the family's own.
Limits = TypeVar("Limits")
Proxy = TypeVar("Proxy")
URL = TypeVar("URL")


class Option(Generic[T]):
    """An option of an agent as an attribute; some can be set while it runs."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, agent: None, owner: type) -> Option[T]: ...
    @overload
    def __get__(self, agent: AnyAgent, owner: type) -> T: ...
    def __get__(self, agent: AnyAgent | None, owner: type) -> Option[T] | T:
        if agent is None:
            return self
        value: T = getattr(agent.options, self._name)
        return value

    def __set__(self, agent: AnyAgent, value: T) -> None:
        if self._name not in LIVE_OPTIONS:
            settable = ", ".join(sorted(LIVE_OPTIONS))
            raise AttributeError(f"{self._name} cannot be changed after the agent is made; these can: {settable}")
        agent._dispatcher.set_option(self._name, value)


class BaseAgent(StrictAttributes, Generic[Limits, Proxy, URL]):
    """An agent of any family; see `httpx_agent.Agent`."""

    family: ClassVar[Family]

    keep_alive = Option[bool]()
    keep_alive_initial_delay = Option["float | None"]()
    max_sockets = Option["int | None"]()
    max_total_sockets = Option["int | None"]()
    max_free_sockets = Option["int | None"]()
    max_total_free_sockets = Option["int | None"]()
    scheduling = Option[str]()
    timeout = Option["float | None"]()
    free_socket_timeout = Option["float | None"]()
    socket_active_ttl = Option["float | None"]()
    keep_alive_timeout_buffer = Option[float]()
    max_cached_sessions = Option[int]()
    http1_engine = Option[str]()
    per_origin = Option[Mapping[str, Mapping[str, Any]] | None]()
    debug = Option[bool]()
    retry_stale_sockets = Option[bool]()
    verify = Option[Any]()
    cert = Option[Any]()
    trust_env = Option[bool]()
    http1 = Option[bool]()
    http2 = Option[bool]()
    limits = Option[Any]()
    proxy = Option[Any]()
    uds = Option["str | None"]()
    local_address = Option["str | None"]()
    retries = Option[int]()
    socket_options = Option["tuple[Any, ...] | None"]()
    network_backend = Option[Any]()
    async_network_backend = Option[Any]()

    #: The clock by which sockets age and stay free.
    _clock: Callable[[], float] = staticmethod(find_clock())

    #: The clock by which requests wait.
    _stopwatch: Callable[[], float] = staticmethod(time.monotonic)

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
        self._set_up(given)

    def _set_up(self, given: dict[str, Any], identity: str | None = None) -> None:
        self._dispatcher = Dispatcher(self.family, given, self._clock, self._stopwatch)
        self._seen_counters = self._dispatcher.counters()
        #: Identifies the agent in every process that it is sent to.
        self._identity = identities.enter(self, identity)

    @property
    def options(self) -> AgentOptions:
        """All options; frozen."""
        return self._dispatcher.options

    def status(self) -> AgentStatus:
        """Return a snapshot of the counters, sockets and waiting requests (R38, R40).

        It looks at every socket and every waiting request.
        """
        counters, sockets, waiting = self._dispatcher.snapshot()
        in_use = Counter(socket.key.origin for view, socket in sockets if view.state is not State.FREE)
        free = Counter(socket.key.origin for view, socket in sockets if view.state is State.FREE)
        return AgentStatus(
            **{f"{name}_count": value for name, value in asdict(counters).items()},
            sockets=FrozenDict(in_use),
            free_sockets=FrozenDict(free),
            requests=FrozenDict(Counter(key.origin for key in waiting)),
        )

    @property
    def status_changed(self) -> bool:
        """Whether a counter has changed since this was last true (R39). Only one reader may use it."""
        counters = self._dispatcher.counters()
        changed = counters != self._seen_counters
        self._seen_counters = counters
        return changed

    def sockets(self) -> tuple[SocketInfo, ...]:
        """Return every socket, oldest first."""
        _, sockets, _ = self._dispatcher.snapshot()
        return tuple(
            SocketInfo(
                id=view.id,
                origin=socket.key.origin,
                state=view.state.value,
                request_count=view.request_count,
                age=view.age,
                idle_for=view.idle_for,
                expires_in=view.expires_in,
                local_address=socket.local_address,
                peer_address=socket.peer_address,
                http_version=socket.http_version,
            )
            for view, socket in sockets
        )

    def forget_sessions(self, origin: URL | str | None = None) -> None:
        """Forget the TLS sessions of all origins, or of one, so that new connections authenticate again.

        A resumed session carries over the identities from its original handshake. Call this after a client certificate
        or a server's certificate has changed. From then on, no new connection resumes an earlier session, and
        connections already open contribute no new sessions. They stay open with the identities they have; `close` ends
        them.

        May be called from any thread and in any event loop.

        Args:
            origin: The origin, such as ``"https://example.com"``, or any URL of it. Sessions for every
                `sni_hostname` of the origin are forgotten. ``None`` means all origins.

        Raises:
            TypeError: If `origin` is neither a URL nor a `str`.
            ValueError: If `origin` is not an https or wss URL with a host.
        """
        self._dispatcher.clear_sessions(origin)

    def close(self) -> None:
        """Close every socket and fail every request: Node's `destroy()`, with its defects repaired (R24, N13).

        Requests that are waiting or connecting fail at once with `httpx.ConnectError` (nothing was sent), those in
        flight with `httpx.ReadError`. Sync sockets are closed when this returns; each event loop closes its own
        afterwards. May be called repeatedly, from any thread. An agent that is used again opens new sockets.
        """
        if self._dispatcher.is_locked_here():
            self._dispatcher.sync_home.call_soon(self.close)
            return
        identities.let_go(self)
        run(self._dispatcher.close(self._dispatcher.sync_home))

    async def aclose(self) -> None:
        """Close the agent from an event loop; that loop's sockets and the sync ones are closed when this returns.

        Otherwise the same as `close`.
        """
        identities.let_go(self)
        home = self._dispatcher.find_async_home() or await self._dispatcher.new_async_home()
        await arun(self._dispatcher.close(home))
        await self._dispatcher.leave_home(home)

    def __copy__(self) -> Self:
        return self  # an agent has an identity, like a lock or a file

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        options = self._dispatcher.given_options()
        check_picklable(options)
        return revive, (type(self), self._identity, options), state_of(self, _OWN_ATTRIBUTES) or None

    def __setstate__(self, state: dict[str, Any]) -> None:
        known = state_of(self, _OWN_ATTRIBUTES)
        for name, value in state.items():
            if name not in known:  # an agent that already exists here keeps its values
                object.__setattr__(self, name, value)

    def _hint(self, name: str, *, is_set: bool) -> str | None:
        return hint_of_agent(name, is_set=is_set)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        _, sockets, waiting = self._dispatcher.snapshot()
        states = Counter(view.state for view, _ in sockets)
        held = ", ".join(f"{states[state]} {state.value}" for state in State if states[state]) or "none"
        return f"<{type(self).__name__} sockets: {held}; requests waiting: {len(waiting)}>"


_OPTIONS = tuple(AgentOptions.__dataclass_fields__)

#: The public methods and attributes of an agent other than its options.
MEMBERS = tuple(name for name in vars(BaseAgent) if not name.startswith("_") and name not in _OPTIONS)


@lru_cache(256)  # some programs look for the same attribute again and again
def hint_of_agent(name: str, *, is_set: bool) -> str | None:
    """Explain what a name that an agent does not have was probably meant to be."""
    if is_set:
        return hint(name, _OPTIONS)
    if name in ("handle_request", "handle_async_request"):
        return "an agent is not a transport: pass the client AgentTransport(agent=…)"
    if name in AgentStatus.__dataclass_fields__:
        return f"use status().{name}"
    return hint(name, (*_OPTIONS, *MEMBERS), (*CALLS, *ANSWERS))


#: An agent's own instance attributes, as opposed to those that a subclass or a user adds.
_OWN_ATTRIBUTES = frozenset({"_dispatcher", "_seen_counters", "_identity"})

AnyAgent = BaseAgent[Any, Any, Any]
