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
    from collections.abc import Callable
    from types import FrameType

# What makes a process end, unless it decides otherwise.
ENDING: Final = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip
# What asks for the end of all; others may mean something else to a command that goes on.
QUITTING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
# What a command is told besides.
PASSING: Final = (signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)


class Signals:
    """The signals that come to this process. There is one of these in a process, until its end.

    Attributes:
        on_child: called by who waits, when a child has ended or stopped.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._poll = select.poll()
        self._poll.register(self._read, select.POLLIN)
        self._also: int | None = None
        self.on_child: Callable[[], None] | None = None
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self.listen(*ENDING, signal.SIGCHLD)

    def listen(self, *numbers: int) -> None:
        """Hear of these signals too. What the caller has had ignored, as nohup does, stays ignored."""
        for number in numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _note)

    def leave(self, *numbers: int) -> None:
        """Hear of these signals no more: they do again what the system makes of them."""
        for number in numbers:
            if signal.getsignal(number) is _note:
                signal.signal(number, signal.SIG_DFL)

    def wait(self, timeout: float | None, also: int | None = None) -> list[int]:
        """The signals that came, in order; empty after `timeout` seconds, or when woken.

        Args:
            timeout: seconds; None for ever.
            also: a descriptor that wakes when it can be read; nothing is read from it.
        """
        if also != self._also:
            self._register(also)
        found = self._poll.poll(None if timeout is None else max(timeout, 0.0) * 1000)
        if not any(descriptor == self._read for descriptor, _ in found):
            return []
        numbers = [number for number in os.read(self._read, 4096) if number]
        if signal.SIGCHLD in numbers and self.on_child is not None:
            self.on_child()
        return numbers

    def _register(self, also: int | None) -> None:
        if self._also is not None:
            self._poll.unregister(self._also)
        if also is not None:
            self._poll.register(also, select.POLLIN)
        self._also = also

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
