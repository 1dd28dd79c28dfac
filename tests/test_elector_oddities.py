"""What an `Elector` meets that is odd: cancelled callbacks, faulty stores, signals that come early."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress
from typing import Any

import pytest

from candidates import Electorate, electorate, in_thread, stands_by, threads
from leases import ConfigurationError, Lease, LeaseLost, campaign
from leases.observer import Leader, Lookout
from leases.reign import Reign
from stubborn import (
    PATIENCE,
    SHORT,
    Stubborn,
    another_process,
    break_,
    leftovers,
    store_on,
    until,
)
from test_interrupts import CtrlC, everywhere, probe

__all__ = ["electorate", "threads"]  # fixtures

TTL = 15.0


# ---- who bids ------------------------------------------------------------------------------------


@pytest.mark.waits
def test_who_still_works_makes_no_bid(electorate: Electorate) -> None:
    """Work that goes on after a loss could not take the leadership: whoever leads meanwhile is left alone."""
    store = store_on()
    high = electorate.candidate(store, ttl=1.0, holder="high", priority=9).refuses().run().leads()
    elsewhere = another_process(store)
    low = electorate.candidate(elsewhere, ttl=1.0, holder="low", priority=1).run()
    until(lambda: stands_by(elsewhere))
    break_(store, "job")
    low.leads()
    time.sleep(1.5)  # nothing is to happen
    assert low.elector.is_leader and len(low.works) == 1
    high.go.set()
    high.until = None
    until(lambda: len(high.works) == 2)  # It is preferred again as soon as it can lead.


# ---- callbacks -----------------------------------------------------------------------------------


def test_a_callback_that_is_cancelled_stops_no_other() -> None:
    """One that ends by somebody's cancellation is logged as any other failure, and the next are called."""
    told: list[str] = []

    async def main() -> None:
        async def on_elected(lease: Any) -> None:
            raise asyncio.CancelledError

        async def work(lease: Any) -> None:
            await asyncio.sleep(0.01)
            await elector.stop_async()

        elector = store_on().elector(
            "job", ttl=TTL, on_elected=on_elected, on_lost=lambda lease, loss: told.append(loss.reason)
        )
        await elector.run_async(work)

    asyncio.run(main())
    assert told == ["released"]


def test_the_loss_is_told_where_all_tasks_are_cancelled() -> None:
    """As the end of asyncio.run does to what is left."""
    told: list[str] = []

    async def main() -> None:
        begun = asyncio.Event()

        async def work(lease: Any) -> None:
            begun.set()
            await asyncio.Event().wait()

        elector = store.elector(
            "job",
            ttl=TTL,
            on_elected=lambda lease: told.append("elected"),
            on_lost=lambda lease, loss: told.append(loss.reason),
        )
        task = asyncio.create_task(elector.run_async(work))
        await begun.wait()
        assert not task.done()

    store = store_on()
    asyncio.run(main())
    assert told == ["elected", "released"] and not store.status("job").held


def test_a_loss_before_the_work_begins_is_told_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """However early: the election first, and no work begins under a lease that is over."""
    store, told, worked = store_on(), [], []
    elector = store.elector(
        "job",
        ttl=SHORT,
        on_elected=lambda lease: told.append("elected"),
        on_lost=lambda lease, loss: told.append(loss.reason),
    )
    real = Reign.begin

    def begin(self: Any) -> None:
        if not told:
            break_(store, "job")
            until(lambda: self.lease.lost)
            time.sleep(0.1)  # for who calls on_lost
        real(self)

    def work(lease: Any) -> None:
        worked.append(bool(lease.lost))
        elector.stop()

    monkeypatch.setattr(Reign, "begin", begin)
    in_thread(lambda: elector.run(work)).result(PATIENCE)
    assert told == ["elected", "broken", "elected", "released"] and worked == [False]


def test_ctrl_c_between_election_and_work_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is told for every election that was."""
    store, told = store_on(), []
    elector = store.elector(
        "job",
        ttl=TTL,
        on_elected=lambda lease: told.append("elected"),
        on_lost=lambda lease, loss: told.append(loss.reason),
    )
    real = campaign.Part.elected

    def elected(self: Any, lease: Any) -> Any:
        real(self, lease)
        raise KeyboardInterrupt

    monkeypatch.setattr(campaign.Part, "elected", elected)
    with pytest.raises(KeyboardInterrupt):
        elector.run(lambda lease: None)
    assert told == ["elected", "released"]
    until(lambda: not leftovers(store))


def test_ctrl_c_at_some_instructions() -> None:
    """Wherever it comes: on_lost for each on_elected, nothing is left, and it can take part again."""

    def run(place: int) -> bool:
        told: list[str] = []
        rounds = iter((False, True))
        with store_on() as store:
            elector = store.elector(
                "job",
                ttl=0.5,
                on_elected=lambda lease: told.append("elected"),
                on_lost=lambda lease, loss: told.append("lost"),
            )

            def work(lease: Lease) -> None:
                if next(rounds):
                    elector.stop()

            ctrl_c = CtrlC(place)
            with ctrl_c.struck(), suppress(RuntimeError):  # by which a Condition hides it
                elector.run(work)
            until(lambda: told.count("elected") == told.count("lost"))
            assert told == ["elected", "lost"] * (len(told) // 2), ctrl_c.where
            assert elector.stop(PATIENCE), ctrl_c.where
            if ctrl_c.where:
                probe(store, ctrl_c)
            return bool(ctrl_c.where)

    assert everywhere(run, 11) > 100


# ---- the work ------------------------------------------------------------------------------------


def test_a_loss_in_a_group_is_the_same_loss() -> None:
    """Tasks of a group that end by check() end the work as it was to end; what else they raise does not."""
    store, groups = store_on(), []

    async def step(lease: Any) -> None:
        while True:
            lease.check()
            await asyncio.sleep(0.005)

    async def work(lease: Any) -> None:
        groups.append(lease.token)
        if len(groups) == 1:
            lease.ask_to_stop()
        else:
            elector.stop(0)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(step(lease))
                group.create_task(step(lease))
        except asyncio.CancelledError:
            lease.check()

    elector = store.elector("job", ttl=TTL)
    asyncio.run(asyncio.wait_for(elector.run_async(work), PATIENCE))
    assert len(groups) == 2

    def work_in_threads(lease: Any) -> None:
        lease.ask_to_stop()
        try:
            lease.check()
        except LeaseLost as loss:
            elector.stop(0)
            raise ExceptionGroup("several", [loss, ExceptionGroup("more", [loss])]) from None

    elector.run(work_in_threads)

    def fails(lease: Any) -> None:
        lease.ask_to_stop()
        try:
            lease.check()
        except LeaseLost as loss:
            raise ExceptionGroup("several", [loss, ValueError("bad")]) from None

    with pytest.raises(ExceptionGroup):
        elector.run(fails)


# ---- what is odd about a store ------------------------------------------------------------------


def test_a_lookout_outlives_a_faulty_store() -> None:
    """An error that no store should raise is logged, and who leads is told when it can be seen."""
    backend, fails = Stubborn(), [2]
    told: list[Leader | None] = []
    store = store_on(backend)

    def fail(kind: str, name: str) -> None:
        if kind == "read" and fails[0]:
            fails[0] -= 1
            raise ValueError("a fault of the client")

    backend.before = fail
    lookout = Lookout(lambda: store.hub, "job", told.append)
    until(lambda: not fails[0])
    with store.lock("job", ttl=TTL, holder="one"):
        until(lambda: told and told[-1] is not None and told[-1].holder == "one")
    lookout.close()


def test_renew_while_that_exits_is_a_no(threads: Electorate) -> None:
    """Even SystemExit is one no, and the next answer counts again."""
    answers: list[object] = [True, SystemExit(1), True]

    def gets_on() -> bool:
        answer = answers.pop(0) if answers else True
        if isinstance(answer, BaseException):
            raise answer
        return True

    one = threads.candidate(store_on(), ttl=1.0, renew_while=gets_on).run().leads()
    until(lambda: not answers)
    time.sleep(1.5)  # nothing is to happen
    assert one.elector.is_leader and len(one.works) == 1


def test_a_coroutine_is_no_answer(threads: Electorate, caplog: pytest.LogCaptureFixture) -> None:
    """What gives a coroutine to a thread says nothing, which is a no, and says what to pass instead."""

    async def gets_on() -> bool:
        return False

    one = threads.candidate(store_on(), ttl=0.5, renew_while=lambda: gets_on()).run().leads()
    until(lambda: one.heard("lost") == ["expired"])
    assert "pass a coroutine function itself" in caplog.text


def test_a_question_that_hangs_on_a_loop_is_cancelled() -> None:
    """It is a no, and does not stay there beside the next for ever."""
    asked: list[str] = []

    async def gets_on() -> bool:
        asked.append("asked")
        try:
            await asyncio.Event().wait()
        finally:
            asked.append("cancelled")
        return True

    async def main() -> None:
        elector = store_on().elector("job", ttl=0.3, renew_while=gets_on)
        task = asyncio.create_task(elector.run_async(forever))
        while "cancelled" not in asked:
            await asyncio.sleep(0.01)
        await elector.stop_async()
        await task

    async def forever(lease: Lease) -> None:
        await asyncio.Event().wait()

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert asked[:2] == ["asked", "cancelled"]


def test_work_that_gives_a_coroutine_is_refused() -> None:
    """It would do nothing, again and again: it comes out of run, which has released."""
    store = store_on()

    async def coroutine(lease: Lease) -> None: ...

    with pytest.raises(ConfigurationError, match="await run_async"):
        store.elector("job", ttl=TTL).run(lambda lease: coroutine(lease))
    assert not store.status("job").held


def test_an_interruption_before_the_work_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss between election and work ends nothing but the tenure: it takes part again."""
    store, told = store_on(), []
    worked: list[int] = []

    def on_lost(lease: Lease, loss: LeaseLost) -> None:
        told.append(loss.reason)

    elector = store.elector("job", ttl=1.0, on_lost=("interrupt", on_lost))
    real = campaign.Part.elected

    def elected(self: campaign.Part, lease: Lease) -> Any:
        reign = real(self, lease)
        if not told:
            break_(store, "job")
            until(lambda: told)
        return reign

    def work(lease: Lease) -> None:
        worked.append(lease.token)
        elector.stop()

    monkeypatch.setattr(campaign.Part, "elected", elected)
    elector.run(work)
    assert len(worked) == 1 and told == ["broken", "released"]


# ---- signals -------------------------------------------------------------------------------------


def test_a_signal_before_run_is_not_forgotten() -> None:
    """What comes in the body before run, or between two, ends the next at once; after the body it is over."""
    store = store_on()
    worked: list[Lease] = []
    elector = store.elector("job", ttl=TTL)
    with elector.stop_on():
        os.kill(os.getpid(), signal.SIGTERM)
        elector.run(worked.append)
        elector.run(worked.append)
    assert not worked

    def work(lease: Any) -> None:
        worked.append(lease)
        elector.stop()

    elector.run(work)
    assert len(worked) == 1
