"""How the benchmarks measure: rivals take turns in one run, and what counts is the median of the ratios.

A figure in microseconds says as much about the machine, and about who else was busy on it, as about the code.
Rounds that follow one another within milliseconds share all that, so each round is divided by the round of
the same turn that it is compared with. CPU time stands beside: it is what a busy neighbour disturbs least.
"""

from __future__ import annotations

import argparse
import gc
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median


@dataclass
class Times:
    """What one rival took in every round: seconds for one operation."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def note(self, wall: float, cpu: float) -> None:
        """One round more."""
        self.wall.append(wall)
        self.cpu.append(cpu)


Timing = Callable[[int], tuple[float, float]]


def timed(work: Callable[[int], object]) -> Timing:
    """Time a function that does an operation so many times: wall and this process's CPU seconds for one."""

    def timing(times: int) -> tuple[float, float]:
        cpu, wall = time.process_time(), time.perf_counter()
        work(times)
        return (time.perf_counter() - wall) / times, (time.process_time() - cpu) / times

    return timing


def interleaved(rivals: Mapping[str, Timing], *, rounds: int, times: int) -> dict[str, Times]:
    """Let each rival do `times` operations in each round, in another order every time."""
    found = {name: Times() for name in rivals}
    order = list(rivals)
    dice = random.Random(1)  # a fixed seed: two runs differ by the machine alone
    for timing in rivals.values():  # Opens connections and files, fills caches, starts threads.
        timing(max(times // 10, 1))
    gc.collect()
    for _ in range(rounds):
        dice.shuffle(order)
        for name in order:
            found[name].note(*rivals[name](times))
    return found


def ratio(these: Sequence[float], those: Sequence[float]) -> float:
    """The median over the rounds of this one's time by that one's in the same round."""
    return median(this / that for this, that in zip(these, those, strict=True))


def quantile(values: Sequence[float], part: float) -> float:
    """The value that so great a part of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)]


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], *notes: str) -> None:
    """Print a table, its first column to the left and the others to the right, and notes below it."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    print(f"\n{title}")
    for row in [head, *rows]:
        first, *others = (f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        print("  " + "  ".join([f"{row[0]:<{len(first)}}", *others]))
    for note in notes:
        print(f"  {note}")
    print(flush=True)


def micro(seconds: float) -> str:
    """Microseconds."""
    return f"{seconds * 1e6:.1f}"


def milli(seconds: float) -> str:
    """Milliseconds."""
    return f"{seconds * 1e3:.2f}"


def times(factor: float | None) -> str:
    """A ratio, or that there is none."""
    return "-" if factor is None else f"{factor:.2f} x"


def quick(description: str | None) -> bool:
    """Read the command line: whether to run in a tiny size, which only shows that it still runs."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tiny size, whose figures mean nothing")
    chosen: bool = parser.parse_args().quick
    return chosen
