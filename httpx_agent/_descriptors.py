"""The limit on open files: how an error tells that it was reached."""

from __future__ import annotations

import errno
import os
import socket

#: The process has as many as it may (`ulimit -n`), or the system has.
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)


def is_out_of_descriptors(error: BaseException) -> bool:
    """Whether an error goes back to the limit on open files.

    Looks at causes, and into groups: asyncio and trio put what went wrong with each address of a host in one.
    """
    pending = [error]
    for found in pending:
        if isinstance(found, OSError) and found.errno in _NO_DESCRIPTOR:
            return True
        if isinstance(found, socket.gaierror) and _none_is_left():  # looking up a name needs files, and does not say so
            return True
        if isinstance(found, BaseExceptionGroup):
            pending.extend(found.exceptions)
        if found.__cause__ is not None:
            pending.append(found.__cause__)
    return False


def _none_is_left() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno in _NO_DESCRIPTOR
    return False
