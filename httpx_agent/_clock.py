"""The clock of free sockets: it goes on while the machine sleeps, as those of servers and of NATs do.

`time.monotonic` stands still then, on Linux and on macOS. By it a socket that was free for an evening would be some
seconds old, and the next request would find out that it is not.

What a request waits for is no matter of this clock: its timeouts (pool, connect, read, write) limit how long a program
waits that runs, and go on where they were when the machine wakes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

#: So many seconds the two clocks may part before it counts: they tick at different moments, and the time of day is
#: adjusted little by little.
_TOLERANCE = 1.0


def find_clock() -> Callable[[], float]:
    """Return the best clock of this system: seconds since any moment, time asleep included."""
    number = getattr(time, "CLOCK_BOOTTIME", None)
    if number is not None:
        clock = partial(time.clock_gettime, number)
        with suppress(OSError):  # an old kernel, or a sandbox that forbids it
            clock()
            return clock
    return BothClocks(time.monotonic, time.time)


class BothClocks:
    """A clock where the system has none for this: what has passed is what either of two clocks says, whichever is more.

    The time of day counts time asleep, but may be set. Set back, it is passed over. Set ahead, it looks as if the
    machine had slept, and free sockets lose a part of their time: that costs a handshake, the opposite a timeout.

    Args:
        monotonic: A clock that is never set.
        wall: The time of day.
    """

    def __init__(self, monotonic: Callable[[], float], wall: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._wall = wall
        # Replaced as a whole: threads that notice the same sleep at once write the same.
        self._seen = (wall() - monotonic(), 0.0)

    def __call__(self) -> float:
        """Return the time."""
        now = self._monotonic()
        ahead = self._wall() - now
        before, slept = self._seen
        gained = ahead - before
        if abs(gained) > _TOLERANCE:
            slept += max(0.0, gained)
            self._seen = ahead, slept
        return now + slept
