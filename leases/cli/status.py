"""`leases status NAME`: who holds one lock."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from leases.cli.console import plain, print_out, span
from leases.cli.options import add_store
from leases.cli.rows import SLOTS, in_order, is_slot, metadata
from leases.errors import StoreError
from leases.store import connect

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from leases.store import Status, Store

_MORE: Final = """\
What a store shows may be stale when it is read; only a lease is a promise. "expires in" counts until others
may take a lock that is not renewed, and is known where the store is on this host. Whoever died holds it in
the store until another takes it: there "held" is still true, and expires_in, where it is known, is 0.

Of a semaphore each slot that is held is told. With --json there is one object, with the fields name, held,
holder, token, ttl, acquired, renewed (both Unix seconds), expires_in, successor, metadata and claim; what is
not known is null. Of a semaphore it has slots, how many there are, and taken, with such an object for each
that is held.

exit codes:
   0  told, be it held or free
  64  the name makes no sense
  69  the store cannot be reached
  77  the store, or what is in it, refuses us

examples:
  leases status nightly
  leases status nightly --json | jq .token
  leases status nightly --json | jq -e '.held and .expires_in != 0' > /dev/null && echo it is running
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _MORE
    parser.add_argument("name", metavar="NAME", help="the lock, or the semaphore")
    add_store(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print what the store shows."""
    with connect(args.backend) as store:
        status = store.status(args.name)
        slots = [] if status.held else _slots(store, args.name)
    taken = [slot for slot in slots if slot.held]
    if args.json:
        more = {"slots": _stated(taken), "taken": [facts(slot) for slot in taken]} if slots else {}
        return print_out(json.dumps({**facts(status), **more}) + "\n")
    now = time.time()
    if not slots:
        return print_out(describe(status, now) + "\n")
    return print_out("".join(line + "\n" for line in _semaphore(args.name, taken, now)))


def _slots(store: Store, name: str) -> list[Status]:
    """The slots of a semaphore of that name, as far as they were ever held; mostly there is none."""
    try:
        return in_order(slot for slot in store.list(f"{name}/slot-") if is_slot(slot))
    except StoreError:  # Who may read this lock may not be allowed to list, and what was asked is answered.
        return []


def _stated(taken: list[Status]) -> int | None:
    """How many slots there are, as those who hold one say."""
    stated = [(slot.metadata or {}).get(SLOTS, "") for slot in taken]
    return next((int(text) for text in stated if text.isascii() and text.isdigit()), None)


def _semaphore(name: str, taken: list[Status], now: float) -> Iterator[str]:
    stated = _stated(taken)
    of = "" if stated is None else f" of {stated}"
    held = f"{len(taken)}{of} slot{'s' * ((stated or len(taken)) != 1)} held" if taken else "no slot held"
    yield plain(f'"{name}" is a semaphore, {held}')
    yield from (f"  {describe(slot, now)}" for slot in taken)


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
    words.extend(filter(None, [metadata(status)]))
    return plain(", ".join(words))


def _expiry(seconds: float) -> str:
    if seconds > 0:
        return f"expires in {span(seconds)} unless renewed"
    return "expired, so that anybody may take it"


def facts(status: Status) -> dict[str, Any]:
    """One lock for JSON."""
    return asdict(status)
