"""How a lease ends when the store stands still: jeopardy first, then the loss, told without the store.

It has a store of its own, a file, and stops it as a full disk or a hung server would: by a write
transaction that does not end.
"""

from __future__ import annotations

import sqlite3
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

from leases import Lease, LeaseLost, connect

heard = threading.Event()


def told(lease: Lease, loss: LeaseLost) -> None:
    """Called once, from a thread of its own, at the deadline."""
    print(f"on_lost: {loss}", flush=True)
    heard.set()


def watch(lease: Lease, blocker: sqlite3.Connection) -> None:
    print(f"held, another {lease.remaining:.1f} s if nothing is heard of the store any more", flush=True)
    blocker.execute("BEGIN EXCLUSIVE")
    print("now the store stands still", flush=True)

    while not lease.jeopardy:
        lease.check()
        time.sleep(0.01)
    print(f"jeopardy: a renewal is overdue; {lease.remaining:.1f} s left, begin nothing new", flush=True)

    lease.lost.wait()  # it wakes by itself at the deadline; in asyncio: await lease.lost
    heard.wait()  # only so that two threads do not print at once
    print(f"lost: {lease.lost.reason}, held is {lease.held}", flush=True)
    lease.check()  # raises LeaseLost, as does the end of the body


def opened(file: Path) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(file, isolation_level=None))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "leases.db"
        with connect(f"sqlite:{file}") as store:
            try:
                with store.lock("import", ttl=3, on_lost=told) as lease, opened(file) as blocker:
                    watch(lease, blocker)
            except LeaseLost as loss:
                print(f"the work has stopped: token {loss.token} is worth nothing any more", flush=True)


if __name__ == "__main__":
    main()
