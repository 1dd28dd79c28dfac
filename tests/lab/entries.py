"""What contenders wrote into their common log, and what must be true of it whatever happened to the store."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple


class Entry(NamedTuple):
    """One stay under a lock. `alone` is what the kernel's lock said; the instants are of CLOCK_MONOTONIC."""

    who: str
    name: str
    token: int
    alone: bool
    entered: float
    left: float


def entries(folder: Path) -> list[Entry]:
    """All that was logged so far, in the order in which it was."""
    log = folder / "log"
    # A line is one write, so whoever reads meanwhile sees whole lines.
    return [Entry(**json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []


def faults(found: list[Entry]) -> list[str]:
    """One sentence for every stay that should not have been: two at once, or a token that did not rise."""
    by_name: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in sorted(found, key=lambda entry: entry.entered):
        by_name[entry.name].append(entry)
    wrong = [f"{entry} was not alone" for entry in found if not entry.alone]
    for stays in by_name.values():
        for one, following in pairwise(stays):
            if one.left > following.entered:
                wrong.append(f"{following} came {one.left - following.entered:.6f} s before {one} had left")
            if one.token >= following.token:
                wrong.append(f"the token of {following} is not above that of {one}")
    return wrong


def turns(found: list[Entry]) -> dict[str, int]:
    """How often each of them was inside."""
    counted: defaultdict[str, int] = defaultdict(int)
    for entry in found:
        counted[entry.who] += 1
    return dict(counted)
