"""Connect to a host by name: look it up, and race its addresses (see `_racing`), in threads and in event loops."""

from __future__ import annotations

import errno
import math
import os
import selectors
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from ._causes import walk_causes
from ._network import CLOSE_TIMEOUT, OsErrors, shut_down
from ._opening import Phase
from ._racing import AddressInfo, Race, describe
from ._resolver import look_up_literal, resolver, without_zone_escape

if TYPE_CHECKING:
    from ._network import Wire

T = TypeVar("T")

#: Seconds until a Unix socket whose queue was full is tried again, the first time and at most.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05

#: Watches a handful of sockets for a moment; one that needs no descriptor of its own, where there is one.
_Selector: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)


class SyncConnector:
    """Opens sockets as `httpcore.SyncBackend` does, but races addresses, and wakes whoever waits if the wire breaks."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def connect_tcp(
        self, host: str, port: int, timeout: float | None, local_address: str | None, socket_options: Iterable[Any]
    ) -> Any:
        """Connect to the first address of a host that answers."""
        wire = self._wire
        with OsErrors(wire.family, connecting=True):
            addresses = self._look_up(host, port, timeout)
            wire.opening.enter(Phase.TCP)
            try:
                if len(addresses) == 1:
                    sock = self._connect(addresses[0], local_address, timeout)
                else:
                    sock = self._race(Race(addresses), local_address, timeout)
            except OSError:
                wire.check()
                raise
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for option in socket_options:  # the user's come last, and win
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
        left = wire.time_left(timeout)
        deadline = math.inf if left is None else time.monotonic() + left
        with OsErrors(wire.family, connecting=True):
            sock = wire.new_socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                for option in socket_options:
                    sock.setsockopt(*option)
                sock.setblocking(False)  # a Unix socket connects at once, or not; a wait for room could not be woken
                pauses = Pauses()
                while not connects(sock, path):
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise TimeoutError("timed out: the queue of the socket stayed full")
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
        done = threading.Event()
        look_up = resolver.look_up((host, port), done.set)
        try:
            with wire.breakable(done.set):
                done.wait(wire.time_left(timeout))
        finally:
            resolver.leave(look_up, done.set)
        wire.check()
        if not look_up.is_done:
            raise TimeoutError("timed out")
        return look_up.result()

    def _connect(self, entry: AddressInfo, local_address: str | None, timeout: float | None) -> socket.socket:
        wire = self._wire
        wire.opening.tried(describe(entry))
        sock = self._new_socket(entry, local_address)
        try:
            sock.settimeout(wire.time_left(timeout))
            with wire.breakable(lambda: shut_down(sock)):
                sock.connect(entry[4])
        except BaseException:
            sock.close()
            raise
        return sock

    def _race(self, race: Race, local_address: str | None, timeout: float | None) -> socket.socket:
        """Return the socket that connects first; close the others."""
        wire = self._wire
        left = wire.time_left(timeout)
        deadline = math.inf if left is None else time.monotonic() + left
        running: list[socket.socket] = []
        errors: list[OSError] = []
        winner: socket.socket | None = None

        def wake() -> None:
            for sock in list(running):
                shut_down(sock)

        with _Selector() as selector, wire.breakable(wake):
            try:
                while winner is None:
                    now = time.monotonic()
                    while winner is None and (entry := race.next(now)) is not None:
                        wire.opening.tried(describe(entry))
                        try:
                            sock = self._new_socket(entry, local_address)
                            running.append(sock)
                            sock.setblocking(False)
                            code = sock.connect_ex(entry[4])
                            if code not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
                                raise OSError(code, os.strerror(code))
                            selector.register(sock, selectors.EVENT_WRITE, sock)
                        except OSError as error:
                            race.failed()
                            errors.append(error)
                    wire.check()  # who breaks it now finds all that run
                    if race.is_lost():
                        raise errors[-1]
                    if now >= deadline:
                        raise TimeoutError("timed out")
                    until = min(deadline, race.next_start())
                    for key, _ in selector.select(None if until == math.inf else max(0.0, until - now)):
                        sock = key.data
                        selector.unregister(sock)
                        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                        if code == 0:
                            winner = winner or sock
                        else:
                            race.failed()
                            errors.append(OSError(code, os.strerror(code)))
                    wire.check()
            finally:
                for sock in running:
                    if sock is not winner:
                        sock.close()
        assert winner is not None
        return winner

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
    """Opens streams of one of httpcore's own async backends, which is given one address after the other.

    Args:
        wire: The socket's wire.
        inner: The backend.
        call_soon: Runs a function in the event loop, from any thread.
    """

    def __init__(self, wire: Wire, inner: Any, call_soon: Callable[[Callable[[], object]], None]) -> None:
        self._wire = wire
        self._inner = inner
        self._call_soon = call_soon
        self.sleep = inner.sleep

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None, local_address: str | None, socket_options: Iterable[Any]
    ) -> Any:
        """Connect to the first address of a host that answers."""
        httpcore = self._wire.family.httpcore

        async def connect(entry: AddressInfo) -> Any:
            try:
                stream = await self._inner.connect_tcp(entry[4][0], port, None, local_address, ())
            except httpcore.ConnectError as error:  # trio's own words say nothing of the reason
                raise next((e for e in walk_causes(error) if isinstance(e, OSError) and e.errno), error) from None
            try:
                for option in socket_options:  # httpcore's backend would leave a socket open that does not take one
                    stream.get_extra_info("socket").setsockopt(*option)
            except BaseException:
                await _close(stream)
                raise
            return stream

        try:
            with anyio.fail_after(timeout):
                addresses = await look_up(self._wire, host, port, self._call_soon)
                return await race(self._wire, addresses, connect, _close, (httpcore.ConnectError, OSError))
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
                pauses = Pauses()
                while True:
                    stream = await self._inner.connect_unix_socket(path, None, socket_options)
                    try:
                        stream.get_extra_info("server_addr")
                    except OSError:  # trio takes the error of a full queue for a connection that is under way
                        await _close(stream)
                        await anyio.sleep(pauses.next())
                    else:
                        return stream
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error


async def look_up(
    wire: Wire, host: str, port: int, call_soon: Callable[[Callable[[], object]], None]
) -> list[AddressInfo]:
    """Look up a host without keeping the event loop, nor its threads.

    Raises:
        OSError: If it has no address.
        UnicodeError: If it cannot be a name.
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


async def race(
    wire: Wire,
    addresses: list[AddressInfo],
    connect: Callable[[AddressInfo], Awaitable[T]],
    close: Callable[[T], Awaitable[None]],
    failures: tuple[type[Exception], ...],
) -> T:
    """Return what the first successful attempt gives; cancel or close the others.

    Args:
        wire: The socket's wire, which notes what is tried.
        addresses: The addresses of the host.
        connect: Makes an attempt.
        close: Closes what a later attempt gives, and is not to be cancelled.
        failures: What an attempt raises if it fails.
    """
    wire.opening.enter(Phase.TCP)
    if len(addresses) == 1:
        wire.opening.tried(describe(addresses[0]))
        return await connect(addresses[0])
    policy = Race(addresses)
    winners: list[T] = []
    errors: list[Exception] = []
    changed = anyio.Event()

    async def attempt(entry: AddressInfo) -> None:
        try:
            opened = await connect(entry)
        except failures as error:
            errors.append(error)
            policy.failed()
            changed.set()
            return
        if winners:  # another one came first, before this could be cancelled
            await close(opened)
        else:
            winners.append(opened)
            group.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as group:
            while not policy.is_lost():
                changed = anyio.Event()
                while (entry := policy.next(time.monotonic())) is not None:
                    wire.opening.tried(describe(entry))
                    group.start_soon(attempt, entry)
                with anyio.move_on_after(policy.next_start() - time.monotonic()):
                    await changed.wait()
    except BaseException:
        for opened in winners:
            await close(opened)
        raise
    if not winners:
        raise errors[-1]
    return winners[0]


async def _close(stream: Any) -> None:
    with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
        await stream.aclose()


def connects(sock: socket.socket, path: str) -> bool:
    """Connect a Unix socket that does not block; return whether it did, or its server's queue is full."""
    try:
        sock.connect(path)
    except BlockingIOError:
        return False
    return True


class Pauses:
    """How long to wait, again and again, until a Unix socket's queue may have room."""

    def __init__(self) -> None:
        self._next = _SHORTEST_PAUSE

    def next(self) -> float:
        """Return the next pause in seconds, twice the one before, up to a bound."""
        pause = self._next
        self._next = min(2 * pause, _LONGEST_PAUSE)
        return pause
