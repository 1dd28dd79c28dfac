"""Acquiring while signals are heard: a thread talks to the store, and the main thread can always give up."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

from leases.cli import exits
from leases.cli.display import Display
from leases.cli.search import Search, Want, search
from leases.cli.signals import ENDING
from leases.clock import system_clock
from leases.errors import AcquireTimeout
from leases.hub import Hub, check_least_ttl, shared_hub
from leases.lease import Lease
from leases.machine import Phase
from leases.record import TTL_LEAST
from leases.threads import Bell, release

if TYPE_CHECKING:
    from collections.abc import Generator

    from leases.cli.console import Console
    from leases.cli.signals import Signals
    from leases.script import Wait
    from leases.tenure import Tenure

GIVE_UP_SECONDS: Final = 5.0  # for the store's last answer, after a signal
_STEP: Final = 0.02  # between looks at whether the store has answered after all
_ACQUIRE: Final = "leases-acquire"
_RELEASE: Final = "leases-release"


class Signalled(Exception):
    """A signal came first, and nothing is left behind.

    Attributes:
        code: the exit code: 128 and the number of the signal.
    """

    def __init__(self, number: int) -> None:
        self.code = exits.SIGNALLED + number
        super().__init__(number)


class Holding:
    """A lease that was acquired, and the store that it is from.

    Attributes:
        lease: the lease.
        slot: the number of the slot that it is on; None where a lock was sought.
        url: the store, without secrets, for people.
        address: the URL by which the command connects to it as we have, without secrets.
        ttl: seconds that its record lasts.
    """

    def __init__(self, tenure: Tenure, want: Want) -> None:
        self._tenure = tenure
        self._confirmed = False
        self.slot: int | None = None
        if want.slots is None:
            self.lease = Lease(tenure)
        else:
            from leases.semaphore import SlotLease

            self.lease = SlotLease(tenure)
            self.slot = self.lease.slot
        backend = tenure.hub.backend
        self.url, self.address = backend.identity, backend.address
        self.ttl = tenure.machine.terms.ttl
        self._keep_until = tenure.hub.clock().hold + want.at_least

    @property
    def owed(self) -> float:
        """Seconds for which it is to be kept yet, as the store can keep it; 0 where it may be free."""
        left = self._keep_until - self._tenure.hub.clock().hold
        return max(left, self._tenure.hub.backend.traits.least_ttl, TTL_LEAST) if left > 0 else 0.0

    def release(self, seconds: float, *, keep: float = 0.0) -> bool:
        """Free the lock and let go of the store, the work being stopped; whether the store has confirmed it.

        Args:
            seconds: how long to wait, whatever the store does. After a loss, too, what may still be under way
                is freed.
            keep: leave a last record that keeps everybody out for so many seconds; 0 for none. A store that
                gives no answer is asked again for it, as long as may be waited: else it is free too early.
        """
        thread = threading.Thread(target=self._let_go, args=(keep, seconds), name=_RELEASE, daemon=True)
        thread.start()
        thread.join(seconds)
        return not thread.is_alive() and self._confirmed

    def _let_go(self, keep: float, seconds: float) -> None:
        machine = self._tenure.machine
        if keep > 0:
            until = system_clock().wait + seconds
            release(self._tenure, linger=keep)
            while machine.phase is not Phase.DONE and system_clock().wait < until:
                time.sleep(_STEP)  # It goes on in the background.
        self.lease.release()
        self._confirmed = machine.freed if keep > 0 else machine.phase is Phase.DONE
        self._tenure.hub.close()


def acquire(want: Want, signals: Signals, console: Console) -> Holding:
    """Acquire, and tell who waits for whom. From then on every change of the lease wakes `signals`.

    Raises:
        Signalled: a signal came first.
        LeasesError: as `leases.lock.Lock.acquire` does.
    """
    attempt = Attempt(want, signals)
    display = Display(want, attempt.claims, console)
    attempt.start()
    while not attempt.done:
        for number in signals.wait(display.pause()):
            if number in ENDING:
                console.wipe()
                _give_up(attempt, signals)
                raise Signalled(number)
        if not attempt.done:
            display.turn()
    attempt.join()
    console.wipe()
    if attempt.error is not None:
        raise attempt.error
    holding = attempt.holding()
    assert holding is not None
    return holding


def leave_if_stuck(code: int) -> None:
    """End the process at once if a thread still waits for a store that does not answer.

    The end of an interpreter would wait for it, too.
    """
    if any(thread.name in (_ACQUIRE, _RELEASE) for thread in threading.enumerate()):
        if sys.stdout is not None:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
        os._exit(code)


class Attempt(threading.Thread):
    """The acquisition under way, from the connection to the store on.

    Attributes:
        done: it has ended, in one of the ways below or because it was given up.
        tenure: what was acquired.
        error: why it was not.
    """

    def __init__(self, want: Want, signals: Signals) -> None:
        super().__init__(name=_ACQUIRE, daemon=True)
        self._want, self._signals = want, signals
        self._bell = Bell()
        self._hub: Hub | None = None
        self._search: Search | None = None
        self._given_up = False
        self.done = False
        self.tenure: Tenure | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.tenure = self._acquire()
        except BaseException as error:
            self.error = error
        self.done = True
        self._signals.wake()

    def holding(self) -> Holding | None:
        """What was acquired; asked once, when it is done."""
        if self.tenure is None:
            return None
        self.tenure.changed = self._signals.wake
        return Holding(self.tenure, self._want)

    def give_up(self) -> None:
        """Seek no more, once the store has answered what it was last asked; it may be acquired by then."""
        self._given_up = True
        self._bell.ring()

    def claims(self) -> list[Tenure]:
        """The claims under way, once there are any."""
        return [] if self._search is None else self._search.claims()

    def settled(self) -> bool:
        """Whether nothing of it is under way any more, once it is done without success."""
        return self._hub is None or not self._hub.members

    def _acquire(self) -> Tenure | None:
        want = self._want
        hub = self._hub = shared_hub(want.url, Hub.pin)
        check_least_ttl(hub, want.terms.ttl)
        self._search = search(hub, want, self._bell.ring)
        if hub.backend.traits.local:
            return self._drive(self._search.script)
        return self._drive_with_memory(hub, self._search)

    def _drive_with_memory(self, hub: Hub, search: Search) -> Tenure | None:
        """Go on from what earlier tries have seen; leaving without the lock, keep what this one has."""
        from leases.cli.recall import Memory
        from leases.cli.shelf import CannotKeep

        memory = Memory(hub, search.names)
        memory.recall()
        tenure: Tenure | None = None
        try:
            tenure = self._drive(search.script)
        except AcquireTimeout as error:
            try:
                memory.remember()
            except CannotKeep as why:
                error.add_note(str(why))
            raise
        if tenure is None:
            with contextlib.suppress(CannotKeep):
                memory.remember()
        else:
            memory.forget()
        return tenure

    def _drive(self, script: Generator[Wait, None, Tenure]) -> Tenure | None:
        try:
            while not self._given_up:
                wait = next(script)
                assert not callable(wait), "only fences are called, and there are none"
                if not self._given_up:
                    self._bell.wait(wait)
        except StopIteration as stop:
            tenure: Tenure = stop.value
            return tenure
        finally:
            script.close()
        return None


def _give_up(attempt: Attempt, signals: Signals) -> None:
    """Leave nothing behind, in a few seconds at most; another signal ends this process at once."""
    until = system_clock().wait + GIVE_UP_SECONDS
    attempt.give_up()
    while system_clock().wait < until and not (attempt.done and _settled(attempt)):
        for number in signals.wait(_STEP if attempt.done else until - system_clock().wait):
            if number in ENDING:
                os._exit(exits.SIGNALLED + number)


def _settled(attempt: Attempt) -> bool:
    """Whether nothing of an attempt that has ended is left in the store; frees what it got."""
    holding = attempt.holding()
    if holding is not None:
        attempt.tenure = None
        holding.release(GIVE_UP_SECONDS)
        return True
    return attempt.settled()
