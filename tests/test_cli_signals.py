"""Signals: while it waits they end it and nothing is left; while the command runs they are passed on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leases.cli.waiting import GIVE_UP_SECONDS
from leases_command import LEASES, Shop, alive, descendants, state, until
from stores import every_shared_store, every_shared_store_once

ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2]

# It ends with 100 + the number of the first signal that it gets.
LISTENING = """
import os, signal, sys, time
for number in (2, 15, 1, 3, 10, 12, 28, 20, 18):
    signal.signal(number, lambda number, frame: sys.exit(100 + number))
open("ready", "w").close()
time.sleep(60)
"""


# ---- while it waits ------------------------------------------------------------------------------


@pytest.mark.waits
@pytest.mark.parametrize("words", [("--", "touch", "ran"), ()])
@pytest.mark.parametrize("number", ENDING)
def test_while_it_waits(shop: Shop, number: int, words: tuple[str, ...]) -> None:
    """The signal N ends the wait with 128 + N; no process, no claim and no run of the command is left."""
    holder = shop.hold("--holder", "first", "--", "sleep", "60")
    before = shop.slot().claim
    waiter = shop.start("hold", "job", "--verbose", *words)
    assert waiter.stderr is not None
    waiter.stderr.readline()  # It says for whom it waits.
    forked = descendants(waiter.pid)
    assert len(forked) == (2 if words else 0)
    waiter.send_signal(number)
    waiter.communicate(timeout=30)
    assert waiter.returncode == 128 + number
    assert not any(map(alive, forked)) and not (shop.folder / "ran").exists()
    assert shop.slot().claim == before
    holder.terminate()
    holder.wait()
    assert not shop.slot().held


def test_a_second_signal_ends_it_at_once(shop: Shop) -> None:
    """When the store hangs, the first signal waits for its answer, and the second does not."""
    shop.run("hold", "job", "--", "true")
    with shop.frozen():
        waiter = _acquiring(shop)
        forked = descendants(waiter.pid)
        waiter.send_signal(signal.SIGINT)
        time.sleep(0.2)
        assert waiter.poll() is None
        began = time.monotonic()
        waiter.send_signal(signal.SIGINT)
        assert waiter.wait(30) == 130
        assert time.monotonic() - began < GIVE_UP_SECONDS - 0.2
    until(lambda: not any(map(alive, forked)))
    assert not shop.slot().held


@pytest.mark.waits
def test_first_signal_and_a_store_that_hangs(shop: Shop) -> None:
    """One signal is enough, though the store does not answer any more."""
    shop.run("hold", "job", "--", "true")
    with shop.frozen():
        waiter = _acquiring(shop)
        waiter.terminate()
        assert waiter.wait(30) == 143
    assert not shop.slot().held


def _acquiring(shop: Shop) -> subprocess.Popen[str]:
    """One that waits for the store's answer to its swap, for up to 11 seconds."""
    waiter = shop.start("hold", "job", "--ttl", "60", "--", "true")
    until(lambda: _sleeps_in_the_store(waiter.pid))
    return waiter


# ---- while the command runs ----------------------------------------------------------------------


@every_shared_store_once("number", [*ENDING, signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT])
def test_passed_on(shop: Shop, number: int) -> None:
    """The command gets the signal, and its own answer to it is the result."""
    process = shop.start("hold", "job", "--", sys.executable, "-c", LISTENING)
    until((shop.folder / "ready").exists)
    process.send_signal(number)
    assert process.wait(30) == 100 + number
    assert not shop.slot().held


def test_the_whole_group_gets_it(shop: Shop) -> None:
    """A signal reaches what the command has started, too."""
    process = shop.beat("forking", ttl=60)
    process.terminate()
    assert process.wait(30) == 143
    assert not any(alive(who) for who, _ in shop.beats())


@pytest.mark.waits
@every_shared_store
def test_stopped_and_continued(shop: Shop) -> None:
    """SIGTSTP stops the command and not the renewal; SIGCONT lets it go on."""
    process = shop.beat(ttl=1.5)
    command = shop.beats()[0][0]
    process.send_signal(signal.SIGTSTP)
    until(lambda: state(command) == "T")
    token = shop.slot().token
    time.sleep(3)  # two ttls
    assert shop.slot().token == token and process.poll() is None and state(command) == "T"
    count = len(shop.beats())
    process.send_signal(signal.SIGCONT)
    until(lambda: len(shop.beats()) > count)
    process.terminate()
    assert process.wait(30) == 143


def test_ignored_stays_ignored(shop: Shop) -> None:
    """What the caller has had ignored, as nohup does, ends neither `leases` nor the command."""
    nohup = ("sh", "-c", "trap '' HUP; exec \"$@\"", "sh", *LEASES)
    done = shop.run("hold", "job", "-c", "kill -HUP $PPID $$; exit 4", program=nohup)
    assert done.returncode == 4
    process = shop.start("hold", "job", program=nohup)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None and shop.holder() is not None
    process.terminate()
    assert process.wait(30) == 0


def test_a_dead_child_is_noticed_though_sigchld_was_ignored(shop: Shop) -> None:
    """A caller that ignores SIGCHLD does not cost the exit code."""
    program = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN);"
        "os.execv(sys.executable, [sys.executable, '-m', 'leases', 'hold', 'job', '-c', 'exit 6'])"
    )
    process = shop.start("hold", "outer", "--", sys.executable, "-c", program)
    assert process.wait(30) == 6


def _sleeps_in_the_store(process: int) -> bool:
    """Whether a thread besides the first sleeps by the clock, which is how SQLite waits for others."""
    for task in Path(f"/proc/{process}/task").iterdir():
        if task.name != str(process) and "nanosleep" in (task / "wchan").read_text():
            return True
    return False
