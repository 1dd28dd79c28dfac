"""`leases status NAME`: who holds one lock."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from leases.cli.console import plain, print_out, span
from leases.cli.options import add_store
from leases.store import connect

if TYPE_CHECKING:
    import argparse

    from leases.store import Status

_MORE: Final = """\
What a store shows may be stale when it is read; only a lease is a promise. `expires in` counts until others
may take a lock that is not renewed, and is known where the store is on this host.

examples:
  leases status nightly
  leases status nightly --json | jq .token
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _MORE
    parser.add_argument("name", metavar="NAME", help="the lock")
    add_store(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print what the store shows."""
    with connect(args.backend) as store:
        status = store.status(args.name)
    return print_out((json.dumps(facts(status)) if args.json else describe(status, time.time())) + "\n")


def describe(status: Status, now: float) -> str:
    """One lock in one sentence; `now` is wall time, in Unix seconds."""
    if not status.held:
        after = f", and {status.successor} is to have it next" if status.successor else ""
        return plain(f'"{status.name}" is free{after}')
    parts = [f'"{status.name}" is held by {status.holder or "nobody, because it was broken"}']
    if status.acquired:
        parts.append(f"for {span(now - status.acquired)}")
    words = [" ".join(parts), f"token {status.token}"]
    if status.renewed:
        words.append(f"renewed {span(now - status.renewed)} ago")
    if status.expires_in is not None:
        words.append(_expiry(status.expires_in))
    words.extend(f"{key}={value}" for key, value in (status.metadata or {}).items())
    return plain(", ".join(words))


def _expiry(seconds: float) -> str:
    if seconds > 0:
        return f"expires in {span(seconds)} unless renewed"
    return "expired, so that anybody may take it"


def facts(status: Status) -> dict[str, Any]:
    """One lock for JSON."""
    return asdict(status)
