"""`MemoryFence`, and what a lock does with its fences: sealed before success is told, in both colours."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from hands import Hands
from leases import ConfigurationError, Lease
from leases.fencing import ForeignToken, Level, MemoryFence, ResourceBusy, StaleToken, Token
from leases.testing.clock import ManualClock
from stores import Site, every_store

PATIENCE = 20.0


def token(number: int) -> Token:
    return Token("job", number)


# ---- the fence -----------------------------------------------------------------------------------


def test_the_highest_token_counts() -> None:
    """Equal and higher ones pass, lower ones do not, and the error names both."""
    fence = MemoryFence("job")
    assert fence.highest is None
    for number in (3, 3, 5, 5):
        with fence.admitted(token(number)) as admitted:
            assert admitted == token(number)
    with pytest.raises(StaleToken) as caught, fence.admitted(token(4)):
        raise AssertionError("the body ran")
    assert (caught.value.name, caught.value.given, caught.value.highest) == ("job", 4, 5)
    assert fence.highest == 5 and fence.level is Level.SEALED


def test_a_seal_shuts_out_who_has_not_written_yet() -> None:
    """And a seal of an earlier tenure fails itself."""
    fence = MemoryFence("job")
    fence.check(token(1))
    fence.seal(token(3))
    for refused in (fence.check, fence.seal):
        with pytest.raises(StaleToken):
            refused(token(2))
    fence.check(token(3))


def test_a_token_of_another_lock_says_nothing() -> None:
    """S56: neither a low one nor a high one, in any way, and it leaves nothing behind."""
    fence = MemoryFence("job")
    fence.seal(token(5))
    for number in (1, 9):
        for ask in (fence.check, fence.seal, lambda other: fence.admitted(other).__enter__()):
            with pytest.raises(ForeignToken):
                ask(Token("other", number))
    assert fence.highest == 5


def test_a_body_is_one_step_with_its_check() -> None:
    """Nobody else is admitted and nobody seals until it has ended; then the seal counts."""
    fence = MemoryFence("job")
    inside, go, order = threading.Event(), threading.Event(), list[str]()

    def write() -> None:
        with fence.admitted(token(1)):
            inside.set()
            assert go.wait(PATIENCE)
            order.append("written")

    def seal() -> None:
        fence.seal(token(2))
        order.append("sealed")

    writer, sealer = threading.Thread(target=write), threading.Thread(target=seal)
    writer.start()
    assert inside.wait(PATIENCE)
    sealer.start()
    sealer.join(0.05)
    assert sealer.is_alive() and fence.highest == 1
    go.set()
    writer.join(PATIENCE)
    sealer.join(PATIENCE)
    assert order == ["written", "sealed"]
    with pytest.raises(StaleToken):
        fence.check(token(1))


@pytest.mark.parametrize("ends_by", ["return", "error"])
def test_a_body_that_ends_lets_the_next_in(ends_by: str) -> None:
    """By an error, too."""
    fence = MemoryFence("job", timeout=0)
    try:
        with fence.admitted(token(1)):
            if ends_by == "error":
                raise KeyError("boom")
    except KeyError:
        pass
    fence.check(token(1))


def test_nobody_waits_for_ever() -> None:
    """A body that hangs is told of after the time allowed; who gave up is out of the line."""
    fence = MemoryFence("job", timeout=0.02)
    with fence.admitted(token(1)):
        with pytest.raises(ResourceBusy) as caught:
            fence.seal(token(2))
        assert isinstance(caught.value, TimeoutError) and caught.value.timeout == 0.02
    assert fence.highest == 1
    fence.seal(token(3))


def in_line(fence: MemoryFence, many: int) -> bool:
    return len(fence._turns._queue) == many


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


def test_bodies_of_tasks_may_await() -> None:
    """Tasks and threads wait for one another, first come, first served, and the loop goes on."""

    async def main() -> None:
        fence, order = MemoryFence("job"), list[str]()
        inside, go = asyncio.Event(), asyncio.Event()

        async def write() -> None:
            async with fence.admitted_async(token(1)):
                inside.set()
                await go.wait()
                order.append("written")

        writer = asyncio.create_task(write())
        await inside.wait()
        sealing = asyncio.create_task(asyncio.to_thread(fence.seal, token(2)))
        await until(lambda: in_line(fence, 2))
        checking = asyncio.create_task(fence.check_async(token(2)))
        await until(lambda: in_line(fence, 3))
        assert fence.highest == 1 and not order
        go.set()
        await asyncio.gather(writer, sealing, checking)
        assert order == ["written"] and fence.highest == 2
        with pytest.raises(StaleToken):
            await fence.seal_async(token(1))

    asyncio.run(main())


def test_a_cancelled_task_leaves_the_line() -> None:
    """While it waits, and in its body."""

    async def main() -> None:
        fence = MemoryFence("job")
        with fence.admitted(token(1)):
            waiting = asyncio.create_task(fence.check_async(token(2)))
            await until(lambda: in_line(fence, 2))
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert fence.highest == 1

        async def body() -> None:
            async with fence.admitted_async(token(2)):
                await asyncio.sleep(PATIENCE)

        working = asyncio.create_task(body())
        await until(lambda: in_line(fence, 1))
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        fence.check(token(2))

    asyncio.run(main())


def test_a_closed_loop_keeps_nobody_waiting() -> None:
    """A task whose loop was closed while it waited is passed over."""
    fence = MemoryFence("job")
    loop = asyncio.new_event_loop()
    with fence.admitted(token(1)):
        waiting = loop.create_task(fence.check_async(token(2)))
        while not in_line(fence, 2):
            loop.run_until_complete(asyncio.sleep(0.001))
        behind = threading.Thread(target=fence.seal, args=(token(3),))
        behind.start()
        while not in_line(fence, 3):
            pass
        loop.close()
    behind.join(PATIENCE)
    assert fence.highest == 3
    waiting._log_destroy_pending = False  # type: ignore[attr-defined]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_does_not_wait_for_the_parents_threads() -> None:
    """A body under way in the parent never ends in the child of a fork, where nothing of it runs."""
    fence = MemoryFence("job", timeout=PATIENCE)
    inside, go = threading.Event(), threading.Event()

    def body() -> None:
        with fence.admitted(token(1)):
            inside.set()
            go.wait(PATIENCE)

    writer = threading.Thread(target=body)
    writer.start()
    assert inside.wait(PATIENCE)
    with warnings.catch_warnings():  # From 3.12 on Python warns where threads are about.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:  # pragma: no cover
        fence.timeout = 0.0
        fence.seal(token(2))
        os._exit(7 if fence.highest == 2 else 1)
    go.set()
    writer.join(PATIENCE)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_leaves_the_body_that_it_was_born_in() -> None:
    """Although another thread of the parent was about to look at the line."""
    fence: Any = MemoryFence("job")
    with fence.admitted(token(1)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:  # pragma: no cover
            signal.alarm(10)
            fence._turns._mutex.acquire()
    if child == 0:  # pragma: no cover
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.parametrize(
    "options", [{"name": ""}, {"name": "job", "timeout": -1}, {"name": "job", "timeout": None}]
)
def test_what_cannot_work_is_refused_at_once(options: dict[str, Any]) -> None:
    """A name that is none, a negative time; or none, which elsewhere means for ever."""
    with pytest.raises(ConfigurationError):
        MemoryFence(**options)


# ---- a lock and its fences -----------------------------------------------------------------------


@every_store
def test_an_acquisition_seals_before_it_is_told(site: Site, hands: Hands) -> None:
    """Whoever came before is refused before the new holder has written anything."""
    fence = MemoryFence("job")
    with site.store() as store:
        lock, hand = store.lock("job", fences=[fence]), hands.hand()
        first: Lease = hand("acquire", lock)
        early = Token.of(first)
        hand("release", lock)
        second: Lease = hand("acquire", lock)
        assert fence.highest == second.token > early.number
        with pytest.raises(StaleToken):
            fence.check(early)
        fence.check(second)
        hand("release", lock)


@pytest.mark.parametrize("stale", [True, False])
def test_a_fence_that_refuses_ends_the_acquisition(site: Site, hands: Hands, stale: bool) -> None:
    """Its error is raised, no body runs, and the lock is free at once for who comes next."""
    fence = MemoryFence("job")
    if stale:
        fence.seal(token(1 << 100))

    class Broken:
        def seal(self, lease: Lease) -> None:
            raise KeyError("boom")

    with site.store() as store:
        lock = store.lock("job", fences=[fence, Broken()])
        with pytest.raises(StaleToken if stale else KeyError):
            hands.hand()("acquire", lock)
        assert not lock.held
        assert site.another(store).lock("job").acquire(timeout=PATIENCE).held


def test_a_seal_that_outlasts_the_lease_is_no_success(site: Site, hands: Hands) -> None:
    """S74: the lease ended meanwhile, so it is acquired anew, and only the tenure that was sealed is told."""
    clock, sealed = ManualClock(), list[int]()

    class Slow:
        def seal(self, lease: Lease) -> None:
            sealed.append(lease.token)
            if len(sealed) == 1:
                clock.advance(lease.deadline - clock().hold)

    with site.store(clock=clock) as store:
        lock = store.lock("job", ttl=10, fences=[fence := MemoryFence("job"), Slow()])
        lease: Lease = hands.hand()("acquire", lock)
        assert lease.held and len(sealed) == 2 and sealed[0] < sealed[1] == lease.token == fence.highest
