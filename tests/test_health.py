"""Health: a renewer that is wedged fails it, a store that is away does not, and the look never waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from leases import ConfigurationError, Elector, Lock, health
from leases.keeper import Keeper, Plan, keeper
from leases.store import Store
from leases.testing.clock import ManualClock
from stubborn import SHORT, Stubborn, another_process, look, store_on, until

LONG = 60.0
GRACE = 0.1


def reasons(store: Store | None = None, grace: float = GRACE) -> list[str]:
    """What is wrong with one store; with None, with the keeper. Stores of other tests are none of ours."""
    named = "the thread that renews" if store is None else store.hub.backend.identity
    return [reason for reason in health.check(grace=grace).reasons if named in reason]


def of(elector: Elector, grace: float = 1.0) -> list[str]:
    """What is wrong with the work of an elector."""
    return [reason for reason in elector.health(grace=grace).reasons if reason.startswith("the work")]


class Wedge:
    """Something the keeper looks at, which does not come back until it is let go."""

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.there, self.go = threading.Event(), threading.Event()

    def tick(self) -> None:
        self.there.set()
        self.go.wait(20)


@pytest.fixture
def wedge() -> Iterator[Wedge]:
    wedge = Wedge()
    yield wedge
    wedge.go.set()


@pytest.fixture
def backend() -> Iterator[Stubborn]:
    """A store whose calls can be made never to return; at the end they do."""
    backend = Stubborn()
    yield backend
    backend.gate.set()


def test_all_is_well() -> None:
    """While leases are held and renewed nothing is wrong, in true and in words."""
    store = store_on()
    with Lock("job", store=store, ttl=1.0) as lease:
        first = lease.deadline
        until(lambda: lease.deadline > first)
        until(lambda: not reasons() and not reasons(store))
    assert health.Health().ok and health.Health() and str(health.Health()) == "ok"
    bad = health.Health(("one", "two"))
    assert not bad.ok and not bad and str(bad) == "one; two"


def test_wedged_keeper(wedge: Wedge) -> None:
    """A look at one thing that does not come back stops all renewals; when it is over, all is well."""
    keeper.keep(wedge, 0.0)
    assert wedge.there.wait(10)
    until(lambda: reasons())
    assert "stands still" in reasons()[0] and "restart" in reasons()[0]
    wedge.go.set()
    until(lambda: not reasons())


def test_keeper_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is due and has no thread to look at it is told as such."""
    mine, forgotten = Keeper(), Wedge()
    monkeypatch.setattr(Keeper, "_start", lambda self: True)
    mine.keep(forgotten, 0.0)
    monkeypatch.setattr(health, "keeper", mine)
    until(lambda: reasons())
    assert "is gone" in reasons()[0]


def test_lease_that_nobody_renews(wedge: Wedge) -> None:
    """The lock that is not looked after is named, whoever should have done it."""
    store = store_on()
    lease = Lock("job", store=store, ttl=SHORT).acquire()
    keeper.keep(wedge, 0.0)
    until(lambda: reasons(store))
    assert reasons(store)[0].startswith('lock "job" on ')
    wedge.go.set()
    until(lambda: not reasons(store))
    lease.release()


def test_couriers_that_never_come_back(backend: Stubborn) -> None:
    """When every thread that talks to a store hangs in a call without an end, none is left to renew."""
    store = store_on(backend)
    lock = Lock("job", store=store, ttl=4 * SHORT)  # A lease that is lost sends nothing more that could hang.
    lease = lock.acquire()
    backend.gate.clear()
    until(lambda: reasons(store))
    assert "hang in calls that do not return" in reasons(store)[0]
    backend.gate.set()
    until(lambda: not reasons(store))
    lease.release()


def test_one_courier_that_hangs_is_not_all(backend: Stubborn) -> None:
    """As long as one thread is left, leases are renewed."""
    store = store_on(backend)
    store.hub.couriers.send(lambda: backend.gate.wait(20), 0.0)
    backend.gate.clear()
    time.sleep(2 * GRACE)
    assert not store.hub.couriers.stuck(0.0) and reasons(store) == []
    store.hub.couriers.send(lambda: backend.gate.wait(20), 0.0)
    until(lambda: store.hub.couriers.stuck(0.0))
    assert not store.hub.couriers.stuck(1e6)


def test_call_of_who_waits_that_never_comes_back(backend: Stubborn) -> None:
    """Who acquires talks to the store itself: where that call hangs beyond its time-out, nobody campaigns."""
    store = store_on(backend)
    backend.gate.clear()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(Lock("job", store=store, ttl=SHORT).acquire)
        until(lambda: reasons(store))
        assert reasons(store)[0].startswith('lock "job" on ')
        backend.gate.set()
        waiting.result(10).release()
    assert reasons(store) == []


def test_store_that_is_away_is_no_reason() -> None:
    """A new process would not reach it either: in jeopardy, lost, and while it is waited for, all is well."""
    clock, backend = ManualClock(), Stubborn()
    store = store_on(backend, clock=clock)
    lease = Lock("job", store=store, ttl=12).acquire()
    backend.down = True
    for _ in range(40):
        clock.advance(0.5)
        look(store)
        until(lambda: not store.hub.couriers._jobs)
        until(lambda: not reasons(store))
    assert lease.lost
    backend.down = False


def test_standby_that_waits_is_well() -> None:
    """Waiting for a lock that another holds is what a standby is for."""
    store = store_on()
    rival = Lock("job", store=another_process(store), ttl=SHORT).acquire()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(Lock("job", store=store, ttl=SHORT).acquire)
        end = time.monotonic() + 3 * SHORT
        while time.monotonic() < end:
            until(lambda: not reasons(store))
            time.sleep(0.01)
        rival.release()
        waiting.result(10).release()


def test_the_look_takes_no_lock() -> None:
    """It comes back although every mutex that a wedged thread may have is taken."""
    store = store_on()
    lease = Lock("job", store=store).acquire()
    mutexes = [keeper._mutex, store.hub._mutex, store.hub.couriers._mutex]
    mutexes += [lease._mutex, lease._tenure._mutex, lease._tenure._hearing]
    for mutex in mutexes:
        assert mutex.acquire(timeout=5)
    try:
        with ThreadPoolExecutor() as pool:
            assert pool.submit(health.check).result(10) is not None
    finally:
        for mutex in mutexes:
            mutex.release()
    lease.release()


def test_work_that_goes_on_after_its_lease() -> None:
    """A worker that does not stop when its lease is lost fails the health of its elector, until it stops."""
    clock, go = ManualClock(), threading.Event()
    store = store_on(clock=clock)
    elector = Elector("job", store=store, ttl=12)
    thread = threading.Thread(target=elector.run, args=(lambda lease: go.wait(20),), daemon=True)
    thread.start()
    until(lambda: elector.is_leader)
    assert of(elector) == []
    clock.advance(9.5)
    look(store)
    assert not elector.is_leader and of(elector) == []
    clock.advance(1)
    assert [reason for reason in of(elector) if "goes on 1.5 s after" in reason]
    assert of(elector, grace=2) == []
    go.set()
    elector.stop(0)
    thread.join(10)
    assert of(elector) == []


def test_work_that_may_go_on_is_well() -> None:
    """With "at-least-once" an expiry stops nothing, and is no reason either."""
    clock, go = ManualClock(), threading.Event()
    backend = Stubborn()
    store = store_on(backend, clock=clock)
    elector = Elector("job", store=store, ttl=12, semantics="at-least-once")
    thread = threading.Thread(target=elector.run, args=(lambda lease: go.wait(20),), daemon=True)
    thread.start()
    until(lambda: elector.is_leader)
    clock.advance(20)
    look(store)
    assert not elector.is_leader and of(elector) == []
    go.set()
    elector.stop(0)
    thread.join(10)


@pytest.mark.parametrize("grace", [-1, float("nan"), "1", True, None])
def test_grace_is_a_number_of_seconds(grace: object) -> None:
    """Anything else is refused."""
    with pytest.raises(ConfigurationError, match="grace"):
        health.check(grace=grace)  # type: ignore[arg-type]
