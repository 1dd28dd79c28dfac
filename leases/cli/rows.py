"""Locks as rows of a table: the columns, their order, and which records are not worth a row."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from leases.cli.console import plain, span
from leases.record import RESERVED

if TYPE_CHECKING:
    from leases.store import Status

HEADER: Final = ("NAME", "HOLDER", "TOKEN", "HELD FOR", "EXPIRES IN", "METADATA")
PRIORITY: Final = f"{RESERVED}priority"
SLOTS: Final = f"{RESERVED}slots"
_SLOT: Final = re.compile(r"(.+/slot-)([0-9]+)", re.DOTALL)


def row(status: Status, now: float) -> tuple[str, ...]:
    """One lock's cells; `now` is wall time, in Unix seconds."""
    held_for = span(now - status.acquired) if status.held and status.acquired else "-"
    holder = (status.holder or "(broken)") if status.held else "-"
    token = str(status.token) if status.token is not None else "-"
    cells = (status.name, holder, token, held_for, until_free(status), metadata(status))
    return tuple(map(plain, cells))


def until_free(status: Status) -> str:
    """How long it takes until others can have it, if nobody renews it."""
    if status.expires_in is None:
        return "-"
    return span(status.expires_in) if status.expires_in > 0 else "expired"


def metadata(status: Status) -> str:
    """What its holder shows; what `leases` itself has written there comes last, in words."""
    shown = status.metadata or {}
    words = [f"{key}={value}" for key, value in shown.items() if not key.startswith(RESERVED)]
    words.extend(f"({key.removeprefix(RESERVED)} {shown[key]})" for key in (PRIORITY, SLOTS) if key in shown)
    return " ".join(words)


def is_bid(status: Status) -> bool:
    """Whether it is no lock of anybody's, but a candidate's bid for the leadership beside it."""
    return status.name.endswith("/bid") and (not status.held or PRIORITY in (status.metadata or {}))


def is_slot(status: Status) -> bool:
    """Whether it is a slot of a semaphore: by its name, and by what its holder shows, if it has one."""
    return _SLOT.fullmatch(status.name) is not None and (
        not status.held or SLOTS in (status.metadata or {}) or not status.claim
    )


def in_order(found: Iterable[Status]) -> list[Status]:
    """By name, and the slots of a semaphore by their number."""
    return sorted(found, key=_place)


def _place(status: Status) -> tuple[str, int]:
    slot = _SLOT.fullmatch(status.name)
    return (slot[1], int(slot[2])) if slot else (status.name, 0)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows in columns, two spaces apart, the same on a terminal and in a pipe."""
    return "".join(line + "\n" for line in aligned(rows))


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines whose columns are as wide as their widest cell, without blanks at their end."""
    widths = [max(map(width_of, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell + " " * (width - width_of(cell)) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return [line.rstrip() for line in lines]


def cut(line: str, width: int) -> str:
    """The line, or as much of it as there is room for."""
    if width_of(line) <= width:
        return line
    while width_of(line) >= width:
        line = line[:-1]
    return line + "…"


def width_of(text: str) -> int:
    """How many columns of a terminal a text takes; some characters take two, some none."""
    if text.isascii():
        return len(text)
    from unicodedata import category, east_asian_width

    # Marks without a class of their own, as of Indic vowels and emoji, stand on what is before them, too.
    return sum(0 if category(c) in ("Mn", "Me") else 2 if east_asian_width(c) in "WF" else 1 for c in text)
