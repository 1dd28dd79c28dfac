"""A service that runs more than once while one of them does the work. Start it twice, and kill one.

When the worker dies, another takes over after at most the ttl; when it loses its lease, it stops by itself
before that, and stands by again.
"""

from __future__ import annotations

import itertools
import os
import time

from leases import Lease, LeaseLost, Lock


def work(lease: Lease) -> None:
    for tick in itertools.count(1):
        lease.check()
        print(f"{os.getpid()} tick {tick}, token {lease.token}", flush=True)
        time.sleep(0.1)


def main() -> None:
    lock = Lock("scheduler", ttl=2)
    while True:
        print(f"{os.getpid()} stands by", flush=True)
        try:
            with lock as lease:
                work(lease)
        except LeaseLost as loss:
            print(f"{os.getpid()} {loss}", flush=True)


if __name__ == "__main__":
    main()
