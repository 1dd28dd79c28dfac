"""The durations of a lease, refused where they cannot work together."""

from __future__ import annotations

from dataclasses import dataclass

from leases.errors import ConfigurationError
from leases.record import check_ttl


@dataclass(frozen=True, slots=True, init=False)
class Terms:
    """The durations of a lease, in seconds, refused where they cannot work together.

    Attributes:
        ttl: how long a record lasts; what others wait for when the holder is dead. Default 15.
        hold: V, how long the holder believes after a send. Default 0.75 ttl, less where rate demands it.
        renew: from a committed send to the next renewal. Default ttl/3.
        attempt: after how long one request counts as unanswered. Default V/4, at most 5: a release waits
            for one, and a store that hangs keeps a thread for so long.
        rate: rho, the bound on the rate error of every clock of the fleet. Default 0.1: chrony slews by
            up to 8.3 %, and at V = 0.75 ttl it costs nothing.
        guard: taken off V for the grain of clocks and timers. Default ttl/100, at most 0.05.
    """

    ttl: float
    hold: float
    renew: float
    attempt: float
    rate: float
    guard: float

    def __init__(
        self,
        ttl: float = 15.0,
        *,
        hold: float | None = None,
        renew: float | None = None,
        attempt: float | None = None,
        rate: float = 0.1,
        guard: float | None = None,
    ) -> None:
        """See the class.

        Raises:
            ConfigurationError: durations that cannot work together; the message names both.
        """
        ttl = check_ttl(ttl)
        _refuse_no_numbers(hold=hold, renew=renew, attempt=attempt, guard=guard)
        if isinstance(rate, bool) or not isinstance(rate, int | float):
            raise ConfigurationError(f"rate={rate!r} is not a number; pass one such as 0.1")
        if not 0 <= rate < 1:
            raise ConfigurationError(f"rate={rate} is not a rate error; choose 0 <= rate < 1, such as 0.1")
        guard = min(ttl / 100, 0.05) if guard is None else guard
        bound = ttl * (1 - rate) / (1 + rate) - guard
        hold = min(0.75 * ttl, bound) if hold is None else hold
        renew = ttl / 3 if renew is None else renew
        attempt = min(hold / 4, 5.0) if attempt is None else attempt
        _refuse_durations(ttl, hold, renew, attempt, guard, bound)
        for name, value in zip(self.__slots__, (ttl, hold, renew, attempt, rate, guard), strict=True):
            object.__setattr__(self, name, float(value))


def look_after(ttl: float, *, watches: bool) -> float:
    """After how many seconds at most a waiter looks at a record of that ttl without having had a hint."""
    return ttl / 2 if watches else min(ttl / 8, 1.0)


def _refuse_no_numbers(**given: float | None) -> None:
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise ConfigurationError(f"{name}={value!r} is not a number; pass one, or leave it out")


def _refuse_durations(
    ttl: float, hold: float, renew: float, attempt: float, guard: float, bound: float
) -> None:
    # Asked so that a NaN, which compares with nothing, is refused: a deadline of NaN would never come.
    if not guard >= 0:
        raise ConfigurationError(f"guard={guard} s is no duration; choose 0 or more")
    if not 0 < hold <= bound * (1 + 1e-9):
        raise ConfigurationError(
            f"hold={hold:g} s does not fit ttl={ttl:g} s: with these clocks a holder may believe for at most "
            f"{bound:g} s after a send; choose a longer ttl, or 0 < hold <= {bound:g}"
        )
    if not (renew > 0 and attempt > 0 and renew + attempt <= hold):
        raise ConfigurationError(
            f"renew={renew:g} s and attempt={attempt:g} s do not fit hold={hold:g} s: no renewal could be "
            "answered in time; choose renew > 0 and attempt > 0 with renew + attempt <= hold"
        )
