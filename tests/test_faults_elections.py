"""Elections among five processes that are killed, stopped, told to resign and to transfer, on every store.

From outside nobody sees two of them at work at once, whatever each of them believes. ``LEASES_LONG=1`` makes
it two hundred blows on each store.
"""

from __future__ import annotations

import os
import random
import statistics
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab.elections import Election
from lab.journals import stays
from leases import connect
from stores import Site, every_shared_store

BLOWS = int(os.environ.get("LEASES_BLOWS", "200" if os.environ.get("LEASES_LONG") else "20"))
ELECTIONS = 2  # at a time, each with its own processes
VOTERS = 5
TTL = 1.0


def held(election: Election, blows: int) -> None:
    """Hold an election through so many blows."""
    election.begin()
    for _ in range(blows):
        election.go_on()
    election.end()


@pytest.mark.safety
@pytest.mark.waits
@pytest.mark.timeout(1800 if os.environ.get("LEASES_LONG") else 180)
@every_shared_store
def test_nobody_leads_beside_another_whatever_befalls_them(site: Site, tmp_path: Path) -> None:
    """One is at work at a time, tokens rise, callbacks come in order, and somebody leads soon after each."""
    seed = os.environ.get("LEASES_SEED") or str(random.randrange(1 << 32))
    print(f"\nseed {seed}")
    elections: list[Election] = []
    try:
        for number in range(ELECTIONS):
            name = f"election-{number}"
            elections.append(
                Election(site.url, name, tmp_path, ttl=TTL, voters=VOTERS, seed=f"{seed}/{number}")
            )
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda election: held(election, BLOWS // ELECTIONS), elections))
    finally:
        for election in elections:
            election.close()
    report(site.kind.name, elections)
    assert [fault for election in elections for fault in election.faults()] == []
    with connect(site.url) as store:
        assert [store.status(election.name).held for election in elections] == [False] * ELECTIONS


def report(store: str, elections: list[Election]) -> None:
    """Print what happened, in figures."""
    took: defaultdict[str, list[float]] = defaultdict(list)
    for election in elections:
        for what, seconds in election.took.items():
            took[what] += seconds
    tenures = sum(len(stays(election.journal.news(), election.blows)) for election in elections)
    print(f"{store}: {tenures} tenures; seconds until the next was at work, median and longest:")
    for what, seconds in sorted(took.items()):
        print(f"  {what}: {len(seconds)} times, {statistics.median(seconds):.2f}, {max(seconds):.2f}")
