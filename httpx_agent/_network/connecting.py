"""Connect to a host by name: look it up, and race its addresses (see `racing.py`), in threads and in event loops."""

from __future__ import annotations

import errno
import math
import os
import selectors
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from .._runtime.causes import walk_causes
from .._runtime.locks import Signal
from .opening import Phase
from .racing import AddressInfo, Race, describe, literal
from .resolver import look_up_literal, resolver, without_zone_escape
from .wire import CLOSE_TIMEOUT, OsErrors, shut_down

if TYPE_CHECKING:
    from .wire import Wire

T = TypeVar("T")

#: Seconds to wait before trying again a Unix socket whose queue was full: the first time, and at most.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05

#: The longest time that the system can wait at once, in seconds: some weeks.
_LONGEST_WAIT = 2_000_000.0

#: Results of a non-blocking connect that is succeeding. EAGAIN is not one: it means that nothing is in progress.
_UNDER_WAY = frozenset({0, errno.EINPROGRESS, errno.EINTR, getattr(errno, "WSAEWOULDBLOCK", 0)})

#: Used to watch a few sockets briefly: a selector without its own descriptor, if the system has one.
_Selector: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)


class SyncConnector:
    """Open sockets as `httpcore.SyncBackend` does, but race addresses, and wake waiting threads if the wire breaks."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def connect_tcp(
        self, host: str, port: int, timeout: float | None, local_address: str | None, socket_options: Iterable[Any]
    ) -> Any:
        """Connect to the first address of a host that answers."""
        wire = self._wire
        with OsErrors(wire.family, connecting=True):
            addresses = bindable(self._look_up(host, port, timeout), local_address)
            wire.opening.enter(Phase.TCP)
            connect = self._connect if len(addresses) == 1 else self._race
            try:
                sock = connect(addresses, local_address, timeout)
            except OSError:
                wire.check()
                raise
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for option in socket_options:  # the user's options come last and override the others
                    sock.setsockopt(*option)
            except BaseException:
                sock.close()
                raise
            return wire.family.socket_stream(sock)

    def connect_unix_socket(self, path: str, timeout: float | None, socket_options: Iterable[Any]) -> Any:
        """Connect to a path; while its queue is full, try again."""
        wire = self._wire
        wire.opening.enter(Phase.UNIX)
        wire.opening.tried(path)
        left = wire.opening.time_left(timeout)
        deadline = math.inf if left is None else time.monotonic() + left
        with OsErrors(wire.family, connecting=True):
            sock = wire.new_socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                for option in socket_options:
                    sock.setsockopt(*option)
                sock.setblocking(False)  # a Unix socket connects at once or not at all, so there is no wait to wake
                pauses = Pauses()
                while not connects(sock, path):
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise TimeoutError("timed out: the socket's listen queue stayed full")
                    wire.sleep(min(pauses.next(), left))
            except BaseException:
                sock.close()
                raise
            return wire.family.socket_stream(sock)

    def _look_up(self, host: str, port: int, timeout: float | None) -> list[AddressInfo]:
        wire = self._wire
        host = without_zone_escape(host)
        wire.opening.enter(Phase.NAME, host)
        found = look_up_literal(host, port)
        if found is not None:
            return found
        done = Signal()
        look_up = resolver.look_up((host, port), done.set)
        try:
            with wire.breakable(done.set):
                left = wire.opening.time_left(timeout)
                done.wait(left)
        finally:
            resolver.leave(look_up, done.set)
        wire.check()
        if not look_up.is_done:
            raise TimeoutError("timed out")
        return look_up.result()

    def _connect(self, addresses: list[AddressInfo], local_address: str | None, timeout: float | None) -> socket.socket:
        """Return a socket that is connected to the only address: without a selector, that takes a third less time."""
        wire = self._wire
        (entry,) = addresses
        wire.opening.tried(describe(entry))
        sock = self._new_socket(entry, local_address)
        try:
            left = wire.opening.time_left(timeout)
            sock.settimeout(None if left is None else min(left, _LONGEST_WAIT))
            with wire.breakable(lambda: shut_down(sock)):
                sock.connect(entry[4])
        except BaseException:
            sock.close()
            raise
        return sock

    def _race(self, addresses: list[AddressInfo], local_address: str | None, timeout: float | None) -> socket.socket:
        """Return the socket that connects first; close the others."""
        wire, opening = self._wire, self._wire.opening
        race = Race(addresses)
        left = wire.opening.time_left(timeout)
        deadline = math.inf if left is None else time.monotonic() + left
        running: dict[socket.socket, str] = {}

        def wake() -> None:
            for sock in list(running):
                shut_down(sock)

        def fail(address: str, error: OSError) -> None:
            opening.failed(address, error)
            race.failed(error)

        with _Selector() as selector, wire.breakable(wake):
            try:
                while True:
                    now = time.monotonic()
                    while (entry := race.next(now)) is not None:
                        address = describe(entry)
                        opening.tried(address)
                        try:
                            sock = self._begin(entry, local_address)
                        except OSError as error:
                            fail(address, error)
                        else:
                            running[sock] = address
                            selector.register(sock, selectors.EVENT_WRITE, sock)
                    wire.check()  # from now on, a break finds all attempts in progress
                    if race.is_lost():
                        raise race.error()
                    if now >= deadline:
                        raise TimeoutError("timed out")
                    until = min(deadline, race.next_start(), now + _LONGEST_WAIT)
                    ready: list[socket.socket] = [key.data for key, _ in selector.select(max(0.0, until - now))]
                    wire.check()
                    for sock in ready:
                        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                        address = running.pop(sock)
                        if code == 0:
                            opening.won(address)
                            return sock
                        selector.unregister(sock)
                        sock.close()
                        fail(address, OSError(code, os.strerror(code)))
            finally:
                for sock in running:
                    sock.close()

    def _begin(self, entry: AddressInfo, local_address: str | None) -> socket.socket:
        """Return a socket that has begun to connect to an address; do not wait for it."""
        sock = self._new_socket(entry, local_address)
        sock.setblocking(False)
        code = sock.connect_ex(entry[4])
        if code not in _UNDER_WAY:
            sock.close()
            raise OSError(code, os.strerror(code))
        return sock

    def _new_socket(self, entry: AddressInfo, local_address: str | None) -> socket.socket:
        family, kind, protocol, _, _ = entry
        sock = self._wire.new_socket(family, kind, protocol)
        try:
            if local_address is not None:
                sock.bind((local_address, 0))
        except BaseException:
            sock.close()
            raise
        return sock


class RacingConnector:
    """Open streams with one of httpcore's own async backends, passing it one address after another.

    Args:
        wire: The socket's wire.
        inner: The backend.
        call_soon: Runs a function in the event loop, from any thread.
    """

    def __init__(self, wire: Wire, inner: Any, call_soon: Callable[[Callable[[], object]], None]) -> None:
        self._wire = wire
        self._inner = inner
        self._call_soon = call_soon
        self._look_up = _look_up_in_trio if isinstance(inner, wire.family.httpcore.TrioBackend) else look_up
        self.sleep = inner.sleep

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None, local_address: str | None, socket_options: Iterable[Any]
    ) -> Any:
        """Connect to the first address of a host that answers."""
        httpcore = self._wire.family.httpcore

        async def connect(entry: AddressInfo) -> Any:
            stream = await self._inner.connect_tcp(literal(entry), port, None, local_address, ())
            return await _with_options(stream, socket_options)

        try:
            with anyio.fail_after(timeout):
                addresses = await self._look_up(self._wire, host, port, self._call_soon)
                return await race(self._wire, bindable(addresses, local_address), connect, _close)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(str(error)) from error

    async def connect_unix_socket(self, path: str, timeout: float | None, socket_options: Iterable[Any]) -> Any:
        """Connect to a path; while its queue is full, try again."""
        httpcore = self._wire.family.httpcore
        self._wire.opening.enter(Phase.UNIX)
        self._wire.opening.tried(path)
        try:
            with anyio.fail_after(timeout):
                if isinstance(self._inner, httpcore.AnyIOBackend) and hasattr(
                    anyio.abc.UNIXSocketStream, "from_socket"
                ):
                    return await self._wrap_unix(path, socket_options)
                pauses = Pauses()
                while True:
                    stream = await self._inner.connect_unix_socket(path, None, ())
                    try:
                        stream.get_extra_info("server_addr")
                    except OSError:  # trio mistakes the error of a full queue for a connection in progress
                        await _close(stream)
                        await anyio.sleep(pauses.next())
                    else:
                        return await _with_options(stream, socket_options)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error

    async def _wrap_unix(self, path: str, socket_options: Iterable[Any]) -> Any:
        """Connect without anyio, which keeps the loop busy by trying again without a pause while the queue is full."""
        sock = await connect_unix(self._wire, path)
        try:
            for option in socket_options:
                sock.setsockopt(*option)
            return await self._wire.family.anyio_stream(sock)
        except BaseException:
            sock.close()
            raise


async def connect_unix(wire: Wire, path: str) -> socket.socket:
    """Return a socket that is connected to a path; while its queue is full, try again."""
    sock = wire.new_socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        # Not the loop's `sock_connect`: it mistakes the error of a full queue for a connection in progress.
        pauses = Pauses()
        while not connects(sock, path):
            await anyio.sleep(pauses.next())
    except BaseException:
        sock.close()
        raise
    return sock


async def look_up(
    wire: Wire, host: str, port: int, call_soon: Callable[[Callable[[], object]], None]
) -> list[AddressInfo]:
    """Look up a host without blocking the event loop or using its threads.

    Raises:
        OSError: If the host has no address.
        UnicodeError: If the host is not a valid name.
    """
    host = without_zone_escape(host)
    wire.opening.enter(Phase.NAME, host)
    found = look_up_literal(host, port)
    if found is not None:
        return found
    done = anyio.Event()

    def on_done() -> None:
        call_soon(done.set)

    asked = resolver.look_up((host, port), on_done)
    try:
        await done.wait()
    finally:
        resolver.leave(asked, on_done)
    return asked.result()


async def _look_up_in_trio(
    wire: Wire, host: str, port: int, call_soon: Callable[[Callable[[], object]], None]
) -> list[AddressInfo]:
    """Look up a name with trio's own hook, if the user has set one (`trio.socket.set_custom_hostname_resolver`)."""
    import trio

    hook = trio.socket.set_custom_hostname_resolver(None)
    trio.socket.set_custom_hostname_resolver(hook)
    if hook is None:
        return await look_up(wire, host, port, call_soon)
    host = without_zone_escape(host)
    wire.opening.enter(Phase.NAME, host)
    found: list[AddressInfo] = await trio.socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
    return found


async def race(
    wire: Wire,
    addresses: list[AddressInfo],
    connect: Callable[[AddressInfo], Awaitable[T]],
    close: Callable[[T], Awaitable[None]],
) -> T:
    """Return the result of the first successful attempt; cancel or close the others.

    Args:
        wire: The socket's wire, which records the attempts.
        addresses: The addresses of the host; at least one.
        connect: Makes an attempt.
        close: Closes the result of a later attempt; must not be cancelled.
    """
    opening = wire.opening
    opening.enter(Phase.TCP)
    if len(addresses) == 1:
        opening.tried(describe(addresses[0]))
        try:
            return await connect(addresses[0])
        except Exception as error:
            better = plain(error)
            if better is error:
                raise
            raise better from None
    policy = Race(addresses)
    winners: list[T] = []
    changed = anyio.Event()

    async def attempt(entry: AddressInfo) -> None:
        address = describe(entry)
        try:
            opened = await connect(entry)
        except Exception as raised:  # any error: another address may work, and no exception group may escape
            error = plain(raised)
            opening.failed(address, error)
            policy.failed(error)
            changed.set()
            return
        if winners:  # another attempt won before this one could be cancelled
            await close(opened)
        else:
            opening.won(address)
            winners.append(opened)
            group.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as group:
            while not policy.is_lost():
                changed = anyio.Event()
                while (entry := policy.next(anyio.current_time())) is not None:
                    opening.tried(describe(entry))
                    group.start_soon(attempt, entry)
                with anyio.move_on_after(policy.next_start() - anyio.current_time()):
                    await changed.wait()
    except BaseException:
        for opened in winners:
            await close(opened)
        raise
    if not winners:
        raise policy.error()
    return winners[0]


def bindable(addresses: list[AddressInfo], local_address: str | None) -> list[AddressInfo]:
    """Return the addresses of the same family as the local address.

    Raises:
        OSError: If there is none.
    """
    local = None if local_address is None else look_up_literal(local_address, 0)
    found = [entry for entry in addresses if not local or entry[0] == local[0][0]]
    if not found:
        which = f" of the same family as local_address={local_address!r}" if addresses else ""
        raise OSError(errno.EADDRNOTAVAIL, f"The name has no address{which}")
    return found


def plain(error: Exception) -> Exception:
    """Return the system's error that caused another one, in the system's own words.

    Trio's errors do not give the reason, and asyncio's repeat the address.
    """
    for found in walk_causes(error):
        if isinstance(found, OSError) and found.errno and not isinstance(found, socket.gaierror):
            words = os.strerror(found.errno)
            if found is error and found.strerror == words:
                return error
            # A new error: if the one found were raised from here, the causes would form a ring.
            return OSError(found.errno, words)
    return error


async def _with_options(stream: Any, socket_options: Iterable[Any]) -> Any:
    """Set a new stream's options; httpcore's backend would leave the socket open if an option is rejected."""
    try:
        for option in socket_options:
            stream.get_extra_info("socket").setsockopt(*option)
    except BaseException:
        await _close(stream)
        raise
    return stream


async def _close(stream: Any) -> None:
    with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
        await stream.aclose()


def connects(sock: socket.socket, path: str) -> bool:
    """Connect a non-blocking Unix socket; return false if the server's queue is full."""
    try:
        sock.connect(path)
    except BlockingIOError:
        return False
    return True


class Pauses:
    """The growing pauses between attempts to connect to a Unix socket whose queue is full."""

    def __init__(self) -> None:
        self._next = _SHORTEST_PAUSE

    def next(self) -> float:
        """Return the next pause in seconds: twice the previous one, up to a limit."""
        pause = self._next
        self._next = min(2 * pause, _LONGEST_PAUSE)
        return pause
