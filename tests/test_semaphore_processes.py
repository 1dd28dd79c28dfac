"""A semaphore among real processes, seen from outside: by a log, and by locks of the kernel's."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from leases import Semaphore
from stubborn import until

PATIENCE = 60.0
PROGRAM = Path(__file__).with_name("lab") / "pool.py"


@contextmanager
def users(count: int, *words: object) -> Generator[list[subprocess.Popen[bytes]]]:
    """So many processes that take turns."""
    crew = [subprocess.Popen([sys.executable, PROGRAM, *map(str, words)]) for _ in range(count)]
    try:
        yield crew
    finally:
        for process in crew:
            process.kill()
            process.wait()


def log(folder: Path) -> list[dict[str, Any]]:
    """What was written so far."""
    file = folder / "log"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def most_inside(found: list[dict[str, Any]]) -> int:
    """How many were inside at once, at most; nobody is in a slot in which there is anybody."""
    inside, most = set[int](), 0
    tokens: defaultdict[int, int] = defaultdict(int)
    for entry in found:
        slot = entry["slot"]
        if entry["what"] == "in":
            assert entry["alone"] and slot not in inside, entry
            assert entry["token"] > tokens[slot], entry
            tokens[slot] = entry["token"]
            inside.add(slot)
            most = max(most, len(inside))
        else:
            assert entry["held"], entry
            inside.remove(slot)
    return most


@pytest.mark.parametrize("slots", [1, 3])
def test_never_more_inside_than_there_are_slots(slots: int, tmp_path: Path) -> None:
    """Six processes take twenty turns each on one file; the slots are all in use, and none by two."""
    with users(6, f"sqlite://{tmp_path}/leases.db", slots, 10, tmp_path, 20) as crew:
        for process in crew:
            assert process.wait(PATIENCE) == 0
    found = log(tmp_path)
    assert most_inside(found) == slots and len(found) == 2 * 6 * 20


def test_the_slot_of_a_killed_process_is_free_after_its_ttl(tmp_path: Path) -> None:
    """Two processes are killed in both slots; two others have one each, after the ttl and not before."""
    url, ttl = f"sqlite://{tmp_path}/leases.db", 1.0
    with users(2, url, 2, ttl, tmp_path, 1, "hang") as crew:
        until(lambda: len(log(tmp_path)) == 2, PATIENCE)
        assert most_inside(log(tmp_path)) == 2
        killed = time.monotonic()
        for process in crew:
            process.kill()
        pool = Semaphore("pool", 2, store=url, ttl=ttl, timeout=PATIENCE)
        waited = pool.try_acquire() is None
        leases = [pool.acquire(), pool.acquire()]
    # The last renewal, from which a record of this host is timed, was less than half of a ttl before.
    assert waited and time.monotonic() - killed >= 0.5 * ttl
    assert {lease.slot for lease in leases} == {0, 1}
    for lease in leases:
        lease.release()
