"""All that a command has started ends before its lease does, wherever it went: 100 of 100 times.

``LEASES_LONG=1`` makes that 500 of 500.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from command_trees import KINDS, Forest
from leases.cli.cgroup import home
from leases.cli.tree import Member, look, members, send, send_all
from leases.registry import open_backend
from leases_command import LEASES, Shop, alive, children, descendants, until
from stores import sent

TTL = 3.0
COUNT = 102
ROUNDS = 5 if os.environ.get("LEASES_LONG") else 1

# A process that forks, over and over, into a new session each, and is never there for longer than that takes.
FLEEING = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork():
    open(sys.argv[1] + "/ready", "w").close()
    time.sleep(600)
file = os.open(sys.argv[1] + "/beats", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
while True:
    os.setsid()
    os.write(file, b"%d %.6f\\n" % (os.getpid(), time.clock_gettime(time.CLOCK_BOOTTIME)))
    if os.fork():
        os._exit(0)
"""

# `leases` where it may not have control groups.
UNCAGED = (
    sys.executable, "-c",
    "import leases.cli.cgroup as it; it.home = lambda: None; import leases.cli.program as it; it.program()",
)  # fmt: skip

# One whose guardian asks to be killed sooner, which needs no privilege, where it would ask to be spared.
UNSPARED = (
    sys.executable, "-c",
    "import leases.cli.guarding as it; it._LEAST_OOM = b'500'; import leases.cli.program as it; it.program()",
)  # fmt: skip

# A daemon as they are made: two forks and a session. It says when it is told to end, and ends.
DAEMON = """
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, lambda *_: (open("told", "w").close(), os._exit(0)))
        open("daemon", "w").write(f"{os.getpid()} ")
        time.sleep(600)
    os._exit(0)
os.wait()
while " " not in (open("daemon").read() if os.path.exists("daemon") else ""):
    time.sleep(0.005)
"""


@pytest.fixture
def forest(tmp_path: Path) -> Iterator[Forest]:
    forest = Forest(tmp_path)
    yield forest
    forest.end()
    until(lambda: not forest.processes())


def last_sent(url: str) -> float:
    """When the last renewal in this store was sent, on the holder's clock."""
    backend = open_backend(url)
    try:
        claim = backend.read("job", 30).claim
        assert claim is not None
        return sent(claim)
    finally:
        backend.close()


def cages() -> set[str]:
    """The control groups of commands, where there are any."""
    folder = home()
    return set() if folder is None else {entry for entry in os.listdir(folder) if entry.startswith("leases-")}


# ---- leases fails --------------------------------------------------------------------------------


@pytest.mark.safety
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP] * ROUNDS)
def test_nobody_outlives_the_lease(forest: Forest, number: int) -> None:
    """`leases` is killed or stopped: of 100 commands of every kind, the last process is gone in time."""
    for count in range(COUNT):
        kind, caged = list(KINDS)[count % len(KINDS)], count % (2 * len(KINDS)) < len(KINDS)
        forest.plant(kind, "--ttl", str(TTL), "--kill-after", "0.3", caged=caged)
    forest.await_begun()
    trees = list(forest.trees)
    guardians = {child for tree in trees for child in children(tree.holder)}
    for tree in trees:
        os.kill(tree.holder, number)
    forest.await_dead()
    left = [last_sent(tree.url) + TTL - (tree.died_at or 0) for tree in trees]
    assert min(left) > 0, sorted(zip(left, (tree.kind for tree in trees), strict=True))[:5]
    forest.end()
    until(lambda: not any(map(alive, guardians)))
    assert not any(f"leases-{guardian}-" in cage for cage in cages() for guardian in guardians)


@pytest.mark.slow
@pytest.mark.parametrize("program", [LEASES, UNCAGED])
def test_who_flees_is_caught(shop: Shop, program: tuple[str, ...]) -> None:
    """A process that is another one every millisecond, each in a session of its own, is caught in time."""
    words = ("--ttl", "2", "--kill-after", "0", "--", sys.executable, "-c", FLEEING, str(shop.folder))
    process = shop.start("hold", "job", *words, program=program)
    until(lambda: len(shop.beats()) > 10)
    process.send_signal(signal.SIGSTOP)
    end = last_sent(shop.url) + 2
    guardian = children(process.pid)[0]
    until(lambda: not descendants(guardian))
    assert shop.last_beat() < end


def test_both_are_killed(shop: Shop) -> None:
    """`leases` and its guardian die at once: so does the command, though nobody is left to end it."""
    process = shop.beat("stubborn", ttl=600)
    (guardian,) = children(process.pid)
    os.kill(process.pid, signal.SIGSTOP)  # So that it cannot do its part in between.
    os.kill(guardian, signal.SIGKILL)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    command = shop.beats()[0][0]
    try:
        until(lambda: not alive(command))
    finally:
        if alive(command):
            os.kill(command, signal.SIGKILL)


def test_the_guardian_is_killed(shop: Shop) -> None:
    """What the command has sent into other sessions comes to `leases`, which ends it and then releases."""
    program = DAEMON.replace("os.wait()", "os.wait(); open('began', 'w').close(); time.sleep(600)")
    process = shop.start("hold", "job", "--ttl", "60", "--", sys.executable, "-c", program)
    until(lambda: (shop.folder / "began").exists() and (shop.folder / "daemon").exists())
    (guardian,) = children(process.pid)
    os.kill(guardian, signal.SIGKILL)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 137
    assert "the guardian was killed, and the command with it" in err and err.count("\n") == 1
    assert (shop.folder / "told").exists()
    assert not shop.slot().held


# ---- the command ends ----------------------------------------------------------------------------


def test_a_daemon_ends_with_its_command(shop: Shop) -> None:
    """What leaves the group and the session is told to end when the command does, and only then released."""
    done = shop.run("hold", "job", "--ttl", "60", "--", sys.executable, "-c", DAEMON)
    assert (done.returncode, done.stderr) == (0, "")
    assert (shop.folder / "told").exists()
    assert not alive(int((shop.folder / "daemon").read_text()))
    assert not shop.slot().held


def test_a_daemon_is_told_when_the_command_is_stopped(shop: Shop) -> None:
    """Who is in another session hears SIGTERM when the command, which heard it first, has ended."""
    program = DAEMON + "open('began', 'w').close(); time.sleep(600)\n"
    words = ("--ttl", "9", "--kill-after", "2", "--", sys.executable, "-c", program)
    process = shop.start("hold", "job", *words)
    until((shop.folder / "began").exists)
    shop.supersede(ttl=60)
    assert process.wait(30) == 70
    assert (shop.folder / "told").exists()


def test_a_daemon_that_will_not_end(shop: Shop) -> None:
    """It is killed, --kill-after later."""
    program = DAEMON.replace("lambda *_: (open", "lambda *_: (0, open").replace(", os._exit(0))", ")")
    began = time.monotonic()
    done = shop.run("hold", "job", "--kill-after", "0.5", "--", sys.executable, "-c", program)
    assert done.returncode == 0 and time.monotonic() - began > 0.7
    assert (shop.folder / "told").exists()
    assert not alive(int((shop.folder / "daemon").read_text()))


def test_no_zombies(shop: Shop) -> None:
    """Orphans that end while the command runs are reaped, and nothing of the command is left in a cage."""
    line = "for i in 1 2 3 4 5; do (true &) ; done; sleep 0.3; echo $PPID; exec sleep 600"
    process = shop.start("hold", "job", "-c", line)
    assert process.stdout is not None
    guardian = int(process.stdout.readline())
    assert len(descendants(guardian)) == 1
    process.terminate()
    assert process.wait(30) == 143
    assert not any(f"leases-{guardian}-" in cage for cage in cages())


def test_what_the_guardian_changed_is_not_inherited(shop: Shop) -> None:
    """The kernel chooses the command as readily as any process when memory runs out, not so the guardian."""
    line = "cat /proc/self/oom_score_adj; cat /proc/$PPID/oom_score_adj /proc/$PPID/comm"
    own = Path("/proc/self/oom_score_adj").read_text().strip()
    spared = "-1000" if may_be_spared() else own
    assert shop.run("hold", "job", "-c", line).stdout.split() == [own, spared, "leases-guardian"]
    done = shop.run("hold", "job", "-c", line, program=UNSPARED)
    assert done.stdout.split() == [own, "500", "leases-guardian"]


def may_be_spared() -> bool:
    """Whether a process of ours may say that it is not to be killed."""
    line = "echo -1000 > /proc/self/oom_score_adj"
    return subprocess.run(["sh", "-c", line], capture_output=True).returncode == 0


# ---- whose number is it --------------------------------------------------------------------------


def test_a_number_that_is_used_again() -> None:
    """A signal for a process that has ended does not reach the one that has its number now."""
    with subprocess.Popen(["sleep", "60"]) as process:
        member = look(process.pid)
        assert member is not None and member.parent == os.getpid()
        send(member._replace(start=member.start - 1), signal.SIGKILL)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.1)
        send(member, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    send(member, signal.SIGKILL)
    assert look(process.pid) is None


@pytest.mark.parametrize("told", [True, False])
def test_members(monkeypatch: pytest.MonkeyPatch, told: bool) -> None:
    """The tree is seen whole, parents first, by the kernel's lists of children and without them."""
    if not told:
        exists = os.path.exists
        monkeypatch.setattr(os.path, "exists", lambda path: "children" not in str(path) and exists(path))
    line = "setsid sleep 60 & sleep 60 & echo $$; wait"
    words = ["sh", "-c", 'setsid sh -c "$0" & wait', line]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        leader = int(process.stdout.readline())
        until(lambda: len(groups(leader)) == 2)
        found = members(os.getpid())
        shell = next(member for member in found if member.pid == leader)
        below = [member for member in found if member.parent == leader]
        assert len(below) == 2 and found.index(shell) < found.index(below[0])
        assert send_all(leader, leader, signal.SIGKILL, strays_only=True)
        until(lambda: len([member for member in members(leader) if member.alive]) == 1)
        assert send_all(process.pid, leader, signal.SIGKILL)
    assert not send_all(process.pid, leader, signal.SIGKILL)


def groups(process: int) -> set[int]:
    """The process groups below a process."""
    return {member.group for member in members(process)}


def test_zombies_do_not_live() -> None:
    """Who has ended and is not reaped yet is seen, and does not count."""
    with subprocess.Popen(["true"]) as process:
        until(lambda: not alive(process.pid))
        member = look(process.pid)
        assert isinstance(member, Member) and not member.alive
        assert not send_all(process.pid, process.pid, signal.SIGTERM)


def may_have_a_namespace() -> bool:
    """Whether a process of ours may be the first of a namespace of its own."""
    return subprocess.run([*FIRST, "true"], capture_output=True).returncode == 0


FIRST = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc")


@pytest.mark.skipif(
    shutil.which("unshare") is None or not may_have_a_namespace(),
    reason="this system lets us have no namespace of processes",
)
def test_first_process(shop: Shop) -> None:
    """As the first process there is, `leases` leaves no zombie, and ends whoever the command left running."""
    line = (
        "for i in 1 2 3; do (setsid sh -c '(true &); (true &)' &) ; done; sleep 0.5;"
        "cat /proc/[0-9]*/stat | cut -d' ' -f3 | sort | uniq -c; setsid sleep 600 & exit 6"
    )
    done = shop.run("hold", "job", "-c", line, program=(*FIRST, *LEASES))
    assert (done.returncode, done.stderr) == (6, "")
    assert "S" in done.stdout and "Z" not in done.stdout
    assert not shop.slot().held
