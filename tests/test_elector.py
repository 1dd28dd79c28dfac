"""`Elector`, in both colours: who leads, when the work begins, how it is stopped, and what ends `run`."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import Any

import pytest

from candidates import Electorate, electorate, in_thread, stands_by, threads
from leases import (
    ConfigurationError,
    LeaseLost,
    Lock,
)
from leases.testing.clock import ManualClock
from stores import Site, every_store
from stubborn import (
    PATIENCE,
    SHORT,
    Stubborn,
    another_process,
    intrude,
    leftovers,
    store_on,
    until,
)

__all__ = ["electorate", "threads"]  # fixtures

TTL = 15.0


# ---- being the one -------------------------------------------------------------------------------


@every_store
def test_one_leads_and_the_next_when_it_stops(site: Site, threads: Electorate) -> None:
    """Of two candidates one works; when that one stops, its work has ended before the other's begins."""
    one = threads.candidate(site.store(), ttl=site.short, holder="one").run().leads()
    two = threads.candidate(site.store(), ttl=site.short, holder="two").run()
    seen = two.elector.leader()
    assert seen is not None and (seen.holder, seen.token) == ("one", one.lease.token)
    assert not two.elector.is_leader and two.elector.lease is None
    order: list[str] = []

    def begins(lease: Any) -> Any:
        order.append(f"two begins, {one.working} at work")
        return lease.ending.wait()

    two.until = begins
    assert one("stop") and one.future.result(PATIENCE) is None
    two.leads()
    assert order == ["two begins, 0 at work"]
    assert two.lease.token > one.lease.token


def test_the_next_leads_when_the_leader_dies(site: Site, threads: Electorate) -> None:
    """A leader of whom nothing is heard any more is followed by another, with a higher token."""
    dead = site.store()
    token = Lock("job", store=dead, ttl=site.short).acquire().token
    dead._hub.close()  # as if the process had been killed: nothing is released
    two = threads.candidate(site.store(), ttl=site.short).run().leads()
    assert two.lease.token > token


def test_leading_is_asked_of_the_clock(electorate: Electorate) -> None:
    """Past the deadline it leads no more, though nobody was told yet."""
    clock = ManualClock()
    one = electorate.candidate(store_on(clock=clock), ttl=TTL).run().leads()
    assert one.elector.lease is one.lease
    clock.advance(11.24)
    assert one.elector.is_leader
    clock.advance(0.02)
    assert not one.elector.is_leader and one.elector.lease is None
    assert "stands by" in repr(one.elector)
    assert one("stop")  # work that has lost its lease is given a moment to stop


def test_work_that_returns_gives_up_and_takes_part_again(electorate: Electorate) -> None:
    """Each time that the work returns the lock is released; the next tenure has a higher token."""
    one = electorate.candidate(store_on(), ttl=TTL)
    done = threading.Event()
    one.until = lambda lease: done.set() if len(one.works) == 3 else None
    one.run()
    assert done.wait(PATIENCE)
    until(lambda: len(one.works) >= 3)
    tokens = [lease.token for lease in one.works[:3]]
    assert tokens == sorted(set(tokens))
    assert all(lease.lost.reason == "released" for lease in one.works[:2])


def test_others_have_their_turn_when_work_returns(electorate: Electorate) -> None:
    """Who has worked steps back for a moment, and another process that waits leads next."""
    store = store_on()
    one = electorate.candidate(store, ttl=TTL).run().leads()
    elsewhere = another_process(store)
    two = electorate.candidate(elsewhere, ttl=TTL).run()
    until(lambda: stands_by(elsewhere))
    one.until = lambda lease: None
    assert one("resign")
    two.leads()


def test_what_the_work_raises_ends_run_once_released(electorate: Electorate) -> None:
    """An error of the work comes out of run, and the lock is free by then."""
    store = store_on()
    one = electorate.candidate(store, ttl=TTL)

    def fails(lease: Any) -> None:
        raise KeyError("broken")

    one.until = fails
    with pytest.raises(KeyError, match="broken"):
        one.run().future.result(PATIENCE)
    assert not store.status("job").held
    assert isinstance(one.elector.error, KeyError)
    assert one.heard("lost") == ["released"]


def test_a_loss_of_another_lease_is_an_error_of_the_work(electorate: Electorate) -> None:
    """Only the loss of its own lease ends the work as it is meant to end."""
    store = store_on()
    other = Lock("other", store=store, ttl=TTL).acquire()
    other.release()
    one = electorate.candidate(store, ttl=TTL)
    one.until = lambda lease: other.check()
    with pytest.raises(LeaseLost) as raised:
        one.run().future.result(PATIENCE)
    assert raised.value.name == "other"


def test_work_ends_by_check_and_takes_part_again(threads: Electorate) -> None:
    """A LeaseLost from check ends the work after a loss, and run goes on."""
    store = store_on()
    one = threads.candidate(store, ttl=SHORT)

    def loops(lease: Any) -> None:
        while True:
            lease.check()
            lease.ending.wait(0.01)

    one.until = loops
    one.run().leads()
    intrude(store, "job")
    until(lambda: len(one.works) == 2)
    assert one.heard("lost") == ["superseded"] and one.lease.held


# ---- stop ----------------------------------------------------------------------------------------


def test_stop_ends_a_campaign_at_once(electorate: Electorate) -> None:
    """Who waits for the leadership is called off, leaves nothing behind, and was never told of anything."""
    store = store_on()
    Lock("job", store=store, ttl=TTL).acquire()
    elsewhere = another_process(store)
    one = electorate.candidate(elsewhere, ttl=TTL).run()
    until(lambda: stands_by(elsewhere))
    assert one("stop")
    one.future.result(PATIENCE)
    until(lambda: not leftovers(elsewhere))
    assert one.told == []


def test_stop_ends_the_wait_behind_another_of_the_process(electorate: Electorate) -> None:
    """The same in the queue of the process."""
    store = store_on()
    Lock("job", store=store, ttl=TTL).acquire()
    one = electorate.candidate(store, ttl=TTL).run()
    until(lambda: store.hub.waiters("job"))
    assert one("stop")
    assert not store.hub.waiters("job")


def test_stop_ends_a_campaign_whose_store_hangs(electorate: Electorate) -> None:
    """It waits for no answer of the store."""
    backend = Stubborn()
    backend.gate.clear()
    one = electorate.candidate(store_on(backend), ttl=TTL).run()
    until(lambda: backend.calls)
    assert one("stop")
    backend.gate.set()


@pytest.mark.parametrize("when", ["_place", "_begin"])
def test_stop_comes_at_any_instant(
    electorate: Electorate, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Between the decision to campaign and the campaign, or between the election and the work."""
    store, made = store_on(), list[Any]()
    if when == "_place":
        Lock("job", store=another_process(store), ttl=TTL).acquire()
    real = getattr(Lock, when)

    def stops(self: Any, *args: Any, **options: Any) -> Any:
        if self is made[0].elector._lock:
            made[0].elector.stop(0)
        return real(self, *args, **options)

    made.append(electorate.candidate(store, ttl=TTL))
    monkeypatch.setattr(Lock, when, stops)
    made[0].run().future.result(PATIENCE)
    assert made[0].heard("elected") == [] or made[0].heard("lost") == ["released"]


def test_stop_before_anything_began() -> None:
    """An elector that takes no part has stopped, and nothing was given up."""
    elector = store_on().elector("job")
    assert elector.stop() and not elector.resign() and not elector.transfer("two")


def test_an_elector_takes_part_once_at_a_time(threads: Electorate) -> None:
    """A second run is refused, a second start is harmless, and after the end it can take part again."""
    one = threads.candidate(store_on(), ttl=TTL).run().leads()
    with pytest.raises(RuntimeError, match="takes part already"):
        one.elector.run(one.work)
    assert one.elector.start() is one.elector
    assert one.elector.is_leader and len(one.works) == 1
    assert one("stop")
    one.run().leads()


def test_stop_from_the_work_only_asks(threads: Electorate) -> None:
    """The work may stop its own elector: it does not wait for itself."""
    one = threads.candidate(store_on(), ttl=TTL)
    said: list[bool] = []

    def asks(lease: Any) -> None:
        said.append(one.elector.stop())
        lease.check()

    one.until = asks
    one.run().future.result(PATIENCE)
    assert said == [False] and one.heard("lost") == ["released"]


def test_stop_from_a_callback_only_asks(electorate: Electorate) -> None:
    """The same from a callback, in both colours."""
    made: list[Any] = []
    one = electorate.candidate(store_on(), ttl=TTL, on_elected=lambda lease: made[0].elector.stop())
    made.append(one)
    one.run().future.result(PATIENCE)
    assert one.heard("lost") == ["released"]


def test_start_leads_without_work() -> None:
    """`start` is for who only asks `is_leader`; what ends it by an error is kept and logged."""
    store = store_on()
    elector = store.elector("job", ttl=SHORT).start()
    until(lambda: elector.is_leader)
    intrude(store, "job")
    until(lambda: not elector.is_leader)
    until(lambda: elector.is_leader)  # it takes part again
    assert elector.stop()
    assert not store.status("job").held and elector.error is None


def test_stop_on_a_signal() -> None:
    """In the body of stop_on SIGTERM stops the elector, after it the handlers are as they were."""
    elector, begun = store_on().elector("job", ttl=TTL), threading.Event()
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)

    def work(lease: Any) -> None:
        begun.set()
        os.kill(os.getpid(), signal.SIGUSR1)
        lease.ending.wait()

    with elector.stop_on(signal.SIGTERM, signal.SIGUSR1) as same:
        assert same is elector
        elector.run(work)
    assert begun.is_set() and elector.error is None
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)) == before


def test_stop_on_a_signal_on_a_loop() -> None:
    """The same with asyncio, whose loop waits in the main thread."""
    elector = store_on().elector("job", ttl=TTL)

    async def work(lease: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    with elector.stop_on():
        asyncio.run(elector.run_async(work))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_signals_are_for_the_main_thread() -> None:
    """Elsewhere stop_on is refused, with the way out."""
    elector = store_on().elector("job")

    def enter() -> None:
        with elector.stop_on():
            raise AssertionError("it was entered")

    with pytest.raises(ConfigurationError, match="main thread"):
        in_thread(enter).result(PATIENCE)


def test_ctrl_c_in_the_work_releases(monkeypatch: pytest.MonkeyPatch) -> None:
    """A KeyboardInterrupt in the work, or while it campaigns, comes out of run and leaves nothing behind."""
    store = store_on()
    elector = store.elector("job", ttl=TTL)

    def struck(lease: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        elector.run(struck)
    assert not store.status("job").held
    Lock("job", store=another_process(store), ttl=TTL).acquire()
    main = threading.main_thread().ident
    assert main is not None

    def strike() -> None:
        until(lambda: stands_by(store))
        signal.pthread_kill(main, signal.SIGINT)

    struck_by = in_thread(strike)
    with pytest.raises(KeyboardInterrupt):
        elector.run(struck)
    struck_by.result(PATIENCE)
    until(lambda: not leftovers(store))


def test_the_work_does_not_wait_for_its_own_lock(electorate: Electorate) -> None:
    """Whoever leads holds the lock of that name: waiting for it in the work is refused."""
    store = store_on()
    one = electorate.candidate(store, ttl=TTL)

    async def waits(lease: Any) -> None:
        await Lock("job", store=store).acquire_async()

    one.until = waits if electorate.colour == "asyncio" else lambda lease: Lock("job", store=store).acquire()
    with pytest.raises(ConfigurationError, match="wait for itself"):
        one.run().future.result(PATIENCE)


# ---- asyncio -------------------------------------------------------------------------------------


def test_cancelling_run_async_stops_the_work_first() -> None:
    """Cancelled, it cancels the work, waits as long as that takes to stop, and releases then."""
    store, order = store_on(), []

    async def main() -> None:
        elector = store.elector("job", ttl=TTL)
        begun = asyncio.Event()

        async def work(lease: Any) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.05)
                order.append(store.status("job").held)

        task = asyncio.create_task(elector.run_async(work))
        await begun.wait()
        task.cancel()
        await asyncio.sleep(0.01)
        task.cancel()  # twice is once more
        with pytest.raises(asyncio.CancelledError):
            await task
        order.append(store.status("job").held)

    asyncio.run(main())
    assert order in ([True, False], [False])  # the second cancellation may have struck the last sleep


def test_asking_from_within_does_not_wait() -> None:
    """The work and the callbacks of a loop may stop and resign: they are not told to wait for themselves."""
    said: list[bool] = []

    async def main() -> None:
        async def on_lost(lease: Any, loss: Any) -> None:
            said.append(await elector.stop_async())

        elector = store_on().elector("job", ttl=TTL, on_lost=on_lost)

        async def work(lease: Any) -> None:
            said.append(await elector.resign_async())
            await asyncio.Event().wait()

        await asyncio.wait_for(elector.run_async(work), 1.5)

    asyncio.run(main())
    assert said[:2] == [False, False]


def test_work_that_cancels_itself_ends_run() -> None:
    """A cancellation that nobody asked for is the work's own end, and comes out of run."""
    store = store_on()

    async def work(lease: Any) -> None:
        raise asyncio.CancelledError

    async def main() -> None:
        with pytest.raises(asyncio.CancelledError):
            await store.elector("job", ttl=TTL).run_async(work)

    asyncio.run(main())
    assert not store.status("job").held


def test_work_on_a_loop_is_cancelled_at_a_loss() -> None:
    """A task is cancelled when its lease is lost, whatever on_lost is; then the elector takes part again."""
    store = store_on()

    async def main() -> list[str]:
        told: list[str] = []
        elector = store.elector("job", ttl=SHORT, on_lost=lambda lease, loss: told.append(loss.reason))
        again = asyncio.Event()

        async def work(lease: Any) -> None:
            if told:
                again.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                told.append("cancelled")
                raise

        task = asyncio.create_task(elector.run_async(work))
        while not elector.is_leader:
            await asyncio.sleep(0.005)
        await asyncio.to_thread(intrude, store, "job")
        await asyncio.wait_for(again.wait(), PATIENCE)
        found = list(told)
        assert await elector.stop_async()
        await task
        return found

    assert sorted(asyncio.run(main())) == ["cancelled", "superseded"]
