"""The libraries that the engine works with: httpx and httpcore, or a pair that is made like them."""

from __future__ import annotations

from functools import cached_property
from types import ModuleType
from typing import Any

from ._network import AsyncStream, SyncStream


class Family:
    """One pair of libraries. Nothing else in the engine imports either of them.

    Args:
        httpx: The client library.
        httpcore: The library that it stands on.
    """

    def __init__(self, httpx: ModuleType, httpcore: ModuleType) -> None:
        self.httpx = httpx
        self.httpcore = httpcore

    @cached_property
    def sync_stream(self) -> type[SyncStream]:
        """Our stream as a `NetworkStream` of this family."""
        return type("AgentStream", (SyncStream, self.httpcore.NetworkStream), {})

    @cached_property
    def async_stream(self) -> type[AsyncStream]:
        """Our stream as an `AsyncNetworkStream` of this family."""
        return type("AsyncAgentStream", (AsyncStream, self.httpcore.AsyncNetworkStream), {})

    def socket_stream(self, socket: object) -> Any:
        """The stream of httpcore over a socket that we connected.

        The one private name that we use of httpcore: its public `SyncBackend` connects by itself, so that a thread
        that waits for a connection could not be woken when the agent is closed.
        """
        return self.httpcore._backends.sync.SyncStream(socket)
