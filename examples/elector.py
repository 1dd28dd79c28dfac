"""A service of which one replica works. Start it twice, then end the one that leads: `kill PID`.

SIGTERM lets the work stop, then releases, so that the other leads at once; `kill -9` costs the ttl.
"""

from __future__ import annotations

import itertools
import os

from leases import Elector, Leader, Lease, LeaseLost


def say(text: str) -> None:
    print(f"{os.getpid()} {text}", flush=True)


def new_leader(leader: Leader | None) -> None:
    say("sees no leader" if leader is None else f"sees {leader.holder} lead, token {leader.token}")


def lost(lease: Lease, loss: LeaseLost) -> None:
    say(f"leads no more: {loss.reason}")


def work(lease: Lease) -> None:
    for tick in itertools.count(1):
        say(f"tick {tick}, token {lease.token}")
        if lease.ending.wait(0.2):  # True when the work is to stop: asked to, or lost
            return


def main() -> None:
    elector = Elector("reports", ttl=2, on_new_leader=new_leader, on_lost=lost)
    with elector.stop_on():
        elector.run(work)
    say("has stopped")


if __name__ == "__main__":
    main()
