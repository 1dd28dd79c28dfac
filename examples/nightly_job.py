"""A job that is started twice and is to run once: who comes second skips it.

`try_acquire` gives None for *held by another* alone; a store that cannot be reached raises, so that a job
that nobody runs is not taken for one that another runs.

The lock keeps apart those who are there at the same time. Who comes when the job is over finds it free, and
has to look at what was done.
"""

from __future__ import annotations

import time

from leases import Lease, Lock


def write_report(lease: Lease) -> None:
    for part in "orders", "payments", "stock":
        lease.check()
        time.sleep(0.1)
        print(f"wrote {part}", flush=True)


def main() -> None:
    lease = Lock("nightly-report", ttl=30).try_acquire()
    if lease is None:
        print("skipped: another runs it")
        return
    with lease:
        write_report(lease)
    print("done")


if __name__ == "__main__":
    main()
