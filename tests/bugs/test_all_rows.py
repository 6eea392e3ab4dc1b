"""The list is complete: each known bug has its test."""

from __future__ import annotations

from tests.bugs.on_stock import bugs


def test_there_is_a_test_for_each_of_the_29() -> None:
    assert bugs() == [f"b{number:02}" for number in range(1, 30)]
