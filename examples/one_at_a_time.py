"""Work that must not run twice at once. Start it in two terminals: the second waits for the first.

The store is $LEASES_URL, or else a file in this user's state directory.
"""

from __future__ import annotations

import os
import time

from leases import Lock


def main() -> None:
    print(f"{os.getpid()} waits for the lock", flush=True)
    with Lock("rebuild-index", ttl=10) as lease:
        print(f"{os.getpid()} has it, token {lease.token}", flush=True)
        for step in range(1, 4):
            lease.check()  # before every step that must not happen twice: raises LeaseLost if it is over
            time.sleep(0.1)
            print(f"{os.getpid()} step {step}", flush=True)
    # Had the lease been lost on the way, the end of the body would have raised LeaseLost.
    print(f"{os.getpid()} is done", flush=True)


if __name__ == "__main__":
    main()
