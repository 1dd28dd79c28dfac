"""`leases list [PREFIX]`: the locks of a store."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from typing import Final

from leases.cli.console import complain, plain, print_out
from leases.cli.options import add_store, duration
from leases.cli.rows import HEADER, in_order, is_bid, row, table
from leases.cli.status import facts
from leases.contract import Verdict
from leases.errors import RecordRefused
from leases.store import Status, Store, connect

_MORE: Final = """\
Held and free ones: where releasing leaves a record, as on ZooKeeper and Kubernetes, every lock that was ever
held stands there until `leases prune` clears it away. The slots of a semaphore are locks called NAME/slot-0
and so on. "expires in" is known where the store is on this host.

What is not for you is left out: bids, by which candidates of an election with priorities make themselves
known (they are shown with --all), and records that are not ours, which are named on stderr.

With --json there is one object a line, with the fields of `leases status --json`, by name.

examples:
  leases list
  leases list --held orders/
  leases list --names jobs/ | wc -l
  leases list orders/ --json | jq -r 'select(.held and .expires_in != 0) | .name'
"""
_QUICK_SECONDS: Final = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _MORE
    add = parser.add_argument
    add("prefix", metavar="PREFIX", nargs="?", default="", help="only names that begin so")
    add("--held", action="store_true", help="only what is held, and is not known to have expired")
    add("--all", action="store_true", help="bids, too")
    add("--names", action="store_true", help="the names alone, one a line")
    add("--quick", action="store_true", help=argparse.SUPPRESS)  # as a shell asks, between two keys
    add("--timeout", type=duration, default=30.0, metavar="SECS", help="for the store's answer; default 30")
    add_store(parser)
    add("--json", action="store_true", help="one JSON object a line")


def run(args: argparse.Namespace) -> int:
    """Print a table, or a line of JSON for each lock."""
    if args.quick:
        args.timeout = min(args.timeout, _QUICK_SECONDS)
    with connect(args.backend) as store:
        if args.quick and _is_missing(store):
            return 0
        found = _wanted(store, args)
        if args.names and not args.json:
            for status in found:
                print_out(plain(status.name) + "\n", flush=False)
            return print_out("")
        if args.json:
            for status in found:
                print_out(json.dumps(facts(status)) + "\n", flush=False)
            return print_out("")
        rows = [row(status, time.time()) for status in in_order(found)]
    return print_out(table([HEADER, *rows]) if rows else "")


def _is_missing(store: Store) -> bool:
    """Whether there is nothing yet, and looking would make it: a file, by whoever pressed a key."""
    backend = store.hub.backend
    return backend.traits.local and any(
        finding.subject == "reach" and finding.verdict is Verdict.DOUBTFUL
        for finding in backend.examine(_QUICK_SECONDS)
    )


def _wanted(store: Store, args: argparse.Namespace) -> Iterator[Status]:
    """What was asked for; who or what cannot be shown is told on the way."""
    for found in store.scan(args.prefix, timeout=args.timeout):
        if not isinstance(found, Status):
            name = found.name if isinstance(found, RecordRefused) else "?"
            complain("leases list", f'"{name}" is left out: {found}')
        elif ((found.held and found.expires_in != 0) or not args.held) and (args.all or not is_bid(found)):
            yield found
