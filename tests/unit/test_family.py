"""The pair of libraries: which errors are the network's."""

from __future__ import annotations

import errno

import httpcore
import pytest

from httpx_agent import Agent
from tests.support.interrupting import Interrupted, SoftLimit

FAMILY = Agent.family


@pytest.mark.parametrize("error", [httpcore.ReadError(), OSError(errno.EPIPE, "broken"), EOFError(), ValueError("fd")])
def test_errors_of_the_network_can_be_ignored(error: Exception) -> None:
    with FAMILY.suppress_network_errors():
        raise error


@pytest.mark.parametrize("error", [SoftLimit(), TimeoutError("the handler's"), KeyError(), Interrupted()])
def test_others_come_out(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, FAMILY.suppress_network_errors():
        raise error
    assert caught.value is error
