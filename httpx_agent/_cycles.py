"""Large responses are freed when they are dropped, and do not wait for the garbage collector.

httpx's client puts a stream around that of the transport, which knows the response that it belongs to, to tell it how
long it took: so the response refers to itself, and its body stays in memory until the collector comes. It comes by the
number of objects, however large they are, so that dozens of bodies pile up, each in memory that is new. Once a stream
is closed there is nothing more to tell; httpx2 keeps no such reference.
"""

from __future__ import annotations

import sys
from types import FrameType, ModuleType
from typing import Any

#: Smaller bodies are left to the collector: looking for their responses would cost more than they do.
LARGE = 64 * 1024

_CLOSING = ("close", "aclose")


def break_cycle(httpx: ModuleType) -> None:
    """Takes the client's stream out of the response that is being closed, by whose `close` this is called in the end.

    Nothing that a transport can see leads to the response, but whoever closes the transport's stream is on the stack:
    the response's method, that of the client's stream, and below it those of the streams that are closed by it. Where
    it is not so, nothing happens.
    """
    inner: Any = None
    outer: Any = None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name in _CLOSING:
        closing = frame.f_locals.get("self")
        if isinstance(closing, httpx.Response):
            if outer is closing.stream and _refers(outer, closing) and _refers(outer, inner):
                closing.stream = inner
            return
        inner, outer = outer, closing
        frame = frame.f_back


def _refers(owner: object, other: object) -> bool:
    return any(value is other for value in getattr(owner, "__dict__", {}).values())
