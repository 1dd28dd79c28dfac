"""The driver for threads: it waits by blocking, and carries out requests in the thread that waits."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, TypeVar

from leases.hub import Countdown, Hub, Ticket
from leases.script import Seal, Wait, acquiring, connecting, releasing

if TYPE_CHECKING:
    from leases.tenure import Tenure, Wish

T = TypeVar("T")


class Bell:
    """Wakes the one thread that waits for it; a ring before the wait is not lost."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def ring(self) -> None:
        """Wake the waiter, now or when it comes."""
        if self._lock.locked():  # Mostly it rings already, and an exception costs more than a look.
            try:  # noqa: SIM105 - contextlib.suppress costs ten times as much, in every acquire
                self._lock.release()
            except RuntimeError:  # Another thread was quicker.
                pass

    def wait(self, timeout: float | None) -> None:
        """Wait for a ring, for at most `timeout` seconds."""
        if timeout is None:
            self._lock.acquire()
        else:
            self._lock.acquire(timeout=min(max(timeout, 0.0), threading.TIMEOUT_MAX))


def connect(url: str, countdown: Countdown) -> None:
    """Connect in time; the errors are those of `leases.script.connecting`."""
    bell = Bell()
    run(connecting(url, bell.ring, countdown), bell)


def acquire(
    hub: Hub,
    wish: Wish,
    timeout: float | None,
    ticket: Ticket,
    bell: Bell,
    fences: Sequence[Seal] = (),
    spent: float = 0.0,
) -> Tenure:
    """Acquire; the errors are those of `leases.script.acquiring`. The ticket rings the bell."""
    return run(acquiring(hub, wish, timeout, ticket, here=True, fences=fences, spent=spent), bell)


def release(
    tenure: Tenure, patience: float | None = None, successor: str | None = None, linger: float | None = None
) -> None:
    """Release, the work being stopped; the record may last for its ttl if that takes too many seconds."""
    bell = Bell()
    script = releasing(tenure, bell.ring, here=True, patience=patience, successor=successor, linger=linger)
    run(script, bell)


def run(script: Generator[Wait, None, T], bell: Bell) -> T:
    """Run a script to its end."""
    try:
        while True:
            try:
                wait = next(script)
            except StopIteration as stop:
                result: T = stop.value
                return result
            if callable(wait):
                wait()
            else:
                bell.wait(wait)
    except BaseException:  # Now, and not when nobody looks at the error any more.
        script.close()
        raise
