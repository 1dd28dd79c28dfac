"""A transfer needs both accounts. Start it twice, the second time with ``back``: neither waits for ever.

    python examples/two_accounts.py & python examples/two_accounts.py back

Each takes the two locks in the order in which it thinks of them; they are acquired in one order all the same.
"""

from __future__ import annotations

import os
import sys
import time

from leases import MultiLock


def main(*words: str) -> None:
    accounts = ["account/berta", "account/anna"] if "back" in words else ["account/anna", "account/berta"]
    for transfer in range(1, 6):
        with MultiLock(*accounts, ttl=10, timeout=60) as lease:
            lease.check()  # raises LeaseLost if either is over
            time.sleep(0.02)
            tokens = [lease.of(account).token for account in accounts]
            print(f"{os.getpid()} transfer {transfer} from {accounts[0]}, tokens {tokens}", flush=True)
    print(f"{os.getpid()} is done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
