"""Reject unknown attributes: an agent that let them be set would silently ignore them."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from .._values.option_hints import is_all_but_one
from .._values.options import AgentOptions


class StrictAttributes:
    """An object that rejects unknown attributes, and says what was probably meant.

    Names that begin with an underscore are allowed, and so are names that the class has: mocks and instrumentation
    replace methods. A user's subclass has its own attributes, so there a name is rejected only if it is almost that of
    an option, is not a plain word such as `timeout`, and is not declared by the class.
    """

    def _hint(self, name: str, *, is_set: bool) -> str | None:
        """Explain what an attribute was probably meant to be; return ``None`` if nothing is similar."""
        raise NotImplementedError

    if not TYPE_CHECKING:  # pragma: no branch - otherwise type checkers would accept any name

        def __setattr__(self, name, value):
            if not (name.startswith("_") or name in self.__dict__ or hasattr(type(self), name)):
                self._refuse(name)
            super().__setattr__(name, value)

        def __getattr__(self, name):
            if hasattr(type(self), name):  # a property raised an `AttributeError`: raise that again
                return super().__getattribute__(name)
            hint = None if name.startswith("_") else self._hint(name, is_set=False)
            raise _error(self, name, f" ({hint})" if hint else "")

    def _refuse(self, name: str) -> None:
        kind = type(self)
        if kind.__module__.partition(".")[0] == __name__.partition(".")[0]:
            hint = self._hint(name, is_set=True)
            nothing = "setting it would have no effect; a subclass may define its own attributes"
            raise _error(self, name, f" ({hint})" if hint else f", and {nothing}")
        if _is_plain_word(name) or not is_all_but_one(name, AgentOptions.__dataclass_fields__):
            return
        if not any(name in inspect.get_annotations(base) for base in kind.__mro__):
            hint = self._hint(name, is_set=True)
            raise _error(self, name, f" ({hint}); if it is your own attribute, declare it in the class")


def _error(owner: object, name: str, more: str) -> AttributeError:
    # Without `obj`, because Python would append its own suggestion.
    return AttributeError(f"{type(owner).__name__!r} object has no attribute {name!r}{more}", name=name)


def _is_plain_word(name: str) -> bool:
    return name.islower() and "_" not in name
