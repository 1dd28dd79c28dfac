"""APScheduler in every replica of a service, and its job in one of them. Start it twice, and kill one.

Schedulers of version 3 know nothing of one another, and a job store that they share does not keep a job
from running in each. Below the scheduler's own decorator `leader_only` does: everywhere else the job is
skipped.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from apscheduler.schedulers.blocking import BlockingScheduler

from leases import leader_only

TTL = float(os.environ.get("TTL", "15"))  # seconds after which another takes over from one that was killed

scheduler = BlockingScheduler()


@scheduler.scheduled_job("interval", seconds=0.25)
@leader_only("report", ttl=TTL)
def report() -> None:
    began = time.monotonic()
    time.sleep(0.05)
    print(f"{os.getpid()} reported from {began:.3f} to {time.monotonic():.3f}", flush=True)


def exit_orderly(number: int, frame: object) -> None:
    sys.exit()  # so that leadership is resigned at the exit; to die of the signal leaves no time for it


def main() -> None:
    signal.signal(signal.SIGTERM, exit_orderly)
    scheduler.start()


if __name__ == "__main__":
    main()
