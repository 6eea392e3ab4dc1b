"""The list is complete: each known bug has its test, and each such test can run on another stack."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest

from tests.bugs.on_stock import bugs
from tests.support.marks import marked


def test_there_is_a_test_for_each_of_the_29() -> None:
    assert bugs() == [f"B{number}" for number in range(1, 30)]


@pytest.mark.parametrize("bug", bugs())
def test_each_can_run_on_the_transport_that_has_the_bug(bug: str) -> None:
    for test in marked("bug")[bug]:
        module = import_module(test.path.removesuffix(".py").replace("/", "."))
        assert "stack" in inspect.signature(getattr(module, test.name)).parameters
