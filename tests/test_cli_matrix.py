"""Whatever signal comes, in whatever state, to whatever command: each cell ends as the page says.

The page `leases/cli/hold.md` has a table of the rules under "When a signal comes". Of its rows the first that
fits a cell is the one that holds. In every cell, besides, nobody of the command lives when `leases` has
ended, nor, when it was killed, when its lease ends.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from cli_cells import EITHER, OWN_CODE, Cell, run
from leases_command import Shop
from stores import Site

PAGE: Final = Path(__file__).parent.parent / "leases" / "cli" / "hold.md"
STATES: Final = ("waiting", "holding", "jeopardy", "lost", "releasing")
SIGNALS: Final = ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "KILL", "STOP", "TSTP")
KINDS: Final = ("plain", "shell", "ignores TERM", "forks", "setsid", "reads the tty")


class Row(NamedTuple):
    """A row of the table."""

    state: str
    signals: str
    kind: str
    stands: str
    code: str
    lock: str


def rows() -> list[Row]:
    """The table's rows."""
    section = (
        PAGE.read_text(encoding="utf-8").partition("\n## When a signal comes\n")[2].partition("\n## ")[0]
    )
    table = re.findall(r"^\| (.*) \|$", section, re.MULTILINE)
    return [Row(*re.split(r" +\| +", row.replace("`", ""))) for row in table[1:]]


def row_of(state: str, signal: str, kind: str) -> Row:
    """The first row that fits."""
    for row in rows():
        if row.state == state and fits(row.signals, signal) and fits(row.kind, kind):
            return row
    raise AssertionError(f"no row of the page is about {state}, {signal}, {kind}")


def fits(said: str, word: str) -> bool:
    """Whether a column is about a word."""
    return said.startswith("any") or word in said.split(", ")


def code_of(said: str, number: int) -> int:
    """The exit code, or the signal as a negative number, that a column means."""
    match said:
        case "its own":
            return OWN_CODE
        case "128+n":
            return 128 + number
        case "(killed)":
            return -number
        case _:
            return int(said)


@pytest.fixture
def shop(site: Site, tmp_path: Path) -> Iterator[Shop]:
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))  # QUIT leaves no core behind.
    shop = Shop(tmp_path, site)
    yield shop
    shop.close()
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


@pytest.mark.waits
@pytest.mark.timeout(300)
@pytest.mark.parametrize("state", STATES)
def test_each_cell_ends_as_the_page_says(shop: Shop, state: str) -> None:
    """Exit code, who stands still, who lives afterwards, who has the lock: every signal, every command."""
    table = [(row_of(state, signal, kind), signal, kind) for kind in KINDS for signal in SIGNALS]
    cells = [
        Cell(state, signal, kind, goes_on=row.code == "its own", stands=row.stands)
        for row, signal, kind in table
    ]
    run(shop, cells)
    found = [(cell, differences(cell, row)) for cell, (row, _, _) in zip(cells, table, strict=True)]
    assert not any(what for _, what in found), "\n".join(f"{cell}: {what}" for cell, what in found if what)


def differences(cell: Cell, row: Row) -> str:
    """Where a cell did not end as its row says."""
    should = {
        "code": code_of(row.code, cell.number),
        "stood": row.stands if cell.pauses and row.stands != EITHER else cell.stood,
        "lock": row.lock,
        "began": cell.should_begin,
    }
    was = {name: getattr(cell, name) for name in should}
    wrong = [f"{name} {was[name]!r} and not {should[name]!r}" for name in should if was[name] != should[name]]
    return "; ".join([*wrong, *cell.wrong])
