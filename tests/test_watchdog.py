"""``on_lost="kill"``: the process is gone before others may take the lock, and lives while its lease does.

What is killed is a process of its own, watched from outside by CLOCK_BOOTTIME. A record says when it was
sent, and nobody may take it before so much time has passed as its ttl says.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lab.clients import Remote
from leases import ConfigurationError, Lock, Store, Terms, watchdog
from leases.clock import system_clock
from leases.events import Renewed
from leases.testing.clock import ManualClock
from stores import SHARED, Site, _every, every_shared_store, sent
from stubborn import PATIENCE, SHORT, Stubborn, break_, intrude, leftovers, store_on, until
from test_interrupts import CtrlC

LONG = bool(os.environ.get("LEASES_LONG"))
TTL = 1.5
HOLD = Terms(TTL).hold

linux = pytest.mark.skipif(sys.platform != "linux", reason="CLOCK_BOOTTIME and pidfds are Linux's")
on_sqlite = _every([kind for kind in SHARED if kind.name == "sqlite"])
both_timers = pytest.mark.parametrize("guardian", [False, True], ids=["kernel", "guardian"])


@contextmanager
def watched(url: str, work: str, **options: Any) -> Generator[Remote]:
    """A process that holds the lock and does some work."""
    with Remote(url, "job", work, json.dumps({"ttl": TTL, **options}), program="watched.py") as remote:
        remote.hear()
        yield remote


def gone_at(pid: int) -> float:
    """Wait until a process has ended, and say when that was, on the holder's clock."""
    file = os.pidfd_open(pid)
    try:
        assert select.select([file], [], [], 20)[0], "it was not killed"
        return system_clock().hold
    finally:
        os.close(file)


@contextmanager
def cut_off(site: Site) -> Generator[None]:
    """The store gives no answer."""
    if site.kind.name != "sqlite":
        with site.frozen():
            yield
        return
    path = site.url.removeprefix("sqlite://")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        yield
        writer.execute("ROLLBACK")


def was_sent(site: Site) -> float:
    """When the last write of the record was sent that was committed."""
    claim = site.backend().read("job", PATIENCE).claim
    assert claim is not None and claim.held
    return sent(claim)


def check_in_time(gone: float, last: float, stop_within: float = 0.0) -> None:
    """It was gone before its ttl had passed, and not before its deadline."""
    assert gone < last + TTL, f"{gone - last - TTL:.3f} s too late"
    assert gone > last + HOLD - stop_within - 0.01, f"{last + HOLD - gone:.3f} s too early"


# ---- gone before the ttl has passed --------------------------------------------------------------


@pytest.mark.safety
@pytest.mark.waits
@linux
@on_sqlite
@pytest.mark.parametrize(("work", "guardian"), [("sleep", False), ("spin", False), ("sleep", True)])
def test_stopped_process_is_killed(site: Site, work: str, guardian: bool) -> None:
    """SIGSTOP: none of its threads runs any more, and it is gone by the deadline all the same."""
    with watched(site.url, work, guardian=guardian) as remote:
        remote.order("go on")
        time.sleep(0.1)
        os.kill(remote.pid, signal.SIGSTOP)
        gone = gone_at(remote.pid)
    check_in_time(gone, was_sent(site))


@pytest.mark.safety
@pytest.mark.waits
@linux
@on_sqlite
@both_timers
def test_process_whose_gil_is_kept_is_killed(site: Site, guardian: bool) -> None:
    """A call in C that keeps the GIL: nothing renews, and nothing of Python could end it."""
    with watched(site.url, "gil", guardian=guardian) as remote:
        remote.order("go on")
        gone = gone_at(remote.pid)
    check_in_time(gone, was_sent(site))


@linux
@every_shared_store
def test_blocked_loop_is_killed_when_the_store_is_gone(site: Site) -> None:
    """An event loop that stands still, and a store that answers nobody."""
    with watched(site.url, "loop") as remote:
        first = was_sent(site)
        until(lambda: was_sent(site) != first)  # So that no renewal comes until the next third of the ttl.
        last = was_sent(site)
        with cut_off(site):
            remote.order("go on")
            gone = gone_at(remote.pid)
    check_in_time(gone, last)


@linux
@on_sqlite
def test_process_whose_main_thread_has_ended_is_killed(site: Site) -> None:
    """Other threads go on while no new one can be started."""
    with watched(site.url, "main-ended") as remote, cut_off(site):
        remote.order("go on")
        gone = gone_at(remote.pid)
    check_in_time(gone, was_sent(site))


@linux
@on_sqlite
@both_timers
def test_it_is_killed_so_much_before_the_deadline(site: Site, guardian: bool) -> None:
    """`stop_within` is taken off: the process is gone before its lease has ended."""
    with watched(site.url, "sleep", guardian=guardian, stop_within=0.3) as remote:
        remote.order("go on")
        os.kill(remote.pid, signal.SIGSTOP)
        gone = gone_at(remote.pid)
    last = was_sent(site)
    assert gone < last + HOLD
    check_in_time(gone, last, stop_within=0.3)


@pytest.mark.waits
@linux
@on_sqlite
@pytest.mark.parametrize("end", [intrude, break_], ids=["superseded", "broken"])
def test_it_is_killed_at_once_when_the_loss_is_seen(site: Site, end: Any) -> None:
    """Another's claim in the store: there is no deadline to wait for, with a ttl that leaves time."""
    with watched(site.url, "sleep", ttl=4.0) as remote:
        remote.order("go on")
        end(site.store(), "job")
        before = system_clock().hold
        gone = gone_at(remote.pid)
    # It learns of it by its next renewal, at a third of the ttl; the deadline would come at three quarters.
    assert gone < before + 2.5


# ---- never while the lease is healthy ------------------------------------------------------------


def burning(processes: int) -> contextlib.ExitStack:
    """So many processes that use all the time they get."""
    stack = contextlib.ExitStack()
    for _ in range(processes):
        burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        stack.callback(burner.wait)
        stack.callback(burner.kill)
    return stack


@linux
@on_sqlite
@pytest.mark.parametrize("guardian", [False, True] if LONG else [False])
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_healthy_lease_is_let_alone_under_load(site: Site, guardian: bool) -> None:
    """A busy machine and a thread that keeps the GIL busy: as long as it is renewed it lives.

    For a few seconds, for a minute with ``LEASES_LONG=1``.
    """
    with watched(site.url, "orders", guardian=guardian) as remote, burning(3):
        remote("spin")
        told = remote("look")
        first, end = told["deadline"], time.monotonic() + (60 if LONG else 3)
        while time.monotonic() < end:
            time.sleep(0.1)
            told = remote("look")
            assert told["held"]
        assert told["deadline"] > first + (50 if LONG else 1)


@linux
@on_sqlite
@both_timers
def test_released_lease_kills_nobody(site: Site, guardian: bool) -> None:
    """After the release the process lives on past the deadline that it had."""
    with watched(site.url, "orders", guardian=guardian, ttl=1.0) as remote:
        deadline = remote("release")["deadline"]
        time.sleep(max(deadline - system_clock().hold, 0) + 0.2)
        assert not remote("look")["held"]


@pytest.mark.waits
@linux
@on_sqlite
@both_timers
def test_child_of_a_fork_is_let_alone(site: Site, guardian: bool) -> None:
    """The child of a fork is not watched over: it outlives its parent, which is killed in time."""
    with watched(site.url, "orders", guardian=guardian) as remote:
        remote("fork")
        os.kill(remote.pid, signal.SIGSTOP)
        check_in_time(gone_at(remote.pid), was_sent(site))
        assert remote.hear() == {"child": "lives"}


@linux
@on_sqlite
def test_guardian_that_dies_is_replaced(site: Site) -> None:
    """Somebody kills the guardian: the next renewal starts another."""
    with watched(site.url, "orders", guardian=True) as remote:
        [first] = guardians(remote.pid)
        os.kill(first, signal.SIGKILL)
        until(lambda: guardians(remote.pid) not in ([], [first]))
        time.sleep(0.1)
        os.kill(remote.pid, signal.SIGSTOP)
        check_in_time(gone_at(remote.pid), was_sent(site))


def test_guardian_is_replaced_when_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none could be started for a while, the next renewal tries again."""
    guardian = watchdog.Guardian()
    guardian.set(system_clock().hold + 100)
    guardian._process.kill()
    guardian._process.wait()
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", refuse)
        for _ in range(2):
            with pytest.raises(OSError, match="not permitted"):
                guardian.set(system_clock().hold + 100)
    guardian.set(system_clock().hold + 100)
    assert guardian._process.poll() is None
    guardian.delete()
    assert guardian._process.poll() is not None


@linux
@on_sqlite
def test_guardian_that_hears_no_more_keeps_watch(site: Site) -> None:
    """A process that closes every file, as daemons do, has cut off its guardian, which kills in time."""
    with watched(site.url, "orders", guardian=True) as remote:
        remote("close files")
        os.kill(remote.pid, signal.SIGSTOP)
        gone = gone_at(remote.pid)
    check_in_time(gone, was_sent(site))


@linux
@on_sqlite
def test_guardian_goes_with_its_process(site: Site) -> None:
    """It ends when the lease is released, and when the process that it watches is gone."""
    with watched(site.url, "orders", guardian=True) as remote:
        assert len(guardians(remote.pid)) == 1
        remote("release")
        assert guardians(remote.pid) == []
    with watched(site.url, "orders", guardian=True, ttl=20) as remote:
        [pid] = guardians(remote.pid)
        assert os.getsid(pid) == pid  # No terminal and no signal to our group reaches it.
        guard = os.pidfd_open(pid)
        remote.kill()
        assert select.select([guard], [], [], 10)[0]
        os.close(guard)


def guardians(parent: int) -> list[int]:
    """The guardians of a process."""
    children = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(parent)], capture_output=True, text=True
    )
    return [int(line.split()[0]) for line in children.stdout.splitlines() if "guard.py" in line]


# ---- when it is set ------------------------------------------------------------------------------


class Recorder:
    """A timer that kills nobody, and what became of it."""

    made: list[Recorder]

    def __init__(self) -> None:
        self.at: list[float] = []
        self.deleted = self.forgotten = 0
        Recorder.made.append(self)

    def set(self, at: float) -> None:
        assert not self.deleted
        self.at.append(at)

    def delete(self) -> None:
        self.deleted += 1

    def forget(self) -> None:
        self.forgotten += 1


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    """The timers that were made instead of real ones."""
    Recorder.made = []
    watchdog._try(os.getpid())
    monkeypatch.setattr(watchdog, "_open_timer", Recorder)
    return Recorder.made


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The signals that this process would have sent."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *args: sent.append(args))
    return sent


def lock_on(store: Store, **options: Any) -> Lock:
    given: dict[str, Any] = {"on_lost": "kill", **options}
    return Lock("job", store=store, **given)


def test_it_is_set_before_the_acquisition_is_reported(timers: list[Recorder]) -> None:
    """At the deadline, or so much before it; and deleted before the store hears of the release."""
    backend = Stubborn()
    deleted: list[int] = []
    with store_on(backend) as store:
        for within in (0.0, 2.0):
            lease = lock_on(store, stop_within=within).acquire()
            assert timers[-1].at == [lease.deadline - within] and not timers[-1].deleted
            backend.before = lambda kind, name: deleted.append(timers[-1].deleted)
            lease.release()
            backend.before = lambda kind, name: None
    assert deleted == [1, 1]


def test_every_renewal_moves_it(timers: list[Recorder]) -> None:
    """It is set anew at each, and only ever later."""
    with store_on() as store, lock_on(store, ttl=SHORT) as lease:
        until(lambda: len(timers[0].at) > 3)
        assert timers[0].at == sorted(set(timers[0].at))
        assert timers[0].at[-1] <= lease.deadline


def test_nothing_moves_it_back(timers: list[Recorder]) -> None:
    """What is told of an earlier deadline, however late it comes, leaves it as it is."""
    with store_on() as store, lock_on(store) as lease:
        stopper = lease._stopper
        assert isinstance(stopper, watchdog.Kill)
        for deadline in (lease.deadline - 1, lease.deadline, lease.deadline + 1, lease.deadline):
            stopper._hear(Renewed(deadline, 0.0))
        assert timers[0].at == [lease.deadline, lease.deadline + 1]


def test_clock_that_is_moved_by_hand(timers: list[Recorder]) -> None:
    """Under a clock of a test's own it is set for as many seconds of the real one, at most."""
    with store_on(clock=ManualClock()) as store:
        before = system_clock().hold
        with lock_on(store) as lease:
            [at] = timers[0].at
            assert before + lease.remaining <= at <= system_clock().hold + lease.remaining


@pytest.mark.parametrize("end", ["superseded", "closed"])
def test_loss_that_is_seen_kills_at_once(
    timers: list[Recorder], kills: list[tuple[int, int]], caplog: pytest.LogCaptureFixture, end: str
) -> None:
    """The timer is set to so soon that it does not matter what Python does; the log says why."""
    losses: list[str] = []
    store = store_on()
    lock = lock_on(store, ttl=1.0, on_lost=("kill", lambda lease, loss: losses.append(loss.reason)))
    lease = lock.acquire()
    deadline = lease.deadline
    if end == "closed":
        store.close()
    else:
        intrude(store, "job")
    until(lambda: kills)
    assert kills == [(os.getpid(), signal.SIGKILL)] and losses == [end]
    assert timers[0].at[-1] < max(deadline, timers[0].at[-2])
    assert f"({end})" in caplog.text and "the process is killed" in caplog.text
    lease.release()


def test_loss_after_the_release_kills_nobody(timers: list[Recorder], kills: list[tuple[int, int]]) -> None:
    """Work that has stopped is not to be stopped, however late its end is noticed."""
    with store_on() as store:
        lease = lock_on(store).acquire()
        stopper = lease._stopper
        assert stopper is not None
        late: list[Callable[[], None]] = []
        stopper.stop(lease._loss(), None, late.append)
        lease.release()
        late.pop()()
        stopper.stop(lease._loss(), None, late.append)
    assert kills == [] and late == [] and timers[0].deleted == 1


def test_jeopardy_is_said_in_time(timers: list[Recorder], caplog: pytest.LogCaptureFixture) -> None:
    """At the deadline nobody can say anything: the log has it before."""
    backend = Stubborn()
    with store_on(backend) as store:
        lease = lock_on(store, ttl=1.0).acquire()
        backend.down = True
        until(lambda: "this process is killed in" in caplog.text)
        assert lease.held
        lease.release()


def test_no_timer_is_left_behind(timers: list[Recorder]) -> None:
    """Whether the body ends well or by an error, and where the lock was not acquired there was none."""
    with store_on() as store:
        with lock_on(store):
            pass
        with pytest.raises(KeyError), lock_on(store):
            raise KeyError
        with Lock("job", store=store), pytest.raises(TimeoutError):
            lock_on(store).acquire(timeout=0)
    assert [timer.deleted for timer in timers] == [1, 1]


def test_ctrl_c_leaves_no_timer_behind(timers: list[Recorder]) -> None:
    """S26: wherever Ctrl-C comes in a body, every timer that was made is deleted; at every 23rd place."""
    place, struck = 1, True
    while struck:
        with store_on() as store:
            ctrl_c = CtrlC(place)
            lock = lock_on(store, ttl=SHORT)
            with ctrl_c.struck(), lock:
                pass
            until(lambda store=store: not leftovers(store))  # type: ignore[misc]
        assert all(timer.deleted for timer in timers), f"after {ctrl_c.where}"
        struck, place = bool(ctrl_c.where), place + 23
    assert place > 60


@linux
def test_real_timers_are_not_left_behind() -> None:
    """The kernel shows none after many acquisitions, in threads too."""
    with store_on() as store:

        def often() -> None:
            for _ in range(50):
                with lock_on(store):
                    pass

        threads = [threading.Thread(target=often) for _ in range(3)]
        with lock_on(store):
            assert real_timers() == 1
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert real_timers() == 0


@linux
def test_end_in_a_child_spares_the_timers_of_the_child() -> None:
    """Timers have numbers of each process's own: what the parent set is nothing to be deleted in a child."""
    with store_on() as store, lock_on(store) as lease:
        stopper = lease._stopper
        assert isinstance(stopper, watchdog.Kill)
        child = os.fork()
        if child == 0:
            forgotten = stopper._timer is None
            watchdog.KernelTimer().set(system_clock().hold + 100)
            lease.release()
            os._exit(0 if forgotten and real_timers() == 1 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert real_timers() == 1


def real_timers() -> int:
    """How many timers this process has, by the kernel's own account."""
    with open("/proc/self/timers", encoding="ascii") as file:
        return sum(line.startswith("ID:") for line in file)


# ---- where it is not to be had -------------------------------------------------------------------


@pytest.fixture
def untried() -> Iterator[None]:
    """What was tried before is tried again."""
    watchdog._try.cache_clear()
    yield
    watchdog._try.cache_clear()


def refuse(*args: object, **options: object) -> Any:
    raise OSError("Operation not permitted")


@pytest.mark.usefixtures("untried")
def test_platform_that_can_neither_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """No timers of the kernel, as under some seccomp filters, and no processes: said at construction."""
    monkeypatch.setattr(watchdog.KernelTimer, "__init__", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(ConfigurationError, match=r'timer of the kernel .* pass on_lost="exit"'):
        Lock("job", on_lost="kill")


@pytest.mark.usefixtures("untried")
@pytest.mark.parametrize("python", ["", "/bin/false"])
def test_interpreter_that_is_none_is_refused(python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Python is embedded, sys.executable may be something else: what does not answer is no guardian."""
    monkeypatch.setattr(watchdog.KernelTimer, "__init__", refuse)
    monkeypatch.setattr(sys, "executable", python)
    with pytest.raises(ConfigurationError, match="guardian process"):
        Lock("job", on_lost="kill")


@pytest.mark.usefixtures("untried")
def test_windows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """No SIGKILL, no kill."""
    monkeypatch.delattr(signal, "SIGKILL")
    with pytest.raises(ConfigurationError, match=r'not to be had on .* pass on_lost="exit"'):
        Lock("job", on_lost="kill")


@pytest.mark.usefixtures("untried")
def test_first_process_of_a_container_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel drops what would end process 1 of a PID namespace when it comes from within."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(ConfigurationError, match=r"process 1 of a container.*docker run --init"):
        Lock("job", on_lost="kill")


def test_too_many_timers_is_an_error_of_the_acquisition(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that is met later: nothing runs unwatched, and the lock is free for others."""
    watchdog._try(os.getpid())
    monkeypatch.setattr(watchdog.KernelTimer, "__init__", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    with store_on() as store:
        with pytest.raises(ConfigurationError, match="timer of the kernel"), lock_on(store):
            raise AssertionError("the body ran")
        Lock("job", store=store, timeout=5).acquire().release()
