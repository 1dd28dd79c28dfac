"""A user of a semaphore in a process of its own: ``python pool.py URL SLOTS TTL FOLDER TURNS [hang]``.

Each turn inside is two lines in a common log, each of them one write: the first after the slot was acquired,
the second before it is released, so that whoever counts lines never counts too many inside. A lock of the
kernel's for each slot says whether anybody else is in it. With "hang" it stays inside for ever.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from pathlib import Path

from leases import Semaphore

WORK_SECONDS = 0.005


def main(url: str, slots: str, ttl: str, folder: str, turns: str, *words: str) -> None:
    """Take turns."""
    log = os.open(Path(folder, "log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    pool = Semaphore("pool", int(slots), store=url, ttl=float(ttl), holder=str(os.getpid()))

    def note(what: str, **facts: object) -> None:
        os.write(log, json.dumps({"what": what, "pid": os.getpid(), **facts}).encode() + b"\n")

    for _ in range(int(turns)):
        with pool as lease, open(Path(folder, f"slot-{lease.slot}"), "a") as guard:
            try:
                fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
                alone = True
            except BlockingIOError:
                alone = False
            note("in", slot=lease.slot, token=lease.token, alone=alone)
            time.sleep(3600 if "hang" in words else WORK_SECONDS)
            note("out", slot=lease.slot, held=lease.held)


if __name__ == "__main__":
    main(*sys.argv[1:])
