"""The other side of the comparison: the transports that come with httpx and httpx2.

A pytest plugin: `python -m pytest -p tests.bugs.stock --stock httpx -m bug` runs the tests of known bugs on httpx's own
transport, where each is meant to fail. `python -m tests.bugs.on_stock` does that for all of them, and prints a table.
The docstring of such a test says what happened there.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from httpx_agent import AgentTransport


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which library's own transport takes the place of ours."""
    parser.addoption("--stock", choices=["httpx", "httpx2"], help="test the transport that comes with a library")


class Stack:
    """A client library with a transport: ours, or the library's own.

    Args:
        stock: The library whose own transport it is; ``None`` for ours.
    """

    def __init__(self, stock: str | None) -> None:
        self.is_stock = stock is not None
        self.httpx: Any = importlib.import_module(stock or "httpx")
        self.httpcore: Any = importlib.import_module("httpcore2" if stock == "httpx2" else "httpcore")

    def transport(self, *, is_sync: bool, **options: Any) -> Any:
        """A transport with options of `AgentTransport`; those that a stock one does not know become its `limits`."""
        if not self.is_stock:
            return AgentTransport(**options)
        backend = options.pop("network_backend", None)
        async_backend = options.pop("async_network_backend", None)
        of_an_origin = options.pop("max_sockets", None)
        options.pop("http1_engine", None)
        limits = self.httpx.Limits(
            max_connections=options.pop("max_total_sockets", of_an_origin) or 100,
            max_keepalive_connections=options.pop("max_total_free_sockets", 20),
            keepalive_expiry=options.pop("free_socket_timeout", 5.0),
        )
        kind = self.httpx.HTTPTransport if is_sync else self.httpx.AsyncHTTPTransport
        transport = kind(limits=limits, trust_env=False, **options)
        chosen = backend if is_sync else async_backend
        if chosen is not None:
            transport._pool._network_backend = chosen
        return transport

    def waiting(self, transport: Any) -> int:
        """How many requests have no socket yet."""
        if self.is_stock:
            return sum(request.is_queued() for request in list(transport._pool._requests))
        return sum(transport.agent.status().requests.values())

    def under_the_lock(self, transport: Any, function: Any) -> None:
        """Has a function called, once, in the middle of a decision, when the pool's lock is held."""
        owner, name = (
            (transport._pool, "create_connection") if self.is_stock else (transport.agent._dispatcher._core, "submit")
        )
        original = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            setattr(owner, name, original)
            function()
            return original(*args, **kwargs)

        setattr(owner, name, wrapped)
