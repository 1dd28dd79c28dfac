"""A terminal for a test: a program at its one end, and the test, which types and reads, at the other."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Final

PATIENCE: Final = 30.0

# Make stdin the controlling terminal of a new session, and become the program.
_SESSION: Final = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """A program that has a terminal for stdin, stdout and stderr, and leads its session."""

    def __init__(self, *words: str, env: Mapping[str, str], cwd: str) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SESSION, *words],
            stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm", **env}, cwd=cwd,
            start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        self.text = ""
        self._read = 0

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._ours, text.encode())

    def expect(self, *words: str) -> str:
        """Read until all of these came, in order, after what was expected before; what was read."""
        began = self._read
        for word in words:
            self._read = self._find(word) + len(word)
        return self.text[began : self._read]

    def seen(self) -> str:
        """All that came until now."""
        while self._more(0):
            pass
        return self.text

    def _find(self, word: str) -> int:
        end = time.monotonic() + PATIENCE
        while (at := self.text.find(word, self._read)) < 0:
            assert time.monotonic() < end, f"{word!r} did not come after: {self.text!r}"
            if not self._more(0.1) and self.process.poll() is not None and not self._more(0.1):
                raise AssertionError(f"{word!r} never came, it ended with: {self.text!r}")
        return at

    def _more(self, seconds: float) -> bool:
        if not select.select([self._ours], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # Linux tells the end so.
            return False
        self.text += data.decode(errors="replace")
        return bool(data)

    def wait(self) -> int:
        """The exit code, when it has ended."""
        end = time.monotonic() + PATIENCE
        while self.process.poll() is None and time.monotonic() < end:
            self._more(0.05)
        while self._more(0.05):
            pass
        return self.process.wait(0)

    def close(self) -> None:
        """Hang up."""
        os.close(self._ours)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
