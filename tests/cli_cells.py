"""Many runs of `leases hold` side by side, each brought into a state and then struck by a signal.

A cell is one run: a state, a signal and a kind of command. `run` takes all cells of one state through it
together, so that they wait for the same things at the same time, and tells of each what was left.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from leases import Lease, connect
from leases.clock import system_clock
from leases.terms import Terms
from leases_command import LEASES, PATIENCE, Shop, alive, deadline
from stores import sent
from terminals import Terminal

TTL: Final = {"jeopardy": 15.0, "lost": 15.0}  # where something has to come of it; elsewhere it is long
LONG: Final = 600.0
FROZEN: Final = ("jeopardy", "releasing")  # the states that the store brings about by answering no more
OWN_CODE: Final = 7  # what a command ends with when it is left to end
AT_ONCE: Final = 6  # as many as are brought into their state at a time
ANOTHER: Final = "another"
EITHER: Final = "(either)"
MARK: Final = "LEASES_CELL"

# A command leaves its number in its folder, waits until it may end, and ends with a code of its own.
COMMAND: Final = """
import os, signal, sys, time
folder, kind, tidies = sys.argv[1], sys.argv[2], sys.argv[3] == "tidies"
def told(number, frame):
    os.close(os.open(folder + "/told", os.O_CREAT))
if tidies:
    signal.signal(signal.SIGTERM, told)
elif kind == "ignores TERM":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
role = "first"
if kind in ("forks", "setsid") and os.fork() == 0:
    role = "other"
    if kind == "setsid":
        os.setsid()
os.close(os.open(f"{folder}/{role}-{os.getpid()}", os.O_CREAT))
if kind == "reads the tty":
    os.read(0, 1)
while not os.path.exists(folder + "/go"):
    time.sleep(0.05)
sys.exit(int(sys.argv[4]))
"""
PYTHON: Final = (sys.executable, "-S", "-I", "-c", COMMAND)


@dataclass
class Cell:
    """One run, and what became of it.

    Attributes:
        state: what `leases` is doing when the signal comes.
        signal: its name without SIG; STOP and TSTP are followed by CONT.
        kind: the kind of command.
        goes_on: the command is expected to live on, and is let end after the signal. Where that is not
            expected it would run until the test gives up.
        stands: who is expected to stand still between STOP or TSTP and CONT.
        code: what `leases` ended with, negative for a signal.
        lock: who has the lock at the end: nobody, another, or itself, for its ttl at most.
        began: whether the command was ever let go.
        stood: who did stand still then.
        wrong: what may not be in any cell: somebody who was seen alive too late.
    """

    state: str
    signal: str
    kind: str
    goes_on: bool = False
    stands: str = "nobody"
    code: int | None = None
    lock: str = ""
    began: bool = False
    stood: str = ""
    wrong: list[str] = field(default_factory=list)

    @property
    def number(self) -> int:
        return int(signal.Signals[f"SIG{self.signal}"])

    @property
    def should_begin(self) -> bool:
        """Whether the command is to be let go at all: not where `leases` ends while it waits."""
        return self.state != "waiting" or self.goes_on

    @property
    def pauses(self) -> bool:
        return self.signal in ("STOP", "TSTP")

    def __str__(self) -> str:
        return f"{self.state}, {self.signal}, {self.kind}"


class Run:
    """A cell while it runs.

    Attributes:
        name: its lock, and its holder.
        process: `leases`.
    """

    def __init__(self, cell: Cell, shop: Shop, number: int) -> None:
        self.cell, self._shop = cell, shop
        self.name = f"cell-{number}"
        self.folder = shop.folder / self.name
        self.folder.mkdir()
        self._deadline = self._due = float("inf")
        self._struck = 0.0
        self._terminal: Terminal | None = None
        self._stderr: IO[str] | None = None
        self._lease: Lease | None = None
        if cell.state == "waiting":
            self._lease = connect(shop.url).lock(self.name, holder=ANOTHER, ttl=LONG).acquire()
        self.process: subprocess.Popen[Any]
        self._start()

    def _start(self) -> None:
        cell = self.cell
        command = [
            *PYTHON,
            str(self.folder),
            cell.kind,
            "tidies" if cell.state == "lost" else "",
            str(OWN_CODE),
        ]
        words = [
            "hold",
            self.name,
            "--holder",
            self.name,
            "--ttl",
            str(TTL.get(cell.state, LONG)),
            "--verbose",
        ]
        if cell.kind == "shell":
            # It has something left to do, or it would become the command.
            words += ["-c", f"{shlex.join(command)}; exit $?"]
        else:
            words += ["--", *command]
        env = {MARK: str(self.folder)}
        if cell.kind == "reads the tty":
            env["LEASES_URL"] = self._shop.url
            self._terminal = Terminal(*LEASES, *words, env=env, cwd=str(self.folder))
            self.process = self._terminal.process
        else:
            self._stderr = (self.folder / "stderr").open("w")
            # A group of its own in the session of the test, which could continue it: TSTP stops no other.
            self.process = self._shop.start(
                *words, env=env, stdout=self._stderr, stderr=self._stderr,
                start_new_session=False, process_group=0,
            )  # fmt: skip

    # ---- its steps -------------------------------------------------------------------------------

    def in_state(self) -> bool:
        """Whether it waits, or its command runs."""
        if self.cell.state == "waiting":
            return "waiting for" in self.said()
        return len(self._members()) == (2 if self.cell.kind in ("forks", "setsid") else 1)

    def push(self) -> None:
        """Begin to bring it from holding into its state; the store is frozen where it has to be."""
        match self.cell.state:
            case "jeopardy":
                claim = self._shop.slot(self.name).claim
                self._deadline = deadline(claim)
                assert claim is not None
                self._due = sent(claim) + Terms(claim.ttl).renew + 0.1
            case "lost":
                self._deadline = deadline(self._shop.supersede(LONG, self.name, by=ANOTHER))
            case "releasing":
                self.let_end()
            case _:
                pass

    def pushed(self) -> bool:
        """Whether it is in its state."""
        match self.cell.state:
            case "jeopardy":
                return system_clock().hold > self._due
            case "lost":
                return (self.folder / "told").exists()
            case "releasing":  # Not before a shell, too, that had the command run has ended.
                return "the command has ended" in self.said()
            case _:
                return True

    def strike(self) -> None:
        """Send the signal."""
        self._struck = time.monotonic()
        self.process.send_signal(self.cell.number)

    def stands_still(self) -> bool:
        """Whether those stand still who are expected to, for a moment if that is nobody."""
        first = self._members("first")
        of = {"leases": [self.process.pid], "the command": first}
        self.cell.stood = (
            " and ".join(who for who in of if any(_state(one) == "T" for one in of[who])) or "nobody"
        )
        since = time.monotonic() - self._struck
        return (self.cell.stands in (self.cell.stood, EITHER) and since > 0.2) or since > 10

    def let_end(self) -> None:
        """Let the command end by itself, and if it has not begun, let it have its turn."""
        (self.folder / "go").touch()
        if self._terminal is not None:
            self._terminal.type("\n")
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    def ended(self) -> bool:
        """Whether all is over; `leases` may have been the first to end only if it was killed."""
        now = system_clock().hold
        if any(map(alive, self._members())) and now > self._deadline:
            self._blame("its command outlived the lease")
        if self._terminal is not None:
            self._terminal.seen()
        code = self.process.poll()
        if code is None:
            return False
        left = _marked().get(self.folder)
        if left and code >= 0:
            self._blame(f"leases ended, and {left} lived")
        self.cell.code = code
        return not left

    def stuck(self, step: str) -> None:
        """It did not come to its end."""
        self._blame(f"stuck: {step}")

    def judge(self) -> None:
        """What became of it, once it has ended or had the time to."""
        claim = self._shop.slot(self.name).claim
        holder = claim.holder if claim is not None and claim.held else None
        self.cell.lock = {None: "free", ANOTHER: "another's", self.name: "its own, for its ttl"}[holder]
        self.cell.began = bool(self._members())

    def close(self) -> None:
        """Close what it was started with; it has ended."""
        if self._terminal is not None:
            self._terminal.close()
        if self._stderr is not None:
            self._stderr.close()
        self.process.wait()

    def said(self) -> str:
        """What it has said until now."""
        return self._terminal.seen() if self._terminal else (self.folder / "stderr").read_text()

    def _members(self, role: str = "") -> list[int]:
        """The processes of the command, whether they live or not."""
        return [int(path.name.rpartition("-")[2]) for path in self.folder.glob(f"{role or '*'}-*")]

    def _blame(self, what: str) -> None:
        if what not in self.cell.wrong:
            self.cell.wrong.append(what)


def run(shop: Shop, cells: Iterable[Cell]) -> None:
    """Take cells of one state through it, and tell in each what became of it.

    Raises:
        AssertionError: one of them was stuck, which names it and says where.
    """
    runs: list[Run] = []
    try:
        _start(runs, shop, list(enumerate(cells)))
        with shop.frozen() if runs[0].cell.state in FROZEN else contextlib.nullcontext():
            _all_to_their_end([(run, _script(run)) for run in runs])
        for run in runs:
            run.judge()
    finally:
        _end_all(shop.folder)
        for run in runs:
            run.close()


def _start(runs: list[Run], shop: Shop, left: list[tuple[int, Cell]]) -> None:
    """Bring all of them into the state that they begin in, some at a time."""
    starting: list[Run] = []
    end = time.monotonic() + 4 * PATIENCE
    while left or starting:
        while left and len(starting) < AT_ONCE:
            number, cell = left.pop(0)
            runs.append(run := Run(cell, shop, number))
            starting.append(run)
        time.sleep(0.01)
        starting = [run for run in starting if not run.in_state()]
        assert time.monotonic() < end, f"{starting[0].cell}: it does not begin; it said: {starting[0].said()}"


Step = Callable[[], bool]


def _script(run: Run) -> Generator[Step]:
    """What is done with one of them: each step is asked until it is true."""
    run.push()
    yield run.pushed
    run.strike()
    if run.cell.pauses:
        yield run.stands_still
        run.process.send_signal(signal.SIGCONT)
    if run.cell.goes_on:
        run.let_end()
    yield run.ended


def _all_to_their_end(scripts: list[tuple[Run, Generator[Step]]]) -> None:
    """Go on with each as soon as its step is true; nobody waits for another."""
    end = time.monotonic() + 2 * PATIENCE
    begun: list[tuple[Run, Generator[Step]]] = []
    steps: dict[Run, Step] = {}
    while scripts or steps:
        if (
            scripts
        ):  # One at a time: while it is pushed, those that were pushed before must not wait for long.
            run, script = scripts.pop(0)
            begun.append((run, script))
            steps[run] = next(script)
        else:
            time.sleep(0.02)
        for run, script in begun:
            _go_on(run, script, steps)
        if time.monotonic() > end:
            for run, step in steps.items():
                run.stuck(step.__name__)
            return


def _go_on(run: Run, script: Generator[Step], steps: dict[Run, Step]) -> None:
    """Take all the steps that are true."""
    while run in steps and steps[run]():
        step = next(script, None)
        if step is None:
            del steps[run]
        else:
            steps[run] = step


def _marked() -> dict[Path, list[int]]:
    """The living processes that were started in each cell, by the mark that all of them inherit."""
    mark, found = f"\0{MARK}=".encode(), defaultdict[Path, list[int]](list)
    for process in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            _, _, rest = (b"\0" + Path(f"/proc/{process}/environ").read_bytes()).partition(mark)
            if rest and alive(int(process)):
                found[Path(os.fsdecode(rest.partition(b"\0")[0]))].append(int(process))
    return found


def _end_all(folder: Path) -> None:
    """End whatever lives of the cells in a folder."""
    for where, processes in _marked().items():
        for process in processes if where.parent == folder else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def _state(process: int) -> str:
    """`T` of one that stands still, and nothing of one that is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    return ""
