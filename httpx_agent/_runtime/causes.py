"""Find the errors that led to an error."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def walk_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all errors that led to it, each once, nearest first.

    Follow causes and contexts, and look into groups: asyncio and trio put the errors for each address of a host into
    one. Causes may form a ring: respx re-raises the exception of a `side_effect` function from its own error about it.
    """
    met: set[int] = set()  # identities, because an error may define equality in any way
    pending = deque([error])
    while pending:
        found = pending.popleft()
        if id(found) in met:
            continue
        met.add(id(found))
        yield found
        if isinstance(found, BaseExceptionGroup):
            pending.extend(found.exceptions)
        if found.__cause__ is not None:
            pending.append(found.__cause__)
        elif found.__context__ is not None and not found.__suppress_context__ and _came_of(found, found.__context__):
            pending.append(found.__context__)


def _came_of(error: BaseException, context: BaseException) -> bool:
    """Return whether an error arose while its context was handled, in a frame that had caught that context.

    Python also sets as context any error that a caller is handling at the time; that one says nothing about this error.
    """
    caught_at = context.__traceback__
    passed = error.__traceback__
    while caught_at is not None and passed is not None:
        if passed.tb_frame is caught_at.tb_frame:
            return True
        passed = passed.tb_next
    return False


def out_of_codec(error: BaseException) -> BaseException:
    """Return the exception of a signal handler that raised within a codec written in Python, such as that for names.

    Up to Python 3.11, a codec replaces it by another exception of the same type, whose message names the codec. Return
    any other error unchanged.
    """
    cause = error.__cause__
    if cause is None or type(cause) is not type(error):
        return error
    text = error.args[0] if error.args else None
    return cause if isinstance(text, str) and text.startswith("encoding with '") else error
