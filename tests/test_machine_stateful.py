"""Machines in the hands of hypothesis, beside a model that knows the truth and nothing of the machine.

The model is a notebook: what was sent when on whose clock, which of it the store took, and who said that it
had succeeded. From that alone it says who may believe.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from leases.contract import Applied, Outcome, Slot, Unknown
from leases.events import Lost, Request, Swap
from leases.record import Claim
from leases.terms import Terms
from leases.testing.cells import Cells, Kind
from side import NAME, Side

RHO = 0.1
TERMS = Terms(8.0, rate=RHO, guard=0.0, hold=8.0 * (1 - RHO) / (1 + RHO), renew=2.5, attempt=1.5)

pytestmark = pytest.mark.logic


@dataclass
class Notes:
    """What the model knows of one contender."""

    side: Noted
    sent: dict[str, float] = field(default_factory=dict)  # beat -> its clock when the write was sent
    claims: dict[str, str] = field(default_factory=dict)  # beat -> claim
    taken: set[str] = field(default_factory=set)  # beats that the store took
    replies: list[tuple[Request, Outcome | Slot]] = field(default_factory=list)
    over: set[str] = field(default_factory=set)  # claims that were lost or released
    working: str | None = None  # the claim that reported success, and whose work has not stopped
    stands_back: bool = False
    until: float = math.inf  # from when on, by its clock, its lease is to be renewed no more

    def leaves(self, claim: Claim, at: float) -> None:
        """A write is sent."""
        assert claim.beat not in self.sent, "two sends share a beat"
        assert claim.id not in self.over, "a claim that is over sends a record"
        self.sent[claim.beat], self.claims[claim.beat] = at, claim.id

    def may_believe(self, claim: str) -> bool:
        """Whether some write of the claim was taken that was sent less than V ago."""
        return any(
            self.claims[beat] == claim and self.side.hold < sent + TERMS.hold
            for beat, sent in self.sent.items()
            if beat in self.taken
        )


class Noted(Side):
    """A contender whose sends are written down as they leave."""

    notes: Notes

    def look(self) -> list[Request]:
        requests = super().look()
        for request in requests:
            if isinstance(request, Swap) and request.claim is not None and request.claim.held:
                assert not (self.notes.stands_back and self.phase == "seeking"), "it claims, standing back"
                self.notes.leaves(request.claim, self.hold)
                renews = request.seen.claim is not None and request.seen.claim.id == request.claim.id
                assert not renews or self.hold < self.notes.until, "it renews what is to run out"
        return requests


class Contenders(RuleBasedStateMachine):
    """Two contenders, a network that loses, delays and repeats, and clocks within the bound."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens: list[int] = []
        self.all: list[Notes] = []
        self.turn = 0

    @initialize(kind=st.sampled_from(list(Kind)))
    def begin(self, kind: Kind) -> None:
        self.store = Cells(kind)
        self.all = [self._notes(Noted(self.store, holder, TERMS)) for holder in "ab"]

    def _notes(self, side: Noted) -> Notes:
        side.notes = Notes(side)
        return side.notes

    # ---- what can happen -------------------------------------------------------------------------

    @rule(fast=st.sampled_from([0, 1]), seconds=st.sampled_from([0.3, 1.0, 2.4, 4.0]))
    def time_passes(self, fast: int, seconds: float) -> None:
        """One clock goes as fast as it may, the other as slowly."""
        for place, notes in enumerate(self.all):
            notes.side.passes(seconds * (1 + RHO if place == fast else 1 - RHO))

    @rule(who=st.sampled_from([0, 1]))
    def it_wants_the_lock(self, who: int) -> None:
        """An idle contender begins to seek; one that is done makes a new claim."""
        notes = self.all[who]
        if notes.side.phase == "done":
            self.turn += 1
            old = notes.side
            notes.side = Noted(self.store, old.machine.holder, TERMS, at=old.hold, seed=self.turn)
            notes.side.wait, notes.side.notes, notes.replies = old.wait, notes, []
            notes.stands_back, notes.until = False, math.inf
        if notes.side.phase == "idle":
            notes.side.start()

    @rule(who=st.sampled_from([0, 1]))
    def it_looks(self, who: int) -> None:
        """The driver looks at the timers."""
        if self.all[who].side.phase != "idle":
            self.all[who].side.look()

    @rule(who=st.sampled_from([0, 1]))
    def it_stands_back(self, who: int) -> None:
        """A contender that seeks claims nothing, if nothing of its is under way."""
        notes = self.all[who]
        if notes.side.phase == "seeking" and notes.side.machine.stand_back(notes.side.now):
            notes.stands_back = True

    @rule(who=st.sampled_from([0, 1]))
    def it_goes_ahead(self, who: int) -> None:
        """It claims again what it can."""
        notes = self.all[who]
        if notes.stands_back:
            notes.side.machine.go_ahead(notes.side.now)
            notes.stands_back = False

    @rule(who=st.sampled_from([0, 1]), seconds=st.sampled_from([0.0, 1.0, 3.0, math.inf]))
    def its_lease_is_to_run_out(self, who: int, seconds: float) -> None:
        """From then on; or it is renewed after all."""
        notes = self.all[who]
        if notes.working is not None and notes.side.held:
            notes.until = notes.side.hold + seconds
            notes.side.machine.renew_until(notes.side.now, notes.until)

    @rule(who=st.sampled_from([0, 1]), which=st.integers(0, 3), again=st.booleans())
    def a_request_lands(self, who: int, which: int, again: bool) -> None:
        """The oldest or a later one; it may be under way a second time."""
        notes = self.all[who]
        if notes.side.todo:
            request = notes.side.todo[which % len(notes.side.todo)]
            standing = self.store.read(NAME).claim
            outcome = notes.side.land(request)
            if isinstance(outcome, Applied) and isinstance(request, Swap) and request.claim is not None:
                notes.taken.add(request.claim.beat)
            if isinstance(outcome, Applied) and isinstance(request, Swap) and request.claim is None:
                assert standing is not None and standing.beat in notes.sent, "it freed another's record"
            notes.replies.append((request, outcome))
            if again and isinstance(request, Swap):
                notes.side.todo.append(request)

    @rule(who=st.sampled_from([0, 1]), which=st.integers(0, 3))
    def a_reply_arrives(self, who: int, which: int) -> None:
        """In any order, and as late as may be."""
        notes = self.all[who]
        if notes.replies:
            request, outcome = notes.replies.pop(which % len(notes.replies))
            notes.side.tell(request, outcome)

    @rule(who=st.sampled_from([0, 1]))
    def nobody_knows(self, who: int) -> None:
        """The driver has no answer; the request is under way all the same."""
        notes = self.all[who]
        if notes.side.todo:
            request = notes.side.todo[0]
            notes.side.tell(request, Unknown())
            if isinstance(request, Swap):
                notes.side.todo.append(request)

    @rule(who=st.sampled_from([0, 1]))
    def all_is_well_for_once(self, who: int) -> None:
        """A request is carried out and answered at once, so that something comes of it."""
        notes = self.all[who]
        if notes.side.phase == "idle":
            return
        for _ in range(3):
            notes.side.look()
            if not notes.side.todo:
                break
            self.a_request_lands(who, -1, again=False)
            request, outcome = notes.replies.pop()
            notes.side.tell(request, outcome)
        self.it_asks_for_success(who)

    @rule(who=st.sampled_from([0, 1]))
    def it_asks_for_success(self, who: int) -> None:
        """A success has a token above all before it, and a write that is not too old."""
        notes = self.all[who]
        if notes.side.confirm():
            claim = notes.side.machine.claim_id
            assert notes.may_believe(claim), "success without a committed write that is young enough"
            assert not self.tokens or notes.side.machine.token > self.tokens[-1], "a token that does not rise"
            self.tokens.append(notes.side.machine.token)
            notes.working = claim

    @precondition(lambda self: any(notes.working for notes in self.all))
    @rule(who=st.sampled_from([0, 1]))
    def the_work_stops(self, who: int) -> None:
        """And the lock is released."""
        notes = self.all[who]
        if notes.working is not None:
            notes.over.add(notes.working)
            notes.working = None
            notes.side.release()

    @rule(who=st.sampled_from([0, 1]), old=st.booleans())
    def a_watch_hints(self, who: int, old: bool) -> None:
        """At nothing, or at what stands there."""
        notes = self.all[who]
        if notes.side.phase != "idle":
            notes.side.hint(None if old else self.store.read(NAME))

    # ---- what must be so -------------------------------------------------------------------------

    @invariant()
    def one_believes(self) -> None:
        """By what they say, and by what the notebook allows."""
        believing = [notes for notes in self.all if notes.side.held]
        assert len(believing) <= 1, "two believe at once"
        for notes in believing:
            claim = notes.side.machine.claim_id
            assert notes.may_believe(claim), "it believes, and no write that was taken is young enough"
            assert claim not in notes.over, "what is over is believed"

    @invariant()
    def a_loss_is_for_ever(self) -> None:
        """And told once."""
        for notes in self.all:
            losses = [event for event in notes.side.events if isinstance(event, Lost)]
            assert len(losses) <= 1
            if losses:
                notes.over.add(notes.side.machine.claim_id)
                assert not notes.side.held

    @invariant()
    def what_stands_there_was_sent(self) -> None:
        """Every record in the store is one that the notebook has."""
        if not self.all:
            return
        claim = self.store.read(NAME).claim
        if claim is not None and claim.held:
            assert any(claim.beat in notes.taken for notes in self.all)


TestContenders = Contenders.TestCase
TestContenders.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
