"""Running `leases` as a process of its own, on a store of the test, and looking at what it leaves there."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from leases.contract import Applied, Backend, Slot
from leases.record import Claim
from leases.registry import open_backend
from leases.terms import Terms
from stores import Site, sent

LEASES: Final = (sys.executable, "-m", "leases")
PATIENCE: Final = 30.0  # for what happens in milliseconds on a host that is not busy

# It writes its process id and the holder's clock to a file, again and again, as long as it lives.
BEATING: Final = """
import os, signal, sys, time
path, *habits = sys.argv[1:]
if "stubborn" in habits:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
if "forking" in habits and os.fork() and "leaving" in habits:
    os._exit(5)
file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
while True:
    os.write(file, b"%d %.6f\\n" % (os.getpid(), time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", 1))))
    time.sleep(0.002)
"""


class Shop:
    """A store, and the commands that a test runs on it.

    Args:
        folder: where the commands run.
        site: the store; a database file in that folder where the site is in memory.
    """

    def __init__(self, folder: Path, site: Site) -> None:
        self.folder, self.site = folder, site
        self.path = folder / "leases.db"
        self.url = site.url if site.kind.shared else f"sqlite://{self.path}"
        self._begun: list[subprocess.Popen[str]] = []
        self._connected: Backend | None = None

    # ---- running ---------------------------------------------------------------------------------

    def start(
        self,
        *words: str,
        env: Mapping[str, str] | None = None,
        program: Sequence[str] = LEASES,
        **options: Any,
    ) -> subprocess.Popen[str]:
        """Start `leases …`, or another program; its output comes as text."""
        settings: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "cwd": self.folder,
            "env": {**os.environ, "LEASES_URL": self.url, **(env or {})},
            "start_new_session": True,
        }
        process: subprocess.Popen[str] = subprocess.Popen([*program, *words], **(settings | options))
        self._begun.append(process)
        return process

    def run(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run `leases …` to its end; pass `input=` to be read from stdin."""
        text = options.pop("input", None)
        if text is not None:
            options["stdin"] = subprocess.PIPE
        process = self.start(*words, **options)
        out, err = process.communicate(text, timeout=PATIENCE)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def hold(self, *words: str, name: str = "job") -> subprocess.Popen[str]:
        """Start `leases hold`, and wait until it holds."""
        process = self.start("hold", name, *words)
        until(lambda: self.holder(name) is not None)
        return process

    def beat(self, *habits: str, ttl: float, options: Sequence[str] = ()) -> subprocess.Popen[str]:
        """Hold with a command that beats, and wait for its first beats."""
        words = ("--", sys.executable, "-c", BEATING, str(self.beats_file), *habits)
        process = self.start("hold", "job", "--ttl", str(ttl), *options, *words)
        beating = 2 if "forking" in habits and "leaving" not in habits else 1
        until(lambda: len({who for who, _ in self.beats()}) == beating)
        return process

    def close(self) -> None:
        """End what a failed test has left running."""
        for process in self._begun:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        if self._connected is not None:
            self._connected.close()

    # ---- looking ---------------------------------------------------------------------------------

    @property
    def beats_file(self) -> Path:
        """Where commands beat."""
        return self.folder / "beats"

    def beats(self) -> list[tuple[int, float]]:
        """Process and instant of every beat, without one that may be half written."""
        if not self.beats_file.exists():
            return []
        lines = self.beats_file.read_text().split("\n")[:-1]
        return [(int(who), float(at)) for who, at in (line.split() for line in lines)]

    @property
    def backend(self) -> Backend:
        """A connection to look by, which is made when somebody looks."""
        if self._connected is None:
            self._connected = open_backend(self.url)
        return self._connected

    def slot(self, name: str = "job") -> Slot:
        """What stands in the store."""
        return self.backend.read(name, PATIENCE)

    def holder(self, name: str = "job") -> str | None:
        """Who holds a lock."""
        claim = self.slot(name).claim
        return claim.holder if claim is not None and claim.held else None

    def last_beat(self) -> float:
        """The last instant at which a process of the command lived; waits until all of them are gone."""
        until(lambda: not any(alive(who) for who in {who for who, _ in self.beats()}))
        return max(at for _, at in self.beats())

    def supersede(self, ttl: float, name: str = "job", *, by: str = "usurper") -> Claim:
        """Put another's claim in the place of the one that stands there, and return that one."""
        while True:
            slot = self.slot(name)
            assert slot.claim is not None
            other = replace(slot.claim, holder=by, id="0" * 32, ttl=ttl, sent=None, boot=None)
            if isinstance(self.backend.swap(slot, other, PATIENCE), Applied):
                return slot.claim

    def await_renewal(self) -> None:
        """Return when the lock has just been renewed: the next renewal is a third of the ttl away."""
        first = self.slot().version
        until(lambda: self.slot().version != first)

    @contextlib.contextmanager
    def frozen(self) -> Generator[None]:
        """Keep everybody from writing to the store."""
        if not self.url.startswith("sqlite:"):
            with self.site.frozen():
                yield
            return
        db = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)
        db.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            db.execute("ROLLBACK")
            db.close()


@pytest.fixture
def shop(site: Site, tmp_path: Path) -> Iterator[Shop]:
    """Where commands run, on the store of the test."""
    made = Shop(tmp_path, site)
    yield made
    made.close()


def deadline(claim: Claim | None) -> float:
    """When the lease ends that was last renewed by this record, on the holder's clock."""
    assert claim is not None
    return sent(claim) + Terms(claim.ttl).hold


def until(true: Any, seconds: float = PATIENCE) -> None:
    """Wait until a function says something true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.005)


def alive(process: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):  # It may go between the two steps.
        return False


def state(process: int) -> str:
    """The state of a process, one letter as in ps; nothing when it has gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def descendants(process: int) -> list[int]:
    """The children of a process, their children, and so on."""
    found = children(process)
    for child in found:
        with contextlib.suppress(OSError):
            found.extend(children(child))
    return found


def children(process: int) -> list[int]:
    """The children of a process."""
    found: list[int] = []
    for task in os.listdir(f"/proc/{process}/task"):
        path = f"/proc/{process}/task/{task}/children"
        with contextlib.suppress(OSError), open(path, encoding="ascii") as file:  # A thread may have ended.
            found.extend(map(int, file.read().split()))
    return found
