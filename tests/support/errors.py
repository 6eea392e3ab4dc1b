"""Errors whose causes form a ring."""

from __future__ import annotations


def ring(*errors: Exception) -> Exception:
    """Make each error the cause of the previous one, and the first the cause of the last."""
    for error, cause in zip(errors, [*errors[1:], errors[0]], strict=True):
        error.__cause__ = cause
    return errors[0]
