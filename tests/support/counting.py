"""Count the cost of a piece of code instead of timing it: the result is the same on every machine, however busy.

    watch(agent)                            # from now on the agent's containers report when they are searched
    with Meter() as meter:
        transport.handle_request(request).read()
    meter.steps, meter.entries, meter.wakes, meter.polls

A loop in Python shows as steps, one in C (`list(d.values())`, `x in l`) as entries. Only the copy of a set is not seen.
"""

from __future__ import annotations

import select
import sys
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any, Self

import httpx_agent
from httpx_agent._runtime.locks import Signal

PACKAGE = "httpx_agent"
FOLDER = str(Path(httpx_agent.__file__).parent)
TESTING = str(Path(FOLDER, "testing"))
_TOOL = 4  # a number that `sys.monitoring` leaves to anyone

WAKERS = frozenset({"set", "notify", "notify_all", "call_soon_threadsafe", "run_sync_soon"})
"""The methods that wake a thread or a task, in `threading`, asyncio, anyio and trio, and in our own `Signal`."""


class Meter:
    """Count the work of the package in this thread during the block, in all tasks of its event loop.

    Attributes:
        steps: How many Python instructions were executed.
        entries: How many entries of watched containers were visited other than by key.
        wakes: How often a thread or a task was woken.
        polls: How often a system socket was polled, by the name of the function that did it.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.entries = 0
        self.wakes = 0
        self.polls: Counter[str] = Counter()

    def __enter__(self) -> Self:
        global _meter
        assert _meter is None
        _meter = self
        self._before = sys.gettrace(), sys.getprofile()
        sys.setprofile(self._called)
        if sys.version_info >= (3, 12):  # tracing leaves out the first run of a function there
            self._thread = threading.get_ident()
            sys.monitoring.use_tool_id(_TOOL, "meter")
            sys.monitoring.register_callback(_TOOL, sys.monitoring.events.INSTRUCTION, self._executed)
            sys.monitoring.restart_events()
            sys.monitoring.set_events(_TOOL, sys.monitoring.events.INSTRUCTION)
        else:
            sys.settrace(self._entered)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        global _meter
        trace, profile = self._before
        if sys.version_info >= (3, 12):
            sys.monitoring.set_events(_TOOL, 0)
            sys.monitoring.free_tool_id(_TOOL)
        else:
            sys.settrace(trace)
        sys.setprofile(profile)
        _meter = None

    def _entered(self, frame: FrameType, event: str, argument: object) -> Any:
        if not _is_ours(frame):
            return None
        frame.f_trace_opcodes = True
        return self._stepped

    def _stepped(self, frame: FrameType, event: str, argument: object) -> Any:
        self.steps += event == "opcode"
        return self._stepped

    def _executed(self, code: CodeType, offset: int) -> Any:
        if not code.co_filename.startswith(FOLDER) or code.co_filename.startswith(TESTING):
            return sys.monitoring.DISABLE
        self.steps += threading.get_ident() == self._thread
        return None

    def _called(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_name in WAKERS:
            self.wakes += _is_ours(frame.f_back) and (not _is_ours(frame) or frame.f_code is Signal.set.__code__)
        elif event == "c_call" and argument.__name__ == "poll" and isinstance(argument.__self__, _POLL):
            self.polls[frame.f_code.co_name] += 1


_POLL = type(select.poll())  # not the selector of an event loop, which is another
_meter: Meter | None = None


def _is_ours(frame: FrameType | None) -> bool:
    """Whether this is the package's code; the stand-ins for the network are not."""
    if frame is None:
        return False
    package, _, module = frame.f_globals.get("__name__", "").partition(".")
    return package == PACKAGE and module.partition(".")[0] != "testing"


def _counted(entries: Iterable[Any]) -> Iterator[Any]:
    """Count each entry that is produced."""
    for entry in entries:
        if _meter is not None:
            _meter.entries += 1
        yield entry


class _Keyed:
    """The methods of dictionaries."""

    def __iter__(self) -> Iterator[Any]:
        return _counted(super().__iter__())  # type: ignore[misc]

    def __reversed__(self) -> Iterator[Any]:
        return _counted(super().__reversed__())  # type: ignore[misc]

    def keys(self) -> Any:
        return _counted(super().keys())  # type: ignore[misc]

    def values(self) -> Any:
        return _counted(super().values())  # type: ignore[misc]

    def items(self) -> Any:
        return _counted(super().items())  # type: ignore[misc]


class _Plain:
    """The methods of lists, sets and queues."""

    def __iter__(self) -> Iterator[Any]:
        return _counted(super().__iter__())  # type: ignore[misc]


class _Ordered(_Plain):
    """The additional methods of lists and queues: a search visits one entry after another."""

    def __contains__(self, wanted: object) -> bool:
        return any(entry is wanted or entry == wanted for entry in self)

    def index(self, wanted: object, *limits: int) -> int:
        for place, entry in enumerate(self):
            if entry is wanted or entry == wanted:
                return place
        raise ValueError(f"{wanted!r} is not in it")

    def remove(self, wanted: object) -> None:
        del self[self.index(wanted)]  # type: ignore[attr-defined]


class WatchedDict(_Keyed, dict[Any, Any]):
    pass


class WatchedOrderedDict(_Keyed, OrderedDict[Any, Any]):
    pass


class WatchedSet(_Plain, set[Any]):
    pass


class WatchedList(_Ordered, list[Any]):
    pass


class WatchedDeque(_Ordered, deque[Any]):
    pass


WATCHED: dict[type, type] = {
    dict: WatchedDict,
    OrderedDict: WatchedOrderedDict,
    set: WatchedSet,
    list: WatchedList,
    deque: WatchedDeque,
}


def watch(*roots: object) -> list[Any]:
    """Replace all containers held by objects of the package with watched ones; return these."""
    found: list[Any] = []
    seen: set[int] = set()
    left = list(roots)
    while left:
        thing = left.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, (dict, list, set, deque)):
            if isinstance(thing, dict):
                for key, value in list(thing.items()):
                    if type(value) in WATCHED:
                        thing[key] = WATCHED[type(value)](value)
            left += thing.values() if isinstance(thing, dict) else thing
            if type(thing) in WATCHED.values():
                found.append(thing)
        elif isinstance(thing, tuple):
            left += thing
        elif type(thing).__module__.partition(".")[0] == PACKAGE and not isinstance(thing, type):
            for name in _attributes(thing):
                value = getattr(thing, name, None)
                if type(value) in WATCHED:
                    value = WATCHED[type(value)](value)
                    object.__setattr__(thing, name, value)
                left.append(value)
    return found


def _attributes(thing: object) -> list[str]:
    slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    return [*getattr(thing, "__dict__", ()), *(name for name in slots if not name.startswith("__"))]
