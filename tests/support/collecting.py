"""The collector in tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """What is left open stays so: the collector does not come to anybody's help."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
