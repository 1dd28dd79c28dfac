"""A clock that stands until it is told to move: time in a test, without waiting.

Hand it to whatever takes a `Clock`. It is safe to move from one thread while others look at it.
"""

from __future__ import annotations

from typing import Final

from leases.clock import Instant

# Apart from one another and from nought, so that a test sees it when somebody takes the wrong one.
_START: Final = Instant(hold=10_000.0, wait=1_000.0, wall=1_700_000_000.0)


class ManualClock:
    """A `leases.clock.Clock` that moves by hand.

    Args:
        start: what it shows at first; by default three numbers that nobody can mix up.
    """

    __slots__ = ("_now",)

    def __init__(self, start: Instant = _START) -> None:
        self._now = start

    def __call__(self) -> Instant:
        """What the clocks show now."""
        return self._now

    def advance(self, seconds: float) -> Instant:
        """Let time pass, and say what the clocks show then.

        Raises:
            ValueError: negative seconds; only the wall clock can be set back, by `step_wall`.
        """
        hold, wait, wall = self._now
        _refuse_negative(seconds)
        self._now = Instant(hold + seconds, wait + seconds, wall + seconds)
        return self._now

    def suspend(self, seconds: float) -> Instant:
        """Let the host sleep: the holder's clock and the wall clock go on, the waiter's stands still.

        Raises:
            ValueError: negative seconds.
        """
        hold, wait, wall = self._now
        _refuse_negative(seconds)
        self._now = Instant(hold + seconds, wait, wall + seconds)
        return self._now

    def step_wall(self, seconds: float) -> Instant:
        """Set the wall clock forwards, or backwards; the other two do not notice."""
        self._now = self._now._replace(wall=self._now.wall + seconds)
        return self._now


def _refuse_negative(seconds: float) -> None:
    if seconds < 0:
        raise ValueError(f"time does not run backwards: {seconds} s; pass 0 or more")
