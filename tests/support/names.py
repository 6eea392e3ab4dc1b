"""Host names defined by a test, instead of the system's."""

from __future__ import annotations

import socket
import threading
from typing import Any

import httpx
import pytest


class Names:
    """Answer look-ups of these names instead of the system."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.known: dict[str, list[str]] = {}
        self.silent: set[str] = set()
        self.asked: list[str] = []
        self.speak = threading.Event()
        self._system = socket.getaddrinfo
        patch.setattr(socket, "getaddrinfo", self)

    def __call__(self, host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:
        if flags & socket.AI_NUMERICHOST:  # by position, as those who replace it may expect
            return self._system(host, port, family, type, proto, flags)
        self.asked.append(host)
        if host in self.silent:
            self.speak.wait(10)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        if host in self.known:
            return [entry for each in self.known[host] for entry in self._system(each, port, family, type, proto)]
        return self._system(host, port, family, type, proto, flags)


def port_of(url: str) -> int:
    port = httpx.URL(url).port
    assert port is not None
    return port
