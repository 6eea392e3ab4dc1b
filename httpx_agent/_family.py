"""The libraries that the engine works with: httpx and httpcore, or a pair that is made like them."""

from __future__ import annotations

from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from ._network import AsyncStream, SyncStream

if TYPE_CHECKING:
    from ._pool import BasePool

Pool = TypeVar("Pool", bound="BasePool")


class Family:
    """One pair of libraries. Nothing else in the engine imports either of them.

    Args:
        httpx: The client library.
        httpcore: The library that it stands on.
    """

    def __init__(self, httpx: ModuleType, httpcore: ModuleType) -> None:
        self.httpx = httpx
        self.httpcore = httpcore
        self._proxied_pools: dict[type, type] = {}

    @cached_property
    def sync_stream(self) -> type[SyncStream]:
        """Our stream as a `NetworkStream` of this family."""
        return type("AgentStream", (SyncStream, self.httpcore.NetworkStream), {})

    @cached_property
    def async_stream(self) -> type[AsyncStream]:
        """Our stream as an `AsyncNetworkStream` of this family."""
        return type("AsyncAgentStream", (AsyncStream, self.httpcore.AsyncNetworkStream), {})

    def pool(self, pool: type[Pool], proxy: Any) -> type[Pool]:
        """The class for the pool of a transport; where an HTTP proxy is used, it is also an `httpcore.HTTPProxy`.

        That is how others know that a transport has a proxy, and which: the `proxy_url` of pytest-httpx, for one.
        """
        if proxy is None or proxy.url.scheme.startswith("socks"):
            return pool
        if pool not in self._proxied_pools:
            self._proxied_pools[pool] = type(pool.__name__, (pool, self.httpcore.HTTPProxy), {})
        return self._proxied_pools[pool]

    def socket_stream(self, socket: object) -> Any:
        """The stream of httpcore over a socket that we connected.

        The one private name that we use of httpcore: its public `SyncBackend` connects by itself, so that a thread
        that waits for a connection could not be woken when the agent is closed.
        """
        return self.httpcore._backends.sync.SyncStream(socket)
