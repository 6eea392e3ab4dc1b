"""Working with respx, without a set-up by the user."""

from __future__ import annotations

import sys


def register_with_respx(pool: type) -> None:
    """Makes respx, where it is in use, replace the methods of a pool.

    In its default mode respx replaces `handle_request` of httpcore's connections and pools. For a request that goes by
    a proxy it must be the pool's: on the connection it would see the request to the proxy.
    """
    mocks = sys.modules.get("respx.mocks")
    if mocks is not None:
        mocks.HTTPCoreMocker.add_targets(f"{pool.__module__}.{pool.__qualname__}")
