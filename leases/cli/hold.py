"""`leases hold NAME -- COMMAND`: a command that runs while its lock is held, and never longer."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from leases.cli import exits, flock
from leases.cli.command import CannotRun, cannot_run
from leases.cli.console import Console, OutputFailed, span
from leases.cli.holding import hold_and_run, hold_until_signal
from leases.cli.options import UsageError, add_store, duration, exit_code, pair
from leases.cli.plan import plan_of
from leases.cli.waiting import Signalled, leave_if_stuck
from leases.errors import AcquireTimeout, LeasesError

if TYPE_CHECKING:
    from leases.cli.lastword import Witness

TAKES_COMMAND: Final = True

_MORE: Final = """\
The command runs in a process group of its own, and gets LEASES_NAME, LEASES_TOKEN, LEASES_HOLDER and
LEASES_URL. It never outlives the lease: when the lease is lost, or cannot be renewed, it gets SIGTERM with
all that it has started, and --kill-after later SIGKILL, before others can have the lock; also when this
process is killed or stopped. When the command ends, what it has left running is ended too, and only then the
lock is released. Out of reach is what runs as another user, as with sudo: put `leases hold` inside of that.

Signals are passed on to the group, which is in the foreground where stdin is a terminal, or as soon as it
asks for one; suspended there (Ctrl-Z), it has until the end of its lease to be continued. In a pipeline whose
other parts read from the terminal, use --no-stdin.

Without a command the lease is printed, and held until a signal.

With --slots N, up to N hold it at a time, each in a slot that is a lock of its own: LEASES_NAME is that of
the slot, such as NAME/slot-0, with which `leases status` and `leases validate` work, and LEASES_SLOT its
number. All have to state the same N.

--at-least-for keeps others out when the command was shorter than the clocks of your hosts are apart: this
process ends with the command, and leaves a record that lasts for the rest, whether the command has failed,
or was ended by a signal. Not if it could not be run, nor after a loss. It bounds the lock and --at-most-for
the command, so either may be the longer. --restart seeks the lock again when it was lost, and runs the
command anew; it ends when the command does by itself, or by a signal. -n, -w and --skip are about the first
time only: later it waits for as long as it takes, for a store that refuses it, too.

Whoever leaves without the lock (-n, --skip, -w) keeps in the memory of this host what was seen there, for
the next try of the same user: so that one recognises a holder that is dead, though none waits for its ttl.
Where that cannot be kept, the message says so.

durations: seconds, or with a unit: 1.5, 500ms, 90s, 2m, 1h

exit codes:
  64     the words on the command line make no sense
  69     the store cannot be reached
  70     the lease was lost, whatever the command says (--lost-exit-code)
  74     the lease could not be printed on stdout
  75     held by another, for all of the time allowed (-E; 0 with --skip)
  77     the store, or what is in it, refuses us
  124    the command was stopped after --at-most-for
  126    the command cannot be run
  127    there is no such command
  128+N  signal N came before the lock, or ended the command
  other  the command's own

--json: one object a line on stderr, each with "event" and "message". The events are waiting, trouble,
acquired, jeopardy, lost, overtime, stopped, suspended, undead, unguarded, ended, released, kept,
unconfirmed, conflict, error and unread, and at the end always exit, with "code".

--status-fd N: one object at the very end, for who has to tell our exit codes from those of the command. Its
"outcome" is done, overtime, lost, conflict, unavailable, refused, usage, unrunnable, signalled or unread;
"code" is our exit code, "command" has the "code" and the "signal" that the command ended with, or is null;
then "name", "slot", "holder", "token", "held" (seconds) and "released". The command does not inherit N.
There is no line where options could not be read, nor when this process was killed.

examples:
  leases hold nightly --skip -- ./report.sh          on many hosts, from cron: one of them runs it
  leases hold nightly --skip --at-least-for 5m -- ./report.sh
                                                     the same, however short it is and the clocks wrong
  leases hold deploy -w 10m -- make deploy           wait for ten minutes at most
  leases hold fetch --slots 3 -- ./fetch.sh          three at a time
  leases hold backup -n -E 1 -c 'tar c /srv | gzip > /backup/srv.tar.gz'
  leases hold leader --ttl 5 -- ./scheduler          a standby takes over 5 s after this host died
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.usage = "leases hold NAME [options] [-- COMMAND [ARGUMENT...]]"
    parser.epilog = _MORE
    add = parser.add_argument
    add("name", metavar="NAME", help="the lock")
    patience = parser.add_mutually_exclusive_group()
    patience.add_argument("-n", "--nonblock", action="store_true", help="do not wait")
    patience.add_argument(
        "-w", "--wait", "--timeout", type=duration, metavar="SECS", help="wait at most so long; 0 is -n"
    )
    add(
        "-E", "--conflict-exit-code", type=exit_code, default=exits.CONFLICT, metavar="N",
        help="when another holds it; default 75",
    )  # fmt: skip
    add("--lost-exit-code", type=exit_code, default=exits.LOST, metavar="N", help="default 70")
    add("--skip", action="store_true", help="another holds it: that is success; does not wait without -w")
    add("--ttl", type=duration, default=15.0, metavar="SECS", help="of the lease; default 15")
    add(
        "--kill-after", type=duration, metavar="SECS",
        help="from SIGTERM to SIGKILL; default 3/16 of the ttl, at most 5",
    )  # fmt: skip
    add(
        "--at-least-for", type=duration, default=0.0, metavar="SECS",
        help="keep the lock for so long from its acquisition on, though the command has ended; see below",
    )  # fmt: skip
    add(
        "--at-most-for", type=duration, metavar="SECS",
        help="stop the command when it has run for so long; the exit code is 124 then",
    )  # fmt: skip
    add("--restart", action="store_true", help="take part again after a loss, for ever; see below")
    add(
        "--slots",
        type=_slots,
        metavar="N",
        help="take one of N slots, so that N may hold it at a time; see below",
    )
    add("-c", "--command", dest="line", metavar="STRING", help="a line for the shell, instead of -- COMMAND")
    add("--shell", action="store_true", help="give COMMAND to the shell, joined by spaces")
    add("--no-stdin", action="store_true", help="let the command read nothing, and leave it no terminal")
    add("--holder", metavar="NAME", help="who holds it, for others to see; default host:pid")
    add("--meta", type=pair, action="append", default=[], metavar="K=V", help="what others are to see")
    add_store(parser)
    add("--json", action="store_true", help="say everything on stderr, as JSON; see below")
    add("--verbose", action="store_true", help="say also what is no trouble")
    add(
        "--status-fd",
        type=_descriptor,
        metavar="N",
        help="write there how it ended, as one line of JSON; see below",
    )
    flock.add_options(parser)


def _slots(text: str) -> int:
    from leases.semaphore import SLOTS_MOST

    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= SLOTS_MOST):
        raise argparse.ArgumentTypeError(
            f'"{text}" is not a number of slots; write a whole number from 1 to {SLOTS_MOST}'
        )
    return int(text)


def _descriptor(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f'"{text}" is not a file descriptor; write a number such as 3')
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Acquire, run, release; the exit code."""
    witness = _witness(args)
    console = witness or Console(as_json=args.json, verbose=args.verbose)
    outcome = "done"
    try:
        plan = plan_of(args)
        code = hold_and_run(plan, console) if plan.words else hold_until_signal(plan, console)
    except AcquireTimeout as error:
        code, outcome = _conflict(error, args, console), "conflict"
    except CannotRun as error:
        code, outcome = error.code, "unrunnable"
        console.say("error", str(error))
    except Signalled as error:
        code, outcome = error.code, "signalled"
    except UsageError as error:
        code, outcome = exits.USAGE, "usage"
        console.say("error", str(error))
    except LeasesError as error:
        code = exits.code_of(error)
        outcome = exits.OUTCOMES.get(code, "unavailable")
        console.say("error", str(error))
    except (BrokenPipeError, OutputFailed) as error:
        if witness is not None:
            witness.end("unread", exits.OUTPUT if isinstance(error, OutputFailed) else exits.UNREAD)
        raise
    except OSError as error:
        failure = cannot_run(error.errno or 0)
        code, outcome = failure.code, "unrunnable"
        console.say("error", str(failure))
    if args.json:
        console.say("exit", f"exit code {code}", code=code)
    if witness is not None:
        witness.end(outcome, code)
    console.finish()
    leave_if_stuck(code)
    return code


def _witness(args: argparse.Namespace) -> Witness | None:
    """What remembers all that is said, for the last word; None where none is wanted."""
    if args.status_fd is None:
        return None
    from leases.cli.lastword import Witness

    return Witness(args.status_fd, args.name, as_json=args.json, verbose=args.verbose)


def _conflict(error: AcquireTimeout, args: argparse.Namespace, console: Console) -> int:
    """Another holds it: say so, unless that is success."""
    lasts = "" if error.remaining is None else f" for up to another {span(error.remaining)}"
    if error.holder is None:
        text = f'lock "{error.name}" was not acquired in time'
    elif args.slots is None:
        text = f'lock "{error.name}" is held by {error.holder}{lasts}'
    else:
        text = f'all slots of "{error.name}" ({args.slots}) are held, by {error.holder}{lasts}'
    tell = console.note if args.skip else console.say
    advice = "use -w SECS to wait" if error.timeout <= 0 else "use a larger -w to wait for longer"
    why = getattr(error, "__notes__", None)
    if why and error.timeout < args.ttl:
        advice += (
            "; without it a dead holder cannot be recognised here, as what was seen cannot be kept for "
            f"the next try: {why[0]}"
        )
    facts = {"name": error.name, "holder": error.holder, "remaining": error.remaining}
    facts |= {"remembered": not why}
    tell("conflict", f"{text}; {'skipped' if args.skip else advice}", **facts)
    return exits.OK if args.skip else int(args.conflict_exit_code)
