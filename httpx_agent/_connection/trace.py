"""Tell a request's `trace` callback, and the log, what happens to it. The names are httpcore's."""

from __future__ import annotations

import inspect
import logging
from functools import lru_cache
from typing import Any


class Trace:
    """Tell one request's listeners of its events.

    Args:
        library: The name of httpcore, after which its loggers are called.
        callback: The request's `trace` extension, if it has one.
    """

    __slots__ = ("_callback", "_library")

    def __init__(self, library: str, callback: Any) -> None:
        self._library = library
        self._callback = callback

    def tell(self, name: str, info: dict[str, Any]) -> None:
        """Tell of one event.

        Raises:
            TypeError: If the callback is an async function.
        """
        self._log(name, info)
        if self._callback is not None and inspect.iscoroutine(answer := self._callback(name, info)):
            answer.close()
            raise TypeError("the `trace` callback of a sync request must be a plain function, not an async one")

    async def atell(self, name: str, info: dict[str, Any]) -> None:
        """Tell of one event in an event loop.

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
    """Return a logger of httpcore's, asking once: what is raised in `logging` leaves all of it locked.

    Args:
        library: The name of httpcore.
        name: ``"connection"`` or ``"http11"``.
    """
    return logging.getLogger(f"{library}.{name}")


def trace_of(library: str, log: logging.Logger, request: Any) -> Trace | None:
    """Return the listeners of a request, or ``None`` if nobody listens.

    Args:
        library: The name of httpcore.
        log: The logger that will be written to.
        request: httpcore's request.
    """
    callback = request.extensions.get("trace")
    if callback is None and not log.isEnabledFor(logging.DEBUG):
        return None
    return Trace(library, callback)
