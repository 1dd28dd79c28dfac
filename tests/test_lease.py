"""`Lease`, in both colours: whether it stands, when it ends and why, and who is told."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import pickle
import threading
import time
from typing import Any

import pytest

from hands import PATIENCE, Hands
from leases import AcquireTimeout, ConfigurationError, Lease, LeaseLost, Lock, Store
from leases.contract import Unknown
from leases.keeper import Keeper
from leases.testing.clock import ManualClock
from stores import Site, every_store
from stubborn import (
    SHORT,
    Stubborn,
    break_,
    intrude,
    leftovers,
    look,
    memory,
    store_on,
    until,
)

TTL = 15.0
V = 11.25  # of such a ttl, and it is renewed after 5 s, and overdue 2.8125 s later


def lease_on(store: Store, **options: Any) -> Lease:
    return Lock("job", store=store, **options).acquire()


# ---- the clock -----------------------------------------------------------------------------------


def test_held_reads_the_clock() -> None:
    """Past the deadline the lease does not stand, though nobody looked at it in between."""
    clock = ManualClock()
    store = store_on(clock=clock)
    before = clock().hold
    lease = lease_on(store, ttl=TTL)
    assert lease.held and not lease.lost
    assert lease.deadline == before + V and lease.remaining == V
    clock.advance(V - 0.001)
    assert lease.held and lease.remaining == pytest.approx(0.001, abs=1e-6)
    lease.check()
    clock.advance(0.001)
    assert not lease.held and lease.lost and lease.remaining == 0.0
    with pytest.raises(LeaseLost) as raised:
        lease.check()
    assert (raised.value.reason, raised.value.at) == ("expired", lease.deadline)
    assert (raised.value.name, raised.value.token) == ("job", lease.token)
    assert (lease.lost.reason, lease.lost.at) == ("expired", lease.deadline)


def test_suspended_host_counts() -> None:
    """S10: time during which the host slept counts for the holder."""
    clock = ManualClock()
    lease = lease_on(store_on(clock=clock), ttl=TTL)
    clock.suspend(V)
    assert not lease.held


def test_wall_clock_does_not_count() -> None:
    """S7: setting the wall clock changes nothing."""
    clock = ManualClock()
    lease = lease_on(store_on(clock=clock), ttl=TTL)
    for seconds in (-86400.0 * 366, 86400.0 * 366):
        clock.step_wall(seconds)
        assert lease.held and lease.remaining == V


def test_jeopardy_is_an_overdue_renewal() -> None:
    """A lease whose renewal is overdue stands, in jeopardy, until its deadline."""
    clock = ManualClock()
    lease = lease_on(store_on(clock=clock), ttl=TTL)
    clock.advance(7.8)
    assert lease.held and not lease.jeopardy
    clock.advance(0.02)
    assert lease.held and lease.jeopardy
    clock.advance(V)
    assert not lease.held and not lease.jeopardy


@every_store
def test_renewal_moves_the_deadline_and_keeps_the_token(site: Site) -> None:
    """S23: a lease is renewed in the background, from the send on; its token and its claim stay."""
    backend = site.stubborn()
    store = site.store(backend)
    lease = lease_on(store, ttl=site.short)
    first, claim = lease.deadline, store.status("job").claim
    until(lambda: lease.deadline > first + site.short)
    assert lease.held and (store.status("job").token, store.status("job").claim) == (lease.token, claim)
    beats = [claim.beat for _, _, claim in backend.calls if claim is not None]
    assert len(set(beats)) == len(beats) > 3
    lease.release()


@every_store
def test_late_answer_counts_from_its_send(site: Site) -> None:
    """S4: an answer that comes late gives the lease no more time than one that comes at once."""
    clock = ManualClock()
    backend = site.stubborn()

    def late(kind: str, outcome: Any) -> Any:
        clock.advance(2.0 if kind == "swap" else 0.0)
        return outcome

    backend.after = late
    sent = clock().hold
    assert lease_on(site.store(backend, clock=clock), ttl=TTL).deadline == sent + V


@every_store
def test_answer_after_the_deadline_is_no_success(site: Site, hands: Hands) -> None:
    """S3: an acquisition whose answer comes after its own deadline is not reported; the next attempt is."""
    clock = ManualClock()
    backend = site.stubborn()
    late = [True]

    def stall(kind: str, outcome: Any) -> Any:
        if kind == "swap" and late:
            late.clear()
            clock.advance(TTL)
        return outcome

    backend.after = stall
    store = site.store(backend, clock=clock)
    lease = hands.hand()("acquire", Lock("job", store=store, ttl=TTL))
    assert lease.held and lease.remaining == V
    swaps = [call for call in backend.calls if call[0] == "swap"]
    assert len(swaps) == 2 and lease.token == store.status("job").token
    lease.release()


# ---- why it ends ---------------------------------------------------------------------------------


@every_store
def test_another_claim_supersedes(site: Site, hands: Hands) -> None:
    """S42: who finds another's claim in the record is lost at once, long before its deadline."""
    store = site.store()
    lease = lease_on(store, ttl=2.5 * site.short)
    waiting = hands.hand().wait(lease)
    intrude(store, "job")
    assert waiting.result(PATIENCE)
    assert lease.lost.reason == "superseded"
    at = lease.lost.at
    assert at is not None and at < lease.deadline
    before = site.backend().read("job", 1)
    lease.release()
    assert site.backend().read("job", 1) == before
    assert lease.lost.reason == "superseded" and lease.lost.at == at


@pytest.mark.waits
@every_store
@pytest.mark.parametrize("now", [False, True])
def test_somebody_breaks_it(site: Site, hands: Hands, now: bool) -> None:
    """S75: who finds its record broken or gone is lost at once."""
    store = site.store()
    lease = lease_on(store, ttl=2.5 * site.short)
    waiting = hands.hand().wait(lease)
    break_(store, "job", now=now)
    assert waiting.result(PATIENCE)
    assert lease.lost.reason == "broken" and not lease.held
    lease.release()
    assert store.status("job").held is not now
    assert leftovers(store) == []


def test_store_that_hangs_ends_it_in_time(hands: Hands) -> None:
    """S41: no hanging call delays the loss."""
    backend = Stubborn()
    lease = lease_on(store_on(backend), ttl=SHORT)
    backend.gate.clear()
    assert hands.hand().wait(lease, 5).result(PATIENCE)
    assert lease.lost.reason == "expired"
    backend.gate.set()
    lease.release()


def test_store_that_hangs_ends_no_other(hands: Hands) -> None:
    """S41: leases on other stores are renewed while one store hangs, however many leases that one has."""
    backend = Stubborn()
    hanging = store_on(backend)
    stuck = [Lock(f"job-{number}", store=hanging, ttl=SHORT).acquire() for number in range(12)]
    other = lease_on(store_on(), ttl=SHORT)
    first = other.deadline
    backend.gate.clear()
    try:
        until(lambda: all(lease.lost for lease in stuck))
        until(lambda: other.deadline > first + 2 * SHORT)
        assert other.held
    finally:
        backend.gate.set()
    for lease in stuck:
        lease.release()
    other.release()


@every_store
def test_closing_the_store_ends_it(site: Site, hands: Hands) -> None:
    """Who closes the store loses the lease, and its record is left to expire."""
    store = site.store()
    other = site.another(store)
    lease = lease_on(store)
    waiting = hands.hand().wait(lease)
    store.close()
    assert waiting.result(PATIENCE)
    assert lease.lost.reason == "closed" and not lease.held
    assert other.status("job").claim is not None
    lease.release()
    assert other.status("job").held


@every_store
def test_release_ends_it(site: Site, hands: Hands) -> None:
    """A released lease says so, and since when; closing the store afterwards changes nothing of that."""
    clock = ManualClock()
    store = site.store(clock=clock)
    lease = lease_on(store)
    waiting = hands.hand().wait(lease)
    at = clock().hold
    lease.release()
    assert waiting.result(PATIENCE)
    clock.advance(100)
    store.close()
    assert (lease.lost.reason, lease.lost.at) == ("released", at)
    with pytest.raises(LeaseLost, match="it was released; acquire anew"):
        lease.check()


@every_store
@pytest.mark.parametrize("ended", ["released", "superseded"])
def test_no_body_begins_under_a_lease_that_has_ended(site: Site, hands: Hands, ended: str) -> None:
    """`with lease:` after its end raises the loss at once, and leaves nothing behind."""
    store = site.store()
    lease = lease_on(store)
    if ended == "released":
        lease.release()
    else:
        intrude(store, "job")
        with pytest.raises(LeaseLost):
            lease.update({"a": "1"})
    with pytest.raises(LeaseLost, match=ended):
        hands.hand()("enter", lease)
    until(lambda: leftovers(store) == [])


@every_store
def test_handed_over_lease_is_released(site: Site, hands: Hands) -> None:
    """Who passes the lock to the next thread has released it; the next one's lease is another."""
    store = site.store()
    lease = lease_on(store)
    waiting = hands.hand().begin("acquire", Lock("job", store=store))
    until(lambda: store.hub.waiters("job"))
    lease.release()
    following = waiting.result(PATIENCE)
    assert lease.lost.reason == "released" and not following.lost
    lease.release()
    assert following.held
    following.release()


@every_store
def test_never_held_again(site: Site) -> None:
    """A lost lease stays lost, whatever the store says, and whatever comes late."""
    clock = ManualClock()
    backend = site.stubborn()
    store = site.store(backend, clock=clock)
    lease = lease_on(store, ttl=TTL)
    held = threading.Event()

    def stall(kind: str, name: str) -> None:
        held.set()
        gate.wait()

    gate = threading.Event()
    backend.before = stall
    updating = threading.Thread(target=swallow, args=(lambda: lease.update({"a": "1"}),))
    updating.start()
    held.wait(PATIENCE)
    clock.advance(TTL)
    look(store)
    gate.set()  # The renewal lands now, and the store takes it.
    updating.join(PATIENCE)
    until(lambda: store.status("job").metadata == {"a": "1"})
    assert not lease.held and lease.lost.reason == "expired"
    lease.release()  # S69: it is freed once the work has stopped.
    until(lambda: not store.status("job").held)


def swallow(call: Any) -> None:
    with contextlib.suppress(LeaseLost):
        call()


# ---- being told ----------------------------------------------------------------------------------


def test_wait_for_a_loss_that_does_not_come(hands: Hands) -> None:
    """Waiting ends with its timeout, and says that the lease stands."""
    lease = lease_on(store_on())
    hand = hands.hand()
    assert hand.wait(lease, 0.05).result(PATIENCE) is False
    assert hand.wait(lease, 0).result(PATIENCE) is False
    assert lease._bells == []
    lease.release()
    assert hand.wait(lease).result(PATIENCE) is True


def test_wait_needs_no_keeper(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 4, S37: who waits for the loss wakes at the deadline though nobody keeps the lease."""
    monkeypatch.setattr(Keeper, "keep", lambda self, kept, delay: True)
    lease = lease_on(store_on(), ttl=SHORT)
    deadline = lease.deadline
    began = time.monotonic()
    assert hands.hand().wait(lease).result(PATIENCE)
    assert 0.5 * SHORT < time.monotonic() - began < 5
    assert lease.lost.reason == "expired" and lease.deadline == deadline


@every_store
def test_loss_can_be_awaited(site: Site) -> None:
    """`await lease.lost` waits for the end."""

    async def main() -> bool:
        lease = await Lock("job", store=site.store()).acquire_async()
        asyncio.get_running_loop().call_later(0.02, lambda: asyncio.ensure_future(lease.release_async()))
        return await lease.lost

    assert asyncio.run(main()) is True


def test_waiting_for_a_loss_can_be_cancelled() -> None:
    """A cancelled wait leaves no bell behind."""

    async def main() -> None:
        lease = await Lock("job", store=store_on()).acquire_async()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await lease.lost
        assert lease._bells == [] and lease.held
        await lease.release_async()

    asyncio.run(main())


def test_on_lost_is_called_once() -> None:
    """S55: the callback gets the lease and the loss, once, by the deadline, and not again at the release."""
    calls: list[tuple[Lease, LeaseLost, bool]] = []
    backend = Stubborn()
    store = store_on(backend)
    lease = lease_on(store, ttl=SHORT, on_lost=lambda lease, loss: calls.append((lease, loss, lease.held)))
    backend.gate.clear()
    until(lambda: calls)
    backend.gate.set()
    lease.release()
    store.close()
    time.sleep(0.05)
    assert [(call[0] is lease, call[1].reason, call[2]) for call in calls] == [(True, "expired", False)]


def test_on_lost_is_not_called_for_a_release(hands: Hands) -> None:
    """A release is no loss, even one that comes after the deadline that nobody had noticed."""
    calls: list[object] = []
    clock = ManualClock()
    store = store_on(clock=clock)
    hand = hands.hand()
    lock = Lock("job", store=store, on_lost=lambda *call: calls.append(call))
    hand("acquire", lock).release()
    late = hand("acquire", lock)
    clock.advance(100)
    hand("release", late)
    time.sleep(0.05)
    assert calls == []


def test_on_lost_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """What the callback raises is logged; other leases are renewed, and the queue goes on."""
    store = store_on()

    def fail(lease: Lease, loss: LeaseLost) -> None:
        raise KeyError("a fault of the callback")

    lease = lease_on(store, ttl=1.0, on_lost=fail)
    other = Lock("other", store=store, ttl=SHORT).acquire()
    intrude(store, "job")
    until(lambda: "a fault of the callback" in caplog.text)
    first = other.deadline
    until(lambda: other.deadline > first)
    lease.release()
    other.release()


def test_on_lost_that_takes_long_delays_nobody() -> None:
    """The callback has a thread of its own, and everybody else goes on."""
    store = store_on()
    gate = threading.Event()
    lease = lease_on(store, ttl=1.0, on_lost=lambda lease, loss: gate.wait())
    other = Lock("other", store=store, ttl=SHORT).acquire()
    intrude(store, "job")
    assert lease.lost.wait(5)
    first = other.deadline
    until(lambda: other.deadline > first + SHORT)
    gate.set()
    lease.release()
    other.release()


@every_store
def test_loss_lets_the_queue_go_on(site: Site, hands: Hands) -> None:
    """Who waits in this process seeks for itself once the one before it has lost the lock."""
    store = site.store()
    lost = lease_on(store, ttl=2.5 * site.short)
    waiting = hands.hand().begin("acquire", Lock("job", store=store, ttl=site.short))
    until(lambda: store.hub.waiters("job"))
    break_(store, "job", now=True)
    following = waiting.result(PATIENCE)
    assert following.held and not lost.held
    lost.release()
    assert following.held and store.status("job").claim == following._tenure.machine.claim_id
    following.release()
    assert leftovers(store) == []


# ---- metadata ------------------------------------------------------------------------------------


@every_store
def test_update_is_committed(site: Site, hands: Hands) -> None:
    """New metadata is in the store when `update` returns, and the lease is renewed by it."""
    clock = ManualClock()
    store = site.store(clock=clock)
    lease = lease_on(store, metadata={"step": "1"})
    first = lease.deadline
    clock.advance(1)
    hands.hand()("update", lease, {"step": "2"})
    assert store.status("job").metadata == {"step": "2"} == lease.metadata
    assert lease.deadline == first + 1 and store.status("job").token == lease.token
    lease.release()


def test_metadata_is_a_copy(hands: Hands) -> None:
    """Changing what was passed, or what was read, changes nothing."""
    mine = {"step": "1"}
    lease = lease_on(store_on(), metadata=mine)
    mine["step"] = "2"
    lease.metadata["step"] = "3"
    assert lease.metadata == {"step": "1"}
    hands.hand()("update", lease, mine)
    mine["step"] = "4"
    assert lease.metadata == {"step": "2"}
    lease.release()


@every_store
def test_metadata_update_races_renewal(site: Site, hands: Hands) -> None:
    """S72: an update waits for the renewal in flight, and what was asked for last is what stands there."""
    backend = site.stubborn()
    store = site.store(backend)
    lease = lease_on(store, ttl=5 * site.short)
    started, gate = threading.Event(), threading.Event()

    def stall(kind: str, name: str) -> None:
        started.set()
        gate.wait()

    backend.before = stall
    one, two = hands.hand(), hands.hand()
    first = one.begin("update", lease, {"step": "1"})
    started.wait(PATIENCE)
    second = two.begin("update", lease, {"step": "2"})
    time.sleep(0.02)
    assert not first.done() and not second.done()
    gate.set()
    first.result(PATIENCE)
    second.result(PATIENCE)
    assert store.status("job").metadata == {"step": "2"}
    lease.release()


@every_store
def test_update_that_does_not_get_through(site: Site, hands: Hands) -> None:
    """An update ends with its timeout, or with the lease."""
    backend = site.stubborn()
    lease = lease_on(site.store(backend), ttl=site.short)
    backend.down = True
    hand = hands.hand()
    with pytest.raises(TimeoutError, match=r"not committed within 0\.05 s"):
        hand("update", lease, {"a": "1"}, timeout=0.05)
    with pytest.raises(LeaseLost, match="expired"):
        hand("update", lease, {"a": "1"})
    with pytest.raises(LeaseLost, match="expired"):
        hand("update", lease, {"a": "2"})
    assert lease._bells == []
    lease.release()


@every_store
def test_update_of_a_lease_that_another_took(site: Site, hands: Hands) -> None:
    """An update that meets another's record ends with the loss, and is not taken for committed."""
    store = site.store()
    lease = lease_on(store)
    intrude(store, "job")
    with pytest.raises(LeaseLost, match="superseded"):
        hands.hand()("update", lease, {"a": "1"})
    lease.release()


@pytest.mark.parametrize("metadata", [{"a": 1}, {"a": "x" * 4000}, {"a": "\ud800"}])
def test_update_is_checked_first(hands: Hands, metadata: Any) -> None:
    """Metadata that no record can carry is refused, and the lease is as it was."""
    store = store_on()
    lease = lease_on(store, metadata={"a": "0"})
    with pytest.raises(ConfigurationError):
        hands.hand()("update", lease, metadata)
    assert lease.metadata == {"a": "0"} and lease.held
    lease.release()


@pytest.mark.parametrize("timeout", [-1, "5", float("nan")])
def test_timeouts_of_a_lease_are_checked(hands: Hands, timeout: Any) -> None:
    """A timeout that cannot work is refused by `update` and by `lost.wait`, as by `acquire`."""
    lease = lease_on(store_on())
    hand = hands.hand()
    with pytest.raises(ConfigurationError, match="timeout="):
        hand("update", lease, {}, timeout=timeout)
    with pytest.raises(ConfigurationError, match="timeout="):
        hand.wait(lease, timeout).result(PATIENCE)
    lease.release()


# ---- as a value ----------------------------------------------------------------------------------


@every_store
def test_lease_is_a_context_manager(site: Site, hands: Hands) -> None:
    """`with lock.acquire(timeout=1) as lease:` releases at the end, and raises its loss."""
    clock = ManualClock()
    store = site.store(clock=clock)
    hand = hands.hand()
    lease = hand("acquire", Lock("job", store=store))
    assert hand("enter", lease) is lease
    hand("exit", lease, None, None, None)
    assert not lease.held and leftovers(store) == []
    lease = hand("acquire", Lock("job", store=store))
    hand("enter", lease)
    clock.advance(100)
    with pytest.raises(LeaseLost):
        hand("exit", lease, None, None, None)
    error = KeyError("mine")
    lease = hand("acquire", Lock("job", store=store))
    clock.advance(100)
    assert not hand("exit", lease, KeyError, error, None) and "is lost (expired)" in error.__notes__[0]


def test_lease_is_not_carried_to_another_process() -> None:
    """Pickling and copying are refused with the next step; the loss is refused with it."""
    lease = lease_on(store_on())
    for thing in (lease, lease.lost):
        for attempt in (pickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError, match=r"pass lease\.token"):
                attempt(thing)
    lease.release()


def test_errors_can_be_pickled() -> None:
    """The errors go from one process to another with all their facts."""
    for error in (
        LeaseLost("job", "expired", 5.0, 7),
        AcquireTimeout("job", 1.0, "web-3", 4.0),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), vars(again)) == (str(error), vars(error))


def test_repr_tells_what_is_so() -> None:
    """A lease shows its name, token and state."""
    lease = lease_on(store_on(memory()), ttl=TTL)
    assert repr(lease) == f'<Lease "job" token={lease.token} held for another 11.2 s>'
    assert repr(lease.lost) == "<Loss not yet>"
    lease.release()
    assert repr(lease) == f'<Lease "job" token={lease.token} released>'
    assert repr(lease.lost) == "<Loss released>"


@every_store
def test_unknown_renewal_counts_when_it_is_seen(site: Site) -> None:
    """S23: renewals whose answers are lost count once a witness shows them, from their own send."""
    backend = site.stubborn()
    store = site.store(backend)
    lease = lease_on(store, ttl=3 * site.short)
    lost: list[bool] = []

    def lose(kind: str, outcome: Any) -> Any:
        if kind == "swap" and len(lost) < 2:
            lost.append(True)
            return Unknown(TimeoutError("lost on the wire"))
        return outcome

    backend.after = lose
    first = lease.deadline
    until(lambda: len(lost) == 2)
    until(lambda: lease.deadline > first)
    assert lease.held
    lease.release()
