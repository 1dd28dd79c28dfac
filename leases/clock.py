"""The clocks of this host: one that a holder believes, one that a waiter counts by, and the boot's identity.

A holder must never count less time than passed, a waiter never more. On Linux CLOCK_BOOTTIME goes on
while the host sleeps and CLOCK_MONOTONIC stands still, and both are slewed alike: the larger elapsed time
is always that of the first, the smaller that of the second. No decision looks at the wall clock.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Final, NamedTuple


class Instant(NamedTuple):
    """One look at the clocks, in seconds.

    Attributes:
        hold: the holder's clock; it counts time during which the host slept.
        wait: the waiter's clock; it does not.
        wall: Unix time, written into records for people and never compared.
    """

    hold: float
    wait: float
    wall: float


Clock = Callable[[], Instant]


def _two_clocks() -> tuple[int, int] | None:
    """The numbers of the holder's clock and of the waiter's; None where Python knows no such two."""
    if sys.platform == "linux":
        return time.CLOCK_BOOTTIME, time.CLOCK_MONOTONIC
    if sys.platform == "darwin":  # Its CLOCK_MONOTONIC_RAW goes on during sleep, CLOCK_UPTIME_RAW does not.
        return time.CLOCK_MONOTONIC_RAW, time.CLOCK_UPTIME_RAW
    return None


def _clock_of_two(hold: int, wait: int) -> Clock:
    def look(
        read: Callable[[int], float] = time.clock_gettime,
        wall: Callable[[], float] = time.time,
        make: Callable[..., Instant] = tuple.__new__,
    ) -> Instant:
        return make(Instant, (read(hold), read(wait), wall()))  # A third faster than by its own name.

    return look


def _clock_of_one() -> Instant:
    now = time.monotonic()
    return Instant(now, now, time.time())


_TWO: Final = _two_clocks()

# Whether the holder's clock counts the time during which the host slept. Where it does not, a holder that
# slept past its deadline learns it one renewal late, and only the token stands between.
counts_sleep: Final = _TWO is not None

# Look at this host's clocks now.
system_clock: Final[Clock] = _clock_of_one if _TWO is None else _clock_of_two(*_TWO)


def boot_id() -> str | None:
    """The identity of this boot of this host, or None where its boot clock must not be compared.

    None where the kernel does not tell it, and in a time namespace of its own, whose CLOCK_BOOTTIME is
    offset against that of the host.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
        offsets = time_offsets()
    except (OSError, ValueError):
        return None
    return boot if len(boot) == 36 and not any(offsets) else None


def time_offsets() -> list[int]:
    """The offsets of this process's time namespace; none where the kernel has no time namespaces.

    Raises:
        OSError, ValueError: the kernel does not tell them.
    """
    path = "/proc/self/timens_offsets"
    if not os.path.exists(path):
        return []
    with open(path, encoding="ascii") as file:
        return [int(word) for line in file for word in line.split()[1:]]
