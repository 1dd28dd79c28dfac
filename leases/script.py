"""How a claim is acquired and released, written once for threads and for asyncio.

A script is a generator. It yields how long to wait for something to change (seconds, None for as long as it
takes) or a function to call meanwhile, and returns its result; `leases.threads` and `leases.aio`
only know how to wait and how to call. Closing a script early, as a cancellation does, abandons what it began
and leaves nothing behind. Ctrl-C can come where no script runs, between the last step of one and the return
to its caller, so who runs it undoes it once more.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from leases import logs
from leases.errors import AcquireTimeout, ConfigurationError, LeasesError
from leases.hooks import Began, NotAcquired, Subject, hooks
from leases.hub import Opening, is_connected
from leases.machine import Phase
from leases.tenure import Grant, Tenure, Wish, nothing

if TYPE_CHECKING:
    from leases.hub import Countdown, Hub, Ticket

Wait = float | None | Callable[[], object]
Seal = Callable[[Tenure, int], None]  # shows a fence the token of a claim that is about to be reported

ASK_AGAIN = 1.0  # seconds after which a store that could not watch is asked again


class CalledOff(LeasesError):
    """Who waited for the lock was told to wait no more; nothing is left behind."""


def connecting(url: str, ring: Callable[[], object], countdown: Countdown) -> Generator[Wait, None, None]:
    """Connect to the store of a URL in time. What takes longer goes on, and the next one has it.

    Raises:
        StoreUnavailable: nothing is left of the seconds allowed.
        LeasesError: what `shared_hub` raises.
    """
    if is_connected(url):  # Then no thread is needed for it.
        return
    opening = Opening.of(url, ring)
    while not opening.over and countdown.left != 0:
        yield countdown.left
    if opening.error is not None:
        raise opening.error
    countdown.check()


def acquiring(
    hub: Hub,
    wish: Wish,
    timeout: float | None,
    ticket: Ticket,
    *,
    here: bool,
    fences: Sequence[Seal] = (),
    spent: float = 0.0,
) -> Generator[Wait, None, Tenure]:
    """Acquire: queue in this process, then seek the lock in the store, seal, and look at the clock.

    Args:
        hub: the store.
        wish: what is to be had.
        timeout: seconds in all; None for ever, 0 to wait for nobody.
        ticket: rings who acquires.
        here: whether who runs this talks to the store too.
        fences: what is to be shown the token of a claim before it is reported.
        spent: how many of the seconds are over already.

    Raises:
        AcquireTimeout: another holds it.
        CalledOff: the ticket was called off meanwhile.
        StoreError: the store refused, gave no answer at all in the time allowed, or was closed meanwhile.
    """
    until = None if timeout is None else hub.clock().wait + timeout - spent
    subject = begun(hub, wish) if hooks.listeners or logs.debugging() else None
    ticket.holder = wish.holder
    try:
        if not hub.enter(wish.name, ticket):
            yield from _queue(hub, wish, timeout, until, ticket)
        tenure = Tenure(hub, wish, ticket, here=here)
        tenure.subject = subject
        tenure.start()
        while True:
            yield from _seek(tenure, timeout, until, spent)
            claim = (yield from sealing(tenure, fences)) if fences else None
            if tenure.confirm(claim):
                return tenure
    except BaseException as error:
        leave(hub, wish, ticket)
        if subject is not None:
            hooks.tell(subject, not_acquired(hub, subject, error))
        raise


def leave(hub: Hub, wish: Wish, ticket: Ticket) -> None:
    """End an acquisition wherever it stands, and leave nothing behind; harmless where it was ended."""
    if not hub.step_out(wish.name, ticket) and ticket.member is None and ticket.estate is not None:
        # The turn came in this very moment, with the record as the last of this process held it: a claim that
        # is given up frees it.
        Tenure(hub, wish, ticket, here=False)
    hub.withdraw(wish.name, ticket)


def begun(hub: Hub, wish: Wish) -> Subject:
    """Tell who listens that somebody wants a lock."""
    subject = Subject(wish.name, hub.backend.identity, wish.holder, hub.clock().wait)
    hooks.tell(subject, Began())
    return subject


def not_acquired(hub: Hub, subject: Subject, error: BaseException) -> NotAcquired:
    """What is told where it was not acquired."""
    called_off = isinstance(error, CalledOff) or not isinstance(error, Exception)
    outcome = "timed out" if isinstance(error, AcquireTimeout) else "called off" if called_off else "failed"
    return NotAcquired(hub.clock().wait - subject.began, outcome, error)


def _queue(
    hub: Hub, wish: Wish, timeout: float | None, until: float | None, ticket: Ticket
) -> Generator[Wait, None, None]:
    """Wait behind the others of this process."""
    if until is None:
        _refuse_deadlock(hub, wish, ticket)
    while not ticket.called:
        raise_if_called_off(ticket)
        if ticket.closed:
            raise hub.gone()
        left = None if until is None else until - hub.clock().wait
        if left is not None and left <= 0:
            raise _busy(hub, wish, timeout or 0.0)
        yield left


def _refuse_deadlock(hub: Hub, wish: Wish, ticket: Ticket) -> None:
    ahead = hub.ahead(wish.name)
    if ahead is None or ahead.body is None or ahead.body != ticket.me:
        return
    if ahead.member is not None and ahead.member.held:
        raise ConfigurationError(
            f'lock "{wish.name}" would wait for itself: this thread or task is in its body already; '
            "pass reentrant=True to one lock object and enter that again, or pass timeout="
        )


def _busy(hub: Hub, wish: Wish, timeout: float) -> LeasesError:
    """Why the turn did not come: somebody of this process holds the lock, or waits for it in vain."""
    ahead = hub.ahead(wish.name)
    if ahead is None or ahead.member is None:
        return AcquireTimeout(wish.name, timeout)
    return ahead.member.failure(timeout)


def _seek(
    tenure: Tenure, timeout: float | None, until: float | None, spent: float
) -> Generator[Wait, None, None]:
    """Go on until a claim is committed, or it cannot be, or the time is over."""
    machine, clock = tenure.machine, tenure.hub.clock
    impatient = timeout is not None and timeout <= 0
    ends = None if impatient else until
    began = 0.0 if ends is None else clock().wait
    while True:
        tenure.work_off(ends)
        if machine.phase is Phase.GRANTED:
            return
        _raise_if_over(tenure)
        if impatient and (tenure.blocked is not None or machine.trouble is not None):
            raise tenure.failure(0.0)
        waits = [] if tenure.ask_for_hints() else [ASK_AGAIN]
        if ends is not None:
            now = clock().wait
            if now >= ends:
                waited = 2 * (now - began) >= (timeout or 0.0) - spent
                raise tenure.failure(timeout or 0.0, waited=waited)
            waits.append(ends - now)
        if tenure.has_work:
            continue
        due = machine.wake(clock())
        if due is not None:
            waits.append(due)
        yield min(waits, default=None)
        tenure.tick()


def raise_if_called_off(ticket: Ticket) -> None:
    """Raise `CalledOff` if it was."""
    if ticket.called_off:
        raise CalledOff("nobody waits for it any more; acquire anew")


def _raise_if_over(tenure: Tenure) -> None:
    raise_if_called_off(tenure.ticket)
    if tenure.ticket.closed or tenure.gone:
        raise tenure.hub.gone()
    if tenure.error is not None:
        raise tenure.failure(0.0)


def sealing(tenure: Tenure, seals: Sequence[Seal]) -> Generator[Wait, None, str]:
    """Show the token to all fences, and return the claim that it is of; empty if that has ended."""
    tenure.run_in_background()  # so that a seal may outlast the lease's first deadline
    grant = tenure.granted()
    if grant is None:
        return ""
    for seal in seals:
        yield partial(_seal, seal, tenure, grant)
    return grant.claim


def _seal(seal: Seal, tenure: Tenure, grant: Grant) -> None:
    try:
        if tenure.granted() == grant:
            seal(tenure, grant.token)
    except Exception:
        if tenure.granted() == grant:
            raise
        # It may have been refused for a later tenure: another claim is to be sealed, with another token.


def releasing(
    tenure: Tenure,
    ring: Callable[[], object],
    *,
    here: bool,
    patience: float | None = None,
    successor: str | None = None,
    linger: float | None = None,
) -> Generator[Wait, None, None]:
    """Release, the work being stopped: to the next of this process, or in the store by one attempt.

    Args:
        tenure: what was held.
        ring: wakes who runs this.
        here: whether who runs this talks to the store too.
        patience: seconds after which the rest goes on in the background; by default the store's time-outs.
        successor: the holder for whom it is freed, be he of this process or not; others hold back.
        linger: seconds for which everybody is kept out yet, the next of this process too.
    """
    try:
        if not tenure.gone:
            yield from _release(tenure, ring, here, patience, successor, linger)
    except BaseException:
        tenure.abandon()
        raise


def _release(
    tenure: Tenure,
    ring: Callable[[], object],
    here: bool,
    patience: float | None,
    successor: str | None,
    linger: float | None,
) -> Generator[Wait, None, None]:
    hub, name = tenure.hub, tenure.name
    first = linger is None and (successor is None or hub.put_first(name, successor))
    if first and hub.hand_over(name, tenure.ticket, tenure):
        return tenure.done()
    machine, clock = tenure.machine, tenure.hub.clock
    tenure.changed = ring
    tenure.release(here=here, successor=successor, linger=linger)
    until = None if patience is None else clock().wait + patience
    while True:
        tenure.work_off(until)
        if tenure.released or machine.phase in (Phase.DONE, Phase.CHASING) or tenure.gone:
            break
        due = machine.wake(clock())
        left = None if until is None else until - clock().wait
        if left is not None and left <= 0:
            break
        yield due if left is None else left if due is None else min(due, left)
        tenure.tick()
    tenure.changed = nothing
    if machine.phase is not Phase.DONE:
        tenure.run_in_background()
    tenure.end_turn()
