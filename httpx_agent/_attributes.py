"""Attributes that are none: an agent that took whatever is set on it would do nothing with it, and say nothing."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from ._names import is_all_but_one
from ._options import AgentOptions


class StrictAttributes:
    """Refuses to be given an attribute that is none of its own, and says what was probably meant.

    Names that begin with an underscore pass, and so do those that the class has, whose methods mocks and instruments
    replace. A subclass of a user's has attributes of its own: there only those are refused that are all but an option
    and no plain word such as `timeout`, unless the class declares them.
    """

    def _hint(self, name: str, *, is_set: bool) -> str | None:
        """Say what an attribute was probably meant to be."""
        raise NotImplementedError

    if not TYPE_CHECKING:  # pragma: no branch - type checkers would take every name for an attribute

        def __setattr__(self, name, value):
            if not (name.startswith("_") or name in self.__dict__ or hasattr(type(self), name)):
                self._refuse(name)
            super().__setattr__(name, value)

        def __getattr__(self, name):
            if hasattr(type(self), name):  # a property raised an `AttributeError`, which is to be seen
                return super().__getattribute__(name)
            hint = None if name.startswith("_") else self._hint(name, is_set=False)
            raise _error(self, name, f" ({hint})" if hint else "")

    def _refuse(self, name: str) -> None:
        kind = type(self)
        if kind.__module__.partition(".")[0] == __package__:
            hint = self._hint(name, is_set=True)
            nothing = "setting it would do nothing; a subclass may have attributes of its own"
            raise _error(self, name, f" ({hint})" if hint else f", and {nothing}")
        if _is_plain_word(name) or not is_all_but_one(name, AgentOptions.__dataclass_fields__):
            return
        if not any(name in inspect.get_annotations(base) for base in kind.__mro__):
            hint = self._hint(name, is_set=True)
            raise _error(self, name, f" ({hint}); if it is one of your own, declare it in the class")


def _error(owner: object, name: str, more: str) -> AttributeError:
    # Without `obj`, or Python would append a suggestion of its own.
    return AttributeError(f"{type(owner).__name__!r} object has no attribute {name!r}{more}", name=name)


def _is_plain_word(name: str) -> bool:
    return name.islower() and "_" not in name
