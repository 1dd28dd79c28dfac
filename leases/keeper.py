"""The keeper: the one thread of a process that renews and expires every lease, for asyncio users too.

It keeps a heap of what is due and looks at the machines' timers. It never talks to a store itself: requests
go to the couriers of that store, so that a store that hangs delays nobody's loss. Should the keeper
starve, every lease still ends in time, because `held` asks the clock and not the keeper.
"""

from __future__ import annotations

import heapq
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Protocol

from leases.clock import system_clock

if TYPE_CHECKING:
    from leases.contract import Traits

# Condition variables wait on a clock that stands still while the host sleeps; deadlines do not, and neither
# do plans. So the keeper never sleeps for longer than this while it has something to keep.
_LONGEST_SLEEP: Final = 1.0
# Nor for a shorter time: of thousands of leases it then renews a few at a time, and not each by a wake-up.
# It is within what `Terms` leaves between the deadline and the bound, with its defaults and the shortest ttl.
_SHORTEST_SLEEP: Final = 0.005
_IDLE_SECONDS: Final = 10.0
_LONGEST_CALL: Final = 5.0


class Kept(Protocol):
    """What the keeper keeps: `tick` does what is due, without waiting, and asks to be kept on."""

    plan: Plan | None

    def tick(self) -> None: ...


class Timekeeper(Protocol):
    """What looks at timers in time: the keeper, or in a test whoever moves the clock."""

    def keep(self, kept: Kept, delay: float | None) -> bool: ...


class Plan(list[Any]):
    """When to look at what: [due, a number that no other plan has, Kept]; dropped when the last is None."""

    __slots__ = ()


class Keeper:
    """A heap of timers and the thread that serves it; started by the first thing to keep."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()  # Entering a Condition can be cut short, and locks it.
        self._changed = threading.Condition(self._mutex)
        self._heap: list[Plan] = []
        self._order = count()
        self._thread: threading.Thread | None = None
        self._sleeps_until = 0.0
        self._sweep_at = 1024
        self._serving: tuple[float, Kept] | None = None

    @property
    def alive(self) -> bool:
        """Whether the thread runs; False also before there was anything to keep."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def late(self) -> float:
        """For how many seconds something has been due, or is being looked at; it waits for no mutex."""
        serving, now = self._serving, _now()
        since = [plan[0] for plan in list(self._heap) if plan[2] is not None]
        if serving is not None:
            since.append(serving[0])
        return max(now - min(since, default=now), 0.0)

    def keep(self, kept: Kept, delay: float | None) -> bool:
        """Call `kept.tick()` after `delay` seconds, instead of whatever was planned for it; None: never.

        False when no thread can be started to do it, as when the main thread has ended.
        """
        drop(kept)
        if delay is None:
            return True
        due = _now() + delay
        plan = kept.plan = Plan((due, next(self._order), kept))
        with self._mutex:
            heapq.heappush(self._heap, plan)
            if due < self._sleeps_until:
                self._changed.notify()
            if len(self._heap) > self._sweep_at:
                self._sweep()
            return self._thread is not None or self._start()

    def _start(self) -> bool:
        thread = threading.Thread(target=self._run, name="leases-keeper", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # The interpreter is ending, or the system has no thread to spare.
            return False
        self._thread = thread
        return True

    def _sweep(self) -> None:
        """Forget the plans that were dropped: a busy lock leaves one behind with every release."""
        self._heap = [plan for plan in self._heap if plan[2] is not None]
        heapq.heapify(self._heap)
        self._sweep_at = max(1024, 2 * len(self._heap))

    def _run(self) -> None:
        try:
            while True:
                try:
                    self._serve(self._next())
                except BaseException as error:  # Thrown into this thread, which nothing may end.
                    report("the keeper failed on %r", self, error)
        finally:  # Should something end it all the same, the next thing to keep starts another.
            self._thread = None

    def _serve(self, kept: Kept) -> None:
        self._serving = (_now(), kept)
        try:
            kept.tick()
        except BaseException as error:  # A fault in one must not end the renewal of all.
            report("the keeper failed on %r", kept, error)
            self.keep(kept, _LONGEST_SLEEP)
        finally:
            self._serving = None

    def _next(self) -> Kept:
        """Wait for the next thing that is due."""
        with self._mutex:
            while True:
                now = _now()
                # A dropped plan stays until it is due: were the heap empty after every release, every
                # acquire would have to wake this thread.
                while self._heap and self._heap[0][0] <= now:
                    kept: Kept | None = heapq.heappop(self._heap)[2]
                    if kept is not None:
                        return kept
                wait = _bounded(self._heap[0][0] - now) if self._heap else None
                self._sleeps_until = now + wait if wait is not None else float("inf")
                self._changed.wait(wait)
                self._sleeps_until = 0.0


def _now() -> float:
    """The holder's clock: what is meant by one that stands still during sleep is only looked at too soon."""
    return system_clock().hold


def _bounded(wait: float) -> float:
    return min(max(wait, _SHORTEST_SLEEP), _LONGEST_SLEEP)


def drop(kept: Kept) -> None:
    """Forget what was planned for it."""
    plan, kept.plan = kept.plan, None
    if plan is not None:
        plan[2] = None


class Couriers:
    """Threads that carry requests to one store. They come as needed; all but one leave when nothing is to do.

    One stays until `close`: once the main thread has ended no thread can be started any more, and others
    may still hold leases.
    """

    def __init__(self, traits: Traits) -> None:
        self._name = traits.store
        # Calls to a store on this host take turns anyway; more threads would only wait for one another.
        self._most = 2 if traits.local else 8
        self._mutex = threading.Lock()  # see Keeper
        self._ready = threading.Condition(self._mutex)
        self._jobs: deque[tuple[Callable[[], object], float]] = deque()
        self._busy: dict[int, float] = {}  # by thread: when, on the monotonic clock, it should be through
        self._idle = 0
        self._threads: set[threading.Thread] = set()
        self._closed = False

    def send(self, job: Callable[[], object], limit: float = _LONGEST_CALL) -> None:
        """Run a job on one of the threads, in the order given if there is one thread for it.

        Args:
            job: what to call.
            limit: seconds within which it should be through; after that it counts as stuck.
        """
        with self._mutex:
            self._jobs.append((job, limit))
            if self._idle >= len(self._jobs):
                self._ready.notify()
                return
            if len(self._threads) >= self._most:  # Starting one can be cut short, as by Ctrl-C: count anew.
                self._threads = {thread for thread in self._threads if thread.is_alive()}
            if len(self._threads) >= self._most or self._start():
                return
        # No thread can be started: here rather than never.
        self._work_off()

    def stuck(self, grace: float) -> bool:
        """Whether no thread is left that could carry anything: each is in a call that outlived its time-out.

        Args:
            grace: seconds by which a call may be late. It waits for no mutex.
        """
        before = time.monotonic() - grace
        return sum(until < before for until in list(self._busy.values())) >= self._most

    def close(self) -> None:
        """Let the threads go when they have done what was sent."""
        with self._mutex:
            self._closed = True
            self._ready.notify_all()

    def _start(self) -> bool:
        """One more thread; True if there is one at least, to do what was sent."""
        name = f"leases-courier-{self._name}-{len(self._threads) + 1}"
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:  # The interpreter is ending, or the system has no thread to spare.
            self._threads.discard(thread)
        return bool(self._threads)

    def _run(self) -> None:
        while True:
            try:
                if not self._wait():
                    return
                self._work_off()
            except BaseException as error:  # Thrown into this thread, which nothing may end.
                report("a courier failed on %r", self, error)

    def _wait(self) -> bool:
        """Wait for a job; False when the thread is to leave."""
        with self._mutex:
            woken = True
            while not self._jobs:
                if self._closed or (not woken and len(self._threads) > 1):
                    self._threads.discard(threading.current_thread())
                    return False
                self._idle += 1
                try:
                    woken = self._ready.wait(_IDLE_SECONDS)
                finally:
                    self._idle -= 1
            return True

    def _work_off(self) -> None:
        while self._jobs:
            try:
                job, limit = self._jobs.popleft()
            except IndexError:  # Another thread was quicker.
                return
            me = threading.get_ident()
            self._busy[me] = time.monotonic() + limit
            try:
                job()
            except BaseException as error:  # Not even SystemExit may end the renewals.
                report("a courier failed on %r", job, error)
            finally:
                self._busy.pop(me, None)
            del job


def report(message: str, subject: object, error: BaseException) -> None:
    """Log what nobody is there to catch."""
    _log("error", message, subject, exc_info=error)


def remark(message: str, *subjects: object) -> None:
    """Log what is no fault, for who wants to know."""
    _log("info", message, *subjects)


def _log(level: str, *what: object, **options: object) -> None:
    """Log, and import nothing in a thread that renews: an import that Ctrl-C strikes can keep all others."""

    def log() -> None:
        import logging  # Costs more than opening a store, and is rarely needed.

        getattr(logging.getLogger("leases"), level)(*what, **options)

    found = sys.modules.get("logging")
    if found is not None and not getattr(found.__spec__, "_initializing", False):
        log()
        return
    try:
        threading.Thread(target=log, name="leases-log", daemon=True).start()
    except RuntimeError:  # The interpreter is ending, or the system has no thread to spare.
        log()


keeper = Keeper()


def renew_after_fork() -> None:
    """In the child of a fork: no thread came along, and nothing that the parent kept is ours."""
    keeper.__init__()  # type: ignore[misc] # the same object, because others have imported it
