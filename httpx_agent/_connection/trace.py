"""Report a request's events to its `trace` callback and the log, under httpcore's names."""

from __future__ import annotations

import inspect
import logging
from functools import lru_cache
from typing import Any


class Trace:
    """The listeners of one request.

    Args:
        library: The name of httpcore, which begins the names of its loggers.
        callback: The request's `trace` extension, if it has one.
    """

    __slots__ = ("_callback", "_library")

    def __init__(self, library: str, callback: Any) -> None:
        self._library = library
        self._callback = callback

    def tell(self, name: str, info: dict[str, Any]) -> None:
        """Report one event.

        Raises:
            TypeError: If the callback is an async function.
        """
        self._log(name, info)
        if self._callback is not None and inspect.iscoroutine(answer := self._callback(name, info)):
            answer.close()
            raise TypeError("the `trace` callback of a sync request must be a plain function, not an async one")

    async def atell(self, name: str, info: dict[str, Any]) -> None:
        """Report one event in an event loop.

        Raises:
            TypeError: If the callback is a plain function.
        """
        self._log(name, info)
        if self._callback is not None:
            answer = self._callback(name, info)
            if not inspect.iscoroutine(answer):
                raise TypeError("the `trace` callback of an async request must be an async function, not a plain one")
            await answer

    def _log(self, name: str, info: dict[str, Any]) -> None:
        logger, _, event = name.partition(".")
        log = logger_of(self._library, logger)
        if log.isEnabledFor(logging.DEBUG):
            details = "" if info.get("return_value", info) is None else " ".join(f"{k}={v!r}" for k, v in info.items())
            log.debug("%s", f"{event} {details}".rstrip())


@lru_cache
def logger_of(library: str, name: str) -> logging.Logger:
    """Return one of httpcore's loggers; ask for it once, because an exception in `logging` leaves all of it locked.

    Args:
        library: The name of httpcore.
        name: ``"connection"`` or ``"http11"``.
    """
    return logging.getLogger(f"{library}.{name}")


def trace_of(library: str, log: logging.Logger, request: Any) -> Trace | None:
    """Return the listeners of a request, or ``None`` if there are none.

    Args:
        library: The name of httpcore.
        log: The logger to write to.
        request: httpcore's request.
    """
    callback = request.extensions.get("trace")
    if callback is None and not log.isEnabledFor(logging.DEBUG):
        return None
    return Trace(library, callback)
