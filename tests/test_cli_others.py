"""`flock`, `consul lock` and `etcdctl lock` beside `leases hold`: each row of the page is run, on both sides.

The page `leases/cli/hold.md` has a table for each of them: what people type there and here, and what either
ends with. In the commands `taken` is a lock that another holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from leases import connect
from leases_command import PATIENCE
from servers import get
from servers.fixtures import _or_absent

PAGE: Final = Path(__file__).parent.parent / "leases" / "cli" / "hold.md"


@dataclass(frozen=True)
class Line:
    """What is typed, and what comes of it: the exit code and the words on stdout."""

    typed: str
    code: int
    words: str


@dataclass(frozen=True)
class Row:
    """The same wish, as the other tool has it and as we do."""

    wish: str
    theirs: Line
    ours: Line


def rows_of(tool: str) -> list[Row]:
    """The rows of a tool's table."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## If you come from `{tool}`\n")[2]
    rows = re.findall(r"^\| (.*) \|$", section.partition("\n## ")[0], re.MULTILINE)[1:]
    cells = ([cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", row)] for row in rows)
    return [Row(wish, line(a, x), line(b, y)) for wish, a, x, b, y, _ in cells]


def line(typed: str, ends: str) -> Line:
    """Two columns as they stand in the page."""
    code, _, words = ends.partition(" ")
    return Line(typed.strip("`"), int(code), words.strip("`"))


class Desk:
    """Where commands are typed.

    Args:
        folder: of the test.
        url: our store, in which another holds `taken`.
        programs: what is to be found by its name besides `leases` and what the system has.
        environment: what these programs are told.
    """

    def __init__(self, folder: Path, url: str, *programs: Path, **environment: str) -> None:
        self.folder = folder
        programs_folder = folder / "bin"
        programs_folder.mkdir()
        scripts = {
            "leases": f'exec {sys.executable} -m leases "$@"',
            "await": 'until [ -s "$1" ]; do sleep 0.05; done',
        }
        for name, line in scripts.items():
            (programs_folder / name).write_text(f"#!/bin/sh\n{line}\n")
            (programs_folder / name).chmod(0o755)
        for program in programs:
            (programs_folder / program.name).symlink_to(program)
        path = f"{programs_folder}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "LEASES_URL": url, **environment}
        self.environment.pop("SHELL", None)  # consul's lines would be given to it

    def start(self, typed: str, folder: Path | None = None) -> subprocess.Popen[str]:
        """Type a line."""
        return subprocess.Popen(
            ["sh", "-c", typed], cwd=folder or self.folder, env=self.environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def differing(self, wish: str, side: str, line: Line) -> str:
        """Type a line in a folder of its own, and say how it ended, unless that is as it should."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        with (folder / "taken").open("w") as taken:
            fcntl.flock(taken, fcntl.LOCK_EX)
            process = self.start(line.typed, folder)
            try:
                out, err = process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                return f"{wish}, {side}: {line.typed}\n    did not end"
        words = " ".join(out.split())
        if (process.returncode, words) == (line.code, line.words):
            return ""
        return f"{wish}, {side}: {line.typed}\n    ended with {process.returncode}, {words!r}, {err!r}"

    def judge(self, tool: str) -> None:
        """Run a tool's table: a column's lines one after another, because they use the same names.

        Those that take their time have names of their own, and run beside all others; and so do the columns:
        neither tool knows of the other's locks.
        """
        lines = [(row.wish, side, getattr(row, side)) for row in rows_of(tool) for side in ("theirs", "ours")]
        assert len(lines) > 20
        slow = [line for line in lines if {"sleep", "await", "timeout"} & set(line[2].typed.split())]
        quick = [line for line in lines if line not in slow]
        columns = [[line for line in quick if line[1] == side] for side in ("theirs", "ours")]
        store = connect(self.environment["LEASES_URL"])
        with store, store.lock("taken", ttl=600.0), ThreadPoolExecutor(6) as pool:
            parts = [pool.submit(self.run, part) for part in [*columns, *([line] for line in slow)]]
            found = [text for part in parts for text in part.result()]
        assert not found, "\n".join(found)

    def run(self, lines: list[tuple[str, str, Line]]) -> list[str]:
        """Type lines one after another; what `differing` says of them.

        What another tool did otherwise is tried once more: it may have races of its own at its end.
        """
        found: list[str] = []
        for line in lines:
            text = self.differing(*line)
            if text and line[1] == "theirs":
                text = self.differing(*line)
            found += [text] if text else []
        return found


@contextlib.contextmanager
def holding(desk: Desk, typed: str) -> Generator[None]:
    """While another has `taken` by the other tool, with a command that says when."""
    process = desk.start(typed)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "holding\n"
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def tool_of(name: str) -> Path:
    """A program that is run beside ours.

    Raises:
        Missing: it is not here.
    """
    program = get.program(name)
    if program.image is not None:
        pytest.skip(f"{name} is in a container here, and cannot be run beside ours")
    return program.path


@pytest.mark.waits
@pytest.mark.skipif(shutil.which("flock") is None, reason="there is no flock here; it is part of util-linux")
def test_flock(tmp_path: Path) -> None:
    """Each line of a user of `flock`, and ours beside it, ends as the page says."""
    Desk(tmp_path, f"sqlite://{tmp_path}/leases.db").judge("flock")


@pytest.mark.waits
def test_consul_lock(tmp_path: Path, consul: Any) -> None:
    """Each line of a user of `consul lock`, and ours beside it on the same Consul, ends as the page says."""
    at = consul.nodes[0].ports.at("client")
    desk = Desk(tmp_path, f"{consul.url}/{tmp_path.name}", tool_of("consul"), CONSUL_HTTP_ADDR=at)
    with holding(desk, "consul lock taken 'echo holding; sleep 600'"):
        desk.judge("consul lock")


@pytest.mark.waits
def test_etcdctl_lock(tmp_path: Path, etcd: Any) -> None:
    """Each line of a user of `etcdctl lock`, and ours beside it on the same etcd, ends as the page says."""
    at = etcd.nodes[0].ports.at("client")
    with _or_absent():
        etcdctl = tool_of("etcdctl")
    desk = Desk(tmp_path, f"{etcd.url}/{tmp_path.name}", etcdctl, ETCDCTL_ENDPOINTS=at)
    with holding(desk, "etcdctl lock taken -- sh -c 'echo holding; sleep 600'"):
        desk.judge("etcdctl lock")


def test_a_script_that_starts_itself_under_the_lock(tmp_path: Path) -> None:
    """The page's first line for scripts: it runs once under the lock, and not at all where that is taken."""
    (first_line,) = re.findall(r"^```sh\n(.*)\n```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    (tmp_path / "script").write_text(f'{first_line}\necho "runs as $LEASES_NAME with $1"\n')
    desk = Desk(tmp_path, f"sqlite://{tmp_path}/leases.db")
    run = "sh ./script 'two words'"
    assert desk.start(run).communicate(timeout=PATIENCE)[0] == "runs as nightly with two words\n"
    with connect(desk.environment["LEASES_URL"]) as store, store.lock("nightly", ttl=600.0):
        taken = desk.start(run)
        assert taken.communicate(timeout=PATIENCE)[0] == "" and taken.returncode == 75


def test_a_number_that_is_no_descriptor_is_a_name(tmp_path: Path) -> None:
    """Only what `flock 9` would have locked is refused, and with a command nothing is."""
    desk = Desk(tmp_path, f"sqlite://{tmp_path}/leases.db")
    lines = [
        Line("leases hold 9 > up & await up; kill $!; wait $!; cut -d'\"' -f4 up", 0, "9"),
        Line("leases hold 9 9>file -- echo done", 0, "done"),
        Line("leases hold 9 9>file", 64, ""),
    ]
    assert not desk.run([("a name", "ours", line) for line in lines])
