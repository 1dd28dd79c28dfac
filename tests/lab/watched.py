"""A process that is killed when its lease ends: ``python watched.py URL NAME WORK OPTIONS``.

It acquires a lock with ``on_lost="kill"``, tells what it holds, and then does a kind of work that no thread
of its own could end. OPTIONS is JSON for the lock; ``"guardian": true`` makes do without timers of the
kernel.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from leases import Lease, Lock, watchdog
from leases.events import Event, Renewed


def tell(**facts: object) -> None:
    """Say one thing."""
    os.write(1, json.dumps(facts).encode() + b"\n")


def told_to_go_on() -> bool:
    """Wait for an order; False when there will be none."""
    return bool(sys.stdin.readline())


def sleep() -> None:
    """Python runs, and does nothing."""
    time.sleep(600)


def gil() -> None:
    """C code that keeps the GIL: no other thread of Python runs."""
    ctypes.PyDLL(None).sleep(600)


def spin() -> None:
    """As much as one thread can do."""
    while True:
        pass


def main_ended() -> None:
    """The main thread has ended, and another goes on."""
    threading.Thread(target=time.sleep, args=(600,)).start()


def orders(lease: Lease) -> None:
    """Do as told until there are no more orders: for the end of the work, and for the ends of leases."""
    do: dict[str, Callable[[], object]] = {
        "release": lease.release,
        "look": lambda: None,
        "spin": lambda: threading.Thread(target=spin, daemon=True).start(),
        "fork": fork,
        "close files": lambda: os.closerange(3, 256),
    }
    while line := sys.stdin.readline():
        do[json.loads(line)["do"]]()
        tell(held=lease.held, deadline=lease.deadline)


def fork() -> None:
    """A child that outlives the lease's deadline, and says so."""
    if os.fork() == 0:
        time.sleep(1.5)
        tell(child="lives")
        os._exit(0)


WORKS: dict[str, Callable[[], None]] = {
    "sleep": sleep, "gil": gil, "spin": spin, "main-ended": main_ended,
}  # fmt: skip


async def loop(lock: Lock) -> None:
    """An event loop that is blocked."""
    async with lock as lease:
        tell(deadline=lease.deadline, pid=os.getpid())
        told_to_go_on()
        time.sleep(600)


def refused(self: object) -> None:
    """What happens where timer_create is not allowed."""
    raise OSError("timer_create: Function not implemented")


def main() -> None:
    url, name, work, given = sys.argv[1:]
    options: dict[str, Any] = json.loads(given)
    if options.pop("guardian", False):
        setattr(watchdog.KernelTimer, "__init__", refused)  # noqa: B010 - a method, to the type checkers
    lock = Lock(name, store=url, on_lost="kill", **options)
    if work == "loop":
        return asyncio.run(loop(lock))
    lease = lock.acquire()
    renewals: list[float] = []

    def hear(event: Event) -> None:
        if isinstance(event, Renewed):
            renewals.append(event.sent)

    lease.listen(hear)
    tell(deadline=lease.deadline, pid=os.getpid())
    if work == "orders":
        return orders(lease)
    told_to_go_on()
    return WORKS[work]()


if __name__ == "__main__":
    main()
