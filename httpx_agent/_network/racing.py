"""Decide which address of a host to try next, and when (RFC 8305). Pure: the time is passed in; nothing connects here.

A host may have dead addresses; broken IPv6 is the usual case. So addresses of both families are tried in turn, each one
as soon as the previous one has failed, or a quarter of a second has passed. The first that connects wins.
"""

from __future__ import annotations

import math
import socket
from collections import deque
from collections.abc import Iterable
from itertools import zip_longest
from typing import Any

from .descriptor_limit import NO_DESCRIPTOR

#: Seconds before the next attempt starts, unless this one fails earlier (RFC 8305, 5: Connection Attempt Delay).
ATTEMPT_DELAY = 0.25

#: An entry of the result of `socket.getaddrinfo`: family, kind, protocol, canonical name, address.
AddressInfo = tuple[Any, Any, int, str, Any]


def interleave(addresses: Iterable[AddressInfo]) -> list[AddressInfo]:
    """Order addresses so that families alternate, beginning with the one that the system prefers (RFC 8305, 4).

    Drop duplicates, which occur if a name is on two lines of the hosts file.
    """
    addresses = list({(entry[0], entry[4]): entry for entry in addresses}.values())
    preferred = [entry for entry in addresses if entry[0] == addresses[0][0]]
    others = [entry for entry in addresses if entry[0] != addresses[0][0]]
    return [entry for pair in zip_longest(preferred, others) for entry in pair if entry is not None]


class Race:
    """The attempts to connect to one host.

    Args:
        addresses: The addresses of the host, as `socket.getaddrinfo` returns them.
    """

    def __init__(self, addresses: Iterable[AddressInfo]) -> None:
        self._left = deque(interleave(addresses))
        self._running = 0
        self._next_start = -math.inf
        self._errors: list[Exception] = []

    def next(self, now: float) -> AddressInfo | None:
        """Return the address to try now, or ``None`` if it is too early or none is left."""
        if not self._left or now < self._next_start:
            return None
        self._running += 1
        self._next_start = now + ATTEMPT_DELAY
        return self._left.popleft()

    def failed(self, error: Exception) -> None:
        """Note that an attempt has failed: the next one may start at once."""
        self._running -= 1
        self._next_start = -math.inf
        self._errors.append(error)

    def next_start(self) -> float:
        """Return the time at which the next attempt may start; infinite if no address is left."""
        return self._next_start if self._left else math.inf

    def is_lost(self) -> bool:
        """Return whether every address has been tried and has failed."""
        return not self._left and not self._running

    def error(self) -> Exception:
        """Return the error of a lost race: the last one, or one for a lack of descriptors, which can be resolved."""
        wanting = (error for error in self._errors if isinstance(error, OSError) and error.errno in NO_DESCRIPTOR)
        return next(wanting, self._errors[-1])


def literal(entry: AddressInfo) -> str:
    """Return the host of an address for a look-up that finds it again, with its zone: ``fe80::1%2``."""
    address = entry[4]
    zone = address[3] if len(address) > 3 else 0  # a replacement for the system's look-up may omit it
    return f"{address[0]}%{zone}" if zone else str(address[0])


def describe(entry: AddressInfo) -> str:
    """Return an address as messages show it: ``127.0.0.1:80``, ``[::1]:80`` or ``[fe80::1%2]:80``."""
    host = f"[{literal(entry)}]" if entry[0] == socket.AF_INET6 else literal(entry)
    return f"{host}:{entry[4][1]}"
