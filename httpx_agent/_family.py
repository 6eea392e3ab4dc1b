"""The pair of libraries that an agent works with, such as httpx and httpcore, and their mocks.

Nothing else in the package imports either of them, except the modules with the public classes. The rest of the package
gets what it needs of them from a `Family`. respx, and any other tool that replaces httpcore's methods, works without
set-up.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from functools import cached_property
from operator import attrgetter
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Packages whose errors concern a connection.
_NETWORK = frozenset({"httpcore", "httpcore2", "h11", "h2", "hpack", "hyperframe", "socksio"})

#: The module of respx that holds its mockers. Once it is imported, methods may be mocked at any time.
RESPX = "respx.mocks"

Kind = TypeVar("Kind")


class Family:
    """One pair of libraries.

    Args:
        httpx: The client library.
        httpcore: The core that it is based on.
    """

    def __init__(self, httpx: ModuleType, httpcore: ModuleType) -> None:
        self.httpx = httpx
        self.httpcore = httpcore
        self._dressed: dict[tuple[type, str], Any] = {}

    def dress(self, kind: type[Kind], interface: str) -> type[Kind]:
        """Return a subclass of one of our classes that also belongs to this family; the same one each time.

        Users, and the libraries themselves, check objects with `isinstance`.

        Args:
            kind: The class.
            interface: The name of the httpcore class that is the other base class.
        """
        known = self._dressed.get((kind, interface))
        if known is None:
            bases = (kind, getattr(self.httpcore, interface))
            made = type(kind.__name__, bases, {"__module__": kind.__module__})
            known = self._dressed.setdefault((kind, interface), made)  # another thread may have been faster
        dressed: type[Kind] = known
        return dressed

    def is_of_network(self, error: Exception) -> bool:
        """Return whether a connection may fail with this error; any other comes from a caller's signal handler.

        Such a handler may raise anywhere. Errors of the system have numbers. A `TimeoutError` without one is
        from a handler, because nothing here waits.
        """
        if isinstance(error, TimeoutError):
            return error.errno is not None
        return isinstance(error, (OSError, EOFError, ValueError)) or any(
            kind.__module__.partition(".")[0] in _NETWORK for kind in type(error).__mro__
        )

    @contextmanager
    def suppress_network_errors(self) -> Iterator[None]:
        """Suppress any failure of a connection in this block; let everything else pass."""
        try:
            yield
        except Exception as error:
            if not self.is_of_network(error):
                raise

    def are_replaced(self, *, is_async: bool) -> bool:
        """Return whether a mock has replaced one of httpcore's methods for sending requests."""
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
        """Wrap a Unix socket that we connected in httpcore's stream for anyio.

        This uses a private name of httpcore, for the same reason as the method below.
        """
        stream = await anyio.abc.UNIXSocketStream.from_socket(sock)
        return self.httpcore._backends.anyio.AnyIOStream(stream)

    def socket_stream(self, socket: object) -> Any:
        """Wrap a socket that we connected in httpcore's stream.

        This uses a private name of httpcore: its public `SyncBackend` connects by itself, so closing the agent could
        not wake a thread that waits for a connection.
        """
        return self.httpcore._backends.sync.SyncStream(socket)

    def is_socket_stream(self, stream: object) -> bool:
        """Return whether a stream is of that class, and so reads and writes its socket directly."""
        return isinstance(stream, self.httpcore._backends.sync.SyncStream)


def register_with_respx(pool: type, httpcore: ModuleType) -> bool:
    """If respx is in use, make it replace the methods of a pool; return whether this was new.

    By default respx replaces `handle_request` of httpcore's connections and pools. With an agent it must replace the
    pool's: on a connection, it would see the request to a proxy, if there is one, and its response would pass for a
    socket's. pytest-httpx2 teaches respx the same for httpcore2.

    Args:
        pool: The class. A class made at run time has the name of the class that it replaces.
        httpcore: The library whose pool it replaces. respx keeps its mockers under the names of that library's modules,
            and these may be aliases (`httpx2.alias_httpx`).
    """
    root = getattr(sys.modules.get(RESPX), "Mocker", None)  # another thread may be about to import it
    if root is None:
        return False
    target = f"{pool.__module__}.{pool.__qualname__}"
    mockers = [
        mocker
        for name, mocker in root.registry.items()
        if sys.modules.get(name) is httpcore and target not in mocker.targets
    ]
    for mocker in mockers:
        mocker.add_targets(target)
    return bool(mockers)


class Originals:
    """The methods by which httpcore sends requests; mocks replace them at any time.

    Args:
        classes: The classes.
        name: The name of the method in each of them.
    """

    def __init__(self, classes: tuple[type, ...], name: str) -> None:
        self._classes = classes
        self._method_of = attrgetter(name)
        self._known: list[object] = []

    def are_replaced(self) -> bool:
        """Return whether any of them is not the library's own."""
        found = list(map(self._method_of, self._classes))
        if found == self._known:
            return False
        if not all(map(_is_own, self._classes, found)):
            return True
        self._known = found
        return False


def _is_own(owner: type, function: object) -> bool:
    """Return whether a method comes from its class's package; the code of a wrapper does not, whatever its name."""
    folder = os.path.dirname(sys.modules[owner.__module__.partition(".")[0]].__file__ or "")
    return isinstance(function, FunctionType) and function.__code__.co_filename.startswith(folder + os.sep)
