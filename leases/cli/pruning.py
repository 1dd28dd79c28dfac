"""`leases prune [PREFIX]`: free the locks of dead holders, and remove free records."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from leases.cli.console import complain, plain, print_out
from leases.cli.options import UsageError, add_store, duration
from leases.store import connect
from leases.upkeep import Broom, Pruned, prune

if TYPE_CHECKING:
    import argparse

_MORE: Final = """\
A held record is never deleted. It is watched for its own ttl, as every waiter does; if nobody renews it in
all that time its holder is dead, and the record is taken over and released. On a store of this host no
watching is needed. What other tools wrote, such as electors of client-go, is left to them.

Free records are removed on etcd, Consul, SQLite and in memory. On ZooKeeper and Kubernetes they keep versions
and tokens rising, so there they stay, unless with --offline: for that stop all clients first, and start them
afterwards.

--older-than goes by the time that is written in the record, so by the clock of whoever wrote it. It only
chooses what is worth a look; nobody is taken for dead because of it.

With --json there is one object a line, with "name", "action" (freed, removed, left) and "why".

examples:
  leases prune --dry-run
  leases prune jobs/ --older-than 7d
"""
_SHOWN_LEFT: Final = 20  # lines about what was left; of more it is told how many there are
_WOULD: Final = {"freed": "would be freed", "removed": "would be removed", "left": "left"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _MORE
    add = parser.add_argument
    add("prefix", metavar="PREFIX", nargs="?", default="", help="only names that begin so")
    add(
        "--older-than", type=duration, default=3600.0, metavar="SECS",
        help="only what was last written so long ago; default 1h",
    )  # fmt: skip
    add(
        "--wait", type=duration, default=60.0, metavar="SECS",
        help="leave what would have to be watched for longer; default 60",
    )  # fmt: skip
    add("--offline", action="store_true", help="no client runs: remove free records everywhere")
    add("--dry-run", action="store_true", help="change nothing, say what would be done")
    add_store(parser)
    add("--json", action="store_true", help="one JSON object a line")


def run(args: argparse.Namespace) -> int:
    """Prune, and tell of each record when it is done."""
    if args.wait <= 0:
        raise UsageError(
            "--wait 0 would leave everything; write how long a record may be watched, such as 60"
        )
    broom = Broom(args.older_than, args.offline, args.dry_run, args.wait)
    counts = Counter[str]()
    with connect(args.backend) as store:
        for pruned in prune(store.hub, args.prefix, broom):
            counts[pruned.action] += 1
            if args.json:
                print_out(json.dumps({**asdict(pruned), "dry_run": args.dry_run}) + "\n")
            elif pruned.action != "left" or counts["left"] <= _SHOWN_LEFT:
                print_out(_line(pruned, args.dry_run))
    more = counts["left"] - _SHOWN_LEFT
    if more > 0 and not args.json:
        complain("leases prune", f"{more} more were left; see them with --json")
    return 0


def _line(pruned: Pruned, dry_run: bool) -> str:
    action = _WOULD[pruned.action] if dry_run else pruned.action
    return plain(f'"{pruned.name}" {action}: {pruned.why}') + "\n"
