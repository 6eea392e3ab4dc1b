"""The rules do no I/O, read no clock and take no lock: they import nothing that could."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import httpx_agent

PURE = {"__future__", "collections", "collections.abc", "dataclasses", "enum", "heapq", "itertools", "math", "typing"}

RULES = list(Path(httpx_agent.__file__).parent.joinpath("_rules").glob("*.py"))


@pytest.mark.parametrize("path", RULES, ids=[path.name for path in RULES])
def test_only_pure_modules_of_the_standard_library_are_imported(path: Path) -> None:
    """Nowhere in the file, not even in a function."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            imported.add("." * node.level + (node.module or ""))

    assert imported <= PURE


@pytest.mark.parametrize("path", RULES, ids=[path.name for path in RULES])
def test_nothing_is_awaited_or_imported_by_other_means(path: Path) -> None:
    """No coroutine, no ``__import__``, no ``open``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))

    assert not [n for n in ast.walk(tree) if isinstance(n, ast.AsyncFunctionDef | ast.Await | ast.Global)]
    assert not {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} & {
        "__import__",
        "open",
        "print",
        "eval",
        "exec",
    }
