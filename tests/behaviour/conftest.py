"""What the tests of single rules share."""

from __future__ import annotations

import pytest

#: What each rule has to hold with: values of `http1_engine`. `auto` is httptools, where that can serve.
ENGINES = ["h11", "auto"]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """The HTTP/1.1 implementation under the agent."""
    name: str = request.param
    return name
