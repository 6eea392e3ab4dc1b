"""The clock of free sockets. It keeps running while the machine sleeps, as the clocks of servers and NATs do.

`time.monotonic` stops during sleep on Linux and macOS. By that clock, a socket that was free for a whole evening would
seem to be a few seconds old, and the next request would find it dead.

This clock does not limit how long requests wait: their timeouts (pool, connect, read, write) count the time that the
program runs, and continue where they were when the machine wakes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

#: Seconds by which the two clocks may drift apart before it counts as sleep: they tick at different moments, and the
#: time of day is adjusted little by little.
_TOLERANCE = 1.0


def find_clock() -> Callable[[], float]:
    """Return the best clock of this system: seconds since an arbitrary moment, time asleep included."""
    number = getattr(time, "CLOCK_BOOTTIME", None)
    if number is not None:
        clock = partial(time.clock_gettime, number)
        with suppress(OSError):  # an old kernel, or a sandbox that forbids it
            clock()
            return clock
    return BothClocks(time.monotonic, time.time)


class BothClocks:
    """A clock for systems without a suitable one: the time that has passed is the larger of what two clocks show.

    The time of day includes time asleep, but it can be set. Setting it back is ignored. After setting it forward, the
    machine seems to have slept, and free sockets lose some of their time. That costs a handshake; the opposite error
    would cost a timeout.

    Args:
        monotonic: A clock that cannot be set.
        wall: The time of day.
    """

    def __init__(self, monotonic: Callable[[], float], wall: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._wall = wall
        # Replaced as a whole: threads that notice the same sleep at the same time write the same values.
        self._seen = (wall() - monotonic(), 0.0)

    def __call__(self) -> float:
        """Return the time in seconds."""
        now = self._monotonic()
        ahead = self._wall() - now
        before, slept = self._seen
        gained = ahead - before
        if abs(gained) > _TOLERANCE:
            slept += max(0.0, gained)
            self._seen = ahead, slept
        return now + slept
