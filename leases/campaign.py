"""One participation in an election: campaign, lead, step down, again, until it is told to stop.

It is written once, as a script, for threads and for asyncio: `campaigning` yields what to wait for, what to
call, when to work and when to release; `leases.contest` and `leases.contest_aio` know how. Whoever tells it
to stop may be a signal handler, which can come while anything is held: so telling sets flags and rings bells,
and takes no mutex.

The order of things: the work has stopped, then on_lost is told, if the loss was not told before, then the
lease is released, then the next campaign begins. The lease of work that was asked to stop is renewed for a
while, its `patience`, and then left to run out; it is never released while work goes on under it.
"""

# pyright: reportPrivateUsage=false
# A campaign is a lock's acquisition that can be called off, and looks into the lock for it.

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from leases.clock import Clock, system_clock
from leases.errors import LeaseLost, StoreUnavailable
from leases.herald import Herald
from leases.keeper import report
from leases.manifesto import Manifesto
from leases.observer import Lookout
from leases.progress import Progress
from leases.reign import Gate, Reign
from leases.script import CalledOff, Wait

if TYPE_CHECKING:
    from typing import Protocol

    from leases.lease import Lease
    from leases.lock import Place

    class Bell(Protocol):
        """Wakes who waits."""

        def ring(self) -> object: ...

    class Rivalry(Protocol):
        """What a candidate does for its priority."""

        def consider(self) -> None: ...
        def stand_aside(self, *, aside: bool) -> None: ...
        def close(self) -> None: ...


_AGAIN_LEAST, _AGAIN_MOST = 0.05, 1.0  # seconds between attempts to connect
_LET_OTHERS: Final = 0.03  # seconds, and up to twice as many, to step back when the work has returned
_LET_OTHERS_MOST: Final = 1.0  # after a resignation: others may look once a second at worst


# ---- one participation ---------------------------------------------------------------------------


class Leading(NamedTuple):
    """A step of a campaign: let the work go on, and send back the error that it ended by, or None."""

    reign: Reign


class Freeing(NamedTuple):
    """A step of a campaign: release the lease."""

    lease: Lease
    to: str | None


Step = Wait | Leading | Freeing
Script = Generator[Step, BaseException | None, None]


class Part:
    """What one call of `run`, or one `start`, is about.

    Args:
        manifesto: what it stands for.
        herald: calls back.
        bell: wakes who runs the script.
        me: the thread or task that asks.
        awaited: whether it is of asyncio.
        rivals: what it does for its priority, if it has one.

    Attributes:
        mine: the threads and tasks for which it waits, and which must not wait for it.
        reign: the tenure there is, if any, until it is over.
        stopping: whether it is to end.
        ended: opens when it has ended.
        error: what it ended by, if it was an error.
    """

    def __init__(
        self,
        manifesto: Manifesto,
        herald: Herald,
        bell: Bell,
        me: Callable[[], object],
        *,
        awaited: bool = False,
        rivals: Callable[[Part], Rivalry] | None = None,
    ) -> None:
        self.manifesto, self.herald, self.bell = manifesto, herald, bell
        self.me, self.awaited = me, awaited
        self.mine: set[object] = {me(), herald.me}
        self.reign: Reign | None = None
        self.stopping = False
        self.ended = Gate()
        self.error: Exception | None = None
        self.place: Place | None = None
        self._make_rivals = rivals
        self._lookout: Lookout | None = None
        self._progress: Progress | None = None
        self._rivals: Rivalry | None = None

    @property
    def name(self) -> str:
        """What is led."""
        return self.manifesto.lock.name

    @property
    def clock(self) -> Clock:
        """The clocks by which it waits."""
        hub = self.manifesto.lock._hub
        return system_clock if hub is None else hub.clock

    def stop(self) -> None:
        """End the campaign, or ask the work to stop, without a wait: a signal handler may call it."""
        self.stopping = True
        place, reign = self.place, self.reign
        if place is not None:
            place.ticket.called_off = True
        if reign is not None:
            reign.ask()
        self.bell.ring()

    def open(self) -> None:
        """Before anything else."""
        stands_for = self.manifesto
        lock, call = stands_for.lock, stands_for.calls.new_leader
        if call is not None:
            self._lookout = Lookout(lock._connect, lock.name, partial(self.herald.tell, call))
        if stands_for.progress is not None:
            self._progress = Progress(stands_for.progress, lock.terms, lock.name)
        if self._make_rivals is not None:
            self._rivals = self._make_rivals(self)

    def stand(self) -> Place:
        """A place for the next acquisition."""
        place = self.place = self.manifesto.lock._place(self.bell, self.me())
        if self.stopping:
            place.ticket.called_off = True
        if self._rivals is not None:
            self._rivals.stand_aside(aside=False)
        return place

    def elected(self, lease: Lease) -> Reign:
        """A tenure begins."""
        reign = self.reign = Reign(self.manifesto, self.herald, lease)
        reign.begin()
        if self.stopping:
            reign.ask()
        if self._progress is not None:
            self._progress.watch(reign)
        if self._rivals is not None:
            # Until the next campaign: to a candidate whose work lingers nobody could hand over.
            self._rivals.stand_aside(aside=True)
            self._rivals.consider()
        return reign

    def over(self, reign: Reign) -> None:
        """A tenure is over."""
        reign.work_stopped()  # Mostly said before, but Ctrl-C may come at any instruction.
        reign.end()
        self.reign = None

    def close(self) -> None:
        """After everything else, whatever happened."""
        for helper in (self._lookout, self._progress, self._rivals):
            if helper is not None:
                helper.close()
        if self.reign is not None:
            self.over(self.reign)
        if self.place is not None:
            self.place.undo()

    def closed_store(self) -> bool:
        """Whether the connected store that was given was closed: waiting will not open it."""
        store = self.manifesto.lock._store
        if store is None or isinstance(store, str):
            return False
        try:
            return store.hub.closed
        except StoreUnavailable:
            return True


def campaigning(part: Part) -> Script:
    """Campaign, lead, step down and step back, until the part is told to stop.

    Raises:
        StoreError: the store refused; not when it only gives no answer.
        BaseException: what the work raised, once its lease is released.
    """
    while (lease := (yield from _elected(part))) is not None:
        reign = part.elected(lease)
        try:
            error = yield Leading(reign)
            reign.work_stopped()
            yield Freeing(lease, reign.successor)
        finally:
            part.over(reign)
        if lease.lost.reason == "forked":
            raise reign.loss()  # The child of a fork takes no part in what its parent does.
        if error is not None and not reign.forgives(error):
            raise error
        yield from _step_back(part, reign)


def _elected(part: Part) -> Generator[Wait, Any, Lease | None]:
    """The lease of the next tenure; None if the part is to end."""
    failures = 0
    while not part.stopping:
        try:
            return (yield from part.manifesto.lock._acquiring(part.stand(), awaited=part.awaited))
        except (CalledOff, LeaseLost):  # The second: it was granted with too little time to work in.
            continue
        except StoreUnavailable as error:
            if part.closed_store():
                raise
            if not failures:
                report('the elector of "%s" cannot reach its store, and tries again', part.name, error)
            failures += 1
            yield from _rest(part, min(_AGAIN_LEAST * 2 ** min(failures, 16), _AGAIN_MOST))
    return None


def _step_back(part: Part, reign: Reign) -> Generator[Wait, Any, None]:
    """For the sake of others: a moment, or as long as they may need to see that the lock is free."""
    hub, terms = reign.lease._tenure.hub, part.manifesto.lock.terms
    if reign.stalled(Progress.WHY):
        yield from _rest(part, terms.ttl)
    elif reign.asked:
        yield from _rest(part, min(terms.ttl / 4, _LET_OTHERS_MOST))
    else:
        yield from _rest(part, _LET_OTHERS * (1 + hub.entropy.random()))


def _rest(part: Part, seconds: float) -> Generator[Wait, Any, None]:
    until = part.clock().wait + seconds
    while not part.stopping and (left := until - part.clock().wait) > 0:
        yield left


# ---- waiting for it, from outside ----------------------------------------------------------------


def until_ended(part: Part, timeout: float | None) -> Generator[Wait, None, bool]:
    """Wait for the end of a part; False where the time is over, or its work goes on after its lease."""
    return (yield from _until(part, part.ended, timeout))


def until_over(part: Part, reign: Reign, timeout: float | None) -> Generator[Wait, None, bool]:
    """Wait for the end of a tenure; whether the lock was freed by it."""
    over = yield from _until(part, reign.over, timeout)
    return over and reign.done


def _until(part: Part, gate: Gate, timeout: float | None) -> Generator[Wait, None, bool]:
    terms, clock = part.manifesto.lock.terms, part.clock
    until = None if timeout is None else clock().wait + timeout
    while not gate.is_open:
        reign, now = part.reign, clock().wait
        left = None if until is None else until - now
        if left is None and reign is not None and reign.working:
            if reign.lease.lost:  # Nobody knows when that work will stop; most does now.
                until = now + terms.ttl - terms.hold
                continue
            yield reign.lease.remaining
        elif left is not None and left <= 0:
            return False
        else:
            yield left
    return True


# ---- the work ------------------------------------------------------------------------------------


@contextmanager
def body(lease: Lease, me: object) -> Generator[None, None, None]:
    """Where the work begins, and where it has ended and nothing may stop it any more.

    Whoever waits in it for the lock that it leads by is told that it would be for ever.
    """
    lease._tenure.ticket.body = me
    try:
        yield
    finally:
        if lease._stopper is not None:
            lease._stopper.end()
        lease._tenure.ticket.body = None
