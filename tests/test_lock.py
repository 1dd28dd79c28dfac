"""`Lock`, in both colours: what it promises to who types `with lock:` or `async with lock:`."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
import threading
import time
from concurrent.futures import Future
from functools import partial
from typing import Any

import pytest

from hands import PATIENCE, Hands, Threads
from leases import (
    AcquireTimeout,
    ConfigurationError,
    Lease,
    LeaseLost,
    Lock,
    MultiLock,
    RecordRefused,
    Store,
    StoreDenied,
    StoreUnavailable,
    Terms,
)
from leases.contract import Conflict, Unknown
from leases.testing.clock import ManualClock
from stores import Site, every_store
from stubborn import (
    SHORT,
    Stubborn,
    another_process,
    conflict_untold,
    fresh_url,
    intrude,
    leftovers,
    look,
    memory,
    store_on,
    until,
)

LONG = 60.0


def lock_on(store: Store, **options: Any) -> Lock:
    return Lock("job", store=store, **options)


def follow(waiting: Future[Any], store: Store) -> Lease:
    """The lease of who waits for a dead holder, by a clock that is moved by hand.

    Where the store is on this host it may be had at once, and elsewhere when a ttl has been watched.
    """
    members: Any = store.hub._members
    until(lambda: waiting.done() or any(member.blocked for member in members))
    if not waiting.done():
        clock: Any = store.hub.clock
        clock.advance(LONG)
        look(store)
    lease: Lease = waiting.result(PATIENCE)
    return lease


# ---- the body ------------------------------------------------------------------------------------


@every_store
def test_body_has_the_lock_and_leaves_it(site: Site, hands: Hands) -> None:
    """The lock is held while the body runs, and free after it, and nothing is kept."""
    store = site.store()
    lock = lock_on(store)

    def work(lease: Lease) -> tuple[bool, bool, bool]:
        return lease.held, lock.held, store.status("job").held

    assert hands.hand().body(lock, work).result(PATIENCE) == (True, True, True)
    assert not lock.held and not store.status("job").held
    assert leftovers(store) == []


@every_store
def test_body_error_passes_and_the_lock_is_free(site: Site, hands: Hands) -> None:
    """What the body raises is raised, and the lock is released all the same."""
    store = site.store()

    def work(lease: Lease) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as raised:
        hands.hand().body(lock_on(store), work).result(PATIENCE)
    assert not hasattr(raised.value, "__notes__")
    assert not store.status("job").held


@every_store
def test_body_does_not_run_without_the_lock(site: Site, hands: Hands) -> None:
    """Where the lock is not to be had, `with` raises and the body does not run."""
    store = site.store()
    lock_on(site.another(store)).acquire()
    ran: list[Lease] = []
    with pytest.raises(AcquireTimeout):
        hands.hand().body(lock_on(store, timeout=0.3), ran.append).result(PATIENCE)
    assert ran == []


def test_body_that_lost_the_lock_raises_at_its_end(hands: Hands) -> None:
    """A loss while the body ran is raised at its end."""
    clock = ManualClock()
    store = store_on(clock=clock)
    with pytest.raises(LeaseLost) as raised:
        hands.hand().body(lock_on(store), lambda lease: clock.advance(LONG)).result(PATIENCE)
    assert raised.value.reason == "expired"


def test_body_error_is_not_hidden_by_the_loss(hands: Hands) -> None:
    """The body's own error is raised, with a note of the loss."""
    clock = ManualClock()
    store = store_on(clock=clock)

    def work(lease: Lease) -> None:
        clock.advance(LONG)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as raised:
        hands.hand().body(lock_on(store), work).result(PATIENCE)
    assert ['lease on "job" is lost (expired)' in note for note in raised.value.__notes__] == [True]


def test_loss_found_by_check_is_told_once(hands: Hands) -> None:
    """`check()` in the body raises the loss, and the end of the body does not add it a second time."""
    clock = ManualClock()
    store = store_on(clock=clock)

    def work(lease: Lease) -> None:
        clock.advance(LONG)
        lease.check()

    with pytest.raises(LeaseLost) as raised:
        hands.hand().body(lock_on(store), work).result(PATIENCE)
    assert not hasattr(raised.value, "__notes__") and raised.value.__context__ is None


@every_store
def test_body_may_release_early(site: Site, hands: Hands) -> None:
    """A body that releases by itself does not raise at its end; one that had lost the lock by then does."""
    clock = ManualClock()
    store = site.store(clock=clock)
    hands.hand().body(lock_on(store), lambda lease: lease.release()).result(PATIENCE)

    def too_late(lease: Lease) -> None:
        clock.advance(LONG)
        lease.release()

    with pytest.raises(LeaseLost, match="expired"):
        hands.hand().body(lock_on(store), too_late).result(PATIENCE)


@every_store
def test_body_may_end_in_another_thread_or_task(site: Site, hands: Hands) -> None:
    """Frameworks enter a generator in one thread or task and leave it in another; the lock is released."""
    store = site.store()
    lock = lock_on(store)
    hands.hand().enter(lock)
    hands.hand().leave(lock)
    assert not store.status("job").held and leftovers(store) == []


def test_two_bodies_that_end_elsewhere_are_not_mixed_up(hands: Hands) -> None:
    """Where it cannot be known which body ends, an error says so, and nobody's lock is released."""
    clock = ManualClock()
    store = store_on(clock=clock)
    lock = lock_on(store)
    first, second = hands.hand(), hands.hand()
    first.enter(lock)
    clock.advance(LONG)
    look(store)
    lease = second.enter(lock)
    with pytest.raises(RuntimeError, match="none began in this thread or task"):
        hands.hand().leave(lock)
    assert lease.held
    second.leave(lock)
    with pytest.raises(LeaseLost):
        first.leave(lock)


@pytest.mark.parametrize("several", [False, True])
def test_an_end_elsewhere_that_is_struck_is_that_of_one_body(
    several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the next has begun his body in the meantime, which goes on."""
    store, hands = store_on(), Threads()
    lock: Any = MultiLock("job", "other", store=store) if several else lock_on(store)
    first, second = hands.hand(), hands.hand()
    first.enter(lock)
    waiting = second.begin("enter", lock)
    until(lambda: store.hub.waiters("job"))

    def struck(loss: LeaseLost | None, error: BaseException | None) -> None:
        waiting.result(PATIENCE)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Lease, "_raise_loss", staticmethod(struck))
        with pytest.raises(KeyboardInterrupt):
            hands.hand().leave(lock)
    assert waiting.result(PATIENCE).held
    hands.hand().leave(lock)
    assert leftovers(store) == []
    hands.close()


# ---- waiting, and not waiting --------------------------------------------------------------------


@every_store
def test_timeout_tells_who_holds_and_for_how_long(site: Site, hands: Hands) -> None:
    """The error names the holder and the time after which its record can expire; it is a TimeoutError."""
    store = site.store()
    lock_on(site.another(store), holder="web-3", ttl=15).acquire()
    with pytest.raises(TimeoutError) as raised:
        hands.hand()("acquire", lock_on(store), timeout=0.3)
    error = raised.value
    assert isinstance(error, AcquireTimeout)
    assert (error.name, error.holder, error.timeout) == ("job", "web-3", 0.3)
    assert error.remaining is not None and 10 < error.remaining <= 15
    assert "is held by web-3 for up to another 1" in str(error) and "pass a longer timeout=" in str(error)


def test_timeout_in_the_queue_tells_the_same(hands: Hands) -> None:
    """Behind another of the same process the error names that one's holder, not our own."""
    store = store_on()
    lease = lock_on(store, holder="other", ttl=15).acquire()
    with pytest.raises(AcquireTimeout) as raised:
        hands.hand()("acquire", lock_on(store, holder="me"), timeout=0.05)
    assert raised.value.holder == "other"
    assert raised.value.remaining is not None and 10 < raised.value.remaining <= 15
    lease.release()
    assert leftovers(store) == []


@every_store
@pytest.mark.parametrize("near", ["same process", "another process"])
def test_try_acquire_is_none_where_another_holds(site: Site, hands: Hands, near: str) -> None:
    """`try_acquire` gives None at once if the lock is held, here or elsewhere, and the lease if it is not."""
    store = site.store()
    other = lock_on(store if near == "same process" else site.another(store)).acquire()
    hand = hands.hand()
    began = time.monotonic()
    assert hand("try_acquire", lock_on(store)) is None
    assert time.monotonic() - began < 5
    other.release()
    lease = hand("try_acquire", lock_on(store))
    assert lease.held
    lease.release()
    assert leftovers(store) == []


@every_store
def test_zero_does_not_wait_for_a_free_lock_either(site: Site, hands: Hands) -> None:
    """A timeout of 0 acquires what is free, though conflicts do not tell what stands there."""
    backend = site.stubborn()
    backend.after = conflict_untold
    store = site.store(backend)
    lease = hands.hand()("acquire", lock_on(store), timeout=0)
    assert lease.held
    other = site.another(store)
    assert hands.hand()("try_acquire", lock_on(other)) is None
    lease.release()


@pytest.mark.waits
@pytest.mark.parametrize("kind", ["memory", "zookeeper"])
@pytest.mark.parametrize("used_before", [False, True])
@pytest.mark.parametrize("trouble", ["down", "silent"])
def test_unreachable_is_never_none(hands: Hands, kind: str, used_before: bool, trouble: str) -> None:
    """`try_acquire` on a store that cannot be reached raises, whatever was seen there before."""
    backend = Stubborn(kind)
    store = store_on(backend)
    lock = lock_on(store, ttl=SHORT)
    hand = hands.hand()
    if used_before:
        hand("acquire", lock).release()
    setattr(backend, trouble, True)
    with pytest.raises(StoreUnavailable):
        hand("try_acquire", lock)
    setattr(backend, trouble, False)
    until(lambda: leftovers(store) == [])
    assert backend.watching == 0


@pytest.mark.parametrize("trouble", ["down", "silent"])
def test_timeout_bounds_an_unreachable_store(hands: Hands, trouble: str) -> None:
    """`timeout` bounds a store that refuses or does not answer; one request alone may take longer."""
    backend = Stubborn()
    setattr(backend, trouble, True)
    lock = lock_on(store_on(backend), ttl=3600)
    began = time.monotonic()
    with pytest.raises(ConnectionError) as raised:
        hands.hand()("acquire", lock, timeout=0.3)
    assert isinstance(raised.value, StoreUnavailable)
    assert 0.25 < time.monotonic() - began < 5


class _Unanswered(StoreUnavailable):
    """A backend's own, which says more than its message and cannot be made of that alone."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


def test_error_of_a_backend_is_raised_as_it_is(hands: Hands) -> None:
    """What is raised is of the backend's class, with its message and all it knows, and another object."""
    backend = Stubborn()
    met = _Unanswered("no answer; look at the server", status=503)
    backend.after = lambda kind, outcome: Unknown(met, void=True)
    with pytest.raises(_Unanswered, match="no answer; look at the server") as raised:
        hands.hand()("acquire", lock_on(store_on(backend)), timeout=0.1)
    assert raised.value is not met and raised.value.__cause__ is met
    assert raised.value.status == 503


def test_timeout_that_passes_while_more_is_to_be_asked(hands: Hands) -> None:
    """Where the time is over as an answer comes, nothing more is asked, though the answer calls for it."""
    clock = ManualClock()
    backend = Stubborn()
    store = store_on(backend, clock=clock)
    held = lock_on(another_process(store), ttl=3600).acquire()

    def late(kind: str, outcome: Any) -> Any:
        clock.advance(10)
        return conflict_untold(kind, outcome)

    backend.after = late
    with pytest.raises((StoreUnavailable, AcquireTimeout)):  # A task's courier may have asked once more.
        hands.hand()("acquire", lock_on(store), timeout=5)
    assert [kind for kind, _, _ in backend.calls][:1] == ["swap"]
    held.release()


@every_store
@pytest.mark.parametrize("answered", [False, True])
def test_closing_one_store_while_it_acquires(site: Site, hands: Hands, answered: bool) -> None:
    """Who seeks by way of a store that is closed is turned away, and what was on its way is freed."""
    backend = site.stubborn()
    other = site.store(backend)
    store = Store(other.hub)
    under_way, gate = threading.Event(), threading.Event()

    def stall(*what: object) -> Any:
        under_way.set()
        gate.wait(PATIENCE)
        return what[-1]

    if answered:
        backend.after = stall  # The swap is committed before the store is closed.
    else:
        backend.before = stall
    waiting = hands.hand().begin("acquire", lock_on(store))
    assert under_way.wait(PATIENCE)
    store.close()
    gate.set()
    with pytest.raises(StoreUnavailable, match="was closed"):
        waiting.result(PATIENCE)
    until(lambda: leftovers(other) == [])
    assert not other.status("job").held


def test_store_that_is_closed_as_the_turn_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its turn and its first request nobody would find the claim; it finds out by itself."""
    backend = Stubborn()
    other = store_on(backend)
    store = Store(other.hub)
    join = other.hub.join

    def close_first(member: Any) -> None:
        store.close()
        join(member)

    monkeypatch.setattr(other.hub, "join", close_first)
    with pytest.raises(StoreUnavailable, match="was closed"):
        lock_on(store).acquire()
    assert backend.calls == [] and leftovers(other) == []


@pytest.mark.waits
def test_queued_behind_one_who_waits_for_a_dead_store(hands: Hands) -> None:
    """Whose turn does not come because the store is down is told that, not that somebody holds the lock."""
    backend = Stubborn()
    backend.down = True
    store = store_on(backend)
    first = hands.hand().begin("acquire", lock_on(store), timeout=1.5)
    until(lambda: backend.calls)
    hand = hands.hand()
    with pytest.raises(StoreUnavailable):
        hand("try_acquire", lock_on(store))
    with pytest.raises(StoreUnavailable):
        hand("acquire", lock_on(store), timeout=0.1)
    with pytest.raises(StoreUnavailable):
        first.result(PATIENCE)


def test_store_that_comes_back(hands: Hands) -> None:
    """Who waits for ever acquires when the store can be reached again."""
    backend = Stubborn()
    backend.down = True
    store = store_on(backend)
    waiting = hands.hand().begin("acquire", lock_on(store, ttl=SHORT))
    until(lambda: len(backend.calls) > 2)
    backend.down = False
    lease = waiting.result(PATIENCE)
    assert lease.held
    lease.release()


@every_store
def test_waiting_ends_with_the_release(site: Site, hands: Hands) -> None:
    """A waiter in another process hears of the release long before it would look again."""
    store = site.store()
    held = lock_on(site.another(store), ttl=LONG).acquire()
    waiting = hands.hand().begin("acquire", lock_on(store, ttl=LONG))
    until(lambda: any(member.blocked for member in store.hub._members))  # type: ignore[attr-defined]
    time.sleep(0.05)
    assert not waiting.done()
    held.release()
    waiting.result(5).release()


@pytest.mark.waits
@every_store
def test_waiting_ends_with_the_ttl_of_a_dead_holder(site: Site, hands: Hands) -> None:
    """A holder that is heard of no more is followed when its ttl has passed, and not before."""
    store = site.store()
    dead = site.another(store)
    ttl, began = max(site.short, 1.0), time.monotonic()
    lock_on(dead, ttl=ttl).acquire()
    dead.close()
    lease = hands.hand()("acquire", lock_on(store, ttl=site.short))
    assert ttl <= time.monotonic() - began < 5
    lease.release()


@every_store
def test_timeouts_leave_nothing_behind(site: Site, hands: Hands) -> None:
    """Whoever gave up waiting, in the queue or for the store, is remembered nowhere, and watches nothing."""
    backend = site.stubborn()
    store = site.store(backend)
    held = lock_on(site.another(store)).acquire()
    waiting = [hands.hand().begin("acquire", lock_on(store, ttl=site.short), timeout=0.2) for _ in range(4)]
    for each in waiting:
        with pytest.raises(AcquireTimeout):
            each.result(PATIENCE)
    until(lambda: leftovers(store) == [])
    assert backend.watching == 0
    held.release()


@every_store
def test_holder_that_ends_while_others_give_up(site: Site, hands: Hands) -> None:
    """The queue goes on past those who gave up."""
    store = site.store()
    held = lock_on(store).acquire()
    quitter = hands.hand().begin("acquire", lock_on(store), timeout=0.1)
    until(lambda: store.hub.waiters("job") == 1)
    stayer = hands.hand().begin("acquire", lock_on(store))
    with pytest.raises(AcquireTimeout):
        quitter.result(PATIENCE)
    held.release()
    stayer.result(PATIENCE).release()
    assert leftovers(store) == []


# ---- turns ---------------------------------------------------------------------------------------


@every_store
def test_first_come_first_served(site: Site, hands: Hands) -> None:
    """Threads or tasks of one process have their turns in the order in which they came."""
    store = site.store()
    order: list[int] = []
    held = lock_on(store).acquire()
    bodies: list[Future[Any]] = []

    def note(number: int, lease: Lease) -> None:
        order.append(number)

    for number in range(8):
        bodies.append(hands.hand().body(lock_on(store), partial(note, number)))
        until(lambda: store.hub.waiters("job") == len(bodies))
    held.release()
    for body in bodies:
        body.result(PATIENCE)
    assert order == list(range(8))
    assert leftovers(store) == []


@pytest.mark.parametrize("kind", ["memory", "zookeeper", "kubernetes", "unordered"])
def test_thread_hand_over_has_new_token(hands: Hands, kind: str) -> None:
    """S73: the next of the process acquires by one swap on the own record, and has a token of its own."""
    backend = Stubborn(kind)
    store = store_on(backend)
    first = lock_on(store).acquire()
    waiting = hands.hand().begin("acquire", lock_on(store))
    until(lambda: store.hub.waiters("job"))
    backend.calls.clear()
    first.release()
    second = waiting.result(PATIENCE)
    assert second.token > first.token
    assert [kind for kind, _, _ in backend.calls] == ["swap"]
    assert [claim is not None and claim.held for _, _, claim in backend.calls] == [True]
    assert not first.held and second.held
    second.release()
    assert leftovers(store) == []


@every_store
def test_other_processes_get_their_turn(site: Site, hands: Hands) -> None:
    """A process whose threads always wait for the lock lets another process have it now and then."""
    store = site.store()
    stop = threading.Event()

    def greedy() -> None:
        while not stop.is_set():
            with lock_on(store):
                pass

    threads = [threading.Thread(target=greedy) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        elsewhere = lock_on(site.another(store))
        hand = hands.hand()
        for _ in range(3):
            hand("acquire", elsewhere, timeout=10).release()
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@every_store
def test_tokens_rise_over_everything(site: Site, hands: Hands) -> None:
    """Every acquisition has a higher token: by release, by hand-over, in the same process and in another."""
    store = site.store()
    other = site.another(store)
    hand = hands.hand()
    tokens: list[int] = []
    for where in (store, other, store, store, other):
        lease = hand("acquire", lock_on(where))
        tokens.append(lease.token)
        lease.release()
    assert tokens == sorted(set(tokens))


# ---- again in the same thread or task ------------------------------------------------------------


def test_waiting_for_oneself_is_refused(hands: Hands) -> None:
    """In its own body a thread or task that would wait for ever is told so, with the next step."""
    store = store_on()
    lock = lock_on(store)
    hand = hands.hand()
    hand.enter(lock)
    for again in (lock, lock_on(store)):  # by the same object, and by another of the same name
        with pytest.raises(ConfigurationError, match=r"would wait for itself.*reentrant=True"):
            hand("acquire", again)
        with pytest.raises(AcquireTimeout):
            hand("acquire", again, timeout=0.05)
        assert hand("try_acquire", again) is None
    hand.leave(lock)
    assert leftovers(store) == []


def test_another_hand_may_wait_for_a_body(hands: Hands) -> None:
    """What is refused to the thread or task in the body is not refused to others."""
    store = store_on()
    lock = lock_on(store)
    hand = hands.hand()
    hand.enter(lock)
    waiting = hands.hand().begin("acquire", lock)
    until(lambda: store.hub.waiters("job"))
    hand.leave(lock)
    waiting.result(PATIENCE).release()


@pytest.mark.waits
@every_store
def test_body_that_lost_the_lock_may_wait_for_it_again(site: Site, hands: Hands) -> None:
    """Waiting in one's own body is no deadlock once the lease is lost."""
    store = site.store()
    lock = lock_on(store, ttl=site.short)
    hand = hands.hand()
    first = hand.enter(lock)
    intrude(store, "job")
    until(lambda: not first.held)
    elsewhere = Lock("job", store=site.another(store), ttl=site.short)
    assert elsewhere.try_acquire() is None
    second = hand("acquire", lock, timeout=5)
    assert second.token > first.token
    second.release()
    with pytest.raises(LeaseLost):
        hand.leave(lock)


@every_store
def test_reentrant_counts(site: Site, hands: Hands) -> None:
    """A reentrant lock can be entered again by who holds it, and is released by the last to leave."""
    store = site.store()
    lock = lock_on(store, reentrant=True)
    hand = hands.hand()
    outer, inner = hand.enter(lock), hand.enter(lock)
    assert inner is outer
    third = hand("acquire", lock)
    assert third is outer
    hand.leave(lock)
    hand("release", lock)
    assert outer.held and store.status("job").held
    hand.leave(lock)
    assert not outer.held and not store.status("job").held
    assert leftovers(store) == []


def test_reentrant_does_not_let_others_in(hands: Hands) -> None:
    """Another thread or task waits for a reentrant lock like for any other."""
    store = store_on()
    lock = lock_on(store, reentrant=True)
    hand = hands.hand()
    hand.enter(lock)
    assert hands.hand()("try_acquire", lock) is None
    hand.leave(lock)


@every_store
def test_reentrant_lease_that_is_lost_is_not_entered_again(site: Site, hands: Hands) -> None:
    """After the loss the same thread or task acquires anew, with a new token, and both bodies are told."""
    clock = ManualClock()
    store = site.store(clock=clock)
    lock = lock_on(store, reentrant=True)
    hand = hands.hand()
    outer = hand.enter(lock)
    clock.advance(LONG)
    look(store)
    inner = follow(hand.begin("enter", lock), store)
    assert inner is not outer and inner.token > outer.token and inner.held
    hand.leave(lock)
    with pytest.raises(LeaseLost):
        hand.leave(lock)


# ---- releasing -----------------------------------------------------------------------------------


@every_store
def test_release_twice_is_harmless(site: Site, hands: Hands) -> None:
    """A second release changes nothing, in the store or here."""
    backend = site.stubborn()
    store = site.store(backend)
    hand = hands.hand()
    lease = hand("acquire", lock_on(store))
    hand("release", lease)
    calls = len(backend.calls)
    hand("release", lease)
    assert len(backend.calls) == calls and leftovers(store) == []


@every_store
def test_unlock_after_ttl_does_not_free_new_holder(site: Site, hands: Hands) -> None:
    """S1: who releases after its lease expired leaves the successor's record as it is."""
    clock = ManualClock()
    store = site.store(clock=clock)
    other = site.another(store)
    hand = hands.hand()
    lease = hand("acquire", lock_on(store))
    clock.advance(LONG)
    successor = follow(hands.hand().begin("acquire", lock_on(other)), other)
    before = other.status("job")
    hand("release", lease)
    assert other.status("job") == before and successor.held
    assert leftovers(store) == []


@every_store
def test_release_by_another_thread_or_task(site: Site, hands: Hands) -> None:
    """A lease may be released by whoever has it, and a lock by whoever has the lock."""
    store = site.store()
    lock = lock_on(store)
    for what in ("lease", "lock"):
        lease = hands.hand()("acquire", lock)
        hands.hand()("release", lease if what == "lease" else lock)
        assert not lease.held and not store.status("job").held


def test_release_of_what_is_not_held(hands: Hands) -> None:
    """`Lock.release` without anything to release is a RuntimeError, as for a `threading.Lock`."""
    store = store_on()
    lock = lock_on(store)
    hand = hands.hand()
    with pytest.raises(RuntimeError, match="acquire first"):
        hand("release", lock)
    hand("acquire", lock)
    hand("release", lock)
    with pytest.raises(RuntimeError):
        hand("release", lock)


@every_store
@pytest.mark.parametrize("applied", [False, True])
def test_release_unknown(site: Site, hands: Hands, applied: bool) -> None:
    """S24: a release without an answer ends in time, and what may have been done is found out afterwards."""
    backend = site.stubborn()
    store = site.store(backend)
    hand = hands.hand()
    lease = hand("acquire", lock_on(store, ttl=site.short))
    if applied:
        backend.after = lambda kind, outcome: Unknown() if kind == "swap" else outcome
    else:
        backend.silent = True
    began = time.monotonic()
    hand("release", lease)
    assert time.monotonic() - began < 5
    assert not lease.held
    backend.after, backend.silent = lambda kind, outcome: outcome, False
    hands.hand()("acquire", lock_on(store, ttl=site.short), timeout=5).release()
    until(lambda: leftovers(store) == [])


@every_store
def test_late_renewal_does_not_keep_a_released_lock(site: Site, hands: Hands) -> None:
    """S65: a renewal that lands after the release is met, and freed."""
    backend = site.stubborn()
    store = site.store(backend)
    hand = hands.hand()
    lease = hand("acquire", lock_on(store, ttl=2.5 * site.short))
    backend.gate.clear()  # The renewal is on its way, and stays there.
    until(lambda: len(backend.calls) > 1)
    releasing = hand.begin("release", lease)
    time.sleep(0.05)
    backend.gate.set()
    releasing.result(PATIENCE)
    until(lambda: not store.status("job").held, 2)
    until(lambda: leftovers(store) == [])


# ---- what can go wrong ---------------------------------------------------------------------------


def test_foreign_record_is_refused_and_left(hands: Hands) -> None:
    """S48: what another tool wrote under the name is shown in an error, and left as it is."""
    backend = memory()
    store = store_on(backend)
    backend.write_foreign("job", b"mine!")
    for verb in ("acquire", "try_acquire"):
        with pytest.raises(RecordRefused, match="mine!"):
            hands.hand()(verb, lock_on(store))
    with pytest.raises(RecordRefused):
        store.status("job")
    assert leftovers(store) == []


def test_denial_is_raised_at_once(hands: Hands) -> None:
    """Missing permissions are no reason to wait."""
    backend = Stubborn()

    def deny(kind: str, name: str) -> None:
        raise StoreDenied("read-only; ask for write access")

    backend.before = deny
    for verb in ("acquire", "try_acquire"):
        with pytest.raises(PermissionError):
            hands.hand()(verb, lock_on(store_on(backend)))


@pytest.mark.parametrize("where", ["read", "swap", "watch"])
def test_backend_that_breaks_its_contract(hands: Hands, where: str, caplog: pytest.LogCaptureFixture) -> None:
    """An exception that no backend may raise is logged, and treated as an answer that did not come."""
    backend = Stubborn("zookeeper")
    store = store_on(backend)
    held = lock_on(another_process(store)).acquire() if where == "watch" else None
    broken = [True]

    def fault(kind: str, name: str) -> None:
        if kind == where and broken:
            raise IndexError("a fault of the backend")

    backend.before = fault
    waiting = hands.hand().begin("acquire", lock_on(store, ttl=SHORT))
    until(lambda: "a fault of the backend" in caplog.text)
    broken.clear()
    if held is not None:
        held.release()
    lease = waiting.result(PATIENCE)
    assert lease.held
    lease.release()


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("kind", ["memory", "zookeeper"])
def test_ctrl_c_in_the_middle_of_a_swap(applied: bool, kind: str) -> None:
    """S26: Ctrl-C while the store is asked is raised at once, and the lock is free within a ttl."""
    backend = Stubborn(kind)
    store = store_on(backend)
    struck: list[bool] = []

    def strike(*_: Any) -> Any:
        if not struck:
            struck.append(True)
            raise KeyboardInterrupt
        return _[1]

    if applied:
        backend.after = lambda kind, outcome: strike(kind, outcome) if kind == "swap" else outcome
    else:
        backend.before = lambda kind, name: strike(kind, name) if kind == "swap" else None
    with pytest.raises(KeyboardInterrupt):
        lock_on(store, ttl=SHORT).acquire()
    lock_on(store, ttl=SHORT).acquire(timeout=3 * SHORT).release()
    until(lambda: leftovers(store) == [])


@pytest.mark.parametrize("handling", [False, True])
def test_ctrl_c_that_a_library_hides(handling: bool, caplog: pytest.LogCaptureFixture) -> None:
    """S26: what cleaning up after a Ctrl-C raises does not take its place; an earlier one is over."""
    backend = Stubborn()

    def hide(kind: str, name: str) -> None:
        backend.before = lambda kind, name: None
        try:
            if not handling:
                raise KeyboardInterrupt
        finally:
            raise RuntimeError("cannot release un-acquired lock")

    backend.before = hide
    lock = lock_on(store_on(backend), ttl=SHORT)
    if not handling:
        with pytest.raises(KeyboardInterrupt):
            lock.acquire()
        assert "the backend failed" not in caplog.text
    else:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            lock.acquire(timeout=5).release()
        assert "the backend failed" in caplog.text


@every_store
def test_answer_lost_on_the_way_is_recognised(site: Site, hands: Hands) -> None:
    """S19: the acquiring swap is applied and its reply is lost; the claim recognises its own record."""
    backend = site.stubborn()
    lost: list[bool] = []

    def lose(kind: str, outcome: Any) -> Any:
        if kind == "swap" and not lost:
            lost.append(True)
            return Unknown(TimeoutError("reset by peer"))
        return outcome

    backend.after = lose
    store = site.store(backend)
    lease = hands.hand()("acquire", lock_on(store, ttl=2.5 * site.short), timeout=5)
    assert lease.held and len([call for call in backend.calls if call[0] == "swap"]) == 1
    lease.release()


@every_store
def test_losing_every_race_ends_with_winning_one(site: Site, hands: Hands) -> None:
    """Conflicts one after another are no error and no busy loop."""
    backend = site.stubborn()
    races: list[bool] = []

    def lose(kind: str, outcome: Any) -> Any:
        if kind == "swap" and len(races) < 5:
            races.append(True)
            backend.inner.swap(outcome.slot, None, 1)
            return Conflict(backend.inner.read("job", 1))
        return outcome

    backend.after = lose
    lease = hands.hand()("acquire", lock_on(site.store(backend)), timeout=5)
    assert lease.held
    lease.release()


# ---- as a decorator ------------------------------------------------------------------------------


@every_store
def test_decorated_function_runs_under_the_lock(site: Site) -> None:
    """Each call of a decorated function has the lock, and keeps name, arguments and result."""
    store = site.store()

    @lock_on(store)
    def double(number: int, *, plus: int = 0) -> int:
        """Twice."""
        assert store.status("job").held
        return 2 * number + plus

    assert double(3, plus=1) == 7
    assert (double.__name__, double.__doc__) == ("double", "Twice.")
    assert not store.status("job").held


@every_store
def test_decorated_coroutine_runs_under_the_lock(site: Site) -> None:
    """Tasks that call a decorated coroutine function have their turns one after the other."""
    store = site.store()
    inside: list[int] = []

    @lock_on(store)
    async def work(number: int) -> int:
        inside.append(number)
        assert store.status("job").held
        await asyncio.sleep(0.002)
        assert inside.pop() == number and not inside
        return number

    async def main() -> list[int]:
        return list(await asyncio.gather(*(work(number) for number in range(5))))

    assert asyncio.run(main()) == list(range(5))
    assert inspect.iscoroutinefunction(work)


def test_generator_functions_cannot_be_decorated() -> None:
    """Their bodies would run after the call, without the lock."""
    lock = lock_on(store_on())

    def numbers() -> Any:
        yield 1

    async def later() -> Any:
        yield 1

    for function in (numbers, later):
        with pytest.raises(ConfigurationError, match="would run without the lock"):
            lock(function)


# ---- what it is made of --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": -1}, "timeout=-1"),
        ({"timeout": "5"}, "timeout='5'"),
        ({"timeout": float("inf")}, "pass None to wait for ever"),
        ({"timeout": float("nan")}, "timeout=nan"),
        ({"timeout": True}, "timeout=True"),
        ({"ttl": 0}, "ttl=0"),
        ({"ttl": 0.2}, "below the"),
        ({"ttl": 5, "terms": Terms(6)}, "differ"),
        ({"holder": ""}, "holder"),
        ({"holder": "a\nb"}, "unprintable"),
        ({"metadata": {"a": 1}}, "not text"),
        ({"on_lost": "ignore"}, "on_lost"),
        ({"store": 5}, "store"),
        ({"store": "nothing:"}, "known schemes"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], message: str) -> None:
    """What cannot work is refused when the lock is made, and the error says what is wrong."""
    backend = memory()
    backend.traits = Stubborn("etcd").inner.traits
    object.__setattr__(backend.traits, "least_ttl", 1.0)
    make: Any = Lock
    with pytest.raises(ConfigurationError) as raised:
        make("job", **{"store": store_on(backend), **options})
    assert message in str(raised.value)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 257, "\ud800", 5])
def test_names_that_no_store_can_carry(name: Any) -> None:
    """A name is refused when the lock is made."""
    with pytest.raises(ConfigurationError):
        Lock(name, store="memory:")


def test_timeout_of_the_call_is_checked(hands: Hands) -> None:
    """A timeout that cannot work is refused before anything is sent."""
    backend = Stubborn()
    with pytest.raises(ConfigurationError):
        hands.hand()("acquire", lock_on(store_on(backend)), timeout=-1)
    assert backend.calls == []


@every_store
def test_holder_and_metadata_are_shown(site: Site, hands: Hands) -> None:
    """Observers see who holds, since when, for how long, and what the holder wants to show."""
    store = site.store()
    lease = hands.hand()("acquire", lock_on(store, holder="web-3", metadata={"job": "7"}, ttl=9))
    seen = store.status("job")
    assert (seen.holder, seen.metadata, seen.ttl, seen.token) == ("web-3", {"job": "7"}, 9.0, lease.token)
    assert (lease.name, lease.holder, lease.metadata) == ("job", "web-3", {"job": "7"})
    lease.release()


@every_store
def test_equal_holder_names_are_two_holders(site: Site, hands: Hands) -> None:
    """S43: two processes of one holder name keep one another out."""
    store = site.store()
    lease = hands.hand()("acquire", lock_on(store, holder="same"))
    assert hands.hand()("try_acquire", lock_on(site.another(store), holder="same")) is None
    lease.release()


def test_lock_is_not_carried_to_another_process() -> None:
    """Pickling and copying are refused with the next step."""
    lock = Lock("job", store="memory:")
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match='make Lock\\("job"\\) anew'):
            attempt(lock)


def test_repr_shows_no_secrets() -> None:
    """The password in a URL appears in no repr, and in no error message."""
    url = "nothing://user:se@cret@host/app?password=secret"
    with pytest.raises(ConfigurationError) as raised:
        Lock("job", store=url)
    assert "cret" not in str(raised.value)
    with pytest.raises(ConfigurationError) as raised:
        Lock("job", store=url.partition(":")[2])
    assert "cret" not in str(raised.value)
    store = store_on()
    store.hub.url = "memory://user:secret@host"
    lock = lock_on(store)
    with lock as lease:
        for thing in (lock, lease, lease.lost, store, lease._tenure, store.hub):
            assert "secret" not in repr(thing)
    assert (
        '"job"' in repr(lock)
        and "memory:" in repr(lock)
        and "not connected yet" in repr(Lock("job", store="memory:"))
    )


@every_store
def test_locks_made_by_url_share_a_connection(site: Site) -> None:
    """Two locks with one URL are two threads of one process to the store; another URL is another store."""
    one, two = Lock("job", store=site.url), Lock("job", store=site.url)
    with one:
        assert two.try_acquire() is None
        assert Lock("job", store=fresh_url()).try_acquire() is not None
    assert one._hub is two._hub


@every_store
def test_default_store_is_the_environments(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `store`, the lock is on `$LEASES_URL`, as it is when the lock is first acquired."""
    lock = Lock("job")
    monkeypatch.setenv("LEASES_URL", site.url)
    with lock:
        assert Lock("job", store=site.url).try_acquire() is None
