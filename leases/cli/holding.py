"""Holding: from the acquisition to the release, with a command in between or without one."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Final

from leases.cli import exits
from leases.cli.command import Recipe, find
from leases.cli.console import Console, print_out, span
from leases.cli.guardian import Guardian
from leases.cli.signals import ENDING, Signals, prepare_process
from leases.cli.supervisor import Supervisor, loss_of
from leases.cli.terminal import Terminal
from leases.cli.waiting import acquire
from leases.registry import VARIABLE

if TYPE_CHECKING:
    from leases.cli.plan import Plan
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
    failure = None if lost else run.failure
    if failure is not None:
        console.say("error", str(failure))
    _release(holding, console, lost=lost)
    if lost:
        again = plan.restart and supervisor.quit is None and not guardian.dead
        return None if again else plan.lost
    if supervisor.overtime:
        return exits.OVERTIME
    return run.code if failure is None else failure.code


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


def hold_until_signal(plan: Plan, console: Console) -> int:
    """Print the lease, and hold it until a signal; the exit code."""
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
