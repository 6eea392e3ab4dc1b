"""Free a response as soon as it is dropped, rather than at the next garbage collection.

httpx's client wraps the transport's stream in a stream that holds the response, in order to set its `elapsed`. So the
response refers to itself, and its body stays in memory until the garbage collector runs. The collector counts objects,
not bytes, so dozens of bodies pile up, each in newly allocated memory. Once the stream is closed, nothing needs the
reference any more, and it can be removed. httpx2 keeps no such reference.
"""

from __future__ import annotations

import sys
from types import ModuleType

_CLOSING = ("close", "aclose")

#: Number of frames from `break_up` up to the response's method. Those between belong to our body, the transport's
#: stream and the client's stream.
_DEPTH = 4


class ReferenceCycle:
    """The reference cycle that each response of one library is part of.

    Args:
        httpx: The library.
    """

    def __init__(self, httpx: ModuleType) -> None:
        self._close, self._aclose = (getattr(getattr(httpx.Response, name), "__code__", None) for name in _CLOSING)
        self._streams = (httpx.SyncByteStream, httpx.AsyncByteStream)

    def break_up(self) -> None:
        """Take the client's stream out of the response whose `close` is calling this.

        A transport never sees the `Response`, so find it on the call stack: above us are the streams' own `close`
        methods, then `Response.close`. If it isn't there, do nothing.
        """
        try:
            frame = sys._getframe(_DEPTH)
        except ValueError:  # pragma: no cover - in a thread started by C code, which coverage does not trace
            return
        while (code := frame.f_code) is not self._close and code is not self._aclose:
            if code.co_name not in _CLOSING or frame.f_back is None:
                return
            frame = frame.f_back  # other libraries may have put their own streams between
        response = frame.f_locals["self"]
        known = getattr(response.stream, "__dict__", {}).values()
        streams = [value for value in known if isinstance(value, self._streams)]
        if len(streams) == 1 and any(value is response for value in known):
            response.stream = streams[0]
