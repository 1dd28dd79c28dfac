"""Timing whole programs, as a shell runs them: from the fork to the end."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Sequence

from _measure import Timing


def program(command: Sequence[str], directory: str) -> Timing:
    """Time whole runs of a program, by the store in a directory: wall, and the CPU of it and its children."""

    def timing(runs: int) -> tuple[float, float]:
        cpu, wall = children(), time.perf_counter()
        for _ in range(runs):
            subprocess.run(command, env=environment(directory), check=True, stdout=subprocess.DEVNULL)
        return (time.perf_counter() - wall) / runs, (children() - cpu) / runs

    return timing


def environment(directory: str) -> dict[str, str]:
    """Of a program that has its store in a directory."""
    found = os.environ | {"LEASES_URL": f"sqlite://{directory}/leases.db"}
    found.pop("PYTHONDONTWRITEBYTECODE", None)  # Who installs a package has it compiled once.
    return found


def children() -> float:
    """CPU seconds of all programs that were run here and have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime
