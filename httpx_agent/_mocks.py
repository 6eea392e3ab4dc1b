"""Working with respx, without a set-up by the user."""

from __future__ import annotations

import sys
from types import ModuleType


def register_with_respx(pool: type, httpcore: ModuleType) -> None:
    """Makes respx, where it is in use, replace the methods of a pool.

    In its default mode respx replaces `handle_request` of httpcore's connections and pools. For a request that goes by
    a proxy it must be the pool's: on the connection it would see the request to the proxy. pytest-httpx2 teaches respx
    the same of httpcore2.

    Args:
        pool: The class.
        httpcore: The library in whose place it stands; respx has its mockers by the names of these.
    """
    mocks = sys.modules.get("respx.mocks")
    mocker = mocks.Mocker.registry.get(httpcore.__name__) if mocks is not None else None
    if mocker is not None:
        mocker.add_targets(f"{pool.__module__}.{pool.__qualname__}")
