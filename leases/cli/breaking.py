"""`leases break NAME --if-token N`: take a lock from whoever holds it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from leases.cli.console import complain, plain, print_out, span
from leases.cli.options import add_store, token
from leases.cli.status import facts
from leases.store import connect

if TYPE_CHECKING:
    import argparse

    from leases.store import Status

_MORE: Final = """\
The token says which tenure is meant: if the lock has passed to another since you looked, nothing is done. The
holder learns of it by its next renewal, and its lease is lost; everybody else waits for the record's ttl, as
for a dead holder's. So no two hold it at once.

--now frees the lock at once. That waives the first promise: until its holder has learned of it, it may be at
work beside the next one. Only the token tells them apart then.

exit codes:
   0  it is broken
  64  the name or the token makes no sense
  69  the store did not answer: it may be broken
  75  nobody holds it, or by another token; nothing was changed
  77  the store, or what is in it, refuses us

examples:
  leases status nightly                   …, token 4711, …
  leases break nightly --if-token 4711
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _MORE
    add = parser.add_argument
    add("name", metavar="NAME", help="the lock")
    add("--if-token", type=token, required=True, metavar="N", help="the token of the tenure to end")
    add("--now", action="store_true", help="free it at once: two may hold it for a while; see below")
    add_store(parser)
    add("--json", action="store_true", help="one JSON object: what stands in the store then")


def run(args: argparse.Namespace) -> int:
    """Break it, and say what that means."""
    with connect(args.backend) as store:
        status = store.break_lock(args.name, if_token=args.if_token, now=args.now)
    if args.now:
        complain(
            "leases break",
            "until its holder learns of it, at its next renewal, two may hold the lock at once",
        )
    return print_out((json.dumps(facts(status)) if args.json else _sentence(status)) + "\n")


def _sentence(status: Status) -> str:
    if not status.held:
        return plain(f'"{status.name}" is free')
    seconds = status.ttl if status.expires_in is None else status.expires_in
    return plain(f'"{status.name}" is broken; others may take it in {span(seconds or 0.0)}')
