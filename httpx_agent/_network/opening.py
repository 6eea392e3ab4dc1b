"""Track the opening of a socket: its progress, its deadline, and its description in errors."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

#: How many addresses a message lists; it only counts the rest.
_LISTED = 3

#: A timeout that expires at once; to a Python socket, 0 would mean something else.
NO_TIME = 1e-6

#: How the messages of a SOCKS5 client begin: with the version, and where it logs in with another one (RFC 1928, 1929).
_SOCKS_MESSAGES = (b"\x05", b"\x01")


class Phase(Enum):
    """A phase of opening a socket, as named in messages."""

    NAME = "name look-up"
    TCP = "TCP"
    UNIX = "Unix socket"
    PROXY = "proxy handshake"
    TLS = "TLS"
    DONE = ""
    BACKEND = "connect"  # by a user's backend, which does not report its phases


class Opening:
    """The opening of one socket, from the name look-up to the last TLS handshake.

    Args:
        proxy: The URL of the proxy to connect to, without credentials; empty for a direct connection.
    """

    __slots__ = (
        "_about", "_attempts", "_deadline", "_goes_on", "_handshakes", "_phase", "_proxy", "_tried", "greets_proxy",
    )  # fmt: skip

    def __init__(self, proxy: str) -> None:
        self.greets_proxy = False  # a SOCKS handshake is due, or in progress
        self._proxy = proxy
        self._deadline: float | None = None  # one for TCP, proxy and TLS
        self._goes_on = False  # the next attempt has the deadline of the one before
        self._attempts = 0
        self._handshakes = 0
        self._phase = Phase.DONE
        self._about = ""
        self._tried: dict[str, str] = {}  # addresses, and why they failed

    def begin(self, timeout: float | None, to: str) -> float | None:
        """Begin an attempt to connect, which must end within the connect timeout, including all its phases.

        Args:
            timeout: The connect timeout in seconds.
            to: The target: ``host:port``, or a path.

        Returns:
            The rest of the timeout.
        """
        self._attempts += not self._goes_on
        self._handshakes = 0
        self._tried = {}
        self.greets_proxy = self._proxy.startswith("socks")
        self.enter(Phase.BACKEND, to)
        if self._goes_on:
            self._goes_on = False
            return self.time_left()
        self._deadline = None if timeout is None else time.monotonic() + timeout
        return timeout

    def continue_attempt(self) -> None:
        """Make the next attempt continue this one, within its deadline."""
        self._goes_on = True

    def end(self) -> None:
        """Note that the socket is usable: from now on each operation has its own timeout."""
        self.greets_proxy = False
        self._deadline = None
        self.enter(Phase.DONE)

    def time_left(self, otherwise: float | None = None) -> float | None:
        """Return the rest of the connect timeout during the opening, and ``otherwise`` after it."""
        if self._deadline is None:
            return otherwise
        return max(NO_TIME, self._deadline - time.monotonic())

    def still_greets(self, message: bytes) -> bool:
        """Return whether a message belongs to the SOCKS handshake; the first that does not ends it."""
        self.greets_proxy = message[:1] in _SOCKS_MESSAGES
        if not self.greets_proxy:
            self.enter(Phase.DONE)
        return self.greets_proxy

    @contextmanager
    def greeting(self, httpcore: Any) -> Iterator[float | None]:
        """Limit a step of the SOCKS handshake, for which httpcore uses no timeout, or the response's.

        Yields:
            The seconds that are left.
        """
        try:
            yield self.time_left()
        except (httpcore.ReadTimeout, httpcore.WriteTimeout) as error:
            raise httpcore.ConnectTimeout(str(error)) from error

    def enter(self, phase: Phase, about: str = "") -> None:
        """Begin a phase; ``about`` names its target, if the addresses do not."""
        self._phase = phase
        self._about = about
        if phase is Phase.DONE:
            self._tried = {}  # every free socket would hold this memory

    def tried(self, address: str) -> None:
        """Note that an attempt to reach an address begins."""
        self._tried[address] = ""

    def failed(self, address: str, error: Exception) -> None:
        """Note why an attempt to reach an address has failed."""
        self._tried[address] = getattr(error, "strerror", None) or str(error) or type(error).__name__

    def won(self, address: str) -> None:
        """Note which address is connected to."""
        self._tried[address] = "connected"

    def connected(self) -> None:
        """Continue with the proxy's own handshake, if there is one."""
        if self._proxy:
            self.enter(Phase.PROXY)

    def secure(self, server_hostname: str | None) -> None:
        """Begin a TLS handshake."""
        self.enter(Phase.TLS, server_hostname or "")

    def secured(self) -> None:
        """Note that a TLS handshake is done."""
        self._handshakes += 1
        self.connected()

    def describe(self) -> str:
        """Return how far it came, such as ``TCP to proxy http://10.0.0.1:3128; tried 10.0.0.1:3128``; empty if done."""
        if self._phase is Phase.DONE:
            return ""
        text = f"{self._phase.value}{self._whom()}"
        if self._tried:
            text += f"; tried {self._addresses()}"
        if self._attempts > 1:
            text += f"; attempt {self._attempts}"
        return text

    def _addresses(self) -> str:
        """List some addresses; if their results differ, include each result."""
        differ = len(set(self._tried.values())) > 1
        listed = [f"{address} ({why or 'no answer'})" if differ else address for address, why in self._tried.items()]
        more = len(listed) - _LISTED
        return ", ".join(listed[:_LISTED]) + (f" and {more} more" if more > 0 else "")

    def _whom(self) -> str:
        proxy = f"proxy {self._proxy}" if self._proxy else ""
        if self._phase is Phase.PROXY:
            return f" with {proxy}"
        if self._phase is Phase.TLS:
            if self._proxy.startswith("https:") and not self._handshakes:
                return f" with {proxy}"
            return f" with {self._about}" + (f" through {proxy}" if proxy else "")
        if proxy:
            return f" of {self._about} for {proxy}" if self._phase is Phase.NAME else f" to {proxy}"
        if self._phase is Phase.NAME:
            return f" of {self._about}"
        return f" to {self._about}" if self._about else ""
