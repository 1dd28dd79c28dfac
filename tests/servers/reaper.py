"""Ends the servers that a killed test run left behind: one small process a run, a moment longer.

The kernel's own way (PR_SET_PDEATHSIG) is Linux only, and it ends a server with the *thread* that started it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

# A child forked by a test keeps the pipe open after the run has ended; a changed parent tells of it too.
LOOK_S: Final = 1.0


class Reaper:
    """Tells the small process what there is to end; it is started when there is something."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def watch(self, pid: int) -> None:
        """End this process if the tests end before it."""
        self._say(f"watch {pid}")

    def forget(self, pid: int) -> None:
        """It has ended, and its pid may be another's."""
        self._say(f"forget {pid}")

    def remove_at_end(self, folder: Path) -> None:
        """Remove this folder if the tests end before they have removed it."""
        self._say(f"remove {folder.resolve()}")

    def removed(self, folder: Path) -> None:
        self._say(f"removed {folder.resolve()}")

    def _say(self, line: str) -> None:
        with self._mutex:
            if self._owner != os.getpid():
                self._start()
            assert self._process is not None and self._process.stdin is not None
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def _start(self) -> None:
        self._owner = os.getpid()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(self._owner)],
            stdin=subprocess.PIPE,
            start_new_session=True,  # what ends the tests must not end it with them
        )
        atexit.register(self._end)

    def _end(self) -> None:
        if self._owner == os.getpid() and self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            self._process.wait(30.0)


REAPER: Final = Reaper()


class _Left:
    """What is to be ended and removed."""

    def __init__(self) -> None:
        self._pids: set[int] = set()
        self._folders: set[str] = set()

    def told(self, line: str) -> None:
        verb, _, what = line.partition(" ")
        match verb:
            case "watch":
                self._pids.add(int(what))
            case "forget":
                self._pids.discard(int(what))
            case "remove":
                self._folders.add(what)
            case _:
                self._folders.discard(what)

    def end(self) -> None:
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getpgid(pid) == pid:  # as each was started; another's would rarely do that
                    os.kill(pid, signal.SIGKILL)
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)


def main(parent: int) -> None:
    """Follow what is said on standard input; at its end, or the parent's, end and remove what is left."""
    left = _Left()
    rest = b""
    while True:
        # Whatever has been said is read first: the parent may have ended before this began.
        if not select.select([0], [], [], LOOK_S)[0]:
            if os.getppid() == parent:
                continue
            break
        read = os.read(0, 65536)
        if not read:
            break
        *lines, rest = (rest + read).split(b"\n")
        for line in lines:
            left.told(line.decode())
    left.end()


if __name__ == "__main__":
    main(int(sys.argv[1]))
