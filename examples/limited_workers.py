"""At most two of a fleet download at a time. Start it in three terminals: one waits until another is done."""

from __future__ import annotations

import os
import time

from leases import Semaphore


def main() -> None:
    print(f"{os.getpid()} waits for a slot", flush=True)
    with Semaphore("downloads", 2, ttl=10) as lease:
        # The number of the slot is nobody else's meanwhile: it can choose a port, a GPU, an account.
        print(f"{os.getpid()} has slot {lease.slot}, token {lease.token}", flush=True)
        for part in range(1, 4):
            lease.check()
            time.sleep(0.1)
            print(f"{os.getpid()} got part {part}", flush=True)
    print(f"{os.getpid()} is done", flush=True)


if __name__ == "__main__":
    main()
