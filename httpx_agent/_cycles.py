"""A response is freed when it is dropped, and does not wait for the garbage collector.

httpx's client puts a stream around that of the transport, which knows the response that it belongs to, to tell it how
long it took: so the response refers to itself, and its body stays in memory until the collector comes. It comes by the
number of objects, however large they are, so that dozens of bodies pile up, each in memory that is new. Once a stream
is closed there is nothing more to tell; httpx2 keeps no such reference.
"""

from __future__ import annotations

import sys
from types import FrameType, ModuleType

_CLOSING = ("close", "aclose")


class Cycles:
    """Breaks the cycles of the responses of one library.

    Args:
        httpx: The library.
    """

    def __init__(self, httpx: ModuleType) -> None:
        self._close, self._aclose = (getattr(getattr(httpx.Response, name), "__code__", None) for name in _CLOSING)

    def break_them(self) -> None:
        """Takes the client's stream out of the response that is being closed, by whose `close` this is called.

        Nothing that a transport is given leads to the response, but whoever closes the transport's stream is on the
        stack: the response's method, that of the client's stream, and below it those of the streams that it closes.
        Where it is not so, nothing happens.
        """
        inner: FrameType | None = None
        outer: FrameType | None = None
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and (code := frame.f_code) is not self._close and code is not self._aclose:
            if code.co_name not in _CLOSING:
                return
            inner, outer = outer, frame
            frame = frame.f_back
        if frame is None or outer is None or inner is None:
            return
        response = frame.f_locals["self"]
        bound, stream = outer.f_locals.get("self"), inner.f_locals.get("self")
        known = [id(value) for value in getattr(bound, "__dict__", {}).values()]
        if bound is response.stream and id(response) in known and id(stream) in known:
            response.stream = stream
