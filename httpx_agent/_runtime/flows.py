"""Flows: the work of a request, written once for threads and for event loops.

A *flow* is a generator that yields steps, each of which may block. A step can be done in two worlds: `run` blocks the
thread, `arun` awaits. The functions `run` and `arun` below drive a flow to its end. Nothing else about driving
a flow differs between sync and async.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from types import GeneratorType
from typing import Any, Protocol, TypeVar

from .contexts import TimeLimit

T = TypeVar("T")


class Step(Protocol):
    """An operation that may block."""

    def run(self) -> Any:
        """Do it in this thread."""

    def arun(self) -> Awaitable[Any]:
        """Do it in this task."""
        raise NotImplementedError


Flow = Generator[Step, Any, T]


def run(flow: Flow[T]) -> T:
    """Drive a flow in this thread.

    An exception in a step, or on the way to the next one, is raised in the flow; a flow is never left unfinished.
    """
    try:
        step = next(flow)
        while True:
            try:
                step = flow.send(step.run())
            except BaseException as error:
                if not _waits(flow):
                    raise
                step = flow.throw(error)
    except StopIteration as stop:
        value: T = stop.value
        return value
    except BaseException:
        flow.close()
        raise


async def arun(flow: Flow[T]) -> T:
    """Drive a flow in this task, as `run` does in a thread."""
    try:
        step = next(flow)
        while True:
            try:
                step = flow.send(await step.arun())
            except GeneratorExit:  # this coroutine was dropped: nothing can be awaited now
                raise
            except BaseException as error:
                if not _waits(flow):
                    raise
                step = flow.throw(error)
    except StopIteration as stop:
        value: T = stop.value
        return value
    except BaseException:
        flow.close()
        raise


def _waits(flow: Flow[Any]) -> bool:
    """Return whether a flow is at one of its steps, and has not ended."""
    assert isinstance(flow, GeneratorType)
    return flow.gi_suspended


class Call:
    """Call a function; in an event loop, its async counterpart."""

    __slots__ = ("_arguments", "_async_function", "_function")

    def __init__(self, function: Any, arguments: dict[str, Any], async_function: Any = None) -> None:
        self._function = function
        self._async_function = async_function or function
        self._arguments = arguments

    def run(self) -> Any:
        return self._function(**self._arguments)

    def arun(self) -> Awaitable[Any]:
        awaitable: Awaitable[Any] = self._async_function(**self._arguments)
        return awaitable


class Wait:
    """Wait for an event, but no longer than some seconds."""

    __slots__ = ("_event", "_timeout")

    def __init__(self, event: Any, timeout: float | None) -> None:
        self._event = event
        self._timeout = timeout

    def run(self) -> None:
        self._event.wait(self._timeout)

    async def arun(self) -> None:
        with TimeLimit(self._timeout):
            await self._event.wait()
