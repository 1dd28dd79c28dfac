"""Signals and wake-ups as bytes on one pipe, so that one wait is for everything at once.

Python runs signal handlers between two steps of the main thread, wherever that is; here they do nothing, and
the number that the interpreter writes to the pipe is read at the one place where something can be done.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import FrameType

# What makes a process end, unless it decides otherwise.
ENDING: Final = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip
# What a command is told besides.
PASSING: Final = (signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)


class Signals:
    """The signals that come to this process. There is one of these in a process, until its end."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._poll = select.poll()
        self._poll.register(self._read, select.POLLIN)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self.listen(*ENDING, signal.SIGCHLD)

    def listen(self, *numbers: int) -> None:
        """Hear of these signals too. What the caller has had ignored, as nohup does, stays ignored."""
        for number in numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _note)

    def wait(self, timeout: float | None) -> list[int]:
        """The signals that came, in order; empty after `timeout` seconds, or when woken."""
        if not self._poll.poll(None if timeout is None else max(timeout, 0.0) * 1000):
            return []
        return [number for number in os.read(self._read, 4096) if number]

    def wake(self) -> None:
        """End the wait that is under way, or the next; from any thread."""
        with contextlib.suppress(BlockingIOError):  # It is full, so it wakes anyway.
            os.write(self._write, b"\0")


def prepare_process() -> None:
    """Make sure of what is usual and not certain, before anything is opened or forked."""
    # Else Python would unwind with a traceback where Ctrl-C hits before there is anything to clean up.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # Ignored by the caller, it would swallow exit codes.
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # Closed by the caller. A pipe of ours must not come to be there.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _note(number: int, frame: FrameType | None) -> None:
    """The interpreter has written the number to the pipe."""
