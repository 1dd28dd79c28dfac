"""Every example runs as it stands, on a store of its own, and prints what it says it shows."""

from __future__ import annotations

import itertools
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TextIO

import pytest

import test_recipes
from leases import connect
from stores import Site, every_shared_store

EXAMPLES = Path(__file__).parent.parent / "examples"

# The demo with a takeover that comes 0.3 s too early, in every one of its processes.
EARLY = """
from leases.machine import Machine
right = Machine._ripe_in
Machine._ripe_in = lambda self, now, slot: right(self, now, slot) - 0.3
"""


@pytest.fixture(autouse=True)
def url(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store of the test's own, for the example too."""
    url = site.url if site.kind.shared else f"sqlite:{tmp_path / 'leases.db'}"
    monkeypatch.setenv("LEASES_URL", url)
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # with it, a line and its end are two writes
    return url


def run(name: str, *words: str, expected: int = 0) -> str:
    """What an example prints."""
    shell = "sh" if name.endswith(".sh") else sys.executable
    done = subprocess.run(
        [shell, EXAMPLES / name, *words], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == expected, done.stdout
    return done.stdout


def two_of(name: str) -> AbstractContextManager[tuple[list[subprocess.Popen[bytes]], TextIO]]:
    """The same example twice at once."""
    return several(name, [], [])


@contextmanager
def several(name: str, *words: list[str]) -> Generator[tuple[list[subprocess.Popen[bytes]], TextIO]]:
    """The same example several times at once, and the lines of all in the order in which they came."""
    read, write = os.pipe()
    processes = [subprocess.Popen([sys.executable, EXAMPLES / name, *own], stdout=write) for own in words]
    os.close(write)
    try:
        with open(read) as lines:
            yield processes, lines
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_every_example_has_a_test() -> None:
    """A file in examples/ that nobody runs would rot."""
    tests = {*globals(), *vars(test_recipes)}
    tests |= {path.stem for path in Path(__file__).parent.glob("test_*.py")}
    missing = [path.name for path in EXAMPLES.glob("*.*") if f"test_{path.stem}" not in tests]
    assert not missing


@pytest.mark.slow
def test_demo() -> None:
    """The demo tells its four acts, and that all was as told."""
    told = run("demo.py")
    acts = re.findall(r"^(\d)\. ", told, re.MULTILINE)
    assert acts == ["1", "2", "3", "4"]
    assert told.endswith("All as told.\n")


@pytest.mark.slow
def test_the_demo_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a takeover that comes too early the demo exits with 1 and says so."""
    (tmp_path / "sitecustomize.py").write_text(EARLY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    told = run("demo.py", expected=1)
    assert re.search(
        r"Not as told: worker-\d took over 0\.[23]\d+ s before the record of worker-\d ended", told
    )


@every_shared_store
def test_one_at_a_time() -> None:
    """Of two that are started at once, one does all its steps before the other begins."""
    with two_of("one_at_a_time.py") as (processes, lines):
        # The last line, "is done", comes when the lock is free again.
        worked = [line.split()[0] for line in lines if " has it" in line or " step " in line]
        assert [process.wait() for process in processes] == [0, 0]
    half = len(worked) // 2
    assert half == 4 and len(set(worked[:half])) == 1 and len(set(worked[half:])) == 1


@every_shared_store
def test_limited_workers() -> None:
    """Of three that are started at once never more than two have a slot, each its own."""
    with several("limited_workers.py", [], [], []) as (processes, lines):
        told = [line.split() for line in lines if "waits" not in line]
        assert [process.wait() for process in processes] == [0, 0, 0]
    inside: dict[str, str] = {}
    for pid, *words in told:
        if words[:2] == ["has", "slot"]:
            assert len(inside) < 2 and words[2] not in inside.values()
            inside[pid] = words[2]
        elif words[1:] == ["part", "3"]:  # The next line is written when the slot is free.
            del inside[pid]
    assert len(told) == 3 * 5 and not inside


@every_shared_store
def test_two_accounts() -> None:
    """Two that want the same locks in crossing orders both come through."""
    with several("two_accounts.py", [], ["back"]) as (processes, lines):
        told = list(lines)
        assert [process.wait() for process in processes] == [0, 0]
    assert len(told) == 2 * 6 and sum("from account/berta" in line for line in told) == 5


@every_shared_store
def test_nightly_job(url: str) -> None:
    """It runs where nobody else does, and is skipped where somebody does."""
    assert run("nightly_job.py").splitlines() == ["wrote orders", "wrote payments", "wrote stock", "done"]
    with connect(url) as store, store.lock("nightly-report"):
        assert run("nightly_job.py") == "skipped: another runs it\n"


@every_shared_store
def test_hot_standby() -> None:
    """When the one that works is killed, the other takes over with a higher token."""
    with two_of("hot_standby.py") as (processes, lines):
        pid, token = _next_tick(lines, other_than=0)
        next(process for process in processes if process.pid == pid).kill()
        assert _next_tick(lines, other_than=pid) > (0, token)


@every_shared_store
def test_elector() -> None:
    """When the one that leads is told to end, it stops, says so, and the other leads with a higher token."""
    with two_of("elector.py") as (processes, lines):
        pid, token = _next_tick(lines, other_than=0)
        leader = next(process for process in processes if process.pid == pid)
        leader.terminate()
        told = list(itertools.takewhile(lambda line: "has stopped" not in line, lines))
        assert f"{pid} leads no more: released\n" in told
        assert leader.wait() == 0
        if not any(re.fullmatch(rf"(?!{pid} )\d+ tick 1, token \d+\n", line) for line in told):
            assert _next_tick(lines, other_than=pid) > (0, token)


def _next_tick(lines: TextIO, other_than: int) -> tuple[int, int]:
    for line in lines:
        tick = re.fullmatch(r"(\d+) tick \d+, token (\d+)\n", line)
        if tick and int(tick[1]) != other_than:
            return int(tick[1]), int(tick[2])
    raise AssertionError("nobody works any more")


@every_shared_store
def test_asyncio_worker() -> None:
    """Each of three tasks copies all its pages before the next has the lock."""
    lines = run("asyncio_worker.py").splitlines()
    assert sorted(lines[::4]) == [f"worker-{number} has the lock" for number in (1, 2, 3)]
    for first in 1, 5, 9:
        pages = [re.fullmatch(r"page (\d) under token (\d+)", line) for line in lines[first : first + 3]]
        assert [page and page[1] for page in pages] == ["1", "2", "3"]
        assert len({page and page[2] for page in pages}) == 1


def test_fencing_token() -> None:
    """The late write of the first tenure is refused before the second has written anything."""
    told = run("fencing_token.py")
    first, late, second = re.fullmatch(
        r"token (\d+): 100 written\ntoken (\d+): 90, late, refused\ntoken (\d+): 150 written\n", told
    ).groups()  # type: ignore[union-attr] # no match is a failure all the same
    assert first == late and int(second) > int(first)


@pytest.mark.waits
def test_figure_10_2() -> None:
    """S2: R1 arrives in a later tenure of its sender; the seal refuses it, and the highest token may not."""
    told = run("figure_10_2.py")
    scenes = re.split(
        r"^shard-2 (?:writes before it crashes|crashes before it writes anything):$", told, flags=re.M
    )
    assert len(scenes) == 3
    sequence = (
        "holds the lock with token", "is stopped", "has taken over", "sends R2", "is killed",
        "goes on: held is False", "holds the lock again", "delivers R1",
        "sends R3: carried out, by every check",
    )  # fmt: skip
    for scene, steps, fooled in (
        (scenes[1], sequence, {"the owner's name"}),
        (scenes[2], (*sequence[:3], *sequence[4:]), {"the owner's name", "highest token seen"}),
    ):
        lines = re.findall(r"^ +(\d+\.\d+) s  \S+ +(.*)$", scene, re.MULTILINE)
        assert [step for step, (_, what) in zip(steps, lines, strict=True) if not what.startswith(step)] == []
        assert [float(at) for at, _ in lines] == sorted(float(at) for at, _ in lines)
        tokens = [int(token) for token in re.findall(r"(?:lock|over|again,) with token (\d+)", scene)][:3]
        assert tokens == sorted(set(tokens)) and f"ago with token {tokens[0]}\n" in scene
        assert float(re.findall(r"sent (\d\.\d) s ago", scene)[0]) >= 1.0
        verdicts = re.findall(r"^ {20}(\w.*?)  +(CARRIED OUT|refused: token \d+ is .*)$", scene, re.MULTILINE)
        assert len(verdicts) == 5 and {check for check, how in verdicts if how == "CARRIED OUT"} == fooled
    assert told.endswith("All as told.\n")


def test_figure_10_2_can_fail() -> None:
    """Where R1 is let through by a check that was not expected to, the play says so."""
    play = runpy.run_path(str(EXAMPLES / "figure_10_2.py"))
    verdicts = dict.fromkeys(play["CHECKS"], "refused") | {play["OWNER"]: ""}
    assert play["judge"](verdicts, verdicts | {play["HIGHEST"]: ""}) == 0
    for check in (play["SEALED"], play["ASKED"], play["GUARDED"]):
        with pytest.raises(play["Failed"]):
            play["judge"](verdicts, verdicts | {play["HIGHEST"]: "", check: ""})


@pytest.mark.waits
def test_watch_the_lease() -> None:
    """Jeopardy comes before the loss, which is told although the store gives no answer."""
    told = run("watch_the_lease.py")
    assert re.search(r"^jeopardy: a renewal is overdue; 0\.\d s left", told, re.MULTILINE)
    assert told.index("stands still") < told.index("jeopardy")
    assert "lost: expired, held is False\n" in told
    assert 'on_lost: lease on "import" is lost (expired)' in told
    assert told.index("jeopardy") < told.index("lost:") < told.index("the work has stopped")


@every_shared_store
def test_decorator() -> None:
    """Functions of both colours run under their lock, and one that may not wait says who has it."""
    told = run("decorator.py").splitlines()
    assert told[:2] == ["thumbnails of beach", "uploaded beach"]
    assert re.match(r'not tidied up: lock "thumbnails" is held by \S+', told[2])
    assert told[3:] == ["tidied up"]


@every_shared_store
def test_shared_store() -> None:
    """Three locks on one connection are listed with what their holder shows, and one is watched."""
    told = re.sub(r"token \d+", "token N", run("shared_store.py")).splitlines()
    held = "is held by web-1 with token N {'step': 'packing'}"
    listed = [f"orders/{number} {held}" for number in (41, 42, 43)]
    watched = "orders/42 is free {}", f"orders/42 {held}", "orders/42 is free {}"
    assert told == [
        *watched[:2],
        "all orders that are locked:",
        *listed,
        watched[2],
        "one that nobody locked:",
        "orders/44 is free {}",
    ]


@every_shared_store
def test_cron(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command runs with its token in the environment, and is skipped in silence where another runs it."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert re.fullmatch(r"report nightly-report, token \d+\n", run("cron.sh"))
    with connect(url) as store, store.lock("nightly-report"):
        assert run("cron.sh") == ""


def test_draw_a_scene(tmp_path: Path) -> None:
    """Nobody believes before the one before has stopped, and the picture in docs/ is this scene's."""
    told = run("draw_a_scene.py", str(tmp_path / "drawn.svg"))
    beliefs = sorted((float(b), float(e)) for b, e in re.findall(r"from +([\d.]+) s to +([\d.]+) s", told))
    assert len(beliefs) == 4
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(beliefs))
    drawn = (tmp_path / "drawn.svg").read_text(encoding="utf-8")
    kept = (EXAMPLES.parent / "docs" / "timeline.svg").read_text(encoding="utf-8")
    assert drawn == kept, "the machine or the simulator changed: run `make picture` and look at it"
