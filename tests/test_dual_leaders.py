"""Three faults that give client-go two leaders at once, and never two of ours, on the rules of every store.

1. Slow reply, then partition. A renewal is applied at once and answered late, then nothing more is heard.
   Whoever counts from the answer believes for longer than the others wait.
2. Partition, with a release on cancel. The work is to stop while the store cannot be reached. Whoever
   releases first and stops the work after hangs in the release, and leads meanwhile.
3. The link heals during the release. What was stuck arrives late: a renewal, a release, or both.

The judge of the simulator watches all of it. On real servers, with processes: `test_faults_leaders.py`.
"""

from __future__ import annotations

from functools import partial

import pytest

from leases.testing.bid import Bid
from leases.testing.cells import Kind
from leases.testing.mutants import MUTANTS, modules
from leases.testing.process import Process
from leases.testing.world import Violation
from stage import KINDS, NETWORKED, ROUND, TTL, Stage

near = partial(pytest.approx, rel=0.0, abs=1e-5)
each_network = pytest.mark.parametrize("kind", NETWORKED, ids=lambda kind: kind.value)
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
RATE = 0.1
WIDEST = TTL * (1 - RATE) / (1 + RATE)  # the longest that anybody may believe: no slack hides a mistake
FAR = 1000.0


def slow_reply_then_partition(stage: Stage) -> tuple[Process, Process, float]:
    """Both processes, and when the first has to have stopped: so long after the send of its last renewal."""
    a = stage.process("a", clock=1 - RATE, hold=WIDEST, guard=0.0)
    b = stage.process("b", clock=1 + RATE)
    bid = stage.acquire(a)
    stage.at(0.5).want(b)
    late = 0.95 * a.terms.attempt / a.host.rate
    stage.next_swap(a, stage.answered_late(late))
    before = len(stage.swaps(a))
    while len(stage.swaps(a)) == before:
        stage.run(stage.world.time + 0.01)
    renewal = stage.swaps(a)[-1]
    stage.run(renewal.asked + late + 0.02)
    assert bid.machine.deadline > renewal.hold + a.terms.hold - ROUND, "its answer has come"
    stage.scene.partition(a.host, FAR)
    stage.until_held(b)
    return a, b, renewal.asked + a.terms.hold / a.host.rate


@each_network
def test_a_slow_reply_and_then_a_partition_make_no_second_leader(kind: Kind) -> None:
    """S4: a renewal counts from its send, so that the old leader has stopped when the next one starts, with
    clocks at both ends of the bound and no slack."""
    stage = Stage(kind, rate=RATE)
    a, _, ends = slow_reply_then_partition(stage)
    assert stage.marks(a, "lost")[0].at == near(ends) and ends < stage.world.time


@each_network
def test_a_count_from_the_reply_makes_a_second_leader_there(kind: Kind) -> None:
    """The same with the one mistake of client-go: the run fails, because both believe at once."""
    machine, _ = modules(MUTANTS["renewed-from-reply"])
    stage = Stage(kind, rate=RATE, machine=machine.Machine)
    with pytest.raises(Violation):
        slow_reply_then_partition(stage)


def told_to_stop(stage: Stage, process: Process, bid: Bid) -> None:
    """As an elector does it: the work is told to stop, and the lease is renewed no more."""
    process.feed(bid, bid.machine.renew_until, process.host.instant().hold)


@each_network
@pytest.mark.parametrize("lands", ["never", "in time", "after the takeover", "after all"])
def test_a_partition_while_the_work_stops_makes_no_second_leader(kind: Kind, lands: str) -> None:
    """S1, S24: who releases has stopped working; a release that lands late frees its own version alone."""
    stage = Stage(kind)
    a, b = stage.process("a"), stage.process("b")
    bid = stage.acquire(a)
    stage.at(0.5).want(b)
    stage.run(1.0)
    stopped = 1.0 + bid.machine.terms.hold / 2
    arrives = {"never": FAR, "in time": stopped + 1.0, "after the takeover": 2.5 * TTL, "after all": 5 * TTL}
    stage.next_swap(a, *[stage.arriving(arrives[lands])] * 40)
    stage.next_read(a, *[stage.lost] * 40)
    told_to_stop(stage, a, bid)
    stage.run(stopped)
    assert bid.working and stage.holds(bid), "the work dawdles, under a lease that stands"
    assert stage.holder() == "a" and not stage.marks(b, "granted")
    a.finish(bid)
    held = stage.until_held(b)
    assert stage.world.time < stopped + 1.0 + ROUND if lands == "in time" else stage.world.time > TTL
    stage.at(4 * TTL).do(b.finish, held)
    stage.run(3 * TTL)
    assert stage.holds(held) and stage.record().id == held.machine.claim_id
    stage.run(4 * TTL + 0.5)
    again = stage.acquire(b)
    stage.run(6 * TTL)
    assert stage.holds(again) and stage.record().id == again.machine.claim_id


@each_network
def test_work_that_does_not_stop_in_a_partition_is_lost_and_not_released(kind: Kind) -> None:
    """S41: its lease runs out at the deadline it has, whatever hangs, and the next one starts after that."""
    stage = Stage(kind)
    a, b = stage.process("a", react=FAR), stage.process("b")
    bid = stage.acquire(a)
    stage.at(0.5).want(b)
    stage.run(1.0)
    stage.scene.partition(a.host, FAR)
    told_to_stop(stage, a, bid)
    deadline = a.host.real(bid.machine.deadline)
    stage.until_held(b)
    assert stage.marks(a, "lost")[0].at == near(deadline) and deadline < stage.world.time
    assert all(call.asked < 1.0 for call in stage.swaps(a)), "nothing was renewed, and nothing released"


@every_kind
@pytest.mark.parametrize("renewal", [0.3, 0.9, 2 * TTL], ids=["before", "after", "after the takeover"])
@pytest.mark.parametrize("release", [0.6, 1.5 * TTL], ids=["in time", "late"])
def test_a_link_that_heals_during_the_release_makes_no_second_leader(
    kind: Kind, renewal: float, release: float
) -> None:
    """S40, S65: a renewal and a release that were stuck arrive in either order, and free nobody else."""
    stage = Stage(kind)
    a, b = stage.process("a"), stage.process("b")
    bid = stage.acquire(a)
    stage.at(0.5).want(b)
    sent = a.terms.renew
    stage.next_swap(a, stage.arriving(sent + 0.2 + renewal))
    stage.run(sent + 0.1)
    assert len(stage.swaps(a)) == 2, "its renewal is under way"
    told_to_stop(stage, a, bid)
    stage.run(sent + 0.2)
    stage.next_swap(a, stage.arriving(sent + 0.2 + release))
    a.finish(bid)
    assert not stage.marks(b, "granted")
    held = stage.until_held(b)
    if release < 1.0:
        assert stage.world.time < sent + 0.2 + a.terms.attempt + ROUND, "it need not wait for the ttl"
    stage.run(5 * TTL)
    assert stage.holds(held) and stage.record().id == held.machine.claim_id


def heals_after_the_takeover(stage: Stage) -> tuple[Process, Bid]:
    """Who was cut off, and the lease of who took over before the link healed, a while after that."""
    a, b = stage.process("a"), stage.process("b")
    bid = stage.acquire(a)
    stage.at(0.5).want(b)
    stage.at(1.0).partition(a, TTL)
    stage.at(1.1).finish(a)
    held = stage.until_held(b)
    assert stage.world.time < 1.0 + TTL and bid in a.bids, "it still looks for what it may have left"
    stage.run(3 * TTL)
    return a, held


@each_network
def test_a_release_that_meets_the_next_leader_leaves_it_alone(kind: Kind) -> None:
    """S1: what stands there when the link heals is another's, and is seen not to be its own."""
    stage = Stage(kind)
    a, held = heals_after_the_takeover(stage)
    assert not a.bids and stage.holds(held) and stage.record().id == held.machine.claim_id


@each_network
@pytest.mark.parametrize("mistake", ["release-of-what-stands", "release-after-reading"])
def test_a_release_of_whatever_stands_frees_the_next_leader_there(kind: Kind, mistake: str) -> None:
    """The same with a release that frees what it reads, as client-go's does: the run fails."""
    machine, _ = modules(MUTANTS[mistake])
    with pytest.raises(Violation, match="freed the record of b"):
        heals_after_the_takeover(Stage(kind, machine=machine.Machine))
