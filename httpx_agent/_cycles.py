"""A response is freed when it is dropped, and does not wait for the garbage collector.

httpx's client puts a stream around that of the transport, which knows the response that it belongs to, to tell it how
long it took: so the response refers to itself, and its body stays in memory until the collector comes. It comes by the
number of objects, however large they are, so that dozens of bodies pile up, each in memory that is new. Once a stream
is closed there is nothing more to tell; httpx2 keeps no such reference.
"""

from __future__ import annotations

import sys
from types import ModuleType

_CLOSING = ("close", "aclose")

#: From here up to the response's method: the body's, that of the transport's stream, that of the client's stream.
_DEPTH = 4


class Cycles:
    """Breaks the cycles of the responses of one library.

    Args:
        httpx: The library.
    """

    def __init__(self, httpx: ModuleType) -> None:
        self._close, self._aclose = (getattr(getattr(httpx.Response, name), "__code__", None) for name in _CLOSING)
        self._streams = (httpx.SyncByteStream, httpx.AsyncByteStream)

    def break_them(self) -> None:
        """Takes the client's stream out of the response that is being closed, by whose `close` this is called.

        Nothing that a transport is given leads to the response, but whoever closes the transport's stream is on the
        stack: first the method of the response, then those of one stream after the other. Where it is not so, nothing
        happens.
        """
        try:
            frame = sys._getframe(_DEPTH)
        except ValueError:  # pragma: no cover - a thread that C started, where coverage does not look
            return
        while (code := frame.f_code) is not self._close and code is not self._aclose:
            if code.co_name not in _CLOSING or frame.f_back is None:
                return
            frame = frame.f_back  # other libraries may have put streams between the two
        response = frame.f_locals["self"]
        known = getattr(response.stream, "__dict__", {}).values()
        streams = [value for value in known if isinstance(value, self._streams)]
        if len(streams) == 1 and any(value is response for value in known):
            response.stream = streams[0]
