"""While the command runs: signals are passed on, and it is stopped before its lease ends.

Everything is decided here by the clock, in one thread that waits for nothing but signals and the time. What
renews the lease may fail in any way: a deadline that does not move is reached, and the command ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Final, NamedTuple

from leases.cli.console import span
from leases.cli.guardian import NEVER, Limits
from leases.cli.signals import PASSING
from leases.clock import system_clock
from leases.errors import LeaseLost

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leases.cli.command import Command
    from leases.cli.console import Console
    from leases.cli.guardian import Guardian
    from leases.cli.signals import Signals
    from leases.cli.terminal import Terminal
    from leases.lease import Lease

# What a command leaves running may be about to end by itself, as the `tee` of a shell's `> >(tee log)`.
LINGER: Final = 0.2
_STEP: Final = 0.01  # seconds between looks at a group whose leader has ended
_LONGEST_SLEEP: Final = 0.5  # poll() goes by a clock that stands still while the host sleeps
_WORRY: Final = 5.0  # after SIGKILL, until somebody is told that it does not help


class Grace(NamedTuple):
    """How long before the deadline of its lease a command is stopped; all in seconds.

    Attributes:
        kill_after: from SIGTERM to SIGKILL.
        margin: from SIGKILL to the deadline, for the time that it takes a busy host to deliver it.
    """

    kill_after: float
    margin: float

    def limits(self, deadline: float) -> Limits:
        """When to send both for a lease that ends so."""
        kill_at = deadline - self.margin
        return Limits(min(deadline - self.kill_after, kill_at), kill_at)

    def of_guardian(self, deadline: float) -> Limits:
        """The same for the guardian, which says the first a little later, and so only if we did not."""
        term_at, kill_at = self.limits(deadline)
        return Limits(min(term_at + min(self.kill_after / 4, 0.25), kill_at), kill_at)


class Supervisor:
    """One command under one lease.

    Attributes:
        stopped_by_lease: the command had to end because the lease was lost, or about to be.
    """

    def __init__(
        self,
        lease: Lease,
        command: Command,
        guardian: Guardian,
        grace: Grace,
        signals: Signals,
        terminal: Terminal,
        console: Console,
    ) -> None:
        self._lease, self._command, self._guardian, self._grace = lease, command, guardian, grace
        self._signals, self._terminal, self._console = signals, terminal, console
        self.stopped_by_lease = False
        self._began = self._stopping = self._worried = self._wants_terminal = False
        self._leader_ended_at = NEVER
        self._kill_by = NEVER

    def run(self, variables: Mapping[str, str]) -> None:
        """Let the command go, and return when nobody of its group lives."""
        self._signals.listen(*PASSING)
        while not self._over():
            now, limits = system_clock().hold, self._grace.limits(self._lease.deadline)
            if not self._stopping:
                self._decide(now, limits, variables)
            if self._stopping:
                self._kill_in_time(now, limits)
            if self._wants_terminal and self._terminal.lend(self._command.group):
                # A shell's `fg` tells a job that it stopped, and no other.
                self._wants_terminal = False
                self._command.signal(signal.SIGCONT)
            for number in self._signals.wait(self._pause(limits)):
                self._pass_on(number)
            self._reap()

    # ---- by the clock ----------------------------------------------------------------------------

    def _decide(self, now: float, limits: Limits, variables: Mapping[str, str]) -> None:
        """Begin, stop, or go on."""
        loss = loss_of(self._lease)
        if loss is not None:
            self._stop_for_lease(limits, "lost", str(loss), reason=loss.reason)
        elif not self._began:
            if now < limits.term_at:  # Else it is about to be renewed: it was long in coming.
                self._begin(variables)
        elif now >= limits.term_at:
            left = self._lease.remaining
            self._stop_for_lease(
                limits,
                "jeopardy",
                f'lease on "{self._lease.name}" was not renewed and ends in {left:.1f} s; look at the store',
                remaining=left,
            )
        elif now >= self._leader_ended_at + LINGER:
            self._stop()
        else:
            self._guardian.tell(self._grace.of_guardian(self._lease.deadline))

    def _begin(self, variables: Mapping[str, str]) -> None:
        """Let it go; the guardian first, so that at no instant it runs unguarded."""
        self._began = True
        self._guardian.tell(self._grace.of_guardian(self._lease.deadline))
        self._terminal.lend(self._command.group)
        self._command.go(variables)

    def _stop_for_lease(self, limits: Limits, event: str, why: str, **facts: object) -> None:
        """Stop it, and only then say so: a pipe that nobody reads may not let us go on."""
        self.stopped_by_lease = True
        self._stop()
        self._kill_in_time(system_clock().hold, limits)
        self._console.say(event, f"{why}; the command is being stopped", name=self._lease.name, **facts)

    def _stop(self) -> None:
        self._stopping = True
        self._kill_by = system_clock().hold + self._grace.kill_after
        self._command.signal(signal.SIGTERM)
        self._command.signal(signal.SIGCONT)  # What is stopped hears nothing.

    def _kill_in_time(self, now: float, limits: Limits) -> None:
        kill_at = min(self._kill_by, limits.kill_at)
        self._guardian.tell(Limits(NEVER, kill_at))
        if now < kill_at:
            return
        self._command.signal(signal.SIGKILL)
        if now >= kill_at + _WORRY and not self._worried:
            self._worried = True
            self._console.say(
                "undead",
                f"the command (process group {self._command.group}) does not end by SIGKILL: it hangs in the "
                "system or belongs to another user; end it by hand, its lock is not released before",
                group=self._command.group,
            )

    def _pause(self, limits: Limits) -> float:
        """Seconds until something is due."""
        now = system_clock().hold
        times = (*limits, self._lease.deadline, self._kill_by, self._leader_ended_at + LINGER)
        longest = _LONGEST_SLEEP
        if self._leader_ended_at != NEVER:
            longest = _STEP if now < self._leader_ended_at + 1 else 10 * _STEP
        elif self._stopping:
            longest = 10 * _STEP
        return min(longest, *(at - now for at in times if at > now), longest)

    # ---- by signals ------------------------------------------------------------------------------

    def _pass_on(self, number: int) -> None:
        if number == signal.SIGCHLD:
            return
        if number == signal.SIGCONT:
            self._terminal.lend(self._command.group)
        self._command.signal(number)

    def _reap(self) -> None:
        """Hear of every child that ended or stopped; those of whom we know nothing are reaped too."""
        with contextlib.suppress(ChildProcessError):
            while True:
                child, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
                if child == 0:
                    return
                if os.WIFSTOPPED(status):
                    if child == self._command.group:
                        self._stopped(os.WSTOPSIG(status))
                elif child == self._command.group:
                    self._command.status = status
                    self._leader_ended_at = system_clock().hold
                elif child == self._guardian.pid:
                    self._guardian_ended(status)

    def _guardian_ended(self, status: int) -> None:
        """It was killed; or it has stopped the command, because this process was stopped for too long."""
        self._guardian.dead = True
        if os.WIFSIGNALED(status):
            text = "the guardian was killed; if this process is killed too, nothing stops the command"
            self._console.say("unguarded", text)

    def _stopped(self, number: int) -> None:
        """The command was stopped; the lease is renewed all the same, unless the terminal wants us too."""
        if self._stopping:
            return
        if self._terminal.lent:
            self._suspend()
        elif number in (signal.SIGTTIN, signal.SIGTTOU):
            self._wants_terminal = True
            self._console.say("suspended", "the command waits for the terminal; bring it there with: fg")

    def _suspend(self) -> None:
        """The shell that is behind the terminal waits until we stop, as the command did."""
        left = self._lease.remaining
        self._console.say(
            "suspended",
            f'suspended with the command; the lease on "{self._lease.name}" ends in {span(left)}, and the '
            "command with it, unless they are continued",
            remaining=left,
        )
        self._terminal.suspend(self._signals)
        self._terminal.lend(self._command.group)
        self._command.signal(signal.SIGCONT)

    # ---- its end ---------------------------------------------------------------------------------

    def _over(self) -> bool:
        return self._command.status is not None and self._command.gone(closely=self._stopping)


def loss_of(lease: Lease) -> LeaseLost | None:
    """Why the lease does not stand at this instant; None while it does."""
    try:
        lease.check()
        return None
    except LeaseLost as loss:
        return loss
