"""`leases hold NAME -- COMMAND`: a command that runs while its lock is held, and never longer."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from leases.cli import exits
from leases.cli.command import SHELL, CannotRun, Command
from leases.cli.console import Console, print_out, span
from leases.cli.guardian import Guardian
from leases.cli.options import UsageError, add_store, duration, exit_code, pair
from leases.cli.signals import ENDING, Signals, prepare_process
from leases.cli.supervisor import Grace, Supervisor, loss_of
from leases.cli.terminal import Terminal
from leases.cli.waiting import Signalled, Want, acquire, leave_if_stuck
from leases.errors import AcquireTimeout, ConfigurationError, LeasesError
from leases.identity import default_holder
from leases.record import check_holder, check_metadata, check_name
from leases.registry import VARIABLE, scheme_of, store_url
from leases.terms import Terms

if TYPE_CHECKING:
    from leases.cli.waiting import Holding
    from leases.lease import Lease

TAKES_COMMAND: Final = True
KILL_AFTER_MOST: Final = 5.0
MARGIN_MOST: Final = 0.1
RELEASE_SECONDS: Final = 5.0

_MORE: Final = """\
The command runs in a process group of its own, and gets LEASES_NAME, LEASES_TOKEN, LEASES_HOLDER and
LEASES_URL. It never outlives the lease: when the lease is lost, or cannot be renewed, the group gets
SIGTERM, and --kill-after later SIGKILL, before others can have the lock; also when this process is killed
or stopped. When the command ends, what it has left running in its group is ended too, and only then the lock
is released. Out of reach is what leaves the group, as daemons and the jobs of an interactive shell do, and
what runs as another user, as with sudo: put `leases hold` inside of that.

Signals are passed on to the group, which is in the foreground where stdin is a terminal; suspended there
(Ctrl-Z), it has until the end of its lease to be continued. In a pipeline whose other parts read from the
terminal, use --no-stdin.

Without a command the lease is printed, and held until a signal.

durations: seconds, or with a unit: 1.5, 500ms, 90s, 2m, 1h

exit codes:
  the command's own, or 128+N if signal N ended it, and
   64  the words on the command line make no sense      75  held by another, for all of the time allowed
   69  the store cannot be reached                          (-E; 0 with --skip)
   70  the lease was lost, whatever the command says    77  the store, or what is in it, refuses us
       (--lost-exit-code)                              126  the command cannot be run
  128+N  signal N came before the lock                 127  there is no such command

--json: one object a line on stderr, each with "event" and "message". The events are waiting, trouble,
acquired, jeopardy, lost, stopped, suspended, undead, unguarded, unconfirmed, released, conflict and error,
and at the end always exit, with "code".

examples:
  leases hold nightly --skip -- ./report.sh          on many hosts, from cron: one of them runs it
  leases hold deploy -w 10m -- make deploy           wait for ten minutes at most
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
        help="from SIGTERM to SIGKILL; default 5, or less for a short ttl",
    )  # fmt: skip
    add("-c", "--command", dest="line", metavar="STRING", help="a line for the shell, instead of -- COMMAND")
    add("--shell", action="store_true", help="give COMMAND to the shell, joined by spaces")
    add("--no-stdin", action="store_true", help="let the command read nothing, and leave it no terminal")
    add("--holder", metavar="NAME", help="who holds it, for others to see; default host:pid")
    add("--meta", type=pair, action="append", default=[], metavar="K=V", help="what others are to see")
    add_store(parser)
    add("--json", action="store_true", help="say everything on stderr, as JSON; see below")
    add("--verbose", action="store_true", help="say also what is no trouble")
    add("-F", "--no-fork", action=_Refuse, nargs=0, help="refused: the renewer has to live")


class _Refuse(argparse.Action):
    """For flock's option that cannot be had."""

    def __call__(self, *args: Any, **options: Any) -> NoReturn:
        raise UsageError(
            "-F, --no-fork cannot be had: what renews the lease has to live beside the command; leave it out"
        )


class Plan(NamedTuple):
    """What was asked for, checked as far as that needs no store.

    Attributes:
        want: what to acquire.
        words: the command; empty where there is none.
        grace: when to stop it.
        lost: the exit code when the lease was lost.
        stdin: whether the command reads ours.
    """

    want: Want
    words: list[str]
    grace: Grace
    lost: int
    stdin: bool


def run(args: argparse.Namespace) -> int:
    """Acquire, run, release; the exit code."""
    console = Console(as_json=args.json, verbose=args.verbose)
    try:
        plan = plan_of(args)
        code = _hold_and_run(plan, console) if plan.words else _hold_until_signal(plan, console)
    except AcquireTimeout as error:
        code = _conflict(error, args, console)
    except CannotRun as error:
        code = error.code
        console.say("error", str(error))
    except Signalled as error:
        code = error.code
    except LeasesError as error:
        code = exits.code_of(error)
        console.say("error", str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        code = exits.CANNOT_RUN
        console.say("error", f"the system has no process or descriptor left: {error}; look at: ulimit -a")
    if args.json:
        console.say("exit", f"exit code {code}", code=code)
    leave_if_stuck(code)
    return code


def plan_of(args: argparse.Namespace) -> Plan:
    """The plan that the arguments make.

    Raises:
        UsageError: they contradict each other.
        ConfigurationError: a name, a duration or a URL that cannot work.
    """
    url = store_url(args.backend)
    scheme_of(url)
    terms = Terms(args.ttl)
    holder = default_holder() if args.holder is None else check_holder(args.holder)
    timeout = 0.0 if args.nonblock or (args.skip and args.wait is None) else args.wait
    want = Want(url, check_name(args.name), holder, terms, check_metadata(dict(args.meta)), timeout)
    return Plan(want, _words(args), _grace(terms, args.kill_after), args.lost_exit_code, not args.no_stdin)


def _words(args: argparse.Namespace) -> list[str]:
    """The command, as it will be executed."""
    words: list[str] = args.command
    if args.line is not None:
        if words:
            raise UsageError('both -c STRING and a command after "--" were given; leave one out')
        words, args.shell = [args.line], True
    if not args.shell:
        return words
    if not words:
        raise UsageError('--shell without a command; write one after "--"')
    return [SHELL, "-c", " ".join(words)]


def _grace(terms: Terms, kill_after: float | None) -> Grace:
    """When to stop the command, if there is time for that after a renewal that came late.

    Raises:
        ConfigurationError: there is not.
    """
    margin = min(terms.hold / 50, MARGIN_MOST)
    if kill_after is None:
        return Grace(min(terms.hold / 4, KILL_AFTER_MOST), margin)
    most = terms.hold - terms.renew - terms.attempt
    if kill_after >= most:
        raise ConfigurationError(
            f"--kill-after {kill_after:g} s does not fit --ttl {terms.ttl:g} s: of a lease that is renewed "
            f"late {most:.3g} s may be left; choose less than that, or a longer --ttl"
        )
    return Grace(kill_after, margin)


def _conflict(error: AcquireTimeout, args: argparse.Namespace, console: Console) -> int:
    """Another holds it: say so, unless that is success."""
    who = "" if error.holder is None else f" is held by {error.holder}"
    lasts = "" if error.remaining is None else f" for up to another {span(error.remaining)}"
    text = f'lock "{error.name}"{who}{lasts}' if who else f'lock "{error.name}" was not acquired in time'
    tell = console.note if args.skip else console.say
    advice = "use -w SECS to wait" if error.timeout <= 0 else "use a larger -w to wait for longer"
    facts = {"name": error.name, "holder": error.holder, "remaining": error.remaining}
    tell("conflict", f"{text}; {'skipped' if args.skip else advice}", **facts)
    return exits.OK if args.skip else int(args.conflict_exit_code)


# ---- with a command ------------------------------------------------------------------------------


def _hold_and_run(plan: Plan, console: Console) -> int:
    prepare_process()
    command = Command(plan.words, stdin=plan.stdin)
    try:
        # Both are forked here, before the store is opened and before there are threads.
        guardian = Guardian(command.group, plan.grace.kill_after, plan.want.name, console.line)
        try:
            signals = Signals()
            return _run_under(acquire(plan.want, signals, console), plan, command, guardian, signals, console)
        finally:
            guardian.dismiss()
    finally:
        command.dismiss()


def _run_under(
    holding: Holding, plan: Plan, command: Command, guardian: Guardian, signals: Signals, console: Console
) -> int:
    """Run the command to its end, then release."""
    lease, terminal = holding.lease, Terminal(plan.stdin)
    _note_acquired(holding, console)
    supervisor = Supervisor(lease, command, guardian, plan.grace, signals, terminal, console)
    supervisor.run(_variables(holding))
    guardian.dismiss()
    terminal.take_back(repair=command.killed)
    lost = supervisor.stopped_by_lease or _say_if_lost(lease, console)
    failure = None if lost else command.failure()
    if failure is not None:
        console.say("error", str(failure))
    _release(holding, console, lost=lost)
    if lost:
        return plan.lost
    return command.code if failure is None else failure.code


def _variables(holding: Holding) -> dict[str, str]:
    """What the command finds in its environment, in the place of what stood there."""
    lease = holding.lease
    return {
        "LEASES_NAME": lease.name,
        "LEASES_TOKEN": str(lease.token),
        "LEASES_HOLDER": lease.holder,
        VARIABLE: holding.url,
    }


# ---- without one ---------------------------------------------------------------------------------


def _hold_until_signal(plan: Plan, console: Console) -> int:
    prepare_process()
    signals = Signals()
    holding = acquire(plan.want, signals, console)
    lost = False
    try:
        _note_acquired(holding, console)
        _print_lease(holding, console)
        while holding.lease.held:
            if any(number in ENDING for number in signals.wait(min(holding.lease.remaining, 0.5))):
                break
        lost = _say_if_lost(holding.lease, console)
    finally:
        _release(holding, console, lost=lost)
    return plan.lost if lost else exits.OK


def _print_lease(holding: Holding, console: Console) -> None:
    """One line on stdout: for people on a terminal, else JSON.

    Raises:
        BrokenPipeError: nobody reads it.
    """
    if sys.stdout is not None and sys.stdout.isatty() and not console.as_json:
        lease = holding.lease
        print_out(f'holding "{lease.name}" as {lease.holder}, token {lease.token}, until a signal (Ctrl-C)\n')
    else:
        print_out(json.dumps(_facts(holding)) + "\n")


# ---- both ----------------------------------------------------------------------------------------


def _facts(holding: Holding) -> dict[str, Any]:
    lease = holding.lease
    return {
        "name": lease.name,
        "holder": lease.holder,
        "token": lease.token,
        "ttl": holding.ttl,
        "remaining": round(lease.remaining, 3),
        "url": holding.url,
        "metadata": lease.metadata,
    }


def _note_acquired(holding: Holding, console: Console) -> None:
    lease = holding.lease
    console.note("acquired", f'acquired "{lease.name}", token {lease.token}', **_facts(holding))


def _say_if_lost(lease: Lease, console: Console) -> bool:
    """Whether the lease does not stand any more."""
    loss = loss_of(lease)
    if loss is not None:
        console.say("lost", str(loss), name=loss.name, reason=loss.reason)
    return loss is not None


def _release(holding: Holding, console: Console, *, lost: bool) -> None:
    """Release in bounded time. What failed is a warning: the work is done."""
    name = holding.lease.name
    if holding.release(RELEASE_SECONDS):
        console.note("released", f'released "{name}"', name=name)
    elif not lost:
        console.say(
            "unconfirmed",
            f'the store did not confirm the release of "{name}"; at the latest it is free '
            f"{span(holding.ttl)} from now",
            name=name,
        )
