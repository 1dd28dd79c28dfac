"""Printing in a thread of its own, for commands that go on: a reader who does not read holds up nothing else.

A write to a full pipe waits for its reader, and no signal ends that wait. Who is to resign at a signal, or to
end at one, must not be the one who waits.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Final

from leases.cli.console import print_out
from leases.threads import Bell

if TYPE_CHECKING:
    from collections.abc import Callable

_PATIENCE: Final = 1.0  # seconds for a reader to take the last lines, when all is over


class Printer:
    """Prints what it is given, in order, and tells when nobody reads it any more.

    Args:
        wake: called when something has been printed, or cannot be.

    Attributes:
        error: why nothing more can be printed: nobody reads it (`BrokenPipeError`), or the disk is full.
    """

    def __init__(self, wake: Callable[[], object]) -> None:
        self.error: OSError | None = None
        self._wake, self._bell = wake, Bell()
        self._texts: deque[str] = deque()
        self._mutex, self._idle = threading.Lock(), threading.Event()
        self._idle.set()
        threading.Thread(target=self._run, name="leases-print", daemon=True).start()
        self._watch_readers()

    @property
    def idle(self) -> bool:
        """Whether all that was given has been printed."""
        return self._idle.is_set()

    def put(self, text: str) -> None:
        """Print a text, as soon as what came before it is printed."""
        with self._mutex:
            if self.error is not None:
                return
            self._idle.clear()
            self._texts.append(text)
        self._bell.ring()

    def finish(self, code: int) -> int:
        """The exit code, when all is printed; where that cannot be, the process ends here and now with it."""
        if not self._idle.wait(_PATIENCE):
            os._exit(code)  # A flush at the end of the interpreter would wait, too.
        return code

    def _run(self) -> None:
        while self.error is None:
            self._bell.wait(None)
            while self._texts and self.error is None:
                try:
                    print_out(self._texts.popleft())
                except OSError as error:
                    self._fail(error)
            with self._mutex:
                if self.error is not None or not self._texts:
                    self._idle.set()
            self._wake()

    def _fail(self, error: OSError) -> None:
        if self.error is None:
            self.error = error
        self._wake()

    def _watch_readers(self) -> None:
        """Hear of it when the last reader has gone, which the next line would show, and it may never come."""
        if sys.stdout is None:
            return
        try:
            descriptor = sys.stdout.fileno()
            os.fstat(descriptor)
        except OSError:  # No file is behind it.
            return

        def listen() -> None:
            poll = select.poll()
            poll.register(descriptor, 0)  # Errors alone: the other end is closed.
            while not any(event & (select.POLLERR | select.POLLNVAL) for _, event in poll.poll()):
                pass
            self._fail(BrokenPipeError())

        threading.Thread(target=listen, name="leases-readers", daemon=True).start()
