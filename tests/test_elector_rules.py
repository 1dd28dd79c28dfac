"""Which candidate leads: priorities and their bids, the progress rule, and what one look shows."""

from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from candidates import Electorate, electorate, stands_by, threads
from leases import Lock, StoreUnavailable
from leases.campaign import _step_back  # pyright: ignore[reportPrivateUsage]
from leases.clock import Instant
from leases.terms import Terms
from leases.testing.clock import ManualClock
from stores import Site, every_store
from stubborn import (
    PATIENCE,
    SHORT,
    Stubborn,
    another_process,
    leftovers,
    memory,
    store_on,
    until,
)

__all__ = ["electorate", "threads"]  # fixtures

TTL = 15.0


def test_who_was_asked_to_let_go_lets_others_have_a_chance() -> None:
    """A quarter of the ttl, at most a second: the whole of that, and not when it is to take part no more."""
    now = [100.0]

    def part(*, stopping: bool) -> Any:
        return SimpleNamespace(
            stopping=stopping,
            clock=lambda: Instant(hold=now[0], wait=now[0], wall=0.0),
            manifesto=SimpleNamespace(lock=SimpleNamespace(terms=Terms(ttl=2.0))),
        )

    reign: Any = SimpleNamespace(
        stalled=lambda why: False, asked=True, lease=SimpleNamespace(_tenure=SimpleNamespace(hub=None))
    )
    assert list(_step_back(part(stopping=True), reign)) == []
    waits = _step_back(part(stopping=False), reign)
    assert next(waits) == 0.5
    now[0] += 0.4
    assert next(waits) == pytest.approx(0.1)
    now[0] += 0.1
    assert list(waits) == []


# ---- priority ------------------------------------------------------------------------------------


@every_store
def test_a_preferred_candidate_gets_it(site: Site, threads: Electorate) -> None:
    """A leader of lower priority hands over to a candidate of higher priority, when its work has stopped."""
    low = threads.candidate(site.store(), ttl=site.short, holder="low", priority=1).run().leads()
    high = threads.candidate(site.store(), ttl=site.short, holder="high", priority=9)
    order: list[int] = []

    def begins(lease: Any) -> Any:
        order.append(low.working)
        return lease.ending.wait()

    high.until = begins
    high.run().leads()
    assert order == [0] and low.heard("lost") == ["released"]
    seen = low.elector.leader()
    assert seen is not None and (seen.holder, seen.priority) == ("high", 9)


def test_of_several_the_highest_leads_in_the_end(electorate: Electorate) -> None:
    """However they come, and though only one can bid at a time; then the bids are withdrawn."""
    store = store_on()
    makes = [(f"p{priority}", priority) for priority in (3, 1, 7, 5)]
    candidates = {
        name: electorate.candidate(another_process(store), ttl=TTL, holder=name, priority=priority).run()
        for name, priority in makes
    }
    candidates["p7"].leads()
    until(lambda: [status.name for status in store.list()] == ["job"])
    assert candidates["p7"].elector.is_leader


def test_a_preferred_candidate_gets_it_back(electorate: Electorate) -> None:
    """When it has resigned, the next leads, and hands it back."""
    store = store_on()
    high = electorate.candidate(store, ttl=TTL, holder="high", priority=9).run().leads()
    elsewhere = another_process(store)
    low = electorate.candidate(elsewhere, ttl=TTL, holder="low", priority=1).run()
    until(lambda: stands_by(elsewhere))
    assert high("resign")
    until(lambda: len(high.works) == 2)
    assert low.works and high.works[0].token < low.lease.token < high.lease.token


def test_equal_priorities_change_nothing(electorate: Electorate) -> None:
    """Nor does one that is lower, or none."""
    store = store_on()
    one = electorate.candidate(store, ttl=TTL, holder="one", priority=5).run().leads()
    for name, priority in (("two", 5), ("three", 4), ("four", None)):
        electorate.candidate(another_process(store), ttl=TTL, holder=name, priority=priority).run()
    time.sleep(0.5)  # nothing is to happen
    assert one.elector.is_leader and len(one.works) == 1
    assert [status.name for status in store.list()] == ["job"]


def test_a_leader_without_priority_is_left_alone(electorate: Electorate) -> None:
    """Nobody bids against it, and it looks for no bids."""
    store = store_on()
    one = electorate.candidate(store, ttl=TTL, holder="one").run().leads()
    electorate.candidate(another_process(store), ttl=TTL, holder="two", priority=9).run()
    time.sleep(0.3)  # nothing is to happen
    assert one.elector.is_leader and [status.name for status in store.list()] == ["job"]


def test_the_bid_of_the_dead_moves_nobody(threads: Electorate) -> None:
    """A bid that stands there from the beginning, and is never renewed, is not handed over to."""
    store = store_on(memory("etcd"))
    dead = another_process(store)
    Lock("job/bid", store=dead, ttl=0.5, holder="dead", metadata={"leases.priority": "9"}).acquire()
    dead._hub.close()
    one = threads.candidate(store, ttl=TTL, holder="one", priority=1).run().leads()
    time.sleep(0.7)  # until it has outlived its ttl
    assert one.elector.is_leader and len(one.works) == 1


@pytest.mark.parametrize(("stated", "moves"), [("9", True), ("1", False), ("high", False)])
def test_the_bid_of_the_living_moves_the_leader(threads: Electorate, stated: str, moves: bool) -> None:
    """One that stood there before, and is renewed, does, if its priority is higher than the leader's."""
    store = store_on(memory("etcd"))
    shown = {"leases.priority": stated}
    bid = Lock("job/bid", store=another_process(store), ttl=0.6, holder="bidder", metadata=shown).acquire()
    one = threads.candidate(store, ttl=TTL, holder="one", priority=1).run().leads()
    if moves:
        until(lambda: one.heard("lost") == ["released"])
        assert store.status("job").successor == "bidder"
    else:
        time.sleep(0.5)  # nothing is to happen
        assert one.elector.is_leader
    bid.release()


def test_a_bid_ends_with_its_candidate(electorate: Electorate) -> None:
    """Who stops, or leads, does not bid any more."""
    store = store_on()
    low = electorate.candidate(store, ttl=TTL, holder="low", priority=1, patience=PATIENCE)
    low.refuses()
    low.run().leads()
    elsewhere = another_process(store)
    high = electorate.candidate(elsewhere, ttl=TTL, holder="high", priority=9).run()
    until(lambda: store.status("job/bid").holder == "high")
    assert store.status("job/bid").metadata == {"leases.priority": "9"}
    assert high("stop")
    until(lambda: not store.status("job/bid").held)
    until(lambda: not leftovers(elsewhere))


# ---- progress ------------------------------------------------------------------------------------


def test_renewed_while_it_says_yes(threads: Electorate) -> None:
    """Work that gets on keeps its lease; when it does not, the lease runs out though the work goes on."""
    store, moves = store_on(), [True]
    one = threads.candidate(store, ttl=SHORT, renew_while=lambda: moves[0]).run().leads()
    first = one.lease.deadline
    until(lambda: one.lease.deadline > first + 2 * SHORT)
    moves[0] = False
    stalled = one.lease._tenure.hub.clock().hold
    until(lambda: one.heard("lost"))
    assert one.heard("lost") == ["expired"]
    assert one.lease.deadline <= stalled + SHORT * (1 / 3 + 0.75) + 0.01
    lost_at, moves[0] = one.lease.lost.at, True
    until(lambda: len(one.works) == 2)
    assert lost_at is not None
    began = one.lease.deadline - one.elector._lock.terms.hold
    assert began >= lost_at + SHORT  # which it leaves to others


def test_who_was_stalled_makes_no_bid(threads: Electorate) -> None:
    """A preferred candidate that has lost it for want of progress leaves it to others for a ttl."""
    store, moves = store_on(), [True]
    high = threads.candidate(store, ttl=1.5, holder="high", priority=9, renew_while=lambda: moves[0])
    high.run().leads()
    moves[0] = False
    low = threads.candidate(another_process(store), ttl=TTL, holder="low", priority=1).run().leads()
    moves[0] = True
    time.sleep(0.15)  # nothing is to happen
    assert low.elector.is_leader and not store.status("job/bid").held
    until(lambda: len(high.works) == 2)
    assert low.heard("lost") == ["released"]


def test_progress_that_comes_back_in_time_goes_on(threads: Electorate) -> None:
    """A no that is followed by a yes before the lease has run out costs nothing."""
    answers = iter([True, False, True, True, False])
    one = threads.candidate(store_on(), ttl=1.0, renew_while=lambda: next(answers, True)).run().leads()
    first = one.lease.deadline
    until(lambda: one.lease.deadline > first + 1.0)
    assert one.heard("lost") == []


@pytest.mark.parametrize("how", ["raises", "hangs"])
def test_no_answer_is_a_no(threads: Electorate, how: str) -> None:
    """An exception, or an answer that does not come, counts as a no."""
    hang = threading.Event()

    def ask() -> bool:
        if how == "raises":
            raise RuntimeError("it is broken")
        return hang.wait(PATIENCE)

    one = threads.candidate(store_on(), ttl=SHORT, renew_while=ask).run()
    until(lambda: one.heard("lost") == ["expired"])
    hang.set()


def test_a_hung_worker_loses_its_lease(threads: Electorate) -> None:
    """The rule looks at the work: once that hangs another leads, though the process lives and could renew."""
    store, beats = store_on(), [time.monotonic()]
    hang = threading.Event()

    def work(lease: Any) -> None:
        for _ in range(5):
            beats[0] = time.monotonic()
            time.sleep(0.02)
        hang.wait(PATIENCE)

    one = threads.candidate(store, ttl=SHORT, renew_while=lambda: time.monotonic() < beats[0] + 0.1)
    one.until = work
    one.run().leads()
    two = threads.candidate(another_process(store), ttl=SHORT).run().leads()
    assert one.working and not one.elector.is_leader and two.elector.is_leader
    hang.set()


def test_progress_of_a_loop() -> None:
    """With asyncio it may be a coroutine function: a loop that is blocked gives no answer."""
    store = store_on()

    async def main() -> list[str]:
        told: list[str] = []

        async def alive() -> bool:
            return True

        elector = store.elector(
            "job", ttl=SHORT, renew_while=alive, on_lost=lambda _, loss: told.append(loss.reason)
        )

        async def work(lease: Any) -> None:
            await asyncio.sleep(2 * SHORT)
            assert lease.held  # as long as the loop turns
            time.sleep(2 * SHORT)  # which is the fault
            assert not lease.held
            await elector.stop_async(0)

        await elector.run_async(work)
        return told

    assert asyncio.run(main()) == ["expired"]


# ---- one look ------------------------------------------------------------------------------------


@every_store
def test_one_look_at_the_leader(site: Site) -> None:
    """Who leads, seen from elsewhere: holder, token and since when; nobody before and after."""
    store = site.store()
    elector = site.store().elector("job", ttl=site.short, holder="one", metadata={"build": "17"})
    other = store.elector("job")
    assert other.leader() is None
    elector.start()
    until(lambda: elector.is_leader)
    seen, own = other.leader(), elector.leader()
    assert seen is not None and own is not None and elector.lease is not None
    assert seen == own and seen.metadata == own.metadata == {"build": "17"}
    assert seen.since == pytest.approx(own.since, abs=1e-5)
    assert (seen.holder, seen.token) == ("one", elector.lease.token)
    assert asyncio.run(other.leader_async()) == seen
    assert elector.stop()
    assert other.leader() is None


def test_looks_add_up() -> None:
    """One look cannot tell the dead from the living; the same record, a ttl later, can."""
    clock = ManualClock()
    store = store_on(memory("etcd"), clock=clock)
    Lock("job", store=another_process(store), ttl=TTL).acquire()
    elector = store.elector("job")
    assert elector.leader() is not None
    clock.advance(TTL - 0.01)
    assert elector.leader() is not None
    clock.advance(0.01)
    assert elector.leader() is None


def test_a_look_at_a_store_that_is_away() -> None:
    """It says that it cannot say."""
    backend = Stubborn()
    backend.down = True
    with pytest.raises(StoreUnavailable):
        store_on(backend).elector("job").leader()
    with pytest.raises(ValueError, match="timeout"):
        store_on().elector("job").leader(0)


def test_observing_by_an_elector(electorate: Electorate) -> None:
    """It shows what the store shows, in both colours."""
    store = store_on()
    one = electorate.candidate(store, ttl=TTL, holder="one").run().leads()
    seen = one.elector.observe()
    first = next(seen)
    assert first is not None and first.token == one.lease.token
    assert one("stop")
    assert next(seen) is None
    seen.close()

    async def main() -> Any:
        seen = one.elector.observe_async()
        first = await anext(seen)
        await seen.aclose()
        return first

    assert asyncio.run(main()) is None
