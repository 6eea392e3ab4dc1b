"""What the tests of single rules share."""

from __future__ import annotations

import pytest

#: The implementations of HTTP/1.1 that each rule has to hold with: values of `http1_engine`.
ENGINES = ["h11"]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """The HTTP/1.1 implementation under the agent."""
    name: str = request.param
    return name
