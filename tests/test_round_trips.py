"""What goes to a store and back for an acquire, a renewal, a release and a wait: counted, not timed.

A proxy between the library and the real server reads the requests. What a store's own protocol adds is
counted apart: ZooKeeper's pings, and etcd's leases that only collect the keys of dead processes.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import pytest

from lab.places import SIGNS_OF_LIFE, Link, Place, every_guarding_place, every_place
from leases import Lease, Lock, Store, connect
from leases.fencing import GuardedKey
from leases.hub import Hub
from leases.registry import open_backend
from servers.proxy import Way

# How many requests the first acquisition of a name may take; every later one takes one.
FIRST = {"etcd": 1, "consul": 1, "zookeeper": 2, "kubernetes": 2}
LONG_TTL = 60.0  # renewed every 20 s: what is counted here is over before
IDLE_SECONDS = 3.0
SETTLE_SECONDS = 0.5
# Until the waiter has been in and out: a swap, a release, the end of a watch, and perhaps a read.
MOST_TO_HAND_OVER = {"etcd": 3, "consul": 4, "zookeeper": 4, "kubernetes": 3}
ANSWER_SECONDS = 0.05  # what is sent in one go is sent before the first answer to it
GRANT = "Lease/LeaseGrant"

pytestmark = pytest.mark.waits


class Counted:
    """A store by way of a proxy that counts."""

    def __init__(self, link: Link) -> None:
        self._proxy = link.proxy
        self.store = connect(link.url)
        with self.store.lock("warm", ttl=LONG_TTL) as lease:  # Connections and folders are made by first use,
            lease.update({"and": "the first renewal"})
            time.sleep(SETTLE_SECONDS)  # and what is done in the background is done by now.

    def during(self, work: Callable[[], object]) -> Counter[str]:
        """The requests sent while something is done."""
        before = self._proxy.count()
        work()
        return self.since(before.requests)

    def trips(self, work: Callable[[], object]) -> int:
        """Round trips while something is done: requests that are sent in one go are one."""
        self._proxy.delay(ANSWER_SECONDS, Way.BACK)
        before = self._proxy.trips
        work()
        trips = self._proxy.trips - before
        self._proxy.heal()
        return trips

    def since(self, before: Counter[str]) -> Counter[str]:
        """The requests sent since, without signs of life."""
        sent = self._proxy.count().requests - before
        return Counter({name: count for name, count in sent.items() if name not in SIGNS_OF_LIFE})


@pytest.fixture
def counted(place: Place) -> Iterator[Counted]:
    """The place, by way of a proxy that counts."""
    with place.link(counts=True) as link:
        made = Counted(link)
        yield made
        made.store.close()


@contextmanager
def elsewhere(place: Place) -> Generator[Store]:
    """The same place as another process has it, not by way of the proxy."""
    store = Store(Hub(open_backend(place.url)))
    yield store
    store.close()


@every_place
def test_acquire_renew_and_release_take_one_round_trip_each(place: Place, counted: Counted) -> None:
    """Only the first acquisition of a name may take a second one, where a free record stays behind."""
    lock = counted.store.lock("counted", ttl=LONG_TTL)
    leases: list[Lease] = []

    def acquire() -> None:
        leases.append(lock.acquire())

    def renew() -> None:
        for number in range(4):
            leases[-1].update({"number": str(number)})

    found: list[tuple[int, int, int]] = []
    for _ in range(3):
        acquired = counted.trips(acquire)
        renewed = counted.trips(renew)
        found.append((acquired, renewed, counted.trips(leases[-1].release)))
    print(f"\n{place.name}: acquire, 4 renewals, release: {found}")
    assert found[0][0] <= FIRST[place.name]
    assert found == [(found[0][0], 4, 1), (1, 4, 1), (1, 4, 1)]


@every_guarding_place
def test_a_guarded_key_takes_one_round_trip(place: Place, counted: Counted) -> None:
    """To write it, to read it, and to remove it; the first write may have to make it."""
    key = GuardedKey("counted", "key", store=counted.store)
    with counted.store.lock("counted", ttl=LONG_TTL) as lease:
        first = counted.trips(lambda: key.write(lease, b"one"))
        others = [lambda: key.write(lease, b"two"), key.read, lambda: key.delete(lease)]
        found = [counted.trips(other) for other in others]
    print(f"\n{place.name}: first write {first}; write, read, delete: {found}")
    assert first <= FIRST[place.name] and found == [1, 1, 1]


@every_place
def test_renewals_by_time_take_one_round_trip_each(place: Place, counted: Counted) -> None:
    """A lease that is held for a while costs one request for each renewal, and nothing else."""
    ttl, seconds = 3.0, 3.3
    with counted.store.lock("renewed", ttl=ttl) as lease:
        deadlines = {lease.deadline}
        before = counted._proxy.count().requests
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            deadlines.add(lease.deadline)
            time.sleep(0.01)
        sent = counted.since(before)
    grants = sent.pop(GRANT, 0)
    renewals = len(deadlines) - 1
    assert renewals >= seconds / ttl
    assert sent.total() - renewals in (0, 1), sent  # one may be under way
    assert grants <= 1


@every_place
def test_an_idle_holder_and_an_idle_waiter_send_nothing(place: Place, counted: Counted) -> None:
    """Between renewals neither a holder nor a waiter sends anything, but a sign that the connection lives."""
    with (
        elsewhere(place) as other,
        other.lock("busy", ttl=LONG_TTL),
        counted.store.lock("mine", ttl=LONG_TTL),
    ):
        waiter = threading.Thread(target=_wait_for, args=(counted.store.lock("busy", ttl=LONG_TTL),))
        waiter.start()
        time.sleep(SETTLE_SECONDS)
        sent = counted.during(lambda: time.sleep(IDLE_SECONDS))
        assert waiter.is_alive()
        assert not sent
    waiter.join()


def _wait_for(lock: Lock) -> None:
    with lock:
        pass


@every_place
def test_a_hand_over_takes_few_round_trips(place: Place, counted: Counted) -> None:
    """After the event a waiter sends one swap, and a read before where the event brings no record."""
    with elsewhere(place) as other:
        lease = other.lock("handed over", ttl=LONG_TTL).acquire()
        waiter = threading.Thread(target=_wait_for, args=(counted.store.lock("handed over", ttl=LONG_TTL),))
        waiter.start()
        time.sleep(SETTLE_SECONDS)

        def hand_over() -> None:
            lease.release()
            waiter.join()

        sent = counted.during(hand_over)
    print(f"\n{place.name}: from release to release: {dict(sent)}")
    assert sent.total() <= MOST_TO_HAND_OVER[place.name], sent


@every_place
def test_grants_do_not_grow_with_locks(place: Place, counted: Counted) -> None:
    """What collects the keys of dead processes is one for all locks of a process, and is not kept alive."""

    def use_many() -> None:
        for number in range(20):
            with counted.store.lock(f"many/{number}", ttl=LONG_TTL) as lease:
                lease.update({"number": str(number)})

    sent = counted.during(use_many)
    assert sent[GRANT] <= 1
    assert not [name for name in sent if "KeepAlive" in name or "Revoke" in name]
