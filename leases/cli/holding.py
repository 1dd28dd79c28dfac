"""Holding: from the acquisition to the release, with a command in between or without one."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, Final

from leases.cli import exits
from leases.cli.command import Recipe, find
from leases.cli.console import Console, OutputFailed, span
from leases.cli.guardian import Guardian, Run
from leases.cli.signals import ENDING, Signals, prepare_process
from leases.cli.supervisor import Supervisor, loss_of
from leases.cli.terminal import Terminal
from leases.cli.waiting import acquire
from leases.registry import VARIABLE

if TYPE_CHECKING:
    from leases.cli.plan import Plan
    from leases.cli.voice import Voice
    from leases.cli.waiting import Holding
    from leases.lease import Lease

RELEASE_SECONDS: Final = 5.0

# ---- with a command ------------------------------------------------------------------------------


def hold_and_run(plan: Plan, console: Console) -> int:
    """Run the command under its lease, again and again where that was asked for; the exit code."""
    prepare_process()
    recipe = Recipe(find(plan.words[0]), plan.words, plan.stdin)
    # It forks the command, and is forked before the store is opened and before there are threads.
    guardian = Guardian(recipe, plan.grace.kill_after, plan.want.name, console.line)
    try:
        signals = Signals()
        signals.on_child = guardian.reap
        holding = acquire(plan.want, signals, console)
        while (code := _run_under(holding, plan, guardian, signals, console)) is None:
            from leases.cli.again import acquire_again

            guardian.prepare()
            holding = acquire_again(plan.want, signals, console)
        return code
    finally:
        guardian.dismiss()


def _run_under(
    holding: Holding, plan: Plan, guardian: Guardian, signals: Signals, console: Console
) -> int | None:
    """Run the command to its end, then release; the exit code, or None to take part again."""
    lease, terminal = holding.lease, Terminal(plan.stdin)
    _note_acquired(holding, console)
    run = guardian.run
    supervisor = Supervisor(lease, guardian, plan.grace, plan.at_most, signals, terminal, console)
    supervisor.run(_variables(holding))
    terminal.take_back(repair=run.killed)
    lost = supervisor.stopped_by_lease or _say_if_lost(lease, console) or run.stopped_alone
    again = lost and plan.restart and supervisor.quit is None and not guardian.dead
    if not again:
        guardian.kill()  # It has nothing left to do, and ends while we release.
    failure = None if lost else run.failure
    if failure is not None:
        console.say("error", str(failure))
    else:
        _note_end(run, console)
    _release(holding, console, lost=lost, idle=failure is not None)
    if lost:
        return None if again else plan.lost
    if supervisor.overtime:
        return exits.OVERTIME
    return run.code if failure is None else failure.code


def _variables(holding: Holding) -> dict[str, str]:
    """What the command finds in its environment, in the place of what stood there."""
    lease = holding.lease
    variables = {
        "LEASES_NAME": lease.name,
        "LEASES_TOKEN": str(lease.token),
        "LEASES_HOLDER": lease.holder,
        VARIABLE: holding.address,
    }
    if holding.slot is not None or "LEASES_SLOT" in os.environ:  # Which may be that of an outer one.
        variables["LEASES_SLOT"] = "" if holding.slot is None else str(holding.slot)
    return variables


def _note_end(run: Run, console: Console) -> None:
    code = run.code
    if run.killed:
        number = code - exits.SIGNALLED
        console.note("ended", f"the command was ended by signal {number}", code=code, signal=number)
    else:
        console.note("ended", f"the command has ended with code {code}", code=code, signal=None)


# ---- without one ---------------------------------------------------------------------------------


def hold_until_signal(plan: Plan, console: Console) -> int:
    """Print the lease, and hold it until a signal; the exit code."""
    prepare_process()
    signals = Signals()
    holding = acquire(plan.want, signals, console)
    lost = False
    try:
        _note_acquired(holding, console)
        printed = _print_lease(holding, console, signals)
        while holding.lease.held:
            if printed is not None and printed.trouble is not None:
                raise _failed(printed.trouble)
            if any(number in ENDING for number in signals.wait(min(holding.lease.remaining, 0.5))):
                break
        lost = _say_if_lost(holding.lease, console)
    finally:
        _release(holding, console, lost=lost)
    return plan.lost if lost else exits.OK


def _print_lease(holding: Holding, console: Console, signals: Signals) -> Voice | None:
    """One line on stdout: for people on a terminal, else JSON. Who prints it tells if it cannot be."""
    if sys.stdout is None:  # The caller had closed it.
        return None
    from leases.cli.voice import Voice

    voice = Voice(sys.stdout, signals.wake)
    if sys.stdout.isatty() and not console.as_json:
        lease = holding.lease
        voice.say(f'holding "{lease.name}" as {lease.holder}, token {lease.token}, until a signal (Ctrl-C)\n')
    else:
        voice.say(json.dumps(_facts(holding)) + "\n")
    return voice


def _failed(error: OSError) -> OSError:
    return error if isinstance(error, BrokenPipeError) else OutputFailed(error.errno, error.strerror)


# ---- both ----------------------------------------------------------------------------------------


def _facts(holding: Holding) -> dict[str, Any]:
    lease = holding.lease
    return {
        "name": lease.name,
        "holder": lease.holder,
        "token": lease.token,
        "slot": holding.slot,
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


def _release(holding: Holding, console: Console, *, lost: bool, idle: bool = False) -> None:
    """Release in bounded time. What failed is a warning: the work is done.

    Args:
        holding: what is held.
        console: where to say so.
        lost: it was lost, so it is not ours to keep.
        idle: no work was done under it, so there is no reason to keep it.
    """
    name = holding.lease.name
    keep = 0.0 if lost or idle else holding.owed
    if holding.release(RELEASE_SECONDS, keep=keep):
        if keep:
            console.note("kept", f'kept "{name}" for another {span(keep)}', name=name, seconds=round(keep, 3))
        elif not lost:
            console.note("released", f'released "{name}"', name=name)
    elif keep:
        console.say(
            "unconfirmed",
            f'the store did not confirm that "{name}" is kept for another {span(keep)}; it may be free '
            f"{span(holding.ttl)} from now",
            name=name,
        )
    elif not lost:
        console.say(
            "unconfirmed",
            f'the store did not confirm the release of "{name}"; at the latest it is free '
            f"{span(holding.ttl)} from now",
            name=name,
        )
