"""A job that cron starts on every host, and that one host is to run: the others skip it.

`try_acquire` gives None for *held by another* alone; a store that cannot be reached raises, so that a job
that nobody runs is not taken for one that another runs.

A host whose clock is late finds the lock free again when the job was short, and runs it once more. Keep the
lock for longer than the clocks differ where that matters: `leases hold --at-least-for`, as in cron.sh.
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
        print("skipped: another host runs it")
        return
    with lease:
        write_report(lease)
    print("done")


if __name__ == "__main__":
    main()
