"""The machine, driven by hand: one fault, one schedule, one fact.

A number is that of the named fault; the simulator's scenarios put the same faults into whole processes.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

import side
from leases.clock import Instant
from leases.contract import Applied, Conflict, Refused, Unknown
from leases.errors import ConfigurationError, RecordRefused, StoreDenied
from leases.events import Read
from leases.record import Claim, encode
from leases.terms import Terms
from leases.testing.cells import Cells, Kind
from side import NAME, TERMS, TTL, Side, read, swap

V = TERMS.hold
RENEW = TERMS.renew
ATTEMPT = TERMS.attempt
DELETING = pytest.mark.parametrize("kind", [Kind.ETCD, Kind.CONSUL], ids=lambda kind: kind.value)
LEAVING = pytest.mark.parametrize("kind", [Kind.ZOOKEEPER, Kind.KUBERNETES], ids=lambda kind: kind.value)
EVERY = pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)


def standing(store: Cells) -> Claim | None:
    """The record in the store."""
    return store.peek(NAME).claim


def renewal_of(a: Side) -> Any:
    """Wait until a renewal is due, and take it in hand."""
    a.passes(RENEW)
    return swap(a.look())


# ---- acquiring ---------------------------------------------------------------------------------------


@DELETING
def test_a_free_lock_takes_one_round_trip_where_release_deletes(kind: Kind) -> None:
    """The first request is a create; nothing is read before."""
    a = Side(Cells(kind))
    request = swap(a.start())
    assert a.tell(request, a.land(request)) == [] and a.phase == "granted"


@EVERY
def test_success_is_what_confirm_says(kind: Kind) -> None:
    """Granted is not held: only the last look at the clock makes it so."""
    a = Side(Cells(kind))
    a.start()
    a.settle()
    assert a.told[-1] == "Granted" and not a.held
    assert a.confirm() and a.held
    assert not a.confirm(), "a success is reported once"


@EVERY
def test_s3_reply_read_after_expiry(kind: Kind) -> None:
    """A reply that is read when V has passed since the send is no success; a new claim seeks on."""
    a = Side(Cells(kind))
    a.start()
    while isinstance(a.todo[0], Read):
        a.tell(a.todo[0], a.land(a.todo[0]))
    request, first = swap(a.todo), a.machine.claim_id
    reply = a.land(request)
    a.passes(V)
    a.tell(request, reply)
    assert "Granted" not in a.told and a.machine.claim_id != first
    a.settle()
    assert a.told[-1] == "Granted" and a.confirm()
    claim = standing(a.store)
    assert claim is not None and claim.id == a.machine.claim_id


def test_s74_a_grant_that_outlived_its_deadline_is_no_success() -> None:
    """Sealing took as long as the lease lasts: no success, and whatever stands is this process's own."""
    a = Side(Cells(Kind.ETCD))
    a.start()
    a.settle()
    a.passes(V)
    assert not a.confirm() and not a.held and a.phase == "seeking"
    a.settle()
    assert a.confirm()


@DELETING
def test_s19_the_reply_of_an_acquire_is_lost(kind: Kind) -> None:
    """The record that a read shows is recognised by its beat, and counts from the send of that attempt."""
    a = Side(Cells(kind))
    sent, request = a.hold, swap(a.start())
    a.land(request)
    a.passes(ATTEMPT)
    a.look()
    a.passes(0.2)
    a.settle()
    assert a.confirm() and a.machine.deadline == sent + V


@DELETING
def test_time_of_acquisition_is_that_of_the_claim(kind: Kind) -> None:
    """Found late or not, it was acquired when it was sent; no renewal shows another time for it."""
    a = Side(Cells(kind))
    request = swap(a.start())
    a.land(request)
    first = standing(a.store)
    a.passes(ATTEMPT)
    a.look()
    a.passes(0.2)
    a.settle()
    assert a.confirm()
    renewal = renewal_of(a)
    a.tell(renewal, a.land(renewal))
    renewed = standing(a.store)
    assert first is not None and renewed is not None and renewed.beat != first.beat
    assert renewed.acquired == first.acquired


@DELETING
def test_s21_the_transport_sends_a_swap_again(kind: Kind) -> None:
    """The first copy wins, the second conflicts, and its conflict shows a record that is ours."""
    a = Side(Cells(kind))
    request = swap(a.start())
    a.land(request)
    a.tell(request, a.land(request))
    assert a.confirm()


def test_a_failure_that_may_have_landed_is_found_and_freed() -> None:
    """Given up while nobody knows, a claim is chased: the write lands late, and is freed where it is met."""
    a = Side(Cells(Kind.ETCD))
    request = swap(a.start())
    a.tell(request, Unknown())
    a.machine.abandon(a.now)
    a.look()
    a.todo.clear()
    a.land(request)
    assert standing(a.store) is not None
    a.live(2.0)
    assert standing(a.store) is None and a.phase == "done"


def test_a_request_that_was_surely_not_executed_needs_no_chase() -> None:
    """A void Unknown leaves nothing to find out."""
    a = Side(Cells(Kind.ETCD))
    request = swap(a.start())
    a.tell(request, Unknown(void=True))
    a.machine.abandon(a.now)
    assert a.look() == [] and a.phase == "done"


@EVERY
def test_s58_every_send_has_a_beat_of_its_own(kind: Kind) -> None:
    """Retries too: whoever compares two sends sees two."""
    a = Side(Cells(kind))
    a.acquire()
    beats: set[str] = set()
    sent = 0
    for _ in range(4 * 8):
        a.passes(ATTEMPT / 4)
        for request in a.look():
            claim = swap([request]).claim
            assert claim is not None
            beats, sent = beats | {claim.beat}, sent + 1
        a.todo.clear()
    assert len(beats) == sent > 1


# ---- waiting -----------------------------------------------------------------------------------------


def waits_out(
    kind: Kind, *, ttl: float = TTL, own: float = TTL, before: float = 0.0
) -> tuple[Side, Side, Any]:
    """A dead holder, and a waiter that has seen its record after so many seconds: both, and the takeover."""
    store = Cells(kind)
    a, b = Side(store, "a", Terms(ttl)), Side(store, "b", Terms(own))
    a.acquire()
    a.passes(before)
    b.passes(before)
    b.start()
    b.settle()
    return a, b, store


NETWORKED = pytest.mark.parametrize(
    "kind", [k for k in Kind if not k.rules.traits.local], ids=lambda kind: kind.value
)


@NETWORKED
@pytest.mark.parametrize(("ttl", "own"), [(8.0, 8.0), (8.0, 2.0), (2.0, 8.0)])
def test_s46_a_waiter_waits_the_ttl_of_the_record(kind: Kind, ttl: float, own: float) -> None:
    """Not its own; and not from when the record was written, but from when it was first seen."""
    _, b, _ = waits_out(kind, ttl=ttl, own=own, before=1.0)
    b.live(ttl - 0.25)
    assert b.phase == "seeking"
    b.live(0.5)
    assert b.phase == "granted"


@NETWORKED
def test_observation_counts_from_after_the_reply(kind: Kind) -> None:
    """A read that was under way for a second saw nothing before its reply was in hand."""
    store = Cells(kind)
    a, b = Side(store, "a"), Side(store, "b")
    a.acquire()
    b.start()
    request = b.todo[0]
    reply = b.land(request)
    b.passes(1.0)
    b.tell(request, reply)
    b.settle()
    b.live(TTL - 0.25)
    assert b.phase == "seeking"
    b.live(0.5)
    assert b.phase == "granted"


@pytest.mark.parametrize("step", [3600.0, -3600.0, 3.2e7, -3.2e7])
def test_s7_wall_clocks_decide_nothing(step: float) -> None:
    """The wall clock of a waiter or a holder may jump by an hour or a year."""
    a, b, _ = waits_out(Kind.ETCD)
    b.wall += step
    a.wall -= step
    b.settle()
    assert b.phase == "seeking" and a.held
    b.live(TTL)
    assert b.phase == "granted"


@pytest.mark.parametrize("rate", [0.0, 0.1, 1 / 3])
def test_s8_rate_corners(rate: float) -> None:
    """The slowest holder has stopped when the fastest waiter may begin, and not long before."""
    terms = Terms(6.0, rate=rate, guard=0, hold=6.0 * (1 - rate) / (1 + rate), renew=1, attempt=1)
    store = Cells(Kind.ETCD)
    a, b = Side(store, "a", terms), Side(store, "b", terms)
    a.acquire()
    b.start()
    b.settle()
    real = 6.0 / (1 + rate) * (1 - 1e-9)  # seconds until the fast clock has counted the ttl, but for a hair
    a.passes(real * (1 - rate))
    b.passes(real * (1 + rate))
    b.settle()
    assert a.held and b.phase == "seeking"
    a.passes(1e-7)
    b.passes(1e-7)
    b.settle()
    assert not a.held and b.phase == "granted"


def test_s10_the_holder_counts_the_sleep_of_its_host() -> None:
    """Its first look at the clock after the host woke up tells that the lease is over."""
    a = Side(Cells(Kind.ETCD))
    a.acquire()
    a.passes(V, asleep=True)
    assert not a.held
    a.look()
    assert a.told[-1] == "Lost" and a.machine.lost.reason == "expired"


def test_s10_the_waiter_does_not_count_the_sleep_of_its_host() -> None:
    """It has not watched while it slept."""
    _, b, _ = waits_out(Kind.ETCD)
    b.passes(10 * TTL, asleep=True)
    b.settle()
    assert b.phase == "seeking"
    b.live(TTL)
    assert b.phase == "granted"


def test_s16_a_replica_that_shows_an_old_record_for_ever() -> None:
    """No takeover: the swap conflicts. And no storm: one try in a ttl, for a version never comes back."""
    store = Cells(Kind.KUBERNETES)
    a, b = Side(store, "a"), Side(store, "b")
    a.acquire()
    old = store.read(NAME)
    b.start()
    swaps = reads = 0
    for tick in range(8 * 32):
        a.live(0.125)
        b.passes(0.125)
        b.look()
        for _ in range(8):
            for request in list(b.todo):
                if isinstance(request, Read):
                    reads += 1
                    b.tell(request, old)
                else:
                    swaps += 1
                    b.land(request)
                    b.tell(request, Conflict(None))
        assert not b.todo, f"at {tick / 8} s it is busy for nothing"
    assert a.held and b.phase == "seeking"
    assert 1 <= swaps <= 4 and reads < 64


def test_s70_two_stale_replicas_alternate() -> None:
    """Reads that show the one and the other version in turn do not start the timer anew."""
    store = Cells(Kind.UNORDERED)
    a, b = Side(store, "a"), Side(store, "b")
    a.acquire()
    old = store.read(NAME)
    renewal = renewal_of(a)
    a.tell(renewal, a.land(renewal))
    new = store.read(NAME)
    b.start()
    turn = 0
    for turn in range(400):
        for request in list(b.todo):
            shown = (old, new)[turn % 2]
            b.tell(request, shown if isinstance(request, Read) else b.land(request))
        if b.phase == "granted":
            break
        b.passes(0.125)
        b.look()
    assert b.phase == "granted" and turn * 0.125 < 2 * TTL


@NETWORKED
def test_s14_watch_events_are_hints(kind: Kind) -> None:
    """Lost, doubled, late or replayed, they change when something happens, and not what."""
    store = Cells(kind)
    a, b = Side(store, "a"), Side(store, "b")
    past = [store.read(NAME)]
    a.acquire()
    past.append(store.read(NAME))
    b.start()
    b.settle()
    for _ in range(8):
        a.live(0.5, [b])
        past.append(store.read(NAME))
        for slot in (past[-1], past[0], past[1], None, past[-1]):
            a.hint(slot)
            a.settle()
            b.hint(slot)
            b.settle()
    assert a.held and b.phase == "seeking"


@LEAVING
def test_s25_a_record_made_anew_is_not_the_one_that_was_read(kind: Kind) -> None:
    """Versions may start again: a takeover of the one that was timed must not hit the new one."""
    a, b, store = waits_out(kind)
    store.remove(NAME)
    c = Side(store, "c")
    c.acquire()
    b.passes(TTL)
    for request in b.look():
        b.tell(request, b.land(request))
    claim = standing(store)
    assert claim is not None and claim.holder == "c"
    assert a.held and c.held, "what a stranger removes, the theorem does not cover"


@LEAVING
def test_a_held_record_that_vanished_is_waited_for(kind: Kind) -> None:
    """A ttl from the reply in which it was first missing; a free record that was seen before is not."""
    a, b, store = waits_out(kind)
    renewal = renewal_of(a)
    a.tell(renewal, a.land(renewal))
    b.passes(RENEW)
    b.todo.clear()
    store.remove(NAME)
    b.hint()
    b.settle()
    b.live(TTL - 0.25, [a])
    assert b.phase == "seeking" and not a.held
    b.live(0.5)
    assert b.phase == "granted"


def test_s44_a_process_that_comes_back_inherits_nothing() -> None:
    """The same holder's name is not the same claim: it waits like anybody."""
    store = Cells(Kind.ETCD)
    Side(store, "a").acquire()
    again = Side(store, "a", seed=2)
    again.start()
    again.settle()
    again.live(TTL - 0.25)
    assert again.phase == "seeking"


def test_s48_a_foreign_record_ends_the_acquire() -> None:
    """Nothing is written, and the error is told."""
    store = Cells(Kind.ETCD)
    a = Side(store)
    request = swap(a.start())
    a.tell(request, Refused(RecordRefused(NAME, "it is foreign", b"{}")))
    assert a.told == ["GaveUp"] and a.phase == "done"


BOOT = "11111111-2222-4333-8444-555555555555"


def test_instants_of_the_host_spare_the_observation() -> None:
    """Where the store is local, a newcomer takes over at the ttl of a dead holder, having watched nothing."""
    store = Cells(Kind.SQLITE)
    Side(store, "a", boot=BOOT).acquire()
    b = Side(store, "b", boot=BOOT, at=1000.0 + TTL)
    b.start()
    b.settle()
    assert b.phase == "granted"


@pytest.mark.parametrize(
    ("kind", "boot", "at"),
    [
        (Kind.ETCD, BOOT, TTL),  # virtual machines resumed from one snapshot share a boot's identity
        (Kind.SQLITE, BOOT[::-1], TTL),
        (Kind.SQLITE, None, TTL),
        (Kind.SQLITE, BOOT, -1e-3),
    ],
    ids=["not local", "another boot", "no boot", "the future"],
)
def test_instants_that_say_nothing(kind: Kind, boot: str | None, at: float) -> None:
    """On a network, of another or no boot, or from the future: a full ttl is watched."""
    store = Cells(kind)
    a = Side(store, "a", boot=BOOT)
    a.acquire()
    renewal = renewal_of(a)
    stamped = replace(renewal.claim, boot=BOOT, sent=1000.0)
    store.swap(renewal.seen, stamped)
    b = Side(store, "b", boot=boot, at=1000.0 + at)
    b.start()
    b.settle()
    b.live(TTL - 0.25 if at > 0 else 0.0)
    assert b.phase == "seeking"


# ---- holding -----------------------------------------------------------------------------------------


@EVERY
def test_s4_slow_ack(kind: Kind) -> None:
    """A renewal counts from its send, however late the answer is."""
    a = Side(Cells(kind))
    a.acquire()
    request, sent = renewal_of(a), a.hold
    reply = a.land(request)
    a.passes(0.95 * ATTEMPT)
    a.tell(request, reply)
    assert a.machine.deadline == sent + V
    a.passes(sent + V - a.hold)
    assert not a.held


@EVERY
def test_s23_the_winning_send_is_the_anchor(kind: Kind) -> None:
    """Two renewals get lost, the third is committed: it counts from its own send."""
    a = Side(Cells(kind))
    a.acquire()
    request = renewal_of(a)
    for _ in range(2):
        a.passes(0.1)
        a.tell(request, Unknown())
        a.passes(0.2)
        request = swap(a.look())
    sent = a.hold
    a.tell(request, a.land(request))
    assert a.held and a.machine.deadline == sent + V


def test_an_unknown_renewal_is_credited_by_its_witness() -> None:
    """The conflict of the next attempt shows the beat of the one before: it counts from that one's send."""
    a = Side(Cells(Kind.ETCD))
    a.acquire()
    first, sent = renewal_of(a), a.hold
    a.land(first)
    a.tell(first, Unknown())
    assert a.machine.deadline < sent + V, "nothing is counted before it is known"
    a.passes(0.2)
    second = swap(a.look())
    a.tell(second, a.land(second))
    assert a.held and a.machine.deadline == sent + V


@NETWORKED
def test_s42_a_holder_that_observes_another_is_lost_at_once(kind: Kind) -> None:
    """It does not wait for its deadline."""
    store = Cells(kind)
    a = Side(store)
    a.acquire()
    slot = store.read(NAME)
    other = Claim("b", f"{7:032x}", f"{7:016x}", TTL, 1 << 40)
    store.swap(slot, other)
    request = renewal_of(a)
    a.tell(request, a.land(request))
    assert a.machine.lost.reason == "superseded" and not a.held
    assert a.told.count("Lost") == 1


@NETWORKED
def test_s66_old_news_deposes_nobody(kind: Kind) -> None:
    """A replayed event, a stale read, a late conflict: what is older than the own last write is no news."""
    store = Cells(kind)
    z = Side(store, "z")
    past = [store.read(NAME)]
    z.acquire()
    past.append(store.read(NAME))
    free = swap(z.release())
    z.tell(free, z.land(free))
    past.append(store.read(NAME))
    a = Side(store, "a", at=2000.0)
    a.acquire()
    for slot in past:
        a.hint(slot)
        a.settle()
        a.tell(Read(999, 1.0), slot)  # the answer of a read that was given up
        a.settle()
        assert a.held, slot


def test_an_old_refusal_deposes_nobody() -> None:
    """A read that was given up long ago comes back: what it met then was foreign, and is gone."""
    store = Cells(Kind.KUBERNETES)
    a = Side(store)
    late = read(a.start())
    a.passes(ATTEMPT)
    a.look()
    a.passes(0.2)
    a.settle()
    assert a.confirm()
    a.tell(late, Refused(RecordRefused(NAME, "it was foreign", b"{}")))
    assert a.held


def test_an_old_denial_ends_no_acquire() -> None:
    """Nor does the refusal of a request that nobody waits for end an acquire that goes on without it."""
    a = Side(Cells(Kind.KUBERNETES))
    late = read(a.start())
    a.passes(ATTEMPT)
    a.look()
    a.passes(0.2)
    a.look()
    a.tell(late, Refused(StoreDenied("denied")))
    a.settle()
    assert a.confirm()


def test_hints_do_not_starve_the_renewal() -> None:
    """A watch that hints without end, and reads that hang: the renewal is sent all the same."""
    a = Side(Cells(Kind.ETCD))
    a.acquire()
    for _ in range(200):
        a.passes(0.1)
        for request in [*a.todo, *a.hint()]:
            if not isinstance(request, Read) and request in a.todo:
                a.tell(request, a.land(request))
    assert a.held


def test_a_hint_in_a_pause_is_followed_when_the_pause_ends() -> None:
    """The next look is due at the end of the pause, not at the next renewal."""
    a = Side(Cells(Kind.ETCD))
    a.acquire()
    request = read(a.hint())
    a.tell(request, Unknown())
    assert a.hint() == []
    due = a.machine.wake(a.now)
    assert due < 0.2
    a.passes(due)
    assert read(a.look())


def test_s71_an_edited_object_is_neither_credited_nor_lost() -> None:
    """Somebody put a label on it: the version is new, the beat is not. It is renewed at once."""
    store = Cells(Kind.KUBERNETES)
    a = Side(store)
    a.acquire()
    deadline = a.machine.deadline
    claim = standing(store)
    assert claim is not None
    edited = store.write(NAME, encode(replace(claim, metadata={"label": "new"})))
    a.passes(1.0)
    request = swap(a.hint(edited))
    assert a.machine.deadline == deadline and request.seen.version == edited.version
    a.tell(request, a.land(request))
    assert a.held and a.machine.deadline == deadline + 1.0


def test_a_beat_that_was_never_sent_is_a_copys() -> None:
    """The record names my claim and a beat that I did not send: a cloned machine runs, and I am lost."""
    store = Cells(Kind.ETCD)
    a = Side(store)
    a.acquire()
    claim = standing(store)
    assert claim is not None
    written = store.write(NAME, encode(replace(claim, beat=f"{99:016x}")))
    a.hint(written)
    assert a.told[-1] == "Lost" and not a.held


@EVERY
def test_s68_the_ttl_is_fixed_for_a_tenure(kind: Kind) -> None:
    """Every record of a tenure names the ttl of the first."""
    store = Cells(kind)
    a = Side(store)
    a.acquire()
    ttls = set()
    for _ in range(12):
        a.live(1.0)
        claim = standing(store)
        assert claim is not None and a.held
        ttls.add(claim.ttl)
    assert ttls == {TTL}


def test_s72_a_metadata_update_waits_for_the_renewal_in_flight() -> None:
    """It is a renewal itself, sent right after the one under way, and both count."""
    store = Cells(Kind.ETCD)
    a = Side(store)
    a.acquire()
    renewal = renewal_of(a)
    a.machine.update(a.now, {"shard": "7"})
    assert a.look() == [] and not a.machine.updated
    a.passes(0.1)
    update = swap(a.tell(renewal, a.land(renewal)))
    a.tell(update, a.land(update))
    claim = standing(store)
    assert claim is not None and claim.metadata == {"shard": "7"} and a.machine.updated and a.held


@EVERY
def test_no_renewal_is_sent_past_the_deadline(kind: Kind) -> None:
    """The store would take it: the machine steps down instead, and a new claim would be needed."""
    a = Side(Cells(kind))
    a.acquire()
    a.passes(V)
    assert a.look() == [] and a.told[-1] == "Lost"
    a.passes(100)
    assert a.look() == [] and a.machine.wake(a.now) is None


@EVERY
def test_jeopardy_is_told_when_a_renewal_is_overdue(kind: Kind) -> None:
    """The lease still stands, and a renewal after all ends it."""
    a = Side(Cells(kind))
    a.acquire()
    a.passes(RENEW + ATTEMPT)
    request = swap(a.look())
    assert a.told[-1] == "Endangered" and a.machine.jeopardy(a.now) and a.held
    a.tell(request, a.land(request))
    assert a.told[-1] == "Renewed" and not a.machine.jeopardy(a.now)


@EVERY
def test_a_lease_that_is_not_to_be_renewed_runs_out(kind: Kind) -> None:
    """It stands until the deadline it has, jeopardy is told as ever, nothing is sent, and nobody is woken."""
    a = Side(Cells(kind))
    a.acquire()
    a.machine.renew_until(a.now, a.hold)
    before = standing(a.store)
    for _ in range(20):
        assert a.held and a.look() == []
        a.passes(V / 20)
    a.passes(0.01)
    assert a.look() == [] and standing(a.store) == before and a.told[-2:] == ["Endangered", "Lost"]
    assert a.machine.lost is not None and a.machine.lost.reason == "expired" and a.machine.wake(a.now) is None


@EVERY
def test_a_lease_that_runs_out_is_freed_when_the_work_stops_in_time(kind: Kind) -> None:
    """Work that was told to stop and does so leaves the lock free at once."""
    a = Side(Cells(kind))
    a.acquire()
    a.machine.renew_until(a.now, a.hold)
    a.passes(V - 0.1)
    a.release()
    a.settle()
    claim = standing(a.store)
    assert a.phase == "done" and (claim is None or not claim.held)


@EVERY
def test_progress_after_all_is_renewed_again(kind: Kind) -> None:
    """Until the deadline the bound may be moved; a renewal that is overdue by then is sent at once."""
    a = Side(Cells(kind))
    a.acquire()
    a.machine.renew_until(a.now, a.hold + RENEW)
    a.passes(RENEW + ATTEMPT)
    assert a.look() == [] and a.told[-1] == "Endangered"
    a.machine.renew_until(a.now, math.inf)
    a.settle()
    assert a.told[-1] == "Renewed" and a.machine.deadline == a.hold + V


@EVERY
def test_a_hint_is_followed_although_nothing_is_renewed(kind: Kind) -> None:
    """Whoever took the lock is seen at once where versions have an order; else only a renewal tells."""
    store = Cells(kind)
    a, b = Side(store), Side(store, "b")
    a.acquire()
    a.machine.renew_until(a.now, a.hold)
    a.passes(RENEW)
    a.look()
    stolen = replace(b.machine._fresh(b.now, 99), id="f" * 32)
    assert isinstance(store.swap(store.peek(NAME), stolen), Applied)
    look = read(a.hint())
    a.tell(look, a.land(look))
    assert (a.told[-1] == "Lost") is a.machine.traits.ordered
    assert a.machine.lost is None or a.machine.lost.reason == "superseded"


def test_a_deadline_never_moves_back() -> None:
    """The late answer of an earlier attempt changes nothing."""
    a = Side(Cells(Kind.ETCD))
    a.acquire()
    first = renewal_of(a)
    reply = a.land(first)
    a.passes(ATTEMPT)
    a.look()
    a.passes(0.2)
    a.settle()
    deadline = a.machine.deadline
    a.tell(first, reply)
    assert a.machine.deadline == deadline


# ---- releasing ---------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("late", [0.0, 10 * TTL])
def test_s1_unlock_after_ttl_does_not_free_new_holder(kind: Kind, late: float) -> None:
    """A's release comes when B holds: at once, late, and twice; B's record stands."""
    store = Cells(kind)
    a, b = Side(store, "a"), Side(store, "b")
    a.acquire()
    a.passes(V)
    a.look()
    b.start()
    b.settle()
    b.live(TTL + 0.5)
    assert b.confirm()
    before = store.read(NAME)
    a.passes(late)
    request = swap(a.release())
    a.land(request)
    a.tell(request, a.land(request))
    a.settle()
    assert store.read(NAME) == before and b.held


@EVERY
def test_s24_a_release_without_an_answer(kind: Kind) -> None:
    """It is told as not clean; the record is freed later, or waited out by the others, and never twice."""
    store = Cells(kind)
    a, b = Side(store, "a"), Side(store, "b", at=2000.0)
    a.acquire()
    lost = swap(a.release())
    a.tell(lost, Unknown())
    assert a.told[-1] == "Released" and not a.events[-1].clean  # type: ignore[union-attr]  # Released has it
    a.todo.clear()
    b.start()
    b.settle()
    b.live(TTL + 0.5)
    assert b.confirm()
    before = store.read(NAME)
    a.land(lost)
    assert store.read(NAME) == before


@NETWORKED
def test_s40_s65_a_release_meets_its_own_renewal(kind: Kind) -> None:
    """The renewal lands first: the conflict shows the own beat, and that version is freed."""
    store = Cells(kind)
    a = Side(store)
    a.acquire()
    renewal = renewal_of(a)
    free = swap(a.release())
    a.land(renewal)
    a.tell(free, a.land(free))
    a.settle()
    assert not store.read(NAME).held and a.phase == "done"
    a.tell(renewal, Unknown())
    assert a.todo == []


def test_s40_a_release_with_a_renewal_in_flight_frees_nobody_else() -> None:
    """The renewal never lands, the record was broken and taken meanwhile: it is left alone."""
    store = Cells(Kind.ETCD)
    a = Side(store)
    a.acquire()
    renewal = renewal_of(a)
    store.remove(NAME)
    b = Side(store, "b")
    b.acquire()
    free = swap(a.release())
    a.tell(free, a.land(free))
    a.settle()
    a.land(renewal)
    assert b.held and a.phase == "done"
    claim = standing(store)
    assert claim is not None and claim.holder == "b"


@NETWORKED
def test_s69_loss_with_a_renewal_in_flight(kind: Kind) -> None:
    """The renewal lands after the loss; once the work has stopped, that very version is freed."""
    store = Cells(kind)
    a = Side(store)
    a.acquire()
    a.passes(V - 0.5)
    renewal = swap(a.look())
    a.passes(0.5)
    a.look()
    assert a.phase == "lost" and store.read(NAME).held
    a.land(renewal)
    free = swap(a.release())
    a.tell(free, a.land(free))
    a.settle()
    assert not store.read(NAME).held


@EVERY
def test_a_last_record_keeps_others_out(kind: Kind) -> None:
    """Its ttl is what was asked for; the claim believes nothing after it, and an heir does not inherit it."""
    store = Cells(kind)
    a = Side(store)
    a.acquire()
    request = swap(a.release(linger=30.0))
    assert not a.held
    a.tell(request, a.land(request))
    claim = standing(store)
    assert claim is not None and claim.held and claim.ttl == 30.0 and a.phase == "done"
    heir = Side(store, "a", estate=a.machine.bequeath(a.now), at=a.hold, seed=2)
    heir.start()
    heir.settle()
    heir.live(29.0)
    assert heir.phase == "seeking"


@EVERY
def test_a_named_successor_comes_first(kind: Kind) -> None:
    """Others hold back for a while from their own sighting."""
    store = Cells(kind)
    a, b, c = Side(store, "a"), Side(store, "b"), Side(store, "c")
    a.acquire()
    request = swap(a.release(successor="c"))
    a.tell(request, a.land(request))
    b.start()
    b.settle()
    assert b.phase == "seeking"
    c.start()
    c.settle()
    c.live(0.25)
    assert c.confirm() and c.machine.token > a.machine.token


# ---- tokens, heirs, breaks ---------------------------------------------------------------------------


@EVERY
def test_s73_the_next_thread_of_a_process_has_a_token_of_its_own(kind: Kind) -> None:
    """It waits for nobody: one swap on the own record, counted from its own send."""
    store = Cells(kind)
    a = Side(store)
    token = a.acquire()
    a.passes(1.0)
    heir = Side(store, "a", estate=a.machine.bequeath(a.now), at=a.hold, seed=2)
    request = swap(heir.start())
    heir.tell(request, heir.land(request))
    assert heir.confirm() and heir.machine.token > token and heir.machine.deadline == heir.hold + V
    assert not a.held and a.phase == "done"


@EVERY
def test_an_heir_meets_the_late_renewal_of_the_claim_before(kind: Kind) -> None:
    """It lands first; the heir knows its beat, and takes over that version."""
    store = Cells(kind)
    a = Side(store)
    a.acquire()
    renewal = renewal_of(a)
    heir = Side(store, "a", estate=a.machine.bequeath(a.now), at=a.hold, seed=2)
    request = swap(heir.start())
    a.land(renewal)
    heir.tell(request, heir.land(request))
    heir.settle()
    assert heir.confirm()


@EVERY
def test_tokens_rise_over_every_acquisition(kind: Kind) -> None:
    """Free and taken again, by the same and by others, and by takeover."""
    store = Cells(kind)
    tokens = []
    clock = 1000.0
    for turn in range(6):
        a = Side(store, "ab"[turn % 2], at=clock, seed=turn)
        a.start()
        a.settle()
        a.live(TTL + 0.5 if a.phase == "seeking" else 0.0)
        assert a.confirm()
        tokens.append(a.machine.token)
        if turn % 3:
            request = swap(a.release())
            a.tell(request, a.land(request))
        clock = a.hold
    assert tokens == sorted(set(tokens))


@NETWORKED
def test_s75_a_broken_lock_is_waited_for_by_all(kind: Kind) -> None:
    """A held record of no claim: the holder learns of it, and everybody waits its ttl."""
    a, b, store = waits_out(kind)
    claim = standing(store)
    assert claim is not None
    broken = store.write(NAME, encode(replace(claim, holder="", id="", beat=f"{5:016x}")))
    request = renewal_of(a)
    a.tell(request, a.land(request))
    assert a.machine.lost.reason == "broken" and not a.held
    b.hint(broken)
    b.settle()
    b.live(TTL - 0.25)
    assert b.phase == "seeking"
    b.live(0.5)
    assert b.phase == "granted"


@NETWORKED
def test_s75_broken_at_once(kind: Kind) -> None:
    """Freed under its holder: the next one has it now, the holder learns by its next renewal."""
    a, b, store = waits_out(kind)
    claim = standing(store)
    assert claim is not None
    if store.rules.traits.release_deletes:
        store.remove(NAME)
    else:
        store.write(NAME, encode(claim.freed()))
    b.hint()
    b.settle()
    assert b.confirm()
    request = renewal_of(a)
    a.tell(request, a.land(request))
    assert a.phase == "lost" and b.held


def test_s51_a_store_that_went_back_is_found_out_by_its_numbers() -> None:
    """A committed write with a number that was passed before: nothing is granted, and it is told."""
    store = Cells(Kind.ETCD, number=100)
    ledger = side.machinery.Ledger()
    a = Side(store, ledger=ledger)
    a.acquire()
    restored = Cells(Kind.ETCD, number=50)
    b = Side(restored, "b", ledger=ledger)
    b.start()
    b.settle()
    assert "WentBack" in b.told and "Granted" not in b.told


def test_s51_an_heir_finds_out_too() -> None:
    """What the claim before it knew of the numbers does not keep it from seeing that they went back."""
    ledger = side.machinery.Ledger()
    a = Side(Cells(Kind.ETCD, number=100), ledger=ledger)
    a.acquire()
    free = swap(a.release())
    a.tell(free, a.land(free))
    b = Side(Cells(Kind.ETCD, number=50), ledger=ledger, estate=a.machine.bequeath(a.now), seed=2)
    b.start()
    b.settle()
    assert "WentBack" in b.told and "Granted" not in b.told


def test_a_heir_before_a_replica_that_lags_reads_no_faster_than_it_must() -> None:
    """Older than what the process knows is no answer: it asks again after a pause, not at once."""
    store = Cells(Kind.ZOOKEEPER)
    a = Side(store)
    a.start()
    old = store.read(NAME)
    a.settle()
    assert a.confirm()
    store.swap(store.read(NAME), Claim("b", f"{7:032x}", f"{7:016x}", TTL, 1 << 40))
    request = renewal_of(a)
    a.tell(request, a.land(request))
    heir = Side(store, estate=a.machine.bequeath(a.now), at=a.hold, seed=2)
    asked = len(heir.start())
    for request in heir.todo * 8:
        asked += len(heir.tell(heir.todo[0] if heir.todo else request, old))
    assert asked == 1


# ---- what a claim is for itself ----------------------------------------------------------------------


def test_a_lease_that_was_lost_is_never_held_again() -> None:
    """Whatever comes in afterwards, and whichever way the clock is asked."""
    a = Side(Cells(Kind.ETCD))
    a.acquire()
    renewal = renewal_of(a)
    reply = a.land(renewal)
    a.passes(V)
    a.tell(renewal, reply)
    assert a.told.count("Lost") == 1 and not a.held
    assert not a.machine.held(Instant(0.0, 0.0, 0.0))


def test_a_snapshot_is_all_there_is() -> None:
    """Restored, a machine goes on as it did."""
    a = Side(Cells(Kind.ETCD))
    a.acquire()
    a.passes(RENEW)
    kept = a.machine.snapshot()
    first = swap(a.look())
    a.machine.restore(kept)
    second = swap(a.look())
    assert first.seen == second.seen and first.request == second.request


# ---- terms -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"ttl": 0.05}, "ttl=0.05"),
        ({"ttl": 8 * 86400.0}, "ttl="),
        ({"ttl": 10.0, "rate": 1.0}, "rate=1.0"),
        ({"ttl": 10.0, "rate": -0.1}, "rate=-0.1"),
        ({"ttl": 10.0, "guard": -1.0}, "guard=-1.0"),
        ({"ttl": 10.0, "hold": 9.0}, "hold=9"),
        ({"ttl": 10.0, "hold": 0.0}, "hold=0"),
        ({"ttl": 10.0, "renew": 7.0, "attempt": 1.0}, "renew=7"),
        ({"ttl": 10.0, "renew": 0.0}, "renew=0"),
        ({"ttl": 10.0, "attempt": 0.0}, "attempt=0"),
        ({"ttl": 10.0, "guard": math.nan}, "guard=nan"),
        ({"ttl": 10.0, "hold": math.nan}, "hold=nan"),
        ({"ttl": 10.0, "renew": math.nan}, "renew=nan"),
        ({"ttl": 10.0, "attempt": math.nan}, "attempt=nan"),
    ],
)
def test_terms_that_cannot_work_together_are_refused(given: dict[str, float], words: str) -> None:
    """The message names them."""
    with pytest.raises(ConfigurationError, match=words.replace(".", r"\.")):
        Terms(**given)


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.1, 0.2, 1 / 3, 0.5])
def test_v_never_passes_the_bound(rate: float) -> None:
    """By default it is three quarters of the ttl, or what the clocks allow if that is less."""
    terms = Terms(10.0, rate=rate, guard=0.0, renew=0.5, attempt=0.5)
    bound = 10.0 * (1 - rate) / (1 + rate)
    assert terms.hold == pytest.approx(min(7.5, bound)) and terms.hold <= bound * (1 + 1e-12)
    with pytest.raises(ConfigurationError):
        Terms(10.0, rate=rate, guard=0.0, hold=bound + 1e-3, renew=0.5, attempt=0.5)


def test_the_default_terms_are_those_that_are_promised() -> None:
    """V is three quarters of the ttl, renewed at a third of it, in attempts of a quarter of V."""
    terms = Terms()
    assert (terms.ttl, terms.hold, terms.renew, terms.attempt) == (15.0, 11.25, 5.0, 2.8125)
