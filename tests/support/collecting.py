"""Control of the garbage collector in tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep the collector from running, so that anything left open stays open."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
