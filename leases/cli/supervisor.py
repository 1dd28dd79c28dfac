"""While the command runs: signals are passed on, and it is stopped before its lease ends.

Everything is decided here by the clock, in one thread that waits for nothing but signals and the time. What
renews the lease may fail in any way: a deadline that does not move is reached, and the command ends.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final, NamedTuple

from leases.cli.console import span
from leases.cli.orders import NEVER, Limits
from leases.cli.signals import ENDING, PASSING, QUITTING
from leases.clock import system_clock
from leases.errors import LeaseLost

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leases.cli.console import Console
    from leases.cli.guardian import Guardian
    from leases.cli.signals import Signals
    from leases.cli.terminal import Terminal
    from leases.lease import Lease

# What a command leaves running may be about to end by itself, as the `tee` of a shell's `> >(tee log)`.
LINGER: Final = 0.2
_STEP: Final = 0.02  # seconds between looks at processes that have been killed
_UNHEARD: Final = 1.0  # after SIGKILL, for a guardian that does not say that all are gone
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

    Args:
        lease: the lease.
        guardian: who looks after the command that stands by.
        grace: how long before the end of the lease the command is stopped.
        at_most: seconds that it may run; None for as long as it likes.
        signals: those that come to us.
        terminal: ours.
        console: where to say things.

    Attributes:
        stopped_by_lease: the command had to end because the lease was lost, or about to be.
        overtime: it had to end because it ran for too long.
        quit: the signal that asked us to end, and not to take part again; None without one.
    """

    def __init__(
        self,
        lease: Lease,
        guardian: Guardian,
        grace: Grace,
        at_most: float | None,
        signals: Signals,
        terminal: Terminal,
        console: Console,
    ) -> None:
        self._lease, self._guardian, self._grace, self._at_most = lease, guardian, grace, at_most
        self._signals, self._terminal, self._console = signals, terminal, console
        self._run = guardian.run
        self.stopped_by_lease = self.overtime = False
        self.quit: int | None = None
        self._began = self._stopping = self._wants_terminal = self._unguarded = False
        self._too_long_at = self._leader_ended_at = self._kill_by = NEVER
        self._asked_at = 0.0
        self._warned = False

    def run(self, variables: Mapping[str, str]) -> None:
        """Let the command go, and return when nobody of it lives, nor of what it has started."""
        self._signals.listen(*PASSING)
        while not self._run.gone:
            now, limits = system_clock().hold, self._grace.limits(self._lease.deadline)
            if not self._stopping:
                self._decide(now, limits, variables)
            if self._stopping:
                self._kill_in_time(now, limits)
            if self._wants_terminal:  # A shell's `fg` tells a job that it stopped, and no other.
                self._bring_to_terminal()
            for number in self._signals.wait(self._pause(limits), self._guardian.ear):
                self._pass_on(number)
            self._hear()
        self._look_for_guardian()  # It may have died before it was needed.

    # ---- by the clock ----------------------------------------------------------------------------

    def _decide(self, now: float, limits: Limits, variables: Mapping[str, str]) -> None:
        """Begin, stop, or go on."""
        loss = loss_of(self._lease)
        if loss is not None:
            self._stop_for_lease(limits, "lost", str(loss), reason=loss.reason)
        elif not self._began:
            # Else it is about to be renewed: it was long in coming. Or the command is not ready yet.
            if now < limits.term_at and self._run.group is not None:
                self._begin(now, self._run.group, variables)
        elif now >= limits.term_at:
            left = self._lease.remaining
            self._stop_for_lease(
                limits,
                "jeopardy",
                f'lease on "{self._lease.name}" was not renewed and ends in {left:.1f} s; look at the store',
                remaining=left,
            )
        elif self._run.stopped_alone:  # We were late, and the lease was renewed all the same.
            self.stopped_by_lease = True
            self._stop()
        elif now >= self._too_long_at:
            self._stop_for_time(limits)
        elif now >= self._leader_ended_at + LINGER or self._unguarded:
            self._stop()
        else:
            self._guardian.tell(self._grace.of_guardian(self._lease.deadline))

    def _begin(self, now: float, group: int, variables: Mapping[str, str]) -> None:
        """Let it go; the guardian knows its limits first, so that at no instant it runs unguarded."""
        self._began = True
        self._terminal.lend(group)
        self._guardian.go(self._grace.of_guardian(self._lease.deadline), variables)
        if self._at_most is not None:
            self._too_long_at = now + self._at_most

    def _stop_for_lease(self, limits: Limits, event: str, why: str, **facts: object) -> None:
        """Stop it, and only then say so: saying may take time."""
        self.stopped_by_lease = True
        self._stop()
        self._kill_in_time(system_clock().hold, limits)
        self._console.say(event, f"{why}; the command is being stopped", name=self._lease.name, **facts)

    def _stop_for_time(self, limits: Limits) -> None:
        self._too_long_at = NEVER
        if self._run.status is not None:  # What it has left running is another matter.
            return
        self.overtime = True
        self._stop()
        self._kill_in_time(system_clock().hold, limits)
        text = f"the command has run for the {span(self._at_most or 0.0)} of --at-most-for"
        self._console.say("overtime", f"{text}; it is being stopped", seconds=self._at_most)

    def _stop(self) -> None:
        self._stopping = True
        self._asked_at = system_clock().hold
        self._kill_by = self._asked_at + self._grace.kill_after
        self._guardian.stop()

    def _kill_in_time(self, now: float, limits: Limits) -> None:
        kill_at = min(self._kill_by, limits.kill_at)
        self._guardian.tell(Limits(NEVER, kill_at))
        if now < kill_at:
            return
        self._guardian.kill_all()
        if self._run.gone:
            return
        late = now - max(kill_at, self._asked_at)  # We may have been stopped ourselves until then.
        if late >= _UNHEARD and not self._guardian.anybody():
            self._guardian.kill()  # It is stopped again and again: what it does not tell, its death does.
        if late >= _WORRY and not self._warned:
            self._warned = True
            self._console.say(
                "undead",
                f"the command (process group {self._run.group}) does not end by SIGKILL: it hangs in the "
                "system or belongs to another user; end it by hand, its lock is not released before",
                group=self._run.group,
            )

    def _pause(self, limits: Limits) -> float:
        """Seconds until something is due."""
        now = system_clock().hold
        times = (
            *limits, self._lease.deadline, self._kill_by, self._leader_ended_at + LINGER, self._too_long_at
        )  # fmt: skip
        killing = self._stopping and now >= min(self._kill_by, limits.kill_at)
        longest = _STEP if killing or self._guardian.dead else _LONGEST_SLEEP
        return min(longest, *(at - now for at in times if at > now), longest)

    # ---- by signals and reports ------------------------------------------------------------------

    def _pass_on(self, number: int) -> None:
        if number == signal.SIGCHLD:
            return
        if number in QUITTING or (self._stopping and number == signal.SIGHUP):
            self.quit = number
        if number == signal.SIGCONT and self._run.group is not None:
            self._terminal.lend(self._run.group)
        self._guardian.signal(number)
        if self._wants_terminal and number in ENDING:  # Else Ctrl-C would not end what stands still there.
            self._guardian.signal(signal.SIGCONT)

    def _hear(self) -> None:
        """Take in what the guardian says, and whether it lives."""
        self._guardian.hear()
        self._guardian.reap()
        stops, self._run.stops = self._run.stops, []
        if stops:
            self._stopped(stops[-1])
        if self._run.status is not None and self._leader_ended_at == NEVER:
            self._leader_ended_at = system_clock().hold
        self._look_for_guardian()

    def _look_for_guardian(self) -> None:
        if self._guardian.dead and not self._unguarded:
            self._unguarded = True
            text = "the guardian was killed, and the command with it; what it has left running is ended"
            self._console.say("unguarded", text)

    def _stopped(self, number: int) -> None:
        """The command was stopped; the lease is renewed all the same, unless the terminal wants us too."""
        if self._stopping:
            return
        if self._terminal.lent:
            self._suspend()
        elif number in (signal.SIGTTIN, signal.SIGTTOU):
            self._bring_to_terminal()
            if self._wants_terminal:
                what = "bring it there with: fg" if self._terminal.wanted else "--no-stdin keeps it off"
                self._console.say("suspended", f"the command waits for the terminal; {what}")

    def _bring_to_terminal(self) -> None:
        """Let the command go on in the foreground, if that is ours."""
        group = self._run.group
        self._wants_terminal = group is None or not self._terminal.lend(group, asked=True)
        if not self._wants_terminal:
            self._guardian.signal(signal.SIGCONT)

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
        if self._run.group is not None:
            self._terminal.lend(self._run.group)
        self._guardian.signal(signal.SIGCONT)


def loss_of(lease: Lease) -> LeaseLost | None:
    """Why the lease does not stand at this instant; None while it does."""
    try:
        lease.check()
        return None
    except LeaseLost as loss:
        return loss
