"""What a lock costs on the real stores, beside what the store's own client needs for the same.

The base of acquire and release is a bare pair: one conditional write that takes a key and one that frees
it. The base of a hand-over is a bare one: the store's event that the key is free, and a conditional write.
Each is measured in the same run and on the same server, on loopback. A store whose server is not here is
left out, and the reason is said.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from _bare import Bare, open_bare
from _contest import HandOver, Order, Visit, hand_overs, lock_visits
from _measure import Timing, interleaved, micro, milli, quantile, quick, ratio, table, timed, times

from leases import Lease, Store, connect
from leases.hub import Hub
from leases.registry import open_backend

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from servers.get import Missing

STORES = ("etcd", "zookeeper", "consul", "kubernetes")
AGES = {"young": 0.02, "old": 1.0}  # seconds of work; who waits next has asked half as long before its end


def main() -> None:
    small = quick(__doc__)
    for name in filter(None, os.environ.get("LEASES_STORES", ",".join(STORES)).split(",")):
        try:
            server = start(name)
        except Missing as missing:
            print(f"\n{name} left out: {missing}", flush=True)
            continue
        with server:
            uncontended(name, server.url, small)
            handed_over(name, server.url, small)
            crowded(name, server.url, small)


def start(name: str) -> Any:
    """A server of our own."""
    launcher = import_module(f"servers.{name}")
    return launcher.start(Path(tempfile.mkdtemp(prefix=f"leases-{name}-")))


# ---- nobody else wants it ------------------------------------------------------------------------


def uncontended(name: str, url: str, small: bool) -> None:
    """Acquire and release, and renewals, by one thread."""
    rounds, pairs = (2, 3) if small else (15, 40)
    with connect(url) as store, contextlib.closing(open_bare(url)) as bare:
        lease = store.lock("renewed", ttl=600.0).acquire()
        rivals: dict[str, Timing] = {
            "bare pair": timed(lambda n: bare_pairs(bare, n)),
            "acquire, release": timed(lambda n: pairs_of(store, n)),
            "bare write": timed(bare_writes(bare)),
            "renewal": timed(lambda n: renewals(lease, n)),
        }
        found = interleaved(rivals, rounds=rounds, times=pairs)
        lease.release()
    rows: list[list[str]] = []
    for these, base in (
        ("bare pair", "bare pair"),
        ("acquire, release", "bare pair"),
        ("bare write", "bare write"),
        ("renewal", "bare write"),
    ):
        mine, those = found[these], found[base]
        rows.append([
            f"{name}: {these}", micro(median(mine.wall)), times(ratio(mine.wall, those.wall)),
            micro(median(mine.cpu)), times(ratio(mine.cpu, those.cpu)),
        ])  # fmt: skip
    table(
        f"{name}, uncontended; medians of {rounds} interleaved rounds of {pairs}",
        ("", "us", "by bare", "CPU us", "by bare"),
        rows,
    )


def bare_pairs(bare: Bare, pairs: int) -> None:
    _, version = bare.look("pairs")
    for _ in range(pairs):
        version = bare.free("pairs", bare.write("pairs", version))


def bare_writes(bare: Bare) -> Any:
    version = bare.write("writes", bare.look("writes")[1])

    def work(writes: int) -> None:
        nonlocal version
        for _ in range(writes):
            version = bare.write("writes", version)

    return work


def pairs_of(store: Store, pairs: int) -> None:
    lock = store.lock("pairs", ttl=60.0)
    for _ in range(pairs):
        with lock:
            pass


def renewals(lease: Lease, count: int) -> None:
    for number in range(count):
        lease.update({"number": str(number)})


# ---- from one to the next ------------------------------------------------------------------------


def handed_over(name: str, url: str, small: bool) -> None:
    """From the start of a release to the entry of the next, in another process, young or old."""
    rows: list[list[str]] = []
    with crew(url, 2, 1) as ends:
        for age, work in (("young", 0.02),) if small else AGES.items():
            found: dict[str, list[list[HandOver]]] = {"bare": [], "lock": []}
            for number in range(1 if small else 3):
                for kind in found:
                    order = Order(kind, f"{age}-{kind}-{number}", time.monotonic() + 0.4 + 6 * work, work)
                    found[kind].append(hand_overs([visit for part in ask(ends, order) for visit in part]))
            rows += hand_over_rows(f"{name}, {age}", found)
    table(
        f"{name}, hand-over between processes, from the start of the release to the entry",
        ("", "ms, median", "ms, 9 of 10", "by bare", "hand-overs"),
        rows,
        "hint: the bare client, until the next one hears of the release. bare: its event and its write.",
        f"young: it has waited for {AGES['young'] / 2 * 1e3:.0f} ms; old: for {AGES['old'] / 2:.2f} s.",
    )


def hand_over_rows(what: str, found: dict[str, list[list[HandOver]]]) -> Iterator[list[str]]:
    """One row for each kind, compared with the bare one round by round."""
    hints = [[over._replace(entry=over.hint) for over in group if over.hint] for group in found["bare"]]
    for kind, groups in {"hint": hints, **found}.items():
        entries = [over.entry for group in groups for over in group]
        ratios = [
            median(over.entry for over in these) / median(over.entry for over in those)
            for these, those in zip(groups, found["bare"], strict=True)
            if these and those
        ]
        if ratios:
            shown = (milli(median(entries)), milli(quantile(entries, 0.9)), times(median(ratios)))
            yield [f"{what}: {kind}", *shown, str(len(entries))]


def crowded(name: str, url: str, small: bool) -> None:
    """Many who want it at once, each a few times: how long until all are through."""
    processes, each, turns = (2, 2, 2) if small else (5, 10, 4)
    took: dict[str, list[float]] = {"bare": [], "lock": []}
    with crew(url, processes, each) as ends:
        for number in range(1 if small else 2):
            for kind, seconds in took.items():
                order = Order(f"{kind} crowd", f"crowd-{kind}-{number}", time.monotonic() + 120.0, turns)
                began = time.monotonic()
                ask(ends, order)
                seconds.append(time.monotonic() - began)
    count = processes * each
    table(
        f"{name}, {count} contenders in {processes} processes, {count * turns} acquisitions in all",
        ("", "s, median", "by bare"),
        [
            [f"{name}, crowd: {kind}", f"{median(seconds):.2f}", times(ratio(seconds, took["bare"]))]
            for kind, seconds in took.items()
        ],
    )


# ---- the processes -------------------------------------------------------------------------------


@contextlib.contextmanager
def crew(url: str, processes: int, contenders: int) -> Generator[list[Connection], None, None]:
    """Processes with so many contenders each, every one with a client of its own."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(processes)]
    made = [
        context.Process(target=contend, args=(url, number, contenders, theirs), daemon=True)
        for number, (_, theirs) in enumerate(pipes)
    ]
    ends = [mine for mine, _ in pipes]
    for process, (_, theirs) in zip(made, pipes, strict=True):
        process.start()
        theirs.close()  # So that one that dies is an error here, and no answer to wait for.
    try:
        for end in ends:
            end.recv()  # It is up.
        yield ends
        for end in ends:
            end.send(None)
        for process in made:
            process.join()
    finally:
        for process in made:
            process.kill()


def ask(ends: list[Connection], order: Order) -> list[Any]:
    """Give all of them an order, and hear from all of them."""
    for end in ends:
        end.send(order)
    return [end.recv() for end in ends]


def contend(url: str, who: int, contenders: int, orders: Connection) -> None:
    """What such a process does."""
    with contextlib.ExitStack() as stack:
        bares = [stack.enter_context(contextlib.closing(open_bare(url))) for _ in range(contenders)]
        stores = [stack.enter_context(Store(Hub(open_backend(url)))) for _ in range(contenders)]
        for store in stores:
            store.status("up")
        orders.send(None)
        while (order := orders.recv()) is not None:
            match order.kind:
                case "lock":
                    orders.send(list(lock_visits(stores[0].lock(order.name), order, who)))
                case "bare":
                    orders.send(list(bare_visits(bares[0], order, who)))
                case "lock crowd":
                    together([partial(lock_turns, store, order) for store in stores])
                    orders.send(None)
                case _:
                    together([partial(bare_turns, bare, order) for bare in bares])
                    orders.send(None)


def together(works: list[Callable[[], None]]) -> None:
    """Do these at once, each in a thread."""
    with ThreadPoolExecutor(len(works)) as pool:
        for task in [pool.submit(work) for work in works]:
            task.result()


def lock_turns(store: Store, order: Order) -> None:
    for _ in range(int(order.work)):
        store.lock(order.name, timeout=order.until - time.monotonic()).acquire().release()


def bare_turns(bare: Bare, order: Order) -> None:
    for _ in range(int(order.work)):
        found = bare.enter(order.name, order.until)
        assert found is not None, f"{order} took too long"
        bare.free(order.name, found[0])


def bare_visits(bare: Bare, order: Order, who: object) -> Iterator[Visit]:
    """Compete by the bare client, as `lock_visits` does by a lock."""
    while (asked := time.monotonic()) < order.until:
        found = bare.enter(order.name, order.until)
        if found is None:
            return
        version, told = found
        entered = time.monotonic()
        time.sleep(order.work)
        left = time.monotonic()
        bare.free(order.name, version)
        yield Visit(asked, told, entered, left, who)
        time.sleep(order.work / 2)


if __name__ == "__main__":
    main()
