"""`break_lock` and `prune`: what an operator can do, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from leases import ConfigurationError, Store, StoreUnavailable, WrongToken
from leases.contract import Applied, Conflict, Slot, Unknown
from leases.record import Claim, State
from leases.terms import Terms
from leases.testing.cells import Kind
from leases.testing.clock import ManualClock
from leases.upkeep import Broom, Pruned, break_lock, prune
from stores import Site, every_store
from stubborn import PATIENCE, Stubborn, memory, store_on, until

KINDS = [kind.value for kind in Kind]
LEAVING = [kind.value for kind in Kind if not kind.rules.traits.release_deletes]
DELETING = [kind.value for kind in Kind if kind.rules.traits.release_deletes]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def write(store: Store, clock: ManualClock, name: str, ttl: float = 10.0, **facts: Any) -> Slot:
    """A record whose holder is dead."""
    backend, now = store.hub.backend, clock()
    token = None if backend.traits.token_from_write else 1
    claim = Claim("dead-1", "0" * 32, "1" * 16, ttl, token, acquired=now.wall, renewed=now.wall)
    outcome = backend.swap(backend.read(name, 1), replace(claim, **facts), 1)
    assert isinstance(outcome, Applied)
    return outcome.slot


def swept(store: Store, clock: ManualClock, prefix: str = "", **options: Any) -> list[tuple[str, str]]:
    """What became of which, time being advanced instead of waited for."""
    broom = Broom(options.pop("older_than", 0.0), **options)
    return [(p.name, p.action) for p in prune(store.hub, prefix, broom, clock.advance)]


# ---- break -----------------------------------------------------------------------------------------


@every_store
def test_s75_break_waits(site: Site) -> None:
    """The holder learns that its lock was broken, and nobody has it before the ttl has passed."""
    store, other = site.store(), site.store()
    lease = store.lock("job", ttl=site.short).acquire()
    before = store.hub.clock().wait
    seen = other.break_lock("job", if_token=lease.token)
    assert (seen.held, seen.claim, seen.ttl, seen.token) == (True, "", site.short, lease.token)
    assert seen.holder is not None and seen.holder.startswith("nobody (broken by ")
    until(lambda: lease.lost)
    assert lease.lost is not None and lease.lost.reason == "broken"
    with other.lock("job", ttl=site.short, timeout=PATIENCE) as following:
        assert other.hub.clock().wait - before >= site.short * 0.99
        assert following.token > lease.token


@every_store
def test_s75_break_now_frees_at_once(site: Site) -> None:
    """With `now` the lock is free when it returns; the holder learns of it all the same."""
    store, other = site.store(), site.store()
    lease = store.lock("job", ttl=30.0).acquire()
    assert not other.break_lock("job", if_token=lease.token, now=True).held
    with other.lock("job", ttl=30.0, timeout=PATIENCE) as following:
        assert following.token > lease.token
        lease._tenure.machine._renew_at = 0.0  # as if its next renewal were due
        lease._tenure.tick()
        until(lambda: lease.lost)


@every_store
def test_wrong_token_breaks_nothing(site: Site) -> None:
    """A lock that has passed on since it was looked at is not broken; the error tells its present token."""
    store = site.store()
    with store.lock("job", holder="web-3") as lease:
        with pytest.raises(WrongToken) as raised:
            store.break_lock("job", if_token=lease.token + 1)
        assert str(raised.value) == (
            f'lock "job" is not held by token {lease.token + 1} but by token {lease.token}, of web-3; '
            "name that one if it is meant"
        )
        assert lease.held and store.status("job").holder == "web-3"
    with pytest.raises(WrongToken, match="nobody holds it"):
        store.break_lock("job", if_token=lease.token)


def test_breaking_twice_is_once(clock: ManualClock) -> None:
    """A lock that is broken already is left as it is: the wait does not begin anew; `now` ends it."""
    store = store_on(clock=clock)
    token = write(store, clock, "job").token
    assert token is not None
    first = store.break_lock("job", if_token=token)
    clock.advance(3.0)
    assert store.break_lock("job", if_token=token).renewed == first.renewed
    assert not store.break_lock("job", if_token=token, now=True).held


@pytest.mark.parametrize("now", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_break_without_an_answer(kind: str, now: bool, clock: ManualClock) -> None:
    """When the answer is lost, what stands in the store tells that it was done; it is not done twice."""
    backend = Stubborn(kind)
    store = store_on(backend, clock=clock)
    token = write(store, clock, "job").token
    assert token is not None
    backend.after = lambda kind, outcome: Unknown(TimeoutError()) if kind == "swap" else outcome
    seen = break_lock(store.hub, "job", token, now=now, timeout=5.0, pause=clock.advance)
    assert seen.held is not now and sum(call[0] == "swap" for call in backend.calls) == 2


def test_break_of_a_store_that_does_not_answer(clock: ManualClock) -> None:
    """It ends in the time allowed, and says that it is not known."""
    backend = Stubborn()
    store = store_on(backend, clock=clock)
    token = write(store, clock, "job").token
    assert token is not None
    backend.after = lambda kind, outcome: Unknown(OSError("gone")) if kind == "swap" else outcome
    backend.before = lambda kind, name: clock.advance(0.0) and None
    backend.inner.swap = lambda seen, claim, timeout: Conflict(None)  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable, match="was not seen to be broken within 5 s: gone; try again"):
        break_lock(store.hub, "job", token, now=False, timeout=5.0, pause=clock.advance)


def test_break_refuses_what_is_no_token() -> None:
    """A token is a number; the name and the timeout are checked as everywhere."""
    store = store_on()
    bad: Any
    for bad in ("7", True, None, 7.0):
        with pytest.raises(ConfigurationError, match="if_token="):
            store.break_lock("job", if_token=bad)
    with pytest.raises(ConfigurationError, match="timeout="):
        store.break_lock("job", if_token=7, timeout=0)
    with pytest.raises(ConfigurationError, match="lock name"):
        store.break_lock("", if_token=7)


# ---- prune -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_dead_holder_is_freed_after_its_ttl(kind: str, clock: ManualClock) -> None:
    """A record that nobody renews is watched for its own ttl, taken over with a new token, and freed."""
    store = store_on(memory(kind), clock=clock)
    dead = write(store, clock, "job", ttl=20.0)
    began = clock().wait
    assert swept(store, clock) == [("job", "freed")]
    assert clock().wait - began >= 20.0
    assert not store.status("job").held
    with store.lock("job", ttl=10.0) as lease:
        assert dead.token is not None and lease.token > dead.token + 1


@pytest.mark.parametrize("kind", KINDS)
def test_living_holder_is_left(kind: str, clock: ManualClock) -> None:
    """One renewal while it is watched, and the record is left alone."""
    store = store_on(memory(kind), clock=clock)
    slot = write(store, clock, "job", ttl=20.0)
    assert slot.claim is not None
    renewed = replace(slot.claim, beat="2" * 16, token=slot.token)

    def pause(seconds: float) -> None:
        clock.advance(seconds)
        store.hub.backend.swap(slot, renewed, 1)

    (left,) = prune(store.hub, "", Broom(0.0), pause)
    assert left == Pruned("job", "left", "its holder lives")
    assert store.hub.backend.read("job", 1).claim == renewed


def test_lease_of_this_very_process_is_left() -> None:
    """What this process holds itself is alive like any other's."""
    store = store_on(memory("etcd"))
    with store.lock("job", ttl=1.0) as lease:
        (left,) = store.prune(older_than=0)
        assert left.action == "left" and lease.held


def test_dead_record_of_this_boot_is_freed_at_once(clock: ManualClock) -> None:
    """Where the store is on this host, the record says when it was written: nothing has to be watched."""
    store = store_on(clock=clock)
    store.hub.boot = "b" * 36
    write(store, clock, "job", ttl=20.0, boot="b" * 36, sent=clock().hold)
    clock.advance(21.0)
    began = clock()
    assert swept(store, clock) == [("job", "freed")]
    assert clock() == began


@pytest.mark.parametrize("kind", KINDS)
def test_released_while_it_is_watched(kind: str, clock: ManualClock) -> None:
    """A record that was released, or taken by another, is not claimed in passing."""
    store = store_on(memory(kind), clock=clock)
    slot = write(store, clock, "job", ttl=20.0)

    def pause(seconds: float) -> None:
        clock.advance(seconds)
        store.hub.backend.swap(slot, None, 1)

    (left,) = prune(store.hub, "", Broom(0.0), pause)
    assert (left.action, left.why) == ("left", "it was released meanwhile")
    after = store.hub.backend.read("job", 1)
    assert not after.held and (after.claim is None or after.claim.token == slot.token)


def test_many_are_watched_together(clock: ManualClock) -> None:
    """A hundred dead holders take as long as the one with the longest ttl, and each is told once."""
    store = store_on(memory("consul"), clock=clock)
    for number in range(100):
        write(store, clock, f"job/{number}", ttl=5.0 + number % 10)
    write(store, clock, "other")
    began = clock().wait
    assert sorted(swept(store, clock, "job/")) == sorted((f"job/{n}", "freed") for n in range(100))
    assert 14.0 <= clock().wait - began < 16.0
    assert store.status("other").held


def test_what_is_young_or_long_is_left(clock: ManualClock) -> None:
    """What was written of late is not looked at; what had to be watched for too long is told."""
    store = store_on(memory("etcd"), clock=clock)
    write(store, clock, "long", ttl=3600.0)
    clock.advance(100.0)
    write(store, clock, "young")
    (left,) = prune(store.hub, "", Broom(older_than=50.0, wait=60.0), clock.advance)
    assert left == Pruned("long", "left", "it would have to be watched for 3600 s, which is longer than 60 s")


@pytest.mark.parametrize("kind", DELETING)
def test_free_and_old_is_removed(kind: str, clock: ManualClock) -> None:
    """Where release deletes, a free record that nobody came for is removed; a young one is not."""
    store = store_on(memory(kind), clock=clock)
    slot = write(store, clock, "job")
    assert slot.claim is not None
    store.hub.backend.swap(slot, slot.claim.freed(successor="web-4"), 1)
    assert swept(store, clock, older_than=60.0) == []
    clock.advance(60.0)
    assert swept(store, clock, older_than=60.0) == [("job", "removed")]
    assert store.hub.backend.read("job", 1).version is None


@pytest.mark.parametrize("kind", LEAVING)
def test_free_record_stays_while_clients_run(kind: str, clock: ManualClock) -> None:
    """Where release leaves a record, it is removed only when no client runs; a held one is freed first."""
    store = store_on(memory(kind), clock=clock)
    store.hub.backend.swap(write(store, clock, "free"), None, 1)
    write(store, clock, "held", ttl=5.0)
    assert swept(store, clock) == [("free", "left"), ("held", "freed")]
    write(store, clock, "dead", ttl=5.0)
    assert sorted(swept(store, clock, offline=True)) == [
        ("dead", "removed"),
        ("free", "removed"),
        ("held", "removed"),
    ]
    assert list(store.scan()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_dry_run_changes_nothing(kind: str, clock: ManualClock) -> None:
    """It tells what would be done, at once."""
    store = store_on(memory(kind), clock=clock)
    write(store, clock, "held")
    store.hub.backend.swap(write(store, clock, "free"), None, 1)
    before, began = list(store.scan()), clock()
    told = swept(store, clock, offline=True, dry_run=True)
    assert ("held", "freed") in told and list(store.scan()) == before and clock() == began


@every_store
def test_prune_on_every_store(site: Site) -> None:
    """A dead holder's lock is freed and a living one's is not; what is not old enough is not looked at."""
    dying, other = site.store(), site.store()
    dying.lock("dead", ttl=site.short).acquire()
    dying.close()  # as if its process died: the record is left to expire
    with other.lock("live", ttl=site.short * 2) as live:
        assert site.store().prune() == ()
        found = {pruned.name: pruned.action for pruned in site.store().prune(older_than=0)}
        assert found == {"dead": "freed", "live": "left"} and live.held
    assert not site.store().status("dead").held


@every_store
def test_s67_prune_then_stale_set(site: Site) -> None:
    """A record that was removed and created anew is not hit by a write that knew the old one."""
    store = site.store()
    backend = store.hub.backend
    with store.lock("job", ttl=site.short) as first:
        held = backend.read("job", PATIENCE)
    old = backend.read("job", PATIENCE)
    store.prune("job", older_than=0, offline=True)
    assert backend.read("job", PATIENCE).claim is None
    with site.store().lock("job", ttl=30.0, timeout=PATIENCE) as second:
        assert second.token > first.token
        for stale in (held, old):
            assert held.claim is not None
            late = replace(held.claim, beat="3" * 16)
            assert isinstance(backend.swap(stale, late, PATIENCE), Conflict)
            if stale.claim is not None:
                assert isinstance(backend.remove(stale, PATIENCE), Conflict)
        assert second.held and store.status("job").token == second.token


def test_foreign_record_is_told_and_left(clock: ManualClock) -> None:
    """What is not ours is never touched."""
    backend = memory("etcd")
    store = store_on(backend, clock=clock)
    backend.write_foreign("job", b"mine!")
    (left,) = prune(store.hub, "", Broom(0.0), clock.advance)
    assert left.action == "left" and "mine!" in left.why


def test_claims_of_other_tools_are_left(clock: ManualClock) -> None:
    """What an elector of client-go wrote and left is none of ours to clear away, held or free."""
    store = store_on(memory("kubernetes"), clock=clock)
    write(store, clock, "held", id="")
    write(store, clock, "free", id="", holder="", state=State.FREE)
    assert swept(store, clock, offline=True) == [("free", "left"), ("held", "left")]


def test_claim_of_another_tool_can_be_broken(clock: ManualClock) -> None:
    """It has no id, as a broken lock has none, and is broken all the same; and that is cleared away then."""
    store = store_on(memory("kubernetes"), clock=clock)
    token = write(store, clock, "job", id="").token
    assert token is not None
    seen = store.break_lock("job", if_token=token)
    assert seen.holder is not None and seen.holder.startswith("nobody (broken by ")
    assert swept(store, clock) == [("job", "freed")]


@pytest.mark.parametrize("kind", KINDS)
def test_lost_answers_while_it_takes_over(kind: str, clock: ManualClock) -> None:
    """With every third answer lost it still ends, and whatever it says is so."""
    backend = Stubborn(kind)
    store = store_on(backend, clock=clock)
    write(store, clock, "job", ttl=5.0)
    numbers = iter(range(10**6))
    backend.after = lambda kind, outcome: outcome if next(numbers) % 3 else Unknown(TimeoutError())
    if_read: Callable[[str, Any], Any] = backend.after
    backend.after = lambda kind, outcome: outcome if kind == "read" else if_read(kind, outcome)
    (told,) = prune(store.hub, "", Broom(0.0), clock.advance)
    assert told.action == "freed" or "did not say" in told.why
    clock.advance(Terms().ttl)
    assert told.action == "left" or not store.status("job").held


def test_prune_refuses_what_is_no_duration() -> None:
    """The options are checked before anything is asked."""
    store = store_on()
    bad: Any
    for bad in (-1, "1h", None, float("nan"), True):
        with pytest.raises(ConfigurationError, match="older_than="):
            store.prune(older_than=bad)
    for bad in (0, -1, None):
        with pytest.raises(ConfigurationError, match="wait="):
            store.prune(wait=bad)
