"""Recognise errors caused by the limit on open files."""

from __future__ import annotations

import errno
import os
import socket

from .._runtime.causes import walk_causes

#: Error numbers: the process has reached its limit on descriptors (`ulimit -n`), or the system has.
NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)


def is_out_of_descriptors(error: BaseException) -> bool:
    """Return whether an error was caused by the limit on open files."""
    for found in walk_causes(error):
        if isinstance(found, OSError) and found.errno in NO_DESCRIPTOR:
            return True
        if isinstance(found, socket.gaierror) and _none_is_left():  # a lookup needs files, but does not say so
            return True
    return False


def _none_is_left() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno in NO_DESCRIPTOR
    return False
