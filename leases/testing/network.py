"""The store of the simulated world and the ways to it: what is asked arrives late, twice, or never.

The store itself is `Cells`: the rules of one kind, and linearizable, because that is what the protocol
assumes. All else may go wrong on the way: a request or its reply is lost, late, doubled or overtaken; the
store is down, busy or slow; it answers with an error after it has committed, or says *conflict* and
nothing more; a read shows what stood there long ago; and hints come when they like.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from leases.contract import Applied, Conflict, Outcome, Refused, Slot, Unknown
from leases.errors import RecordRefused
from leases.events import Swap
from leases.record import Claim, State, encode
from leases.testing.bid import Bid, Call
from leases.testing.cells import Cells, Kind
from leases.testing.invariants import Judge
from leases.testing.world import NAME, Host, World


@dataclass(slots=True)
class Conditions:
    """The weather on the way to the store. Shares are of all messages, times are true seconds.

    Attributes:
        delay: one way, on average; each message takes half to one and a half of it.
        tail, tail_most: the share of messages that take up to so long instead.
        lose: requests and replies that are lost, each.
        double: requests that arrive twice.
        error: answers that are replaced by an error that says nothing.
        void: requests that are turned away unexecuted, and told so.
        vague: conflicts that do not say what stands there.
        stale: reads that show an older state of the record.
        overtime: requests whose answer is handed on though it comes after its timeout.
        hints: whether there are any.
        hint_lose, hint_double, hint_old: hints that are lost, come twice, or show an older state.
        hint_bare: hints that bring no slot along.
        hint_delay: seconds by which a hint is late at most.
    """

    delay: float = 0.005
    tail: float = 0.0
    tail_most: float = 0.0
    lose: float = 0.0
    double: float = 0.0
    error: float = 0.0
    void: float = 0.0
    vague: float = 0.0
    stale: float = 0.0
    overtime: float = 0.0
    hints: bool = True
    hint_lose: float = 0.0
    hint_double: float = 0.0
    hint_old: float = 0.0
    hint_bare: float = 0.0
    hint_delay: float = 0.0

    @property
    def asking(self) -> float:
        """The share of requests to which something happens."""
        return self.tail + self.lose + self.double + self.void

    @property
    def answering(self) -> float:
        """The share of replies to which something happens."""
        return self.tail + self.lose + self.error

    def calm(self) -> Conditions:
        """The same store in fair weather; where there are no hints, there are none then either."""
        fair = Conditions()
        kept = {"delay": self.delay, "hints": self.hints, "hint_bare": self.hint_bare}
        return replace(fair, **{f.name: kept.get(f.name, getattr(fair, f.name)) for f in fields(fair)})


Script = Callable[[Call], bool]


class Network:
    """The store, and what lies between it and everybody.

    Attributes:
        weather: the conditions now.
        script: asked first of every request; True if it has seen to it. For scenarios.
        down: true time until which the store does not answer; `busy`, whether it turns requests away.
        slow: true time until which everything takes `slow_by` seconds longer.
        latest: the true time at which the last request that is under way arrives.
        history: every state of the record so far, in order.
    """

    __slots__ = (
        "_answering", "_asking", "_weather", "busy", "cells", "counts", "down", "history", "judge",
        "latest", "listeners", "local", "script", "slow", "slow_by", "world",
    )  # fmt: skip

    def __init__(self, world: World, judge: Judge, kind: Kind, weather: Conditions) -> None:
        self.world, self.judge = world, judge
        self.cells = Cells(kind, number=world.plan.randrange(1000))
        self.local = self.cells.rules.traits.local
        self.weather = weather
        self.script: Script | None = None
        self.down = self.slow = self.latest = -1.0
        self.busy, self.slow_by = False, 0.0
        self.history: list[Slot] = [self.cells.peek(NAME)]
        self.listeners: dict[Bid, None] = {}
        self.counts = {"read": 0, "applied": 0, "conflict": 0, "unknown": 0}

    @property
    def weather(self) -> Conditions:
        return self._weather

    @weather.setter
    def weather(self, weather: Conditions) -> None:
        self._weather = weather
        self._asking, self._answering = weather.asking, weather.answering

    # ---- on the way to the store -------------------------------------------------------------------

    def send(self, call: Call) -> None:
        """Take a request from a driver; its outcome will be handed to the party, once or never."""
        call.due = self.world.time + call.request.timeout / call.bid.host.rate
        if self.script is not None and self.script(call):
            return
        dice = self.world.dice.random
        if self._asking and dice() < self._asking:
            self._send_astray(call)
        else:
            self.world.after(self._weather.delay * (0.5 + dice()), self.arrive, call)

    def _send_astray(self, call: Call) -> None:
        weather, dice = self._weather, self.world.dice.random
        pick = dice() * self._asking - weather.tail
        if pick < 0:
            self._send_late(call, weather.tail_most * dice())
            return
        pick -= weather.lose
        if pick < 0:
            self.silence(call)
            return
        pick -= weather.double
        if pick < 0:
            call.doubled = True
            self.world.after(weather.delay * (0.5 + dice()), self.arrive, call)
            self._send_late(call, dice() * (weather.tail_most or 10 * weather.delay))
            return
        self.reply(call, Unknown(void=True))

    def _send_late(self, call: Call, seconds: float) -> None:
        arrives = self.world.time + seconds
        self.latest = max(self.latest, arrives + self.slow_by)
        self._expect(call, arrives)
        self.world.at(arrives, self.arrive, call)

    def _expect(self, call: Call, when: float) -> None:
        """Nothing comes back before that instant: most drivers give up in time, some wait."""
        if when > call.due and not (self._weather.overtime and self._waits()):
            self.silence(call)

    def _waits(self) -> bool:
        """Whether this client library keeps no timeout of its own."""
        return self.world.dice.random() < self._weather.overtime

    def silence(self, call: Call) -> None:
        """No answer will come: the driver gives up in time."""
        self.world.at(max(call.due, self.world.time), self.hand_on, call, Unknown())

    # ---- at the store ------------------------------------------------------------------------------

    def arrive(self, call: Call) -> None:
        """A request reaches the store, if it does."""
        now, host = self.world.time, call.bid.host
        if self.local and now < host.wakes:
            self.world.at(host.wakes, self.arrive, call)  # The store sleeps with the host it lives on.
        elif now < host.mute:
            self.silence(call)
        elif now < self.down:
            if self.busy:
                self.reply(call, Unknown(void=True))
            else:
                self.silence(call)
        elif now < self.slow:
            self._expect(call, now + self.slow_by)
            self.world.after(self.slow_by, self._serve, call)
        else:
            self._serve(call)

    def _serve(self, call: Call) -> None:
        outcome = self.execute(call)
        weather = self._weather
        if self._answering and self.world.dice.random() < self._answering:
            pick = self.world.dice.random() * self._answering - weather.tail
            if pick < 0:
                self.reply(call, outcome, weather.tail_most * self.world.dice.random())
            elif pick < weather.lose:
                self.silence(call)
            else:
                self.reply(call, Unknown())
        else:
            self.reply(call, outcome)

    def execute(self, call: Call) -> Outcome | Slot | Refused:
        """What the store says, and does, here and now."""
        request = call.request
        if not isinstance(request, Swap):
            self.counts["read"] += 1
            return self._shown(call.bid.host)
        before = self.cells.peek(NAME)
        try:
            outcome = self.cells.swap(request.seen, request.claim)
        except RecordRefused as refused:
            return Refused(refused)
        if isinstance(outcome, Applied):
            self.counts["applied"] += 1
            after = self.cells.peek(NAME)
            self._marked(call, "applied")
            self.judge.committed(call, before, after)
            self._changed(after)
            return outcome
        self.counts["conflict"] += 1
        self._marked(call, "conflict")
        if self._weather.vague and self.world.dice.random() < self._weather.vague:
            return Conflict(None)
        return outcome

    def _shown(self, host: Host) -> Slot | Refused:
        weather = self._weather
        if host.frozen is not None:
            return self.history[host.frozen]
        if weather.stale and self.world.dice.random() < weather.stale:
            return self.history[-1 - int(self.world.dice.random() ** 3 * len(self.history))]
        try:
            return self.cells.read(NAME)
        except RecordRefused as refused:
            return Refused(refused)

    def _marked(self, call: Call, what: str) -> None:
        if self.world.marks is not None:
            claim, seen = call.claim, call.request.seen.claim if isinstance(call.request, Swap) else None
            renewed = claim is not None and seen is not None and seen.id == claim.id
            aim = "free" if claim is None or not claim.held else "renew" if renewed else "claim"
            late = " (after its end)" if call.parting and aim != "free" else ""
            self.world.mark("store", what, f"{call.bid.label} {aim}{late}")

    # ---- and back ----------------------------------------------------------------------------------

    def reply(self, call: Call, outcome: Outcome | Slot | Refused, later: float = 0.0) -> None:
        """Send an answer back."""
        dice = self.world.dice.random
        arrives = self.world.time + self._weather.delay * (0.5 + dice()) + later
        if arrives <= call.due or (self._weather.overtime and self._waits()):
            self.world.at(arrives, self._deliver, call, outcome)
        else:
            self.silence(call)

    def _deliver(self, call: Call, outcome: Outcome | Slot | Refused) -> None:
        if self.world.time < call.bid.host.deaf:
            self.silence(call)
        else:
            self.hand_on(call, outcome)

    def hand_on(self, call: Call, outcome: Outcome | Slot | Refused) -> None:
        """Hand an outcome to whoever asked, once."""
        if call.over:
            return
        call.over = True
        if isinstance(outcome, Unknown):
            self.counts["unknown"] += 1
        call.bid.party.answered(call, outcome)

    # ---- hints -------------------------------------------------------------------------------------

    def _changed(self, slot: Slot) -> None:
        """The record changed: keep it for stale reads, and tell those who listen."""
        self.history.append(slot)
        if not self._weather.hints:
            return
        for bid in self.listeners:
            self._hint(bid, slot)

    def _hint(self, bid: Bid, slot: Slot | None) -> None:
        weather, dice = self._weather, self.world.dice.random
        if weather.hint_lose and dice() < weather.hint_lose:
            return
        if weather.hint_bare and dice() < weather.hint_bare:
            slot = None
        if weather.hint_old and dice() < weather.hint_old:
            slot = self.history[int(dice() * len(self.history))]
        delay = weather.delay * (0.5 + dice()) + weather.hint_delay * dice()
        self.world.after(delay, self._tell, bid, slot)
        if weather.hint_double and dice() < weather.hint_double:
            self.world.after(delay * (1 + 3 * dice()), self._tell, bid, slot)

    def _tell(self, bid: Bid, slot: Slot | None) -> None:
        if bid in self.listeners and self.world.time >= bid.host.deaf:
            bid.party.hinted(bid, slot)

    # ---- strangers ---------------------------------------------------------------------------------

    def edit(self) -> None:
        """Somebody edits the object, as `kubectl label` does: a new version that says the same."""
        slot = self.cells.peek(NAME)
        if slot.claim is None:
            return
        body = slot.body
        if self.cells.rules.silent:  # Here only other bytes make another version.
            body = body[:-1] + f',"label":{len(self.history)}}}'.encode()
        self.world.mark("store", "edited")
        self._write(body, slot)

    def delete(self) -> None:
        """Somebody removes the record."""
        slot = self.cells.peek(NAME)
        if slot.claim is None:
            return
        self.world.mark("store", "deleted")
        after = self.cells.remove(NAME)
        self.judge.deleted(slot, after)
        self._changed(after)

    def recreate(self, body: bytes) -> None:
        """Somebody puts a record there as it once was, whatever stands there now."""
        slot = self.cells.peek(NAME)
        self.world.mark("store", "recreated")
        self._write(body, slot)

    def break_(self, *, now: bool = False) -> bool:
        """Somebody breaks the lock: a held record of no claim, to be waited for; or frees it at once."""
        slot = self.cells.peek(NAME)
        if slot.claim is None or not slot.held:
            return False
        self.world.mark("store", "broken")
        broken = Claim(
            "operator", "", f"{self.world.dice.getrandbits(64):016x}", slot.claim.ttl, slot.claim.token,
            State.FREE if now else State.HELD,
        )  # fmt: skip
        self._write(encode(broken), slot)
        return True

    def _write(self, body: bytes, before: Slot) -> None:
        after = self.cells.write(NAME, body)
        if after is not before:
            self.judge.overwritten(before, after)
            self._changed(after)

    def bustle(self, writes: int) -> None:
        """Other names are written: where numbers are store-wide, they grow."""
        self.cells.number += writes
