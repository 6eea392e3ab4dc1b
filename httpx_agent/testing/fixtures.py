"""The kit's fixtures for pytest. In a `conftest.py`, once: ``pytest_plugins = ["httpx_agent.testing.fixtures"]``.

There is no entry point that would load them into every run of pytest where this library happens to be installed: that
would cost each of those runs the import of httpx, and take two names from them.
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
    """Provide a `VirtualClock`, by which all agents live that the test makes."""
    with VirtualClock() as clock:
        yield clock
