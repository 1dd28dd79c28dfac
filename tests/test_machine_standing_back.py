"""A machine that stands back times what stands there and claims nothing: for who wants one lock of many."""

from __future__ import annotations

import pytest

from leases.contract import Conflict, Unknown
from leases.events import Open, Read, Request, Swap
from leases.testing.cells import Cells, Kind
from side import NAME, TTL, Side, swap

EVERY = pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
DELETING = pytest.mark.parametrize("kind", [Kind.ETCD, Kind.CONSUL], ids=lambda kind: kind.value)


def swaps(requests: list[Request]) -> list[Swap]:
    return [request for request in requests if isinstance(request, Swap)]


def idles(side: Side, seconds: float, step: float = 0.25) -> None:
    """Let time pass while it does what is due, and see that this is no write."""
    for _ in range(round(seconds / step)):
        side.passes(step)
        assert not swaps(side.look())
        side.settle()


def standing_back(kind: Kind) -> tuple[Side, Side]:
    """One that holds, and one that stands back."""
    store = Cells(kind)
    a, b = Side(store, "a"), Side(store, "b")
    a.acquire()
    b.start()
    b.settle()
    assert b.machine.stand_back(b.now) and b.told == ["Blocked"]
    return a, b


@EVERY
def test_a_dead_holders_lock_is_left_alone_and_told_to_be_open(kind: Kind) -> None:
    """It says once that the lock is open, goes on looking now and then, and never writes."""
    _, b = standing_back(kind)
    assert not b.machine.open(b.now)
    idles(b, 3 * TTL)
    assert b.told == ["Blocked", "Open"] and b.machine.open(b.now) and b.phase == "seeking"


@EVERY
def test_it_goes_ahead_with_what_it_has_timed(kind: Kind) -> None:
    """Told to go ahead, it claims at once: the ttl was counted while it stood back."""
    _, b = standing_back(kind)
    idles(b, 2 * TTL)
    b.machine.go_ahead(b.now)
    b.settle()
    assert b.told[-1] == "Granted" and b.confirm()


@EVERY
def test_it_does_not_go_ahead_of_time(kind: Kind) -> None:
    """What is not open yet is claimed when it is, and no earlier."""
    _, b = standing_back(kind)
    idles(b, TTL / 2)
    b.machine.go_ahead(b.now)
    b.look()
    assert not swaps(b.todo)
    b.live(TTL)
    assert b.told[:2] == ["Blocked", "Granted"]


@EVERY
def test_a_release_is_told_as_well(kind: Kind) -> None:
    """A hint that the lock is free opens it; a new holder closes it again, and the next release opens it."""
    a, b = standing_back(kind)
    for tenure in (1, 2):
        a.release()
        a.settle()
        b.hint(a.store.peek(NAME))
        b.settle()
        assert b.told.count("Open") == tenure and b.machine.open(b.now)
        a = Side(a.store, f"a{tenure}", at=b.hold)
        a.acquire()
        b.hint(a.store.peek(NAME))
        b.settle()
        assert not b.machine.open(b.now) and b.told[-1] == "Blocked"
    idles(b, TTL / 2)


@EVERY
def test_it_does_not_stand_back_from_what_is_open(kind: Kind) -> None:
    """Before anything is known of the lock, and once it can be had, there is no reason to."""
    b = Side(Cells(kind), "b")
    b.start()
    assert not b.machine.stand_back(b.now)
    b.settle()
    assert b.told == ["Granted"] and not b.machine.stand_back(b.now)


@DELETING
def test_it_does_not_stand_back_from_a_claim_that_may_be_committed(kind: Kind) -> None:
    """A create without an answer has to be found out about first; it was committed, and wins."""
    store = Cells(kind)
    b = Side(store, "b")
    request = swap(b.start())
    store.swap(request.seen, request.claim)
    b.tell(request, Unknown())
    assert not b.machine.stand_back(b.now)
    b.passes(1)
    [read] = b.look()
    assert isinstance(read, Read) and not b.machine.stand_back(b.now)
    b.tell(read, b.land(read))
    assert b.told == ["Granted"]


@EVERY
def test_it_does_not_stand_back_from_a_takeover_under_way(kind: Kind) -> None:
    """The lock was open, and the claim is on its way; it can once that cannot be committed any more."""
    a, b = standing_back(kind)
    idles(b, 2 * TTL)
    b.machine.go_ahead(b.now)
    b.look()
    request = swap(b.todo)
    assert not b.machine.stand_back(b.now)
    c = Side(a.store, "c", at=b.hold)
    c.start()
    c.live(2 * TTL)
    assert c.confirm()
    b.hint(a.store.peek(NAME))
    # Another version stands there than it would replace; where nothing tells which is newer, it may not.
    assert b.machine.stand_back(b.now) is kind.rules.traits.ordered
    b.tell(request, Conflict(a.store.peek(NAME)))
    assert b.told[-1] == "Blocked" and b.machine.stand_back(b.now)


@EVERY
def test_a_create_that_lands_late_is_told(kind: Kind) -> None:
    """A claim that was given up for dead and is committed after all is a grant, even while standing back."""
    store = Cells(kind)
    b = Side(store, "b")
    b.start()
    while not swaps(b.todo):
        b.tell(b.todo[0], b.land(b.todo[0]))
    late = swap(b.todo)
    a = Side(store, "a")
    a.acquire()
    b.tell(late, Unknown())
    b.passes(1)
    b.settle()
    if not b.machine.stand_back(b.now):
        pytest.fail("another holds, and no request is under way")
    a.release()
    a.settle()
    outcome = store.swap(late.seen, late.claim)
    b.hint(store.peek(NAME))
    b.settle()
    if kind.rules.traits.release_deletes:
        assert b.told[-1] == "Granted", outcome
    else:
        assert isinstance(outcome, Conflict) and b.told[-1] == "Open"


@EVERY
def test_what_is_told_shows_what_is_open(kind: Kind) -> None:
    """The event carries the slot that can be claimed."""
    a, b = standing_back(kind)
    idles(b, 2 * TTL)
    [event] = [event for event in b.events if isinstance(event, Open)]
    assert event.slot.version == a.store.peek(NAME).version


@EVERY
def test_it_wakes_when_the_lock_opens_and_rests_after_it(kind: Kind) -> None:
    """The driver is asked to look at the instant at which the lock opens, and is not kept busy after it."""
    _, b = standing_back(kind)
    woken = 0
    while b.hold < 1000 + 3 * TTL:
        wake = b.machine.wake(b.now)
        assert wake is not None
        b.passes(max(wake, 1e-6))
        b.settle()
        woken += 1
    assert woken < 30 and b.told == ["Blocked", "Open"]
