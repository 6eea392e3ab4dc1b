"""The libraries that the engine works with: httpx and httpcore, or a pair that is made like them."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from ._asyncio_streams import AsyncioStream
from ._cycles import Cycles
from ._http1_asyncio import AsyncioHttp1Connection
from ._http1_sync import SyncHttp1Connection
from ._mocks import Originals
from ._network import AsyncStream, SyncStream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._pool import BasePool

#: Packages whose errors tell of a connection.
_NETWORK = frozenset({"httpcore", "httpcore2", "h11", "h2", "hpack", "hyperframe", "socksio"})

Pool = TypeVar("Pool", bound="BasePool")

#: Where the transport for a client library is.
HOMES = {"httpx": "httpx_agent", "httpx2": "httpx_agent.httpx2"}


class Family:
    """One pair of libraries. Nothing else in the engine imports either of them.

    Args:
        httpx: The client library.
        httpcore: The library that it stands on.
    """

    def __init__(self, httpx: ModuleType, httpcore: ModuleType) -> None:
        self.httpx = httpx
        self.httpcore = httpcore
        self.cycles = Cycles(httpx)
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
            bases = (pool, self.httpcore.HTTPProxy)
            self._proxied_pools[pool] = type(pool.__name__, bases, {"__module__": pool.__module__})
        return self._proxied_pools[pool]

    @cached_property
    def asyncio_stream(self) -> type[AsyncioStream]:
        """The stream of the fast engine as an `AsyncNetworkStream` of this family."""
        return type("AsyncioStream", (AsyncioStream, self.httpcore.AsyncNetworkStream), {})

    @cached_property
    def sync_http1_connection(self) -> type[SyncHttp1Connection]:
        """The fast connection as a `ConnectionInterface` of this family."""
        return type("SyncHttp1Connection", (SyncHttp1Connection, self.httpcore.ConnectionInterface), {})

    @cached_property
    def asyncio_http1_connection(self) -> type[AsyncioHttp1Connection]:
        """The fast connection as an `AsyncConnectionInterface` of this family."""
        return type("AsyncioHttp1Connection", (AsyncioHttp1Connection, self.httpcore.AsyncConnectionInterface), {})

    @cached_property
    def http1_response(self) -> Any:
        """A `Response` of this family for the fast engine, which has made sure of what it is made of."""

        class Response(self.httpcore.Response):  # type: ignore[name-defined, misc]
            def __init__(
                self, status: int, headers: list[tuple[bytes, bytes]], stream: Any, extensions: dict[str, Any]
            ) -> None:
                self.status = status
                self.headers = headers
                self.stream = stream
                self.extensions = extensions
                self._stream_consumed = False

        return Response

    def is_of_network(self, error: Exception) -> bool:
        """Return whether a connection may end so; other errors are a caller's: a signal's handler may raise anywhere.

        The system's errors have numbers. A `TimeoutError` without one is that of such a handler, where nothing waits.
        """
        if isinstance(error, TimeoutError):
            return error.errno is not None
        return isinstance(error, (OSError, EOFError, ValueError)) or any(
            kind.__module__.partition(".")[0] in _NETWORK for kind in type(error).__mro__
        )

    @contextmanager
    def suppress_network_errors(self) -> Iterator[None]:
        """Ignore however a connection ends in this block, and let everything else out."""
        try:
            yield
        except Exception as error:
            if not self.is_of_network(error):
                raise

    def are_replaced(self, *, is_async: bool) -> bool:
        """Whether a mock stands in the place of httpcore's own way to send a request."""
        return (self._async_originals if is_async else self._sync_originals).are_replaced()

    @cached_property
    def _sync_originals(self) -> Originals:
        httpcore = self.httpcore
        classes = (httpcore.HTTPConnection, httpcore.HTTP11Connection, httpcore.ConnectionPool, httpcore.HTTPProxy)
        return Originals(classes, "handle_request")

    @cached_property
    def _async_originals(self) -> Originals:
        httpcore = self.httpcore
        classes = (
            httpcore.AsyncHTTPConnection,
            httpcore.AsyncHTTP11Connection,
            httpcore.AsyncConnectionPool,
            httpcore.AsyncHTTPProxy,
        )
        return Originals(classes, "handle_async_request")

    async def anyio_stream(self, sock: Any) -> Any:
        """The stream of httpcore over anyio's, over a Unix socket that we connected; private as that below."""
        stream = await anyio.abc.UNIXSocketStream.from_socket(sock)
        return self.httpcore._backends.anyio.AnyIOStream(stream)

    def socket_stream(self, socket: object) -> Any:
        """The stream of httpcore over a socket that we connected.

        A private name of httpcore: its public `SyncBackend` connects by itself, so that a thread
        that waits for a connection could not be woken when the agent is closed.
        """
        return self.httpcore._backends.sync.SyncStream(socket)

    def is_socket_stream(self, stream: object) -> bool:
        """Return whether a stream is of that kind, so that its socket is what it reads and writes."""
        return isinstance(stream, self.httpcore._backends.sync.SyncStream)
