"""Taking part again after a loss: for ever, whatever the store does meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from leases.cli.console import span
from leases.cli.signals import ENDING, PASSING
from leases.cli.waiting import Signalled, acquire
from leases.clock import system_clock
from leases.errors import AcquireTimeout, StoreError

if TYPE_CHECKING:
    from leases.cli.console import Console
    from leases.cli.search import Want
    from leases.cli.signals import Signals
    from leases.cli.waiting import Holding

PAUSE_LEAST: Final = 1.0
PAUSE_MOST: Final = 60.0


def acquire_again(want: Want, signals: Signals, console: Console) -> Holding:
    """Acquire, however long it takes: what bounded the first wait does not bound this one.

    A store that refuses, or whose record cannot be read, may be put right by somebody: it is asked again,
    after a pause that doubles from 1 s to 60 s.

    Raises:
        Signalled: a signal came first.
    """
    signals.leave(*PASSING)
    pause = PAUSE_LEAST
    while True:
        try:
            return acquire(want._replace(timeout=None), signals, console)
        except (StoreError, AcquireTimeout) as error:
            console.say("trouble", f"{error}; trying again in {span(pause)}")
        _rest(pause, signals)
        pause = min(2 * pause, PAUSE_MOST)


def _rest(seconds: float, signals: Signals) -> None:
    until = system_clock().wait + seconds
    while (left := until - system_clock().wait) > 0:
        for number in signals.wait(left):
            if number in ENDING:
                raise Signalled(number)
