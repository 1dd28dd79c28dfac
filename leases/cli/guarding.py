"""The guardian: the process that stops a command in time, also when the one that holds its lease cannot.

The holder may be killed, stopped, or starved. The guardian is forked from it before there are threads, shares
nothing with it but two pipes, hears no signal, and is in no group that anybody signals. It is the command's
parent, and adopts the orphans among what the command starts (`leases.cli.prctl`): when it has no child left,
nobody is left. It knows until when the command may run, and hears of every renewal. Should the holder die,
the pipe ends, and everybody is stopped at once; should the guardian die, the kernel kills the command, and
the holder finds the others below itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
from collections.abc import Callable
from typing import Final, NamedTuple, NoReturn

from leases.cli import exits, orders
from leases.cli.cgroup import sweep
from leases.cli.command import Command, Inheritance, Recipe
from leases.cli.orders import NEVER, Limits, split_orders
from leases.cli.prctl import adopt_orphans, name_process
from leases.cli.tree import group_is_gone, send_all, shown
from leases.clock import system_clock

_LONGEST_SLEEP: Final = 0.5  # poll() goes by a clock that stands still while the host sleeps
_STEP: Final = 0.02  # between looks at processes that are being stopped
_PATIENCE: Final = 60.0  # for one that even SIGKILL does not end, as in a hung system call
_LAST_WORDS: Final = 1.0  # for whoever reads what we have to say
_LEAST_OOM: Final = b"-1000"


class Post(NamedTuple):
    """What the guardian has from the holder.

    Attributes:
        orders: the descriptor that it hears orders by.
        reports: the one that it reports to.
        others: the holder's ends of both.
        mask: the signals that the holder had blocked.
    """

    orders: int
    reports: int
    others: tuple[int, int]
    mask: set[int]


def be_guardian(
    post: Post, recipe: Recipe, kill_after: float, name: str, line: Callable[[str, str], str]
) -> NoReturn:
    """In the fork, with all signals blocked: let go of what is the holder's, and watch."""
    try:
        os.setpgid(0, 0)
        for descriptor in post.others:
            os.close(descriptor)
        os.set_blocking(post.reports, False)  # A holder that is stopped reads nothing.
        name_process("leases-guardian")
        watch = _Watch(post, recipe, kill_after, name, line)
        watch.keep()
    finally:
        os._exit(0)


class _Watch:
    """What the guardian knows and does."""

    def __init__(
        self, post: Post, recipe: Recipe, kill_after: float, name: str, line: Callable[[str, str], str]
    ) -> None:
        self._post, self._recipe, self._kill_after = post, recipe, kill_after
        self._name, self._line = name, line
        self._inheritance = Inheritance(post.mask, _last_to_be_killed())
        self._adopts = shown() and adopt_orphans()
        self._bell = _child_bell()
        self._poll = select.poll()
        self._poll.register(post.orders, select.POLLIN)
        self._poll.register(self._bell, select.POLLIN)
        self._heard = self._unsaid = b""
        self._orphaned = self._childless = False
        self._command: Command | None = None
        self._rest()

    def _rest(self) -> None:
        """Have nothing to look after."""
        self._limits = Limits(NEVER, NEVER)
        self._let_go = self._stopping = False
        self._did = ""
        self._variables: bytes | None = None

    def keep(self) -> None:
        """Watch until the holder ends this process; or until it is dead, and nobody of the command lives."""
        self._prepare()
        sweep()
        while True:
            self._reap()
            self._tell_holder()
            now = system_clock().hold
            if self._command is not None and self._is_gone(self._command, now):
                self._finish(self._command)
            if self._orphaned and (self._command is None or now > self._limits.kill_at + _PATIENCE):
                return
            if self._let_go and self._command is not None:
                self._stop_in_time(self._command, now)
                self._begin_in_time(self._command, now)
            for descriptor, _ in self._poll.poll(1000 * self._pause(now)):
                data = os.read(descriptor, 65536)
                if descriptor == self._post.orders:
                    self._hear(data)

    def _pause(self, now: float) -> float:
        """Seconds until something is due. Every end of a child rings, where all of them are ours."""
        ending = self._stopping or (self._command is not None and self._command.status is not None)
        unheard = ending and not self._adopts
        longest = _STEP if unheard or now >= self._limits.kill_at else _LONGEST_SLEEP
        return min(*(at - now for at in self._limits if at > now), longest, longest)

    # ---- by the clock ----------------------------------------------------------------------------

    def _begin_in_time(self, command: Command, now: float) -> None:
        """Let it go, unless we come to read of that when its time is over."""
        if self._variables is not None and not self._stopping and now < self._limits.term_at:
            variables, self._variables = self._variables, None
            command.go(variables)

    def _stop_in_time(self, command: Command, now: float) -> None:
        if now >= self._limits.term_at:
            self._stop_alone("nobody was there to renew the lease on")
        if now >= self._limits.kill_at:
            command.kill_caged()
            self._tell(signal.SIGKILL, everybody=True)

    def _stop_alone(self, why: str) -> None:
        """Do what the holder should have done."""
        self._limits = Limits(NEVER, min(self._limits.kill_at, system_clock().hold + self._kill_after))
        self._did = f'{why} "{self._name}"; its command was stopped'
        self._stop()
        self._report(orders.ALONE)

    def _stop(self) -> None:
        """The group first, whose leader may want to end the others in its own way."""
        self._stopping = True
        self._tell(signal.SIGTERM)
        self._tell(signal.SIGCONT)  # What is stopped hears nothing.

    def _tell(self, number: int, *, everybody: bool = False) -> None:
        """Send a signal to the group; to all the others too, when its leader has ended or if asked to."""
        command = self._command
        if command is None:
            return
        if command.status is None and (not everybody or not self._adopts):
            command.signal(number)
        elif self._adopts:
            send_all(os.getpid(), command.group, number)
        elif not group_is_gone(command.group, closely=False):
            command.signal(number)

    # ---- by orders -------------------------------------------------------------------------------

    def _hear(self, data: bytes) -> None:
        """Nothing at all means that the holder is dead."""
        if not data:
            self._orphaned = True
            self._poll.unregister(self._post.orders)
            self._go_on_alone()
            return
        whole, self._heard = split_orders(self._heard + data)
        for what, more in whole:
            self._obey(what, more)

    def _obey(self, what: bytes, more: bytes) -> None:
        if what == orders.PREPARE:
            self._prepare()
        elif what == orders.TELL:
            self._limit(Limits(*orders.LIMITS.unpack(more)))
        elif what == orders.SIGNAL:
            self._tell(*orders.NUMBER.unpack(more))
        elif what == orders.STOP and not self._stopping:
            self._stop()
        elif what == orders.GO and self._command is not None:
            self._limits = Limits(*orders.LIMITS.unpack_from(more))
            self._let_go = True
            self._variables = more[orders.LIMITS.size :]

    def _limit(self, limits: Limits) -> None:
        """What was told last holds; but who was stopped alone is not given more time."""
        self._limits = limits if not self._did else Limits(NEVER, min(self._limits.kill_at, limits.kill_at))

    def _go_on_alone(self) -> None:
        if self._command is None:
            return
        if not self._let_go or self._variables is not None:
            self._command.signal(signal.SIGKILL)
        elif not self._stopping:
            self._stop_alone("the process has died that held")

    # ---- the command -----------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Have a command stand by."""
        self._rest()
        try:
            self._command = Command(self._recipe, self._inheritance)
            self._report(orders.READY, self._command.group)
        except OSError as error:
            self._report(orders.ENDED, exits.CANNOT_RUN << 8, error.errno or errno.EAGAIN)
            self._report(orders.GONE)

    def _reap(self) -> None:
        """Hear of every child that ended or stopped, be it the command's leader or an orphan."""
        self._childless = False
        try:
            while (found := os.waitpid(-1, os.WNOHANG | os.WUNTRACED))[0]:
                if self._command is not None and found[0] == self._command.group:
                    self._leader_changed(self._command, found[1])
        except ChildProcessError:
            self._childless = True

    def _leader_changed(self, command: Command, status: int) -> None:
        if os.WIFSTOPPED(status):
            self._report(orders.STOPPED, os.WSTOPSIG(status))
            return
        command.status = status
        self._report(orders.ENDED, status, command.failure())
        if self._stopping and self._adopts:
            for number in (signal.SIGTERM, signal.SIGCONT):
                send_all(os.getpid(), command.group, number, strays_only=True)

    def _is_gone(self, command: Command, now: float) -> bool:
        """Whether nobody lives of it: where all come to us, nobody who has no child has a descendant."""
        if command.status is None:
            return False
        if self._adopts:
            return self._childless
        return group_is_gone(command.group, closely=now >= self._limits.kill_at)

    def _finish(self, command: Command) -> None:
        """Say what had to be done at last, because a pipe that nobody reads would keep us."""
        command.close()
        if self._did:
            _say(self._line("stopped", self._did))
        self._command = None
        self._rest()
        self._report(orders.GONE)

    def _report(self, what: bytes, first: int = 0, second: int = 0) -> None:
        if what != orders.STOPPED or not self._unsaid:  # Who does not listen need not hear of every stop.
            self._unsaid += orders.REPORT.pack(what, first, second)
            self._tell_holder()

    def _tell_holder(self) -> None:
        """Say what is to be reported; what finds no room, because the holder does not listen, later."""
        if self._unsaid:
            try:
                self._unsaid = self._unsaid[os.write(self._post.reports, self._unsaid) :]
            except BlockingIOError:
                pass
            except OSError:  # The holder is dead.
                self._unsaid = b""


def _child_bell() -> int:
    """A descriptor that can be read when a child has changed."""
    bell, rope = os.pipe()
    os.set_blocking(bell, False)
    os.set_blocking(rope, False)
    signal.set_wakeup_fd(rope, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    return bell


def _last_to_be_killed() -> bytes | None:
    """Be spared when memory runs out, if we may say so; the score before, None if nothing was changed."""
    try:
        with open("/proc/self/oom_score_adj", "r+b", buffering=0) as file:
            before = file.read().strip()
            file.write(_LEAST_OOM)
            return before
    except OSError:
        return None


class _NobodyReads(Exception):
    """Our last words were for nobody."""


def _say(text: str) -> None:
    """Write to stderr, and do not wait for ever for whoever should read it."""

    def give_up(number: int, frame: object) -> None:
        raise _NobodyReads

    signal.signal(signal.SIGALRM, give_up)
    with contextlib.suppress(OSError, _NobodyReads):
        signal.setitimer(signal.ITIMER_REAL, _LAST_WORDS, _LAST_WORDS)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
        os.write(2, text.encode())
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    signal.setitimer(signal.ITIMER_REAL, 0.0)
