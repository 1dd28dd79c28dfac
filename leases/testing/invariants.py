"""The invariants of the protocol, judged by an onlooker who sees the true time and every commit.

The judge believes no machine. What a holder may believe it reckons itself, from the commits it saw and the
looks at the clock that came before their sends; when a record may be taken over, from when it was
written. The numbers are those of the protocol:

  1  Beliefs are disjoint in true time.           8  The deadline never moves back, nor past send + V.
  2  A held record is taken over only when ripe.  9  Unknown becomes yes or no only by a committed witness.
  3  Tokens strictly increase.                   10  A loss is told by the deadline, without waiting for I/O.
  4  A sealed resource takes no late write.      11  Once faults heal, somebody holds in bounded time.
  5  Whoever does not hold changes nothing.      12  A live, connected holder is not deposed.
  6  No success past its own deadline.           13  Without any hint everything happens, only later.
  7  After the loss, never held again.           14  Acquired and lost come once each, in order.
                                                 15  What was given up leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final

from leases.clock import Instant
from leases.contract import Slot
from leases.errors import LossReason
from leases.events import Swap
from leases.machine import Machine
from leases.terms import Terms
from leases.testing.bid import NEVER, Bid, Call
from leases.testing.world import World

EXACT: Final = 1e-6  # seconds; far below every duration, far above the rounding of a float


@dataclass(slots=True)
class Tally:
    """What happened in a run, counted; `overlap` is the longest, in true seconds, beyond the rate bound."""

    grants: int = 0
    renewals: int = 0
    losses: int = 0
    takeovers: int = 0
    handed: int = 0
    freed: int = 0
    writes: int = 0
    refused_writes: int = 0
    overlap: float = 0.0

    def counts(self) -> Iterator[tuple[str, int]]:
        """Every count by its name."""
        return ((f.name, getattr(self, f.name)) for f in fields(self) if f.name != "overlap")


class Judge:
    """Sees everything, and fails the run at the first broken promise.

    Attributes:
        world: whose time it is.
        rate: the bound on the clocks' rate error that the fleet agreed on.
        local: whether instants of the boot clock are compared, so that a record ripens from its send.
        lawful: False where clocks run outside the bound: then overlap is measured instead of refused.
        gentle: nothing is on that may cost anybody a lease.
        healed: since when all faults are off.
        steady: from when on no lease may be lost any more, because each was renewed since.
        first: the first true time at which somebody held since the healing.
        repeated: tokens may be given out again: the store was restored, or a stranger removed the record and
            a reader of the past made it anew.
        tardy: by how many seconds timers may be late.
    """

    def __init__(self, world: World, rate: float, *, counted: bool, local: bool) -> None:
        self.world, self.rate, self.local = world, rate, local
        self._counted = counted
        self.lawful, self.gentle, self.repeated = True, False, False
        self.tardy = 0.0
        self.healed = self.steady = self.first = NEVER
        self.tally = Tally()
        self.believers: dict[Bid, None] = {}
        self._credit: dict[str, float] = {}  # by claim: the latest deadline, on its host's holder's clock
        self._owner: dict[str, Bid] = {}
        self._token: dict[str, int] = {}
        self._place: dict[str, int] = {}
        self._edits: dict[str, set[int]] = {}  # by claim: the numbers of strangers' edits of its record
        self._highest = 0
        self._tenures = self._robbed = 0
        self._written = 0.0  # the true time from which the record that stands is timed
        self._parting: object = None  # the version of a record that was written to outlast its claim
        self._deleted, self._deleted_ttl, self._deleted_claim = -NEVER, 0.0, ""
        self._deleted_order = 0
        self._ghosts: set[str] = set()  # claims of which the network may bring a second copy

    # ---- what is committed -------------------------------------------------------------------------

    def committed(self, call: Call, before: Slot, after: Slot) -> None:
        """A swap was committed here and now."""
        assert isinstance(call.request, Swap)
        claim = call.request.claim
        if claim is None or not claim.held:
            self._freed(call, before)
            return
        if before.held and before.claim is not None and before.claim.id == claim.id:
            self._renewed(call, before, after)
        else:
            self._acquired(call, before, after)
        if not call.parting:
            limit = call.hold + _bound(call.bid.machine.terms)
            self._credit[claim.id] = max(self._credit.get(claim.id, -NEVER), limit)
        timed = self.local and claim.boot is not None
        self._written = min(call.asked, call.bid.parted) if timed else self.world.time

    def _freed(self, call: Call, before: Slot) -> None:
        owner = self._owner.get(before.claim.id) if before.claim is not None else None
        self.tally.freed += 1
        if owner is None:
            self.world.fail(5, f"{call.bid.label} freed a record that is no claim's: {before.claim}")
        elif owner.party is not call.bid.party or owner.life != call.bid.life:
            self.world.fail(5, f"{call.bid.label} freed the record of {owner.label}")
        elif _works(owner, before):
            self.world.fail(5, f"{call.bid.label} freed the record of {owner.label}, whose work goes on")

    def _renewed(self, call: Call, before: Slot, after: Slot) -> None:
        claim, old, bid = call.claim, before.claim, call.bid
        assert claim is not None and old is not None
        self.tally.renewals += 1
        if self._owner.get(claim.id) is not bid:
            self.world.fail(5, f"{bid.label} renewed a claim that is not its own")
        if call.parting:
            self._parting = after.version
        elif call.hold >= call.until:
            self.world.fail(5, f"{bid.label} renewed a lease that it was told to let run out")
        elif old.ttl != claim.ttl:
            self.world.fail(5, f"{bid.label} changed its ttl from {old.ttl} to {claim.ttl}")
        if claim.token is not None and claim.token != self._token[claim.id] and not call.parting:
            self.world.fail(3, f"{bid.label} wrote token {claim.token} for {self._token[claim.id]}")
        if old.beat == claim.beat:
            self.world.fail(8, f"{bid.label} sent the beat {claim.beat} twice")

    def _acquired(self, call: Call, before: Slot, after: Slot) -> None:
        claim, bid = call.claim, call.bid
        assert claim is not None
        if call.doubled:
            self._ghosts.add(claim.id)
        elif bid.settled:
            self.world.fail(9, f"{bid.label} was settled, and then its write of claim {claim.id} landed")
        if before.held:
            self._judge_takeover(call, before)
        elif before.claim is None:
            self._judge_vanished(call)
        token = after.order if claim.token is None else claim.token
        assert token is not None
        if token <= self._highest and (self.repeated or self._of_the_past(call)):
            self.repeated = True
        elif token <= self._highest:
            self.world.fail(3, f"{bid.label} acquired with token {token} after {self._highest}")
        self._highest = max(self._highest, token)
        self._tenures += 1
        self._owner[claim.id], self._place[claim.id] = bid, self._tenures
        self._token[claim.id] = max(token, self._token.get(claim.id, 0))

    def _of_the_past(self, call: Call) -> bool:
        """Whether it creates on an absence from before a stranger's deletion: that number is not the last."""
        assert isinstance(call.request, Swap)
        seen = call.request.seen
        return seen.claim is None and self._deleted_order > (seen.order or 0)

    def _judge_takeover(self, call: Call, before: Slot) -> None:
        old = before.claim
        assert old is not None
        owner = self._owner.get(old.id)
        own = owner is not None and owner.party is call.bid.party and owner.life == call.bid.life
        if owner is not None and own and before.version != self._parting and not _works(owner, before):
            self.tally.handed += 1
            return
        self.tally.takeovers += 1
        least = old.ttl / (1 + self.rate)
        stood = self.world.time - self._written
        if self.lawful and stood < least - EXACT:
            whose = "a broken lock" if owner is None else owner.label
            self.world.fail(
                2, f"{call.bid.label} took the record of {whose} after {stood:.6f} s of {least:.6f} s"
            )

    def _judge_vanished(self, call: Call) -> None:
        """A stranger removed a held record: whoever had seen it waits; who had not, cannot know."""
        stood = self.world.time - self._deleted
        owner = self._owner.get(self._deleted_claim)
        own = owner is not None and owner.party is call.bid.party
        if own or stood >= self._deleted_ttl / (1 + self.rate) - EXACT or not self.lawful:
            return
        if self._counted and call.aware and call.asked - call.missed < call.aware / (1 + self.rate) - EXACT:
            self.world.fail(2, f"{call.bid.label} took a lock {stood:.6f} s after its held record vanished")
        self._robbed = self._tenures

    # ---- what strangers do -------------------------------------------------------------------------

    def overwritten(self, before: Slot, after: Slot) -> None:
        """Somebody wrote past the protocol: an edit, a broken lock."""
        same = before.claim is not None and after.claim is not None and before.claim.beat == after.claim.beat
        if not same or not self.local or (after.claim is not None and after.claim.boot is None):
            self._written = self.world.time
        if same and after.claim is not None and after.order is not None:
            self._edits.setdefault(after.claim.id, set()).add(after.order)
        if same and self._parting == before.version:
            self._parting = after.version
        if before.claim is None:  # Put back as it once was: whoever believes now has nothing to stand on.
            self._robbed = self._tenures

    def deleted(self, before: Slot, after: Slot) -> None:
        """Somebody removed the record."""
        self._deleted_order = after.order or 0
        if before.held and before.claim is not None:
            self._deleted, self._deleted_ttl = self.world.time, before.claim.ttl
            self._deleted_claim = before.claim.id

    def shown(self, bid: Bid, slot: Slot) -> None:
        """A slot reached a machine: remember whether it knows of a held record that may vanish."""
        if bid.phase != "seeking":
            return
        if slot.order is not None:
            if slot.order < bid.newest:
                return
            bid.newest = slot.order
        if slot.claim is None:
            bid.missed = min(bid.missed, self.world.time)
            return
        owner = self._owner.get(slot.claim.id)
        foreign = slot.held and (owner is None or owner.party is not bid.party)
        bid.aware, bid.missed = slot.claim.ttl if foreign else 0.0, NEVER

    # ---- what machines believe ---------------------------------------------------------------------

    def look(self, bid: Bid) -> None:
        """A machine was touched: is what it believes so?"""
        machine = bid.machine
        phase = machine.phase._value_
        if phase != "held" and phase != "jeopardy" and phase != "granted":
            if bid in self.believers:
                del self.believers[bid]
            return
        limit = self._credit.get(machine.claim_id, -NEVER)
        if machine.deadline > limit + EXACT:
            self.world.fail(8, f"{bid.label} believes {machine.deadline - limit:.6f} s longer than it may")
        if bid.claim == machine.claim_id and machine.deadline < bid.deadline:
            self.world.fail(
                8, f"{bid.label} moved its deadline back by {bid.deadline - machine.deadline:.6f} s"
            )
        bid.claim, bid.deadline = machine.claim_id, machine.deadline
        if phase != "granted":
            self._believes(bid, machine, limit)

    def _believes(self, bid: Bid, machine: Machine, limit: float) -> None:
        now = bid.host.instant()
        if bid.lost or bid.stopped:
            self.world.fail(7, f"{bid.label} believes again after its end")
        if not machine.held(now):
            return
        if now.hold >= limit + EXACT:
            self.world.fail(6, f"{bid.label} says it holds, {now.hold - limit:.6f} s after it may")
        if bid not in self.believers:
            self.believers[bid] = None
            if self.world.time >= self.healed and self.first == NEVER:
                self.first = self.world.time
        if len(self.believers) > 1:
            self._compare(bid)

    def _compare(self, bid: Bid) -> None:
        for other in self.believers:
            if other is bid or other.dead or not other.machine.held(other.host.instant()):
                continue
            ends = min(b.host.real(b.machine.deadline) for b in (bid, other))
            overlap = ends - self.world.time
            if overlap <= EXACT or self._is_robbed(bid) or self._is_robbed(other):
                continue
            if self.lawful:
                self.world.fail(1, f"{bid.label} and {other.label} hold at once, for {overlap:.6f} s")
            self.tally.overlap = max(self.tally.overlap, overlap)

    def _is_robbed(self, bid: Bid) -> bool:
        """Whether a stranger took its record away, so that nothing keeps others out any more."""
        return self._place.get(bid.claim, 0) <= self._robbed

    def holding(self) -> Bid | None:
        """Who holds, now, by its own clock."""
        for bid in self.believers:
            if not bid.dead and bid.machine.held(bid.host.instant()):
                return bid
        return None

    def died(self, bid: Bid) -> None:
        """Its process crashed: it believes nothing any more."""
        self.believers.pop(bid, None)

    # ---- what machines tell ------------------------------------------------------------------------

    def granted(self, bid: Bid, token: int) -> None:
        """A machine says that its claim is committed."""
        claim = bid.machine.claim_id
        if bid.granted_claim == claim:
            self.world.fail(14, f"{bid.label} was told twice of claim {claim}")
        bid.granted_claim, bid.aware, bid.missed = claim, 0.0, NEVER
        if self._owner.get(claim) is not bid:
            self.world.fail(9, f"{bid.label} was granted claim {claim}, which is not committed")
        if token in self._edits.get(claim, ()):
            self._token[claim] = token  # The record names no token yet, so all take it from the version.
        if token != self._token[claim]:
            self.world.fail(
                3, f"{bid.label} was told token {token}; its acquiring write says {self._token[claim]}"
            )

    def confirmed(self, bid: Bid, now: Instant) -> int:
        """A machine reported success at that look at its clock; the place of this tenure among all."""
        claim, token = bid.machine.claim_id, bid.machine.token
        limit = self._credit.get(claim, -NEVER)
        if now.hold >= limit:
            self.world.fail(6, f"{bid.label} reported success {now.hold - limit:.6f} s after its deadline")
        if bid.granted_claim != claim or bid.tenure is not None:
            self.world.fail(14, f"{bid.label} reported success out of turn")
        if token != self._token[claim]:
            self.world.fail(3, f"{bid.label} holds token {token} instead of {self._token[claim]}")
        self.tally.grants += 1
        bid.tenure = self._place[claim]
        return bid.tenure

    def lost(self, bid: Bid, reason: LossReason, slot: Slot) -> None:
        """A machine told its loss; `slot` is what stands in the store."""
        self.tally.losses += 1
        if bid.tenure is None or bid.lost:
            self.world.fail(14, f"{bid.label} was told a loss out of turn")
        bid.lost = True
        self.believers.pop(bid, None)
        late = bid.host.hold() - bid.deadline
        excused = self.world.time <= bid.party.excused + self.tardy + EXACT
        if late > (self.tardy + EXACT) * bid.host.rate and not excused:
            self.world.fail(10, f"{bid.label} was told its loss {late:.6f} s after the deadline")
        stands = slot.claim is not None and slot.claim.id == bid.claim
        if reason != "expired" and stands and slot.held and not self._is_robbed(bid):
            self.world.fail(12, f"{bid.label} was told {reason}, and its record stands")
        # What is to run out does, whatever the weather; and what goes on after all may do so too late.
        if reason == "expired" and not bid.faltered and (self.gentle or self.world.time > self.steady):
            self.world.fail(12, f"{bid.label} lost its lease though nothing kept it from renewing")

    def done(self, bid: Bid, now: Instant, slot: Slot) -> None:
        """A machine is at its end by itself; `slot` is what stands in the store."""
        self.believers.pop(bid, None)
        since = bid.chasing_since
        bid.settled = since is None or now.wait < since + bid.machine.terms.ttl - EXACT
        claim = slot.claim
        if not bid.settled or claim is None or not slot.held or slot.version == self._parting:
            return
        if self._owner.get(claim.id) is bid and claim.id not in self._ghosts:
            self.world.fail(15, f"{bid.label} is settled, and its record stands")


class Resource:
    """What the lease guards: it keeps the highest token it has seen, and takes no write with a lower one."""

    __slots__ = ("highest", "judge", "seals", "tenure")

    def __init__(self, judge: Judge, *, seals: bool = True) -> None:
        self.judge, self.seals = judge, seals
        self.highest = self.tenure = -1

    def seal(self, token: int, tenure: int) -> None:
        """Shut out every earlier tenure before the work starts."""
        if self.seals and token >= self.highest:
            self.highest, self.tenure = token, tenure

    def write(self, token: int, tenure: int) -> bool:
        """One write; False if it is refused as late."""
        if token < self.highest:
            return False
        if tenure < self.tenure and self.seals and not self.judge.repeated:
            why = f"tenure {tenure} wrote with token {token} after tenure {self.tenure} was sealed in"
            self.judge.world.fail(4, why)
        self.highest, self.tenure = token, max(tenure, self.tenure)
        return True


def _works(owner: Bid, slot: Slot) -> bool:
    """Whether the claim that stands there may still be worked under."""
    return not owner.stopped and slot.claim is not None and slot.claim.id == owner.machine.claim_id


def _bound(terms: Terms) -> float:
    """The longest belief that the rate bound allows for these terms; reckoned anew, to check them."""
    return min(terms.hold, terms.ttl * (1 - terms.rate) / (1 + terms.rate))
