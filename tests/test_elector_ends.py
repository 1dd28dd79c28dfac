"""How a tenure of an `Elector` ends: callbacks in pairs, resignations, and work that will not stop."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from candidates import Candidate, Electorate, electorate, in_thread, stands_by, threads
from leases import Lease, LeaseLost, Lock
from leases.reign import Reign
from stores import Site, every_store
from stubborn import (
    PATIENCE,
    SHORT,
    Stubborn,
    another_process,
    intrude,
    memory,
    store_on,
    until,
)

__all__ = ["electorate", "threads"]  # fixtures

TTL = 15.0


def kinds(candidate: Candidate) -> list[str]:
    return [kind for kind, _ in candidate.told]


def goes_on(candidate: Candidate) -> bool:
    """Whether its health says that its work goes on after its lease."""
    return any("goes on" in reason for reason in candidate.elector.health(grace=0.0).reasons)


# ---- callbacks -----------------------------------------------------------------------------------


def test_callbacks_come_in_pairs_and_in_order(electorate: Electorate) -> None:
    """Elected, lost, elected, lost: with the tokens and the reasons, whatever ends a tenure."""
    store = store_on()
    one = electorate.candidate(store, ttl=SHORT).run().leads()
    intrude(store, "job")
    until(lambda: len(one.works) == 2)
    one.leads()
    assert one("resign")
    until(lambda: len(one.works) == 3)
    one.leads()
    assert one("stop")
    assert kinds(one) == ["elected", "lost"] * 3
    assert one.heard("elected") == [lease.token for lease in one.works]
    assert one.heard("lost") == ["superseded", "released", "released"]


def test_jeopardy_is_told_in_between(electorate: Electorate) -> None:
    """A renewal that is overdue is told once, then the loss, at the deadline, though the store is silent."""
    backend = Stubborn()
    one = electorate.candidate(store_on(backend), ttl=SHORT).run().leads()
    backend.down = True
    until(lambda: "lost" in kinds(one))
    assert kinds(one) == ["elected", "jeopardy", "lost"] and one.heard("lost") == ["expired"]
    backend.down = False


def test_the_loss_is_told_though_every_call_hangs(electorate: Electorate) -> None:
    """Nobody waits for the store: on_lost is called while the renewal under way has no answer."""
    backend = Stubborn()
    one = electorate.candidate(store_on(backend), ttl=SHORT).run().leads()
    backend.gate.clear()
    until(lambda: one.heard("lost") == ["expired"])
    assert not backend.gate.is_set()
    backend.gate.set()


def test_the_next_election_is_told_after_the_loss_before(electorate: Electorate) -> None:
    """A callback that takes its time delays the next callback, and never the work."""
    store, order = store_on(), list[str]()
    slow = threading.Event()

    def on_lost(lease: Lease, loss: LeaseLost) -> None:
        slow.wait(PATIENCE)
        order.append("lost")

    one = electorate.candidate(
        store, ttl=TTL, on_elected=lambda lease: order.append("elected"), on_lost=on_lost
    )
    if electorate.colour == "asyncio":
        slow.set()  # on a loop it would hold up the loop
    one.until = lambda lease: None if len(one.works) < 2 else slow.set()
    one.run()
    until(lambda: len(one.works) >= 2)
    until(lambda: len(order) >= 3)
    assert order[:3] == ["elected", "lost", "elected"]


def test_an_exception_in_every_callback_changes_nothing(
    electorate: Electorate, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is logged; the lease is renewed, lost when it is to be, and released."""
    store = store_on()

    def fails(*_: Any) -> None:
        raise RuntimeError("a callback's own fault")

    every: dict[str, Any] = dict.fromkeys(("on_elected", "on_jeopardy", "on_lost", "on_new_leader"), fails)
    one = electorate.candidate(store, ttl=SHORT, **every).run().leads()
    first = one.lease.deadline
    until(lambda: one.lease.deadline > first)
    intrude(store, "job")
    until(lambda: len(one.works) == 2)
    one.leads()
    assert one("stop")
    one.future.result(PATIENCE)
    assert not store.status("job").held
    ours = [record for record in caplog.records if "a callback of an elector failed" in record.getMessage()]
    assert len(ours) >= 5 and all(record.exc_info for record in ours)


def test_callbacks_that_hang_stop_nothing(threads: Electorate) -> None:
    """Renewal, loss and release go on while a callback does not return."""
    store, hang = store_on(), threading.Event()
    one = threads.candidate(store, ttl=SHORT, on_elected=lambda lease: hang.wait(PATIENCE)).run().leads()
    first = one.lease.deadline
    until(lambda: one.lease.deadline > first)
    intrude(store, "job")
    until(lambda: one.lease.lost)
    until(lambda: len(one.works) == 2)
    one.leads()
    assert one("resign") and not store.status("job").held
    hang.set()


def test_coroutine_functions_are_awaited() -> None:
    """With asyncio a callback may be a coroutine function: it is awaited before the next is called."""
    order: list[str] = []

    async def main() -> None:
        async def on_elected(lease: Lease) -> None:
            await asyncio.sleep(0.02)
            order.append("elected")

        async def on_lost(lease: Lease, loss: LeaseLost) -> None:
            order.append(loss.reason)

        elector = store_on().elector("job", ttl=TTL, on_elected=on_elected, on_lost=on_lost)

        async def work(lease: Lease) -> None:
            await elector.stop_async(0)

        await elector.run_async(work)

    asyncio.run(main())
    assert order == ["elected", "released"]


def test_new_leaders_are_told(electorate: Electorate) -> None:
    """Every observed change of leader, one's own elections and nobody too, each once."""
    store, heard = store_on(), list[Any]()
    one = electorate.candidate(store, ttl=TTL, holder="one", on_new_leader=heard.append).run().leads()
    until(lambda: heard and heard[-1] is not None)
    two = electorate.candidate(another_process(store), ttl=TTL, holder="two")
    one.until = lambda lease: None
    two.run()
    until(lambda: len(kinds(two)) == 0)
    assert one("resign")
    two.leads()
    until(lambda: heard[-1] is not None and heard[-1].holder == "two")
    assert all(one != two for one, two in itertools.pairwise(heard))
    assert [leader.token for leader in heard if leader] == sorted(
        {leader.token for leader in heard if leader}
    )


# ---- resign and transfer -------------------------------------------------------------------------


@every_store
def test_transfer_to_a_candidate(site: Site, threads: Electorate) -> None:
    """The named candidate leads next, whoever else waits; the work of the first has ended before."""
    one = threads.candidate(site.store(), ttl=site.short, holder="one").run().leads()
    elsewhere = site.store()
    two = threads.candidate(site.store(), ttl=site.short, holder="two").run()
    three = threads.candidate(elsewhere, ttl=site.short, holder="three").run()
    until(lambda: stands_by(elsewhere))
    assert one("transfer", "three")
    assert not one.working
    three.leads()
    assert two.works == [] and three.lease.token > one.works[0].token


def test_transfer_to_nobody(electorate: Electorate) -> None:
    """The others leave the lock to whom it was named for min(ttl, 5 s), then one of them leads."""
    store = store_on()
    one = electorate.candidate(store, ttl=SHORT, holder="one").run().leads()
    two = electorate.candidate(another_process(store), ttl=SHORT, holder="two").run()
    until(lambda: kinds(two) == [] and one.elector.is_leader)
    assert one("transfer", "nobody")
    at = time.monotonic()
    assert store.status("job").successor == "nobody"
    until(lambda: one.elector.is_leader or two.elector.is_leader)
    assert time.monotonic() - at > SHORT / 2


def test_transfer_within_a_process(electorate: Electorate) -> None:
    """Two electors of one process on one name: who is named leads next, though another waits longer."""
    store = store_on()
    one = electorate.candidate(store, ttl=TTL, holder="one").run().leads()
    two = electorate.candidate(store, ttl=TTL, holder="two").run()
    until(lambda: store.hub.waiters("job") == 1)
    three = electorate.candidate(store, ttl=TTL, holder="three").run()
    until(lambda: store.hub.waiters("job") == 2)
    assert one("transfer", "three")
    three.leads()
    assert not two.works


def test_resigning_without_leading_says_so(electorate: Electorate) -> None:
    """It was not this one's to give."""
    store = store_on()
    Lock("job", store=store, ttl=TTL).acquire()
    one = electorate.candidate(another_process(store), ttl=TTL).run()
    assert one("resign") is False and one("transfer", "two") is False


def test_resigning_in_jeopardy(electorate: Electorate) -> None:
    """While the store is silent a resignation is bounded, says that it is not known, and is told as one."""
    backend = Stubborn()
    one = electorate.candidate(store_on(backend), ttl=SHORT).run().leads()
    backend.silent = True
    until(lambda: "jeopardy" in kinds(one))
    at = time.monotonic()
    assert one("resign") is False
    assert time.monotonic() - at < PATIENCE / 2
    until(lambda: "lost" in kinds(one))
    assert kinds(one) == ["elected", "jeopardy", "lost"] and not one.working
    backend.silent = False
    until(lambda: len(one.works) == 2)


# ---- work that will not stop ---------------------------------------------------------------------


def test_the_lease_is_not_released_under_work(electorate: Electorate) -> None:
    """Work that was asked to stop keeps its lease, renewed, for its patience; then the lease runs out."""
    store = store_on()
    one = electorate.candidate(store, ttl=SHORT, patience=2 * SHORT)
    one.refuses().run().leads()
    clock = one.lease._tenure.hub.clock
    before = clock().hold
    assert one("resign", 0) is False
    asked = clock().hold
    until(lambda: one.lease.lost)
    assert one.lease.lost.reason == "expired" and one.working
    assert before + 2 * SHORT < one.lease.deadline  # renewed as long as that
    assert one.lease.deadline <= asked + 2 * SHORT + one.elector._lock.terms.hold
    assert store.status("job").claim is not None  # its record stands, and was not freed


def test_work_that_loops_for_ever_is_reported(
    electorate: Electorate, caplog: pytest.LogCaptureFixture
) -> None:
    """Another leads, this elector does not, its health and the log say that the work goes on, once."""
    store = store_on()
    one = electorate.candidate(store, ttl=1.5, holder="one")
    one.refuses().run().leads()
    two = electorate.candidate(another_process(store), ttl=1.5, holder="two").run()
    assert not goes_on(one)
    intrude(store, "job")
    two.leads()
    assert one.working == 1 and not one.elector.is_leader
    until(lambda: any("goes on although its lease is lost" in r.getMessage() for r in caplog.records))
    assert goes_on(one) and not one.elector.health(grace=0.0).ok
    assert one.elector.stop(0.05) is False
    one.go.set()
    until(lambda: not one.working)
    assert one.elector.stop(PATIENCE)
    assert [r for r in caplog.records if "although its lease" in r.getMessage()][1:] == []


def test_stop_gives_up_on_work_that_does_not_stop(threads: Electorate) -> None:
    """Without a timeout it waits until the lease has run out and others may lead, and no longer."""
    one = threads.candidate(store_on(), ttl=SHORT, patience=0.0)
    one.refuses().run().leads()
    assert one("stop") is False
    assert one.working and one.lease.lost.reason == "expired"


def test_at_least_once_goes_on_after_an_expiry(
    electorate: Electorate, caplog: pytest.LogCaptureFixture
) -> None:
    """Silence stops no such work; it leads no more, says so to its callbacks, and is not called lingering."""
    backend, ttl = Stubborn(), 1.2
    one = electorate.candidate(store_on(backend), "tolerated", ttl=ttl, semantics="at-least-once")
    one.until = lambda lease: None if len(one.works) > 1 else lease.ending.wait(2 * ttl)
    if electorate.colour == "asyncio":

        async def on(lease: Lease) -> None:
            await lease.ending.wait_async(2 * ttl)

        one.until = on
    one.run().leads()
    backend.down = True
    until(lambda: one.heard("lost") == ["expired"])
    assert one.working and not one.elector.is_leader and not one.lease.ending
    assert not goes_on(one)
    backend.down = False
    until(lambda: len(one.works) == 2)
    told = [record.getMessage() for record in caplog.records]  # others may be heard of late
    assert not [line for line in told if "although its lease is lost" in line and "tolerated" in line]


def test_words_reach_the_lease(threads: Electorate) -> None:
    """``on_lost`` with a word and a function: the word is the lock's, the function is called in order."""
    store, heard = store_on(), list[str]()
    elector = store.elector(
        "job", ttl=SHORT, on_lost=("interrupt", lambda _, loss: heard.append(loss.reason))
    )

    def work(lease: Lease) -> None:
        if not heard:
            in_thread(lambda: intrude(store, "job"))
            time.sleep(PATIENCE)
            raise AssertionError("it was not interrupted")
        elector.stop()

    at = time.monotonic()
    elector.run(work)
    assert heard[0] == "superseded" and time.monotonic() - at < PATIENCE / 2


def test_work_that_has_ended_is_not_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that comes after the work, before the release, interrupts nothing that is not the work."""
    store = store_on()
    elector = store.elector("job", ttl=1.0, on_lost="interrupt")
    real = Reign.work_stopped

    def work_stopped(reign: Reign) -> None:
        intrude(store, "job")
        assert reign.lease.lost.wait(PATIENCE)
        time.sleep(0.05)  # an interrupt would come now
        real(reign)

    monkeypatch.setattr(Reign, "work_stopped", work_stopped)
    elector.run(lambda lease: elector.stop())
    assert elector.error is None


@pytest.mark.parametrize("word", ["exit", "kill"])
def test_the_last_words_are_heard(word: str) -> None:
    """``on_lost`` with a word that ends the process: the function is called before that."""
    program = f"""
import sys, time
from leases import Elector
from stubborn import intrude, store_on
from candidates import in_thread
store = store_on()
def heard(lease, loss):
    print("heard", loss.reason, flush=True)
def work(lease):
    in_thread(lambda: intrude(store, "job"))
    time.sleep(20)
store.elector("job", ttl=1.0, on_lost=({word!r}, heard)).run(work)
"""
    root = Path(__file__).parent
    path = os.pathsep.join([str(root), str(root.parent), str(root.parent / "backends")])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "heard superseded\n"
    assert done.returncode == (70 if word == "exit" else -9)


def test_stop_within_tells_before_the_deadline(threads: Electorate) -> None:
    """on_lost is called when the work is to stop, so many seconds before the lease ends."""
    backend, left = Stubborn(), list[float]()
    one = threads.candidate(
        store_on(backend), ttl=1.2, stop_within=0.2, on_lost=lambda lease, loss: left.append(lease.remaining)
    )
    one.refuses().run().leads()
    backend.down = True
    until(lambda: left)
    assert 0.0 < left[0] <= 0.2
    backend.down = False


def test_other_processes_see_no_leader_while_nobody_leads() -> None:
    """Once stopped, nobody leads."""
    store = store_on(memory())
    elector = store.elector("job", ttl=TTL).start()
    until(lambda: elector.is_leader)
    assert elector.stop() and elector.leader() is None and store.elector("job").leader() is None
