"""What the tests of the known bugs share."""

from __future__ import annotations

import pytest

from tests.bugs.stock import Stack


@pytest.fixture
def stack(request: pytest.FixtureRequest) -> Stack:
    """Our transport, or with `--stock` another: see `tests.bugs.stock`."""
    return Stack(request.config.getoption("--stock", default=None))
