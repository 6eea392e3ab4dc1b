"""Working with respx, and with whatever else replaces methods of httpcore, without a set-up by the user."""

from __future__ import annotations

import os
import sys
from operator import attrgetter
from types import FunctionType, ModuleType

#: The module of respx that has its mockers; what has it among its modules may be mocked at any time.
RESPX = "respx.mocks"


def register_with_respx(pool: type, httpcore: ModuleType) -> bool:
    """Have respx, where it is in use, replace the methods of a pool; return whether it has not done so before.

    In its default mode respx replaces `handle_request` of httpcore's connections and pools. It must be the pool's. On
    the connection it would see the request to the proxy where there is one, and its answer in the place of a socket's.
    pytest-httpx2 teaches respx the same of httpcore2.

    Args:
        pool: The class; where that is made at run time, it has the name of the one in whose place it stands.
        httpcore: The library in whose place the pool stands; respx has its mockers by the names of these, which may
            be other names for the same (`httpx2.alias_httpx`).
    """
    root = getattr(sys.modules.get(RESPX), "Mocker", None)  # another thread may be about to import it
    if root is None:
        return False
    target = f"{pool.__module__}.{pool.__qualname__}"
    mockers = [
        mocker
        for name, mocker in root.registry.items()
        if sys.modules.get(name) is httpcore and target not in mocker.targets
    ]
    for mocker in mockers:
        mocker.add_targets(target)
    return bool(mockers)


class Originals:
    """The methods by which httpcore sends requests; mocks replace them, at any time.

    Args:
        classes: The classes.
        name: The name of the method in each.
    """

    def __init__(self, classes: tuple[type, ...], name: str) -> None:
        self._classes = classes
        self._method_of = attrgetter(name)
        self._known: list[object] = []

    def are_replaced(self) -> bool:
        """Whether one of them is not its library's own."""
        found = list(map(self._method_of, self._classes))
        if found == self._known:
            return False
        if not all(map(_is_own, self._classes, found)):
            return True
        self._known = found
        return False


def _is_own(owner: type, function: object) -> bool:
    """Whether a method comes from its class's package; what wraps it has a code of its own, whatever it is called."""
    folder = os.path.dirname(sys.modules[owner.__module__.partition(".")[0]].__file__ or "")
    return isinstance(function, FunctionType) and function.__code__.co_filename.startswith(folder + os.sep)
