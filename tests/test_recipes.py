"""The recipes among the examples, each with several real processes: at any time one of them runs the ticks.

Every run of a job is a line in one file, to which all processes append: who ran it, from when to when.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from leases import connect
from leases_command import PATIENCE, children, until

EXAMPLES = Path(__file__).parent.parent / "examples"
PYTHON = sys.executable

# Nobody waits for the end of the first: who comes after a stop was let in. The second is for what is killed.
LONG, SHORT = 600.0, 1.5

pytestmark = [
    pytest.mark.slow,  # They load the machine; and not every Python has what they need.
    pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="sees in /proc who has the store open"),
]


class Run(NamedTuple):
    """One run of a job."""

    began: float
    ended: float
    process: int


class Replicas:
    """Processes on one store, and the file to which all of them append."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._told, self._log = folder / "told", folder / "log"
        self._url = f"sqlite:{folder / 'leases.db'}"
        self._begun: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str, ttl: float) -> subprocess.Popen[bytes]:
        """Start one, in a process group of its own."""
        env = {
            **os.environ,
            "TTL": str(ttl),
            "LEASES_URL": self._url,
            "PYTHONPATH": str(EXAMPLES),
        }
        env.pop("PYTHONUNBUFFERED", None)  # with it, a line and its end are two writes
        with open(self._told, "ab") as told, open(self._log, "ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=told, stderr=log, env=env, cwd=self.folder,
                start_new_session=True,
            )  # fmt: skip
        self._begun.append(process)
        return process

    def runs(self) -> list[Run]:
        """What was run so far, in order."""
        lines = re.findall(r"^(\d+) .* from ([\d.]+) to ([\d.]+)$", self._told.read_text(), re.MULTILINE)
        return sorted(Run(float(began), float(ended), int(process)) for process, began, ended in lines)

    def await_run(self, by: Callable[[int], bool], times: int = 2) -> int:
        """Wait until a process that is meant has run again, some times; which it was."""
        before = len(self.runs())
        self.until(lambda: len([run for run in self.runs()[before:] if by(run.process)]) >= times)
        return self.runs()[-1].process

    def until(self, true: Callable[[], object]) -> None:
        """Wait until something is so."""
        try:
            until(true)
        except AssertionError as error:
            error.add_note(f"{self.runs()[-5:]}\n{self._log.read_text()[-4000:]}")
            raise

    def end_of_record(self, process: int) -> float:
        """When the record of a process that is dead ends, on the clock of the runs; 0 if it has."""
        with connect(self._url) as store:
            now, (status,) = time.monotonic(), store.list()
        mine = status.holder is not None and status.holder.endswith(f":{process}")
        return now + status.expires_in if mine and status.expires_in is not None else 0.0

    def members(self, process: subprocess.Popen[bytes]) -> list[int]:
        """The processes of one replica that use the store."""
        return [pid for pid in (process.pid, *children(process.pid)) if self._uses_the_store(pid)]

    def stand_by(self, process: subprocess.Popen[bytes], workers: int) -> bool:
        """Whether the workers of one replica use the store."""
        return len(self.members(process)) >= workers

    def _uses_the_store(self, pid: int) -> bool:
        try:
            links = [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
        except OSError:  # It has ended, or the file was closed meanwhile.
            return False
        return str(self.folder / "leases.db") in links

    def close(self) -> None:
        for process in self._begun:
            with suppress(ProcessLookupError):  # Workers may outlive a master that a failed test has left.
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(PATIENCE)


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[Replicas]:
    made = Replicas(tmp_path)
    yield made
    made.close()


def needs(module: str) -> None:
    """What a recipe is for has to be installed."""
    if find_spec(module) is None:
        missing = f'{module} is not installed: pip install "leases[examples]"'
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)


def passes_on(replicas: Replicas, command: Callable[[int], list[str]], *, workers: int) -> None:
    """One replica leads and is stopped, the next is killed; each time another goes on, and never two at once.

    Args:
        replicas: where they run.
        command: what starts one, by its number.
        workers: how many candidates a replica has; with one, a third replica stands by.
    """
    first = replicas.start(*command(1), ttl=LONG)
    leads = replicas.await_run(lambda _: True)
    others = [replicas.start(*command(number), ttl=SHORT) for number in ((2,) if workers > 1 else (2, 3))]
    for process in others:
        replicas.until(partial(replicas.stand_by, process, workers))
    assert replicas.await_run(lambda _: True) == leads

    first.terminate()
    second = replicas.await_run(lambda pid: pid != leads)  # Long before the ttl of the one that led.
    assert first.wait(PATIENCE) == 0
    assert second in [pid for process in others for pid in replicas.members(process)]

    os.kill(second, signal.SIGKILL)
    ends = replicas.end_of_record(second)
    third = replicas.await_run(lambda pid: pid not in (leads, second))
    runs = replicas.runs()
    assert min(run.began for run in runs if run.process == third) >= ends
    assert all(run.ended <= following.began for run, following in pairwise(runs))
    changes = [run.process for run, following in pairwise(runs) if run.process != following.process]
    assert changes[:2] == [leads, second]


def test_gunicorn_app(replicas: Replicas) -> None:
    """Two servers of two workers each, which all run the thread."""
    needs("gunicorn")

    def command(number: int) -> list[str]:
        bind = f"unix:{replicas.folder / str(number)}.sock"
        return [PYTHON, "-m", "gunicorn", "--workers", "2", "--bind", bind, "gunicorn_app:app"]

    passes_on(replicas, command, workers=2)


def test_uvicorn_app(replicas: Replicas) -> None:
    """Two servers of two workers each, which all run the task."""
    needs("uvicorn")

    def command(number: int) -> list[str]:
        bind = str(replicas.folder / f"{number}.sock")
        return [PYTHON, "-m", "uvicorn", "--workers", "2", "--uds", bind, "uvicorn_app:app"]

    passes_on(replicas, command, workers=2)


def test_apscheduler_jobs(replicas: Replicas) -> None:
    """Three schedulers, each with the job."""
    needs("apscheduler")
    passes_on(replicas, lambda _: [PYTHON, str(EXAMPLES / "apscheduler_jobs.py")], workers=1)


def test_celery_beat(replicas: Replicas) -> None:
    """Three beats, each with the schedule."""
    needs("celery")
    passes_on(replicas, lambda _: [PYTHON, str(EXAMPLES / "celery_beat.py")], workers=1)


def test_django_command(replicas: Replicas) -> None:
    """Three processes of one management command."""
    needs("django")
    passes_on(replicas, lambda _: [PYTHON, str(EXAMPLES / "django_command.py")], workers=1)
