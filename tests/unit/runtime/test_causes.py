"""The search through the causes of an error, which may form a ring."""

from __future__ import annotations

import errno
import os

import pytest

from httpx_agent._runtime.causes import walk_causes
from tests.support.errors import caught, ring

pytestmark = pytest.mark.timeout(10)


TOO_MANY = OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_every_error_of_a_ring_is_met_once() -> None:
    one, two, three = ValueError("1"), ValueError("2"), ValueError("3")
    assert list(walk_causes(ring(one, two, three))) == [one, two, three]
    assert list(walk_causes(ring(one))) == [one]


def test_a_group_is_looked_into_and_may_be_part_of_a_ring() -> None:
    one, two = ValueError("1"), ValueError("2")
    group = ExceptionGroup("both", [one, ExceptionGroup("inner", [two])])
    two.__cause__ = group
    assert list(walk_causes(group)) == [group, one, group.exceptions[1], two]


def test_an_error_raised_while_another_was_handled_leads_to_it() -> None:
    first = OSError("first")

    def fail() -> None:
        try:
            raise first
        except OSError:
            raise RuntimeError("then")  # noqa: B904

    error = caught(fail)
    assert list(walk_causes(error)) == [error, first]


def test_what_a_caller_handles_while_he_makes_a_request_is_no_cause() -> None:
    """Python calls it the context of all that fails meanwhile; it has nothing to do with that."""

    def fail() -> None:
        raise RuntimeError("then")

    try:
        raise TOO_MANY
    except OSError:
        error = caught(fail)
    assert error.__context__ is TOO_MANY
    assert list(walk_causes(error)) == [error]


def test_a_context_that_was_put_away_or_never_raised_is_no_cause() -> None:
    def fail() -> None:
        try:
            raise OSError("first")
        except OSError:
            raise RuntimeError("then") from None

    error = caught(fail)
    assert list(walk_causes(error)) == [error]
    error = ValueError("made by hand")
    error.__context__ = OSError("made by hand")
    assert list(walk_causes(error)) == [error]
