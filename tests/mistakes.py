"""What is the same of every failure of a command, whatever was wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

MOST_CHARACTERS: Final = 1500  # of a line that somebody is to read

# Every command that asks a store, with what it needs besides; "ran" is there if a command was run.
ASKING: Final = {
    "hold": ("hold", "job", "-w", "1", "--", "touch", "ran"),
    "elect": ("elect", "job", "--", "touch", "ran"),
    "elector": ("elector", "job", "--http", "localhost:0"),
    "status": ("status", "job"),
    "list": ("list",),
    "watch": ("watch",),
    "watch-one": ("watch", "job"),
    "validate": ("validate", "job", "--holder", "me", "--token", "1"),
    "break": ("break", "job", "--if-token", "1"),
    "prune": ("prune",),
}
# Those that are a process group or a server, and so are not tried within the process of a test.
HOLDING: Final = ("hold", "elect", "elector")


def on(url: str, command: str) -> tuple[str, ...]:
    """The words of a command on a store."""
    first, *others = ASKING[command]
    return (first, "--backend", url, *others)


def check_line(err: str, *, secret: str = "geheim") -> None:
    """One line of ours, which a terminal can show and somebody can read; its end says what to do."""
    assert re.fullmatch(r"leases( [a-z]+)?: [^\n]+\n", err), err
    assert err[:-1].isprintable() and len(err) < MOST_CHARACTERS, err[:3000]
    assert "Traceback" not in err and secret not in err, err
    assert re.search(r"[;:,] [^;]{3,}$", err.rstrip("\n")), err


def check(done: subprocess.CompletedProcess[str], code: int, *, secret: str = "geheim") -> None:
    """The code, nothing on stdout, and such a line."""
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    check_line(done.stderr, secret=secret)


def left_in(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*"))


def left_running(mark: str) -> list[int]:
    """The processes in whose environment or words a text stands."""
    found: list[int] = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            about = [Path("/proc", process, what).read_bytes() for what in ("environ", "cmdline")]
        except OSError:  # It has ended, or is somebody else's.
            continue
        if any(mark.encode() in text for text in about):
            found.append(int(process))
    return found


def check_refused(url: str, folder: Path, *, secret: str) -> None:
    """Who holds and who looks is told that the store refuses such credentials, which nobody shows; 77.

    Args:
        url: the store, with credentials that are wrong.
        folder: where the commands run.
        secret: what no line may show.
    """
    for command in ("hold", "validate", "list"):
        words = (sys.executable, "-m", "leases", *on(url, command))
        done = subprocess.run(words, capture_output=True, text=True, cwd=folder, timeout=30)
        check(done, 77, secret=secret)
    assert left_in(folder) == [] and left_running(secret) == []
