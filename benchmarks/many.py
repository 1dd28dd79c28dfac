"""What it costs one process to hold many leases: threads, CPU, memory, and whether renewals are in time.

Each case runs in a process of its own, so that the memory is its own. The base of a renewal is a bare swap of
one record in the same process. The worst `remaining` says how late a renewal ever was: with a ttl of 15 s
a lease is believed for 11.25 s and renewed after 5, so 6.25 s are left when everything is in time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable

from _contest import bare_claim
from _measure import micro, quick, table, times

from leases import Lease, Store, connect
from leases.contract import Applied

HEAD = (
    "", "acquire", "threads", "KiB each", "CPU share", "renewals/s", "CPU us each", "by bare", "worst left",
    "lost", "release",
)  # fmt: skip


def main() -> None:
    if sys.argv[1:2] == ["--case"]:
        return case(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5]))
    small = quick(__doc__)
    ttl, seconds, counts = (0.9, 0.6, (5, 20)) if small else (15.0, 11.0, (1000, 10_000))
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as directory:
        for url in (f"sqlite://{directory}/leases.db", "memory:"):
            for count in counts:
                command = [sys.executable, __file__, "--case", url, str(count), str(ttl), str(seconds)]
                rows.append(subprocess.check_output(command, text=True).rstrip("\n").split("\t"))
    table(
        f"many leases in one process, ttl {ttl:g} s, renewed every {ttl / 3:g} s, watched for {seconds:g} s",
        HEAD,
        rows,
        "acquire, release: ms each, one after the other. CPU us: for all that a renewal takes.",
    )


def case(url: str, count: int, ttl: float, seconds: float) -> None:
    """Hold so many leases for so long and print the row."""
    with connect(url) as store:
        with store.lock("warm up", ttl=ttl):
            time.sleep(ttl / 2)  # The keeper and a courier have started.
        base, before = bare_swap(store), resident()
        leases: list[Lease] = []
        acquire = clocked(
            lambda: leases.extend(store.lock(f"lease/{n}", ttl=ttl).acquire() for n in range(count))
        )
        each = (resident() - before) / count
        threads, cpu, renewals, worst = hold(store, leases, seconds)
        lost = sum(not lease.held for lease in leases)
        release = clocked(lambda: release_all(leases))
    one = cpu / max(renewals, 1)
    row: list[object] = [f"{store.traits.store} {count}", f"{acquire / count * 1e3:.2f}", threads]
    row += [f"{each / 1024:.1f}", f"{cpu / seconds:.1%}", f"{renewals / seconds:.0f}", micro(one)]
    row += [times(one / base), f"{worst:.2f} s", lost, f"{release / count * 1e3:.2f}"]
    print(*row, sep="\t")


def hold(store: Store, leases: list[Lease], seconds: float) -> tuple[int, float, int, float]:
    """Look on: threads at most, CPU seconds without those of looking, renewals, worst `remaining`."""
    until, threads, worst = time.monotonic() + seconds, 0, float("inf")
    first = number(store)
    cpu = time.process_time() - time.thread_time()
    while time.monotonic() < until:
        threads = max(threads, threading.active_count())
        worst = min(worst, min(lease.remaining for lease in leases))
        time.sleep(min(0.5, seconds / 10))
    cpu = time.process_time() - time.thread_time() - cpu
    return threads, cpu, number(store) - first, worst


def release_all(leases: list[Lease]) -> None:
    for lease in leases:
        lease.release()


def number(store: Store) -> int:
    """The store's number for its last write: the difference of two is how many there were."""
    order = store.hub.backend.read("number", 5.0).order
    assert order is not None, "both stores number their writes"
    return order


def bare_swap(store: Store, swaps: int = 300) -> float:
    """CPU seconds for one bare swap on a standing record."""
    backend, claim = store.hub.backend, bare_claim(store)
    outcome = backend.swap(backend.read("bare", 5.0), claim, 5.0)
    cpu = time.process_time()
    for _ in range(swaps):
        assert isinstance(outcome, Applied), outcome
        outcome = backend.swap(outcome.slot, claim, 5.0)
    return (time.process_time() - cpu) / swaps


def clocked(work: Callable[[], object]) -> float:
    """Wall seconds that it takes."""
    began = time.monotonic()
    work()
    return time.monotonic() - began


def resident() -> int:
    """Bytes of memory that this process has in use; 0 where the kernel does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


if __name__ == "__main__":
    main()
