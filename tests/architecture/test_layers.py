"""Which modules of the package may know which: those at the ground know none above them, not even as a type."""

from __future__ import annotations

import ast
from pathlib import Path

import httpx_agent

FOLDER = Path(httpx_agent.__file__).parent

#: Where work runs: threads and event loops, their clocks, locks, timers and forks. They know each other, and nothing of
#: HTTP, of connections, or of the agent.
RUNTIME = {
    "_causes",
    "_clock",
    "_contexts",
    "_descriptors",
    "_fork",
    "_homes",
    "_locks",
    "_poll",
    "_steps",
    "_watchers",
}


def imports_in(source: str) -> set[str]:
    """Return the package's own modules that are imported: at the head, in a function, or for type checkers only."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = f"httpx_agent.{node.module or ''}".rstrip(".") if node.level else str(node.module)
            found.update([module] if module != "httpx_agent" else [f"{module}.{alias.name}" for alias in node.names])
    return {name.split(".")[1] for name in found if name.startswith("httpx_agent.")}


def imported_by(name: str) -> set[str]:
    return imports_in((FOLDER / f"{name}.py").read_text(encoding="utf-8"))


def test_the_pair_of_libraries_is_the_ground() -> None:
    """What the package needs of httpx and httpcore it asks of `Family`, which asks nothing of the package."""
    assert imported_by("_family") == set()


def test_where_work_runs_nothing_is_known_of_what_the_work_is() -> None:
    beyond = {name: imported_by(name) - RUNTIME for name in RUNTIME}
    assert {name: found for name, found in beyond.items() if found} == {}


def test_imports_are_found_wherever_they_are() -> None:
    """Else the tests above would pass for the wrong reason."""
    source = """
import os, httpx_agent._one
from collections import deque
from . import _two
from ._three import name
from httpx_agent import _four
from httpx_agent._five.sub import name
if TYPE_CHECKING:
    from ._six import name
def function():
    from ._seven import name
"""
    assert imports_in(source) == {"_one", "_two", "_three", "_four", "_five", "_six", "_seven"}
