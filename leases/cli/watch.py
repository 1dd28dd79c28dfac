"""`leases watch [NAME]`: who holds what, as it changes; a table on a terminal, else a line for a change."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Final

from leases.cli import exits
from leases.cli.console import complain, on_terminal
from leases.cli.options import UsageError, add_store, duration
from leases.cli.printing import Printer
from leases.cli.rows import is_bid
from leases.cli.screen import Screen
from leases.cli.sights import Sights
from leases.cli.signals import ENDING, Signals, prepare_process
from leases.cli.status import describe, facts
from leases.cli.watching import Looker, Seen, Trouble
from leases.clock import system_clock
from leases.errors import RecordRefused
from leases.record import check_name, check_prefix
from leases.registry import scheme_of, store_url

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from leases.clock import Instant
    from leases.store import Status

_MORE: Final = """\
On a terminal a table is kept up to date, until Ctrl-C. Elsewhere, or with --json, there is one JSON object
a line: first for each lock as it is, then for each that changed, at once. It has the fields of
`leases status --json`, "at", when it was seen in Unix seconds, and "stale", whether the store was silent.
A renewal is no change; an expiry is. A lock whose record was deleted is told as free.

"expires in" counts until others may have a lock that is not renewed: where the store is not on this host, at
the latest, from when it was first seen as it is. That is for people; only a lease is a promise.

With a NAME the store tells of each change. Without one it is read whole every few seconds (--every), which
costs what `leases list` costs, and what comes and goes in between is not seen.

A store that stops answering is asked again and again, and what was last seen is marked as stale; it is said
once. Only if the first look fails, this ends.

exit codes:
   0  a signal ended it
  64  the words on the command line make no sense
  69  the store cannot be reached, at the first look
  77  the store, or what is in it, refuses us
 141  nobody reads stdout any more

examples:
  leases watch
  leases watch --prefix orders/ --backend etcd://etcd-1,etcd-2/app
  leases watch nightly --json | jq --unbuffered -r '.holder // "nobody"'
"""
_EVERY_LEAST: Final = 0.1
_TICK: Final = 1.0  # seconds between two drawings of what only counts down


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _MORE
    add = parser.add_argument
    add("name", metavar="NAME", nargs="?", help="the lock; default all")
    add("--prefix", metavar="PREFIX", default="", help="only names that begin so")
    add("--every", type=duration, default=2.0, metavar="SECS", help="between two looks at all; default 2")
    add("--all", action="store_true", help="bids, too; see leases list --help")
    add_store(parser)
    add("--json", action="store_true", help="one JSON object a line, on a terminal too")


def run(args: argparse.Namespace) -> int:
    """Watch until a signal."""
    if args.name is not None and args.prefix:
        raise UsageError("both a NAME and --prefix were given; leave one out")
    if args.every < _EVERY_LEAST:
        raise UsageError(f"--every {args.every:g} is too often; write {_EVERY_LEAST:g} or more")
    name = None if args.name is None else check_name(args.name)
    check_prefix(args.prefix)
    scheme_of(url := store_url(args.backend))
    prepare_process()
    signals = Signals()
    looker = Looker(url, name, args.prefix, args.every, signals.wake)
    looker.start()
    try:
        if on_terminal() and not args.json:
            return _Live(looker, name, signals, every=args.all).run()
        return _Lines(looker, name, signals, every=args.all, as_json=args.json or not _for_people()).run()
    finally:
        looker.close()


def _for_people() -> bool:
    """Whether a terminal without tricks is there, on which lines are to be read by a person."""
    import sys

    return sys.stdout is not None and sys.stdout.isatty()


class _Following:
    """What both kinds of output have in common: what was seen, and the trouble there is.

    Args:
        looker: looks at the store.
        name: the one lock; None for all.
        signals: heard, and rung when something was seen.
        every: show bids, too.
    """

    def __init__(self, looker: Looker, name: str | None, signals: Signals, *, every: bool) -> None:
        self.looker, self.name, self.signals, self.every = looker, name, signals, every
        self.sights: Sights | None = None
        self.trouble: Trouble | None = None
        self.refused: set[tuple[str, str]] = set()  # names, and why
        self.identity = ""
        self.at = system_clock()
        self._looked: Instant | None = None  # the look after which another was asked for

    def take_in(self) -> None:
        """Take in whatever was seen since the last time.

        Raises:
            LeasesError: the very first look failed.
        """
        while self.looker.news:
            news = self.looker.news.popleft()
            if isinstance(news, Seen):
                self._note(news)
            elif self.sights is None:
                raise news.error
            elif self.trouble is None:
                self.trouble = news
                self.falls_silent(news)

    def _note(self, seen: Seen) -> None:
        if self.sights is None:
            self.sights = Sights(seen.boot, self.name)
            self.identity = seen.identity
        if self.trouble is not None:
            self.trouble = None
            self.speaks_again()
        before, self.refused = self.refused, set()
        for refusal in seen.refused:
            name = refusal.name if isinstance(refusal, RecordRefused) else "?"
            self.refused.add((name, str(refusal)))
            if (name, str(refusal)) not in before:
                self.is_refused(name, refusal)
        self.at = seen.at
        self.sights.note(seen.slots, seen.at)

    def rest(self) -> float | None:
        """Seconds until a record expires, as far as it was seen."""
        return None if self.sights is None else self.sights.rest(system_clock())

    def look_if_due(self) -> bool:
        """Look whether what would have expired by now was renewed since the last look; whether it does.

        After each look it does so once: a store that hangs is not asked faster, nor does anybody wait for it.
        """
        if self.sights is None or self._looked is self.at or not self.sights.due(self.at, system_clock()):
            return False
        self._looked = self.at
        self.looker.look()
        return True

    def known_at(self) -> Instant:
        """When what is shown was so: at the last look; now, where no answer can be had."""
        return system_clock() if self.trouble is not None else self.at

    def wanted(self, found: Iterable[Status]) -> list[Status]:
        """Those that are to be shown."""
        return [status for status in found if self.every or self.name is not None or not is_bid(status)]

    def falls_silent(self, trouble: Trouble) -> None:
        """The store gives no answer any more."""

    def speaks_again(self) -> None:
        """The store answers again."""

    def is_refused(self, name: str, refusal: Exception) -> None:
        """A record cannot be shown."""


class _Lines(_Following):
    """A line for each change."""

    def __init__(
        self, looker: Looker, name: str | None, signals: Signals, *, every: bool, as_json: bool
    ) -> None:
        super().__init__(looker, name, signals, every=every)
        self._as_json = as_json

    def run(self) -> int:
        printer = Printer(self.signals.wake)
        while printer.error is None:
            self.take_in()
            # Who reads slowly is told what is so, and not all that was so meanwhile.
            if self.sights is not None and printer.idle:
                changes = self.wanted(self.sights.changes(self.known_at()))
                if changes:
                    printer.put("".join(map(self._line, changes)))
            if any(number in ENDING for number in self.signals.wait(self.rest())):
                return printer.finish(exits.OK)
            self.look_if_due()
        raise printer.error

    def _line(self, status: Status) -> str:
        now = time.time()
        if self._as_json:
            more = {"at": round(now, 3), "stale": self.trouble is not None}
            return json.dumps({**facts(status), **more}) + "\n"
        return f"{time.strftime('%H:%M:%S')}  {describe(status, now)}\n"

    def falls_silent(self, trouble: Trouble) -> None:
        complain(
            "leases watch", f"{trouble.error}; what was last seen is stale, and the store is asked again"
        )

    def speaks_again(self) -> None:
        complain("leases watch", "the store answers again")

    def is_refused(self, name: str, refusal: Exception) -> None:
        complain("leases watch", f'"{name}" is left out: {refusal}')


class _Live(_Following):
    """A table that is kept up to date."""

    def run(self) -> int:
        import signal

        screen = Screen()
        self.signals.listen(signal.SIGWINCH, signal.SIGCONT)
        while True:
            self.take_in()
            if self.sights is not None and not self.look_if_due():
                self._draw(screen, self.sights)
            rest = self.rest()
            for number in self.signals.wait(_TICK if rest is None else min(rest, _TICK)):
                if number in ENDING:
                    screen.leave()
                    return exits.OK
                if number == signal.SIGWINCH:
                    screen.clear()
                elif number == signal.SIGCONT:
                    screen.forget()

    def _draw(self, screen: Screen, sights: Sights) -> None:
        found = self.wanted(sights.statuses(system_clock(), self.known_at()))
        trouble = None
        if self.trouble is not None:
            trouble = self.trouble.error, time.time() - self.trouble.since
        screen.draw(found, self.identity, trouble, len(self.refused))
