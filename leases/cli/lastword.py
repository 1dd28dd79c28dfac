"""`--status-fd N`: one line of JSON at the very end, for a script that has to know how it ended.

Exit codes cannot say it all: a command may end with 75 of its own. The line is made of what was said on the
way, whether anybody wanted to read that or not. No line at all means that `leases` itself was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
from typing import Any, Final

from leases.cli.console import Console
from leases.cli.options import UsageError
from leases.clock import system_clock

_SECONDS: Final = 2.0  # for somebody to read the line, where there is no room for it
# What some events say of the release, and what others call the end if nothing worse comes after them.
_RELEASED: Final = {"released": True, "kept": False, "unconfirmed": False, "lost": False}
_OUTCOMES: Final = {"lost": "lost", "jeopardy": "lost", "overtime": "overtime", "error": "unrunnable"}


class Witness(Console):
    """A console that remembers what was said.

    Args:
        descriptor: where the line is to go; the command does not inherit it.
        name: what is wanted.
        as_json, verbose: see `Console`.

    Raises:
        UsageError: nothing can be written there.
    """

    def __init__(self, descriptor: int, name: str, *, as_json: bool, verbose: bool) -> None:
        super().__init__(as_json=as_json, verbose=verbose)
        self._number = descriptor
        self._descriptor = _taken(descriptor)
        self._acquired_at: float | None = None
        self._told: dict[str, Any] = dict.fromkeys(("name", "slot", "holder", "token", "held", "released"))
        self._told["name"] = name
        self._command: dict[str, int] | None = None
        self._outcome: str | None = None

    def say(self, event: str, text: str, **facts: Any) -> None:
        self._hear(event, facts)
        super().say(event, text, **facts)

    def note(self, event: str, text: str, **facts: Any) -> None:
        if not self.curious:  # Else it comes by way of `say`.
            self._hear(event, facts)
        super().note(event, text, **facts)

    def _hear(self, event: str, facts: dict[str, Any]) -> None:
        now = system_clock().hold
        if event == "acquired":
            self._told.update(
                {key: facts.get(key) for key in self._told}
            )  # Those of its end are not known yet.
            self._acquired_at, self._command, self._outcome = now, None, None
        elif event == "ended":
            self._command = facts
        elif event == "conflict":
            self._told["holder"] = facts.get("holder")
        # What is let go of after a loss was not ours any more.
        if event in _RELEASED and self._acquired_at is not None and self._told["released"] is None:
            self._told.update(released=_RELEASED[event], held=round(now - self._acquired_at, 3))
        if event in _OUTCOMES:
            self._outcome = _OUTCOMES[event]

    def end(self, outcome: str, code: int) -> None:
        """Write the line; in bounded time, whatever stands at the other end.

        Args:
            outcome: how it ended, as far as nothing else was said.
            code: our exit code.
        """
        if outcome == "done":
            outcome = self._outcome or outcome
        if self._acquired_at is not None and self._told["released"] is None:
            # It was stopped in time, and nobody has confirmed a release.
            self._told.update(released=False, held=round(system_clock().hold - self._acquired_at, 3))
        line = json.dumps({"outcome": outcome, "code": code, **self._told, "command": self._command}) + "\n"
        thread = threading.Thread(
            target=_write, args=(self._descriptor, line), name="leases-status", daemon=True
        )
        thread.start()
        thread.join(_SECONDS)
        if thread.is_alive():
            self.say("unread", f"nobody reads descriptor {self._number}, which is full; read it to its end")


def _taken(number: int) -> int:
    """A descriptor of our own for the same file, in the place of one that the command would inherit.

    Raises:
        UsageError: it is not open, or not for writing.
    """
    try:
        mode = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE
        mine = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3)
    except (OSError, OverflowError):
        raise UsageError(f"--status-fd {number} is not open; open it, as in --status-fd 3 3>status") from None
    if mode == os.O_RDONLY:
        raise UsageError(
            f"--status-fd {number} is open for reading only; open it with {number}> or {number}>>"
        )
    if number > 2:  # The command has use for the first three.
        os.close(number)
    return mine


def _write(descriptor: int, line: str) -> None:
    data = line.encode()
    with contextlib.suppress(OSError):  # Nobody reads it any more.
        while data:
            data = data[os.write(descriptor, data) :]
