"""What a program pays to start: the import, and a cron job's command under a lock.

The base is an interpreter that does nothing. `flock` is no Python and knows no lease; it shows how much a
command under a lock can cost at least.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from statistics import median

from _measure import Timing, interleaved, milli, quick, ratio, table, times

NOTHING = "python -c pass"


def main() -> None:
    rounds = 2 if quick(__doc__) else 25
    with tempfile.TemporaryDirectory() as directory:
        rivals = {NOTHING: program([sys.executable, "-c", "pass"], directory)}
        for statement in ("import leases", "from leases import Lock", "import asyncio, logging"):
            rivals[statement] = program([sys.executable, "-c", statement], directory)
        held, why = commands(directory)
        found = interleaved(rivals | held, rounds=rounds, times=1)
    base, rows = found[NOTHING], list[list[str]]()
    for name, these in found.items():
        above = median(these.wall) - median(base.wall)
        walls, cpus = ratio(these.wall, base.wall), ratio(these.cpu, base.cpu)
        cells = (milli(median(these.wall)), milli(above), times(walls), milli(median(these.cpu)), times(cpus))
        rows.append([name, *cells])
    head = ("", "ms", "ms above", "by nothing", "CPU ms", "by nothing")
    table(f"starting: medians of {rounds} interleaved rounds", head, rows, *why)


def commands(directory: str) -> tuple[dict[str, Timing], list[str]]:
    """A command under a lock, by us and by flock, or why one is left out."""
    found: dict[str, Timing] = {}
    why: list[str] = []
    if find_spec("leases.cli") is None:
        why.append("leases hold left out: this version has no command line.")
    else:
        script = shutil.which("leases", path=os.path.dirname(sys.executable))
        ours = [sys.executable, "-m", "leases"] if script is None else [script]
        found["leases hold x -- true"] = program([*ours, "hold", "x", "--", "true"], directory)
    flock = shutil.which("flock")
    if flock is None:
        why.append("flock left out: it is not on PATH.")
    else:
        found["flock x true"] = program([flock, os.path.join(directory, "x.lock"), "true"], directory)
    return found, why


def program(command: Sequence[str], directory: str) -> Timing:
    """Time whole runs of a program, by the store in a directory: wall, and the CPU of it and its children."""
    environment = os.environ | {"LEASES_URL": f"sqlite://{directory}/leases.db"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # Who installs a package has it compiled once.

    def timing(runs: int) -> tuple[float, float]:
        cpu, wall = children(), time.perf_counter()
        for _ in range(runs):
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        return (time.perf_counter() - wall) / runs, (children() - cpu) / runs

    return timing


def children() -> float:
    """CPU seconds of all programs that were run here and have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


if __name__ == "__main__":
    main()
