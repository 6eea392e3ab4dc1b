"""An exception at any instruction: a tracer that raises where the n-th line or instruction is about to be executed.

    with Interruption(n, below=("httpx_agent",)) as interruption:
        client.get(url)
    interruption.where          # the line, or None if there were fewer

CPython raises what a signal's handler raises at fewer places: where a function begins, at the end of a call, where a
loop turns round. So this finds all that can be met, and more.
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
    """As `KeyboardInterrupt`."""


class SoftLimit(Exception):
    """As the soft time limit of a task queue."""


class Interruption:
    """While inside, this thread is interrupted once, and what that raises comes out of the block.

    Args:
        at: Which line, or instruction, that would be executed next; counted from 1.
        error: What is raised there.
        files: What the names of files begin with whose code is counted.
        instructions: Whether instructions are counted, rather than lines.

    Attributes:
        where: File, line and function of the place; `None` if there were not so many.
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
    """Call a function where no lock of this thread's counts as one's own; fail if it does not come back."""
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
