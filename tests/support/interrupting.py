"""Raise an exception at any instruction, with a tracer that raises before the n-th line or instruction.

    with Interruption(n, below=("httpx_agent",)) as interruption:
        client.get(url)
    interruption.where          # the line, or None if there were fewer

CPython raises exceptions from signal handlers in fewer places: at the start of a function, at the end of a call, and
where a loop repeats. So this covers every case that can occur, and more.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import httpx_agent

PACKAGE = str(Path(httpx_agent.__file__).parent)
TESTING = str(Path(PACKAGE, "testing"))


class Interrupted(BaseException):
    """Raised like a `KeyboardInterrupt`."""


class SoftLimit(Exception):
    """Raised like the soft time limit of a task queue."""


class Interruption:
    """Interrupt this thread once within the block; the exception leaves the block.

    Args:
        at: The number of the line or instruction before which to raise, counted from 1.
        error: The exception to raise.
        files: The beginnings of the names of files whose code is counted.
        instructions: Whether to count instructions instead of lines.

    Attributes:
        where: The file, line and function of the place; `None` if there were fewer lines or instructions.
    """

    def __init__(
        self, at: int, error: BaseException, *, files: Iterable[str] = (PACKAGE,), instructions: bool = False
    ) -> None:
        self.error = error
        self.where: str | None = None
        self.count = 0
        self._at = at
        self._files = tuple(files)
        self._instructions = instructions
        self._before: Any = None

    def __enter__(self) -> Self:
        self._before = sys.gettrace()
        sys.settrace(self._enter)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        sys.settrace(self._before)

    def _enter(self, frame: FrameType, event: str, argument: object) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith(self._files) or name.startswith(TESTING):
            return None
        frame.f_trace_opcodes = self._instructions
        return self._step

    def _step(self, frame: FrameType, event: str, argument: object) -> Any:
        if event != ("opcode" if self._instructions else "line") or self.where is not None:
            return self._step
        self.count += 1
        if self.count == self._at:
            code = frame.f_code
            self.where = f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_qualname}"
            sys.settrace(None)
            raise self.error
        return self._step


def in_another_thread(function: Any, timeout: float = 5.0) -> Any:
    """Call a function that does not see this thread's locks as its own; fail if it does not return."""
    results: list[Any] = []

    def call() -> None:
        try:
            results.append(function())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(timeout)
    assert results, "a call from another thread did not come back: a lock is held"
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]
