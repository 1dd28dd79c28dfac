"""The command never outlives the lease: whatever happens to the store, to `leases`, or to the guardian."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from leases.cli.supervisor import Grace
from leases.cli.tree import group_is_gone
from leases_command import BEATING, LEASES, Shop, alive, children, deadline, descendants, state, until
from stores import every_shared_store, every_shared_store_once

TTL = 2.0
HABITS = [(), ("stubborn",), ("forking", "stubborn")]

pytestmark = pytest.mark.waits


def commands_of(shop: Shop) -> set[int]:
    """The processes of the command that beats."""
    return {who for who, _ in shop.beats()}


def guardian_of(shop: Shop, process: subprocess.Popen[str]) -> int:
    """The only child of `leases`."""
    (guardian,) = children(process.pid)
    assert commands_of(shop) <= set(descendants(guardian))
    return guardian


# ---- the store fails -----------------------------------------------------------------------------


@every_shared_store_once("habits", HABITS)
def test_store_that_hangs(shop: Shop, habits: tuple[str, ...]) -> None:
    """Renewals get no answer: the whole group is dead before the deadline, though it ignores SIGTERM."""
    process = shop.beat(*habits, ttl=TTL)
    shop.await_renewal()
    end = deadline(shop.slot().claim)
    with shop.frozen():
        _, err = process.communicate(timeout=30)
        assert shop.last_beat() < end
    assert process.returncode == 70
    assert 'lease on "job" was not renewed and ends in' in err and err.count("\n") == 1


@pytest.mark.parametrize("stopped", [False, True])
def test_sigterm_comes_first(shop: Shop, stopped: bool) -> None:
    """A command has --kill-after to clean up, a stopped one too, and its exit code changes nothing: 70."""
    line = 'trap "echo cleaned > cleaned; exit 0" TERM; echo x > ready; while :; do sleep 0.01; done'
    process = shop.start("hold", "job", "--ttl", "2", "--kill-after", "0.4", "-c", line)
    until((shop.folder / "ready").exists)
    if stopped:
        process.send_signal(signal.SIGTSTP)
    with shop.frozen():
        process.communicate(timeout=30)
    assert process.returncode == 70
    assert (shop.folder / "cleaned").exists()


@every_shared_store_once("habits", HABITS)
def test_superseded(shop: Shop, habits: tuple[str, ...]) -> None:
    """Another's claim stands in the store: the group is ended, by the deadline at most; the claim stays."""
    process = shop.beat(*habits, ttl=TTL, options=("--lost-exit-code", "9"))
    end = deadline(shop.supersede(ttl=30))
    _, err = process.communicate(timeout=30)
    assert shop.last_beat() < end
    assert process.returncode == 9
    assert "is lost (superseded)" in err and err.count("\n") == 1
    assert shop.holder() == "usurper"


def test_loss_as_json(shop: Shop) -> None:
    """With --json a loss has its reason, and the exit code is the last word."""
    process = shop.beat(ttl=TTL, options=("--json",))
    shop.supersede(ttl=30)
    _, err = process.communicate(timeout=30)
    events = {event["event"]: event for event in map(json.loads, err.splitlines())}
    assert events["lost"]["reason"] == "superseded"
    assert list(events)[-1] == "exit" and events["exit"]["code"] == 70


@every_shared_store
def test_a_renewed_lease_disturbs_nobody(shop: Shop) -> None:
    """A command may run for many ttls."""
    done = shop.run("hold", "job", "--ttl", "1.5", "--", "sleep", "4")
    assert (done.returncode, done.stderr) == (0, "")


# ---- leases itself fails -------------------------------------------------------------------------


@every_shared_store_once("habits", HABITS)
def test_leases_is_killed(shop: Shop, habits: tuple[str, ...]) -> None:
    """`leases` is killed: the guardian ends the group before the deadline, and then itself."""
    process = shop.beat(*habits, ttl=TTL)
    guardian = guardian_of(shop, process)
    end = deadline(shop.slot().claim)
    os.killpg(process.pid, signal.SIGKILL)
    assert shop.last_beat() < end
    until(lambda: not alive(guardian))


def test_leases_is_killed_long_before_the_deadline(shop: Shop) -> None:
    """Nobody is there to renew the lease any more, so the command is not left to run to its end."""
    process = shop.beat(ttl=600)
    process.kill()
    _, err = process.communicate(timeout=30)
    assert shop.last_beat() < deadline(shop.slot().claim) - 400
    assert err == 'leases: the process has died that held "job"; its command was stopped\n'


def test_the_guardian_speaks_json(shop: Shop) -> None:
    """With --json the guardian's line is an object like the others."""
    process = shop.beat(ttl=600, options=("--json",))
    process.kill()
    _, err = process.communicate(timeout=30)
    assert [json.loads(line)["event"] for line in err.splitlines()] == ["acquired", "stopped"]


def test_leases_is_killed_with_closed_descriptors(shop: Shop) -> None:
    """The guardian does its part although the caller has closed stdin, stdout and stderr."""
    shell = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *LEASES)
    beating = ("--", sys.executable, "-c", BEATING, str(shop.beats_file))
    process = shop.start("hold", "job", "--ttl", "2", *beating, program=shell)
    until(lambda: shop.beats() and shop.slot().held)
    end = deadline(shop.slot().claim)
    process.kill()
    assert shop.last_beat() < end


@every_shared_store
def test_a_waiter_is_killed(shop: Shop) -> None:
    """Killed while it waits, it leaves no process, and its command does not begin."""
    holder = shop.hold("--", "sleep", "60")
    waiter = shop.start("hold", "job", "--verbose", "--", "touch", "ran")
    assert waiter.stderr is not None and "waiting" in waiter.stderr.readline()
    forked = descendants(waiter.pid)
    assert len(forked) == 2
    waiter.kill()
    until(lambda: not any(map(alive, forked)))
    assert not (shop.folder / "ran").exists()
    holder.terminate()
    holder.wait()


@every_shared_store_once("habits", HABITS)
def test_leases_is_stopped(shop: Shop, habits: tuple[str, ...]) -> None:
    """`leases` is stopped: the group is dead before another gets the lock; continued, it tells the loss."""
    process = shop.beat(*habits, ttl=TTL)
    process.send_signal(signal.SIGSTOP)
    end = deadline(shop.slot().claim)
    assert shop.run("hold", "job", "--", "true").returncode == 0
    assert shop.last_beat() < end
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 70
    assert "its command was stopped" in err and "is lost (expired)" in err and err.count("\n") == 2


@pytest.mark.parametrize("step", range(12))
def test_leases_is_killed_at_any_moment(shop: Shop, step: int) -> None:
    """Killed while it starts, acquires or has just let the command go, it leaves no process behind."""
    process = shop.start("hold", "job", "--ttl", "1", "--", "sleep", "4711.4711")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(step * 0.02)
    process.kill()
    process.wait()
    until(lambda: not _processes_about(shop.folder))


def test_guardian_is_killed(shop: Shop) -> None:
    """The command dies with its guardian; what it started is ended, and the lock is free."""
    process = shop.beat("forking", "stubborn", ttl=60, options=("--kill-after", "0.2"))
    os.kill(guardian_of(shop, process), signal.SIGKILL)
    _, err = process.communicate(timeout=30)
    assert not any(map(alive, commands_of(shop)))
    assert process.returncode == 137
    assert "the guardian was killed, and the command with it" in err and err.count("\n") == 1
    assert not shop.slot().held


def test_guardian_is_stopped(shop: Shop) -> None:
    """A guardian that is stopped is continued; stopped again and again, it keeps nobody from the deadline."""
    process = shop.beat("forking", "stubborn", ttl=TTL)
    guardian = guardian_of(shop, process)
    process.send_signal(signal.SIGSTOP)  # So that it is not quicker than we are to see it.
    os.kill(guardian, signal.SIGSTOP)
    until(lambda: state(guardian) == "T")
    process.send_signal(signal.SIGCONT)
    until(lambda: state(guardian) != "T")
    with shop.frozen():
        end = deadline(shop.slot().claim)
        while process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(guardian, signal.SIGSTOP)
        assert shop.last_beat() < end
    assert process.returncode == 70


def test_release_that_fails_is_a_warning(shop: Shop) -> None:
    """The store hangs when the work is done: the command's code stands, in bounded time."""
    line = "echo x > ready; while [ ! -e go ]; do sleep 0.01; done; exit 3"
    process = shop.start("hold", "job", "--ttl", "20", "-c", line)
    until((shop.folder / "ready").exists)
    with shop.frozen():
        (shop.folder / "go").touch()
        _, err = process.communicate(timeout=30)
    assert process.returncode == 3
    assert "did not confirm the release" in err and err.count("\n") == 1


# ---- the times -----------------------------------------------------------------------------------


def test_limits() -> None:
    """SIGTERM comes --kill-after before the deadline, SIGKILL before it by a margin, never the reverse."""
    assert Grace(2.0, 0.1).limits(100.0) == (98.0, 99.9)
    assert Grace(0.0, 0.1).limits(100.0) == (99.9, 99.9)


def test_the_guardian_is_no_earlier() -> None:
    """A guardian says SIGTERM only where the holder has not, and SIGKILL at the same instant."""
    for grace in (Grace(2.0, 0.1), Grace(0.0, 0.1), Grace(0.1, 0.02)):
        ours, its = grace.limits(100.0), grace.of_guardian(100.0)
        assert ours.term_at <= its.term_at <= its.kill_at == ours.kill_at < 100.0


def test_zombies_are_gone() -> None:
    """Where nobody reaps them, as in some containers, the dead of a group do not keep it alive."""
    with subprocess.Popen(["true"], start_new_session=True) as process:
        until(lambda: not alive(process.pid))
        assert not group_is_gone(process.pid, closely=False)
        assert group_is_gone(process.pid, closely=True)
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
        assert not group_is_gone(process.pid, closely=True)
        process.kill()
    assert group_is_gone(process.pid, closely=False)


@pytest.mark.parametrize("kill_after", ["3.4375", "4", "1h"])
def test_kill_after_that_does_not_fit(shop: Shop, kill_after: str) -> None:
    """A grace that a late renewal would not leave is refused at the start, with both values."""
    done = shop.run("hold", "job", "--kill-after", kill_after, "--", "touch", "ran")
    assert done.returncode == 64
    assert "--kill-after" in done.stderr and "--ttl 15 s" in done.stderr and done.stderr.count("\n") == 1
    assert not (shop.folder / "ran").exists() and not shop.path.exists()


def test_kill_after_that_fits(shop: Shop) -> None:
    """The longest grace that fits is taken."""
    assert shop.run("hold", "job", "--kill-after", "3.43", "--", "true").returncode == 0


def _processes_about(folder: Path) -> list[int]:
    """The processes that have the folder in their environment, as all have that `leases` forked there."""
    found: list[int] = []
    for process in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in Path(f"/proc/{process}/environ").read_bytes():
                found.append(int(process))
    return found
