"""The keeper: the one thread of a process that renews and expires every lease, for asyncio users too.

It keeps a heap of what is due and looks at the machines' timers. It never talks to a store itself: requests
go to the couriers of that store, so that a store that hangs delays nobody's loss. Should the keeper
starve, every lease still ends in time, because `held` asks the clock and not the keeper.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any, Final, Protocol

# Condition variables wait on a clock that stands still while the host sleeps; deadlines do not. So the
# keeper never sleeps for longer than this while it has something to keep.
_LONGEST_SLEEP: Final = 1.0
_COURIERS: Final = 8
_IDLE_SECONDS: Final = 10.0


class Kept(Protocol):
    """What the keeper keeps: `tick` does what is due, without waiting, and asks to be kept on."""

    plan: Plan | None

    def tick(self) -> None: ...


class Plan(list[Any]):
    """When to look at what: [due, a number that no other plan has, Kept]; dropped when the last is None."""

    __slots__ = ()


class Keeper:
    """A heap of timers and the thread that serves it; started by the first thing to keep."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._heap: list[Plan] = []
        self._order = count()
        self._thread: threading.Thread | None = None
        self._sleeps_until = 0.0
        self._sweep_at = 1024

    @property
    def alive(self) -> bool:
        """Whether the thread runs; False also before there was anything to keep."""
        return self._thread is not None and self._thread.is_alive()

    def keep(self, kept: Kept, delay: float | None) -> None:
        """Call `kept.tick()` after `delay` seconds, instead of whatever was planned for it; None: never."""
        drop(kept)
        if delay is None:
            return
        due = time.monotonic() + delay
        plan = kept.plan = Plan((due, next(self._order), kept))
        with self._changed:
            heapq.heappush(self._heap, plan)
            if not self.alive:
                self._start()
            elif due < self._sleeps_until:
                self._changed.notify()
            if len(self._heap) > self._sweep_at:
                self._sweep()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="leases-keeper", daemon=True)
        self._thread.start()

    def _sweep(self) -> None:
        """Forget the plans that were dropped: a busy lock leaves one behind with every release."""
        self._heap = [plan for plan in self._heap if plan[2] is not None]
        heapq.heapify(self._heap)
        self._sweep_at = max(1024, 2 * len(self._heap))

    def _run(self) -> None:
        while True:
            kept = self._next()
            try:
                kept.tick()
            except Exception as error:  # A fault in one must not end the renewal of all.
                report("the keeper failed on %r", kept, error)
                self.keep(kept, _LONGEST_SLEEP)

    def _next(self) -> Kept:
        """Wait for the next thing that is due."""
        with self._changed:
            while True:
                now = time.monotonic()
                while self._heap and (self._heap[0][2] is None or self._heap[0][0] <= now):
                    kept: Kept | None = heapq.heappop(self._heap)[2]
                    if kept is not None:
                        return kept
                wait = min(self._heap[0][0] - now, _LONGEST_SLEEP) if self._heap else None
                self._sleeps_until = now + wait if wait is not None else float("inf")
                self._changed.wait(wait)
                self._sleeps_until = 0.0


def drop(kept: Kept) -> None:
    """Forget what was planned for it."""
    plan, kept.plan = kept.plan, None
    if plan is not None:
        plan[2] = None


class Couriers:
    """Threads that carry requests to one store. They come as needed, and leave when nothing is to do."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._ready = threading.Condition(threading.Lock())
        self._jobs: deque[Callable[[], None]] = deque()
        self._idle = 0
        self._threads = 0

    def send(self, job: Callable[[], None]) -> None:
        """Run a job on one of the threads, in the order given if there is one thread for it."""
        with self._ready:
            self._jobs.append(job)
            if self._idle >= len(self._jobs):
                self._ready.notify()
            elif self._threads < _COURIERS:
                self._threads += 1
                name = f"leases-courier-{self._name}-{self._threads}"
                threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._ready:
                while not self._jobs:
                    self._idle += 1
                    woken = self._ready.wait(_IDLE_SECONDS)
                    self._idle -= 1
                    if not woken and not self._jobs:
                        self._threads -= 1
                        return
                job = self._jobs.popleft()
            try:
                job()
            except Exception as error:
                report("a courier failed on %r", job, error)
            del job


def report(message: str, subject: object, error: BaseException) -> None:
    """Log what nobody is there to catch."""
    import logging  # Costs more than opening a store, and is rarely needed.

    logging.getLogger("leases").error(message, subject, exc_info=error)


keeper = Keeper()


def renew_after_fork() -> None:
    """In the child of a fork: no thread came along, and nothing that the parent kept is ours."""
    keeper.__init__()  # type: ignore[misc] # the same object, because others have imported it
