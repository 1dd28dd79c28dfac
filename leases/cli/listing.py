"""`leases list [PREFIX]`: the locks of a store."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Final

from leases.cli.console import complain, plain, print_out, span
from leases.cli.options import add_store
from leases.cli.status import facts
from leases.errors import RecordRefused
from leases.store import Status, connect

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

_MORE: Final = """\
Records that are not ours are left out and named on stderr. With --json there is one object a line, with the
fields of `leases status --json`.

examples:
  leases list
  leases list orders/ --json | jq -r 'select(.held) | .name'
"""
_HEADER: Final = ("NAME", "HOLDER", "TOKEN", "HELD FOR", "EXPIRES IN", "METADATA")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _MORE
    parser.add_argument("prefix", metavar="PREFIX", nargs="?", default="", help="only names that begin so")
    add_store(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(args: argparse.Namespace) -> int:
    """Print a table, or a line of JSON for each lock."""
    with connect(args.backend) as store:
        found = list(store.scan(args.prefix))
    for error in found:
        if isinstance(error, Exception):
            name = error.name if isinstance(error, RecordRefused) else "?"
            complain("leases list", f'"{name}" is left out: {error}')
    locks = [status for status in found if isinstance(status, Status)]
    if args.json:
        return print_out("".join(json.dumps(facts(status)) + "\n" for status in locks))
    return print_out(table([_HEADER, *(_row(status, time.time()) for status in locks)]) if locks else "")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows in columns, two spaces apart, the same on a terminal and in a pipe."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "".join(line.rstrip() + "\n" for line in lines)


def _row(status: Status, now: float) -> tuple[str, ...]:
    held_for = span(now - status.acquired) if status.held and status.acquired else "-"
    expires_in = (
        "-" if status.expires_in is None else span(status.expires_in) if status.expires_in else "expired"
    )
    metadata = " ".join(f"{key}={value}" for key, value in (status.metadata or {}).items())
    holder = (status.holder or "(broken)") if status.held else "-"
    token = str(status.token) if status.token is not None else "-"
    return tuple(map(plain, (status.name, holder, token, held_for, expires_in, metadata)))
