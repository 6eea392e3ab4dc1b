"""Decide which address of a host to try next, and when (RFC 8305). Pure: the time comes in, nothing is connected here.

A host may have dead addresses; broken IPv6 is the usual case. So addresses of both families are tried in turn, the next
one as soon as the one before has failed, or has had a quarter of a second to itself. The first that connects wins.
"""

from __future__ import annotations

import math
import socket
from collections import deque
from collections.abc import Iterable
from itertools import zip_longest
from typing import Any

from .descriptors import NO_DESCRIPTOR

#: Seconds that an attempt has to itself before the next one starts (RFC 8305, 5: Connection Attempt Delay).
ATTEMPT_DELAY = 0.25

#: One entry of what `socket.getaddrinfo` returns: family, kind, protocol, canonical name, address.
AddressInfo = tuple[Any, Any, int, str, Any]


def interleave(addresses: Iterable[AddressInfo]) -> list[AddressInfo]:
    """Order addresses by family in turn, beginning with the family that the system prefers (RFC 8305, 4).

    Drops what comes twice, as for a name that stands in the hosts file on two lines.
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
        """Return the address to try now, or ``None`` if it is not time yet or none is left."""
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
        """Return whether every address was tried in vain."""
        return not self._left and not self._running

    def error(self) -> Exception:
        """Return the error of a lost race: the last one, unless an attempt had no descriptor, which can be mended."""
        wanting = (error for error in self._errors if isinstance(error, OSError) and error.errno in NO_DESCRIPTOR)
        return next(wanting, self._errors[-1])


def literal(entry: AddressInfo) -> str:
    """Return the host of an address for a look-up that finds it again, with its zone: ``fe80::1%2``."""
    address = entry[4]
    zone = address[3] if len(address) > 3 else 0  # a replacement of the system's look-up may leave it out
    return f"{address[0]}%{zone}" if zone else str(address[0])


def describe(entry: AddressInfo) -> str:
    """Return an address as messages show it: ``127.0.0.1:80``, ``[::1]:80`` or ``[fe80::1%2]:80``."""
    host = f"[{literal(entry)}]" if entry[0] == socket.AF_INET6 else literal(entry)
    return f"{host}:{entry[4][1]}"
