"""How a claim is acquired and released, written once for threads and for asyncio.

A script is a generator. It yields how long to wait for something to change (seconds, None for as long as it
takes) or a function to call meanwhile, and returns its result; `leases.threads` and `leases.aio`
only know how to wait and how to call. Closing a script early, as a cancellation or Ctrl-C does, abandons
what it began and leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING

from leases.errors import AcquireTimeout, LeasesError
from leases.machine import Phase
from leases.tenure import Sealer, Tenure, Wish

if TYPE_CHECKING:
    from leases.hub import Hub, Ticket

Wait = float | None | Callable[[], None]
Seal = Callable[[Tenure, Sealer], None]


def acquiring(
    hub: Hub,
    wish: Wish,
    timeout: float | None,
    ticket: Ticket,
    *,
    here: bool,
    fences: Sequence[Callable[[Tenure], None]] = (),
) -> Generator[Wait, None, Tenure]:
    """Acquire: queue in this process, then seek the lock in the store, seal, and look at the clock.

    Raises:
        AcquireTimeout: another holds it.
        StoreError: the store refused, or gave no answer at all in the time allowed.
        LeaseLost: the store was closed meanwhile.
    """
    until = None if timeout is None else hub.clock().wait + timeout
    yield from _queue(hub, wish, timeout, until, ticket)
    tenure = Tenure(hub, wish, ticket, ticket.call, here=here)
    try:
        tenure.start()
        while True:
            yield from _seek(tenure, timeout, until)
            if fences:
                tenure.run_in_background()  # so that a seal may outlast the lease's first deadline
                for fence in fences:
                    yield _bound(fence, tenure)
            if tenure.confirm():
                return tenure
    except BaseException:
        tenure.abandon()
        raise


def _queue(
    hub: Hub, wish: Wish, timeout: float | None, until: float | None, ticket: Ticket
) -> Generator[Wait, None, None]:
    """Wait behind the others of this process."""
    if hub.enter(wish.name, ticket):
        return
    try:
        while not ticket.called:
            left = None if until is None else until - hub.clock().wait
            if left is not None and left <= 0:
                raise AcquireTimeout(wish.name, timeout or 0.0, wish.holder, None)
            yield left
    except BaseException:
        hub.leave(wish.name, ticket)
        raise


def _seek(tenure: Tenure, timeout: float | None, until: float | None) -> Generator[Wait, None, None]:
    """Go on until a claim is committed, or it cannot be, or the time is over."""
    machine, clock = tenure.machine, tenure.hub.clock
    impatient = timeout is not None and timeout <= 0
    while True:
        left = None if until is None or impatient else until - clock().wait
        if left is None or left > 0:
            tenure.work_off(left)
        if machine.phase is Phase.GRANTED:
            return
        _raise_if_over(tenure)
        if impatient and (tenure.blocked is not None or machine.trouble is not None):
            raise tenure.failure(0.0)
        if left is not None and left <= 0:
            raise tenure.failure(timeout or 0.0)
        if tenure.here and tenure.watch_from_here():
            continue
        due = machine.wake(clock())
        yield due if left is None else left if due is None else min(due, left)
        if tenure.here:
            tenure.tick()


def _raise_if_over(tenure: Tenure) -> None:
    if tenure.error is not None:
        error = tenure.error
        raise error if isinstance(error, LeasesError) else tenure.failure(0.0)
    if tenure.machine.phase is Phase.LOST or tenure.dead is not None:
        loss = tenure.loss()
        assert loss is not None
        raise loss


def _bound(fence: Callable[[Tenure], None], tenure: Tenure) -> Callable[[], None]:
    return lambda: fence(tenure)


def releasing(tenure: Tenure, ring: Callable[[], None], *, here: bool) -> Generator[Wait, None, None]:
    """Release, the work being stopped: to the next of this process, or in the store by one attempt."""
    if tenure.dead is not None or tenure.hub.hand_over(tenure.name, tenure.ticket, tenure):
        return
    machine = tenure.machine
    tenure.changed = ring
    if here:
        tenure.run_here()
    try:
        tenure.release()
        while True:
            tenure.work_off()
            if tenure.released or machine.phase in (Phase.DONE, Phase.CHASING) or tenure.dead is not None:
                return
            yield machine.wake(tenure.hub.clock())
            if here:
                tenure.tick()
    finally:
        if machine.phase is not Phase.DONE:
            tenure.run_in_background()
        tenure.end_turn()
