"""Many names on one store: locked rightly, and neither watches nor connections grow with the names."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab.clients import Remote
from lab.entries import entries, faults
from lab.places import Place, every_place

LONG = bool(os.environ.get("LEASES_LONG"))
NAMES, CONTENDERS = (100, 10) if LONG else (40, 4)

# As many for two names as for a hundred: one to watch by, and one each for what is under way.
MOST_CONNECTIONS = 20

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600 if LONG else 150)]


@pytest.mark.safety
@every_place
def test_many_names_with_many_contenders(place: Place, tmp_path: Path) -> None:
    """Each of them enters each name, never two at once, on as many connections as for one name."""
    names = [f"many/{number}" for number in range(NAMES)]
    with ExitStack() as stack:
        clients = [
            stack.enter_context(Remote(place.url, f"contender-{number}")) for number in range(CONTENDERS)
        ]
        for client in clients:
            client.hear()
        began = time.monotonic()
        for client in clients:
            client.order("contend", names=names, ttl=15.0, work=0.002, folder=str(tmp_path), turns=1)
        most = 0
        waiting = set(clients)
        while waiting:
            time.sleep(0.1)
            for client in list(waiting):
                client.order("sockets")
                told = client.hear(120.0)
                if "through" in told:
                    waiting.discard(client)
                    told = client.hear()
                most = max(most, told["sockets"])
        seconds = time.monotonic() - began
        closed = [client("close") for client in clients]
    found = entries(tmp_path)
    print(
        f"\n{place.name}: {len(found)} entries into {NAMES} locks by {CONTENDERS} processes "
        f"in {seconds:.1f} s, {most} connections of one process at most"
    )
    assert faults(found) == []
    assert {(entry.who, entry.name) for entry in found} == {(c.name, name) for c in clients for name in names}
    assert most <= MOST_CONNECTIONS
    assert closed == [{"left": [], "sockets": 0}] * CONTENDERS
