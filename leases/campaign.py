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
import math
import threading
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from leases import threads
from leases.errors import LeaseLost, StoreUnavailable
from leases.events import Endangered, Event, Lost, Renewed
from leases.keeper import Plan, drop, keeper, report
from leases.observer import Lookout
from leases.script import CalledOff, Wait

if TYPE_CHECKING:
    from typing import Protocol

    from leases import aio
    from leases.lease import Lease
    from leases.lock import Lock, Place

    class _Bell(Protocol):
        def ring(self) -> object: ...


Work = Callable[["Lease"], object]
WorkAsync = Callable[["Lease"], Awaitable[object]]

_AGAIN_LEAST, _AGAIN_MOST = 0.05, 1.0  # seconds between attempts to connect
_LET_OTHERS: Final = 0.03  # seconds, and up to twice as many, to step back when the work has returned
_LET_OTHERS_MOST: Final = 1.0  # after a resignation: others may look once a second at worst
_LAST_CALLS: Final = 2.0  # seconds at most for the callbacks that are still to be called at the end


class Callbacks(NamedTuple):
    """What is called, and when."""

    elected: Callable[..., object] | None = None
    jeopardy: Callable[..., object] | None = None
    lost: Callable[..., object] | None = None
    new_leader: Callable[..., object] | None = None


class Manifesto(NamedTuple):
    """What an elector stands for: everything about it that does not change.

    Attributes:
        lock: what is campaigned for.
        calls: the callbacks.
        patience: seconds for which the lease of work that was asked to stop is still renewed.
        progress: whether the work makes progress, asked again and again while it leads.
    """

    lock: Lock
    calls: Callbacks
    patience: float
    progress: Callable[[], object] | None = None


class Gate:
    """Opens once; who waits brings a bell."""

    def __init__(self) -> None:
        self.is_open = False
        self.bells: list[Callable[[], object]] = []

    def open(self) -> None:
        """Let everybody through, from now on."""
        self.is_open = True
        for ring in list(self.bells):
            ring()


# ---- one tenure ----------------------------------------------------------------------------------


class Reign:
    """One tenure of an elector, from its election until its lease is released or left.

    Attributes:
        lease: what it leads by.
        working: whether the work goes on.
        successor: for whom the lock is to be freed.
        over: opens when nothing more is done about it.
        done: whether the lock was freed by this tenure, or passed on.
    """

    def __init__(self, part: Part, lease: Lease) -> None:
        self.part, self.lease = part, lease
        self.working = True
        self.stalled = False
        self.successor: str | None = None
        self.over = Gate()
        self.done = False
        self.plan: Plan | None = None
        self.calls: list[Callable[[], object]] = []  # besides, when it is asked to stop
        self._mutex = threading.Lock()
        self._told_loss = False
        self._asked_at: float | None = None  # on the holder's clock
        self._limits: dict[str, float] = {}

    def begin(self) -> None:
        """Tell of the election, then of all that happens to the lease."""
        self._tell(self.part.manifesto.calls.elected, self.lease)
        self.lease.listen(self.hear)
        if self.lease._tenure.machine.lost is not None:  # Before anybody listened.
            self.tell_loss()

    def ask(self, successor: str | None = None) -> None:
        """Ask the work to stop; harmless when repeated, and in a signal handler."""
        if successor is not None:
            self.successor = successor
        if self._asked_at is None:
            self._asked_at = self._now()
        self.lease.ask_to_stop()

    @property
    def asked(self) -> bool:
        """Whether the work was asked to stop."""
        return self._asked_at is not None

    def hear(self, event: Event) -> None:
        """An event of the lease, in some thread that must not wait."""
        if isinstance(event, Lost):
            self.tell_loss()
            if self.working:
                terms = self.part.manifesto.lock.terms
                keeper.keep(self, terms.ttl - terms.hold)
        elif isinstance(event, Endangered):
            with self._mutex:
                if not self._told_loss:
                    self._tell(self.part.manifesto.calls.jeopardy, self.lease)
        elif isinstance(event, Renewed) and self._asked_at is not None and "stop" not in self._limits:
            # Not from here: whoever tells of an event may not be fed another.
            until = self._asked_at + self.part.manifesto.patience
            self.lease._tenure.hub.couriers.send(partial(self.limit, "stop", until))

    def limit(self, why: str, until: float) -> None:
        """For this reason begin no renewal after an instant of the holder's clock; the earliest counts."""
        self._limits[why] = until
        self.lease.renew_until(min(self._limits.values(), default=math.inf))

    def tell_loss(self) -> None:
        """Call on_lost, once for every on_elected; the reason is ``released`` where nothing was lost."""
        with self._mutex:
            if self._told_loss:
                return
            self._told_loss = True
            self._tell(self.part.manifesto.calls.lost, self.lease, self.loss())

    def loss(self) -> LeaseLost:
        """Why it is over."""
        lease = self.lease
        return lease._tenure.loss() or LeaseLost(lease.name, "released", self._now(), lease.token)

    def work_stopped(self) -> None:
        """Nothing goes on under the lease any more."""
        self.working = False
        drop(self)
        self.tell_loss()

    def end(self) -> None:
        """The lease was released, or there was nothing to release."""
        tenure = self.lease._tenure
        self.done = tenure.released or tenure.machine.phase.name == "DONE"
        self.over.open()

    def forgives(self, error: BaseException) -> bool:
        """Whether the work only ended as it was to end: by the loss of this very lease."""
        lease = self.lease
        mine = isinstance(error, LeaseLost) and (error.name, error.token) == (lease.name, lease.token)
        return mine and bool(lease.ending or lease.lost)

    def tick(self) -> None:
        """The lease is lost, its ttl is over, and the work goes on."""
        if self.working:
            report(
                "%r: the work goes on although its lease is lost, and another may lead; let it look at "
                'lease.ending or call lease.check(), or pass on_lost="exit" or "kill"',
                self.part,
                self.loss(),
            )

    def idle(self) -> Generator[float, None, None]:
        """The wait of who leads without work: until the lease ends, or is to end."""
        while not (self.lease.ending or self.lease.lost):
            yield min(self.lease.ending._left(), self.lease.remaining)

    def _tell(self, call: Callable[..., object] | None, *args: object) -> None:
        if call is not None:
            self.part.herald.tell(call, *args)

    def _now(self) -> float:
        return self.lease._tenure.hub.clock().hold


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

    def __init__(self, manifesto: Manifesto, herald: Herald, bell: _Bell, *, awaited: bool) -> None:
        self.manifesto, self.herald, self.awaited = manifesto, herald, awaited
        self.bell = bell
        self.reign: Reign | None = None
        self.stopping = False
        self.ended = Gate()
        self.error: BaseException | None = None
        self.place: Place | None = None
        self.thread = threading.get_ident()
        self._lookout: Lookout | None = None

    def __repr__(self) -> str:
        return f'<elector of "{self.manifesto.lock.name}">'

    def stop(self) -> None:
        """End the campaign, or ask the work to stop, without a wait: a signal handler may call it."""
        self.stopping = True
        place, reign = self.place, self.reign
        if place is not None:
            place.ticket.called_off = True
        if reign is not None:
            reign.ask()
        self.bell.ring()

    def inside(self) -> bool:
        """Whether whoever asks is one on whom it waits, and must not wait for it."""
        return threading.get_ident() in (self.thread, self.herald.thread)

    def open(self) -> None:
        """Before anything else."""
        call = self.manifesto.calls.new_leader
        if call is not None:
            lock = self.manifesto.lock
            self._lookout = Lookout(lock._connect, lock.name, partial(self.herald.tell, call))

    def stand(self) -> Place:
        """A place for the next acquisition."""
        me: object = asyncio.current_task() if self.awaited else self.thread
        place = self.place = self.manifesto.lock._place(self.bell, me)
        if self.stopping:
            place.ticket.called_off = True
        return place

    def elected(self, lease: Lease) -> Reign:
        """A tenure begins."""
        reign = self.reign = Reign(self, lease)
        reign.begin()
        if self.stopping:
            reign.ask()
        return reign

    def over(self, reign: Reign) -> None:
        """A tenure is over."""
        reign.end()
        self.reign = None

    def close(self) -> None:
        """After everything else, whatever happened."""
        if self._lookout is not None:
            self._lookout.close()
        if self.place is not None:
            self.place.undo()
        self.ended.open()

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
                report("%r cannot reach its store, and tries again", part, error)
            failures += 1
            yield from _rest(part, min(_AGAIN_LEAST * 2 ** min(failures, 16), _AGAIN_MOST))
    return None


def _step_back(part: Part, reign: Reign) -> Generator[Wait, Any, None]:
    """For the sake of others: a moment, or as long as they may need to see that the lock is free."""
    hub, terms = reign.lease._tenure.hub, part.manifesto.lock.terms
    if reign.stalled:
        yield from _rest(part, terms.ttl)
    elif reign.asked:
        yield from _rest(part, min(terms.ttl / 4, _LET_OTHERS_MOST))
    else:
        yield from _rest(part, _LET_OTHERS * (1 + hub.entropy.random()))


def _rest(part: Part, seconds: float) -> Generator[Wait, Any, None]:
    clock = part.manifesto.lock._hub.clock if part.manifesto.lock._hub is not None else None
    if clock is None:
        yield seconds
        return
    until = clock().wait + seconds
    while not part.stopping and (left := until - clock().wait) > 0:
        yield left


# ---- waiting for it, from outside ----------------------------------------------------------------


def until_ended(part: Part, timeout: float | None) -> Generator[float | None, None, bool]:
    """Wait for the end of a part; False where the time is over, or its work goes on after its lease."""
    return (yield from _until(part, part.ended, timeout))


def until_over(part: Part, reign: Reign, timeout: float | None) -> Generator[float | None, None, bool]:
    """Wait for the end of a tenure; whether the lock was freed by it."""
    over = yield from _until(part, reign.over, timeout)
    return over and reign.done


def _until(part: Part, gate: Gate, timeout: float | None) -> Generator[float | None, None, bool]:
    hub = part.manifesto.lock._hub
    clock = hub.clock if hub is not None else None
    until = None if timeout is None or clock is None else clock().wait + timeout
    while not gate.is_open:
        waits = [] if until is None or clock is None else [until - clock().wait]
        reign = part.reign
        if reign is not None and reign.working:
            if reign.lease.lost:
                return False  # Nobody knows when that work will stop.
            waits.append(reign.lease.remaining)
        if waits and min(waits) <= 0:
            return False
        yield min(waits, default=None)
    return True


# ---- callbacks -----------------------------------------------------------------------------------


class Herald:
    """Calls back, one after another; nobody else waits for what is called.

    Attributes:
        thread: the identity of the thread that calls.
    """

    thread: int | None = None

    def tell(self, call: Callable[..., object], *args: object) -> None:
        """Call it after all that was told before."""


class ThreadHerald(Herald):
    """Calls in a thread of its own."""

    def __init__(self, name: str) -> None:
        self._queue: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"leases-herald-{name}", daemon=True)
        self._thread.start()
        self.thread = self._thread.ident

    def tell(self, call: Callable[..., object], *args: object) -> None:
        self._queue.put(partial(call, *args))

    def close(self) -> None:
        """Wait until all was called that was told, unless that takes too long."""
        self._queue.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(_LAST_CALLS)

    def _run(self) -> None:
        while (call := self._queue.get()) is not None:
            try:
                call()
            except BaseException as error:  # Not even SystemExit may keep the next from being called.
                report("a callback of an elector failed: %r", call, error)


class TaskHerald(Herald):
    """Calls on the event loop, and awaits what a coroutine function gives."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Callable[[], object] | None] = asyncio.Queue()
        self._task = self._loop.create_task(self._run(), name=f"leases-herald-{name}")

    def tell(self, call: Callable[..., object], *args: object) -> None:
        self._put(partial(call, *args))

    async def close(self) -> None:
        """Wait until all was called that was told, unless that takes too long."""
        self._put(None)
        done, _ = await asyncio.wait({self._task}, timeout=_LAST_CALLS)
        if not done:
            self._task.cancel()

    def _put(self, call: Callable[[], object] | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, call)
        except RuntimeError:  # The loop is closed, and nobody can be told.
            return

    async def _run(self) -> None:
        while (call := await self._queue.get()) is not None:
            try:
                result = call()
                if isinstance(result, Awaitable):
                    await result
            except Exception as error:
                report("a callback of an elector failed: %r", call, error)


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
        _enter(lease)
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


def _enter(lease: Lease) -> None:
    """What ends the work is told where the work is."""
    if lease._stopper is not None:
        lease._stopper.entered()


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
                answer = await _worked_async(step.reign, work)
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


async def _worked_async(reign: Reign, work: WorkAsync) -> BaseException | None:
    """Run the work as a task, and come back when it has stopped, whoever is cancelled meanwhile."""

    async def body() -> None:
        _enter(reign.lease)
        await work(reign.lease)

    task = asyncio.create_task(body(), name=f"leases-work-{reign.lease.name}")
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
