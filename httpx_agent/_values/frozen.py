"""A read-only dictionary."""

from __future__ import annotations

from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


class FrozenDict(dict[str, T]):
    """A read-only dictionary; it equals any dictionary with the same entries.

    Unlike `types.MappingProxyType`, it can be pickled, copied and written as JSON, and `dataclasses.asdict` accepts it.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)

    def _refuse(self, *args: object, **kwargs: object) -> NoReturn:
        raise TypeError("this dictionary is read-only; make a copy with dict(…)")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = _refuse
    setdefault = update = _refuse  # pyright: ignore[reportAssignmentType]
