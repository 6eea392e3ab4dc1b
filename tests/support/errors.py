"""Errors whose causes form a ring, and a way to get at an error."""

from __future__ import annotations

from collections.abc import Callable


def ring(*errors: Exception) -> Exception:
    """Make each error the cause of the previous one, and the first the cause of the last."""
    for error, cause in zip(errors, [*errors[1:], errors[0]], strict=True):
        error.__cause__ = cause
    return errors[0]


def caught(function: Callable[[], object]) -> Exception:
    """Return what a function raises."""
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")
