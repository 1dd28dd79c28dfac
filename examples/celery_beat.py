"""Celery beat in every replica, of which one sends what is due. Start it twice, and kill one.

    celery --workdir examples --app celery_beat beat --scheduler celery_beat:LeaderScheduler

Two beats would send every task twice; a single one is missed when its host dies. Here each of them goes
through the schedule, so that all know when each task was due last, and the one that leads sends. What falls
due between the death of that one and the end of its ttl is not sent; and where clocks of hosts differ, a
task that falls due just as leadership passes on may be sent twice, or not. The broker of this example is in
memory; set ``CELERY_BROKER_URL`` for another.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from celery import Celery
from celery.beat import Scheduler

from leases import LeaseLost, leader_only

TTL = float(os.environ.get("TTL", "15"))  # seconds after which another takes over from one that was killed

app = Celery("recipe", broker=os.environ.get("CELERY_BROKER_URL", "memory://"))
app.conf.worker_redirect_stdouts = False  # so that what is printed here is not taken for a warning
app.conf.beat_schedule = {"tidy up": {"task": "jobs.tidy_up", "schedule": 0.25}}  # a task that workers know


class LeaderScheduler(Scheduler):
    """Sends where this process leads; goes through the schedule everywhere."""

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        try:
            self._send(entry, producer)
        except LeaseLost as loss:  # Not to end the beat: it was sent, and another may have sent it, too.
            logging.warning("%s: %s", entry.task, loss)

    @leader_only("celery-beat", ttl=TTL)
    def _send(self, entry: Any, producer: Any) -> None:
        began = time.monotonic()
        super().apply_entry(entry, producer)
        print(f"{os.getpid()} sent {entry.task} from {began:.3f} to {time.monotonic():.3f}", flush=True)


def main() -> None:
    app.start(["beat", "--scheduler", f"{__name__}:LeaderScheduler"])


if __name__ == "__main__":
    main()
