"""The pair of libraries that an agent works with, httpx and httpcore or one made like them, and their mocks.

Nothing else in the package imports either of them, except where users meet their classes. What the package needs of
them, it asks of a `Family`. respx, and whatever else replaces methods of httpcore, works without any set-up.
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

#: Packages whose errors tell of a connection.
_NETWORK = frozenset({"httpcore", "httpcore2", "h11", "h2", "hpack", "hyperframe", "socksio"})

#: The module of respx that holds its mockers. Once it is imported, methods may be mocked at any time.
RESPX = "respx.mocks"

Kind = TypeVar("Kind")


class Family:
    """One pair of libraries.

    Args:
        httpx: The client library.
        httpcore: The library that it stands on.
    """

    def __init__(self, httpx: ModuleType, httpcore: ModuleType) -> None:
        self.httpx = httpx
        self.httpcore = httpcore
        self._dressed: dict[tuple[type, str], Any] = {}

    def dress(self, kind: type[Kind], interface: str) -> type[Kind]:
        """Return a class of ours as one of this family's; the same class each time.

        Users, and the libraries themselves, ask with `isinstance` what an object is.

        Args:
            kind: The class.
            interface: The name of the class in httpcore that the result is a subclass of, too.
        """
        known = self._dressed.get((kind, interface))
        if known is None:
            bases = (kind, getattr(self.httpcore, interface))
            made = type(kind.__name__, bases, {"__module__": kind.__module__})
            known = self._dressed.setdefault((kind, interface), made)  # another thread may have been first
        dressed: type[Kind] = known
        return dressed

    def is_of_network(self, error: Exception) -> bool:
        """Return whether a connection may fail with this error; others are a caller's, from a signal handler.

        Such a handler may raise anywhere. Errors of the system have numbers. A `TimeoutError` without one is
        a handler's: nothing waits there.
        """
        if isinstance(error, TimeoutError):
            return error.errno is not None
        return isinstance(error, (OSError, EOFError, ValueError)) or any(
            kind.__module__.partition(".")[0] in _NETWORK for kind in type(error).__mro__
        )

    @contextmanager
    def suppress_network_errors(self) -> Iterator[None]:
        """Ignore however a connection fails in this block, and let everything else out."""
        try:
            yield
        except Exception as error:
            if not self.is_of_network(error):
                raise

    def are_replaced(self, *, is_async: bool) -> bool:
        """Return whether a mock has taken the place of httpcore's own way to send a request."""
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
        """Wrap a Unix socket that we connected in httpcore's stream over anyio's.

        A private name of httpcore, for the same reason as below.
        """
        stream = await anyio.abc.UNIXSocketStream.from_socket(sock)
        return self.httpcore._backends.anyio.AnyIOStream(stream)

    def socket_stream(self, socket: object) -> Any:
        """Wrap a socket that we connected in httpcore's stream.

        A private name of httpcore: its public `SyncBackend` connects by itself, so closing the agent could not wake a
        thread that waits for a connection.
        """
        return self.httpcore._backends.sync.SyncStream(socket)

    def is_socket_stream(self, stream: object) -> bool:
        """Return whether a stream is of that kind, so that its socket is what it reads and writes."""
        return isinstance(stream, self.httpcore._backends.sync.SyncStream)


def register_with_respx(pool: type, httpcore: ModuleType) -> bool:
    """Have respx, where it is in use, replace the methods of a pool; return whether it had not done so before.

    By default respx replaces `handle_request` of httpcore's connections and pools. With us it must be the pool's: on
    the connection it would see the request to the proxy, where there is one, and its answer would stand in for a
    socket's. pytest-httpx2 teaches respx the same for httpcore2.

    Args:
        pool: The class. One made at run time bears the name of the class that it stands in for.
        httpcore: The library whose pool it stands in for. respx keeps its mockers under the names of that library's
            modules, and these may be aliases (`httpx2.alias_httpx`).
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
        """Return whether one of them is not its library's own."""
        found = list(map(self._method_of, self._classes))
        if found == self._known:
            return False
        if not all(map(_is_own, self._classes, found)):
            return True
        self._known = found
        return False


def _is_own(owner: type, function: object) -> bool:
    """Return whether a method comes from its class's package; a wrapper's code does not, whatever its name says."""
    folder = os.path.dirname(sys.modules[owner.__module__.partition(".")[0]].__file__ or "")
    return isinstance(function, FunctionType) and function.__code__.co_filename.startswith(folder + os.sep)
