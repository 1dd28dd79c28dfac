"""Time that is moved by hand, and everything in this process that waits for it.

`Steered` is a clock. To advance it goes from one thing that is due to the next, and does each at its time: a
renewal, a deadline, the end of somebody's patience. Between two of them it lets the threads that were woken
take their turn, until all of them wait again; so what comes of a step is there when the next is taken. No
time passes otherwise, and nothing sleeps.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import threading
import time
from collections.abc import Callable, Hashable
from itertools import count
from typing import Any, Final

from leases import aio, threads
from leases.clock import Instant
from leases.contract import Traits
from leases.keeper import Couriers, Kept, Plan, drop, report
from leases.testing.clock import ManualClock

_TURN: Final = 0.1  # seconds, of real time, after which a thread that was woken is taken to have left
_HUNG: Final = 10.0  # seconds, of real time, after which a call to the store is taken to hang
_STEPS: Final = 100_000  # at most in one go: more would be a circle
_GRAIN: Final = 1e-6  # seconds by which the clock moves at least, where so many things
_AT_ONCE: Final = 100  # were due without a visible step of time
_TURNS: Final = 100  # after which those who wake one another again and again are left to it


class Steered(ManualClock):
    """A clock that does what is due when it is moved; made by `leases.testing.sandbox`."""

    __slots__ = ("_moving", "keeper", "stores", "waits")

    def __init__(self) -> None:
        super().__init__()
        self.keeper = ManualKeeper(self)
        self.waits = Waits(self)
        self.stores: list[CountedCouriers] = []
        self._moving = threading.RLock()

    def advance(self, seconds: float) -> Instant:
        """Let time pass: everything that becomes due is done, at its time and in order.

        Raises:
            ValueError: negative seconds.
            RuntimeError: there is no end to what is due, or a call to the store does not return.
        """
        if seconds < 0:
            return super().advance(seconds)  # which says why not
        with self._moving:
            until, still = self().wait + seconds, 0
            for _ in range(_STEPS):
                self.settle()
                due = min(self.keeper.next(), self.waits.next())
                if due > until:
                    break
                step = max(due - self().wait, 0.0)
                # What is due in less than a clock of this size can show would be due for ever.
                still = still + 1 if step < _GRAIN else 0
                super().advance(step if still < _AT_ONCE else _GRAIN)
                self.keeper.run()
                self.waits.ring_due()
            else:
                raise RuntimeError(
                    f"{_STEPS} things were due within {seconds:g} s; is one due again and again?"
                )
            super().advance(max(until - self().wait, 0.0))
            self.everybody()
            return self()

    def suspend(self, seconds: float) -> Instant:
        """Let the host sleep: what became due meanwhile is done when it wakes.

        Raises:
            ValueError: negative seconds.
        """
        with self._moving:
            super().suspend(seconds)
            self.keeper.run(everything=True)
            self.everybody()
            return self()

    def everybody(self) -> None:
        """Let everybody who waits look at the clock."""
        self.waits.ring_all()
        self.settle()

    def settle(self) -> None:
        """Let everybody who was woken take a turn, and every request to a store come to its end."""
        for _ in range(_TURNS):
            for couriers in self.stores:
                couriers.idle(_HUNG)
            if self.waits.settled(_TURN) and not any(couriers.pending for couriers in self.stores):
                return


class ManualKeeper:
    """What looks at timers when the clock is moved; see `leases.keeper.Keeper`."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._mutex = threading.Lock()
        self._heap: list[Plan] = []
        self._order = count()

    def keep(self, kept: Kept, delay: float | None) -> bool:
        """Call `kept.tick()` after so many seconds of the clock, instead of whatever was planned for it."""
        drop(kept)
        if delay is not None:
            plan = kept.plan = Plan((self._clock().wait + delay, next(self._order), kept))
            with self._mutex:
                heapq.heappush(self._heap, plan)
        return True

    def next(self) -> float:
        """When the next thing is due, on the waiter's clock; infinity where nothing is."""
        with self._mutex:
            while self._heap and self._heap[0][2] is None:
                heapq.heappop(self._heap)
            return float(self._heap[0][0]) if self._heap else math.inf

    def run(self, *, everything: bool = False) -> None:
        """Look at what is due now, once; or at everything, for clocks that did not move together."""
        with self._mutex:
            now = self._clock().wait
            due = [plan for plan in self._heap if everything or plan[0] <= now]
            self._heap = [plan for plan in self._heap if not (everything or plan[0] <= now)]
            heapq.heapify(self._heap)
        for plan in sorted(due, key=lambda plan: (plan[0], plan[1])):
            kept: Kept | None = plan[2]
            if kept is None:  # Dropped, maybe by what was looked at before it.
                continue
            try:
                kept.tick()
            except Exception as error:
                report("the keeper failed on %r", kept, error)


class CountedCouriers(Couriers):
    """Couriers that can be waited for."""

    def __init__(self, traits: Traits) -> None:
        super().__init__(traits)
        self._counting = threading.Condition()
        self._mine: set[int] = set()  # the threads that carry something
        self.pending = 0

    def send(self, job: Callable[[], object], limit: float = 5.0) -> None:
        """Run a job on one of the threads."""
        with self._counting:
            self.pending += 1
        super().send(lambda: self._counted(job), limit)

    def _counted(self, job: Callable[[], object]) -> None:
        me = threading.get_ident()
        self._mine.add(me)
        try:
            job()
        finally:
            self._mine.discard(me)
            with self._counting:
                self.pending -= 1
                self._counting.notify_all()

    def idle(self, timeout: float) -> None:
        """Wait until all that was sent is done; at once where that would be to wait for oneself.

        Raises:
            RuntimeError: not within so many seconds.
        """
        if threading.get_ident() in self._mine:
            return
        with self._counting:
            if not self._counting.wait_for(lambda: self.pending == 0, timeout):
                raise RuntimeError(f"a call to the store has not returned for {timeout:g} s; does it hang?")


class _Wait:
    """One thread or task that waits by a bell."""

    __slots__ = ("due", "gone", "ring", "rung", "who")

    def __init__(
        self, ring: Callable[[], object], due: float, who: Hashable, gone: Callable[[], bool]
    ) -> None:
        self.ring, self.due, self.who, self.gone = ring, due, who, gone
        self.rung = False


class Waits:
    """Everybody who waits by one of the library's bells, while it is `watching` them."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: set[_Wait] = set()
        self._out: dict[Hashable, _Wait] = {}  # who was woken, and does not wait again yet
        self._before: tuple[Any, Any] | None = None

    def watch(self) -> None:
        """From here on know of every wait that begins."""
        blocking, awaiting = threads.Bell.wait, aio.Bell.wait
        waits = self

        def wait(bell: threads.Bell, timeout: float | None) -> None:
            me = threading.current_thread()

            def gone() -> bool:  # Whoever moves the clock need not wait for itself.
                return me is threading.current_thread() or not me.is_alive()

            entry = waits._enter(bell.ring, timeout, me, gone)
            try:
                blocking(bell, timeout)
            finally:
                waits._leave(entry)

        async def wait_async(bell: aio.Bell, timeout: float | None) -> None:
            task = asyncio.current_task()
            loop, here = asyncio.get_running_loop(), threading.get_ident()

            def gone() -> bool:  # Whoever moves the clock from the loop itself cannot wait for its tasks.
                return here == threading.get_ident() or loop.is_closed() or task is None or task.done()

            entry = waits._enter(bell.ring, timeout, task, gone)
            try:
                await awaiting(bell, timeout)
            finally:
                waits._leave(entry)

        self._before = blocking, awaiting
        threads.Bell.wait = wait  # type: ignore[method-assign, assignment]
        aio.Bell.wait = wait_async  # type: ignore[method-assign, assignment]

    def unwatch(self) -> None:
        """Let bells be as they were."""
        if self._before is not None:
            threads.Bell.wait, aio.Bell.wait = self._before  # type: ignore[method-assign]
            self._before = None

    def next(self) -> float:
        """When the patience of the next of them is over, on the waiter's clock; infinity for never."""
        with self._changed:
            return min([wait.due for wait in self._waiting if not wait.rung], default=math.inf)

    def ring_due(self) -> None:
        """Wake those whose time has come."""
        now = self._clock().wait
        self._ring(lambda wait: wait.due <= now)

    def ring_all(self) -> None:
        """Wake everybody."""
        self._ring(lambda wait: True)

    def settled(self, patience: float) -> bool:
        """Wait until those who were woken wait again, or have left; whether nobody had to be waited for."""
        with self._changed:
            if not self._out and not any(wait.rung for wait in self._waiting):
                return True
            end = time.monotonic() + patience
            while self._pending():
                left = end - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(min(left, 0.005))
            self._out.clear()
            for wait in self._waiting:
                wait.rung = False
            return False

    def _pending(self) -> bool:
        self._out = {who: wait for who, wait in self._out.items() if not wait.gone()}
        return bool(self._out) or any(wait.rung and not wait.gone() for wait in self._waiting)

    def _ring(self, whom: Callable[[_Wait], bool]) -> None:
        with self._changed:
            rung = [wait for wait in self._waiting if whom(wait)]
            for wait in rung:
                wait.rung = True
        for wait in rung:
            wait.ring()

    def _enter(
        self, ring: Callable[[], object], timeout: float | None, who: Hashable, gone: Callable[[], bool]
    ) -> _Wait:
        due = math.inf if timeout is None else self._clock().wait + max(timeout, 0.0)
        wait = _Wait(ring, due, who, gone)
        with self._changed:
            self._out.pop(who, None)
            self._waiting.add(wait)
            self._changed.notify_all()
        return wait

    def _leave(self, wait: _Wait) -> None:
        with self._changed:
            self._waiting.discard(wait)
            self._out[wait.who] = wait
            self._changed.notify_all()
