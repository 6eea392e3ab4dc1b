"""Make connections: the fast engine's if it can serve, otherwise httpcore's own, through its public factory."""

from __future__ import annotations

import asyncio
import math
import ssl
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import sniffio

from .._network.anyio import AsyncBackend
from .._network.asyncio import AsyncioConnector
from .._network.certificates import check_files, create_ssl_context
from .._network.connecting import RacingConnector, SyncConnector
from .._network.sessions import SessionCache
from .._network.sync import SyncBackend
from .._network.tls import StandIns, TlsContext
from .._network.wire import Wire
from .._protocol.http1 import RecentFields, is_installed
from .._runtime.contexts import DetachedBackend
from .http1_asyncio import AsyncioHttp1Connection
from .http1_sync import SyncHttp1Connection
from .httpcore import AsyncHttpcoreConnection, SyncHttpcoreConnection
from .interface import AsyncConnection, Connection, SyncConnection

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._family import Family
    from .._network.wire import Listener
    from .._runtime.homes import Home
    from .._values.options import AgentOptions
    from .._values.origins import Key
    from .http1 import Http1Connection


Fast = TypeVar("Fast", bound="Http1Connection")


class ConnectionFactory:
    """Make the connections of one agent, according to its options.

    Args:
        family: The libraries.
        options: The agent's options.
    """

    def __init__(self, family: Family, options: AgentOptions) -> None:
        self._family = family
        self._options = options
        make_context = partial(create_ssl_context, family.httpx, options)
        self._tls = TlsContext(make_context, is_own=not isinstance(options.verify, ssl.SSLContext))
        self._proxy_tls: TlsContext | None = None
        self.proxy = self._make_proxy()
        self._proxy_name = "" if self.proxy is None else _name_of(self.proxy.url)
        self._known_stand_in: ssl.SSLContext | None = None
        self.resuming = StandIns(self._tls)
        self._recent_fields = RecentFields()
        self.sessions = SessionCache(options.max_cached_sessions)
        self._check_context()

    def after_fork(self) -> None:
        """Start without TLS sessions in a forked child, and do not wait for threads of the parent."""
        self.sessions = SessionCache(self._options.max_cached_sessions)
        self._tls.after_fork()
        if self._proxy_tls is not None:
            self._proxy_tls.after_fork()

    def _check_context(self) -> None:
        """Report errors in `verify` and `cert` at once; the default certificates, which take 30 ms to load, can wait.

        In an event loop any authorities can wait: there, check only what takes no time.
        """
        options = self._options
        reads_authorities = options.verify is True or isinstance(options.verify, str)
        if options.verify is True and options.cert is None:
            return
        if reads_authorities and _is_in_loop():
            check_files(self._family.httpx, options)
        else:
            self._tls.get()

    def _stand_in(self, key: Key) -> ssl.SSLContext | None:
        """Return the TLS context for connections, or a stand-in for it; with a proxy, `ws` also needs one."""
        if not _is_secure(key) and self.proxy is None:
            return None
        if self._known_stand_in is None:
            self._known_stand_in = self._tls.stand_in()
        return self._known_stand_in

    def wire(self, key: Key, listener: Listener, options: AgentOptions) -> Wire:
        """Return the network side of a new socket."""
        return Wire(self._family, listener, options, proxy=self._proxy_name)

    def connection(self, key: Key, wire: Wire, home: Home) -> Connection:
        """Make the connection of a new socket; it connects when it gets its first request."""
        if home.library is None:
            return self.sync_connection(key, wire)
        return self.async_connection(key, wire, home.library, home.call_soon)

    def sync_connection(self, key: Key, wire: Wire) -> SyncConnection:
        """Return a connection for threads; it connects when it gets its first request."""
        if _is_secure(key):
            self._tls.get()
        inner = self._options.network_backend or SyncConnector(wire)
        backend = SyncBackend(wire, inner)
        if self._is_fast(key, self._options.network_backend, is_async=False):
            kind = self._family.dress(SyncHttp1Connection, "ConnectionInterface")
            return self._create_fast(kind, key, wire, backend)
        connection = self._create(self._family.httpcore.ConnectionPool, key, backend)
        return SyncHttpcoreConnection(connection, wire, speaks_http2=self._speaks_http2())

    def async_connection(self, key: Key, wire: Wire, library: str, call_soon: Callable[..., None]) -> AsyncConnection:
        """Return a connection for an event loop of asyncio or trio; it connects when it gets its first request."""
        if _is_secure(key):
            self._tls.begin()  # loads during the connect; the handshake waits for it
        httpcore = self._family.httpcore
        inner = self._options.async_network_backend
        if library == "asyncio" and self._is_fast(key, inner, is_async=True):
            connector = DetachedBackend(AsyncioConnector(wire, call_soon), detaches_streams=False)
            backend = AsyncBackend(wire, connector, call_soon)
            kind = self._family.dress(AsyncioHttp1Connection, "AsyncConnectionInterface")
            return self._create_fast(kind, key, wire, backend)
        if inner is None:
            if library == "trio":
                inner = RacingConnector(wire, httpcore.TrioBackend(), call_soon)
            elif self.proxy is not None or self.may_multiplex(key):  # TLS within TLS; frames may come between requests
                racing = RacingConnector(wire, httpcore.AnyIOBackend(), call_soon)
                inner = DetachedBackend(racing, detaches_streams=True)
            else:
                inner = DetachedBackend(AsyncioConnector(wire, call_soon), detaches_streams=False)
        connection = self._create(httpcore.AsyncConnectionPool, key, AsyncBackend(wire, inner, call_soon))
        return AsyncHttpcoreConnection(connection, wire, speaks_http2=self._speaks_http2())

    def handshakes(self, key: Key) -> float:
        """Return after how many TLS handshakes a new socket is usable; infinity if only the first response shows it."""
        proxy = self.proxy
        if proxy is None:
            return _is_secure(key)
        if proxy.url.scheme.startswith(b"socks"):
            return 1 if key.scheme == "https" else math.inf
        return int(proxy.url.scheme == b"https") + int(key.scheme != "http")

    def resumes(self, key: Key) -> bool:
        """Return whether to keep TLS sessions for a key; a user's backend may not accept a context like ours."""
        options = self._options
        return (
            options.max_cached_sessions > 0
            and _is_secure(key)
            and options.network_backend is None
            and options.async_network_backend is None
        )

    def may_multiplex(self, key: Key) -> bool:
        """Return whether a new connection may turn out to use HTTP/2."""
        if not self._options.http2:
            return False
        return not self._options.http1 or _is_secure(key)

    def _speaks_http2(self) -> bool:
        """Return whether httpcore's connections use HTTP/2 without negotiation."""
        return self._options.http2 and not self._options.http1

    def _is_fast(self, key: Key, network_backend: Any, *, is_async: bool) -> bool:
        """Return whether the fast engine can serve a key."""
        options = self._options
        return (
            options.http1_engine != "h11"
            and is_installed()
            and self.proxy is None
            and network_backend is None
            and options.http1
            and not self.may_multiplex(key)
            and not self._family.are_replaced(is_async=is_async)
        )

    def _create_fast(self, connection: type[Fast], key: Key, wire: Wire, backend: Any) -> Fast:
        return connection(key, wire, backend, self._options, self._stand_in(key), self._recent_fields)

    def _create(self, pool: Any, key: Key, backend: Any) -> Any:
        """Create a connection with its own factory, so that the backend knows its socket; the factory sends nothing."""
        options = self._options
        httpcore = self._family.httpcore
        factory = pool(
            ssl_context=self._stand_in(key),
            proxy=self.proxy,
            keepalive_expiry=None,
            http1=options.http1,
            http2=options.http2,
            retries=options.retries,
            local_address=options.local_address,
            uds=options.uds,
            network_backend=backend,
            socket_options=options.socket_options,
        )
        return factory.create_connection(
            httpcore.Origin(scheme=key.scheme.encode(), host=key.host.encode(), port=key.port)
        )

    def _make_proxy(self) -> Any:
        proxy = self._options.proxy
        if proxy is None:
            return None
        httpcore = self._family.httpcore
        url = proxy.url
        given = proxy.ssl_context
        if given is not None:
            self._proxy_tls = TlsContext(lambda: given, is_own=False)
            self._proxy_tls.get()  # it exists already
        elif url.scheme == "https":
            self._proxy_tls = TlsContext(httpcore.default_ssl_context, is_own=True)
        return httpcore.Proxy(
            url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            auth=proxy.raw_auth,
            headers=proxy.headers.raw,
            ssl_context=None if self._proxy_tls is None else self._proxy_tls.stand_in(),
        )


def _name_of(url: Any) -> str:
    """Return a proxy's URL as messages show it: without secrets, and with its port."""
    scheme, host = url.scheme.decode("ascii"), url.host.decode("ascii")
    port = url.port or {"http": 80, "https": 443}.get(scheme, 1080)
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _is_secure(key: Key) -> bool:
    return key.scheme in ("https", "wss")


def _is_in_loop() -> bool:
    """Return whether this runs in an event loop, and so blocks it."""
    if sniffio.thread_local.name == "trio":
        return True
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
