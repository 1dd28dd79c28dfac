"""Work that goes on without a lease, until another has it; and losses that come while a lease is made."""

# ruff: noqa: PT012 - what a body of several lines raises is what is tried here

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from leases import Elector, Lease, LeaseLost, Lock, MultiLock, watchdog
from leases.endings import Manner
from leases.stopper import Stopper
from leases.testing.sandbox import Sandbox, sandbox
from stubborn import leftovers


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with sandbox() as made:
        yield made


# ---- work that went on ---------------------------------------------------------------------------


def test_work_that_went_on_is_told_of_a_successor(box: Sandbox) -> None:
    """As long as nobody else has the lock it goes on; who has it then is seen within one interval."""
    body = Lock("job", semantics="at-least-once", ttl=15)
    with pytest.raises(LeaseLost, match="superseded"), body as lease:
        box.lose(lease, "expired")
        box.advance(100)
        with box.unreachable():
            box.advance(100)
        lease.check()
        with Lock("job", store=box.another(), ttl=15).acquire() as another:
            box.advance(5)
            assert another.held and lease.ending and lease.ending.reason == "superseded"
        box.advance(100)
        assert lease.ending  # And that is not taken back.
        lease.check()


def test_who_has_come_and_gone_stops_nothing(box: Sandbox) -> None:
    """A lock that is free again, or whose record cannot be read, is no other's; then it goes on."""
    with Lock("job", semantics="at-least-once") as lease:
        box.lose(lease, "expired")
        box.advance(20)
        Lock("job", store=box.another()).acquire().release()
        box.advance(100)
        with box.unreachable():
            box.advance(100)
        lease.check()


def test_it_looks_no_longer_than_the_work_goes_on(box: Sandbox) -> None:
    """A release ends it, and so does a store that is closed."""
    for end in (Lease.release, lambda lease: box.store.close()):
        lease = Lock("job", store=box.store, semantics="at-least-once").acquire()
        box.lose(lease, "expired")
        end(lease)
        box.advance(100)
        assert box.clock.keeper.next() == math.inf


def test_two_electors_do_not_work_side_by_side_for_ever(box: Sandbox) -> None:
    """The one whose lease ran out is told to stop when another leads, and stands by from then on."""
    began: list[str] = []

    def candidate(holder: str, store: Any) -> Elector:
        def work(lease: Lease) -> None:
            began.append(holder)
            lease.ending.wait()

        elector = Elector("job", holder=holder, store=store, semantics="at-least-once")
        threading.Thread(target=elector.run, args=(work,), daemon=True).start()
        return elector

    one = candidate("one", box.store)
    box.until(lambda: began)
    box.clock.settle()
    lease = one.lease
    assert lease is not None
    box.lose(lease, "expired")
    two = candidate("two", box.another())
    with box.passing():
        box.until(lambda: began == ["one", "two"] and lease.lost and lease.ending)
        box.until(lambda: "stands by" in repr(one) and one._reign is None)
    assert two.is_leader


def test_work_that_hears_nothing_of_a_successor_is_ill(box: Sandbox) -> None:
    """To go on without a lease is health; to go on although another leads is none."""
    began, go_on = threading.Event(), threading.Event()

    def work(lease: Lease) -> None:
        began.set()
        go_on.wait()

    elector = Elector("job", semantics="at-least-once")
    threading.Thread(target=elector.run, args=(work,), daemon=True).start()
    box.until(began.is_set)
    box.clock.settle()
    box.lose("job", "expired")
    box.advance(100)
    assert "goes on" not in str(elector.health())
    with Lock("job", store=box.another()).acquire():
        box.advance(5)
        assert "goes on" not in str(elector.health())  # It was only told just now.
        box.advance(2)
        assert "goes on 2.0 s after its lease was lost" in str(elector.health())
        go_on.set()


# ---- losses that come while the lease is made -------------------------------------------------------


class Told(Stopper):
    """Is told, and does nothing."""

    def __init__(self) -> None:
        self.losses: list[str] = []

    def stop(self, loss: LeaseLost, call: Callable[[], None] | None, start: Any) -> None:
        super().stop(loss, call, start)
        self.losses.append(loss.reason)


@pytest.mark.parametrize("several", [False, True], ids=["lock", "multilock"])
def test_loss_that_comes_before_what_stops_the_work(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch, several: bool
) -> None:
    """It is told as soon as there is somebody to be told, and not lost between the two."""
    losses: list[str] = []
    stoppers: list[Told] = []

    def made_late(manner: Manner) -> Stopper:
        box.lose("job", "superseded")
        stoppers.append(Told())
        return stoppers[-1]

    monkeypatch.setattr(Manner, "stopper", made_late)
    on_lost: Any = lambda lease, loss: losses.append(loss.reason)  # noqa: E731
    lock: Any = Lock("job", on_lost=on_lost)
    if several:
        lock = MultiLock("job", "other", on_lost=on_lost)
    lease = lock.acquire()
    box.until(lambda: losses)
    assert losses == ["superseded"] == stoppers[-1].losses
    lease.release()


class Slow:
    """A guardian, say, that takes its time to come up, and kills nobody."""

    deleted = 0

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        meanwhile()

    def set(self, at: float) -> None: ...
    def delete(self) -> None:
        Slow.deleted += 1

    def forget(self) -> None: ...


def test_loss_that_comes_while_the_timer_is_made(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then there is no lease: no work begins, and nobody is killed for it."""
    kills: list[Any] = []
    lock = Lock("job", on_lost="kill")
    monkeypatch.setattr(watchdog, "_open_timer", lambda: Slow(lambda: box.lose("job", "superseded")))
    monkeypatch.setattr(os, "kill", lambda *args: kills.append(args))
    with pytest.raises(LeaseLost, match="superseded"):
        lock.acquire()
    assert Slow.deleted == 1 and kills == []
    box.until(lambda: not leftovers(box.store))


class Gone:
    """A guardian that was killed when the system has no process to spare."""

    def __init__(self) -> None:
        self.works = True

    def set(self, at: float) -> None:
        if not self.works:
            raise BlockingIOError("Resource temporarily unavailable")

    def delete(self) -> None: ...
    def forget(self) -> None: ...


def test_timer_that_cannot_be_set_keeps_nobody_alive(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that is seen kills all the same: there is a thread that does it."""
    kills: list[Any] = []
    timer = Gone()
    lock = Lock("job", on_lost="kill")
    monkeypatch.setattr(watchdog, "_open_timer", lambda: timer)
    monkeypatch.setattr(os, "kill", lambda *args: kills.append(args))
    lease = lock.acquire()
    timer.works = False
    box.lose(lease, "superseded")
    box.until(lambda: kills)
    assert kills == [(os.getpid(), signal.SIGKILL)]
    lease.release()


# ---- leading without work ------------------------------------------------------------------------

ASKS = """
import time
from leases import Elector
from stubborn import lose, store_on
store = store_on()
elector = Elector("job", store=store, on_lost=WORD).start()
while not elector.is_leader:
    time.sleep(0.01)
lose(store, "job")
time.sleep(20)
"""


@pytest.mark.parametrize(("word", "code"), [("exit", 70), ("kill", -signal.SIGKILL)])
def test_process_that_only_asks_whether_it_leads_is_ended(word: str, code: int) -> None:
    """What it does because it led is not known to have stopped with the lead."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", ASKS.replace("WORD", repr(word))]
    assert subprocess.run(command, capture_output=True, timeout=30, env=env).returncode == code
