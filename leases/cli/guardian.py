"""The guardian: a process that stops the command in time when the one that holds the lease no longer can.

The holder may be killed, stopped, or starved. The guardian is forked from it before there are threads, shares
nothing with it but a pipe, and sits in a session of its own, where no terminal and no signal to the holder's
group reaches it. It knows until when the command may run, and hears of every renewal. Should the
holder die, the pipe ends, and the command is stopped at once.
"""

from __future__ import annotations

import os
import select
import signal
import struct
from collections.abc import Callable
from typing import Final, NamedTuple, NoReturn

from leases.cli.command import group_is_gone, signal_group
from leases.clock import system_clock

NEVER: Final = float("inf")
_LIMITS: Final = struct.Struct("=dd")
_LONGEST_SLEEP: Final = 0.5  # poll() goes by a clock that stands still while the host sleeps
_STEP: Final = 0.02  # between looks at a group that is being stopped
_PATIENCE: Final = 60.0  # for a group that even SIGKILL does not end, as in a hung system call


class Limits(NamedTuple):
    """When the group is told to stop, and when it is killed, on the holder's clock."""

    term_at: float
    kill_at: float


class Guardian:
    """The guardian as the holder sees it.

    Args:
        group: the process group of the command.
        kill_after: seconds between SIGTERM and SIGKILL, where there is time for it.
        name: the lock, for the one line that it may have to say.
        line: makes that line of an event and a text.

    Attributes:
        dead: it ended, and was reaped.
    """

    def __init__(self, group: int, kill_after: float, name: str, line: Callable[[str, str], str]) -> None:
        pipe, self._pipe = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _be_guardian(pipe, _Watch(group, kill_after, name), line)
        os.close(pipe)
        os.set_blocking(self._pipe, False)
        self._told = Limits(NEVER, NEVER)
        self.dead = False

    def tell(self, limits: Limits) -> None:
        """Tell it what holds from now on."""
        if limits == self._told:
            return
        try:
            os.write(self._pipe, _LIMITS.pack(*limits))
            self._told = limits
        except OSError:  # It is stopped and the pipe full, or it is dead: the holder does its part alone.
            pass

    def dismiss(self) -> None:
        """The group is gone: end it."""
        if not self.dead:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.dead = True


class _Watch:
    """What the guardian knows and does."""

    def __init__(self, group: int, kill_after: float, name: str) -> None:
        self._group, self._kill_after, self._name = group, kill_after, name
        self._limits = Limits(NEVER, NEVER)
        self._stopping = self._orphaned = False
        self.did = ""

    def keep(self, pipe: int) -> None:
        """Watch until the holder ends this process, or until the group has had to be stopped."""
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        while not self._over():
            now = system_clock().hold
            if now >= self._limits.term_at:
                self._stop("nobody was there to renew the lease on")
            if now >= self._limits.kill_at:
                signal_group(self._group, signal.SIGKILL)
            if poll.poll(1000 * self._pause(now)):
                self._hear(os.read(pipe, 65536))
                if self._orphaned:
                    poll.unregister(pipe)

    def _pause(self, now: float) -> float:
        longest = _STEP if self._stopping else _LONGEST_SLEEP
        return min(*(at - now for at in self._limits if at > now), longest, longest)

    def _hear(self, data: bytes) -> None:
        """The last of what was said holds. Nothing at all means that the holder is dead."""
        if data:
            self._limits = Limits(*_LIMITS.unpack(data[-_LIMITS.size :]))
            return
        self._orphaned = True
        if self._limits.kill_at == NEVER:
            return  # The command was never let go, and ends by itself.
        if self._limits.term_at != NEVER:
            self._stop("the process has died that held")
        self._stopping = True

    def _stop(self, why: str) -> None:
        self._limits = Limits(NEVER, min(self._limits.kill_at, system_clock().hold + self._kill_after))
        self._stopping = True
        self.did = f'{why} "{self._name}"; its command was stopped'
        signal_group(self._group, signal.SIGTERM)
        signal_group(self._group, signal.SIGCONT)

    def _over(self) -> bool:
        if self._orphaned and not self._stopping:
            return True
        if not self._stopping:
            return False
        if system_clock().hold > self._limits.kill_at + _PATIENCE:
            return True
        # A holder that is alive but stopped keeps its place: what it does when it goes on is its own affair.
        return group_is_gone(self._group, closely=system_clock().hold >= self._limits.kill_at)


def _be_guardian(pipe: int, watch: _Watch, line: Callable[[str, str], str]) -> NoReturn:
    """In the fork: let go of all that is the holder's, and watch."""
    try:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 0)
        os.dup2(nowhere, 1)
        os.closerange(3, pipe)
        os.closerange(pipe + 1, min(max(os.sysconf("SC_OPEN_MAX"), 256), 65536))
        os.chdir("/")
        watch.keep(pipe)
        if watch.did:  # Said at last, because a pipe that nobody reads would keep us.
            os.write(2, line("stopped", watch.did).encode())
    finally:
        os._exit(0)
