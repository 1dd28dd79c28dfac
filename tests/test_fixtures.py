"""What a user's test has: a store of its own, time that is moved by hand, losses and silences on demand."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from leases import (
    AcquireTimeout,
    ConfigurationError,
    Elector,
    Lease,
    LeaseLost,
    Lock,
    Store,
    StoreUnavailable,
    connect,
    leader_only,
)
from leases.testing.clock import ManualClock
from leases.testing.sandbox import Sandbox, sandbox
from test_readme import PROGRAMS

pytest_plugins = ["leases.testing.fixtures"]

# ---- a user's code, and a user's tests of it ---------------------------------------------------------


def copy_pages(pages: list[int], copied: list[tuple[int, int]]) -> None:
    """What a user might have written: it stops between two pages."""
    with Lock("copy", ttl=15) as lease:
        for page in pages:
            lease.check()
            copied.append((page, lease.token))


class Pages(list[int]):
    """Pages between which something happens."""

    def __init__(self, pages: list[int], before: dict[int, Callable[[], object]]) -> None:
        super().__init__(pages)
        self.before = before

    def __iter__(self):  # type: ignore[no-untyped-def] # as that of a list
        for page in list.__iter__(self):
            self.before.get(page, lambda: None)()
            yield page


def test_job_stops_at_the_loss(lease_sandbox: Sandbox) -> None:
    """Code that takes a lock of the default store is run under a loss between two of its steps."""
    copied: list[tuple[int, int]] = []
    pages = Pages([1, 2, 3], {3: lambda: lease_sandbox.lose("copy")})
    with pytest.raises(LeaseLost) as raised:
        copy_pages(pages, copied)
    assert raised.value.reason == "expired" and [page for page, _ in copied] == [1, 2]


@pytest.mark.waits
def test_job_goes_on_while_it_is_renewed(lease_sandbox: Sandbox, lease_store: Store) -> None:
    """An hour passes between two steps, in no time, and the lease is renewed as in any other hour."""
    copied: list[tuple[int, int]] = []
    began, wall = time.monotonic(), lease_sandbox.clock().wall
    copy_pages(Pages([1, 2], {2: lambda: lease_sandbox.advance(3600)}), copied)
    assert [page for page, _ in copied] == [1, 2] and time.monotonic() - began < 60
    assert lease_sandbox.clock().wall == pytest.approx(wall + 3600, abs=0.001)
    assert not lease_store.status("copy").held


def test_leader_stops_its_work_and_another_takes_over(lease_sandbox: Sandbox) -> None:
    """An elector, whose work is told to stop by the loss; it takes part again when it can."""
    led: list[int] = []

    def work(lease: Lease) -> None:
        led.append(lease.token)
        lease.ending.wait()

    elector = Elector("scheduler")
    thread = threading.Thread(target=elector.run, args=(work,), daemon=True)
    thread.start()
    lease_sandbox.until(lambda: elector.is_leader)
    lease_sandbox.advance(60)
    assert elector.is_leader and len(led) == 1
    lease_sandbox.lose("scheduler", "superseded")
    assert not elector.is_leader
    lease_sandbox.advance(20)
    assert elector.is_leader and len(led) == 2
    assert elector.stop()
    thread.join()


def test_standby_leads_when_the_leader_has_gone(lease_sandbox: Sandbox) -> None:
    """Two candidates on two stores of one sandbox are as two processes: the second leads after the ttl."""
    first = Elector("scheduler", holder="a", store=lease_sandbox.store).start()
    lease_sandbox.until(lambda: first.is_leader)
    second = Elector("scheduler", holder="b", store=lease_sandbox.another()).start()
    lease_sandbox.advance(30)
    assert first.is_leader and not second.is_leader
    with lease_sandbox.unreachable(lease_sandbox.store):
        lease_sandbox.advance(12)
        assert not first.is_leader and not second.is_leader
        lease_sandbox.advance(4)
        assert second.is_leader
    assert second.stop() and first.stop()


ran: list[str] = []


@leader_only("nightly")
def nightly() -> str:
    """A function of a module, decorated when that was imported: long before any sandbox."""
    ran.append("nightly")
    return "done"


@pytest.mark.parametrize("turn", [1, 2])
def test_only_the_leader_runs(lease_sandbox: Sandbox, turn: int) -> None:
    """Once it runs here, once another process leads; in every test anew, because each has its own store."""
    ran.clear()
    assert nightly() == "done" and ran == ["nightly"]
    nightly.resign()
    rival = lease_sandbox.another().lock("nightly", holder="another").acquire()
    assert nightly() is None and ran == ["nightly"]
    rival.release()


def test_leader_only_takes_part_no_more_after_the_test() -> None:
    """Whoever went on would look for the store anew, and find a real one."""
    with sandbox():
        assert nightly() == "done"
    assert not nightly.is_leader
    assert not [t.name for t in threading.enumerate() if t.name == "leases-leader-nightly"]


# ---- time --------------------------------------------------------------------------------------------


def test_time_stands_still(lease_store: Store) -> None:
    """Nothing happens of itself: the lease has exactly what it had, however long the test takes."""
    lease = lease_store.lock("job", ttl=12).acquire()
    before = lease.remaining
    time.sleep(0.02)
    assert lease.remaining == before == 9


def test_renewals_come_at_their_times(lease_sandbox: Sandbox) -> None:
    """One in every third of the ttl, and between them the lease ages to the second."""
    lease = lease_sandbox.store.lock("job", ttl=12).acquire()
    renewed: list[float] = []
    lease.listen(lambda event: renewed.append(lease_sandbox.clock().hold))
    begun = lease_sandbox.clock().hold
    lease_sandbox.advance(13)
    assert [at - begun for at in renewed] == pytest.approx([4, 8, 12])
    assert lease.remaining == pytest.approx(8)


def test_deadline_comes_at_its_time(lease_sandbox: Sandbox) -> None:
    """Jeopardy first, then the loss, and each in its second."""
    told: list[tuple[str, float]] = []
    lease = lease_sandbox.store.lock("job", ttl=12).acquire()
    begun = lease_sandbox.clock().hold
    lease.listen(lambda event: told.append((type(event).__name__, lease_sandbox.clock().hold - begun)))
    with lease_sandbox.unreachable():
        lease_sandbox.advance(60)
    assert [what for what, _ in told] == ["Endangered", "Lost"]
    assert [at for _, at in told] == pytest.approx([4 + 9 / 4, 9])


def test_host_that_sleeps(lease_sandbox: Sandbox) -> None:
    """The lease is over when the host wakes, and whoever listens has been told so."""
    lease, told = lease_sandbox.store.lock("job").acquire(), list[str]()
    lease.listen(lambda event: told.append(type(event).__name__))
    lease_sandbox.clock.suspend(60)
    assert lease.lost.reason == "expired" and told == ["Lost"]


def test_who_waits_has_it_when_its_time_comes(lease_sandbox: Sandbox) -> None:
    """A waiter in another thread takes over from a dead holder within one step of the clock."""
    rival = lease_sandbox.another()
    rival.lock("job", ttl=12).acquire()
    with ThreadPoolExecutor() as pool, lease_sandbox.unreachable(rival):
        waiting = pool.submit(lease_sandbox.store.lock("job", ttl=12).acquire)
        lease_sandbox.until(lambda: lease_sandbox.store.hub.members)
        lease_sandbox.advance(11.5)
        assert not waiting.done()
        lease_sandbox.advance(1)
        waiting.result(10).release()


def test_patience_ends_on_the_clock(lease_sandbox: Sandbox) -> None:
    """A time-out of five minutes is over when the clock says so."""
    lease_sandbox.another().lock("job").acquire()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(lease_sandbox.store.lock("job").acquire, 300)
        lease_sandbox.until(lambda: lease_sandbox.store.hub.members)
        lease_sandbox.advance(299)
        assert not waiting.done()
        lease_sandbox.advance(1)
        with pytest.raises(AcquireTimeout):
            waiting.result(10)


def test_code_that_waits_in_the_only_thread(lease_sandbox: Sandbox) -> None:
    """Where nobody else could move the clock, it runs by itself during a body, faster than it really does."""
    lease_sandbox.another().lock("job").acquire()
    with pytest.raises(AcquireTimeout), lease_sandbox.passing(speed=1000):
        Lock("job", timeout=60).acquire()


def test_asyncio(lease_sandbox: Sandbox) -> None:
    """Tasks are renewed, told of a loss and woken as threads are."""

    async def work() -> str:
        async with Lock("job", ttl=12) as lease:
            lease_sandbox.advance(60)
            assert lease.held
            waiting = asyncio.create_task(lease.lost.wait_async())
            await asyncio.sleep(0)
            lease_sandbox.lose(lease, "broken")
            assert await waiting
            return str(lease.lost.reason)

    with pytest.raises(LeaseLost):
        asyncio.run(work())


# ---- trouble -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["expired", "superseded", "broken", "closed", "forked"])
def test_forced_loss(lease_sandbox: Sandbox, lose_lease: Callable[..., None], reason: str) -> None:
    """It is lost for that reason when `lose` returns, and whoever is to be told is."""
    told = threading.Event()
    lease = Lock("job", on_lost=lambda lease, loss: told.set()).acquire()
    lose_lease(lease, reason)
    assert not lease.held and lease.lost.reason == reason
    with pytest.raises(LeaseLost):
        lease.check()
    assert reason == "forked" or told.wait(10)  # in the child of a fork nobody is called


def test_after_a_loss_the_lock_can_be_had_again(lease_sandbox: Sandbox) -> None:
    """At once where the record was removed; after its ttl where another claim stands there."""
    for reason, wait in (("broken", 0.0), ("superseded", 15.0), ("expired", 0.0)):
        lease = Lock("job", ttl=15).acquire()
        lease_sandbox.lose("job", reason)  # type: ignore[arg-type]
        lease.release()
        if wait:
            assert Lock("job").try_acquire() is None
        lease_sandbox.advance(wait)
        following = Lock("job").try_acquire()
        assert following is not None and following.token > lease.token
        following.release()


def test_other_leases_are_spared(lease_sandbox: Sandbox) -> None:
    """A loss and a jeopardy are of one lock; the others are renewed meanwhile."""
    lost, endangered, other = (Lock(name).acquire() for name in ("lost", "endangered", "other"))
    lease_sandbox.endanger("endangered")
    lease_sandbox.lose(lost, "superseded")
    lease_sandbox.advance(1)
    assert (bool(lost.lost), endangered.jeopardy, other.jeopardy) == (True, True, False)
    lease_sandbox.advance(60)
    assert endangered.lost and other.held


def test_forced_jeopardy(lease_sandbox: Sandbox, endanger_lease: Callable[..., None]) -> None:
    """It lasts until it is healed; then the lease is renewed, by the same token."""
    lease = Lock("job").acquire()
    token = lease.token
    endanger_lease(lease)
    assert lease.held and lease.jeopardy
    lease_sandbox.heal()
    assert lease.held and not lease.jeopardy and lease.token == token
    lease_sandbox.advance(60)
    assert lease.held


def test_store_that_gives_no_answer(lease_sandbox: Sandbox) -> None:
    """Acquiring fails as it does when a server is away, and works again afterwards."""
    with lease_sandbox.unreachable():
        with pytest.raises(StoreUnavailable):
            Lock("job").try_acquire()
        lease_sandbox.advance(60)
    lease = Lock("job").try_acquire()
    assert lease is not None and lease.held


def test_what_is_not_held_cannot_be_lost(lease_sandbox: Sandbox) -> None:
    """Nor can a lease be lost by a reason that is none."""
    with pytest.raises(LookupError, match="nobody"):
        lease_sandbox.lose("nobody")
    lease = Lock("job").acquire()
    with pytest.raises(ConfigurationError, match="released"):
        lease_sandbox.lose(lease, "released")
    lease.release()
    with pytest.raises(LookupError):
        lease_sandbox.endanger(lease)
    for speed in (0, -1, float("nan"), "1"):
        with pytest.raises(ConfigurationError, match="speed"), lease_sandbox.passing(speed):  # type: ignore[arg-type]
            pass


# ---- its own, and nobody else's ----------------------------------------------------------------------


def test_default_store_is_the_sandbox_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """`$LEASES_URL` names it meanwhile, and is afterwards what it was."""
    monkeypatch.setenv("LEASES_URL", "memory:as-before")
    with sandbox() as box:
        assert os.environ["LEASES_URL"] == box.url
        with connect() as store, Lock("job"):
            assert store.status("job").held and box.store.status("job").held
    assert os.environ["LEASES_URL"] == "memory:as-before"
    monkeypatch.delenv("LEASES_URL")
    with sandbox():
        pass
    assert "LEASES_URL" not in os.environ


def test_each_has_its_own(lease_sandbox: Sandbox) -> None:
    """What is held in one is free in another, and a loss at the end of one is nobody else's."""
    outer = Lock("job", store=lease_sandbox.store).acquire()
    with sandbox() as box:
        inner = box.store.lock("job").acquire()
        assert inner.held
        box.advance(5)
    assert outer.held and inner.lost.reason == "closed"


def test_clock_takes_no_steps_back(lease_sandbox: Sandbox) -> None:
    """It is a manual clock, and refuses what that refuses."""
    assert isinstance(lease_sandbox.clock, ManualClock)
    with pytest.raises(ValueError, match="backwards"):
        lease_sandbox.advance(-1)


def test_real_stores_wait_as_ever(lease_sandbox: Sandbox) -> None:
    """A wait elsewhere in the process, by the real clock, ends by the real clock."""
    store = connect("memory:real")
    with store.lock("job"), pytest.raises(AcquireTimeout):
        store.lock("job").acquire(0.05)
    store.close()


def test_as_the_readme_has_it(tmp_path: Path) -> None:
    """The tests in the README pass, in a project that has nothing but them and the plugin."""
    (program,) = [program for program in PROGRAMS if "lease_sandbox" in program]
    (tmp_path / "test_it.py").write_text(program)
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["leases.testing.fixtures"]\n')
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            ".",
            "-W",
            "error",
            ".",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr
