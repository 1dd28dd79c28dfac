"""What an operator does to records whose holders cannot: break a lock, and clear away the dead.

Both keep the promises of the protocol. A broken lock is a held record of no claim: its holder learns of it by
a conflict, and everybody else waits for its ttl, as for a dead holder's. What is cleared away was watched for
its own ttl first, and is taken over by a claim like any other, which then releases it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from leases.contract import Applied, Slot, Unknown
from leases.errors import LeasesError, RecordRefused, StoreUnavailable, WrongToken
from leases.events import GaveUp, Output, Read, Released, Swap
from leases.identity import default_holder
from leases.machine import Machine, Phase
from leases.record import BEAT_BITS, HOLDER_BYTES, Claim, check_prefix
from leases.tenure import perform
from leases.terms import Terms

if TYPE_CHECKING:
    from leases.clock import Instant
    from leases.hub import Hub

Pause = Callable[[float], object]

_BROKEN: Final = "nobody (broken by "  # how the holder of a broken lock begins
_AGAIN_SECONDS: Final = 0.05
_TTL_MOST: Final = (
    15.0  # of the claim that takes a dead record over: nobody waits for longer should it die, too
)
_GRAIN: Final = 0.1  # looks at many records are put together, rather than each at its own instant


# ---- break ---------------------------------------------------------------------------------------


def break_lock(
    hub: Hub, name: str, if_token: int, *, now: bool, timeout: float, pause: Pause = time.sleep
) -> Slot:
    """Take the lock from whoever holds it with this token; what stands there then.

    Args:
        hub: the store.
        name: the lock.
        if_token: the token of the tenure that is meant; no other is touched.
        now: free the lock at once, while its holder may still be at work. Otherwise others wait its ttl.
        timeout: seconds to keep trying.
        pause: waits for some seconds.

    Raises:
        WrongToken: nobody holds it, or by another token.
        StoreError: the store refused, or could not be asked; it may be broken all the same.
    """
    until, sent = hub.clock().wait + timeout, set[str]()
    trouble: Exception | None = None
    while (left := until - hub.clock().wait) > 0:
        slot = hub.backend.read(name, left)
        if _is_done(slot, sent):
            return slot
        claim = slot.claim
        if claim is None or not claim.held or slot.token != if_token:
            raise WrongToken(name, if_token, slot.token, claim.holder if claim and claim.held else None)
        if claim.holder.startswith(_BROKEN) and not now:
            return slot  # Once is enough: a second time would only begin the wait anew.
        broken = None if now else _broken(hub, slot)
        sent.add(broken.beat if broken else "")
        outcome = hub.backend.swap(slot, broken, left)
        if isinstance(outcome, Applied):
            return outcome.slot
        trouble = outcome.cause if isinstance(outcome, Unknown) else None
        pause(_AGAIN_SECONDS)
    because = "its holder renews it again and again" if trouble is None else str(trouble)
    raise StoreUnavailable(f'"{name}" was not seen to be broken within {timeout:g} s: {because}; try again')


def _is_done(slot: Slot, sent: set[str]) -> bool:
    """Whether what was sent before, without an answer, is what stands there."""
    if slot.claim is None or not slot.claim.held:
        return "" in sent
    return slot.claim.beat in sent


def _broken(hub: Hub, slot: Slot) -> Claim:
    """A held record of no claim, with the ttl and the token of the one that stands there."""
    claim, now = slot.claim, hub.clock()
    assert claim is not None
    by = default_holder().encode()[: HOLDER_BYTES - 32].decode(errors="ignore")
    return Claim(
        f"{_BROKEN}{by})", "", f"{hub.entropy.getrandbits(BEAT_BITS):016x}", claim.ttl, slot.token,
        acquired=now.wall, renewed=now.wall, boot=hub.boot, sent=now.hold if hub.boot else None,
    )  # fmt: skip


# ---- prune ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pruned:
    """What became of one record that `prune` looked at.

    Attributes:
        name: the lock.
        action: ``freed``: its holder was dead, and the lock is free now; ``removed``: the record is gone
            from the store; ``left``: it stands there as before.
        why: the reason, for people.
    """

    name: str
    action: Literal["freed", "removed", "left"]
    why: str


@dataclass(frozen=True, slots=True)
class Broom:
    """How `prune` goes about it.

    Attributes:
        older_than: leave alone what was written less than so many seconds ago, by the wall clocks of those
            who wrote it. It chooses what is worth a look; that a holder is dead is never told by it.
        offline: no client runs, so that free records may be removed where release leaves them.
        dry_run: tell, and do nothing.
        wait: watch no record for longer than so many seconds.
        timeout: seconds for one call to the store.
    """

    older_than: float
    offline: bool = False
    dry_run: bool = False
    wait: float = 60.0
    timeout: float = 5.0


def prune(hub: Hub, prefix: str, broom: Broom, pause: Pause = time.sleep) -> Iterator[Pruned]:
    """Free the locks of dead holders, and remove free records; tells of each record that is old enough.

    Raises:
        ConfigurationError: no name begins so.
        StoreError: the store could not be asked what is there.
    """
    bids: list[_Bid] = []
    for found in hub.backend.scan(check_prefix(prefix), broom.timeout):
        now = hub.clock()
        if isinstance(found, Exception):
            name = found.name if isinstance(found, RecordRefused) else "?"
            yield Pruned(name, "left", str(found))
        elif found.claim is None or max(now.wall - found.claim.renewed, 0.0) < broom.older_than:
            continue
        elif not _is_ours(found.claim):
            yield Pruned(found.name, "left", f"another tool wrote it, for {found.claim.holder or 'nobody'}")
        elif not found.held:
            yield _sweep(hub, found, broom, "it was free")
        else:
            bid = _Bid(hub, found, now)
            refusal = _not_to_be_had(bid, now, broom)
            if refusal is None:
                bids.append(bid)
            else:
                yield refusal
    yield from _attend(hub, bids, broom, pause)


def _is_ours(claim: Claim) -> bool:
    """Whether one of us wrote it: a store may show the claims of other tools, which have no id, as claims."""
    if not claim.held:
        return bool(claim.holder)
    return bool(claim.id) or claim.holder.startswith(_BROKEN)


def _sweep(hub: Hub, slot: Slot, broom: Broom, why: str) -> Pruned:
    """Remove a free record, where that is safe."""
    name = slot.name
    if not hub.backend.traits.release_deletes and not broom.offline:
        return Pruned(name, "left", "it is free; its record keeps the token rising, and costs nothing")
    if broom.dry_run:
        return Pruned(name, "removed", why)
    try:
        outcome = hub.backend.remove(slot, broom.timeout)
    except LeasesError as error:
        return Pruned(name, "left", str(error))
    if isinstance(outcome, Applied):
        return Pruned(name, "removed", why)
    if isinstance(outcome, Unknown):
        return Pruned(name, "left", f"the store did not say whether it was removed: {outcome.cause}")
    return Pruned(name, "left", "it is in use again")


def _not_to_be_had(bid: _Bid, now: Instant, broom: Broom) -> Pruned | None:
    """Why a held record is not worth waiting for; None where it is."""
    left = bid.machine.blocked_for(now) or 0.0
    if left > broom.wait:
        why = f"it would have to be watched for {left:g} s, which is longer than {broom.wait:g} s"
        return Pruned(bid.name, "left", why)
    if broom.dry_run:
        return Pruned(bid.name, "freed", f"unless it is renewed within {left:g} s")
    return None


def _attend(hub: Hub, bids: list[_Bid], broom: Broom, pause: Pause) -> Iterator[Pruned]:
    """Let every claim go its way, until all are over."""
    while bids:
        for bid in tuple(bids):
            bid.go_on()
            if bid.over:
                bids.remove(bid)
                yield bid.result(broom)
        now = hub.clock()
        waits = [wake for bid in bids if (wake := bid.machine.wake(now)) is not None]
        if waits:
            pause(max(min(waits), _GRAIN if len(bids) > 1 else 0.0))


class _Bid:
    """A claim on one held record: it takes over exactly that, if it stands for its ttl, and releases it."""

    def __init__(self, hub: Hub, slot: Slot, now: Instant) -> None:
        claim, traits = slot.claim, hub.backend.traits
        assert claim is not None
        self.name = slot.name
        self._hub, self._slot, self._ttl = hub, slot, claim.ttl
        self._granted = self._clean = False
        self._why = ""
        terms = Terms(max(traits.least_ttl, min(claim.ttl, _TTL_MOST)))
        self.machine = Machine(
            slot.name, default_holder(), terms, traits, hub.entropy, boot=hub.boot, ledger=hub.ledger
        )
        self.machine.acquire(now)
        self.machine.notice(now, slot)

    @property
    def over(self) -> bool:
        """Whether nothing of it is under way any more."""
        return self.machine.phase is Phase.DONE

    def go_on(self) -> None:
        """Do what is due."""
        while outputs := self.machine.poll(self._hub.clock()):
            for output in outputs:
                self._act(output)

    def _act(self, output: Output) -> None:
        machine, hub = self.machine, self._hub
        match output:
            case Read(request, timeout) | Swap(request, _, _, timeout):
                machine.handle(hub.clock(), request, perform(hub.backend, self.name, output, timeout))
                there = machine.blocker  # Whatever changed it came by an answer: it is asked after each.
                if machine.phase is Phase.SEEKING and there is not None and not self._is_meant(there):
                    self._leave("its holder lives" if there.held else "it was released meanwhile")
            case Released(clean):
                self._clean = clean
            case GaveUp(error):
                self._why = str(error)
            case _:
                pass
        if machine.phase is Phase.GRANTED and machine.confirm(hub.clock()):
            self._granted = True
            machine.release(hub.clock())

    def _is_meant(self, seen: Slot) -> bool:
        return (seen.version, seen.body) == (self._slot.version, self._slot.body)

    def _leave(self, why: str) -> None:
        self._why = why
        self.machine.abandon(self._hub.clock())

    def result(self, broom: Broom) -> Pruned:
        """What became of the record, now that it is over."""
        if not self._granted:
            return Pruned(self.name, "left", self._why or "the store did not answer")
        if not self._clean:
            return Pruned(self.name, "left", "it was taken over, and the store did not say that it is free")
        why = f"nobody had renewed it for its ttl of {self._ttl:g} s"
        if not broom.offline or self._hub.backend.traits.release_deletes:
            return Pruned(self.name, "freed", why)
        try:
            slot = self._hub.backend.read(self.name, broom.timeout)
        except LeasesError as error:
            return Pruned(self.name, "freed", f"{why}; its record stays: {error}")
        if slot.claim is None or slot.held:
            return Pruned(self.name, "freed", why)
        return _sweep(self._hub, slot, broom, why)
