"""What only asyncio can do to a lock: cancel it at any await, block its loop, close its loop."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from leases import AcquireTimeout, Lease, Lock, Store, StoreUnavailable, aio, script
from leases.contract import Unknown
from stores import Site, every_store
from stubborn import SHORT, Stubborn, another_process, fresh_url, leftovers, memory, store_on, until

# ---- cancelled -----------------------------------------------------------------------------------


class Cancel:
    """Cancels a task at the n-th of its awaits: as it begins to wait, or as it is woken."""

    def __init__(self, place: int, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.task: asyncio.Task[Any] | None = None
        self.struck = False
        wait = aio.Bell.wait
        count = 0

        async def struck(bell: aio.Bell, timeout: float | None) -> None:
            nonlocal count
            mine = asyncio.current_task() is self.task and self.task is not None
            count += mine
            now = mine and count == place
            self.struck = self.struck or now
            if now and self.task is not None and when == "waiting":
                self.task.cancel()
            await wait(bell, timeout)
            if now and self.task is not None and when == "woken":
                self.task.cancel()

        monkeypatch.setattr(aio.Bell, "wait", struck)

    async def run(self, work: Awaitable[None]) -> None:
        """Run it in a task of its own; it may end well, or cancelled."""
        self.task = asyncio.ensure_future(work)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(self.task), 20)


Scene = Callable[[Store, Cancel], Awaitable[None]]


async def body(lock: Lock) -> None:
    async with lock:
        await asyncio.sleep(0)


async def free(store: Store, cancel: Cancel) -> None:
    """The lock is free."""
    await cancel.run(body(Lock("job", store=store, ttl=SHORT)))


async def held_elsewhere(store: Store, cancel: Cancel) -> None:
    """Another process holds it, and releases it after a while."""
    lease = Lock("job", store=another_process(store), ttl=SHORT).acquire()
    asyncio.get_running_loop().call_later(0.02, lease.release)
    await cancel.run(body(Lock("job", store=store, ttl=SHORT)))
    lease.release()


async def queued(store: Store, cancel: Cancel) -> None:
    """Another task holds it, and a third waits behind the one that is cancelled."""
    lock = Lock("job", store=store, ttl=SHORT)
    lease = await lock.acquire_async()
    middle = asyncio.ensure_future(cancel.run(body(lock)))
    await asyncio.sleep(0.002)
    last = asyncio.ensure_future(body(lock))
    await asyncio.sleep(0.002)
    await lease.release_async()
    await middle
    await asyncio.wait_for(last, 5 * SHORT)


async def handing_over(store: Store, cancel: Cancel) -> None:
    """The one that is cancelled hands over to another task."""
    lock = Lock("job", store=store, ttl=SHORT)
    lease = await lock.acquire_async()
    last = asyncio.ensure_future(body(lock))
    await asyncio.sleep(0.002)
    await cancel.run(lease.release_async())
    await asyncio.wait_for(last, 5 * SHORT)


@pytest.mark.parametrize("kind", ["memory", "zookeeper"])
@pytest.mark.parametrize("when", ["waiting", "woken"])
@pytest.mark.parametrize("scene", [free, held_elsewhere, queued, handing_over], ids=lambda it: it.__name__)
def test_cancelled_at_every_await(
    scene: Scene, when: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S26: wherever a task is cancelled, the lock is free within a ttl, and the queue goes on."""
    place = 0
    struck = True
    while struck:
        place += 1
        with monkeypatch.context() as patch, store_on(memory(kind)) as store:
            cancel = Cancel(place, when, patch)
            asyncio.run(scene(store, cancel))  # type: ignore[arg-type]
            struck = cancel.struck
            Lock("job", store=store, ttl=SHORT).acquire(timeout=3 * SHORT).release()
            until(lambda store=store: leftovers(store) == [])  # type: ignore[misc]
    assert place > 1 or scene is handing_over


@pytest.mark.parametrize("kind", ["memory", "zookeeper"])
def test_cancelled_in_the_instant_in_which_its_turn_comes(kind: str) -> None:
    """What the task before handed over is freed at once, and not left for its ttl."""
    with store_on(memory(kind)) as store, another_process(store) as elsewhere:
        lock = Lock("job", store=store, ttl=600)

        async def main() -> None:
            first = await lock.acquire_async()
            second = asyncio.create_task(lock.acquire_async())
            while not store.hub.waiters("job"):
                await asyncio.sleep(0)
            first.release()  # It is handed over, and the bell has not woken anybody yet.
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second

        asyncio.run(main())
        Lock("job", store=elsewhere, ttl=600).acquire(timeout=60).release()
        until(lambda: leftovers(store) == [])


@pytest.mark.parametrize("kind", ["memory", "zookeeper"])
def test_out_of_patience_in_the_instant_in_which_its_turn_comes(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for a thread whose time is over just then."""
    with store_on(memory(kind)) as store, another_process(store) as elsewhere:
        lock = Lock("job", store=store, ttl=600)
        lease = lock.acquire()
        busy = script._busy

        def handed_over_meanwhile(*args: Any) -> Any:
            lease.release()
            return busy(*args)

        monkeypatch.setattr(script, "_busy", handed_over_meanwhile)
        with pytest.raises(AcquireTimeout):
            lock.acquire(timeout=0.05)
        Lock("job", store=elsewhere, ttl=600).acquire(timeout=60).release()
        until(lambda: leftovers(store) == [])


@every_store
@pytest.mark.parametrize("applied", [False, True])
def test_cancelled_in_the_middle_of_a_swap(site: Site, applied: bool) -> None:
    """S26: a swap that is under way when its task is cancelled is found and freed, if it lands."""
    backend = site.stubborn()
    store = site.store(backend)
    asked, gate = threading.Event(), threading.Event()

    def stall(kind: str, outcome: Any) -> Any:
        if not asked.is_set():
            asked.set()
            gate.wait()
            return Unknown()
        return outcome

    def stall_before(kind: str, name: str) -> None:
        stall(kind, None)

    if applied:
        backend.after = stall
    else:
        backend.before = stall_before

    async def main() -> None:
        task = asyncio.ensure_future(Lock("job", store=store, ttl=site.short).acquire_async())
        await asyncio.to_thread(asked.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    gate.set()
    Lock("job", store=store, ttl=site.short).acquire(timeout=3 * site.short).release()
    until(lambda: leftovers(store) == [])


@every_store
def test_timeout_around_an_acquire(site: Site) -> None:
    """`asyncio.timeout` and `asyncio.wait_for` end an acquire, and leave nothing behind."""
    backend = site.stubborn()
    store = site.store(backend)
    lock = Lock("job", store=store, ttl=site.short)

    async def main() -> None:
        lease = await Lock("job", store=site.another(store)).acquire_async()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await lock.acquire_async()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(lock.acquire_async(), 0.05)
        await lease.release_async()
        async with lock:
            pass

    asyncio.run(main())
    until(lambda: leftovers(store) == [])
    assert backend.watching == 0


@every_store
def test_cancelled_while_it_connects(site: Site) -> None:
    """A task cancelled while its lock connects to the store for the first time leaves nothing behind."""
    url = fresh_url()

    async def main() -> None:
        lock = Lock("job", store=url)
        task = asyncio.ensure_future(lock.acquire_async())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with lock:
            pass

    asyncio.run(main())


@every_store
def test_tasks_that_are_cancelled_at_random(site: Site) -> None:
    """Of many tasks some are cancelled at any time; never are two inside, and the others all get in."""
    store = site.store()
    chance = random.Random(5)
    inside: list[int] = []
    entered: set[int] = set()

    async def work(number: int) -> None:
        async with Lock("job", store=store, ttl=5 * site.short):
            inside.append(number)
            await asyncio.sleep(0.0005)
            assert inside == [number]
            inside.clear()
            entered.add(number)

    async def main() -> set[int]:
        tasks = [asyncio.ensure_future(work(number)) for number in range(200)]
        victims = set(chance.sample(range(200), 80))
        for number in chance.sample(sorted(victims), 80):
            await asyncio.sleep(0.002 * chance.random())
            if tasks[number].cancel():
                inside[:] = [other for other in inside if other != number]
        await asyncio.gather(*tasks, return_exceptions=True)
        return {number for number in range(200) if not tasks[number].cancelled()}

    assert asyncio.run(main()) <= entered
    until(lambda: leftovers(store) == [])


@every_store
def test_ctrl_c_ends_the_program_and_frees_the_lock(site: Site) -> None:
    """SIGINT in `asyncio.run` cancels the main task: what it held or waited for is let go."""
    store = site.store()
    held: list[Lease] = []

    async def main() -> None:
        async with Lock("job", store=store) as lease:
            held.append(lease)
            asyncio.get_running_loop().call_later(0.01, signal.raise_signal, signal.SIGINT)
            await asyncio.gather(*(body(Lock("job", store=store)) for _ in range(3)))

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert not held[0].held and not store.status("job").held
    until(lambda: leftovers(store) == [])


# ---- the loop ------------------------------------------------------------------------------------


@pytest.mark.waits
@every_store
def test_blocked_loop_does_not_lose_the_lease(site: Site) -> None:
    """S39: the lease is renewed by a thread, though the loop is blocked for longer than the ttl."""
    store = site.store()

    async def main() -> None:
        async with Lock("job", store=store, ttl=site.short) as lease:
            time.sleep(2.5 * site.short)
            assert lease.held and lease.remaining > 0
            lease.check()

    asyncio.run(main())


def test_hanging_store_does_not_block_the_loop() -> None:
    """While the store hangs, other tasks run, and the timeout is kept."""
    backend = Stubborn()
    backend.gate.clear()
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    async def main() -> None:
        ticking = asyncio.ensure_future(tick())
        with pytest.raises(StoreUnavailable, match="gave no answer in"):
            await Lock("job", store=store_on(backend)).acquire_async(timeout=0.3)
        ticking.cancel()

    asyncio.run(main())
    backend.gate.set()
    assert ticks > 3


def test_hanging_store_does_not_block_a_release() -> None:
    """A release that gets no answer ends after one attempt, and the loop runs meanwhile."""
    backend = Stubborn()

    async def main() -> None:
        lease = await Lock("job", store=store_on(backend), ttl=SHORT).acquire_async()
        backend.gate.clear()
        async with asyncio.timeout(5):
            await lease.release_async()

    asyncio.run(main())
    backend.gate.set()


def test_waiting_is_no_busy_loop() -> None:
    """A task that waits for a lock sleeps, also when the keeper is late."""
    store = store_on()

    async def main() -> int:
        lease = await Lock("job", store=another_process(store), ttl=SHORT).acquire_async()
        lock = Lock("job", store=store, ttl=SHORT)
        wakes = 0
        wait = aio.Bell.wait

        async def counted(bell: aio.Bell, timeout: float | None) -> None:
            nonlocal wakes
            wakes += 1
            await wait(bell, timeout)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(aio.Bell, "wait", counted)
            with pytest.raises(AcquireTimeout):
                await lock.acquire_async(timeout=3 * SHORT)
        await lease.release_async()
        return wakes

    assert asyncio.run(main()) < 60


@every_store
def test_lease_outlives_its_loop(site: Site) -> None:
    """A lease acquired in a loop that is closed since is renewed, told of and released all the same."""
    store = site.store()

    async def main() -> tuple[Lease, Lease]:
        first = await Lock("job", store=store, ttl=site.short).acquire_async()
        return first, await Lock("other", store=store, ttl=site.short).acquire_async()

    lease, other = asyncio.run(main())
    deadline = lease.deadline
    until(lambda: lease.deadline > deadline + site.short)
    assert lease.held
    lease.release()
    asyncio.run(other.release_async())
    assert leftovers(store) == []


@pytest.mark.parametrize("cancelled", [False, True])
def test_queue_goes_on_past_a_closed_loop(cancelled: bool) -> None:
    """A task that waited in a loop that was closed under it does not keep its turn."""
    store = store_on()
    held = Lock("job", store=store, ttl=SHORT).acquire()
    loop = asyncio.new_event_loop()
    task = loop.create_task(Lock("job", store=store, ttl=SHORT).acquire_async())
    loop.run_until_complete(asyncio.sleep(0.01))
    assert store.hub.waiters("job") == 1
    if cancelled:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
    loop.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    held.release()
    Lock("job", store=store, ttl=SHORT).acquire(timeout=5).release()
    assert leftovers(store) == []


@every_store
def test_both_colours_share_one_queue(site: Site) -> None:
    """Threads and tasks of one process wait in one line."""
    store = site.store()
    order: list[str] = []
    held = Lock("job", store=store).acquire()

    def thread() -> None:
        with Lock("job", store=store):
            order.append("thread")

    async def main() -> None:
        task = asyncio.ensure_future(note())
        await asyncio.sleep(0.01)
        worker = asyncio.create_task(asyncio.to_thread(thread))
        await asyncio.to_thread(until, lambda: store.hub.waiters("job") == 2)
        await held.release_async()
        await asyncio.gather(task, worker)

    async def note() -> None:
        async with Lock("job", store=store):
            order.append("task")

    asyncio.run(main())
    assert order == ["task", "thread"] and leftovers(store) == []
