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

#: Seconds that an attempt has to itself before the next one starts (RFC 8305, 5: Connection Attempt Delay).
ATTEMPT_DELAY = 0.25

#: One entry of what `socket.getaddrinfo` returns: family, kind, protocol, canonical name, address.
AddressInfo = tuple[Any, Any, int, str, Any]


def interleave(addresses: Iterable[AddressInfo]) -> list[AddressInfo]:
    """Order addresses by family in turn, beginning with the family that the system prefers (RFC 8305, 4)."""
    addresses = list(addresses)
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

    def next(self, now: float) -> AddressInfo | None:
        """Return the address to try now, or ``None`` if it is not time yet or none is left."""
        if not self._left or now < self._next_start:
            return None
        self._running += 1
        self._next_start = now + ATTEMPT_DELAY
        return self._left.popleft()

    def failed(self) -> None:
        """Note that an attempt has failed: the next one may start at once."""
        self._running -= 1
        self._next_start = -math.inf

    def next_start(self) -> float:
        """Return the time at which the next attempt may start; infinite if no address is left."""
        return self._next_start if self._left else math.inf

    def is_lost(self) -> bool:
        """Return whether every address was tried in vain."""
        return not self._left and not self._running


def describe(entry: AddressInfo) -> str:
    """Return an address as messages show it: ``127.0.0.1:80`` or ``[::1]:80``."""
    family, _, _, _, address = entry
    if family not in (socket.AF_INET, socket.AF_INET6):
        return str(address)
    host = f"[{address[0]}]" if family == socket.AF_INET6 else address[0]
    return f"{host}:{address[1]}"
