"""The kit's fixtures for pytest.

To use them, write ``pytest_plugins = ["httpx_agent.testing.fixtures"]`` in a `conftest.py`.

There is no entry point, which would load them into every run of pytest wherever this library is installed: each of
these runs would have to import httpx, and two fixture names would be taken.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ._chaos import ChaosServer
from ._clock import VirtualClock


@pytest.fixture
def chaos_server() -> Iterator[ChaosServer]:
    """Provide a `ChaosServer`; fail the test if its client leaves connections open."""
    with ChaosServer(must_be_closed=True) as server:
        yield server


@pytest.fixture
def virtual_clock() -> Iterator[VirtualClock]:
    """Provide a `VirtualClock`, which all agents that the test makes use."""
    with VirtualClock() as clock:
        yield clock
