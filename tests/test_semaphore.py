"""`Semaphore`, in both colours: at most so many, each on a lease of its own, and nothing left behind."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from hands import PATIENCE, Hands
from leases import (
    AcquireTimeout,
    ConfigurationError,
    Lease,
    LeaseLost,
    Lock,
    Semaphore,
    SlotLease,
    Store,
    StoreDenied,
    StoreUnavailable,
)
from leases.contract import Applied, Unknown
from leases.events import Endangered, Released, Renewed
from leases.hooks import Acquired, Answered, Began, NotAcquired, Subject, hooks
from leases.testing.clock import ManualClock
from stores import Site, every_store
from stubborn import Stubborn, another_process, intrude, leftovers, look, store_on, until

LONG = 60.0


def semaphore_on(store: Store, slots: int = 2, **options: Any) -> Semaphore:
    return Semaphore("pool", slots, store=store, **options)


def held(store: Store) -> list[str]:
    """The slots that the store shows to be held."""
    return [status.name for status in store.list("pool/") if status.held]


def seek(store: Store, waiting: Future[Any], slots: int) -> None:
    """Wait until somebody waits, and has seen each of the slots to be taken."""
    until(lambda: waiting.done() or _watched(store) >= slots)
    assert not waiting.done(), waiting.result()


def _watched(store: Store) -> int:
    members: Any = store.hub._members
    return len([member for member in list(members) if member.blocked is not None])


# ---- as many as there are slots --------------------------------------------------------------------


@every_store
def test_as_many_as_slots_and_no_more(site: Site, hands: Hands) -> None:
    """Two of two processes are inside, in two slots, and a third is told who; then it has the freed one."""
    one, two = site.store(), site.store()
    a = hands.hand()("acquire", semaphore_on(one, holder="a"))
    b = hands.hand()("acquire", semaphore_on(two, holder="b"))
    assert {a.slot, b.slot} == {0, 1} and a.name == f"pool/slot-{a.slot}"
    assert sorted(held(one)) == ["pool/slot-0", "pool/slot-1"]
    third = semaphore_on(two, holder="c")
    assert hands.hand()("try_acquire", third) is None
    with pytest.raises(AcquireTimeout, match='"pool" is held by a, b') as raised:
        hands.hand()("acquire", third, 0.05)
    assert raised.value.name == "pool" and raised.value.holder == "a, b"
    a.release()
    c = hands.hand()("acquire", third, PATIENCE)
    assert c.slot == a.slot and c.held and third.held
    for lease in (b, c):
        lease.release()
    assert held(one) == [] and leftovers(one) == leftovers(two) == []


@every_store
def test_a_waiter_takes_the_slot_that_is_freed(site: Site, hands: Hands) -> None:
    """Whichever of the slots it is, who waits has it long before it would look again by itself."""
    one, two = site.store(), site.store()
    leases = [semaphore_on(one, 3).acquire() for _ in range(3)]
    for lease in leases[1:]:
        waiting = hands.hand().begin("acquire", semaphore_on(two, 3, ttl=120))
        seek(two, waiting, 3)
        lease.release()
        assert waiting.result(PATIENCE).slot == lease.slot
        assert len(held(one)) == 3


@every_store
def test_a_dead_holders_slot_is_free_after_its_ttl(site: Site) -> None:
    """The one of two holders that died is replaced, and the one that lives is not."""
    one, two, three = site.store(), site.store(), site.store()
    living = semaphore_on(one, ttl=site.short).acquire()
    began = time.monotonic()
    dying = semaphore_on(two, ttl=site.short).acquire()
    two.hub.close()
    lease = semaphore_on(three, ttl=site.short).acquire(PATIENCE)
    assert lease.slot == dying.slot and time.monotonic() - began >= 0.9 * site.short
    assert living.held and lease.token > dying.token


@every_store
def test_a_body_holds_a_slot(site: Site, hands: Hands) -> None:
    """`with` and a decorator take a slot for as long as the body runs."""
    store = site.store()
    pool = semaphore_on(store)

    def work(lease: Lease) -> tuple[bool, list[str]]:
        return lease.held, held(store)

    assert hands.hand().body(pool, work).result(PATIENCE) in [(True, [f"pool/slot-{n}"]) for n in (0, 1)]
    assert pool(lambda: len(held(store)))() == 1
    assert held(store) == [] and leftovers(store) == []


@every_store
def test_body_may_end_in_another_thread_or_task(site: Site, hands: Hands) -> None:
    """Where there is no other body, that one ends, whoever waits."""
    store = site.store()
    pool = semaphore_on(store, 1)
    hands.hand().enter(pool)
    waiting = hands.hand().body(pool, lambda lease: lease.held)
    until(lambda: store.hub.waiters("pool/slot-0"))
    hands.hand().leave(pool)
    assert waiting.result(PATIENCE)
    assert held(store) == [] and leftovers(store) == []


def test_bodies_that_end_elsewhere_are_not_mixed_up(hands: Hands) -> None:
    """Several at once are its normal case: where it cannot be known which ends, no slot is freed."""
    store = store_on()
    pool = semaphore_on(store)
    entered = [hands.hand(), hands.hand()]
    leases = [hand.enter(pool) for hand in entered]
    with pytest.raises(RuntimeError, match="none began in this thread or task"):
        hands.hand().leave(pool)
    assert all(lease.held for lease in leases)
    entered[0].leave(pool)
    assert not leases[0].held and leases[1].held
    hands.hand().leave(pool)  # The only one that is left.
    assert held(store) == [] and leftovers(store) == []


def test_the_body_of_a_lease_may_end_anywhere(hands: Hands) -> None:
    """Crosswise, too: each frees its own slot."""
    store = store_on()
    pool = semaphore_on(store)
    leases = [hands.hand()("acquire", pool) for _ in range(2)]
    inside = [hands.hand(), hands.hand()]
    for hand, lease in zip(inside, leases, strict=True):
        hand.enter(lease)
    inside[1].leave(leases[0])
    assert held(store) == [leases[1].name] and leases[1].held
    inside[0].leave(leases[1])
    assert held(store) == [] and leftovers(store) == []


def test_release_is_the_locks_own() -> None:
    """What was acquired last by a thread is released by the semaphore itself, one after the other."""
    pool = semaphore_on(store_on())
    first, second = pool.acquire(), pool.acquire()
    pool.release()
    assert first.held and not second.held
    pool.release()
    with pytest.raises(RuntimeError, match="not held"):
        pool.release()


def test_a_slot_is_renewed_and_lost_like_any_lock(hands: Hands) -> None:
    """An intruder in one slot costs that one its lease, tells it once, and nobody else notices."""
    store, losses = store_on(), list[tuple[Any, LeaseLost]]()
    pool = semaphore_on(store, ttl=0.4, on_lost=lambda lease, loss: losses.append((lease, loss)))
    lost, kept = hands.hand()("acquire", pool), hands.hand()("acquire", pool)
    intrude(store, lost.name)
    assert hands.hand().wait(lost, PATIENCE).result(PATIENCE)
    until(lambda: losses)
    [(lease, loss)] = losses
    assert lease is lost and loss.reason == "superseded" and kept.held and isinstance(lease, SlotLease)


# ---- the cost --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["etcd", "zookeeper"])
def test_a_free_slot_that_was_had_takes_one_round_trip(kind: str) -> None:
    """Acquired again, it is the slot that this process had last, by one swap; another object knows it too."""
    backend = Stubborn(kind)
    store = store_on(backend)
    pool = semaphore_on(store, 8)
    first = pool.acquire()
    first.release()
    backend.calls.clear()
    again = pool.acquire()
    assert again.slot == first.slot and [call[:2] for call in backend.calls] == [("swap", first.name)]
    again.release()
    backend.calls.clear()
    semaphore_on(store, 8).acquire()
    assert len(backend.calls) == 1


def test_who_does_not_wait_asks_each_slot_once() -> None:
    """To find all taken costs one round trip each, and no watch."""
    backend = Stubborn("etcd")
    mine = store_on(backend)
    theirs = another_process(mine)
    for _ in range(4):
        semaphore_on(theirs, 4).acquire()
    assert semaphore_on(mine, 4).try_acquire() is None
    assert Counter(call[0] for call in backend.calls) == {"swap": 4} and backend.watching == 0


def test_who_waits_sends_nothing(hands: Hands) -> None:
    """Where nothing happens, a waiter asks nothing; it has one watch for each slot, and closes all."""
    clock = ManualClock()
    backend = Stubborn("etcd")
    mine = store_on(backend, clock=clock)
    theirs = another_process(mine)
    leases = [semaphore_on(theirs, 3).acquire() for _ in range(3)]
    waiting = hands.hand().begin("acquire", semaphore_on(mine, 3))
    seek(mine, waiting, 3)
    until(lambda: backend.watching == 3)
    before = len(backend.calls)
    clock.advance(1.0)
    look(mine)
    time.sleep(0.1)
    assert len(backend.calls) == before
    leases[1].release()
    assert waiting.result(PATIENCE).slot == leases[1].slot
    until(lambda: backend.watching == 0)


# ---- one claim has one slot ------------------------------------------------------------------------


class OnePerHolder(Stubborn):
    """Remembers every holder, of one acquisition each, that the store ever showed in two slots at once."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.twice: list[str] = []
        self._mutex = threading.Lock()
        self._random = random.Random(7)

    def swap(self, seen: Any, claim: Any, timeout: float) -> Any:
        with self._mutex:
            outcome = super().swap(seen, claim, timeout)
            found = [slot for slot in self.inner.scan("", 1.0) if not isinstance(slot, Exception)]
            counted = Counter(slot.claim.holder for slot in found if slot.claim is not None and slot.held)
            self.twice += [holder for holder, times in counted.items() if times > 1]
            return Unknown() if self._random.random() < 0.1 else outcome


@pytest.mark.parametrize("kind", ["etcd", "zookeeper"])
def test_no_claim_ever_has_two_slots(kind: str) -> None:
    """Twelve holders of six processes contend for four slots, and every tenth answer is lost."""
    backend = OnePerHolder(kind)
    stores = [store_on(backend) for _ in range(6)]
    inside, most, mutex = set[int](), [0], threading.Lock()

    def contend(me: int) -> None:
        for turn in range(8):
            pool = semaphore_on(stores[me % 6], 4, holder=f"{me}, turn {turn}", ttl=1)
            with pool.acquire(PATIENCE) as lease:
                with mutex:
                    assert lease.slot not in inside
                    inside.add(lease.slot)
                    most[0] = max(most[0], len(inside))
                time.sleep(0.001)
                with mutex:
                    inside.remove(lease.slot)

    with ThreadPoolExecutor(12) as crew:
        for done in [crew.submit(contend, me) for me in range(12)]:
            done.result(LONG)
    assert backend.twice == [] and most[0] > 1
    for store in stores:
        until(lambda store=store: not leftovers(store))  # type: ignore[misc]


@pytest.mark.parametrize("kind", ["etcd", "zookeeper"])
def test_a_claim_without_an_answer_is_found_out_about_first(kind: str, hands: Hands) -> None:
    """The reply to the first claim is lost: it is found to be committed, and no other slot is tried."""
    backend = Stubborn(kind)
    store = store_on(backend)
    lost: list[Any] = []

    def lose_one(kind: str, outcome: Any) -> Any:
        if kind == "swap" and not lost:
            lost.append(outcome)
            return Unknown()
        return outcome

    backend.after = lose_one
    lease = hands.hand()("acquire", semaphore_on(store, 4), PATIENCE)
    assert isinstance(lost[0], Applied) and lease.name == lost[0].slot.name
    assert held(store) == [lease.name]


def test_threads_of_one_process_have_a_slot_each(hands: Hands) -> None:
    """As many at once as there are slots ask without waiting, and each has one, though some are taken."""
    mine = store_on()
    taken = [semaphore_on(another_process(mine), 8).acquire().slot for _ in range(3)]
    asked = [hands.hand().begin("try_acquire", semaphore_on(mine, 8)) for _ in range(5)]
    found = [future.result(PATIENCE) for future in asked]
    assert None not in found and sorted([lease.slot for lease in found] + taken) == list(range(8))


def test_who_does_not_wait_stands_in_no_queue(hands: Hands) -> None:
    """A fellow's slot is passed by as long as another may be free, and altogether by who does not wait."""
    backend = Stubborn("etcd")
    mine = store_on(backend)
    lease = semaphore_on(mine, 8).acquire()
    queued: list[int] = []
    backend.before = lambda kind, name: queued.append(mine.hub.waiters(lease.name))
    for _ in range(7):
        hands.hand()("acquire", semaphore_on(mine, 8))
    assert hands.hand()("try_acquire", semaphore_on(mine, 8)) is None
    assert set(queued) == {0} and mine.hub.waiters(lease.name) == 0


def test_the_next_thread_has_the_slot_without_a_release(hands: Hands) -> None:
    """A fellow who waits takes the record over by one swap, and the slots that it gave up are free."""
    backend = Stubborn("etcd")
    mine = store_on(backend)
    lease = semaphore_on(mine).acquire()
    other = semaphore_on(another_process(mine)).acquire()
    waiting = hands.hand().begin("acquire", semaphore_on(mine))
    until(lambda: mine.hub.waiters(lease.name) and _watched(mine))
    backend.calls.clear()
    lease.release()
    following = waiting.result(PATIENCE)
    assert following.slot == lease.slot and following.token > lease.token
    # On a busy machine it may be about to watch the other slot.
    assert [call[0] for call in backend.calls if call[0] != "watch"] == ["swap"]
    other.release()
    assert held(mine) == [following.name]


def test_a_record_that_was_passed_on_too_late_is_freed(hands: Hands) -> None:
    """Who has just won another slot when a fellow hands over its own frees that at once."""
    backend = Stubborn("etcd")
    mine = store_on(backend)
    lease = semaphore_on(mine).acquire()
    other = semaphore_on(another_process(mine)).acquire()
    waiting = hands.hand().begin("acquire", semaphore_on(mine))
    until(lambda: mine.hub.waiters(lease.name) and _watched(mine))
    arrived, go = threading.Event(), threading.Event()

    def stop_at(kind: str, name: str) -> None:
        if kind == "swap" and name == other.name:
            arrived.set()
            go.wait(PATIENCE)

    backend.before = stop_at
    other.release()
    assert arrived.wait(PATIENCE)
    lease.release()
    assert mine.status(lease.name).held, "it was passed on as it stood"
    go.set()
    assert waiting.result(PATIENCE).slot == other.slot
    until(lambda: held(mine) == [other.name])


# ---- ends ------------------------------------------------------------------------------------------


@every_store
def test_who_gives_up_waiting_leaves_nothing(site: Site, hands: Hands) -> None:
    """After a time-out nobody waits at any slot, and the next release is had by who comes."""
    one, two = site.store(), site.store()
    leases = [semaphore_on(one).acquire() for _ in range(2)]
    with pytest.raises(AcquireTimeout):
        hands.hand()("acquire", semaphore_on(two), 0.3)
    until(lambda: not leftovers(two))
    leases[0].release()
    assert len(held(one)) == 1 and semaphore_on(one).acquire(PATIENCE).held


def test_a_cancelled_task_leaves_nothing() -> None:
    """Cancelled while it waits, or while its claim is on its way, it holds no slot."""
    import asyncio

    async def run() -> None:
        backend = Stubborn("etcd")
        mine = store_on(backend)
        leases = [semaphore_on(another_process(mine)).acquire() for _ in range(2)]
        task = asyncio.create_task(semaphore_on(mine).acquire_async())
        while _watched(mine) < 2:
            await asyncio.sleep(0.002)
        backend.gate.clear()
        leases[0].release()
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        backend.gate.set()
        while leftovers(mine):
            await asyncio.sleep(0.002)
        assert held(mine) == [leases[1].name]

    asyncio.run(run())


def test_closing_the_store_turns_waiters_away(hands: Hands) -> None:
    """Who waits is told that the store was closed, and leaves nothing in it."""
    mine = store_on()
    theirs = another_process(mine)
    leases = [semaphore_on(theirs).acquire() for _ in range(2)]
    waiting = hands.hand().begin("acquire", semaphore_on(mine))
    seek(mine, waiting, 2)
    mine.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        waiting.result(PATIENCE)
    assert len(held(theirs)) == len(leases)


def test_a_store_that_is_down_is_no_other_holder(hands: Hands) -> None:
    """None means that others hold all slots; without an answer nobody can say so."""
    backend = Stubborn("etcd")
    store = store_on(backend)
    backend.down = True
    with pytest.raises(StoreUnavailable):
        hands.hand()("try_acquire", semaphore_on(store, ttl=1))
    with pytest.raises(StoreUnavailable):
        hands.hand()("acquire", semaphore_on(store, ttl=1), 0.2)
    until(lambda: not leftovers(store))


def test_a_denial_is_raised_at_once(hands: Hands) -> None:
    """What the store refuses at one slot is raised; waiting would not help."""
    backend = Stubborn("zookeeper")

    def deny(kind: str, name: str) -> None:
        raise StoreDenied(f"{name} is not for you; ask for it")

    backend.before = deny
    with pytest.raises(StoreDenied, match="not for you"):
        hands.hand()("acquire", semaphore_on(store_on(backend)))


def test_waiting_for_oneself_is_refused(hands: Hands) -> None:
    """Who is in the bodies of all slots would wait for ever; with a time-out it may try."""
    pool, hand = semaphore_on(store_on()), hands.hand()
    hand.enter(pool)
    hand.enter(pool)
    with pytest.raises(ConfigurationError, match="wait for itself"):
        hand("acquire", pool)
    with pytest.raises(AcquireTimeout):
        hand("acquire", pool, 0.05)
    hand.leave(pool)
    hand("acquire", pool).release()
    hand.leave(pool)


def test_who_listens_hears_of_one_acquisition(hands: Hands) -> None:
    """However many slots are tried it is one that began, and was acquired by the slot's name, or was not."""
    store, heard = store_on(), list[tuple[Subject, Any]]()
    listener = lambda subject, told: heard.append((subject, told))  # noqa: E731 - it is left by its name
    for _ in range(2):
        semaphore_on(another_process(store), 3).acquire()
    hooks.listen(listener)
    try:
        lease = hands.hand()("acquire", semaphore_on(store, 3))
        assert hands.hand()("try_acquire", semaphore_on(store, 3)) is None
        lease.release()
    finally:
        hooks.leave(listener)
    by_time = (Answered, Renewed, Endangered)  # which a busy machine may add
    told = [(subject.name, type(what)) for subject, what in heard if not isinstance(what, by_time)]
    assert (lease.name, Acquired) in told and ("pool", NotAcquired) in told and (lease.name, Released) in told
    assert [what for _, what in told].count(Began) == 2 and len(told) == 5


# ---- agreement -------------------------------------------------------------------------------------


@every_store
@pytest.mark.parametrize("slots", [2, 5])
def test_another_number_of_slots_is_refused(site: Site, slots: int) -> None:
    """Who meets a record that states another number does not go on, and says whose it is."""
    one, two = site.store(), site.store()
    leases = [semaphore_on(one, 3, holder="old").acquire() for _ in range(3)]
    pool = semaphore_on(two, slots)
    pool._order = lambda hub: list(range(slots))  # type: ignore[method-assign]
    with pytest.raises(ConfigurationError, match=f"has 3 slots for old and {slots} here"):
        pool.acquire(PATIENCE)
    for lease in leases:
        lease.release()
    with pool:
        pass


def test_the_number_is_shown_and_outlives_an_update() -> None:
    """It stands in the record beside the user's own metadata, whatever is shown later."""
    store = store_on()
    lease = semaphore_on(store, metadata={"build": "17"}).acquire()
    assert store.status(lease.name).metadata == {"build": "17", "leases.slots": "2"}
    lease.update({"build": "18"})
    assert store.status(lease.name).metadata == {"build": "18", "leases.slots": "2"}


def test_a_lock_of_a_slots_name_is_the_slot() -> None:
    """An operator's lock on a slot takes it out of service, and is no disagreement."""
    store = store_on()
    pool = semaphore_on(store)
    with Lock(pool.slot_name(0), store=another_process(store)):
        assert pool.acquire().slot == 1 and pool.try_acquire() is None
    assert pool.try_acquire() is not None


def test_names_of_slots_cannot_be_taken_for_one_another() -> None:
    """The names of all slots of different semaphores differ, those with odd names too."""
    names = ["a", "a/slot-0", "a/slot-1", "a/slot-", "slot-0", "a/slot-0/slot-1"]
    made = [Semaphore(name, 12).slot_name(slot) for name in names for slot in range(12)]
    assert len(set(made)) == len(made)
    with pytest.raises(ConfigurationError, match="slot 12 is not one of 0 to 11"):
        Semaphore("a", 12).slot_name(12)


# ---- what cannot work ------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [0, -1, 1001, 2.0, True, "2", None])
def test_a_number_of_slots_that_cannot_work_is_refused(slots: Any) -> None:
    """It is a whole number of at least one."""
    with pytest.raises(ConfigurationError, match="slots="):
        Semaphore("pool", slots)


def test_a_name_whose_slots_would_be_too_long_is_refused() -> None:
    """The longest slot's name counts."""
    Semaphore("n" * 249, 10)
    with pytest.raises(ConfigurationError, match="over 256 bytes"):
        Semaphore("n" * 249, 11)


class Fence:
    """Remembers what it was sealed for."""

    def __init__(self, slot: int) -> None:
        self.slot, self.sealed = slot, list[tuple[str, int]]()

    def seal(self, lease: Lease) -> None:
        self.sealed.append((lease.name, lease.token))


def test_each_slot_has_fences_of_its_own(hands: Hands) -> None:
    """The fence of the slot that was won is sealed with its token, and no other."""
    fences = [Fence(slot) for slot in range(3)]
    pool = semaphore_on(store_on(), 3, fences=lambda slot: [fences[slot]])
    leases = [hands.hand()("acquire", pool) for _ in range(3)]
    assert {lease.slot for lease in leases} == {0, 1, 2}
    for lease in leases:
        assert fences[lease.slot].sealed == [(lease.name, lease.token)]
    with pytest.raises(ConfigurationError, match="function of a slot's number"):
        semaphore_on(store_on(), 3, fences=fences)


def test_a_fence_that_fails_costs_the_slot(hands: Hands) -> None:
    """What a seal raises is raised, and the slot is free."""

    class Broken(Fence):
        def seal(self, lease: Lease) -> None:
            raise OSError("no such file")

    store = store_on()
    with pytest.raises(OSError, match="no such file"):
        hands.hand()("acquire", semaphore_on(store, fences=lambda slot: [Broken(slot)]))
    until(lambda: not held(store) and not leftovers(store))


def test_it_belongs_to_this_process() -> None:
    """It cannot be pickled, and says what to do instead."""
    import pickle

    with pytest.raises(TypeError, match=r'make Semaphore\("pool", 2\) anew'):
        pickle.dumps(semaphore_on(store_on()))
    assert "slots=2" in repr(semaphore_on(store_on()))
