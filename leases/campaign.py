"""One participation in an election: campaign, lead, step down, again, until it is told to stop.

It is written once, as a script, for threads and for asyncio: `campaigning` yields what to wait for, what to
call, when to work and when to release; two drivers at the end of the module know how. Whoever tells it to
stop may be a signal handler, which can come while anything is held: so telling sets flags and rings bells,
and takes no mutex.

The order of things: the work has stopped, then on_lost is told, if the loss was not told before, then the
lease is released, then the next campaign begins. The lease of work that was asked to stop is renewed for a
while, its `patience`, and then left to run out; it is never released while work goes on under it.
"""

# pyright: reportPrivateUsage=false
# A campaign is a lock's acquisition that can be called off, and looks into the lock for it.

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from leases import threads
from leases.clock import Clock, system_clock
from leases.errors import StoreUnavailable
from leases.herald import Herald
from leases.keeper import report
from leases.observer import Leader, Lookout
from leases.progress import Progress
from leases.reign import Callbacks, Gate, Manifesto, Reign
from leases.script import CalledOff, Wait

if TYPE_CHECKING:
    from typing import Protocol

    from leases import aio
    from leases.lease import Lease
    from leases.lock import Lock, Place

    class Bell(Protocol):
        """Wakes who waits."""

        def ring(self) -> object: ...


Work = Callable[["Lease"], object]
WorkAsync = Callable[["Lease"], Awaitable[object]]

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

    Attributes:
        reign: the tenure there is, if any, until it is over.
        stopping: whether it is to end.
        ended: opens when it has ended.
        error: what it ended by, if it was an error.
    """

    def __init__(self, manifesto: Manifesto, herald: Herald, bell: Bell, *, awaited: bool) -> None:
        self.manifesto, self.herald, self.awaited = manifesto, herald, awaited
        self.bell = bell
        self.reign: Reign | None = None
        self.stopping = False
        self.ended = Gate()
        self.error: BaseException | None = None
        self.place: Place | None = None
        self.thread = threading.get_ident()
        self.task: asyncio.Task[None] | None = None  # that works
        self._lookout: Lookout | None = None
        self._progress: Progress | None = None
        self._rivals: Rivals | None = None

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

    def inside(self, *, awaited: bool = False) -> bool:
        """Whether whoever asks is one on whom it waits, and must not wait for it."""
        if awaited:
            return asyncio.current_task() in (self.task, self.herald.task)
        return threading.get_ident() in (self.thread, self.herald.thread)

    def open(self) -> None:
        """Before anything else."""
        stands_for = self.manifesto
        lock, call = stands_for.lock, stands_for.calls.new_leader
        if call is not None:
            self._lookout = Lookout(lock._connect, lock.name, partial(self.herald.tell, call))
        if stands_for.progress is not None:
            self._progress = Progress(stands_for.progress, lock.terms, lock.name)
        if stands_for.priority is not None and stands_for.bids is not None:
            self._rivals = Rivals(self, stands_for.priority, stands_for.bids)

    def stand(self) -> Place:
        """A place for the next acquisition."""
        me: object = asyncio.current_task() if self.awaited else self.thread
        place = self.place = self.manifesto.lock._place(self.bell, me)
        if self.stopping:
            place.ticket.called_off = True
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
            self._rivals.consider()
        return reign

    @contextmanager
    def aside(self) -> Generator[None, None, None]:
        """For so long it does not campaign, and nobody is to hand over to it."""
        if self._rivals is not None:
            self._rivals.stand_aside(aside=True)
        yield
        if self._rivals is not None:
            self._rivals.stand_aside(aside=False)

    def over(self, reign: Reign) -> None:
        """A tenure is over."""
        reign.end()
        self.reign = None

    def close(self) -> None:
        """After everything else, whatever happened."""
        for helper in (self._lookout, self._progress, self._rivals):
            if helper is not None:
                helper.close()
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
        except CalledOff:
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
        with part.aside():
            yield from _rest(part, terms.ttl)
    elif reign.asked:
        yield from _rest(part, min(terms.ttl / 4, _LET_OTHERS_MOST))
    else:
        yield from _rest(part, _LET_OTHERS * (1 + hub.entropy.random()))


def _rest(part: Part, seconds: float) -> Generator[Wait, Any, None]:
    until = part.clock().wait + seconds
    while not part.stopping and (left := until - part.clock().wait) > 0:
        yield left


# ---- priority ------------------------------------------------------------------------------------


class Rivals:
    """What a candidate that states a priority does for it, and lets others do.

    Whoever stands by and sees a leader of lower priority makes a bid: it holds a lock beside the one that is
    led, which shows its name and priority, as long as that is so. Whoever leads and sees a bid of higher
    priority hands over to the bidder. Only one can bid at a time, but the next does as soon as the first
    leads, and so in the end the highest does.
    """

    def __init__(self, part: Part, priority: int, bids: Lock) -> None:
        self._part, self._priority, self._lock = part, priority, bids
        connect = part.manifesto.lock._connect
        self._mutex = threading.Lock()
        self._aside = False
        self._bid: Part | None = None
        self._leader: Leader | None = None
        self._bidder: Leader | None = None
        self._leaders = Lookout(connect, part.name, self._leads)
        # A bid that has never been seen to be renewed may be that of the dead.
        self._bids = Lookout(connect, bids.name, self._bids_now, wary=True)

    def consider(self) -> None:
        """Hand over, if this one leads and a bidder is to be preferred."""
        reign, bidder = self._part.reign, self._bidder
        if reign is None or bidder is None or reign.asked:
            return
        if bidder.priority is not None and bidder.priority > self._priority:
            reign.ask(bidder.holder)

    def close(self) -> None:
        """Look no more, and withdraw the bid."""
        self._leaders.close()
        self._bids.close()
        self.stand_aside(aside=True)

    def stand_aside(self, *, aside: bool) -> None:
        """Make no bid, or make one again if there is reason to."""
        with self._mutex:
            self._aside = aside
            self._review()

    def _leads(self, leader: Leader | None) -> None:
        with self._mutex:
            self._leader = leader
            self._review()

    def _review(self) -> None:
        """Bid while somebody of lower priority leads."""
        stated = None if self._leader is None else self._leader.priority
        if stated is None or stated >= self._priority or self._aside or self._part.stopping:
            bid, self._bid = self._bid, None
            if bid is not None:
                bid.stop()
        elif self._bid is None or self._bid.ended.is_open:
            self._bid = _bid(self._lock)

    def _bids_now(self, bidder: Leader | None) -> None:
        self._bidder = bidder
        self.consider()


def _bid(lock: Lock) -> Part:
    """Hold the lock beside, in a thread of its own, until the part is told to stop."""
    bell = threads.Bell()
    part = Part(Manifesto(lock, Callbacks(), lock.terms.ttl), Herald(), bell, awaited=False)

    def run() -> None:
        try:
            part.thread = threading.get_ident()
            take_part(part, bell, None)
        except BaseException as error:
            report("a bid for %r failed", lock.name, error)
        finally:
            part.ended.open()

    threading.Thread(target=run, name=f"leases-bid-{lock.name}", daemon=True).start()
    return part


# ---- waiting for it, from outside ----------------------------------------------------------------


def until_ended(part: Part, timeout: float | None) -> Generator[float | None, None, bool]:
    """Wait for the end of a part; False where the time is over, or its work goes on after its lease."""
    return (yield from _until(part, part.ended, timeout))


def until_over(part: Part, reign: Reign, timeout: float | None) -> Generator[float | None, None, bool]:
    """Wait for the end of a tenure; whether the lock was freed by it."""
    over = yield from _until(part, reign.over, timeout)
    return over and reign.done


def _until(part: Part, gate: Gate, timeout: float | None) -> Generator[float | None, None, bool]:
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


# ---- the driver for threads ----------------------------------------------------------------------


def take_part(part: Part, bell: threads.Bell, work: Work | None) -> None:
    """Campaign and work in this thread, until the part is told to stop; the errors of `campaigning`."""
    script = campaigning(part)
    answer: BaseException | None = None
    try:
        part.open()
        step: Step = next(script)
        while True:
            thrown = answer = None
            if isinstance(step, Leading):
                answer = _worked(step.reign, work, bell)
            elif isinstance(step, Freeing):
                step.lease.release(to=step.to)
            elif callable(step):
                thrown = _called(step)
            else:
                bell.wait(step)
            step = script.send(answer) if thrown is None else script.throw(thrown)
    except StopIteration:
        return
    finally:
        script.close()
        part.close()


def _worked(reign: Reign, work: Work | None, bell: threads.Bell) -> BaseException | None:
    lease = reign.lease
    try:
        with _body(lease, threading.get_ident()):
            if work is not None:
                work(lease)
                return None
            lease._bells.append(bell.ring)
            for left in reign.idle():
                bell.wait(left)
    except BaseException as error:  # Ctrl-C too: first the lease is released, then it is raised.
        return error
    return None


def _called(step: Callable[[], object]) -> BaseException | None:
    try:
        step()
    except Exception as error:
        return error
    return None


@contextmanager
def _body(lease: Lease, me: object) -> Generator[None, None, None]:
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


# ---- the driver for asyncio ----------------------------------------------------------------------


async def take_part_async(part: Part, bell: aio.Bell, work: WorkAsync) -> None:
    """Campaign in this task, and work in tasks of its own; the errors of `campaigning`."""
    script = campaigning(part)
    try:
        part.open()
        step: Step = next(script)
        while True:
            thrown = answer = None
            if isinstance(step, Leading):
                answer = await _worked_async(part, step.reign, work)
            elif isinstance(step, Freeing):
                await step.lease.release_async(to=step.to)
            elif callable(step):
                thrown = await _called_async(step)
            else:
                await bell.wait(step)
            step = script.send(answer) if thrown is None else script.throw(thrown)
    except StopIteration:
        return
    finally:
        script.close()
        part.close()


async def _worked_async(part: Part, reign: Reign, work: WorkAsync) -> BaseException | None:
    """Run the work as a task, and come back when it has stopped, whoever is cancelled meanwhile."""

    async def body() -> None:
        with _body(reign.lease, asyncio.current_task()):
            await work(reign.lease)

    task = part.task = asyncio.create_task(body(), name=f"leases-work-{reign.lease.name}")
    ending = asyncio.create_task(reign.lease.ending.wait_async())
    told, cut_off = False, None
    while not task.done():
        try:
            await asyncio.wait({task} if told else {task, ending}, return_when=asyncio.FIRST_COMPLETED)
            stop = ending.done() and not told
        except asyncio.CancelledError as error:
            cut_off, stop = error, True
            reign.ask()
        if stop:
            told = True
            task.cancel()
    ending.cancel()
    if task.cancelled():
        return cut_off if told else asyncio.CancelledError()
    failure = task.exception()
    return cut_off if failure is None or reign.forgives(failure) else failure


async def _called_async(step: Callable[[], object]) -> BaseException | None:
    from leases import aio

    try:
        await aio.in_thread(step)
    except Exception as error:
        return error
    return None
