"""Fixtures for tests of several subjects."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from httpx_agent._network.resolver import resolver
from tests.support.names import Names
from tests.support.servers import Server

#: Values of `http1_engine`. `auto` is httptools, where that can serve.
ENGINES = ["h11", "auto"]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """The HTTP/1.1 implementation under the agent."""
    name: str = request.param
    return name


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    """Names of the test's own; silent ones speak at its end, so that no thread is left."""
    found = Names(monkeypatch)
    yield found
    found.speak.set()
    until = time.monotonic() + 10
    while resolver._look_ups:  # the next test's look-up of the same name would join one of this
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.fixture(params=["http", "https"])
def any_server(request: pytest.FixtureRequest) -> Server:
    """With TLS and without."""
    found: Server = request.getfixturevalue("server" if request.param == "http" else "tls_server")
    return found
