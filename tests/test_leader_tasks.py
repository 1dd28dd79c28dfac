"""`leader_only` on coroutine functions: what tasks, cancellations and the event loop see of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest

from hands import PATIENCE
from leases import LeaseLost, NotLeader, Store, leader_only
from leases.cancelling import Cancel
from leases.clock import Clock
from leases.endings import Manner
from leases.stopper import Stopper
from leases.testing.sandbox import sandbox
from stubborn import SHORT, another_process, break_, store_on, until


@contextmanager
def shop() -> Generator[Store]:
    """A store, and nothing left of it."""
    store = store_on()
    try:
        yield store
    finally:
        store.hub.close()


def play(test: Callable[[Store], Awaitable[Any]]) -> Any:
    """Run a test in an event loop, on a store."""
    with shop() as store:
        return asyncio.run(asyncio.wait_for(_awaited(test(store)), PATIENCE))


async def _awaited(it: Awaitable[Any]) -> Any:
    return await it


class Body:
    """A body that says that it has begun, and goes on when it is told to, if ever."""

    def __init__(self) -> None:
        self.began, self.go_on = asyncio.Event(), asyncio.Event()
        self.ended: BaseException | str | None = None

    async def __call__(self) -> str:
        self.began.set()
        try:
            await self.go_on.wait()
        except BaseException as error:
            self.ended = error
            raise
        self.ended = "of itself"
        return "ran"


def test_the_loop_goes_on_while_a_call_waits() -> None:
    """A call that waits for the lead lets other tasks run, also with the first look at the store."""

    async def test(store: Store) -> None:
        with another_process(store) as other:
            lock = await other.lock("job").acquire_async()

            @leader_only("job", store=store, otherwise="wait")
            async def led() -> str:
                return "ran"

            call = asyncio.create_task(led())
            for _ in range(10):
                await asyncio.sleep(0.005)
            assert not call.done()
            await lock.release_async()
            assert await call == "ran"
            assert await led.resign_async(PATIENCE)

    play(test)


def test_a_call_that_is_cancelled_while_it_waits() -> None:
    """It leaves nothing behind, and this process leads when it can all the same."""

    async def test(store: Store) -> None:
        body = Body()
        led = leader_only("job", store=store, otherwise="wait")(body.__call__)
        with another_process(store) as other:
            lock = await other.lock("job").acquire_async()
            call = asyncio.create_task(led())
            await asyncio.sleep(0.02)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert body.ended is None and not body.began.is_set()
            await lock.release_async()
            await asyncio.to_thread(until, lambda: led.is_leader)
        assert await led.resign_async(PATIENCE)

    play(test)


def test_a_call_that_is_cancelled_while_it_runs() -> None:
    """Its error is the CancelledError; the lead stays, and is not held up by it."""

    async def test(store: Store) -> None:
        body = Body()
        led = leader_only("job", store=store)(body.__call__)
        call = asyncio.create_task(led())
        await body.began.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert led.is_leader
        assert await led.resign_async(PATIENCE)

    play(test)


def test_cancel_ends_a_call_at_the_loss() -> None:
    """on_lost="cancel": the body is cancelled, the call raises LeaseLost, and the task goes on."""

    async def test(store: Store) -> None:
        body = Body()
        led = leader_only("job", store=store, ttl=SHORT, on_lost="cancel")(body.__call__)
        call = asyncio.create_task(led())
        await body.began.wait()
        await asyncio.to_thread(break_, store, "job")
        with pytest.raises(LeaseLost) as raised:
            await call
        assert raised.value.reason == "broken"
        assert isinstance(body.ended, asyncio.CancelledError) and call.cancelling() == 0
        assert await led.resign_async(PATIENCE)

    play(test)


def test_a_call_is_stopped_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes to end, and whatever ends meanwhile."""
    stops: list[Cancel] = []

    def stop(self: Cancel, *args: Any) -> None:
        stops.append(self)

    monkeypatch.setattr(Cancel, "stop", stop)

    async def test(store: Store) -> None:
        bodies = [Body() for _ in range(3)]

        @leader_only("job", store=store, ttl=SHORT, on_lost="cancel")
        async def led(body: Body) -> str:
            return await body()

        calls = [asyncio.create_task(led(body)) for body in bodies]
        for body in bodies:
            await body.began.wait()
        await asyncio.to_thread(break_, store, "job")
        await asyncio.to_thread(until, lambda: len(stops) == 3)
        for body, call in zip(bodies, calls, strict=True):
            body.go_on.set()
            with pytest.raises(LeaseLost):
                await call
        assert await led.resign_async(PATIENCE)
        assert len(set(stops)) == len(stops) == 3

    play(test)


def test_a_loss_that_comes_as_a_call_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The function is not called where nothing would have ended it."""
    made, began = Manner.stopper, list[str]()

    with sandbox() as box:

        def made_late(manner: Manner) -> Stopper:
            box.lose("job", "superseded")
            return made(manner)

        monkeypatch.setattr(Manner, "stopper", made_late)

        @leader_only("job", on_lost="cancel")
        async def led() -> None:
            began.append("it")

        with pytest.raises(LeaseLost, match="superseded"):
            asyncio.run(led())
        assert began == [] and led.resign(PATIENCE)


def test_what_ends_a_call_goes_by_the_clock_of_its_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a test of a user's own nobody is killed because the clock of the sandbox shows another time."""
    clocks: list[Clock] = []

    def begin(self: Cancel, lease: Any, clock: Clock, stop_within: float) -> None:
        clocks.append(clock)

    monkeypatch.setattr(Cancel, "begin", begin)

    with sandbox() as box:

        @leader_only("job", on_lost="cancel")
        async def led() -> None: ...

        asyncio.run(led())
        assert clocks == [box.clock] and led.resign(PATIENCE)


def test_cancel_is_for_losses() -> None:
    """A call that is only asked to stop, as before a resignation, is not cancelled."""

    async def test(store: Store) -> None:
        body = Body()
        led = leader_only("job", store=store, on_lost="cancel")(body.__call__)
        call = asyncio.create_task(led())
        await body.began.wait()
        resigned = asyncio.create_task(led.resign_async())
        assert await led.lease().ending.wait_async(PATIENCE)
        await asyncio.sleep(0.05)  # The cancellation would come now.
        body.go_on.set()
        assert await call == "ran" and await resigned is True

    play(test)


def test_cancel_leaves_other_cancellations_alone() -> None:
    """Whoever else cancels the call sees it cancelled; and a call that has ended is not cancelled later."""

    async def test(store: Store) -> None:
        body = Body()
        led = leader_only("job", store=store, ttl=SHORT, on_lost="cancel")(body.__call__)
        call = asyncio.create_task(led())
        await body.began.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        body.go_on.set()
        assert await led() == "ran"
        await asyncio.to_thread(break_, store, "job")
        await asyncio.to_thread(until, lambda: not led.is_leader)
        await asyncio.sleep(0.05)  # The cancellation would come now, to this very task.
        assert await led.resign_async(PATIENCE)

    play(test)


def test_tasks_of_one_process_run_at_once() -> None:
    """And resign_async waits for both, without stopping the loop on which they run."""

    async def test(store: Store) -> None:
        one, two = Body(), Body()

        @leader_only("job", store=store)
        async def led(body: Body) -> str:
            return await body()

        calls = [asyncio.create_task(led(body)) for body in (one, two)]
        await one.began.wait()
        await two.began.wait()
        resigned = asyncio.create_task(led.resign_async())
        one.go_on.set()
        assert await calls[0] == "ran"
        await asyncio.sleep(0.02)
        assert not resigned.done()
        two.go_on.set()
        assert await resigned is True and await calls[1] == "ran"

    play(test)


def test_a_task_that_outlives_its_call() -> None:
    """It sees the lease of the call that began it, and no later one."""

    async def test(store: Store) -> None:
        go_on = asyncio.Event()
        tasks: list[asyncio.Task[Any]] = []

        async def later() -> Any:
            await go_on.wait()
            return led.lease()

        @leader_only("job", store=store)
        async def led() -> Any:
            tasks.append(asyncio.create_task(later()))
            return led.lease()

        first = await led()
        assert await led.resign_async(PATIENCE)
        second = await led()
        go_on.set()
        assert await tasks[0] is first and await tasks[1] is second
        assert first is not None and not first.held and second is not None and second.held
        assert await led.resign_async(PATIENCE)
        with pytest.raises(NotLeader):
            led.lease()

    play(test)


def test_a_task_that_outlives_its_call_may_wait() -> None:
    """It is no call inside of another any more, so it waits like anybody else."""

    async def test(store: Store) -> None:
        @leader_only("job", store=store, otherwise="wait")
        async def waits() -> str:
            return "ran"

        async def later() -> str:
            await go_on.wait()
            return await waits()

        @leader_only("job", store=store)
        async def led() -> asyncio.Task[str]:
            return asyncio.create_task(later())

        go_on = asyncio.Event()
        task = await led()
        assert task is not None and await led.resign_async(PATIENCE)
        with another_process(store) as other:
            lock = await other.lock("job").acquire_async()
            go_on.set()
            done, _ = await asyncio.wait([task], timeout=0.05)
            assert not done
            await lock.release_async()
            assert await task == "ran"
        assert await led.resign_async(PATIENCE)

    play(test)
