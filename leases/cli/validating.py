"""`leases validate NAME --holder H --token T`: whether a caller holds the lock now, asked of its store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from leases.cli import exits
from leases.cli.console import complain, print_out
from leases.cli.options import add_store, duration, token
from leases.errors import TokenRefused
from leases.fencing.token import Token
from leases.fencing.validator import Validator
from leases.store import connect

if TYPE_CHECKING:
    import argparse

_MORE: Final = """\
For a worker that is told by its caller who leads, and wants to make sure before it obeys. Holder and token
must both be those of the record as it stands: a holder that lost the lock and has it again has another token.
When in doubt the answer is not 0.

A yes is about the instant of the answer, and anything can happen after it: a resource that compares tokens
itself, as those of leases.fencing do, is safer. A record whose holder has died stands for its ttl; on a store
of this host it is refused from then on, elsewhere until somebody takes the lock it passes.

exit codes:
   0  yes
   1  no; stderr says why
  64  the name, the holder or the token makes no sense
  69  the store cannot be reached, so nobody knows
  77  the store, or what is in it, refuses us

examples:
  leases validate leader --holder web-3 --token 4711 && ./obey
  leases validate "$LEASES_NAME" --holder "$LEASES_HOLDER" --token "$LEASES_TOKEN"    do we still hold it
  leases validate leader --holder web-3 --token 4711 --json | jq -r .why
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _MORE
    add = parser.add_argument
    add("name", metavar="NAME", help="the lock")
    add("--holder", required=True, metavar="NAME", help="who the caller says it is")
    add("--token", type=token, required=True, metavar="N", help="the fencing token that the caller shows")
    add("--timeout", type=duration, default=5.0, metavar="SECS", help="for the store's answer; default 5")
    add_store(parser)
    add("--json", action="store_true", help='one JSON object, with "valid" and "why"')


def run(args: argparse.Namespace) -> int:
    """Ask, and answer by the exit code."""
    token = Token(args.name, args.token, args.holder)
    why = None
    with connect(args.backend) as store:
        try:
            Validator(store, args.name, timeout=args.timeout).check(token)
        except TokenRefused as refused:
            why = str(refused)
    if args.json:
        asked = {"name": token.name, "holder": token.holder, "token": token.number}
        print_out(json.dumps({**asked, "valid": why is None, "why": why}) + "\n")
    elif why is not None:
        complain("leases validate", why)
    return exits.OK if why is None else exits.NO
