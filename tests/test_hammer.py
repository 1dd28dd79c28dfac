"""Many threads of several processes hammer one lock; something else than the library counts.

64 in each of 4 processes in one file, 5 in each of 3 on a server, which does no more for more of them.
`LEASES_HAMMER_SECONDS` shortens it, or makes it longer. Inside the lock each thread takes a `flock` that must
be free, and appends what it was given to a log; the order of the log is the order of entry.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from stores import Site, every_shared_store

SECONDS = os.environ.get("LEASES_HAMMER_SECONDS")

WORKER = """
import fcntl, json, os, sys, threading, time
from leases import Lock

url, guard, log = sys.argv[1:4]
seconds, threads = float(sys.argv[4]), int(sys.argv[5])
stop = threading.Event()

def work(number):
    lock = Lock("hammered", store=url)
    me = f"{os.getpid()}/{number}"
    asked = time.monotonic()
    while not stop.is_set():
        with lock as lease:
            waited = time.monotonic() - asked
            inside = os.open(guard, os.O_RDWR)  # A description of its own: flock also tells threads apart.
            fcntl.flock(inside, fcntl.LOCK_EX | fcntl.LOCK_NB)
            entry = {"me": me, "token": lease.token, "waited": waited}
            out = os.open(log, os.O_WRONLY | os.O_APPEND)
            os.write(out, (json.dumps(entry) + chr(10)).encode())
            os.close(out)
            os.close(inside)
        asked = time.monotonic()

crew = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
for thread in crew:
    thread.start()
time.sleep(seconds)
stop.set()
for thread in crew:
    thread.join()
"""


@pytest.mark.safety
@pytest.mark.slow
@pytest.mark.timeout(300)
@every_shared_store
def test_hammered_by_many_threads_of_many_processes(site: Site, tmp_path: Path) -> None:
    """Never two are inside, tokens rise in the order of entry, and nobody starves."""
    processes, threads, seconds = (3, 5, 4.0) if site.kind.served else (4, 64, 15.0)
    seconds = float(SECONDS) if SECONDS else seconds
    guard, log = tmp_path / "guard", tmp_path / "log"
    guard.touch()
    log.touch()
    arguments = [site.url, str(guard), str(log), str(seconds), str(threads)]
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, *arguments], stderr=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    errors = [worker.communicate(timeout=240)[1] for worker in workers]
    assert errors == [""] * processes, "somebody else was inside, or something went wrong"
    assert [worker.returncode for worker in workers] == [0] * processes

    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert all(a["token"] < b["token"] for a, b in pairwise(entries))
    turns: dict[str, int] = {}
    for entry in entries:
        turns[entry["me"]] = turns.get(entry["me"], 0) + 1
    longest = max(entry["waited"] for entry in entries)
    print(
        f"\n{len(entries)} entries in {seconds:g} s on {site.kind.name} by {len(turns)} threads; "
        f"turns of a thread: {min(turns.values())} to {max(turns.values())}; longest wait {longest:.2f} s"
    )
    assert len(turns) == processes * threads, "somebody never got in"
