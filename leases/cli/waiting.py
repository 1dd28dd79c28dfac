"""Acquiring while signals are heard: a thread talks to the store, and the main thread can always give up."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from leases.cli import exits
from leases.cli.console import span
from leases.cli.signals import ENDING
from leases.clock import system_clock
from leases.hub import Hub, Ticket, check_least_ttl, shared_hub
from leases.lease import Lease
from leases.machine import Phase
from leases.script import acquiring
from leases.tenure import Tenure, Wish
from leases.threads import Bell

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leases.cli.console import Console
    from leases.cli.signals import Signals
    from leases.contract import Slot
    from leases.record import Claim
    from leases.terms import Terms

GIVE_UP_SECONDS: Final = 5.0  # for the store's last answer, after a signal
_ACQUIRE: Final = "leases-acquire"
_RELEASE: Final = "leases-release"
_SHOW_AFTER: Final = 0.3  # who waits for less need not be told for whom
_SHOW_EVERY: Final = 1.0
_TROUBLE_AFTER: Final = 5.0  # a store that is busy for less need not be spoken of


class Want(NamedTuple):
    """What is to be acquired, checked as far as that is possible without the store.

    Attributes:
        url: the store.
        name: the lock.
        holder: who is to hold it.
        terms: the durations.
        metadata: what others are to see.
        timeout: seconds to wait in all; None for ever, 0 not at all.
    """

    url: str
    name: str
    holder: str
    terms: Terms
    metadata: Mapping[str, str]
    timeout: float | None


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
        url: the store, without secrets.
        ttl: seconds that its record lasts.
    """

    def __init__(self, tenure: Tenure) -> None:
        self._tenure = tenure
        self._confirmed = False
        self.lease = Lease(tenure)
        self.url = tenure.hub.backend.identity
        self.ttl = tenure.machine.terms.ttl

    def release(self, seconds: float) -> bool:
        """Free the lock and let go of the store, the work being stopped; whether the store has confirmed it.

        Args:
            seconds: how long to wait, whatever the store does. After a loss, too, what may still be under way
                is freed.
        """
        thread = threading.Thread(target=self._let_go, name=_RELEASE, daemon=True)
        thread.start()
        thread.join(seconds)
        return not thread.is_alive() and self._confirmed

    def _let_go(self) -> None:
        self.lease.release()
        self._confirmed = self._tenure.machine.phase is Phase.DONE
        self._tenure.hub.close()


def acquire(want: Want, signals: Signals, console: Console) -> Holding:
    """Acquire, and tell who waits for whom. From then on every change of the lease wakes `signals`.

    Raises:
        Signalled: a signal came first.
        LeasesError: as `leases.lock.Lock.acquire` does.
    """
    attempt = Attempt(want, signals)
    display = _Display(attempt, console)
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
        self._ticket = Ticket(self._bell.ring)
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
        return Holding(self.tenure)

    def give_up(self) -> None:
        """Seek no more, once the store has answered what it was last asked; it may be acquired by then."""
        self._given_up = True
        self._bell.ring()

    @property
    def claim(self) -> Tenure | None:
        """The claim under way, once there is one."""
        claim = self._ticket.member
        return claim if isinstance(claim, Tenure) else None

    def settled(self) -> bool:
        """Whether nothing of it is under way any more, once it is done without success."""
        return self.claim is None or self.claim.machine.phase is Phase.DONE

    def _acquire(self) -> Tenure | None:
        want = self._want
        hub = shared_hub(want.url, Hub.pin)
        check_least_ttl(hub, want.terms.ttl)
        wish = Wish(want.name, want.holder, want.terms, want.metadata)
        script = acquiring(hub, wish, want.timeout, self._ticket, here=True)
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
        for number in signals.wait(0.02 if attempt.done else until - system_clock().wait):
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


class _Display:
    """For whom it is waited, on a terminal in place, elsewhere a line for every change if that is wanted."""

    def __init__(self, attempt: Attempt, console: Console) -> None:
        self._attempt, self._console = attempt, console
        self._began = system_clock().wait
        self._due = self._began + _SHOW_AFTER
        self._noted: object = None

    def pause(self) -> float:
        """Seconds until the next look."""
        return max(self._due - system_clock().wait, 0.0)

    def turn(self) -> None:
        """Look, if it is time for it. The store is not asked: who acquires has seen the same."""
        now = system_clock().wait
        claim = self._attempt.claim
        if now < self._due or claim is None:
            return
        self._due = now + _SHOW_EVERY
        slot, trouble = claim.machine.blocker, claim.machine.trouble
        if slot is not None and slot.claim is not None and slot.held:
            self._show_holder(slot, slot.claim)
        elif trouble is not None:
            self._show_trouble(trouble, now)

    def _show_holder(self, slot: Slot, claim: Claim) -> None:
        since = f" for {span(time.time() - claim.acquired)}" if claim.acquired else ""
        text = f'waiting for "{slot.name}", held by {claim.holder or "nobody, because it was broken"}{since}'
        if self._noted != claim.id:
            self._noted = claim.id
            facts = {"holder": claim.holder, "token": slot.token, "since": claim.acquired}
            self._console.note("waiting", text, name=slot.name, **facts)
        self._console.show(text)

    def _show_trouble(self, trouble: Exception, now: float) -> None:
        """Said once to everybody, because it may never end."""
        text = f"waiting for the store: {trouble}"
        if self._noted is not trouble.__class__ and now >= self._began + _TROUBLE_AFTER:
            self._noted = trouble.__class__
            self._console.say("trouble", text)
        self._console.show(text)
