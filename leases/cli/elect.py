"""`leases elect NAME [-- COMMAND]`: take part in an election, with a command or without one."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from leases.cli import exits
from leases.cli.console import complain, plain, span
from leases.cli.options import UsageError, add_store, duration, pair
from leases.cli.printing import Printer
from leases.cli.signals import ENDING, Signals, prepare_process
from leases.clock import system_clock
from leases.elector import Elector
from leases.errors import LeaseLost
from leases.hooks import Answered, hooks
from leases.registry import open_backend, store_url

if TYPE_CHECKING:
    import argparse

    from leases.hooks import Subject, Told
    from leases.lease import Lease
    from leases.observer import Leader

TAKES_COMMAND: Final = True

_MORE: Final = """\
Whoever leads holds the lock NAME. Without a command this only takes part, and prints a line for each change:
for people on a terminal, else JSON. A signal ends it: it resigns first, so that another leads at once.

With a command this is `leases hold NAME --restart`: the command runs while this one leads and never longer,
and it takes part again after a loss. The options of `leases hold` that are not here can be given there.

--json: one object a line on stdout, each with "event", "name", "holder" (this candidate), "at" (Unix seconds)
and "message". The events are elected (with "token"), jeopardy (a renewal is overdue; with "remaining"
seconds), lost (with "token" and "reason", which is released where it resigned), leader (with "leader", null
where nobody is known to lead, and "token"), trouble and answers (of the store). With a command everything is
on stderr instead; see leases hold --help.

exit codes:
   0  a signal ended it
  64  the words on the command line make no sense
  77  the store, or what is in it, refuses us
 141  nobody reads stdout any more
  with a command, those of `leases hold`

examples:
  leases elect scheduler                         take part, and see who leads
  leases elect scheduler --ttl 5 -- ./scheduler  run it on one host, and on another 5 s after that one died
  leases elect scheduler --priority 10 --json | ./on-change
"""
_GIVE_UP_SECONDS: Final = 5.0  # for the store's last answer, after a signal
_ONE_SIGNAL_SECONDS: Final = 1.0  # signals that come within so long are one


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.usage = "leases elect NAME [options] [-- COMMAND [ARGUMENT...]]"
    parser.epilog = _MORE
    add = parser.add_argument
    add("name", metavar="NAME", help="what is led: the lock that the leader holds")
    add("--ttl", type=duration, default=15.0, metavar="SECS", help="of the lease; default 15")
    add("--holder", metavar="NAME", help="who takes part, for others to see; default host:pid")
    add("--meta", type=pair, action="append", default=[], metavar="K=V", help="what others are to see")
    add(
        "--priority", type=int, metavar="N",
        help="it gets the leadership from a leader of lower priority; not with a command",
    )  # fmt: skip
    add(
        "--kill-after", type=duration, metavar="SECS",
        help="with a command: from SIGTERM to SIGKILL, as of leases hold",
    )  # fmt: skip
    add_store(parser)
    add("--json", action="store_true", help="one JSON object a line; see below")


def run(args: argparse.Namespace) -> int:
    """Take part, until a signal."""
    if args.command:
        return _hold(args)
    if args.kill_after is not None:
        raise UsageError('--kill-after without a command; write one after "--"')
    open_backend(url := store_url(args.backend)).close()  # What makes no sense is told before it begins.
    diary = _Diary()
    elector = Elector(
        args.name, ttl=args.ttl, store=url, holder=args.holder, metadata=dict(args.meta),
        priority=args.priority, on_elected=diary.elected, on_jeopardy=diary.jeopardy, on_lost=diary.lost,
        on_new_leader=diary.leader,
    )  # fmt: skip
    prepare_process()
    return _Candidate(elector, diary, Signals(), as_json=args.json).run()


def _hold(args: argparse.Namespace) -> int:
    """What is asked for, in the words of `leases hold`."""
    from leases.cli import COMMANDS, hold
    from leases.cli.options import parse

    if args.priority is not None:
        raise UsageError("--priority cannot be had with a command; leave one of them out")
    given = {"--holder": args.holder, "--kill-after": args.kill_after, "--backend": args.backend}
    words = [args.name, "--restart", "--ttl", str(args.ttl)]
    words += [f"{option}={value}" for option, value in given.items() if value is not None]
    words += [f"--meta={key}={value}" for key, value in args.meta]
    words += ["--json"] * args.json
    return hold.run(parse("leases hold", COMMANDS["hold"].summary, hold, [*words, "--", *args.command]))


class _Diary:
    """What happened, from the threads in which it happens to the one that prints it.

    Attributes:
        notes: event, sentence and facts, oldest first.
        ring: called when there is another.
    """

    def __init__(self) -> None:
        self.notes: deque[tuple[str, str, dict[str, Any]]] = deque()
        self.ring: Any = None
        self._troubled = False

    def note(self, event: str, text: str, **facts: Any) -> None:
        self.notes.append((event, text, facts))
        if self.ring is not None:
            self.ring()

    def elected(self, lease: Lease) -> None:
        self.note("elected", f'this one leads "{lease.name}", token {lease.token}', token=lease.token)

    def jeopardy(self, lease: Lease) -> None:
        left = lease.remaining
        text = f"a renewal is overdue; this one leads for another {span(left)} without it"
        self.note("jeopardy", text, token=lease.token, remaining=round(left, 3))

    def lost(self, lease: Lease, loss: LeaseLost) -> None:
        text = "this one leads no more" + ("" if loss.reason == "released" else f": {loss}")
        self.note("lost", text, token=lease.token, reason=loss.reason)

    def leader(self, leader: Leader | None) -> None:
        if leader is None:
            self.note("leader", "nobody is known to lead", leader=None, token=None)
        else:
            text = f"{leader.holder} leads, token {leader.token}"
            self.note("leader", text, leader=leader.holder, token=leader.token)

    def hear(self, subject: Subject, told: Told) -> None:
        """Whether the store answers; said when it changes."""
        if not isinstance(told, Answered):
            return
        silent = told.outcome == "unknown"
        if silent and not self._troubled:
            self.note("trouble", f"the store gives no answer, and is asked again: {told.error}")
        elif self._troubled and not silent:
            self.note("answers", "the store answers again")
        self._troubled = silent


class _Candidate:
    """The part that is taken, in a thread; this one hears of signals and prints."""

    def __init__(self, elector: Elector, diary: _Diary, signals: Signals, *, as_json: bool) -> None:
        self._elector, self._diary, self._signals = elector, diary, signals
        self._as_json = as_json or sys.stdout is None or not sys.stdout.isatty()
        self._over = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._take_part, name="leases-elect", daemon=True)

    def run(self) -> int:
        """Until a signal, or until the store refuses."""
        self._diary.ring = self._signals.wake
        hooks.listen(self._diary.hear)
        printer = Printer(self._signals.wake)
        self._thread.start()
        try:
            while not self._over and printer.error is None:
                if any(number in ENDING for number in self._signals.wait(None)):
                    break
                self._print(printer)
        finally:
            ended = self._stop()
            hooks.leave(self._diary.hear)
        self._print(printer)
        if printer.error is not None:
            raise printer.error
        return self._code(printer, ended=ended)

    def _take_part(self) -> None:
        try:
            self._elector.run(lambda lease: lease.ending.wait())
        except Exception as error:
            self._error = error
        hub = self._elector._lock._hub  # pyright: ignore[reportPrivateUsage] - nobody else uses this store here
        if hub is not None:  # What was claimed as the signal came is freed in the background.
            hub.settle(_GIVE_UP_SECONDS)
        self._over = True
        self._signals.wake()

    def _stop(self) -> bool:
        """Resign; whether that was done in time. Another signal ends this process at once, but not directly:

        timeout(1) sends each twice, and so does a terminal with whoever passes it on.
        """
        self._elector.retire()  # It may be about to begin.
        began = system_clock().wait
        while not self._over and (left := began + _GIVE_UP_SECONDS - system_clock().wait) > 0:
            for number in self._signals.wait(left):
                if number in ENDING and system_clock().wait > began + _ONE_SIGNAL_SECONDS:
                    os._exit(exits.SIGNALLED + number)
        return self._over

    def _code(self, printer: Printer, *, ended: bool) -> int:
        if self._error is not None:
            raise self._error
        code = printer.finish(exits.OK)
        if not ended:
            complain("leases elect", "the store did not confirm the resignation; at the latest it is free "
                     "when the lease has run out")  # fmt: skip
            os._exit(code)  # The end of an interpreter would wait for the store.
        return code

    def _print(self, printer: Printer) -> None:
        """Print what happened; the troubles of the store are for stderr, unless it is all JSON."""
        while self._diary.notes:
            event, text, facts = self._diary.notes.popleft()
            if self._as_json:
                known = {"event": event, "name": self._elector.name, "holder": self._elector.holder}
                line = {**known, **facts, "at": round(time.time(), 3), "message": text}
                printer.put(json.dumps(line) + "\n")
            elif facts.get("leader") != self._elector.holder:  # That is said by its election.
                printer.put(f"{time.strftime('%H:%M:%S')}  {plain(text)}\n")
