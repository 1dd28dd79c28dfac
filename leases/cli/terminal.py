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
    """The terminal on stdin, if there is one and it is that of our session; otherwise nothing happens here.

    Args:
        wanted: whether the command reads our stdin at all.
    """

    def __init__(self, wanted: bool) -> None:
        self._lent_to: int | None = None
        self._modes: list[Any] | None = None
        try:
            self._ours = wanted and os.isatty(0) and os.tcgetpgrp(0) >= 0
        except OSError:
            self._ours = False
        if self._ours:
            # Else taking it back, which is done from the background, would stop this process.
            signal.signal(signal.SIGTTOU, signal.SIG_IGN)

    def lend(self, group: int) -> bool:
        """Put a group in the foreground, if we are there ourselves; whether it was done."""
        with contextlib.suppress(OSError, termios.error):
            if self._ours and os.tcgetpgrp(0) == os.getpgrp():
                if self._modes is None:
                    self._modes = termios.tcgetattr(0)
                os.tcsetpgrp(0, group)
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
            if group is None or os.tcgetpgrp(0) != group:  # A shell has it by now.
                return
            os.tcsetpgrp(0, os.getpgrp())
            if repair and self._modes is not None:
                termios.tcsetattr(0, termios.TCSANOW, self._modes)  # One that is stopped never drains.

    def suspend(self, signals: Signals) -> None:
        """Stop, with all of our group, as the command just was; return when continued."""
        self.take_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.killpg(0, signal.SIGTSTP)
        signals.listen(signal.SIGTSTP)
