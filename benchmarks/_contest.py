"""Processes that compete for one lock and note when they asked, entered and left.

Each works for a while under the lock, lets go, stays away for half as long, and asks again: so the next
holder is another one, who has been waiting for long enough to have settled.
"""

from __future__ import annotations

import multiprocessing
import queue
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from multiprocessing.connection import Connection
from statistics import median
from typing import NamedTuple

from leases import AcquireTimeout, Lock, Store, StoreUnavailable, connect
from leases.clock import system_clock
from leases.contract import Applied, Conflict, Slot, absent
from leases.record import Claim


class Order(NamedTuple):
    """What all contenders are told: how to compete, for which lock, until when, for how long to work."""

    kind: str
    name: str
    until: float
    work: float


class Visit(NamedTuple):
    """One stay under the lock: instants of CLOCK_MONOTONIC, which all processes of a host share."""

    asked: float
    hinted: float | None  # when the store told that the lock is free, where that was seen
    entered: float
    left: float
    who: object


class HandOver(NamedTuple):
    """Seconds from the instant at which one begins to release to the hint, and to the next one's entry."""

    hint: float | None
    entry: float


def hand_overs(visits: list[Visit]) -> list[HandOver]:
    """Those from one contender to another who had been waiting."""
    visits = sorted(visits, key=lambda visit: visit.entered)
    found: list[HandOver] = []
    for last, this in pairwise(visits):
        if this.who != last.who and this.asked < last.left - (last.left - last.entered) / 4:
            hint = None if this.hinted is None else this.hinted - last.left
            found.append(HandOver(hint, this.entered - last.left))
    return found


class Processes:
    """Contenders, each in a process with a connection of its own to one store."""

    def __init__(self, url: str, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in range(count)]
        self._ends = [mine for mine, _ in pipes]
        self._processes = [
            context.Process(target=_contend, args=(url, number, theirs), daemon=True)
            for number, (_, theirs) in enumerate(pipes)
        ]
        for process, (_, theirs) in zip(self._processes, pipes, strict=True):
            process.start()
            theirs.close()  # So that one that dies is an error here, and no answer to wait for.
        for end in self._ends:
            end.recv()  # It is up.

    def compete(self, kind: str, name: str, seconds: float, work: float) -> list[HandOver]:
        """Have all of them compete for so long."""
        until = time.monotonic() + seconds
        for end in self._ends:
            end.send(Order(kind, name, until, work))
        return hand_overs([visit for end in self._ends for visit in end.recv()])

    def idle(self, name: str, seconds: float, settle: float) -> float:
        """Have one hold and the others wait: CPU seconds of the median waiter for each second of waiting."""
        holder, *waiters = self._ends
        holder.send(Order("hold", name, time.monotonic() + settle + seconds + 0.5, 0))
        holder.recv()  # It holds.
        for end in waiters:
            end.send(Order("idle", name, time.monotonic() + settle + seconds, seconds))
        used: list[float] = [end.recv() for end in waiters]
        holder.recv()
        return median(used) / seconds

    def close(self) -> None:
        """End them."""
        for end in self._ends:
            end.send(None)
        for process in self._processes:
            process.join()


def _contend(url: str, who: int, orders: Connection) -> None:
    """What a contending process does."""
    with connect(url) as store:
        store.list()  # Opens the file.
        orders.send(None)
        while (order := orders.recv()) is not None:
            match order.kind:
                case "hold":
                    with store.lock(order.name):
                        orders.send(None)
                        time.sleep(max(order.until - time.monotonic(), 0))
                    orders.send(None)
                case "idle":
                    orders.send(cpu_in_vain(store.lock(order.name), order))
                case "bare":
                    orders.send(list(bare_visits(store, order, who)))
                case _:
                    orders.send(list(lock_visits(store.lock(order.name), order, who)))


def cpu_in_vain(lock: Lock, order: Order) -> float:
    """CPU seconds of this process in the last `order.work` seconds of waiting for a lock in vain."""
    before: list[float] = []
    settled = order.until - order.work - time.monotonic()
    threading.Timer(settled, lambda: before.append(time.process_time())).start()
    wait_in_vain(lock, order.until - time.monotonic())
    return time.process_time() - before[0]


def wait_in_vain(lock: Lock, seconds: float) -> None:
    """Wait for a lock that somebody holds for longer."""
    try:
        lock.acquire(timeout=seconds)
    except AcquireTimeout:
        return
    raise AssertionError(f"{lock} was to be held all the time")


def lock_visits(lock: Lock, order: Order, who: object) -> Iterator[Visit]:
    """Compete by our lock."""
    while (asked := time.monotonic()) < order.until:
        try:
            lease = lock.acquire(timeout=order.until - asked)
        except (AcquireTimeout, StoreUnavailable):  # The second where the time was over before an answer.
            return
        entered = time.monotonic()
        time.sleep(order.work)
        left = time.monotonic()
        lease.release()
        yield Visit(asked, None, entered, left, who)
        time.sleep(order.work / 2)


def bare_visits(store: Store, order: Order, who: object) -> Iterator[Visit]:
    """Compete by the store alone: a swap, and after a conflict a watch, and at its hint a swap again."""
    while (asked := time.monotonic()) < order.until:
        slot, hinted = _bare_acquire(store, order)
        if slot is None:
            return
        entered = time.monotonic()
        time.sleep(order.work)
        left = time.monotonic()
        store.hub.backend.swap(slot, None, 5.0)
        yield Visit(asked, hinted, entered, left, who)
        time.sleep(order.work / 2)


def _bare_acquire(store: Store, order: Order) -> tuple[Slot | None, float | None]:
    """The slot that was written, and when the store had hinted; no slot once the time is over."""
    backend, claim = store.hub.backend, bare_claim(store)
    hints: queue.SimpleQueue[tuple[float, Slot | None]] = queue.SimpleQueue()
    watch, hinted = None, None
    try:
        while time.monotonic() < order.until:
            outcome = backend.swap(absent(order.name), claim, 5.0)
            if isinstance(outcome, Applied):
                return outcome.slot, hinted
            assert isinstance(outcome, Conflict) and outcome.slot is not None, outcome
            if watch is None:
                watch = backend.watch(outcome.slot, lambda slot: hints.put((time.monotonic(), slot)))
            hinted = _hint_of_release(hints, order.until)
        return None, None
    finally:
        if watch is not None:
            watch.close()


def _hint_of_release(hints: queue.SimpleQueue[tuple[float, Slot | None]], until: float) -> float | None:
    try:
        while True:
            at, slot = hints.get(timeout=max(until - time.monotonic(), 0))
            if slot is None or slot.claim is None:
                return at
    except queue.Empty:
        return None


def bare_claim(store: Store) -> Claim:
    """A claim made by nobody, that no machine has to understand."""
    boot = store.hub.boot
    sent = None if boot is None else system_clock().hold
    return Claim("host:1", "0" * 32, "0" * 16, 15.0, boot=boot, sent=sent)
