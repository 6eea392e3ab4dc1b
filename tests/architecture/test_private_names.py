"""The private names that the package uses (A13: agentkeepalive broke with upgrades of Node, whose agent it changes)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import httpx_agent

#: Private names of other libraries that the package uses, and where they are from. Each new one needs a reason.
KNOWN = {
    "_backends": "httpcore: the streams of its sync and its anyio backend, over a socket that we connected",
    "_connection": "httpcore: from a connection to the one inside it",
    "_cstate": "h11: what it takes a connection of HTTP/1.0 for, which it never keeps by itself",
    "_h11_state": "httpcore: whether bytes came after a response",
    "_max_streams_semaphore": "httpcore: what counts the streams of HTTP/2, which an exception may leave locked",
    "_sock": "asyncio and trio: the socket that they hide",
    "_is_owned": "the standard library: whether a thread holds a lock; `threading.Condition` asks the same",
    "_getframe": "the standard library: where a response was asked for",
    "_SubParsersAction": "the standard library: a type that argparse does not export",
}

#: The same of modules. This one is documented: it is only its name that looks private.
KNOWN_MODULES = {"_thread": "the standard library: to start a thread where no lock may be taken"}


def modules() -> dict[str, ast.Module]:
    folder = Path(httpx_agent.__file__).parent
    return {str(path.relative_to(folder)): ast.parse(path.read_text()) for path in folder.rglob("*.py")}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name.isidentifier() and name != "_"


def own_names(module: ast.Module) -> set[str]:
    """What a module defines, as a name or as an attribute."""
    names = set()
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    return names


def names_used(module: ast.Module) -> set[str]:
    """Attributes that a module looks at, by a dot or by `getattr` and `hasattr`."""
    names = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            names |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return {name for name in names if isinstance(name, str) and is_private(name)}


@pytest.mark.rule("A13")
def test_private_names_of_other_libraries_are_few_and_known() -> None:
    own = set().union(*map(own_names, modules().values()))
    used = set().union(*map(names_used, modules().values()))
    assert used - own | {"_connection", "_max_streams_semaphore"} == KNOWN.keys()
    assert "_connection" in names_used(modules()["_connection/httpcore.py"])  # which is a name of ours as well


@pytest.mark.rule("A13")
def test_no_private_module_of_another_library_is_imported() -> None:
    for path, module in modules().items():
        for node in ast.walk(module):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                imported = [f"{node.module}.{alias.name}" for alias in node.names]
            private = [name for name in imported if any(map(is_private, name.split("."))) and name not in KNOWN_MODULES]
            assert not private or private[0].startswith("httpx_agent."), f"{path} imports {private}"
