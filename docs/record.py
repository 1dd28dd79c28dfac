"""Plays two hosts' shells in real terminals and draws what they showed: the recording in the README.

    python docs/record.py docs/recording.svg          (or: make recording)

Everything in it happened: real shells on pseudo-terminals, the real command line, a real SIGKILL, on a store
that is thrown away afterwards. Only the typing and the pauses for the reader are acted.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Final

import pyte
from film import Reel, Row, Run, draw
from pyte.screens import Char

TITLE: Final = (
    "Two shells start the same report under one lock. One runs it, the other waits. The first is killed: its "
    "report ends with it, the lock passes on with a new token, and the second shell's report starts. "
    "Beside it, leases watch shows who holds the lock."
)
PANES: Final = (("web-1", 64, 11), ("web-2", 64, 11), ("another shell on web-1", 44, 5), ("ops", 84, 5))
PATIENCE: Final = 20.0  # seconds for what takes milliseconds on an idle host, or the ttl
REPORT: Final = """\
#!/bin/sh
# A long report, one row a second.
row=0
while sleep "${PACE:-1}"; do
    row=$((row + 1))
    echo "row $row written, token $LEASES_TOKEN"
done
"""


class Pane:
    """A shell on a terminal of its own.

    Args:
        title: what stands above it.
        columns: the terminal's width in characters.
        lines: its height.
        cwd: where the shell starts.
        env: its environment.
    """

    def __init__(self, title: str, columns: int, lines: int, *, cwd: Path, env: Mapping[str, str]) -> None:
        self.reel = Reel(title, columns, lines)
        self.focused = False
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        bash = shutil.which("bash") or sys.exit("record: this needs bash; install it")
        self._shell = subprocess.Popen(
            [bash, "--norc", "--noprofile", "--noediting", "-i"],
            stdin=slave, stdout=slave, stderr=slave, cwd=cwd, env=dict(env), start_new_session=True,
            preexec_fn=_take_terminal,
        )  # fmt: skip
        os.close(slave)

    @property
    def text(self) -> str:
        """What is on the screen."""
        return "\n".join(line.rstrip() for line in self._screen.display)

    def write(self, text: str) -> None:
        """Press keys."""
        os.write(self.master, text.encode())

    def read(self) -> bool:
        """Take in what has come; whether anything may come yet."""
        try:
            data = os.read(self.master, 65536)
        except OSError:  # Linux tells so that the shell has ended.
            return False
        self._stream.feed(data)
        return bool(data)

    def rows(self) -> list[Row]:
        """The screen, row by row, with the cursor where keys are pressed."""
        screen, columns = self._screen, self.reel.columns
        spot = (screen.cursor.y, screen.cursor.x) if self.focused and not screen.cursor.hidden else (-1, -1)
        return [
            tuple(_runs(screen.buffer[y], columns, spot[1] if spot[0] == y else None))
            for y in range(self.reel.lines)
        ]

    def child(self) -> int:
        """The process that the shell runs."""
        path = Path(f"/proc/{self._shell.pid}/task/{self._shell.pid}/children")
        (process,) = map(int, path.read_text().split())
        return process

    def close(self) -> None:
        """Hang up, and wait until nobody has the terminal open any more: then nothing is left running."""
        self._shell.send_signal(signal.SIGHUP)
        end = time.monotonic() + PATIENCE
        while select.select([self.master], [], [], max(end - time.monotonic(), 0.0))[0] and self.read():
            pass
        os.close(self.master)
        try:
            self._shell.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._shell.kill()
            self._shell.wait()


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _runs(line: Mapping[int, Char], columns: int, cursor: int | None) -> Generator[Run]:
    """The characters of a row, together where they look the same; spaces at its end are left out."""
    cells = [(line[x], x == cursor) for x in range(columns)]
    while cells and cells[-1][0].data == " " and not cells[-1][1] and not cells[-1][0].reverse:
        cells.pop()
    at = 0
    while at < len(cells):
        look = _look(*cells[at])
        end = at
        while end < len(cells) and _look(*cells[end]) == look:
            end += 1
        text = "".join(char.data for char, _ in cells[at:end])
        if text.strip() or look[2]:
            yield Run(at, text, *look)
        at = end


def _look(char: Char, under_cursor: bool) -> tuple[str, bool, bool]:
    return "" if char.fg == "default" else char.fg, char.bold, char.reverse or under_cursor


class Stage:
    """The panes, and the clock of the recording.

    Args:
        panes: the terminals.
        hurry: how many times faster the acted part goes.
    """

    def __init__(self, panes: Sequence[Pane], hurry: float = 1.0) -> None:
        self._panes = list(panes)
        self._hurry = hurry
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    def type(self, pane: Pane, text: str) -> None:
        """Type a line at a person's pace, and press return."""
        for other in self._panes:
            other.focused = other is pane
        for key in text:
            pane.write(key)
            self.rest(0.035)
        self.rest(0.3)
        pane.write("\r")

    def rest(self, seconds: float) -> None:
        """Let it run, for the reader."""
        self._run(seconds / self._hurry)

    def until(self, pane: Pane, text: str) -> None:
        """Let it run until a text is on a pane's screen.

        Raises:
            SystemExit: it does not come.
        """
        end = time.monotonic() + PATIENCE
        while text not in pane.text:
            if time.monotonic() > end:
                sys.exit(f"record: {text!r} did not come; the terminal shows:\n{pane.text}")
            self._run(0.02)

    def _run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while True:
            left = max(end - time.monotonic(), 0.0)
            ready = select.select([pane.master for pane in self._panes], [], [], left)[0]
            for pane in self._panes:
                if pane.master in ready and not pane.read():
                    sys.exit(f"record: the shell of {pane.reel.title} has ended:\n{pane.text}")
                pane.reel.note(self.seconds, pane.rows())
            if not left:
                return


def play(folder: Path, *, ttl: float, hurry: float) -> str:
    """The scene, in a folder that may be thrown away; the picture of it."""
    with _panes(folder, hurry) as panes:
        first, second, other, watch = panes
        stage = Stage(panes, hurry)
        for pane in panes:
            stage.until(pane, "$")
        stage.type(watch, "leases watch nightly")
        stage.rest(0.8)
        stage.type(first, f"leases hold nightly --holder web-1 --ttl {ttl:g} -- ./report")
        stage.until(watch, "web-1")
        stage.until(first, "row 2")
        stage.type(second, f"leases hold nightly --holder web-2 --ttl {ttl:g} -- ./report")
        stage.until(second, "held by web-1")
        stage.until(first, "row 5")
        stage.type(other, f"kill -9 {first.child()}")
        stage.until(second, "row 1")
        stage.until(watch, "web-2")
        stage.until(second, "row 4")
        return draw([[first.reel, second.reel], [other.reel, watch.reel]], stage.seconds, TITLE)


@contextlib.contextmanager
def _panes(folder: Path, hurry: float) -> Generator[tuple[Pane, ...]]:
    report = folder / "report"
    report.write_text(REPORT)
    report.chmod(0o755)
    here = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "HOME": str(folder),
        "TERM": "xterm-256color",
        "LANG": "C.UTF-8",
        "LEASES_URL": "sqlite:locks.db",
        "PACE": f"{1 / hurry:g}",
        "PS1": "$ ",
    }
    made: list[Pane] = []
    try:
        for title, columns, lines in PANES:
            made.append(Pane(title, columns, lines, cwd=folder, env=here))
        yield tuple(made)
    finally:
        for pane in made:
            pane.close()


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Record the picture of the README.")
    parser.add_argument("file", type=Path, help="the SVG to write")
    parser.add_argument("--ttl", type=float, default=4.0, help="of the lock, in seconds; default 4")
    parser.add_argument("--hurry", type=float, default=1.0, help="how many times faster to type; default 1")
    args = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="app-", ignore_cleanup_errors=True) as folder:
        picture = play(Path(folder), ttl=args.ttl, hurry=args.hurry)
    args.file.write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
