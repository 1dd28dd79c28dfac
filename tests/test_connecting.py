"""Connecting takes of the time that an acquisition is allowed, in both colours."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest

from hands import PATIENCE, Hands
from leases import AcquireTimeout, Lock, MultiLock, Semaphore, Store, StoreUnavailable, hub
from leases.contract import Slot
from leases.fencing import Validator
from leases.testing.clock import ManualClock
from stubborn import Stubborn, another_process, fresh_url, store_on, until

ALLOWED, LEFT = 0.5, 0.1

Connecting = Callable[[], object]


def slow(kind: type[Any], store: Store, connecting: Connecting) -> type[Any]:
    """The same, of a URL whose store is connected when `connecting` returns."""

    class Slow(kind):  # type: ignore[misc]
        _hub: Any

        def _connect(self) -> Any:
            if self._hub is None:
                connecting()
                self._hub = store.hub
            return self._hub

    return Slow


def lock(store: Store, connecting: Connecting) -> Any:
    return slow(Lock, store, connecting)("job", store=fresh_url())


def semaphore(store: Store, connecting: Connecting) -> Any:
    return slow(Semaphore, store, connecting)("pool", 1, store=fresh_url())


def two_locks(store: Store, connecting: Connecting) -> Any:
    return MultiLock(lock(store, connecting), Lock("other", store=store))


every_kind = pytest.mark.parametrize("make", [lock, semaphore, two_locks])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """By which connecting is timed."""
    clock = ManualClock()
    monkeypatch.setattr(hub, "system_clock", clock)
    return clock


@every_kind
def test_what_connecting_took_is_off_what_is_left(
    make: Callable[[Store, Connecting], Any], hands: Hands, clock: ManualClock
) -> None:
    """Who waits for another holder gives up when all is over; the error tells the seconds of all."""
    store = store_on(clock=clock)
    others = another_process(store)
    holders = [Lock("job", store=others).acquire(), Semaphore("pool", 1, store=others).acquire()]
    wanted = make(store, lambda: clock.advance(ALLOWED - LEFT))
    waiting = hands.hand().begin("acquire", wanted, ALLOWED)
    until(lambda: waiting.done() or any(member.blocked for member in _members(store)))
    clock.advance(LEFT)
    with pytest.raises(AcquireTimeout) as raised:
        waiting.result(PATIENCE)
    assert raised.value.timeout == ALLOWED and raised.value.holder == holders[0].holder


@every_kind
def test_connecting_that_takes_all_is_no_other_holder(
    make: Callable[[Store, Connecting], Any], hands: Hands, clock: ManualClock
) -> None:
    """Nothing is sent to the store any more; the next one has it connected."""
    backend = Stubborn()
    wanted = make(store_on(backend), lambda: clock.advance(ALLOWED))
    with pytest.raises(StoreUnavailable, match=r"took all of the 0\.5 s"):
        hands.hand()("acquire", wanted, ALLOWED)
    assert backend.calls == []
    hands.hand()("acquire", wanted, ALLOWED).release()


def _members(store: Store) -> list[Any]:
    return list(store.hub.members)


@every_kind
def test_who_does_not_wait_is_not_bounded_by_nothing(
    make: Callable[[Store, Connecting], Any], hands: Hands, clock: ManualClock
) -> None:
    """A try, and whoever has for ever, connects and asks, however long it takes."""
    store = store_on()
    for timeout in (0, None):
        wanted = make(store, lambda: clock.advance(ALLOWED))
        hands.hand()("acquire", wanted, timeout).release()


@every_kind
def test_no_task_waits_for_connecting_that_hangs(make: Callable[[Store, Connecting], Any]) -> None:
    """It goes on, and the next one has what came of it."""
    store, reached = store_on(), threading.Event()
    wanted = make(store, reached.wait)

    async def run() -> None:
        with pytest.raises(StoreUnavailable, match="connecting"):
            await wanted.acquire_async(LEFT)
        assert not reached.is_set()
        reached.set()
        await (await wanted.acquire_async(PATIENCE)).release_async()

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


def test_a_validator_counts_in_the_same_way(clock: ManualClock) -> None:
    """The read has what is left; where nothing is, the store is not asked."""
    backend = Stubborn()
    allowed = list[float]()
    read = backend.inner.read

    def reading(name: str, timeout: float) -> Slot:
        allowed.append(timeout)
        return read(name, timeout)

    backend.inner.read = reading  # type: ignore[method-assign]
    for awaited in (False, True):
        for took in (ALLOWED - LEFT, ALLOWED):
            made = slow(Validator, store_on(backend), partial(clock.advance, took))
            validator: Any = made(fresh_url(), "job", timeout=ALLOWED)

            with nullcontext() if took < ALLOWED else pytest.raises(StoreUnavailable, match="connecting"):
                assert not (
                    asyncio.run(validator.valid_async("me", 1)) if awaited else validator.valid("me", 1)
                )
    assert allowed == pytest.approx([LEFT, LEFT])


def test_nobody_waits_for_a_validator_that_hangs_connecting() -> None:
    """As with a lock, a task goes on."""
    reached = threading.Event()
    validator = slow(Validator, store_on(), reached.wait)(fresh_url(), "job", timeout=LEFT)

    async def run() -> None:
        with pytest.raises(StoreUnavailable, match="connecting"):
            await validator.valid_async("me", 1)
        assert not reached.is_set()
        reached.set()

    asyncio.run(asyncio.wait_for(run(), PATIENCE))
