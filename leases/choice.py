"""One of several locks, whichever is to be had: how a slot of a semaphore is acquired, in either colour.

The locks are seats. One of them is tried at a time, and the next only when that is seen to be taken and no
claim on it is under way, so that nobody ever has two. What was seen to be taken is looked on at in the
background: its machine goes on timing what stands there and claims nothing until it is tried again, because
the seat was freed or has outlived its ttl. When one is won the others are left, with nothing of ours in them.

Threads of one process queue at each seat behind whoever is there, and take the first that they are called to.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING

from leases import logs
from leases.errors import AcquireTimeout, ConfigurationError, LeasesError
from leases.hooks import hooks
from leases.hub import Ticket
from leases.machine import Phase
from leases.script import ASK_AGAIN, Seal, Wait, begun, leave, not_acquired, raise_if_called_off, sealing
from leases.tenure import Tenure, Wish

if TYPE_CHECKING:
    from leases.contract import Slot
    from leases.hub import Hub

_NAMED = 3  # holders in an error
Seals = Callable[[Tenure], Sequence[Seal]]


class Seat:
    """One of the locks: the place in its queue, and the claim that came of it."""

    __slots__ = ("tenure", "ticket", "wish")

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.ticket: Ticket | None = None
        self.tenure: Tenure | None = None  # the claim on it, once the turn has come

    @property
    def called(self) -> bool:
        """Whether the turn has come, and nothing was made of it."""
        return self.ticket is not None and self.ticket.called and self.tenure is None


class Choice:
    """One acquisition of one of several locks. It can be undone as a whole at any instant.

    Args:
        hub: the store.
        name: what is acquired, for people.
        wishes: the locks, in the order in which they are tried.
        ticket: rings who acquires; each seat has a ticket like it.
        refuse: why a held slot that was met makes the acquisition impossible; None where it does not.
    """

    def __init__(
        self,
        hub: Hub,
        name: str,
        wishes: Sequence[Wish],
        ticket: Ticket,
        refuse: Callable[[Slot], Exception | None],
    ) -> None:
        self.hub, self.name, self.ticket = hub, name, ticket
        self.seats = [Seat(wish) for wish in wishes]
        self.trial: Tenure | None = None  # the one claim that may be sent
        self._refuse = refuse

    # ---- one at a time ---------------------------------------------------------------------------

    def go_on(self, *, here: bool, ends: float | None, impatient: bool) -> Tenure | None:
        """Try one after the other, until one is won (which is returned), or there is to be waited.

        Args:
            here: whether who runs this talks to the store too.
            ends: on the waiter's clock; nothing is begun after it.
            impatient: wait behind nobody of this process.
        """
        while True:
            if self.trial is None and (ends is None or self.hub.clock().wait < ends):
                self.trial = self._next(here, impatient)
            if self.trial is not None:
                self.trial.work_off(ends)
            won = next((t for t in self._tenures() if t.machine.phase is Phase.GRANTED), None)
            if won is not None:
                return won
            self._raise_if_over()
            if self.trial is None or not self.trial.stand_back():
                return None
            self.trial = None

    def _next(self, here: bool, impatient: bool) -> Tenure | None:
        """Begin, or go ahead with, the one that is most likely to be had; None where all are taken."""
        for seat in self.seats:
            if seat.called:  # By one of this process who is through with it.
                return self._begin(seat, here)
        now = self.hub.clock()
        for tenure in self._tenures():
            if tenure.machine.open(now):
                tenure.go_ahead()
                return tenure
        fresh = [seat for seat in self.seats if seat.ticket is None]
        for seat in fresh:
            if self.hub.ahead(seat.wish.name) is None and self._enter(seat):
                return self._begin(seat, here)
        for seat in () if impatient else fresh:
            if seat.ticket is None and self._enter(seat):
                return self._begin(seat, here)
        return None

    def _enter(self, seat: Seat) -> bool:
        mine = self.ticket
        seat.ticket = Ticket(mine.call, mine.handle, mine.me)
        return self.hub.enter(seat.wish.name, seat.ticket)

    def _begin(self, seat: Seat, here: bool) -> Tenure:
        assert seat.ticket is not None
        seat.tenure = Tenure(self.hub, seat.wish, seat.ticket, here=here)
        seat.tenure.start()
        return seat.tenure

    def _tenures(self) -> list[Tenure]:
        return [tenure for seat in self.seats if (tenure := seat.tenure) is not None]

    # ---- waiting ---------------------------------------------------------------------------------

    def waits(self, *, impatient: bool) -> list[float]:
        """Seconds after which to look again by itself; all else rings."""
        hints = [] if impatient else [tenure.ask_for_hints() for tenure in self._tenures()]
        waits = [] if all(hints) else [ASK_AGAIN]
        if self.trial is not None:
            due = self.trial.machine.wake(self.hub.clock())
            waits += [] if due is None else [due]
        return waits

    @property
    def has_work(self) -> bool:
        """Whether there is something to do at once."""
        return self.trial is not None and self.trial.has_work

    def _raise_if_over(self) -> None:
        raise_if_called_off(self.ticket)
        for seat in self.seats:
            tenure = seat.tenure
            if (seat.ticket is not None and seat.ticket.closed) or (tenure is not None and tenure.gone):
                raise self.hub.gone()
            if tenure is None:
                continue
            if tenure.error is not None:
                raise tenure.failure(0.0)
            slot = tenure.machine.blocker
            refusal = None if slot is None or not slot.held else self._refuse(slot)
            if refusal is not None:
                raise refusal

    def raise_if_in_vain(self) -> None:
        """Refuse to wait for ever for oneself: every seat is held in a body of this very thread or task.

        Raises:
            ConfigurationError: it is.
        """
        for seat in self.seats:
            ahead = self.hub.ahead(seat.wish.name)
            if ahead is None or ahead.body is None or ahead.body != self.ticket.me:
                return
            if ahead.member is None or not ahead.member.held:
                return
        raise ConfigurationError(
            f'"{self.name}" would wait for itself: this thread or task is in the bodies of all its slots '
            "already; enter it once, give it more slots, or pass timeout="
        )

    def failure(self, timeout: float, *, waited: bool = False) -> LeasesError:
        """Why none was acquired in the time allowed: others hold all, or the store did not answer."""
        found: list[AcquireTimeout] = []
        for seat in self.seats:
            error = self._failure(seat, timeout, waited)
            if isinstance(error, AcquireTimeout):
                found.append(error)
            elif error is not None:
                return error
        holders = sorted({error.holder for error in found if error.holder is not None})
        shown = ", ".join(holders[:_NAMED]) + (f" and {len(holders) - _NAMED} more" * (len(holders) > _NAMED))
        remaining = min((error.remaining for error in found if error.remaining is not None), default=None)
        return AcquireTimeout(self.name, timeout, shown or None, remaining)

    def _failure(self, seat: Seat, timeout: float, waited: bool) -> LeasesError | None:
        tenure = seat.tenure
        if tenure is not None:
            return tenure.failure(timeout, waited=waited and tenure is self.trial)
        ahead = self.hub.ahead(seat.wish.name)
        return None if ahead is None or ahead.member is None else ahead.member.failure(timeout)

    # ---- ends ------------------------------------------------------------------------------------

    def keep(self, won: Tenure) -> None:
        """Leave all seats but this one."""
        self.trial = won
        for seat in self.seats:
            if seat.tenure is not won:
                self._leave(seat)

    def leave(self) -> None:
        """Leave all seats, wherever they stand; harmless where that was done."""
        for seat in self.seats:
            self._leave(seat)

    def _leave(self, seat: Seat) -> None:
        if seat.ticket is not None:
            leave(self.hub, seat.wish, seat.ticket)
            seat.ticket = seat.tenure = None


def acquiring(
    choice: Choice, timeout: float | None, *, here: bool, seals: Seals | None = None, spent: float = 0.0
) -> Generator[Wait, None, Tenure]:
    """Acquire one of several locks: the first that is to be had. The errors are `leases.script.acquiring`'s.

    Args:
        choice: which.
        timeout: seconds in all; None for ever, 0 to wait for nobody.
        here: whether who runs this talks to the store too.
        seals: what is to be shown the token of a claim before it is reported.
        spent: how many of the seconds are over already.
    """
    hub, wish = choice.hub, choice.seats[0].wish._replace(name=choice.name)
    until = None if timeout is None else hub.clock().wait + timeout - spent
    subject = begun(hub, wish) if hooks.listeners or logs.debugging() else None
    try:
        while True:
            tenure = yield from _seek(choice, timeout, until, spent, here)
            choice.keep(tenure)
            if subject is not None:
                subject.name, tenure.subject = tenure.name, subject
            wanted = () if seals is None else seals(tenure)
            claim = (yield from sealing(tenure, wanted)) if wanted else None
            if tenure.confirm(claim):
                return tenure
    except BaseException as error:
        choice.leave()
        if subject is not None:
            hooks.tell(subject, not_acquired(hub, subject, error))
        raise


def _seek(
    choice: Choice, timeout: float | None, until: float | None, spent: float, here: bool
) -> Generator[Wait, None, Tenure]:
    """Go on until a claim is committed, or none can be, or the time is over."""
    clock = choice.hub.clock
    impatient = timeout is not None and timeout <= 0
    ends = None if impatient else until
    began = clock().wait
    if ends is None and not impatient:
        choice.raise_if_in_vain()
    while True:
        won = choice.go_on(here=here, ends=ends, impatient=impatient)
        if won is not None:
            return won
        trial = choice.trial
        if impatient and (trial is None or trial.machine.trouble is not None):
            raise choice.failure(0.0)
        waits = choice.waits(impatient=impatient)
        if ends is not None:
            now = clock().wait
            if now >= ends:
                waited = 2 * (now - began) >= (timeout or 0.0) - spent
                raise choice.failure(timeout or 0.0, waited=waited)
            waits.append(ends - now)
        if choice.has_work:
            continue
        yield min(waits, default=None)
        if trial is not None:
            trial.tick()
