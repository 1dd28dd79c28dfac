"""The guardian of `leases.watchdog`: a process of its own, which kills the one that started it in time.

It is run as a program, with nothing of this package: it reads instants of a clock from its standard input,
each the latest for its parent to be alive, and says by one byte that it is there. It goes when its parent is
gone, and where its input ends after the instant "never".
"""

from __future__ import annotations

import os
import select
import signal
import struct
import sys
import time
from collections.abc import Callable

INSTANT = struct.Struct("=d")
NEVER = float("inf")
_LONGEST_SLEEP = 0.5  # poll() goes by a clock that stands still while the host sleeps; and a parent may die
_SHORTEST_SLEEP = 0.001


def main(parent: int, clock: Callable[[], float]) -> None:
    """Watch over the parent until it is gone, dismisses us, or has to be killed."""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    os.write(1, b".")
    until, open_ = NEVER, True
    while os.getppid() == parent and (open_ or until != NEVER):
        left = until - clock()
        if left <= 0:
            os.kill(parent, signal.SIGKILL)
        if poll.poll(1000 * min(max(left, _SHORTEST_SLEEP), _LONGEST_SLEEP)):
            data = os.read(0, 65536)
            if data:
                (until,) = INSTANT.unpack(data[-INSTANT.size :])
            else:
                poll.unregister(0)
                open_ = False


def clock_of(number: str) -> Callable[[], float]:
    """The holder's clock: a number that `time.clock_gettime` knows, or nothing for `time.monotonic`."""
    if not number:
        return time.monotonic
    return lambda: time.clock_gettime(int(number))


if __name__ == "__main__":
    main(int(sys.argv[1]), clock_of(sys.argv[2]))
