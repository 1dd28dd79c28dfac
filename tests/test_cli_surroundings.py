"""Where `leases hold` is started: no stranger is harmed, and a poor system keeps the promise, too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from leases.cli.cgroup import home
from leases.cli.tree import look, send
from leases_command import BEATING, LEASES, Shop, alive, children, deadline, until
from terminals import Terminal

# `leases` on a system that tells nobody of processes, and so of no control groups.
BLIND = """
import leases.cli.cgroup, leases.cli.program, leases.cli.tree
leases.cli.cgroup.home, leases.cli.tree._PROC = lambda: None, "/none"
leases.cli.program.program()
"""

# `leases` whose guardian can say little before it is listened to: 455 reports fit into a page.
NARROW = """
import fcntl, leases.cli.guardian as it, leases.cli.program
be = it.be_guardian
it.be_guardian = lambda post, *more: (fcntl.fcntl(post.reports, fcntl.F_SETPIPE_SZ, 1), be(post, *more))
leases.cli.program.program()
"""

# It stops and continues its parent, more often than anybody counts, and beats. Neither hears SIGTERM.
STOPPING = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
leader = os.getpid()
if os.fork():
    while True:
        time.sleep(60)
state = lambda: open(f"/proc/{leader}/stat").read().rpartition(")")[2].split()[0]
beats = open(sys.argv[1], "a")
for _ in range(600):
    print(os.getpid(), time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", 1)), file=beats, flush=True)
    os.kill(leader, signal.SIGSTOP)
    while state() != "T":
        time.sleep(0.0001)
    time.sleep(0.0003)
    os.kill(leader, signal.SIGCONT)
sys.argv.append("stubborn")
""" + BEATING.partition("\n")[2]

# A guardian is told to let its command go when its time is over; that one would not hear SIGTERM.
LATE = """
import signal, time
from leases.cli.command import Recipe
from leases.cli.guardian import Guardian
from leases.cli.orders import Limits
from leases.clock import system_clock
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
recipe = Recipe("/bin/sh", ["sh", "-c", "echo it ran"], True)
guardian = Guardian(recipe, 0.2, "job", lambda event, text: text)
while guardian.run.group is None:
    guardian.hear()
guardian.go(Limits(system_clock().hold - 0.1, system_clock().hold + 0.3), {"LEASES_NAME": "job"})
while not guardian.run.gone:
    guardian.hear()
    time.sleep(0.005)
guardian.dismiss()
"""


# ---- strangers -----------------------------------------------------------------------------------


@pytest.fixture
def stranger(shop: Shop) -> Iterator[Path]:
    """Where a script writes the number of a process that it starts and that is none of ours."""
    path = shop.folder / "stranger"
    yield path
    if path.exists():
        os.kill(int(path.read_text()), signal.SIGKILL)


def beside(shop: Shop, words: str) -> subprocess.Popen[str]:
    """Start `leases` in the place of a shell that has started somebody else before."""
    line = f"sleep 600 >&- 2>&- & echo $! > stranger; exec {sys.executable} -m leases {words}"
    return shop.start("-c", line, program=["sh"])


def test_strangers_live_on_when_the_lock_is_taken(shop: Shop, stranger: Path) -> None:
    """`a & exec leases hold …` leaves us what the shell has started: it is not ended with our own."""
    shop.hold("--ttl", "60")
    taken = beside(shop, "hold job -n -- true")
    assert taken.wait(30) == 75
    assert alive(int(stranger.read_text()))


def test_strangers_live_on_when_the_guardian_is_killed(shop: Shop, stranger: Path) -> None:
    """Then the command is ended as ever, and in a control group all of it; no stranger is."""
    line = "setsid sleep 600 >&- 2>&- & echo $! > stray; exec sleep 600"
    process = beside(shop, f"hold job --ttl 60 -c '{line}'")
    until(lambda: (shop.folder / "stray").exists() and (shop.folder / "stray").read_text())
    (guardian,) = set(children(process.pid)) - {int(stranger.read_text())}
    (command,) = children(guardian)
    stray = int((shop.folder / "stray").read_text())
    os.kill(guardian, signal.SIGKILL)
    assert process.wait(30) == 137
    assert alive(int(stranger.read_text())) and not alive(command) and not shop.slot().held
    if home() is not None:
        until(lambda: not alive(stray))
        assert not [entry for entry in os.listdir(home()) if entry.startswith(f"leases-{guardian}-")]
    elif alive(stray):
        os.kill(stray, signal.SIGKILL)


# ---- a system that does not tell, or hear --------------------------------------------------------


@pytest.mark.waits
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_without_proc(shop: Shop, number: int) -> None:
    """Where no process can be looked at, the command's group is ended in time all the same."""
    words = ("--ttl", "2", "--", sys.executable, "-c", BEATING, str(shop.beats_file), "stubborn", "forking")
    process = shop.start("hold", "job", *words, program=(sys.executable, "-c", BLIND))
    until(lambda: len({who for who, _ in shop.beats()}) == 2)
    process.send_signal(number)
    end = deadline(shop.slot().claim)
    assert shop.last_beat() < end


@pytest.mark.parametrize("words", [(), ("-n",)])
def test_without_proc_it_ends(shop: Shop, words: tuple[str, ...]) -> None:
    """There, too, codes are the command's, and the lock is free afterwards."""
    words = ("hold", "job", *words, "-c", "sleep 60 & exit 3")
    assert shop.run(*words, program=(sys.executable, "-c", BLIND)).returncode == 3
    assert not shop.slot().held


@pytest.mark.parametrize("error", [OSError(38, "not implemented"), PermissionError(1, "forbidden")])
def test_without_descriptors_of_processes(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    """An old kernel, or a sandbox that forbids them: signals go to the number, once it is looked at."""

    def refuse(pid: int) -> int:
        raise error

    monkeypatch.setattr(os, "pidfd_open", refuse)
    with subprocess.Popen(["sleep", "60"]) as process:
        member = look(process.pid)
        assert member is not None
        send(member._replace(start=member.start - 1), signal.SIGKILL)
        send(member, signal.SIGTERM)
    assert process.returncode == -signal.SIGTERM


@pytest.mark.waits
def test_a_holder_that_does_not_listen(shop: Shop) -> None:
    """A guardian that has more to tell a stopped `leases` than finds room ends the command in time."""
    words = ("--ttl", "4", "--", sys.executable, "-c", STOPPING, str(shop.beats_file))
    process = shop.start("hold", "job", *words, program=(sys.executable, "-c", NARROW))
    until(shop.beats)
    process.send_signal(signal.SIGSTOP)
    end = deadline(shop.slot().claim)
    assert shop.last_beat() < end
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 70 and "guardian" not in err


def test_an_order_that_comes_late(shop: Shop) -> None:
    """A guardian that comes to read when the time is over does not let the command begin."""
    done = shop.start("-c", LATE, program=[sys.executable])
    assert done.communicate(timeout=30)[0] == ""
    assert done.returncode == 0


@pytest.mark.waits
def test_a_terminal_that_wants_no_background(shop: Shop) -> None:
    """With `stty tostop`, what `leases` says in the background stops neither it nor its renewals."""
    terminal = Terminal("sh", "-i", env={"LEASES_URL": shop.url, "PS1": "> "}, cwd=str(shop.folder))
    try:
        leases = " ".join(LEASES)
        terminal.type(f"stty tostop; {leases} hold job --verbose -- sleep 0.1 </dev/null >/dev/null &\n")
        terminal.expect("acquired", "released")
    finally:
        terminal.close()


# ---- what the command finds ----------------------------------------------------------------------


def test_an_environment_with_nothing_in_it(shop: Shop) -> None:
    """As of `env -i`: nothing is added to it but what is ours."""
    words = [*LEASES, "hold", "job", "--backend", shop.url, "--", "/usr/bin/env"]
    done = subprocess.run(words, env={}, cwd=shop.folder, capture_output=True, text=True, timeout=30)
    names = {line.partition("=")[0] for line in done.stdout.splitlines()}
    assert names == {"LEASES_NAME", "LEASES_TOKEN", "LEASES_HOLDER", "LEASES_URL"}, done.stderr


@pytest.mark.parametrize("given", [{}, {"LC_CTYPE": "C.UTF-8"}, {"LC_CTYPE": "C"}])
def test_the_locale_of_the_command(shop: Shop, given: dict[str, str]) -> None:
    """Where no locale is set, as under cron, Python sets one for itself; the command does not find it."""
    words = [*LEASES, "hold", "job", "-c", "env"]
    plain = {"PATH": os.environ["PATH"], "LEASES_URL": shop.url, **given}
    done = subprocess.run(words, env=plain, cwd=shop.folder, capture_output=True, text=True, timeout=30)
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert {key: value for key, value in found.items() if key.startswith("LC_")} == given


def test_no_time_at_all(shop: Shop) -> None:
    """A command that may run for no time is a mistake, and does not begin."""
    done = shop.run("hold", "job", "--at-most-for", "0", "--", "touch", "began")
    assert done.returncode == 64 and "--at-most-for 0" in done.stderr
    assert not (shop.folder / "began").exists()
