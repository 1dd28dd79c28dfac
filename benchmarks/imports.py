"""What a program pays to import the library, against an interpreter that does nothing."""

from __future__ import annotations

import sys
import tempfile
from statistics import median

from _measure import interleaved, milli, quick, ratio, table, times
from _programs import program

NOTHING = "python -c pass"


def main() -> None:
    rounds = 2 if quick(__doc__) else 25
    with tempfile.TemporaryDirectory() as directory:
        rivals = {NOTHING: program([sys.executable, "-c", "pass"], directory)}
        for statement in ("import leases", "from leases import Lock", "import asyncio, logging"):
            rivals[statement] = program([sys.executable, "-c", statement], directory)
        found = interleaved(rivals, rounds=rounds, times=1)
    base, rows = found[NOTHING], list[list[str]]()
    for name, these in found.items():
        above = median(these.wall) - median(base.wall)
        walls, cpus = ratio(these.wall, base.wall), ratio(these.cpu, base.cpu)
        cells = (milli(median(these.wall)), milli(above), times(walls), milli(median(these.cpu)), times(cpus))
        rows.append([name, *cells])
    head = ("", "ms", "ms above", "by nothing", "CPU ms", "by nothing")
    table(f"importing: medians of {rounds} interleaved rounds", head, rows)


if __name__ == "__main__":
    main()
