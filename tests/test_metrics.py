"""Metrics: what is counted is counted once, and what the clock decides is read from the clock."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest

from hands import Hands
from leases import AcquireTimeout, ConfigurationError, Lock, Semaphore
from leases.hooks import hooks
from leases.metrics import Metrics, install
from leases.store import Store
from leases.testing.clock import ManualClock
from stubborn import Stubborn, another_process, intrude, look, store_on, until

LONG = 60.0


@pytest.fixture
def registry() -> Iterator[CollectorRegistry]:
    """A registry of the test's own, into which this process is counted while the test runs."""
    registry = CollectorRegistry()
    metrics = install(registry)
    yield registry
    metrics.uninstall()
    assert hooks.listeners == ()


def value(
    registry: CollectorRegistry, name: str, store: Store, lock: str | None = "job", **more: str
) -> float:
    """One sample, as a scrape shows it; -1 where there is none."""
    labels = {"store": store.hub.backend.identity, **({} if lock is None else {"lock": lock}), **more}
    found = registry.get_sample_value(name, labels)
    return -1.0 if found is None else found


def test_gauges_read_the_clock(registry: CollectorRegistry) -> None:
    """Seconds to the deadline go down, and the leader is none after it, although nobody updates them."""
    clock = ManualClock()
    store = store_on(clock=clock)
    lease = Lock("job", store=store, ttl=12).acquire()
    assert value(registry, "leases_is_leader", store) == 1
    assert value(registry, "leases_held", store, None) == 1
    assert value(registry, "leases_token", store) == lease.token
    assert value(registry, "leases_deadline_seconds", store) == pytest.approx(9)
    assert value(registry, "leases_in_jeopardy", store) == 0
    clock.advance(8.5)
    assert value(registry, "leases_deadline_seconds", store) == pytest.approx(0.5)
    assert value(registry, "leases_in_jeopardy", store) == 1
    clock.advance(0.5)
    assert value(registry, "leases_is_leader", store) == 0
    assert value(registry, "leases_held", store, None) == 0
    assert value(registry, "leases_deadline_seconds", store) == value(registry, "leases_token", store) == -1


def test_who_waits_does_not_lead(registry: CollectorRegistry) -> None:
    """A standby shows that it wants the lock and does not have it, and so does who released it."""
    store = store_on()
    rival = Lock("job", store=another_process(store)).acquire()
    waiter = threading.Thread(target=lambda: Lock("job", store=store).acquire().release())
    waiter.start()
    until(lambda: value(registry, "leases_is_leader", store) >= 0)
    rival.release()
    waiter.join()
    assert value(registry, "leases_is_leader", store) == 0


def test_acquired_and_released_are_counted_once(registry: CollectorRegistry, hands: Hands) -> None:
    """In both colours, and also when the next thread or task of the process inherits the lock."""
    store = store_on()
    lock = Lock("job", store=store)
    first, second = hands.hand(), hands.hand()
    lease = first("acquire", lock)
    following = second.begin("acquire", lock)
    until(lambda: store.hub.waiters("job"))
    first("release", lease)
    second("release", following.result(10))
    assert value(registry, "leases_acquired_total", store) == 2
    assert value(registry, "leases_releases_total", store, clean="true") == 2
    assert value(registry, "leases_acquire_wait_seconds_count", store, outcome="acquired") == 2


def test_wait_is_told_by_its_end(registry: CollectorRegistry) -> None:
    """A wait that ended in nothing is not mixed up with one that ended in the lock."""
    store = store_on()
    with Lock("job", store=store), pytest.raises(AcquireTimeout):
        Lock("job", store=another_process(store)).acquire(0.01)
    assert value(registry, "leases_acquire_wait_seconds_count", store, outcome="timed_out") == 1
    assert value(registry, "leases_acquire_wait_seconds_sum", store, outcome="timed_out") >= 0.01
    backend = Stubborn()
    backend.down = True
    broken = store_on(backend)
    with pytest.raises(ConnectionError):
        Lock("job", store=broken).acquire(0)
    assert value(registry, "leases_acquire_wait_seconds_count", broken, outcome="failed") == 1


def test_renewals_and_their_failures(registry: CollectorRegistry) -> None:
    """Each renewal is timed, and one that is not committed is counted by what came of it; so is jeopardy."""
    clock, backend = ManualClock(), Stubborn()
    store = store_on(backend, clock=clock)
    lease = Lock("job", store=store, ttl=12).acquire()
    clock.advance(4)
    look(store)
    until(lambda: value(registry, "leases_renew_seconds_count", store) == 1)
    backend.down = True
    clock.advance(4)
    look(store)
    until(lambda: value(registry, "leases_renew_failures_total", store, outcome="unknown") >= 1)
    clock.advance(3)
    look(store)
    assert value(registry, "leases_renew_failures_total", store, outcome="applied") == -1
    assert value(registry, "leases_jeopardies_total", store) == 1
    assert value(registry, "leases_losses_total", store, reason="expired") == -1
    clock.advance(LONG)
    look(store)
    assert value(registry, "leases_losses_total", store, reason="expired") == 1
    backend.down = False
    lease.release()
    assert value(registry, "leases_releases_total", store, clean="true") == -1


def test_losses_by_reason(registry: CollectorRegistry) -> None:
    """Superseded, and closed: the reason is a label."""
    clock = ManualClock()
    store = store_on(clock=clock)
    lease = Lock("job", store=store).acquire()
    intrude(store, "job")
    clock.advance(6)
    look(store)
    until(lambda: lease.lost)
    until(lambda: value(registry, "leases_losses_total", store, reason="superseded") == 1)
    assert value(registry, "leases_renew_failures_total", store, outcome="conflict") == 1
    Lock("other", store=store).acquire()
    identity = store.hub.backend.identity
    store.close()
    labels = {"store": identity, "lock": "other", "reason": "closed"}
    assert registry.get_sample_value("leases_losses_total", labels) == 1


def test_release_without_an_answer_is_not_clean(registry: CollectorRegistry) -> None:
    """The record may last for its ttl: an operator sees how often."""
    backend = Stubborn()
    store = store_on(backend)
    lease = Lock("job", store=store, ttl=1).acquire()
    backend.silent = True
    lease.release()
    assert value(registry, "leases_releases_total", store, clean="false") == 1
    assert value(registry, "leases_releases_total", store, clean="true") == -1


def test_what_is_held_before_is_seen() -> None:
    """Installed while a lease is held, the metrics show it, and count its end."""
    store = store_on()
    lease = Lock("job", store=store).acquire()
    registry = CollectorRegistry()
    metrics = install(registry)
    assert value(registry, "leases_is_leader", store) == 1
    lease.release()
    assert value(registry, "leases_releases_total", store, clean="true") == 1
    assert value(registry, "leases_acquired_total", store) == -1
    metrics.uninstall()


def test_names_without_end_are_grouped() -> None:
    """`group` makes one series of many locks: held if any is, and the nearest deadline of all."""
    registry = CollectorRegistry()
    metrics = install(registry, group=lambda name: name.split("/")[0])
    clock = ManualClock()
    store = store_on(clock=clock)
    Lock("orders/1", store=store, ttl=12).acquire()
    clock.advance(1)
    newest = Lock("orders/2", store=store, ttl=12).acquire()
    assert value(registry, "leases_acquired_total", store, "orders") == 2
    assert value(registry, "leases_deadline_seconds", store, "orders") == pytest.approx(8)
    assert value(registry, "leases_token", store, "orders") == newest.token
    assert value(registry, "leases_held", store, None) == 2
    shown = generate_latest(registry).decode()
    assert shown.count(f'leases_is_leader{{lock="orders",store="{store.hub.backend.identity}"}}') == 1
    metrics.uninstall()


def test_installed_twice_counts_once(registry: CollectorRegistry) -> None:
    """The second time gives back the first."""
    assert install(registry) is install(registry)
    store = store_on()
    Lock("job", store=store).acquire().release()
    assert value(registry, "leases_acquired_total", store) == 1


def test_taken_name_is_an_error_that_leaves_nothing() -> None:
    """Where something else has one of our names, nothing of ours stays in the registry."""
    registry = CollectorRegistry()
    Counter("leases_losses", "of something else", registry=registry)
    with pytest.raises(ConfigurationError, match="leases_losses"):
        install(registry)
    assert generate_latest(registry).count(b"# HELP") == 2  # the counter, and when it was created
    assert hooks.listeners == ()


def test_password_is_no_label(registry: CollectorRegistry) -> None:
    """The store is named without what could be a secret."""
    from leases_backends import memory

    store = store_on(memory.connect("memory:x"))
    store.hub.url = "memory://:hunter2@x"
    with Lock("job", store=store):
        shown = generate_latest(registry)
    assert b'store="memory:x"' in shown and b"hunter2" not in shown


def test_semaphore_is_its_slots(registry: CollectorRegistry) -> None:
    """What is held of a semaphore is a slot, and there is no series for what nobody can hold."""
    store = store_on()
    slot = Semaphore("pool", slots=2, store=store).acquire()
    assert value(registry, "leases_is_leader", store, slot.name) == 1
    assert value(registry, "leases_is_leader", store, "pool") == -1
    slot.release()


def test_every_name_is_in_the_docstring() -> None:
    """What is exported is what the module says, and no more."""
    import leases.metrics

    registry = CollectorRegistry()
    metrics = Metrics(registry)
    names = {family.name + ("_total" if family.type == "counter" else "") for family in registry.collect()}
    assert names == set(re.findall(r"``(leases_\w+)``", leases.metrics.__doc__ or ""))
    metrics.uninstall()


def test_names_keep_to_the_conventions() -> None:
    """Base units, `_total` for what only grows, and a sentence of help for each."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for family in registry.collect():
        assert family.name.startswith("leases_") and family.documentation.endswith(".")
        if family.type == "histogram":
            assert family.name.endswith("_seconds")
    metrics.uninstall()
    metrics.uninstall()
    assert list(registry.collect()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_child_of_a_fork_holds_nothing(registry: CollectorRegistry) -> None:
    """In the child the parent's lease is no leader's, and what the child acquires is counted there."""
    store = store_on()
    lease = Lock("job", store=store).acquire()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        told = [value(registry, "leases_is_leader", store), value(registry, "leases_held", store, None)]
        Lock("own", store=store).acquire()
        told += [
            value(registry, "leases_is_leader", store, "own"),
            value(registry, "leases_acquired_total", store, "own"),
        ]
        os.write(write, repr(told).encode())
        os._exit(0)
    os.close(write)
    assert os.read(read, 100) == b"[0.0, 0.0, 1.0, 1.0]"
    os.waitpid(child, 0)
    os.close(read)
    assert value(registry, "leases_is_leader", store) == 1
    lease.release()


def test_missing_extra_says_what_to_install() -> None:
    """Without prometheus_client the import says how to get it."""
    code = "import sys; sys.modules['prometheus_client'] = None; import leases.metrics"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and 'pip install "leases[prometheus]"' in done.stderr
