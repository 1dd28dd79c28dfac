"""What the first process of a container owes the others there, so that the image needs no program for it.

The kernel hands every orphan to process 1, which has to wait for it; and it keeps from process 1 each signal
that it has no handler for, SIGKILL from inside among them. So `leases` as process 1 forks at once: the child
is the command, an ordinary process, and the first passes signals on and buries the dead. With
`docker run --init`, or in a pod that shares its process namespace, somebody else is the first, and nothing
of this happens.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Final

from leases.cli.exits import SIGNALLED

# Faults of this process itself, and what a terminal sends to who is in the background.
_OURS: Final = frozenset(
    {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP}
    | {signal.SIGTTIN, signal.SIGTTOU}
)


def become_first() -> None:
    """Fork. Returns in the child, which is to do the work; the parent ends with the child's code.

    A child that a signal has ended makes that 128 + its number, as in a shell: process 1 cannot die of one.
    """
    # Blocked before there is a child, so that none is lost: the first process takes them one by one.
    heard = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, heard)
    child = os.fork()
    if child == 0:
        _stand_in_front()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    os._exit(_attend(child, heard))


def _stand_in_front() -> None:
    """A group of its own, in the foreground: Ctrl-C is for the command, which would get it twice."""
    os.setpgid(0, 0)
    with contextlib.suppress(OSError):  # There is no terminal.
        os.tcsetpgrp(0, os.getpgrp())


def _attend(child: int, heard: set[signal.Signals]) -> int:
    """Pass signals on and wait for everybody who ends, until the child does; its exit code."""
    while True:
        number = signal.sigwait(heard)
        if number == signal.SIGCHLD:
            status = _bury(child)
            if status is not None:
                return os.WEXITSTATUS(status) if os.WIFEXITED(status) else SIGNALLED + os.WTERMSIG(status)
        elif number not in _OURS:
            os.kill(child, number)  # It cannot be another's: its number is not free before it is waited for.


def _bury(child: int) -> int | None:
    """Wait for all who have ended; the status of the child if it is among them."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            if pid == child and os.WIFSTOPPED(status):
                _go_on(child, os.WSTOPSIG(status))
            elif pid == child:
                return status  # Whoever is left ends with this process, and needs no funeral.
            if pid == 0:
                return None
    return None


def _go_on(child: int, number: int) -> None:
    """Undo a Ctrl-Z: on the terminal of a container there is no shell that could, and Ctrl-C is not felt."""
    if number == signal.SIGTSTP and os.isatty(0):
        with contextlib.suppress(OSError):
            os.killpg(child, signal.SIGCONT)
            os.tcsetpgrp(0, child)
