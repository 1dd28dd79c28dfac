"""What a cron job pays for a lock: `leases hold x -- true` on the embedded store, and what it cannot avoid.

The base is an interpreter that does nothing, as it is usually started and with all turned off that can be.
Then the parts of the standard library that any such program in Python loads: to read its words, to talk to
SQLite, to wait beside a thread. `flock` is no Python and knows no lease; it shows how little a lock can cost.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from statistics import median

from _measure import Times, Timing, interleaved, milli, quick, ratio, table, times
from _programs import environment, program

NOTHING = "python -c pass"
OURS = "leases hold x -- true"
NEEDED = "import argparse, json, select, signal, sqlite3, threading, typing"


def main() -> None:
    rounds = 2 if quick(__doc__) else 40
    with tempfile.TemporaryDirectory() as directory:
        leases = [shutil.which("leases", path=os.path.dirname(sys.executable)) or sys.executable]
        leases += ["-m", "leases"] if leases == [sys.executable] else []
        rivals, why = _rivals(leases, directory)
        found = interleaved(rivals, rounds=rounds, times=1)
        _show(found, rounds, why)
        _show_imports(directory, min(rounds, 10))


def _rivals(leases: list[str], directory: str) -> tuple[dict[str, Timing], list[str]]:
    """What takes turns, and why something does not."""
    rivals = {
        NOTHING: program([sys.executable, "-c", "pass"], directory),
        "python -I -S -c pass": program([sys.executable, "-I", "-S", "-c", "pass"], directory),
        "python -c 'import …'": program([sys.executable, "-c", NEEDED], directory),
        "leases --version": program([*leases, "--version"], directory),
        OURS: program([*leases, "hold", "x", "--", "true"], directory),
    }
    flock = shutil.which("flock")
    if flock is None:
        return rivals, ["flock left out: it is not on PATH."]
    rivals["flock x true"] = program([flock, os.path.join(directory, "x.lock"), "true"], directory)
    return rivals, []


def _show(found: Mapping[str, Times], rounds: int, why: list[str]) -> None:
    base, ours, rows = found[NOTHING], found[OURS], list[list[str]]()
    for name, these in found.items():
        walls, cpus = ratio(these.wall, base.wall), ratio(these.cpu, base.cpu)
        cells = [milli(median(these.wall)), times(walls), milli(median(these.cpu)), times(cpus)]
        rows.append([name, *cells, times(ratio(ours.wall, these.wall))])
    head = ("", "ms", "by nothing", "CPU ms", "by nothing", "ours by it")
    table(
        f"a command under a lock: medians of {rounds} interleaved rounds",
        head,
        rows,
        f"import … is: {NEEDED}",
        *why,
    )


def _show_imports(directory: str, runs: int) -> None:
    """Where the time before the lock goes: what each module takes itself, the least of so many runs."""
    least: dict[str, int] = {}
    words = [sys.executable, "-X", "importtime", "-m", "leases", "hold", "x", "--", "true"]
    for _ in range(runs):
        done = subprocess.run(words, env=environment(directory), capture_output=True, text=True, check=True)
        for own, name in re.findall(r"^import time: +(\d+) \| +\d+ \| +(\S+)$", done.stderr, re.MULTILINE):
            least[name] = min(least.get(name, int(own)), int(own))
    of_all: Counter[str] = Counter()
    for name, own in least.items():
        of_all["leases" if name.split(".")[0].startswith("leases") else "the standard library"] += own
    rows = [[f"all of {name}", milli(own / 1e6)] for name, own in of_all.most_common()]
    rows += [[name, milli(own / 1e6)] for name, own in Counter(least).most_common(12)]
    table(f"its imports: least of {runs} runs", ("", "ms"), rows)


if __name__ == "__main__":
    main()
