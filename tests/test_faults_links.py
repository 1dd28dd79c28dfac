"""A link that breaks at a bad moment, on the real stores: an answer that is lost, a release that comes late.

The simulator does all of this to every kind of store; here it happens on the wire.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from lab.places import Link, Place, every_place
from leases import Lease, Lock, Store, connect
from servers.proxy import Way

T = TypeVar("T")

TTL = 2.0
LONG_TTL = 20.0  # nobody waits for it to pass: what a test sees in time is seen well before
SOON = LONG_TTL / 2
SETTLE_SECONDS = 0.5

pytestmark = pytest.mark.waits


class Sides:
    """The same place by way of a link that can be cut, and directly.

    Attributes:
        link: between `near` and the server.
        near: the store by way of it.
        other: the store as another process has it.
    """

    def __init__(self, place: Place, link: Link) -> None:
        self.link = link.proxy
        self.near: Store = connect(link.url)
        self.other: Store = connect(place.url)
        with self.near.lock("warm"), self.other.lock("warm too"):
            pass

    def close(self) -> None:
        self.near.close()
        self.other.close()


@pytest.fixture
def sides(place: Place) -> Iterator[Sides]:
    """Both, at one place."""
    with place.link() as link:
        made = Sides(place, link)
        yield made
        made.close()


class Waiter(threading.Thread):
    """Enters a lock as soon as it can."""

    lease: Lease | None = None
    entered = 0.0

    def __init__(self, lock: Lock) -> None:
        super().__init__()
        self._lock = lock
        self.start()

    def run(self) -> None:
        self.lease = self._lock.acquire()
        self.entered = time.monotonic()

    def result(self) -> Lease:
        """What it entered with."""
        self.join(60.0)
        assert self.lease is not None, "it never entered"
        return self.lease


@contextmanager
def silent(sides: Sides, *ways: Way) -> Generator[None]:
    """What is sent on the link arrives when this ends."""
    sides.link.silence(*ways)
    try:
        yield
    finally:
        sides.link.heal()


@every_place
def test_acquire_whose_answer_is_lost_is_recognised(sides: Sides) -> None:
    """S19: the write is in the store, the connection dies before the answer: a claim knows its own write."""
    lock = sides.near.lock("answered late", ttl=LONG_TTL)
    lock.acquire().release()  # From now on its version is known, and an acquire begins with a write.
    sides.link.silence(Way.BACK)
    waiter = Waiter(lock)
    seen = eventually(lambda: sides.other.status("answered late"), lambda status: status.held)
    began = time.monotonic()
    sides.link.cut()
    sides.link.heal()
    lease = waiter.result()
    assert (lease.held, lease.token) == (True, seen.token)
    assert waiter.entered < began + SOON
    lease.release()


@every_place
def test_release_whose_answer_is_lost_frees_the_lock(sides: Sides) -> None:
    """S24: the release is in the store, nobody hears of it: it returns in time, and the next one enters."""
    lease = sides.near.lock("released", ttl=LONG_TTL).acquire()
    waiter = Waiter(sides.other.lock("released", ttl=LONG_TTL))
    time.sleep(SETTLE_SECONDS)
    with silent(sides, Way.BACK):
        began = time.monotonic()
        lease.release()
        assert time.monotonic() < began + SOON
        following = waiter.result()
    assert waiter.entered < began + SOON
    assert following.held and following.token > lease.token
    following.release()


@every_place
def test_release_that_arrives_late_frees_nobody_else(sides: Sides) -> None:
    """S1, S21: the release is stuck on its way until another has the lock, and leaves that one alone."""
    lease = sides.near.lock("stuck", ttl=TTL).acquire()
    waiter = Waiter(sides.other.lock("stuck", ttl=TTL))
    time.sleep(SETTLE_SECONDS)
    with silent(sides, Way.FORTH):
        lease.release()
        following = waiter.result()
    assert sides.near.status("stuck", timeout=SOON).token == following.token
    time.sleep(SETTLE_SECONDS)
    assert following.held and sides.other.status("stuck").token == following.token
    following.release()


@every_place
def test_waiter_that_missed_everything_enters_when_it_hears_again(sides: Sides) -> None:
    """S12, S13, S14, S17: its session, its watch and the news die while it is cut off: it enters anyway.

    While it hears nothing the lock is released, taken and released by others.
    """
    lease = sides.other.lock("missed", ttl=LONG_TTL).acquire()
    waiter = Waiter(sides.near.lock("missed", ttl=LONG_TTL))
    time.sleep(SETTLE_SECONDS)
    with silent(sides):
        lease.release()
        with sides.other.lock("missed", ttl=LONG_TTL):
            time.sleep(SETTLE_SECONDS)
        sides.link.cut()
    healed = time.monotonic()
    following = waiter.result()
    assert waiter.entered < healed + SOON
    assert following.held and following.token > lease.token
    following.release()


@every_place
def test_renewals_that_are_lost_do_not_lose_the_lease_in_time(sides: Sides) -> None:
    """S23: renewals are lost on the wire; the next one that gets through in time is worth its send."""
    with sides.near.lock("renewed", ttl=TTL * 3) as lease:  # renewed every 2 s, believed for 4.5
        time.sleep(TTL * 0.9)
        sides.link.silence()
        time.sleep(TTL * 0.7)
        sides.link.cut()
        sides.link.heal()
        deadline, healed = lease.deadline, time.monotonic()
        eventually(lambda: lease.deadline, lambda now: now > deadline)
        assert lease.held and lease.remaining <= TTL * 3 * 0.75
        assert time.monotonic() < healed + SOON


def eventually(look: Callable[[], T], is_so: Callable[[T], bool]) -> T:
    """What is seen as soon as it is so."""
    until = time.monotonic() + SOON
    while not is_so(seen := look()):
        assert time.monotonic() < until, seen
        time.sleep(0.02)
    return seen
