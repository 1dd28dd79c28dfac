"""Commands of many kinds under `leases hold`, many at a time, and the instant at which the last of each dies.

Each tree of processes holds the write end of a named pipe open, which nobody else does: when the pipe hangs
up, nobody lives. The holds are forked from one process that has everything imported, so a hundred are cheap.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from leases.clock import system_clock

PATIENCE: Final = 60.0

# What a command does, once its shell has opened the pipe as descriptor 9; it writes there when all is begun.
KINDS: Final = {
    "plain": "echo >&9; exec sleep 600",
    "shell": "echo >&9; sleep 600; true",
    "ignores TERM": "trap '' TERM; echo >&9; while :; do sleep 600; done",
    "forks": "sleep 600 & (sleep 600 & sleep 600) & echo >&9; wait",
    "leaves": "(setsid sh -c 'trap \"\" TERM; (sleep 600 &) ; echo >&9; sleep 600' &); sleep 600",
    "forks on and on": "echo >&9; while :; do (setsid sh -c 'sleep 0.3; sleep 0.2' &); sleep 0.1; done",
}

# Reads words as JSON, one `leases …` a line, forks that, and answers with its process id. The first word says
# whether the command may have a control group.
_FORKS: Final = """
import json, os, sys
import leases.cli.cgroup, leases.cli.hold, leases_backends.sqlite
from leases.cli.program import program
for line in sys.stdin:
    if (pid := os.fork()) == 0:
        os.setsid()
        sys.stdin.close()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        caged, *words = json.loads(line)
        if not caged:
            leases.cli.cgroup.home = lambda: None
        sys.argv = ["leases", *words]
        program()
    print(pid, flush=True)
sys.stdin.close()
"""


class Tree:
    """One hold, and the processes of its command.

    Attributes:
        kind: which of `KINDS`.
        holder: the process id of `leases`.
        url: its store, which is its own.
        died_at: when the last process of the command was gone, on the holder's clock; None before.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        folder.mkdir()
        self.kind, self.url = kind, f"sqlite://{folder}/leases.db"
        self._pipe = folder / "pipe"
        os.mkfifo(self._pipe)
        self.ear = os.open(self._pipe, os.O_RDONLY | os.O_NONBLOCK)
        self.holder = 0
        self.begun = False
        self.died_at: float | None = None

    def words(self, options: Sequence[str]) -> list[str]:
        """The arguments of `leases`."""
        line = f"exec 9>{self._pipe}; {KINDS[self.kind]}"
        return ["hold", "job", "--backend", self.url, *options, "-c", line]

    def hear(self, events: int) -> None:
        """Take in what has happened to the pipe."""
        now = system_clock().hold
        if events & select.POLLIN:
            self.begun = bool(os.read(self.ear, 4096)) or self.begun
        elif events & select.POLLHUP and self.begun:
            self.died_at = now


class Forest:
    """Many of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parent = subprocess.Popen(
            [sys.executable, "-c", _FORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, start_new_session=True,
        )  # fmt: skip
        self.trees: list[Tree] = []

    def plant(self, kind: str, *options: str, caged: bool) -> Tree:
        """Start one, with a control group where there are any, or without."""
        tree = Tree(self._folder / f"tree-{len(self.trees)}", kind)
        self.trees.append(tree)
        assert self._parent.stdin is not None and self._parent.stdout is not None
        print(json.dumps([caged, *tree.words(options)]), file=self._parent.stdin, flush=True)
        tree.holder = int(self._parent.stdout.readline())
        return tree

    def await_begun(self) -> None:
        """Wait until all of them run."""
        self._listen(lambda: all(tree.begun for tree in self.trees))

    def await_dead(self) -> None:
        """Wait until nobody of any command lives."""
        self._listen(lambda: all(tree.died_at is not None for tree in self.trees))

    def end(self) -> None:
        """Kill the holders that live; what they held is ended by that, too."""
        trees, self.trees = self.trees, []
        for tree in trees:
            with contextlib.suppress(ProcessLookupError):
                os.kill(tree.holder, signal.SIGKILL)
            os.close(tree.ear)
        assert self._parent.stdin is not None and self._parent.stdout is not None
        self._parent.stdin.close()  # Its children are nobody's then, and reaped by the first process.
        self._parent.wait(PATIENCE)
        self._parent.stdout.close()

    def processes(self) -> list[int]:
        """Those who live of all that was forked here: they have the folder among their arguments."""
        found: list[int] = []
        for process in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if bytes(self._folder) in Path(f"/proc/{process}/cmdline").read_bytes():
                    found.append(int(process))
        return found

    def _listen(self, enough: object) -> None:
        assert callable(enough)
        poll = select.poll()
        of = {tree.ear: tree for tree in self.trees if tree.died_at is None}
        for ear in of:
            poll.register(ear, select.POLLIN)
        end = time.monotonic() + PATIENCE
        while not enough():
            assert time.monotonic() < end, [tree.kind for tree in of.values() if tree.died_at is None]
            for ear, events in poll.poll(100):
                of[ear].hear(events)
                if of[ear].died_at is not None:
                    poll.unregister(ear)
            time.sleep(0.001)
