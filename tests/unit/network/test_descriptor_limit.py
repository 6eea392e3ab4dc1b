"""Whether an error comes from the limit on open files, wherever it is among the causes of another."""

from __future__ import annotations

import errno
import os

import httpcore
import pytest

from httpx_agent._network.descriptor_limit import is_out_of_descriptors
from tests.support.errors import caught, ring

pytestmark = pytest.mark.timeout(10)


def raise_first_from_last() -> None:
    """Raise as respx does what a `side_effect` function raised: the first error, from the one it was wrapped in."""
    first = httpcore.ConnectError("refused")
    try:
        try:
            raise first
        except httpcore.ConnectError as error:
            raise RuntimeError("wrapped") from error
    except RuntimeError as error:
        raise first from error


def test_the_limit_on_open_files_is_found_in_a_ring() -> None:
    too_many = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    assert is_out_of_descriptors(ring(httpcore.ConnectError("1"), RuntimeError("2"), too_many))
    assert not is_out_of_descriptors(caught(raise_first_from_last))
