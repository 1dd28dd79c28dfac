"""How long after one lets go the next one is in, and what waiting costs meanwhile.

Between processes the base is the store alone: a watch, and a swap at its hint. Between threads and tasks
of one process it is the plain lock of that colour and one swap by whoever enters, because such a hand-over
consists of these.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from statistics import median

from _contest import HandOver, Order, Processes, Visit, bare_claim, hand_overs, lock_visits, wait_in_vain
from _measure import milli, quantile, quick, table, times

from leases import AcquireTimeout, Lock, Store, connect
from leases.contract import Applied

HEAD = ("", "waiters", "ms, median", "ms, 9 of 10", "by bare", "hand-overs")
Rounds = dict[str, list[list[HandOver]]]


def main() -> None:
    small = quick(__doc__)
    with tempfile.TemporaryDirectory() as directory:
        url = f"sqlite://{directory}/leases.db"
        between, idle = between_processes(url, small)
        within = [row for kind in (url, "memory:") for row in inside_one_process(kind, small)]
        idle += idle_inside(url, small)
    table(
        "hand-over on sqlite between processes, from the start of the release to the entry",
        HEAD,
        between,
        "hint: the store alone, until the next one hears of the release.",
        "bare: the store alone, a watch, and a swap at its hint.",
    )
    table(
        "hand-over inside one process",
        HEAD,
        within,
        "bare: threading.Lock or asyncio.Lock, and one swap by whoever enters.",
        "Every 50 ms at most the lock is offered to other processes, which the slowest hand-overs show.",
    )
    table(
        "waiters for a lock that another holds and renews",
        ("", "waiters", "CPU us for a waiter and second"),
        idle,
    )


# ---- between processes ---------------------------------------------------------------------------


def between_processes(url: str, small: bool) -> tuple[list[list[str]], list[list[str]]]:
    """The rows of hand-overs, and those of idle waiters."""
    rows: list[list[str]] = []
    idle: list[list[str]] = []
    for waiters, work in ((1, 0.03), (2, 0.03)) if small else ((1, 0.03), (50, 0.2)):
        processes = Processes(url, waiters + 1)
        try:
            found: Rounds = {"bare": [], "lock": []}
            for number in range(1 if small else 3):
                for kind in found:
                    seconds = 0.3 if small else 10 * work + 1
                    found[kind].append(processes.compete(kind, f"{kind}-{number}", seconds, work))
            used = processes.idle("idle", *((0.2, 0.2) if small else (5.0, 2.0)))
        finally:
            processes.close()
        hints = [[over._replace(entry=over.hint) for over in group if over.hint] for group in found["bare"]]
        rows += hand_over_rows("sqlite, processes", waiters, {"hint": hints, **found})
        idle.append(["sqlite, processes", str(waiters), f"{used * 1e6:.0f}"])
    return rows, idle


def hand_over_rows(what: str, waiters: int, found: Rounds) -> list[list[str]]:
    """One row for each kind, compared with the bare one round by round."""
    rows: list[list[str]] = []
    for kind, groups in found.items():
        entries = [over.entry for group in groups for over in group]
        ratios = [
            median(over.entry for over in these) / median(over.entry for over in those)
            for these, those in zip(groups, found["bare"], strict=True)
            if these and those
        ]
        if entries and ratios:
            shown = (milli(median(entries)), milli(quantile(entries, 0.9)), times(median(ratios)))
            rows.append([f"{what}: {kind}", str(waiters), *shown, str(len(entries))])
    return rows


# ---- inside one process --------------------------------------------------------------------------


def inside_one_process(url: str, small: bool) -> list[list[str]]:
    """The rows for threads and tasks."""
    rows: list[list[str]] = []
    rounds, seconds = (1, 0.1) if small else (3, 0.4)
    with connect(url) as store:
        for colour, compete in (("threads", by_threads), ("tasks", by_tasks)):
            for waiters in (1, 5) if small else (1, 50):
                found: Rounds = {"bare": [], "lock": []}
                for number in range(rounds):
                    for kind in found:
                        order = Order(kind, f"{kind}-{number}", time.monotonic() + seconds, 0.002)
                        found[kind].append(hand_overs(compete(store, order, waiters + 1)))
                rows += hand_over_rows(f"{store.traits.store}, {colour}", waiters, found)
    return rows


def by_threads(store: Store, order: Order, count: int) -> list[Visit]:
    """Have threads compete, each by a `Lock` object of its own."""
    visits: list[Visit] = []
    plain, enter = threading.Lock(), one_swap(store, order.name)

    def contend(who: int) -> None:
        if order.kind == "lock":
            return visits.extend(lock_visits(Lock(order.name, store=store), order, who))
        while (asked := time.monotonic()) < order.until:
            with plain:
                enter()
                entered = time.monotonic()
                time.sleep(order.work)
                left = time.monotonic()
            visits.append(Visit(asked, None, entered, left, who))
            time.sleep(order.work / 2)

    threads = [threading.Thread(target=contend, args=(who,)) for who in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return visits


def by_tasks(store: Store, order: Order, count: int) -> list[Visit]:
    """Have tasks of one loop compete, each by a `Lock` object of its own."""
    return asyncio.run(_by_tasks(store, order, count))


async def _by_tasks(store: Store, order: Order, count: int) -> list[Visit]:
    visits: list[Visit] = []
    plain, swap = asyncio.Lock(), one_swap(store, order.name)

    async def enter_plain() -> Callable[[], Awaitable[None]]:
        await plain.acquire()
        await asyncio.to_thread(swap)

        async def leave() -> None:
            plain.release()

        return leave

    async def enter_lock() -> Callable[[], Awaitable[None]]:
        lock = Lock(order.name, store=store)
        return (await lock.acquire_async(timeout=order.until - time.monotonic())).release_async

    async def contend(who: int) -> None:
        while (asked := time.monotonic()) < order.until:
            try:
                leave = await (enter_lock() if order.kind == "lock" else enter_plain())
            except (AcquireTimeout, ValueError):
                return
            entered = time.monotonic()
            await asyncio.sleep(order.work)
            left = time.monotonic()
            await leave()
            visits.append(Visit(asked, None, entered, left, who))
            await asyncio.sleep(order.work / 2)

    await asyncio.gather(*(contend(who) for who in range(count)))
    return visits


def one_swap(store: Store, name: str) -> Callable[[], None]:
    """Write the record once more: what whoever enters has to do in the store."""
    backend, claim = store.hub.backend, bare_claim(store)
    slot = backend.read(name, 5.0)

    def swap() -> None:
        nonlocal slot
        outcome = backend.swap(slot, claim, 5.0)
        assert isinstance(outcome, Applied), outcome
        slot = outcome.slot

    return swap


def idle_inside(url: str, small: bool) -> list[list[str]]:
    """The rows of threads and tasks that wait in one process for a lock that is held elsewhere."""
    waiters, settle, seconds = (3, 0.1, 0.2) if small else (50, 1.0, 5.0)
    # Another spelling of the URL is another connection, which this process does not queue behind.
    elsewhere = url.replace("sqlite:///", "sqlite:////", 1)
    rows: list[list[str]] = []
    with connect(url) as store, connect(elsewhere) as other, other.lock("idle"):
        for colour, idle in (("threads", idle_threads), ("tasks", idle_tasks)):
            used = idle(store.lock("idle"), waiters, settle, seconds)
            rows.append([f"sqlite, {colour} of one process", str(waiters), f"{used * 1e6:.0f}"])
    return rows


def idle_threads(lock: Lock, waiters: int, settle: float, seconds: float) -> float:
    """CPU seconds for each waiting thread and second."""

    threads = [
        threading.Thread(target=wait_in_vain, args=(lock, 2 * settle + seconds)) for _ in range(waiters)
    ]
    for thread in threads:
        thread.start()
    time.sleep(settle)
    cpu = time.process_time()
    time.sleep(seconds)
    cpu = time.process_time() - cpu
    for thread in threads:
        thread.join()
    return cpu / seconds / waiters


def idle_tasks(lock: Lock, waiters: int, settle: float, seconds: float) -> float:
    """CPU seconds for each waiting task and second."""

    async def wait() -> None:
        try:
            await lock.acquire_async(timeout=2 * settle + seconds)
        except AcquireTimeout:
            return
        raise AssertionError(f"{lock} was to be held all the time")

    async def measure() -> float:
        tasks = [asyncio.create_task(wait()) for _ in range(waiters)]
        await asyncio.sleep(settle)
        cpu = time.process_time()
        await asyncio.sleep(seconds)
        cpu = time.process_time() - cpu
        await asyncio.gather(*tasks)
        return cpu / seconds / waiters

    return asyncio.run(measure())


if __name__ == "__main__":
    main()
