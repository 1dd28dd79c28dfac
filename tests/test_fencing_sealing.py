"""What a fence is shown: the claim that is reported in the end, whatever became of those before it."""

from __future__ import annotations

from typing import Any

import pytest

from hands import Hands
from leases import Lease, Semaphore, Store
from leases.fencing import MemoryFence, StaleToken
from leases.testing.clock import ManualClock
from stubborn import Stubborn, look, store_on, until


class Struck:
    """A fence whose first seal takes so long that the claim has ended, and mostly another has been won."""

    def __init__(self, store: Store, error: Exception | None = None, *, won: bool = True) -> None:
        self.store, self.clock, self.error, self.won = store, store.hub.clock, error, won
        self.sealed = list[int]()

    def seal(self, lease: Lease) -> None:
        self.sealed.append(lease.token)
        if len(self.sealed) > 1:
            return
        backend: Any = self.store.hub.backend
        backend.gate.clear()
        self.clock.advance(lease.deadline - self.clock().hold)  # type: ignore[attr-defined] # by hand
        if self.won:
            backend.gate.set()
        until(lambda: self._claim() == self.won)
        backend.gate.set()
        assert lease.token == self.sealed[0], "what is shown to a fence changes under it"
        if self.error is not None:
            raise self.error

    def _claim(self) -> bool | None:
        """Whether another claim has been won; None while it is still the first."""
        look(self.store)
        members: Any = self.store.hub.members
        (tenure,) = members
        grant = tenure.granted()
        return False if grant is None else None if grant.token == self.sealed[0] else True


@pytest.mark.parametrize("made", ["lock", "semaphore"])
@pytest.mark.parametrize("error", [None, StaleToken("job", 1, 2)], ids=["sealed late", "refused for a later"])
def test_a_claim_that_was_won_while_another_was_sealed_is_sealed_too(
    hands: Hands, made: str, error: Exception | None
) -> None:
    """Nobody may have shown its token anywhere: in between another process can have had the lock."""
    store = store_on(Stubborn(), clock=ManualClock())
    fence, struck = MemoryFence("job" if made == "lock" else "job/slot-0"), Struck(store, error)
    lock = (
        store.lock("job", fences=[fence, struck])
        if made == "lock"
        else Semaphore("job", 1, store=store, fences=lambda slot: [fence, struck])
    )
    lease: Lease = hands.hand()("acquire", lock)
    assert lease.held and struck.sealed[0] < struck.sealed[-1] == lease.token == fence.highest
    lease.release()


def test_a_claim_that_ended_while_it_was_sealed_is_shown_to_no_other_fence(hands: Hands) -> None:
    """There is no token to show; once the lock is won again all are sealed."""
    store = store_on(Stubborn(), clock=ManualClock())
    struck, fence = Struck(store, won=False), MemoryFence("job")
    lease: Lease = hands.hand()("acquire", store.lock("job", fences=[struck, fence]))
    assert struck.sealed[0] < struck.sealed[1] == lease.token == fence.highest
    lease.release()
