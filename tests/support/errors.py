"""Errors whose causes lead back to themselves."""

from __future__ import annotations


def ring(*errors: Exception) -> Exception:
    """Make each error the cause of the one before, and the first that of the last."""
    for error, cause in zip(errors, [*errors[1:], errors[0]], strict=True):
        error.__cause__ = cause
    return errors[0]
