"""``on_lost="cancel"``: the task is cancelled and `LeaseLost` comes of it, as with `asyncio.timeout`."""

# ruff: noqa: PT012 - what a body of several lines raises is what is tried here

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from leases import Lease, LeaseLost, Lock, Store
from stubborn import Stubborn, lose, store_on, until

Work = Callable[[Store], Awaitable[None]]


def lock_on(store: Store, name: str = "job", **options: Any) -> Lock:
    given: dict[str, Any] = {"on_lost": "cancel", **options}
    return Lock(name, store=store, **given)


def run(work: Work, *, groups_are_left_cancelling: bool = False) -> None:
    """Run a coroutine on a store of its own; nothing of a cancellation is left in its task at the end.

    Before Python 3.13 a TaskGroup does not take its own back.
    """

    async def main() -> None:
        with store_on(Stubborn()) as store:
            await work(store)
            task = asyncio.current_task()
            assert task is not None and (task.cancelling() == 0 or groups_are_left_cancelling)
            await asyncio.sleep(0)  # Nor one that comes late.

    asyncio.run(asyncio.wait_for(main(), 20))


def down(store: Store) -> None:
    """The store gives no answer from now on."""
    backend: Any = store.hub.backend
    backend.down = True


async def for_ever() -> None:
    await asyncio.sleep(60)


def test_task_is_cancelled_at_the_loss() -> None:
    """The body is cut short at an await and LeaseLost comes out, from the CancelledError that it was."""

    async def work(store: Store) -> None:
        with pytest.raises(LeaseLost) as raised:
            async with lock_on(store):
                lose(store, "job")
                await for_ever()
        assert raised.value.name == "job"
        assert isinstance(raised.value.__cause__, asyncio.CancelledError)

    run(work)


def test_task_is_cancelled_before_the_deadline() -> None:
    """With stop_within it has so much time to clean up in, under a lease that stands."""
    left: list[float] = []

    async def work(store: Store) -> None:
        with pytest.raises(LeaseLost, match="expired"):
            async with lock_on(store, ttl=2.0, stop_within=0.45) as lease:
                down(store)
                try:
                    await for_ever()
                finally:
                    left.append(lease.remaining)
                    await asyncio.sleep(0.01)  # Cleaning up may await.

    run(work)
    assert 0 < left[0] <= 0.45


def test_function_is_called_besides() -> None:
    """A word and a function: both come."""
    losses: list[str] = []

    async def work(store: Store) -> None:
        lock = lock_on(store, on_lost=("cancel", lambda lease, loss: losses.append(loss.reason)))
        with pytest.raises(LeaseLost):
            async with lock:
                lose(store, "job")
                await for_ever()

    run(work)
    until(lambda: len(losses) == 1)


def test_decorated_coroutine_is_cancelled() -> None:
    """A decorated function raises LeaseLost to its caller."""

    async def work(store: Store) -> None:
        @lock_on(store)
        async def job() -> None:
            lose(store, "job")
            await for_ever()

        with pytest.raises(LeaseLost):
            await job()

    run(work)


def test_body_of_a_lease_is_cancelled() -> None:
    """A lease that was acquired elsewhere cancels the task that entered it, and not the one that acquired."""

    async def work(store: Store) -> None:
        lease = await lock_on(store).acquire_async()
        entered = asyncio.Event()

        async def body() -> None:
            async with lease:
                entered.set()
                await for_ever()

        task = asyncio.create_task(body())
        await entered.wait()
        lose(store, "job")
        with pytest.raises(LeaseLost):
            await task

    run(work)


def test_plain_body_of_a_lease_is_cancelled() -> None:
    """The body of a lease that was acquired by asyncio may be a plain `with`: LeaseLost comes of it, too."""

    async def work(store: Store) -> None:
        with pytest.raises(LeaseLost) as raised, await lock_on(store).acquire_async():
            lose(store, "job")
            await for_ever()
        assert isinstance(raised.value.__cause__, asyncio.CancelledError)

    run(work)


def test_without_a_body_the_acquiring_task_is_cancelled() -> None:
    """Outside of a body nobody can make LeaseLost of it: it is a plain cancellation."""

    async def work(store: Store) -> None:
        async def hold() -> None:
            lease = await lock_on(store).acquire_async()
            try:
                lose(store, "job")
                await for_ever()
            finally:
                await lease.release_async()

        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(hold())

    run(work)


# ---- cancellations from elsewhere ----------------------------------------------------------------


def test_cancellation_from_elsewhere_stays_one() -> None:
    """A task that somebody cancels is cancelled, whatever its lock's on_lost."""

    async def work(store: Store) -> None:
        async def body() -> None:
            async with lock_on(store):
                await for_ever()

        task = asyncio.create_task(body())
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(work)


@pytest.mark.parametrize("first", ["loss", "cancellation"])
def test_both_at_once_is_a_cancellation(first: str) -> None:
    """Who cancels from elsewhere is heard, even where the lease is lost in the same moment."""

    async def work(store: Store) -> None:
        async def body() -> None:
            async with lock_on(store) as lease:
                lose(store, "job")
                until(lambda: lease.lost)  # Blocks the loop: the loss waits for it now.
                if first == "loss":
                    asyncio.get_running_loop().call_soon(task.cancel)
                else:
                    task.cancel()
                await for_ever()

        task = asyncio.create_task(body())
        with pytest.raises(asyncio.CancelledError):
            await task

    run(work)


def test_loss_after_the_body_cancels_nobody() -> None:
    """A cancellation that comes when the body has ended is taken back: the release and what follows go on."""

    async def work(store: Store) -> None:
        async with lock_on(store) as lease:
            lose(store, "job")
            until(lambda: lease.lost)  # The cancellation waits for the loop; the body ends before it is free.
            with contextlib.suppress(LeaseLost):
                lease.check()
            lost = lease
        await asyncio.sleep(0.05)
        assert lost.lost

    with pytest.raises(LeaseLost):  # At the end of the body, as ever.
        run(work)


def test_task_that_goes_on_after_the_end_is_left_alone() -> None:
    """The same, and the task does other things afterwards."""

    async def work(store: Store) -> None:
        with contextlib.suppress(LeaseLost):
            async with lock_on(store) as lease:
                lose(store, "job")
                until(lambda: lease.lost)
        await asyncio.sleep(0.05)

    run(work)


def test_body_that_swallows_it_raises_at_its_end() -> None:
    """Who suppresses the CancelledError has the loss at the end of the body, and a task in good order."""

    async def work(store: Store) -> None:
        with pytest.raises(LeaseLost):
            async with lock_on(store):
                lose(store, "job")
                with contextlib.suppress(asyncio.CancelledError):
                    await for_ever()

    run(work)


def test_error_of_the_body_comes_first() -> None:
    """What the body raises while it is cancelled is not replaced, and has a note of the loss."""

    async def work(store: Store) -> None:
        with pytest.raises(KeyError) as raised:
            async with lock_on(store):
                lose(store, "job")
                try:
                    await for_ever()
                finally:
                    raise KeyError("in the clean-up")
        assert "is lost" in raised.value.__notes__[0]

    run(work)


# ---- nested --------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["inner", "outer", "both"])
def test_nested_locks(which: str) -> None:
    """The loss comes out of the lock that was lost: of the outer one where both were."""

    async def work(store: Store) -> None:
        passed: list[str] = []
        with pytest.raises(LeaseLost) as raised:
            async with lock_on(store, "outer") as outer:
                try:
                    async with lock_on(store, "inner") as inner:
                        lost = [it for it in (inner, outer) if which in (it.name, "both")]
                        for lease in lost:
                            lose(store, lease.name)
                        until(lambda: all(lease.lost for lease in lost))  # Blocks the loop meanwhile.
                        await for_ever()
                except BaseException as error:
                    passed.append(type(error).__name__)
                    raise
        assert raised.value.name == ("inner" if which == "inner" else "outer")
        assert passed == ["LeaseLost" if which == "inner" else "CancelledError"]

    run(work)


@pytest.mark.parametrize("inside", [True, False], ids=["in both", "in the outer"])
def test_reentrant_bodies(inside: bool) -> None:
    """A loss in the inner body, or after it, comes out of the outer one as LeaseLost."""

    async def work(store: Store) -> None:
        lock = lock_on(store, reentrant=True)
        with pytest.raises(LeaseLost):
            async with lock:
                async with lock:
                    if inside:
                        lose(store, "job")
                        await for_ever()
                lose(store, "job")
                await for_ever()

    run(work)


@pytest.mark.parametrize("lost", [True, False], ids=["lost", "timed out"])
def test_inside_of_a_timeout(lost: bool) -> None:
    """`asyncio.timeout` around it sees its own cancellations, and LeaseLost of the others."""

    async def work(store: Store) -> None:
        with pytest.raises(LeaseLost if lost else TimeoutError):
            async with asyncio.timeout(10 if lost else 0.05):
                async with lock_on(store):
                    if lost:
                        lose(store, "job")
                    await for_ever()

    run(work)


@pytest.mark.parametrize("lost", [True, False], ids=["lost", "timed out"])
def test_outside_of_a_timeout(lost: bool) -> None:
    """The other way round."""

    async def work(store: Store) -> None:
        with pytest.raises(LeaseLost if lost else TimeoutError):
            async with lock_on(store):
                async with asyncio.timeout(10 if lost else 0.05):
                    if lost:
                        lose(store, "job")
                    await for_ever()

    run(work)


def test_task_group_in_the_body() -> None:
    """The tasks of a group in the body are cancelled with it, before LeaseLost comes out."""
    ended: list[str] = []

    async def work(store: Store) -> None:
        async def child() -> None:
            try:
                await for_ever()
            finally:
                ended.append("child")

        with pytest.raises(LeaseLost):
            async with lock_on(store):
                lose(store, "job")
                async with asyncio.TaskGroup() as group:
                    group.create_task(child())
                    group.create_task(child())

    run(work)
    assert ended == ["child", "child"]


def test_body_in_a_task_group() -> None:
    """A group around it meets LeaseLost as the error of one of its tasks, and cancels the others."""

    async def work(store: Store) -> None:
        async def body() -> None:
            async with lock_on(store):
                lose(store, "job")
                await for_ever()

        with pytest.raises(ExceptionGroup) as raised:
            async with asyncio.TaskGroup() as group:
                group.create_task(body())
                group.create_task(for_ever())
        [loss] = raised.value.exceptions
        assert isinstance(loss, LeaseLost)

    run(work, groups_are_left_cancelling=sys.version_info < (3, 13))


# ---- anyio ---------------------------------------------------------------------------------------


def test_anyio_group_in_the_body() -> None:
    """The tasks of an anyio group in the body are cancelled with it."""
    ended: list[str] = []

    async def work(store: Store) -> None:
        async def child() -> None:
            try:
                await anyio.sleep(60)
            finally:
                ended.append("child")

        with pytest.raises(LeaseLost):
            async with lock_on(store):
                lose(store, "job")
                async with anyio.create_task_group() as group:
                    group.start_soon(child)
                    await anyio.sleep(60)

    run(work)
    assert ended == ["child"]


def test_body_in_an_anyio_group() -> None:
    """An anyio group around it meets LeaseLost, and cancels the others."""

    async def work(store: Store) -> None:
        async def body() -> None:
            async with lock_on(store):
                lose(store, "job")
                await anyio.sleep(60)

        with pytest.raises(ExceptionGroup) as raised:
            async with anyio.create_task_group() as group:
                group.start_soon(body)
                group.start_soon(anyio.sleep, 60)
        [loss] = raised.value.exceptions
        assert isinstance(loss, LeaseLost)

    run(work)


@pytest.mark.parametrize("where", ["outside", "inside"])
@pytest.mark.parametrize("lost", [True, False], ids=["lost", "timed out"])
def test_anyio_scope(lost: bool, where: str) -> None:
    """A cancel scope on either side of the body sees its own cancellations, and no others."""

    async def work(store: Store) -> None:
        async def body(scope: bool) -> None:
            with anyio.fail_after(10 if lost else 0.05) if scope else contextlib.nullcontext():
                if lost:
                    lose(store, "job")
                await anyio.sleep(60)

        with pytest.raises(LeaseLost if lost else TimeoutError):
            if where == "inside":
                async with lock_on(store):
                    await body(True)
            else:
                with anyio.fail_after(10 if lost else 0.05):
                    async with lock_on(store):
                        await body(False)

    run(work)


def test_loop_that_was_closed_harms_nobody() -> None:
    """A lease that outlives its loop is lost without an error, and can be released from elsewhere."""
    with store_on(Stubborn()) as store:
        lease: Lease = asyncio.run(lock_on(store).acquire_async())
        assert lease._stopper is not None
        lease._stopper.stop(LeaseLost("job", "superseded", 0.0, 1), None, lambda call: None)
        lose(store, "job")
        assert lease.lost.wait(5)
        lease.release()
