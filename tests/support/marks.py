"""The tests' marks, which name a rule or a known bug, read from the files without importing them.

marked("bug")["B7"] == [Marked("tests/behaviour/test_reuse.py", "test_a_socket_is_not_closed_under_a_request")]
"""

from __future__ import annotations

import ast
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Marked:
    """A test, by the path of its file within the repository, and its name."""

    path: str
    name: str

    @property
    def title(self) -> str:
        """Return its name as a sentence."""
        return self.name.removeprefix("test_").replace("_s_", "'s ").replace("_", " ")


@cache
def marked(mark: str) -> dict[str, list[Marked]]:
    """Return the tests with a mark, by the mark's labels, in order of files and lines."""
    found: dict[str, list[Marked]] = defaultdict(list)
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        path = file.relative_to(ROOT).as_posix()
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for label in _labels(node, f"pytest.mark.{mark}"):
                    found[label].append(Marked(path, node.name))
    return dict(found)


def _labels(node: ast.FunctionDef | ast.AsyncFunctionDef, mark: str) -> list[str]:
    """Return the arguments of a test's mark."""
    return [
        ast.literal_eval(argument)
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == mark
        for argument in decorator.args
    ]
