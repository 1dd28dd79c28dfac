"""`leases hold --restart` and `--at-most-for`: when a command runs anew, and when it ran for too long."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from leases.cli import again
from leases.cli.console import Console
from leases.cli.search import Want
from leases.cli.waiting import Signalled
from leases.errors import AcquireTimeout, RecordRefused, StoreDenied, StoreUnavailable
from leases.terms import Terms
from leases_command import BEATING, Shop, alive, until

# Each run leaves a file with its token; the code is that of the file `code`, once there is one.
RUNS = """
import os, pathlib, time
pathlib.Path("run-" + os.environ["LEASES_TOKEN"]).touch()
while not os.path.exists("code"):
    time.sleep(0.01)
raise SystemExit(int(open("code").read()))
"""


def runs(shop: Shop) -> list[str]:
    """The runs that began, in order."""
    return sorted((path.name for path in shop.folder.glob("run-*")), key=lambda name: int(name[4:]))


def start(shop: Shop, *options: str) -> subprocess.Popen[str]:
    """Hold with --restart, and wait for the first run."""
    words = ("--ttl", "1.5", "--restart", *options, "--", sys.executable, "-c", RUNS)
    process = shop.start("hold", "job", *words)
    until(lambda: len(runs(shop)) == 1)
    return process


# ---- --restart -----------------------------------------------------------------------------------


def test_after_a_loss_the_command_runs_anew(shop: Shop) -> None:
    """Superseded, it stops the command, waits for its turn, and runs it with a larger token, till it ends."""
    process = start(shop)
    shop.supersede(ttl=1.5)
    until(lambda: len(runs(shop)) == 2)
    (shop.folder / "code").write_text("0")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "is lost (superseded)" in err and err.count("\n") == 1
    assert not shop.slot().held


def test_again_and_again(shop: Shop) -> None:
    """A loss of the second run is like that of the first, and the code of the last one stands."""
    process = start(shop, "--json")
    for count in (2, 3):
        shop.supersede(ttl=1.0)
        until(lambda count=count: len(runs(shop)) == count)
    (shop.folder / "code").write_text("7")
    _, err = process.communicate(timeout=30)
    events = [json.loads(line)["event"] for line in err.splitlines()]
    assert process.returncode == 7
    assert events.count("acquired") == 3 and events.count("lost") == 2 and events[-1] == "exit"


@pytest.mark.waits
def test_after_jeopardy(shop: Shop) -> None:
    """A store that hangs for longer than the lease costs a run, and no more."""
    process = start(shop)
    with shop.frozen():
        assert process.stderr is not None
        assert "was not renewed" in process.stderr.readline()
        time.sleep(1)
    until(lambda: len(runs(shop)) == 2)
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert not shop.slot().held


def test_a_signal_while_it_waits_again(shop: Shop) -> None:
    """Whoever ends it while another holds the lock gets 128 + the signal, and no run is left."""
    process = start(shop)
    shop.supersede(ttl=600)
    assert process.stderr is not None
    process.stderr.readline()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert len(runs(shop)) == 1 and shop.holder() == "usurper"


def test_ctrl_z_while_it_waits_again(shop: Shop) -> None:
    """It stops it, the second time as the first: there is no command that it could be passed on to."""
    process = start(shop)
    assert catches(process.pid, signal.SIGTSTP)
    shop.supersede(ttl=600)
    until(lambda: not catches(process.pid, signal.SIGTSTP))
    process.terminate()
    assert process.wait(30) == 143


def catches(process: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    (line,) = (it for it in Path(f"/proc/{process}/status").read_text().splitlines() if "SigCgt" in it)
    return bool(int(line.split()[1], 16) & 1 << number - 1)


@pytest.mark.waits
def test_a_signal_that_came_before_the_loss(shop: Shop) -> None:
    """Asked to end, the command may take its time, but a loss meanwhile does not begin another run."""
    process = shop.beat("stubborn", ttl=2, options=("--restart",))
    process.terminate()
    time.sleep(0.2)
    shop.supersede(ttl=1)
    process.communicate(timeout=30)
    assert process.returncode == 70
    assert len({who for who, _ in shop.beats()}) == 1


def test_its_own_end_is_the_end(shop: Shop) -> None:
    """A command that ends by itself, or cannot be run, is not run again."""
    done = shop.run("hold", "job", "--restart", "-c", "echo once; exit 3")
    assert (done.returncode, done.stdout) == (3, "once\n")
    broken = shop.folder / "broken"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    assert shop.run("hold", "job", "--restart", "--", "./broken").returncode == 127


@pytest.mark.parametrize("option", [("--restart",), ("--at-most-for", "5")])
def test_without_a_command(shop: Shop, option: tuple[str, ...]) -> None:
    """Both are about a command, and refused without one."""
    done = shop.run("hold", "job", *option)
    assert done.returncode == 64
    assert f'{option[0]} without a command; write one after "--"' in done.stderr
    assert done.stderr.count("\n") == 1
    assert not shop.path.exists()


# ---- taking part again ---------------------------------------------------------------------------


class Ears:
    """Signals of a test: it waits for nothing, and may hear one."""

    def __init__(self, number: int | None = None) -> None:
        self.waited: list[float] = []
        self._number = number

    def leave(self, *numbers: int) -> None:
        pass

    def wait(self, seconds: float) -> list[int]:
        self.waited.append(seconds)
        return [] if self._number is None else [self._number]


def want() -> Want:
    return Want("sqlite:x", "job", "me", Terms(15.0), {}, 0.0, None, 0.0)


TROUBLES = [
    StoreUnavailable("the store is away"), StoreDenied("refused"), RecordRefused("job", "is not ours", b"?"),
    AcquireTimeout("job", timeout=0.0, holder=None, remaining=None),
]  # fmt: skip


def test_a_store_that_refuses_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What would end the first acquisition is said and survived, with pauses that double to a minute."""
    errors = iter(TROUBLES * 3)
    pauses: list[float] = []

    def acquire(wanted: Want, *_: Any) -> str:
        assert wanted.timeout is None
        for error in errors:
            raise error
        return "held"

    monkeypatch.setattr(again, "acquire", acquire)
    monkeypatch.setattr(again, "_rest", lambda pause, signals: pauses.append(pause))
    ears: Any = Ears()
    held: object = again.acquire_again(want(), ears, Console())
    assert held == "held"
    assert pauses == [1, 2, 4, 8, 16, 32, *[60] * 6]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 12 and "the store is away; trying again in 1.0 s" in said[0]


def test_a_signal_during_the_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pause is over when a signal comes."""

    def acquire(*_: Any) -> None:
        raise TROUBLES[0]

    monkeypatch.setattr(again, "acquire", acquire)
    ears: Any = Ears(signal.SIGTERM)
    with pytest.raises(Signalled) as caught:
        again.acquire_again(want(), ears, Console())
    assert caught.value.code == 143 and len(ears.waited) == 1


# ---- --at-most-for -------------------------------------------------------------------------------


def test_overtime(shop: Shop) -> None:
    """The command is told to end after so long; the code is 124, whatever it says."""
    line = 'trap "touch told; exit 0" TERM; while :; do sleep 0.02; done'
    done = shop.run("hold", "job", "--at-most-for", "0.3", "-c", line)
    assert done.returncode == 124
    assert (shop.folder / "told").exists()
    assert "the command has run for the 0.3 s of --at-most-for; it is being stopped\n" in done.stderr
    assert not shop.slot().held


def test_overtime_of_the_stubborn(shop: Shop) -> None:
    """Who does not listen is killed --kill-after later, all of them; --json tells the event and the code."""
    words = ("--at-most-for", "0.3", "--kill-after", "0.3", "--json")
    beating = (sys.executable, "-c", BEATING, str(shop.beats_file), "forking", "stubborn")
    done = shop.run("hold", "job", *words, "--", *beating)
    events = {event["event"]: event for event in map(json.loads, done.stderr.splitlines())}
    assert done.returncode == 124 == events["exit"]["code"]
    assert events["overtime"]["seconds"] == 0.3
    assert not any(alive(who) for who, _ in shop.beats())


def test_within_its_time(shop: Shop) -> None:
    """Who ends in time has its own code, and the time that it waited for the lock does not count."""
    holder = shop.hold("--", "sleep", "1")
    done = shop.run("hold", "job", "--at-most-for", "0.8", "-c", "exit 5")
    assert (done.returncode, done.stderr) == (5, "")
    holder.wait(30)


def test_what_it_leaves_running_is_no_overtime(shop: Shop) -> None:
    """The command has ended in time although what it left behind was ended later."""
    line = "setsid sh -c 'trap \"\" TERM; sleep 600' & sleep 0.05; exit 4"
    done = shop.run("hold", "job", "--at-most-for", "0.2", "--kill-after", "0.3", "-c", line)
    assert (done.returncode, done.stderr) == (4, "")


def test_overtime_is_no_loss(shop: Shop) -> None:
    """With --restart too, a command that ran for too long is not run again."""
    done = shop.run("hold", "job", "--restart", "--at-most-for", "0.2", "-c", "echo once; sleep 60")
    assert (done.returncode, done.stdout) == (124, "once\n")
