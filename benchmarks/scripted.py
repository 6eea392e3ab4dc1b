"""A network in memory that answers each request with the same response, through httpcore's public interface.

No descriptor and no other process is in it, so that any number of sockets can be open, and nothing is measured but this
process. Each request of a loop gives way to other tasks once, as it would while a real socket is silent.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httpcore


class _Stream(httpcore.NetworkStream):
    def __init__(self, response: bytes) -> None:
        self.response = response

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self.response

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        pass

    def close(self) -> None:
        pass

    def get_extra_info(self, info: str) -> Any:
        return False if info == "is_readable" else None


class Network(httpcore.NetworkBackend):
    """For threads.

    Args:
        response: What each request gets; it must be small enough for one read.
    """

    def __init__(self, response: bytes) -> None:
        self.response = response

    def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> httpcore.NetworkStream:
        return _Stream(self.response)


class _AsyncStream(httpcore.AsyncNetworkStream):
    def __init__(self, response: bytes) -> None:
        self.response = response

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        await asyncio.sleep(0)
        return self.response

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        pass

    async def aclose(self) -> None:
        pass

    def get_extra_info(self, info: str) -> Any:
        return False if info == "is_readable" else None


class AsyncNetwork(httpcore.AsyncNetworkBackend):
    """The same for asyncio."""

    def __init__(self, response: bytes) -> None:
        self.response = response

    async def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        return _AsyncStream(self.response)
