"""What a finaliser asks before it closes something.

The collector runs finalisers wherever it likes, also in a thread that holds a lock of ours. A finaliser that closes a
response or a client there would wait for its own thread for ever, or find a half-made decision. So all our locks are
of the kind that knows its thread, and `Engine.is_locked_here` tells when the work must be done elsewhere.
"""

from __future__ import annotations

import threading
from typing import Any

#: A lock that knows its thread. None is ever taken twice.
Lock = threading.RLock


def is_held_here(lock: Any) -> bool:
    """Whether this thread holds a lock."""
    held: bool = lock._is_owned()
    return held
