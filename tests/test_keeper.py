"""The keeper and the couriers: nothing ends them, and nothing that hangs delays the others."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import time
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from leases import Lock
from leases.clock import system_clock
from leases.contract import Traits
from leases.keeper import Couriers, Keeper, Plan, drop, keeper, report
from stubborn import SHORT, Stubborn, memory, store_on, until

TRAITS = Traits("test", release_deletes=True, token_from_write=True)


class Alarm:
    """Notes when it is looked at."""

    def __init__(self, call: Callable[[], object] = lambda: None) -> None:
        self.plan: Plan | None = None
        self.ticks: list[float] = []
        self.call = call

    def tick(self) -> None:
        self.ticks.append(time.monotonic())
        self.call()


def throw(thread: threading.Thread, error: type[BaseException]) -> None:
    """Raise an exception in another thread, at its next instruction."""
    number = ctypes.c_ulong(thread.ident or 0)
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(number, ctypes.py_object(error)) == 1


# ---- the keeper ----------------------------------------------------------------------------------


def test_looks_in_the_order_of_what_is_due() -> None:
    """What is due first is looked at first, whatever was asked first, and not before it is due."""
    mine = Keeper()
    seen: list[str] = []
    began = time.monotonic()
    alarms = {name: Alarm(lambda name=name: seen.append(name)) for name in "abc"}  # type: ignore[misc]
    for name, delay in (("a", 0.09), ("b", 0.03), ("c", 0.06)):
        mine.keep(alarms[name], delay)
    until(lambda: len(seen) == 3)
    assert seen == ["b", "c", "a"]
    assert alarms["b"].ticks[0] >= began + 0.03 and alarms["a"].ticks[0] >= began + 0.09


def test_later_plan_replaces_the_earlier() -> None:
    """Asking again replaces what was asked before, be it earlier or later; None asks for nothing."""
    mine = Keeper()
    sooner, later, never = Alarm(), Alarm(), Alarm()
    began = time.monotonic()
    mine.keep(sooner, 30)
    mine.keep(sooner, 0.02)
    mine.keep(later, 0.02)
    mine.keep(later, 0.1)
    mine.keep(never, 0.02)
    mine.keep(never, None)
    until(lambda: sooner.ticks and later.ticks)
    assert later.ticks[0] >= began + 0.1
    assert (len(sooner.ticks), len(later.ticks), never.ticks) == (1, 1, [])


def test_host_that_slept_finds_what_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """S10: plans go by a clock that counts sleep, so that a loss is told soon after the host wakes up."""
    slept = 0.0
    monkeypatch.setattr("leases.keeper._now", lambda: system_clock().hold + slept)
    mine, alarm, later = Keeper(), Alarm(), Alarm()
    mine.keep(alarm, 300.0)
    mine.keep(later, 900.0)
    slept = 600.0
    until(lambda: alarm.ticks)
    assert later.ticks == []


def test_fault_in_one_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Trap 4: what a look raises is logged; others are looked at, and it is looked at again itself."""

    def fail() -> None:
        if len(broken.ticks) == 1:
            raise SystemExit("a fault")

    mine = Keeper()
    broken, other = Alarm(fail), Alarm()
    mine.keep(broken, 0.0)
    mine.keep(other, 0.01)
    until(lambda: other.ticks and len(broken.ticks) == 2)
    assert "the keeper failed" in caplog.text


def test_nothing_thrown_into_it_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    """S37: an exception thrown into the thread is survived, asleep or awake; leases go on being renewed."""
    lease = Lock("job", store=store_on(), ttl=SHORT).acquire()
    for _ in range(3):
        thread = keeper._thread
        assert thread is not None
        throw(thread, SystemExit)
        first = lease.deadline
        until(lambda first=first: lease.deadline > first)  # type: ignore[misc]
        assert keeper._thread is thread
    assert lease.held
    lease.release()
    assert "the keeper failed" in caplog.text


def test_keeper_that_is_gone_is_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should the thread end all the same, the next thing to keep starts another, with the old plans."""
    mine = Keeper()
    left, new = Alarm(), Alarm()
    mine.keep(left, 0.1)
    thread = mine._thread
    assert thread is not None

    def fail(message: str, subject: object, error: BaseException) -> None:
        raise error  # Even the log can fail.

    with monkeypatch.context() as patch:
        patch.setattr("leases.keeper.report", fail)
        patch.setattr(threading, "excepthook", lambda args: None)
        throw(thread, SystemExit)
        thread.join(10)
    assert mine._thread is None
    mine.keep(new, 0.0)
    until(lambda: left.ticks and new.ticks)


def test_held_is_false_at_the_deadline_without_a_keeper(monkeypatch: pytest.MonkeyPatch) -> None:
    """S37: where nobody renews, work that asks stops in time."""
    monkeypatch.setattr(Keeper, "keep", lambda self, kept, delay: True)
    lease = Lock("job", store=store_on(), ttl=SHORT).acquire()
    time.sleep(max(lease.remaining - 0.02, 0))
    time.sleep(0.03)
    assert not lease.held and lease.lost.reason == "expired"


def test_dropped_plans_do_not_pile_up() -> None:
    """A lock that is taken over and over leaves a bounded number of plans, and keeps no tenure alive."""
    mine, alarm = Keeper(), Alarm()
    for _ in range(20_000):
        alarm = Alarm()
        mine.keep(alarm, 3600)
        drop(alarm)
    assert len(mine._heap) <= 2048
    gone = weakref.ref(alarm)
    del alarm
    gc.collect()
    assert gone() is None


def test_nothing_is_kept_of_released_leases() -> None:
    """After the release the keeper, the hub and the lock have forgotten the lease."""
    store = store_on()
    lock = Lock("job", store=store)
    with lock as lease:
        tenure: Any = weakref.ref(lease)
    del lease
    gc.collect()
    assert tenure() is None


# ---- the couriers --------------------------------------------------------------------------------


@pytest.fixture
def couriers() -> Any:
    made = Couriers(TRAITS)
    yield made
    made.close()
    until(lambda: not alive())


def alive() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("leases-courier-test")]


def test_jobs_run_in_the_order_given(couriers: Couriers) -> None:
    """One thread is enough for jobs that do not wait, and runs them in order."""
    seen: list[int] = []
    for number in range(50):
        couriers.send(lambda number=number: seen.append(number))  # type: ignore[misc]
        until(lambda number=number: len(seen) == number + 1)  # type: ignore[misc]
    assert seen == list(range(50)) and len(alive()) == 1


def test_jobs_that_hang_do_not_delay_others(couriers: Couriers) -> None:
    """There are several threads, as many as are needed and no more than eight."""
    gate = threading.Event()
    for _ in range(7):
        couriers.send(gate.wait)
    done = threading.Event()
    couriers.send(done.set)
    assert done.wait(5) and len(alive()) == 8
    for _ in range(20):
        couriers.send(gate.wait)
    assert len(alive()) == 8
    last = threading.Event()
    couriers.send(last.set)
    gate.set()
    assert last.wait(5)


def test_no_job_ends_a_courier(couriers: Couriers, caplog: pytest.LogCaptureFixture) -> None:
    """SystemExit in a job, twenty times over, is logged, and jobs are still done."""

    def leave() -> None:
        raise SystemExit

    for _ in range(20):
        couriers.send(leave)
    done = threading.Event()
    couriers.send(done.set)
    assert done.wait(5) and "a courier failed" in caplog.text


def test_couriers_leave_when_nothing_is_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads end after a while of idleness, all but one; that ends when the store is closed."""
    monkeypatch.setattr("leases.keeper._IDLE_SECONDS", 0.05)
    mine = Couriers(TRAITS)
    gate = threading.Event()
    for _ in range(5):
        mine.send(gate.wait)
    assert len(alive()) == 5
    gate.set()
    until(lambda: len(alive()) == 1)
    time.sleep(0.2)
    assert len(alive()) == 1
    done = threading.Event()
    mine.send(done.set)
    assert done.wait(5)
    mine.close()
    until(lambda: not alive())


def test_closed_couriers_do_what_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was sent before or after the close is done; the threads end then."""
    mine = Couriers(TRAITS)
    seen: list[int] = []
    gate = threading.Event()
    mine.send(gate.wait)
    mine.send(lambda: seen.append(1))
    mine.close()
    mine.send(lambda: seen.append(2))
    gate.set()
    until(lambda: sorted(seen) == [1, 2])
    until(lambda: not alive())


def test_without_threads_jobs_run_where_they_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started, as after the end of the main thread, a job is done here."""
    mine = Couriers(TRAITS)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", cannot_start)
        seen: list[int] = []
        mine.send(lambda: seen.append(threading.get_ident()))
        assert seen == [threading.get_ident()]
    mine.send(lambda: seen.append(0))
    until(lambda: len(seen) == 2)
    mine.close()


def cannot_start(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_lock_is_not_given_where_it_cannot_be_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no keeper can be started, acquiring fails, the lock is free, and the queue goes on."""
    store = store_on()
    lock = Lock("job", store=store)
    with monkeypatch.context() as patch:
        patch.setattr(keeper, "_thread", None)
        patch.setattr(threading.Thread, "start", cannot_start)
        with pytest.raises(RuntimeError, match="no thread can be started to renew it"):
            lock.acquire()
        assert not store.status("job").held
    with lock:
        pass


def test_couriers_of_one_store_are_its_own() -> None:
    """A store that hangs keeps its own threads; another store's are not among them."""
    backend = Stubborn()
    stuck, other = store_on(backend), store_on(memory())
    lock = Lock("job", store=stuck, ttl=SHORT)
    lock.acquire()
    backend.gate.clear()
    until(lambda: len([call for call in backend.calls if call[0] == "swap"]) > 1)
    lease = Lock("job", store=other, ttl=SHORT).acquire()
    first = lease.deadline
    until(lambda: lease.deadline > first)
    backend.gate.set()
    lease.release()
    lock.release()


@pytest.mark.parametrize("there", [None, SimpleNamespace(__spec__=SimpleNamespace(_initializing=True))])
def test_nothing_is_imported_by_who_has_to_log(monkeypatch: pytest.MonkeyPatch, there: object) -> None:
    """An import that Ctrl-C has struck in the main thread may stand for ever; so then would who renews."""
    begun: list[str] = []
    monkeypatch.setitem(sys.modules, "logging", there)
    monkeypatch.setattr(threading.Thread, "start", lambda thread: begun.append(thread.name))
    report("a courier failed on %r", "it", ValueError("as it does"))
    assert begun == ["leases-log"]
