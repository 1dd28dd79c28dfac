"""The guardian as the holder sees it: the process between it and the command.

What it does is in `leases.cli.guarding`. It is forked before there are threads, hears over one pipe until
when the command may run, and says over another what became of it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import Final

from leases.cli import exits, orders
from leases.cli.cgroup import kill_left, sweep
from leases.cli.command import CannotRun, Recipe, cannot_run, packed
from leases.cli.guarding import Post, be_guardian
from leases.cli.orders import NEVER, Limits
from leases.cli.prctl import adopt_orphans, leave_orphans
from leases.cli.tree import group_is_gone, members, send_all, shown, signal_group
from leases.clock import system_clock

_FAREWELL: Final = 1.0  # for a guardian that has nothing left to do, which takes it milliseconds
_STEP: Final = 0.002


class Run:
    """One life of the command, as far as it was heard of.

    Attributes:
        group: its process group, and its leader; None before it stands by.
        status: what the leader ended with, as `os.waitpid` tells it; None before.
        stops: the signals that stopped the leader, and that nobody has looked at yet.
        stopped_alone: the guardian has stopped it, because we had not said in time that it may run.
        gone: nobody of it lives, nor of what it has started.
    """

    def __init__(self) -> None:
        self.group: int | None = None
        self.status: int | None = None
        self.stops: list[int] = []
        self.gone = self.stopped_alone = False
        self._errno = 0

    def hear(self, what: bytes, first: int, second: int) -> None:
        """Take in a report of the guardian."""
        if what == orders.READY:
            self.group = first
        elif what == orders.STOPPED:
            self.stops.append(first)
        elif what == orders.ENDED:
            self.status, self._errno = first, second
        elif what == orders.ALONE:
            self.stopped_alone = True
        elif what == orders.GONE:
            self.gone = True

    @property
    def failure(self) -> CannotRun | None:
        """Why it never became the command; None if it did."""
        return cannot_run(self._errno) if self._errno else None

    @property
    def code(self) -> int:
        """The exit code of the leader that has ended: its own, or 128 and the number of the signal."""
        if self.status is None:  # It was killed where we are not told of it.
            return exits.SIGNALLED + signal.SIGKILL
        code = os.waitstatus_to_exitcode(self.status)
        return code if code >= 0 else exits.SIGNALLED - code

    @property
    def killed(self) -> bool:
        """Whether a signal ended the leader."""
        return self.status is None or os.WIFSIGNALED(self.status)


class Guardian:
    """The process that looks after the command, and after us.

    If it dies, what it had adopted comes to us, unless there are strangers among our children: `a & exec
    leases hold …` leaves us what the shell had started. Then we adopt nobody, and signal no child of ours.

    Args:
        recipe: the command.
        kill_after: seconds between SIGTERM and SIGKILL, where there is time for it.
        name: the lock, for the one line that it may have to say.
        line: makes that line of an event and a text.

    Attributes:
        pid: its number.
        ear: a descriptor that can be read when `hear` has something to do; None when it never will any more.
        run: the life of the command that is, or is to be.
        dead: it ended, and was reaped.

    Raises:
        OSError: the system has no process or descriptor left.
    """

    def __init__(self, recipe: Recipe, kill_after: float, name: str, line: Callable[[str, str], str]) -> None:
        down, self._orders = os.pipe()
        ear, up = os.pipe()
        self.ear: int | None = ear
        strangers = _has_children()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self.pid = os.fork()
            if self.pid == 0:
                post = Post(down, up, (self._orders, ear), set(mask))
                be_guardian(post, recipe, kill_after, name, line)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(down)
        os.close(up)
        os.set_blocking(self._orders, False)
        os.set_blocking(ear, False)
        self.run = Run()
        self.dead = self._dismissed = False
        self._told = Limits(NEVER, NEVER)
        self._adopts = shown() and adopt_orphans()
        self._inherits = self._adopts and not strangers
        if self._adopts and strangers:
            leave_orphans()
        self._died_first = False

    # ---- orders ----------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Have another command ready, the one before being gone."""
        self.run = Run()
        self._told = Limits(NEVER, NEVER)
        self._order(orders.PREPARE)

    def go(self, limits: Limits, variables: Mapping[str, str]) -> None:
        """Let the command go that is ready; the guardian knows its limits first."""
        self._told = limits
        if not self._order(orders.GO, orders.LIMITS.pack(*limits) + packed(variables)):
            self.kill()

    def tell(self, limits: Limits) -> None:
        """Tell it what holds from now on. If it does not hear, we do our part alone."""
        if limits != self._told and self._order(orders.TELL, orders.LIMITS.pack(*limits)):
            self._told = limits

    def signal(self, number: int) -> None:
        """Pass a signal on to the group. The guardian does it, who knows whose number that is."""
        if self.dead:
            self._send_all(number)
        elif not self._order(orders.SIGNAL, orders.NUMBER.pack(number)) and self.run.group is not None:
            signal_group(self.run.group, number)

    def stop(self) -> None:
        """Tell all of them to end: the group first, and what went elsewhere when the leader has ended."""
        if self.dead:
            self._send_all(signal.SIGTERM)
            self._send_all(signal.SIGCONT)
        elif not self._order(orders.STOP) and self.run.group is not None:
            signal_group(self.run.group, signal.SIGTERM)
            signal_group(self.run.group, signal.SIGCONT)

    def kill_all(self) -> None:
        """Kill everybody of the run, whether the guardian does it, too, or cannot."""
        self.hear()
        if not self.run.gone and self.run.group is not None:
            self._send_all(signal.SIGKILL)

    def anybody(self) -> bool:
        """Whether anybody of the run lives, as far as can be seen."""
        if not (self._inherits if self.dead else self._adopts):
            return True
        return any(member.alive for member in members(os.getpid() if self.dead else self.pid))

    def kill(self) -> None:
        """Kill the guardian, and with it the command; what is left comes to be our own child."""
        if not self.dead:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def dismiss(self) -> None:
        """End it, and what it looks after, if there still is anything."""
        if self._dismissed:
            return
        self._dismissed = True
        self.hear()
        self._end()
        if self._died_first:
            sweep(self.pid)

    # ---- reports ---------------------------------------------------------------------------------

    def hear(self) -> None:
        """Take in what it has said."""
        if self.ear is None:
            return
        try:
            data = os.read(self.ear, 65536 // orders.REPORT.size * orders.REPORT.size)
        except BlockingIOError:
            return
        for report in orders.REPORT.iter_unpack(data):
            self.run.hear(*report)
        if not data:
            os.close(self.ear)
            self.ear = None

    def reap(self) -> None:
        """Hear of the guardian's end, or stop; once it is dead, of all whom it has left to us."""
        try:
            while True:
                child, status = os.waitpid(
                    -1 if self.dead and self._inherits else self.pid, os.WNOHANG | os.WUNTRACED
                )
                if child == 0:
                    break
                self._reaped(child, status)
        except ChildProcessError:
            self.run.gone = self.run.gone or (self.dead and self._inherits)
        if self.dead and not self._inherits:
            group = self.run.group
            self.run.gone = self.run.gone or group is None or group_is_gone(group, closely=True)

    def _reaped(self, child: int, status: int) -> None:
        if child == self.pid and os.WIFSTOPPED(status):
            os.kill(child, signal.SIGCONT)  # Whoever stopped it did not mean to leave us unguarded.
        elif child == self.pid:
            self.hear()
            self.dead = True
            if not self.run.gone:
                self._died_first = True
                if not self._inherits:
                    kill_left(self.pid)
        elif child == self.run.group and not os.WIFSTOPPED(status):
            self.run.status = status

    # ---- helpers ---------------------------------------------------------------------------------

    def _end(self) -> None:
        """See to its end, and to that of whom it has not seen to."""
        if self.run.gone:
            self.kill()
            with contextlib.suppress(ChildProcessError):  # It was reaped before.
                os.waitpid(self.pid, 0)
            self.dead = True
            return
        if self._told.kill_at != NEVER:  # It was let go.
            self._send_all(signal.SIGKILL)
        os.close(self._orders)  # That ends what waits, and then the guardian.
        self._farewell()

    def _order(self, what: bytes, more: bytes = b"") -> bool:
        """Whether it could be said: not if it is dead, or stopped for so long that its pipe is full."""
        message = orders.ORDER.pack(what, len(more)) + more
        try:
            return os.write(self._orders, message) == len(message)
        except OSError:
            return False

    def _send_all(self, number: int) -> None:
        """Send a signal to all who are below the guardian, or below us when it is dead."""
        group = self.run.group
        if group is None:
            return
        if self.dead and number == signal.SIGKILL:
            kill_left(self.pid)
        if self._inherits if self.dead else self._adopts:
            send_all(os.getpid() if self.dead else self.pid, group, number)
        elif self.run.status is None or not group_is_gone(group, closely=False):
            signal_group(group, number)

    def _farewell(self) -> None:
        """Reap it, and kill it if it does not end by itself; then whoever of its own has come to us."""
        patience = system_clock().wait + _FAREWELL
        while not (self.dead and (self.run.gone or self.run.group is None)):
            self.reap()
            now = system_clock().wait
            if now >= patience:
                self.kill()
            if self.dead and not self.run.gone:
                self._send_all(signal.SIGKILL)
            if now >= patience + _FAREWELL:
                return
            time.sleep(_STEP)


def _has_children() -> bool:
    """Whether this process has any child; nothing is heard of how it ended."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return True
    except (ChildProcessError, AttributeError):  # Not every system has it; none of those knows adoption.
        return False
