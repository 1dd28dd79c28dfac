"""The terminal, lent to the command while it runs, as a shell does with its jobs."""

from __future__ import annotations

import contextlib
import os
import signal
import termios
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leases.cli.signals import Signals


class Terminal:
    """The terminal of our session, if there is one; otherwise nothing happens here.

    It is lent at once where it is stdin. Elsewhere, as at the end of a pipeline, others may need it, and it
    is lent to a command that asks for it, as `less` does, or `ssh` for a password.

    Args:
        wanted: whether the command reads our stdin, or any terminal.

    Attributes:
        wanted: the same.
    """

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        self._lent_to: int | None = None
        self._modes: list[Any] | None = None
        self._file: int | None = None
        with contextlib.suppress(OSError):
            if wanted and os.isatty(0) and os.tcgetpgrp(0) >= 0:
                self._use(0)

    def _use(self, file: int) -> None:
        self._file = file
        # Else taking it back, which is done from the background, would stop this process.
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)

    def lend(self, group: int, *, asked: bool = False) -> bool:
        """Put a group in the foreground, if we are there ourselves; whether it was done.

        Args:
            asked: it was stopped because it wants to be there. From then on it has it as if it were stdin.
        """
        with contextlib.suppress(OSError, termios.error):
            if asked and self.wanted and self._file is None:
                self._use(os.open(os.ctermid(), os.O_RDWR | os.O_NOCTTY))
            if self._file is not None and os.tcgetpgrp(self._file) == os.getpgrp():
                if self._modes is None:
                    self._modes = termios.tcgetattr(self._file)
                os.tcsetpgrp(self._file, group)
                self._lent_to = group
                return True
        return False

    @property
    def lent(self) -> bool:
        """Whether the command had it last."""
        return self._lent_to is not None

    def take_back(self, *, repair: bool = False) -> None:
        """Be in the foreground again.

        Args:
            repair: set its modes as they were, because who had it was killed and could not do that.
        """
        group, self._lent_to = self._lent_to, None
        with contextlib.suppress(OSError, termios.error):
            if group is None or self._file is None or os.tcgetpgrp(self._file) != group:
                return  # A shell has it by now.
            os.tcsetpgrp(self._file, os.getpgrp())
            if repair and self._modes is not None:
                # At once, because a terminal that is stopped never drains.
                termios.tcsetattr(self._file, termios.TCSANOW, self._modes)

    def suspend(self, signals: Signals) -> None:
        """Stop, with all of our group, as the command just was; return when continued."""
        self.take_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.killpg(0, signal.SIGTSTP)
        signals.listen(signal.SIGTSTP)
