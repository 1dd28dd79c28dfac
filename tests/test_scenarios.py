"""The named faults, each put by hand into the simulator's world, on the rules of every kind of store.

Each is something that broke a real lock library or a real store, or that the protocol has to survive. The
number and the name are in the test's name; the judge of the simulator watches every one of them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest

from leases.contract import Conflict
from leases.errors import RecordRefused
from leases.record import encode
from leases.testing.bid import Call
from leases.testing.cells import Kind
from leases.testing.invariants import Resource
from leases.testing.world import NAME
from stage import DELAY, KINDS, NETWORKED, ROUND, TTL, Stage

every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
each_network = pytest.mark.parametrize("kind", NETWORKED, ids=lambda kind: kind.value)
GLOBAL = tuple(kind for kind in KINDS if kind.rules.traits.token_from_write)
COUNTED = tuple(kind for kind in KINDS if not kind.rules.traits.release_deletes)
near = partial(pytest.approx, rel=0.0, abs=1e-5)  # Clocks that start far from nought spoil a relative one.
RIPE = TTL + TTL / 2 + 1.0  # a ttl after the version was seen, which is at the next read at the latest


# ---- the two classics ------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("late", [0.0, 100.0])
def test_s1_unlock_after_ttl_does_not_free_new_holder(kind: Kind, late: float) -> None:
    """A release that comes after the lease was taken over changes nothing, late or repeated as it may be."""
    stage = Stage(kind)
    a, b = stage.process("a"), stage.process("b")
    stage.acquire(a)
    stage.next_swap(a, stage.late(TTL * 3 + late), stage.late(TTL * 4 + late))
    stage.at(1).finish(a).want(b)
    stage.at(2).crash(a)
    held = stage.run(2.5).until_held(b)
    stage.run(TTL * 5 + late)
    assert stage.holds(held) and stage.record().id == held.machine.claim_id
    frees = [call for call in stage.swaps(a) if call.parting]
    assert frees and all(isinstance(stage.network.execute(call), Conflict) for call in frees)


@every_kind
def test_s1_the_release_of_a_stalled_holder_frees_nobody_else(kind: Kind) -> None:
    """A holder that slept past its lease finds it lost, lets go of it, and the new holder keeps its own."""
    stage = Stage(kind)
    a, b = stage.process("a"), stage.process("b")
    stage.acquire(a)
    stage.at(1).pause(a, 5 * TTL).want(b)
    held = stage.run(2).until_held(b)
    stage.run(6 * TTL)
    assert stage.marks(a, "lost") and stage.holds(held)


@every_kind
@pytest.mark.parametrize("seals", [True, False], ids=["sealed", "highest token only"])
def test_s2_late_request_of_earlier_tenure_rejected(kind: Kind, seals: bool) -> None:
    """A write of an earlier tenure is refused once a later one has sealed the resource; the middle one,
    which crashed before it wrote anything, is why remembering the highest token written is not enough."""
    stage = Stage(kind)
    stage.resource = Resource(stage.judge, seals=seals)
    shards = [stage.process("shard 1"), stage.process("shard 2")]
    for shard in shards:
        shard.resource = stage.resource
    first = stage.acquire(shards[0])
    late = (first.machine.token, first.tenure)
    stage.at(1).crash(shards[0])
    stage.run(2).acquire(shards[1])
    shards[1].crash()
    shards[0].crash(restart=0.0)
    stage.run(stage.world.time + DELAY)
    assert stage.acquire(shards[0]).tenure == 3
    assert late[0] is not None and late[1] is not None
    assert shards[0].land(late[0], late[1]) is not seals


# ---- time ------------------------------------------------------------------------------------------


@every_kind
def test_s3_reply_read_after_expiry(kind: Kind) -> None:
    """A grant whose reply is read after the deadline that it carries is never reported as success."""
    stage = Stage(kind)
    a = stage.process("a")
    if not kind.rules.traits.release_deletes:
        stage.acquire(a)  # A record to swap on.
        stage.at(1).finish(a)
        stage.run(2)
    sent = stage.world.time
    stage.next_swap(a, stage.answered_late(0.0))
    a.want()
    while not stage.swaps(a) or stage.swaps(a)[-1].asked < sent:
        stage.run(stage.world.time + DELAY / 4)
    a.pause(TTL)
    claimed = stage.swaps(a)[-1].claim
    assert claimed is not None
    held = stage.run(stage.world.time + TTL - DELAY).until_held(a)
    assert held.machine.claim_id != claimed.id and held.tenure is not None


@every_kind
def test_s4_slow_ack(kind: Kind) -> None:
    """A renewal counts from its send: an answer that took long, and was the last, adds nothing."""
    stage = Stage(kind)
    a, b = stage.process("a"), stage.process("b")
    bid = stage.acquire(a)
    terms = a.terms
    stage.next_swap(a, stage.answered_late(0.95 * terms.attempt))
    stage.run(terms.renew + 2 * terms.attempt)
    renewal = stage.swaps(a)[-1]
    assert bid.machine.deadline == near(renewal.hold + terms.hold)
    stage.scene.outage(100.0)
    b.want()
    stage.run(renewal.asked + terms.hold - 0.01)
    assert stage.holds(bid)
    stage.run(renewal.asked + terms.hold + 0.01)
    assert not stage.holds(bid) and stage.marks(a, "lost")[0].at == near(renewal.asked + terms.hold)


@every_kind
def test_s5_pause_between_the_check_and_the_write(kind: Kind) -> None:
    """A holder that stands still between its check and its write writes too late, and the token tells."""
    stage = Stage(kind)
    a, b = stage.process("a"), stage.process("b")
    bid = stage.acquire(a)
    assert stage.holds(bid)  # The check.
    token, tenure = bid.machine.token, bid.tenure
    stage.at(1).pause(a, 4 * TTL).want(b)
    stage.run(2).until_held(b)
    assert token is not None and tenure is not None and not a.land(token, tenure)


@every_kind
def test_s6_pause_beyond_the_lease(kind: Kind) -> None:
    """The first instruction after a long pause already finds the lease gone, whoever has noticed or not."""
    stage = Stage(kind)
    a = stage.process("a")
    bid = stage.acquire(a)
    stage.at(1).pause(a, 2 * TTL)
    stage.run(1 + 2 * TTL - 0.01)
    assert not stage.marks(a, "lost") and not stage.holds(bid)


@every_kind
@pytest.mark.parametrize("step", [3600.0, -3600.0, 31536000.0, -31536000.0])
def test_s7_wall_clock_steps(kind: Kind, step: float) -> None:
    """Wall clocks that jump by an hour or a year, on either side, change no instant of what happens."""

    def times(far: float) -> list[tuple[float, str, str]]:
        stage = Stage(kind)
        a, b = stage.process("a"), stage.process("b")
        stage.at(0).want(a)
        stage.at(1).want(b)
        stage.at(2).do(a.host.step_wall, far)
        stage.at(5).do(b.host.step_wall, -far)
        stage.at(20).crash(a)
        stage.run(20 + RIPE)
        assert stage.holder() == "b" and not stage.marks(a, "lost")
        return [(m.at, m.where, m.what) for m in stage.world.marks or ()]

    assert times(step) == times(0.0)


@each_network
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.33])
def test_s8_rate_corners(kind: Kind, rate: float) -> None:
    """With clocks at both ends of the bound and the longest V, the next begins where the last ends."""
    stage = Stage(kind, rate=rate, delay=1e-4)
    widest = TTL * (1 - rate) / (1 + rate)
    a = stage.process("a", clock=1 - rate, hold=widest, guard=0.0)
    b = stage.process("b", clock=1 + rate)
    bid = stage.acquire(a)
    renewal = len(stage.swaps(a))
    stage.at(0.5).want(b)
    while len(stage.swaps(a)) == renewal:
        stage.run(stage.world.time + 0.01)
    stage.run(stage.world.time + 0.01)
    stage.scene.partition(a.host, 100.0)
    ends = a.host.real(bid.machine.deadline)
    stage.until_held(b)
    begins = stage.world.time
    assert 0 <= begins - ends < 0.02


@each_network
def test_s9_rate_beyond_the_bound(kind: Kind) -> None:
    """Clocks beyond the bound overlap by what can be reckoned, and the token still keeps the old one out."""
    stage = Stage(kind, rate=0.05)
    stage.judge.lawful = False
    slow, fast = 0.7, 1.3
    a, b = stage.process("a", clock=slow), stage.process("b", clock=fast)
    bid = stage.acquire(a)
    stage.at(0.1).want(b)
    stage.at(0.2).partition(a, 100.0)
    stage.run(0.3).until_held(b)
    worst = a.terms.hold / slow - TTL / fast
    assert stage.holds(bid) and 0 < stage.judge.tally.overlap <= worst
    assert bid.machine.token is not None and bid.tenure is not None
    assert not a.land(bid.machine.token, bid.tenure)


@each_network
def test_s10_host_suspend(kind: Kind) -> None:
    """A host that slept past its lease does not believe in it for an instant after it wakes."""
    stage = Stage(kind)
    a, b = stage.process("a"), stage.process("b")
    bid = stage.acquire(a)
    stage.at(1).suspend(a, 3 * TTL).want(b)
    stage.run(2).until_held(b)
    stage.run(1 + 3 * TTL + 1e-4)
    assert not stage.holds(bid) and stage.holder() == "b"


@each_network
def test_s10_a_waiter_that_slept_has_not_waited(kind: Kind) -> None:
    """The time for which a waiter's host slept does not count: nobody watched the record then."""
    stage = Stage(kind, hints=False)
    a, b = stage.process("a"), stage.process("b")
    stage.acquire(a)
    stage.at(0.5).want(b)
    stage.at(1).crash(a).suspend(b, 3 * TTL)
    stage.run(1 + 3 * TTL + 0.5 * TTL)
    assert stage.holder() is None
    stage.until_held(b, TTL)


# ---- waiting and watching --------------------------------------------------------------------------


@each_network
def test_s13_watch_blackholed(kind: Kind) -> None:
    """Without any hint the takeover still comes in time, and the holder still steps down in time."""
    stage = Stage(kind, hints=False)
    a, b = stage.process("a"), stage.process("b")
    bid = stage.acquire(a)
    stage.at(1).want(b)
    stage.at(60).partition(a, 1000.0)
    stage.run(60 + a.terms.hold + 0.1)
    assert not stage.holds(bid) and stage.marks(a, "lost")
    stage.until_held(b, RIPE)


@every_kind
def test_s14_watch_drops_doubles_reorders_and_replays(kind: Kind) -> None:
    """Hints of every bad kind neither depose the holder nor let anybody in early."""
    stage = Stage(
        kind, hint_lose=0.3, hint_double=0.5, hint_old=0.6, hint_bare=0.2, hint_delay=TTL
    )  # fmt: skip
    processes = [stage.process(name, listen_on=True) for name in "abc"]
    for i, process in enumerate(processes):
        stage.at(i).want(process)
    stage.run(0.9)
    stage.at(12 * TTL).finish(processes[0])
    stage.run(12 * TTL - 0.1)
    assert stage.holder() == "a" and not stage.marks(processes[0], "lost")
    stage.run(14 * TTL)
    assert stage.holder() in ("b", "c") and len(stage.marks(processes[0], "held")) == 1


@each_network
def test_s16_stale_replica_shows_an_old_record_for_ever(kind: Kind) -> None:
    """A waiter that reads an old record for ever swaps in vain: the lock is never taken from its holder."""
    stage = Stage(kind, vague=1.0, hints=False)
    a, b = stage.process("a"), stage.process("b")
    bid = stage.acquire(a)
    stage.run(1)
    b.host.frozen = len(stage.network.history) - 1
    b.want()
    stage.run(20 * TTL)
    assert stage.holds(bid) and not stage.marks(b, "granted")
    assert len(stage.swaps(b)) >= 3


# ---- ambiguity and duplication ---------------------------------------------------------------------


@every_kind
def test_s19_acquire_applied_and_its_reply_lost(kind: Kind) -> None:
    """A claim whose answer was lost is found in the store, and counts from its own send."""
    stage = Stage(kind)
    a = stage.process("a")
    stage.next_swap(a, stage.unanswered)
    bid = stage.acquire(a)
    first = stage.swaps(a)[0]
    assert first.claim is not None and bid.machine.claim_id == first.claim.id
    assert bid.machine.deadline == near(first.hold + a.terms.hold)
    assert len(stage.marks(a, "granted")) == 1 and stage.world.time < a.terms.attempt + 0.2 + ROUND


@every_kind
@pytest.mark.parametrize("vague", [0.0, 1.0], ids=["shown", "not shown"])
def test_s21_transport_sends_the_swap_again(kind: Kind, vague: float) -> None:
    """The first copy wins and the second conflicts with it: the lock is ours, with one claim."""
    stage = Stage(kind, vague=vague)
    a = stage.process("a")
    stage.next_swap(a, stage.resent(0.1))
    bid = stage.acquire(a)
    assert len(stage.swaps(a)) == 1 and stage.record().id == bid.machine.claim_id
    assert stage.world.time < 0.2 + ROUND


@every_kind
def test_s23_renewal_lost_twice(kind: Kind) -> None:
    """The third renewal is the one that arrives, and the deadline counts from its send."""
    stage = Stage(kind)
    a = stage.process("a", renew=1.0, attempt=0.5)
    bid = stage.acquire(a)
    stage.next_swap(a, stage.lost, stage.lost)
    stage.run(3.0)
    renewals = stage.swaps(a)[-3:]
    assert bid.machine.deadline == near(renewals[2].hold + a.terms.hold)
    assert stage.holds(bid) and not stage.marks(a, "lost")


@every_kind
@pytest.mark.parametrize("arrives", [True, False])
def test_s24_release_without_an_answer(kind: Kind, arrives: bool) -> None:
    """Nobody waits for longer than the ttl, whether the release arrived or not, and it frees once."""
    stage = Stage(kind)
    a, b = stage.process("a"), stage.process("b")
    stage.acquire(a)
    stage.at(0.5).want(b)
    stage.run(1)
    stage.next_swap(a, stage.unanswered if arrives else stage.lost)
    stage.at(1).finish(a)
    held = stage.run(1.01).until_held(b, TTL)
    stage.run(5 * TTL)
    assert stage.holds(held) and stage.judge.tally.freed == 1


@pytest.mark.parametrize("kind", COUNTED, ids=lambda kind: kind.value)
def test_s25_a_record_made_anew_is_not_the_one_that_was_read(kind: Kind) -> None:
    """A record that was removed and put back looks the same, and a renewal does not hit it."""
    stage = Stage(kind)
    a = stage.process("a")
    stage.acquire(a)
    body = stage.network.cells.peek(NAME).body
    stage.next_swap(a, stage.late(0.2))
    stage.run(a.terms.renew + 0.1)
    stage.network.delete()
    stage.network.recreate(body)
    stage.run(stage.world.time + 0.16)
    assert stage.network.counts["conflict"] == 1 and not stage.marks(a, "lost")


@every_kind
def test_s26_cancelled_in_the_middle_of_the_swap(kind: Kind) -> None:
    """A wish that was given up while its claim was under way leaves nothing: the claim is met, and freed."""
    stage = Stage(kind)
    a, b = stage.process("a"), stage.process("b")
    stage.next_swap(a, stage.late(1.0))
    stage.at(0).want(a)
    stage.at(0.5).give_up(a)
    stage.at(0.6).want(b)
    stage.run(1.05)
    assert not stage.marks(a, "held")
    stage.until_held(b, 3.0)
    assert not a.bids


@every_kind
def test_s26_given_up_after_the_swap_was_given_up(kind: Kind) -> None:
    """That a swap went unanswered is not a no: it is chased, and what lands of it later is freed."""
    stage = Stage(kind)
    a, b = stage.process("a"), stage.process("b")
    stage.next_swap(a, stage.late(3.0))
    stage.at(0).want(a)
    stage.run(1.0)
    asked = stage.swaps(a)[0].due
    stage.at(asked + 0.02).give_up(a)
    stage.run(2.9)
    assert len(stage.swaps(a)) == 1 and stage.record() is None
    stage.run(3.5 + ROUND)
    assert stage.judge.tally.freed == 1 and not a.bids
    stage.acquire(b)


@every_kind
def test_s27_credentials_expired_in_the_middle_of_a_renewal(kind: Kind) -> None:
    """A renewal that was surely not executed counts nothing, and another is sent in time."""
    stage = Stage(kind)
    a = stage.process("a")
    bid = stage.acquire(a)
    before = bid.machine.deadline
    stage.next_swap(a, stage.busy, stage.busy)
    stage.run(a.terms.renew + ROUND)
    assert bid.machine.deadline == before
    stage.run(a.terms.renew + 1.0)
    assert bid.machine.deadline > before and stage.holds(bid)


# ---- renewal machinery -----------------------------------------------------------------------------


@every_kind
def test_s36_identical_renewals_are_seen(kind: Kind) -> None:
    """Every renewal is other bytes and another version, on stores too that ignore what does not change."""
    stage = Stage(kind)
    a, b = stage.process("a"), stage.process("b")
    stage.acquire(a)
    stage.at(1).want(b)
    stage.run(4 * TTL)
    held = [slot for slot in stage.network.history if slot.held]
    assert len(held) >= 10 and len({slot.version for slot in held}) == len({s.body for s in held}) == len(
        held
    )
    assert stage.holder() == "a" and not stage.marks(b, "granted")


@every_kind
def test_s40_release_during_a_renewal_in_flight(kind: Kind) -> None:
    """A release that meets its own late renewal frees that, and then nothing of anybody else's."""
    stage = Stage(kind)
    a, b = stage.process("a"), stage.process("b")
    stage.acquire(a)
    stage.at(1).want(b)
    stage.next_swap(a, stage.late(0.5))
    stage.run(a.terms.renew + 0.2)
    a.finish(next(iter(a.bids)))
    held = stage.until_held(b, 2.0)
    stage.run(3 * TTL)
    assert stage.holds(held)


@every_kind
def test_s41_a_hanging_request_does_not_delay_the_step_down(kind: Kind) -> None:
    """With every request hanging the loss is told at the deadline, and not a moment later."""
    stage = Stage(kind, overtime=1.0)
    a = stage.process("a")
    bid = stage.acquire(a)
    deadline = a.host.real(bid.machine.deadline)
    stage.next_swap(a, *[lambda call: None] * 20)
    stage.run(deadline + 1.0)
    assert stage.marks(a, "lost")[0].at == near(deadline)


@every_kind
def test_s42_a_holder_that_observes_another_is_lost_at_once(kind: Kind) -> None:
    """The hint that shows another claim ends the lease long before its deadline."""
    stage = Stage(kind)
    stage.judge.lawful = False  # Only a lock that is broken without waiting lets another in so early.
    a, b = stage.process("a", listen_on=True), stage.process("b")
    bid = stage.acquire(a)
    stage.at(1).want(b)
    stage.network.listeners[bid] = None
    stage.at(2).do(stage.network.break_, now=True)
    stage.run(2 + 0.1 + 2 * ROUND)
    assert [m.text.split()[1] for m in stage.marks(a, "lost")] in (["superseded"], ["broken"])
    stage.until_held(b, 1.0)


# ---- identity and configuration --------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("shared", [False, True], ids=["two hosts", "one host"])
def test_s43_s60_two_processes_of_one_name(kind: Kind, shared: bool) -> None:
    """The holder's name decides nothing: another process of the same name waits like anybody."""
    stage = Stage(kind)
    a = stage.process("a")
    b = stage.process("b", host=a.host if shared else None)
    b.holder = a.holder
    bid = stage.acquire(a)
    stage.at(1).want(b)
    stage.run(3 * TTL)
    assert stage.holds(bid) and not stage.marks(b, "granted")
    stage.at(3 * TTL).finish(a)
    stage.until_held(b, 1.0)
    assert stage.record().holder == "a"


@every_kind
def test_s44_a_restart_inherits_nothing(kind: Kind) -> None:
    """A process that comes back under its old name waits out its own old record, and gets another token."""
    stage = Stage(kind)
    a = stage.process("a")
    before = stage.acquire(a)
    stage.at(1).do(a.crash, 0.1)
    stage.at(1.2).want(a)
    stage.run(0.9 * TTL)
    assert stage.holder() is None
    after = stage.until_held(a, RIPE)
    assert before.machine.token is not None and after.machine.token is not None
    assert after.machine.token > before.machine.token and stage.world.time >= TTL


@every_kind
@pytest.mark.parametrize(("first", "second"), [(20.0, 2.0), (2.0, 20.0)])
def test_s46_contenders_of_different_ttls(kind: Kind, first: float, second: float) -> None:
    """It is the ttl in the record that is waited for, whatever the waiter's own."""
    stage = Stage(kind)
    a, b = stage.process("a", ttl=first), stage.process("b", ttl=second)
    stage.acquire(a)
    stage.at(0.2).want(b)
    stage.at(0.3).crash(a)
    stage.run(0.4).until_held(b)
    assert first - 0.1 <= stage.world.time <= first + first / 2 + 1.5


@every_kind
def test_s48_s54_a_record_of_another_format_is_left_alone(kind: Kind) -> None:
    """What this build cannot read it does not touch: the wish ends with an error, and the bytes stand."""
    stage = Stage(kind)
    a = stage.process("a")
    body = b'{"format":2,"holder":"tomorrow"}'
    stage.network.recreate(body)
    a.want()
    bid = a.turn
    assert bid is not None
    stage.run(1.0)
    assert stage.marks(a, "GaveUp") and isinstance(bid.machine.trouble, RecordRefused)
    assert stage.network.cells.peek(NAME).body == body


@every_kind
def test_s54_a_record_with_more_in_it_is_understood(kind: Kind) -> None:
    """Fields that a later build added to the same format are passed over."""
    stage = Stage(kind)
    a, b = stage.process("a"), stage.process("b")
    stage.acquire(a)
    stage.network.recreate(stage.network.cells.peek(NAME).body[:-1] + b',"mood":"sunny"}')
    stage.at(1).want(b)
    stage.run(3 * TTL)
    assert stage.holder() == "a" and not stage.marks(a, "lost")


# ---- scale and recovery ----------------------------------------------------------------------------


@every_kind
def test_s50_a_hundred_contenders(kind: Kind) -> None:
    """A hundred that wait starve no renewal, and at a release each of them swaps a few times at most."""
    stage = Stage(kind)
    a, *others = (stage.process(f"p{i}") for i in range(100))
    stage.acquire(a)
    for process in others:
        process.want()
    stage.run(3 * TTL)
    assert stage.holder() == "p0" and not stage.marks(a, "lost")
    asked, conflicts = stage.world.time, stage.network.counts["conflict"]
    a.finish(next(iter(a.bids)))
    stage.run(asked + 1.0)
    assert stage.holder() is not None
    assert stage.network.counts["conflict"] - conflicts <= 2 * len(others)


@pytest.mark.parametrize("kind", GLOBAL, ids=lambda kind: kind.value)
def test_s51_store_restored_from_a_backup(kind: Kind) -> None:
    """A write that gets a number from the past gives the restore away, and nothing is believed on it."""
    stage = Stage(kind)
    a = stage.process("a")
    backup = stage.network.cells.clone()
    stage.acquire(a)
    stage.at(1).finish(a)
    stage.run(2)
    stage.scene.restore(backup)
    a.want()
    stage.run(4)
    assert stage.marks(a, "WentBack") and len(stage.marks(a, "held")) == 1


@every_kind
def test_s52_store_unavailable_for_longer_than_the_lease(kind: Kind) -> None:
    """While the store is away nobody leads; when it is back, one does."""
    stage = Stage(kind)
    processes = [stage.process(name) for name in "abc"]
    for process in processes:
        stage.at(0).want(process)
    stage.at(5).outage(3 * TTL)
    stage.run(5 + TTL)
    assert stage.holder() is None
    for process in processes:
        stage.at(2 * TTL).want(process, 1)
    stage.run(5 + 3 * TTL)
    assert stage.holder() is None
    stage.run(5 + 3 * TTL + RIPE)
    assert stage.holder() is not None


@every_kind
def test_s55_the_loss_is_told_before_any_later_success(kind: Kind) -> None:
    """In one process the loss comes once, and before the next grant of whichever thread."""
    stage = Stage(kind)
    a = stage.process("a", react=0.5)
    stage.acquire(a)
    a.want(1)
    stage.at(1).outage(2 * TTL)
    stage.run(2).run(2 * TTL).until_held(a, 2 * RIPE)
    told = [m.what for m in stage.marks(a, "held", "lost")]
    assert told == ["held", "lost", "held"]


# ---- found by attacking the protocol ---------------------------------------------------------------


@every_kind
def test_s57_a_takeover_has_a_token_of_its_own(kind: Kind) -> None:
    """A takeover creates nothing, so a number of creation would be the last holder's; ours is higher."""
    stage = Stage(kind)
    a, b = stage.process("a"), stage.process("b")
    first = stage.acquire(a)
    stage.at(1).want(b)
    stage.at(2).crash(a)
    second = stage.run(3).until_held(b, RIPE)
    assert first.machine.token is not None and second.machine.token is not None
    assert second.machine.token > first.machine.token and not stage.judge.tally.freed


@every_kind
def test_s58_beats_of_retries_are_distinct(kind: Kind) -> None:
    """Every send carries bits of its own, a retry of the same claim too."""
    stage = Stage(kind)
    a = stage.process("a", renew=1.0, attempt=0.5)
    stage.next_swap(a, stage.lost, stage.unanswered)
    stage.acquire(a)
    stage.next_swap(a, stage.lost, stage.unanswered, stage.lost)
    stage.run(TTL)
    beats = [call.claim.beat for call in stage.swaps(a) if call.claim is not None]
    assert len(beats) > 8 and len(set(beats)) == len(beats)


@every_kind
def test_s65_release_meets_its_own_renewal(kind: Kind) -> None:
    """The renewal lands just before the release, which names an older version; the lock is free at once."""
    stage = Stage(kind)
    a, b = stage.process("a"), stage.process("b")
    stage.acquire(a)
    stage.at(1).want(b)
    stage.next_swap(a, stage.late(0.05), stage.late(0.1))
    stage.run(a.terms.renew)
    a.finish(next(iter(a.bids)))
    stage.until_held(b, 1.0)


@every_kind
def test_s66_old_news_deposes_nobody(kind: Kind) -> None:
    """A replayed hint, a stale read and a late conflict, all of another's time, and the holder holds."""
    stage = Stage(kind, overtime=1.0)
    a, b = stage.process("a"), stage.process("b")
    stage.acquire(a)
    b.want()
    stage.next_swap(b, stage.answered_late(TTL / 2))  # A conflict with the claim of a, told much later.
    stage.run(1)
    old = stage.network.cells.peek(NAME)
    stage.at(1).finish(a)
    bid = stage.until_held(b, 2 * TTL)
    stage.network.listeners[bid] = None
    b.hinted(bid, old)
    stage.next_read(b, lambda call: stage.network.reply(call, old))
    b.hinted(bid, None)
    stage.run(stage.world.time + 2 * TTL)
    assert stage.holds(bid) and not stage.marks(b, "lost")


@every_kind
def test_s68_the_ttl_is_fixed_for_a_tenure(kind: Kind) -> None:
    """Renewals and updates of the metadata all say the ttl that the acquisition said."""
    stage = Stage(kind)
    a = stage.process("a", ttl=7.5)
    stage.acquire(a)
    stage.at(4).update(a)
    stage.run(30)
    assert {slot.claim.ttl for slot in stage.network.history if slot.claim is not None} == {7.5}


@every_kind
def test_s69_loss_with_a_renewal_in_flight(kind: Kind) -> None:
    """A renewal that lands after the loss keeps others out only until the work has stopped."""
    stage = Stage(kind)
    a, b = stage.process("a", react=0.5), stage.process("b")
    bid = stage.acquire(a)
    stage.at(1).want(b)
    deadline = a.host.real(bid.machine.deadline)
    stage.run(deadline - a.terms.hold + a.terms.renew - 0.1)
    stage.next_swap(a, *[stage.arriving(deadline + 0.3)] * 40)
    stage.run(deadline + 0.2)
    assert stage.marks(a, "lost") and not stage.freed()
    stage.clear_fates()
    stage.run(deadline + 0.35)
    assert stage.judge.tally.renewals == 1  # It has landed.
    stage.until_held(b, 1.5)


@each_network
def test_s70_two_stale_replicas_alternate(kind: Kind) -> None:
    """Reads that go back and forth between two old states do not start the wait anew."""
    stage = Stage(kind, hints=False)
    a, b = stage.process("a"), stage.process("b")
    stage.acquire(a)
    stage.run(a.terms.renew + 1.0)
    a.crash()
    states = stage.network.history[-2:]
    turn = [0]

    def alternate(call: Call) -> None:
        turn[0] += 1
        stage.network.reply(call, states[turn[0] % 2])

    stage.next_read(b, *[alternate] * 40)
    began = stage.world.time
    b.want()
    stage.until_held(b, RIPE)
    assert turn[0] >= 2 and stage.world.time - began < RIPE


@every_kind
def test_s71_edited_object(kind: Kind) -> None:
    """Somebody labels the object: the lease is neither longer nor lost, and is renewed on the new version."""
    stage = Stage(kind)
    a = stage.process("a", listen_on=True)
    bid = stage.acquire(a)
    stage.network.listeners[bid] = None
    stage.run(1)
    before = bid.machine.deadline
    stage.next_swap(a, stage.late(0.4))
    stage.network.edit()
    stage.run(1.3)
    assert len(stage.swaps(a)) == 2 and bid.machine.deadline == before and stage.holds(bid)
    stage.run(1.5)
    assert before < bid.machine.deadline < before + 1.5 and not stage.marks(a, "lost")
    stage.run(3 * TTL)
    assert stage.holds(bid)


@each_network
def test_s71_an_edit_starts_the_wait_anew(kind: Kind) -> None:
    """A waiter times a version and its bytes: after an edit, be it of a label alone, it waits a whole ttl."""
    stage = Stage(kind)
    a, b = stage.process("a"), stage.process("b")
    stage.acquire(a)
    stage.at(0.5).want(b)
    stage.at(1).crash(a)
    stage.at(9).do(stage.network.edit)
    stage.run(9 + TTL - 0.1)
    assert stage.holder() is None
    stage.until_held(b, TTL / 2 + 1.0)


@pytest.mark.parametrize("kind", COUNTED, ids=lambda kind: kind.value)
def test_a_held_record_that_vanished_was_not_released(kind: Kind) -> None:
    """Where release leaves a record, whoever saw the held one that a stranger removed waits out its ttl."""
    stage = Stage(kind)
    a, b = stage.process("a"), stage.process("b")
    stage.acquire(a)
    stage.at(1).want(b)
    stage.at(2).partition(a, 100.0).do(stage.network.delete)
    stage.run(2 + TTL - 0.1)
    assert stage.holder() is None and stage.record() is None
    stage.until_held(b, 1.0)


@every_kind
def test_s72_metadata_update_races_the_renewal(kind: Kind) -> None:
    """An update that is asked for while a renewal is under way is written right after it."""
    stage = Stage(kind)
    a = stage.process("a")
    bid = stage.acquire(a)
    stage.next_swap(a, stage.late(0.2))
    stage.run(a.terms.renew + 0.1)
    a.update(bid)
    assert not bid.machine.updated
    stage.run(a.terms.renew + 0.3 + 2 * ROUND)
    assert bid.machine.updated and stage.record().metadata and stage.holds(bid)


@every_kind
def test_s73_hand_over_between_threads_has_a_new_token(kind: Kind) -> None:
    """The next thread of the process acquires by a swap on the record that stands, in one round trip."""
    stage = Stage(kind)
    a, b = stage.process("a"), stage.process("b")
    first = stage.acquire(a)
    stage.at(0.5).want(a, 1).want(b)
    stage.at(1).finish(a)
    second = stage.run(1.001).until_held(a, ROUND)
    assert first.machine.token is not None and second.machine.token is not None
    assert second.machine.token > first.machine.token and not stage.judge.tally.freed
    assert second.machine.claim_id != first.machine.claim_id


@every_kind
def test_s74_the_seal_outlasts_the_lease(kind: Kind) -> None:
    """A lease that ended while its fences were being sealed was never a success, and is let go."""
    stage = Stage(kind)
    a = stage.process("a", seal=1.0)
    a.want()
    while not stage.marks(a, "granted"):
        stage.run(stage.world.time + DELAY)
    bid = a.turn
    assert bid is not None
    stage.next_swap(a, *[stage.lost] * 40)
    a.pause(TTL)
    a.give_up(bid)  # The first thing that happens when it goes on.
    stage.run(stage.world.time + 4 * TTL)
    assert not stage.marks(a, "held") and not a.bids


@every_kind
def test_s75_break_waits(kind: Kind) -> None:
    """A broken lock is everybody's to wait for: the old holder is told, the next comes a ttl later."""
    stage = Stage(kind)
    a, b = stage.process("a"), stage.process("b")
    bid = stage.acquire(a)
    stage.at(1).want(b)
    stage.at(2).do(stage.network.break_)
    stage.run(2 + TTL - 0.1)
    assert not stage.holds(bid) and stage.marks(a, "lost")[0].text.endswith("broken")
    assert stage.holder() is None
    stage.until_held(b, RIPE)


@every_kind
def test_s75_break_now_frees_at_once(kind: Kind) -> None:
    """Breaking without waiting waives that beliefs are disjoint: the next one holds while the old one may."""
    stage = Stage(kind)
    stage.judge.lawful = False
    a, b = stage.process("a"), stage.process("b")
    stage.acquire(a)
    stage.at(1).want(b)
    stage.run(1.5)
    stage.network.break_(now=True)
    stage.until_held(b, 1.0)


@every_kind
def test_a_named_successor_comes_first(kind: Kind) -> None:
    """A record freed for somebody is left to him for a while by all others."""
    stage = Stage(kind)
    a, b, c = (stage.process(name) for name in "abc")
    bid = stage.acquire(a)
    stage.at(1).want(b)
    stage.run(2)
    bid.working = False
    a.release(bid, successor="c")
    stage.at(3).want(c)
    stage.run(4)
    assert stage.holder() == "c"


@every_kind
def test_a_lingering_record_keeps_others_out(kind: Kind) -> None:
    """A last record with a ttl of its own is waited for, though its claim believes nothing any more."""
    stage = Stage(kind)
    a, b = stage.process("a"), stage.process("b")
    bid = stage.acquire(a)
    stage.at(1).want(b)
    stage.run(2)
    a.release(bid, linger=4.0)
    stage.run(5.9)
    assert stage.holder() is None and not stage.freed()
    stage.until_held(b, 3.0)


@every_kind
def test_a_release_without_an_answer_ends_in_time(kind: Kind) -> None:
    """The caller of a release waits for one attempt, and the driver does not turn in circles meanwhile."""
    stage = Stage(kind, vague=1.0)
    a = stage.process("a")
    bid = stage.acquire(a)
    stage.run(1)
    stage.network.edit()
    stage.next_read(a, *[stage.lost] * 100)
    began, steps = stage.world.time, stage.world.steps
    a.finish(bid)
    stage.run(began + a.terms.attempt + 1e-3)
    assert stage.marks(a, "released")
    stage.run(began + 2 * TTL)
    assert not a.bids and stage.world.steps - steps < 500


@every_kind
def test_a_stale_hint_hides_no_record_that_is_to_be_freed(kind: Kind) -> None:
    """A grant that came too late is freed when its thread gives up, whatever hint comes in between."""
    stage = Stage(kind)
    a, b = stage.process("a", seal=1000.0), stage.process("b")
    stage.acquire(b)
    old = stage.network.cells.peek(NAME)
    stage.at(1).finish(b)
    stage.run(2)
    a.want()
    stage.run(2.5)
    bid = a.turn
    assert bid is not None and stage.marks(a, "granted")
    stage.network.listeners[bid] = None
    stage.next_swap(a, *[stage.lost] * 100)
    a.pause(TTL)
    a.hinted(bid, old)
    a.give_up(bid)
    stage.run(2.5 + TTL + 0.001)
    stage.clear_fates()
    stage.run(2.5 + TTL + 3.0)
    assert stage.freed() and not a.bids


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.rules.traits.local])
def test_a_crashed_holder_on_one_host_keeps_the_lock_for_its_ttl_exactly(kind: Kind) -> None:
    """Where one boot clock serves all, a newcomer need not watch: the record says when it was sent."""
    stage = Stage(kind)
    a, b = stage.process("a"), stage.process("b")
    stage.acquire(a)
    sent = stage.swaps(a)[-1].asked
    stage.at(1).crash(a)
    stage.at(sent + TTL - 0.5).want(b)
    stage.run(2).until_held(b)
    assert 0 <= stage.world.time - (sent + TTL) < 2 * ROUND


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.rules.traits.local])
def test_instants_of_another_boot_say_nothing(kind: Kind) -> None:
    """After a reboot the clocks have begun anew, and an old record is watched for a whole ttl."""
    stage = Stage(kind)
    a, b = stage.process("a"), stage.process("b")
    stage.acquire(a)
    stage.run(TTL / 2)
    stage.scene.reboot(a.host, 1.0)
    a.host._hold += 1e6  # As if the new boot had been up for longer than the old one.
    stage.at(TTL).want(b)
    stage.run(2 * TTL - 0.1)
    assert stage.holder() is None
    stage.until_held(b, RIPE)


@each_network
def test_two_hosts_that_share_a_boot_identity_compare_no_instants(kind: Kind) -> None:
    """Machines resumed from one snapshot carry one boot's identity; on a network store it means nothing."""
    stage = Stage(kind)
    a, b = stage.process("a"), stage.process("b")
    b.host.boot = a.host.boot
    stage.acquire(a)
    stage.at(1).want(b)
    stage.run(5 * TTL)
    assert stage.holder() == "a" and len(stage.swaps(b)) <= 1


def test_the_stage_fails_where_an_invariant_breaks() -> None:
    """The judge watches scenarios too: a record written past the protocol is a violation at once."""
    stage = Stage(Kind.ETCD)
    a, b = stage.process("a"), stage.process("b")
    stage.acquire(a)
    thief = stage.record()
    stage.network.cells.write(NAME, encode(replace(thief, id="", state=type(thief.state).FREE)))
    b.want()
    with pytest.raises(AssertionError, match="invariant 1: b#0 and a#0 hold at once"):
        stage.until_held(b, 5.0)
    assert math.isfinite(stage.world.time)
