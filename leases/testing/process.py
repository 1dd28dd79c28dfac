"""A process of the simulated world: its threads want the lock, work while they hold it, and let go.

In one process the lock passes from thread to thread as in the library: one contender at a time, a queue,
and what one claim leaves is what the next begins with. A lease may be lost at any point of the work, a
wish given up at any point of the waiting, and the process may crash at any point of both, and come back
under the same name.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from leases.clock import Instant
from leases.events import Blocked, Endangered, Event, GaveUp, Granted, Lost, Released, Renewed
from leases.machine import Estate, Ledger, Machine
from leases.terms import Terms
from leases.testing.bid import NEVER, Bid
from leases.testing.driver import Driver, Habits
from leases.testing.invariants import Judge, Resource
from leases.testing.network import Network
from leases.testing.world import NAME, Host


class Process(Driver):
    """One process on one host, and its life after each crash.

    Attributes:
        name: for people; another process may carry the same `holder`.
        life: which of its lives this is.
        turn: the bid whose turn it is.
        waiting: the threads that wait behind it.
        rivals: holders whom a release may name as successor.
        closing: nobody here wants anything any more.
    """

    def __init__(
        self,
        host: Host,
        name: str,
        terms: Terms,
        network: Network,
        judge: Judge,
        resource: Resource,
        habits: Habits,
        machine: type[Machine] = Machine,
    ) -> None:
        super().__init__(host, name, network, judge, habits)
        self.holder = name
        self.terms, self.resource, self.machine = terms, resource, machine
        self.traits = network.cells.rules.traits
        self.boot_known = True
        self.rivals: tuple[str, ...] = ()
        self.closing = False
        self.life = 0
        self._born()

    def _born(self) -> None:
        self.life += 1
        self.alive = True
        self.ledger = Ledger()
        self.turn: Bid | None = None
        self.waiting: deque[int] = deque()
        self._remains: Bid | None = None
        self._estate: Estate | None = None

    def crash(self, restart: float | None = None) -> None:
        """Die, and come back under the same name after so many seconds; None: never."""
        if self.alive:
            self.alive = False
            self.world.mark(self.name, "crash")
            for bid in self.bids:
                bid.dead = True
                self.network.listeners.pop(bid, None)
                self.judge.died(bid)
            self.bids.clear()
        if restart is not None:
            self.world.after(restart, self._restart, self.life)

    def _restart(self, life: int) -> None:
        if not self.alive and life == self.life:
            self._born()
            self.busy = min(self.busy, self.host.wakes)
            self.world.mark(self.name, "restart")
            self.start()

    # ---- wishes ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Its threads begin to want the lock."""
        for thread in range(self.habits.threads):
            self.world.after(self.spread(self.habits.think), self.want, thread, self.life)

    def want(self, thread: int = 0, life: int | None = None) -> None:
        """A thread wants the lock now."""
        if self._can_run(life, self.want, thread, life) and not self.closing:
            self.waiting.append(thread)
            if self.turn is None:
                self._call_next()

    def _call_next(self) -> None:
        """The next thread in line has its turn, with what the claim before it left."""
        self.turn = None
        if self.waiting:
            thread = self.waiting.popleft()
            estate, heard = self._inherit()
            bid = self.turn = self._bid(thread, estate)
            bid.aware, bid.missed = heard
            self.bids[bid] = None
            self.feed(bid, partial(bid.machine.acquire, hold_back=self.spread(self.habits.hold_back)))
            if self.roll(self.habits.give_up):
                self.world.after(self.spread(self.habits.patience), self.give_up, bid)

    def _bid(self, thread: int, estate: Estate | None) -> Bid:
        boot = self.host.boot if self.boot_known else None
        machine = self.machine(
            NAME, self.holder, self.terms, self.traits, self.world.entropy,
            boot=boot, estate=estate, ledger=self.ledger,
        )  # fmt: skip
        bid = Bid(machine, self.host, self, self.life, f"{self.name}#{thread}", thread)
        if estate is not None and estate.newest is not None:
            bid.newest = estate.newest
        return bid

    def _inherit(self) -> tuple[Estate | None, tuple[float, float]]:
        """What the claim before left; and what it had been shown of a held record that may vanish."""
        remains, estate, self._remains, self._estate = self._remains, self._estate, None, None
        if self.roll(self.habits.forget):
            return None, (0.0, NEVER)
        if remains is not None:
            return self._bequeath(remains), (remains.aware, remains.missed)
        if estate is None or estate.missing is None:
            return estate, (0.0, NEVER)
        ttl, since = estate.missing
        return estate, (ttl, NEVER if since < 0 else -NEVER)

    def give_up(self, bid: Bid) -> None:
        """A thread does not want to wait any longer."""
        if self.can_act(bid, self.give_up, bid) and bid.tenure is None and not bid.stopped:
            self.world.mark(self.name, "gave up")
            bid.left = bid.stopped = True
            self.feed(bid, bid.machine.abandon)

    def _pass_on(self, bid: Bid) -> None:
        """The turn of this bid ends; what it may still have under way goes to whoever comes next."""
        if self.turn is bid:
            if bid.phase == "chasing":
                self._remains = bid
            elif bid.phase == "done":
                self._estate = bid.machine.bequeath(self.host.instant())
            self._think(bid)
            self._call_next()

    def _bequeath(self, bid: Bid) -> Estate:
        bid.stopped = True
        estate = bid.machine.bequeath(self.host.instant())
        self._part(bid)
        return estate

    def _part(self, bid: Bid) -> None:
        self.judge.died(bid)
        self.bids.pop(bid, None)
        self.network.listeners.pop(bid, None)
        bid.timer = NEVER

    def _think(self, bid: Bid) -> None:
        self.world.after(self.spread(self.habits.think), self.want, bid.thread, self.life)

    # ---- what machines tell ------------------------------------------------------------------------

    def told(self, bid: Bid, event: Event) -> None:
        if self.world.marks is not None:
            self._mark(bid, event)
        match event:
            case Granted(token=token):
                self.judge.granted(bid, token)
                self.world.after(self.spread(self.habits.seal), self._confirm, bid, bid.machine.claim_id)
            case Lost(reason=reason):
                self.judge.lost(bid, reason, self.network.cells.peek(NAME))
                self.network.listeners.pop(bid, None)
                self.world.after(self.spread(self.habits.react), self.let_go, bid)
                self._leave_turn(bid)
            case Blocked() if not bid.watching:
                bid.watching = True
                self.network.listeners[bid] = None
            case GaveUp():
                bid.left = bid.stopped = True
            case _:
                pass

    def _leave_turn(self, bid: Bid) -> None:
        """The lease is lost: the next of this process need not wait for its work to stop."""
        if self.turn is bid:
            self.turn = None
            self._think(bid)
            self.world.after(0.0, self._call_if_free, self.life)

    def _call_if_free(self, life: int) -> None:
        if self.turn is None and self._can_run(life, self._call_if_free, life):
            self._call_next()

    def _confirm(self, bid: Bid, claim: str) -> None:
        """The resource is sealed: is it still in time?"""
        if self.can_act(bid, self._confirm, bid, claim) and not bid.stopped and bid.machine.claim_id == claim:
            self.feed(bid, bid.machine.confirm)

    def ended(self, bid: Bid, now: Instant) -> None:
        if bid.phase == "chasing":
            if bid.chasing_since is None:
                bid.chasing_since = now.wait
                bid.left = True
                self._pass_on(bid)
        elif bid in self.bids:
            self.judge.done(bid, now, self.network.cells.peek(NAME))
            self._part(bid)
            self._remains = None if self._remains is bid else self._remains
            self._pass_on(bid)

    def _mark(self, bid: Bid, event: Event) -> None:
        mark, who, token = self.world.mark, self.name, bid.machine.token
        match event:
            case Renewed(deadline=deadline):
                mark(who, "renewed", f"{token}", self.host.real(deadline))
            case Granted(deadline=deadline):
                mark(who, "granted", f"{token}", self.host.real(deadline))
            case Endangered():
                mark(who, "endangered", f"{token}")
            case Lost(reason=reason):
                mark(who, "lost", f"{token} {reason}")
            case Released(clean=clean):
                mark(who, "released", "" if clean else "no answer")
            case Blocked(slot=slot):
                mark(who, "blocked", "by " + (slot.claim.holder if slot.claim is not None else "nobody"))
            case _:
                mark(who, type(event).__name__)

    # ---- its work ----------------------------------------------------------------------------------

    def succeeded(self, bid: Bid, now: Instant) -> None:
        """The lease is ours: shut everybody earlier out of the resource, and work."""
        tenure, token, habits = self.judge.confirmed(bid, now), bid.machine.token, self.habits
        assert token is not None
        bid.working = True
        self.world.mark(self.name, "held", f"{token}", self.host.real(bid.machine.deadline))
        self.resource.seal(token, tenure)
        if not habits.listen_on:
            self.network.listeners.pop(bid, None)
        work = self.spread(habits.work)
        self.world.after(work, self.finish, bid)
        for _ in range(habits.writes):
            self.world.after(work * self.world.dice.random(), self.write, bid)
        if self.roll(habits.update):
            self.world.after(work * self.world.dice.random(), self.update, bid)
        if self.roll(habits.falter):
            self.world.after(work * self.world.dice.random(), self.falter, bid)

    def finish(self, bid: Bid) -> None:
        """The work is done: pass the lease on in this process, or release it."""
        if not self.can_act(bid, self.finish, bid) or not bid.working or bid.lost:
            return
        bid.working = False
        if self.waiting and self.turn is bid and self.roll(self.habits.hand_over):
            self._estate = self._bequeath(bid)
            self.world.mark(self.name, "handed")
            self._think(bid)
            self._call_next()
        else:
            self.release(bid, **self._last_words())

    def _last_words(self) -> dict[str, Any]:
        if self.roll(self.habits.linger):
            return {"linger": max(0.1, self.terms.ttl * (0.2 + 0.8 * self.world.dice.random()))}
        if self.rivals and self.roll(self.habits.successor):
            return {"successor": self.world.dice.choice(self.rivals)}
        return {}

    def release(self, bid: Bid, **words: Any) -> None:
        """Free the record; the work has stopped."""
        bid.working = False
        bid.left = bid.stopped = True
        bid.parted = self.world.time
        self.feed(bid, partial(bid.machine.release, **words))

    def let_go(self, bid: Bid) -> None:
        """The work has stopped after a loss."""
        if self.can_act(bid, self.let_go, bid) and not bid.stopped:
            self.release(bid)

    def update(self, bid: Bid) -> None:
        """Show other metadata."""
        if self.can_act(bid, self.update, bid) and bid.working and bid.machine.held(self.host.instant()):
            bid.metadata = {"step": str(self.world.steps)}, self.world.time
            self.feed(bid, bid.machine.update, bid.metadata[0])

    def falter(self, bid: Bid) -> None:
        """The work hangs, or was told to stop: the lease is to run out; or it shows progress after all."""
        if self.can_act(bid, self.falter, bid) and bid.working and not bid.lost:
            now, hold = self.host.instant(), bid.machine.terms.hold
            bid.until = now.hold + self.spread(hold / 4) if bid.until == NEVER else NEVER
            bid.faltered = True
            self.world.mark(self.name, "falters" if bid.until < NEVER else "goes on")
            self.feed(bid, bid.machine.renew_until, bid.until)
            if self.roll(0.5):
                self.world.after(self.spread(hold / 2), self.falter, bid)

    def write(self, bid: Bid) -> None:
        """Check, then write: what happens in between is what the token is for."""
        if self.can_act(bid, self.write, bid) and bid.working and bid.machine.held(self.host.instant()):
            self.world.after(self.spread(self.habits.write_delay), self.land, bid.machine.token, bid.tenure)

    def land(self, token: int, tenure: int) -> bool:
        """A write reaches the resource; False if it is refused as late."""
        self.judge.tally.writes += 1
        taken = self.resource.write(token, tenure)
        self.judge.tally.refused_writes += not taken
        return taken

    def _can_run(self, life: int | None, again: Callable[..., None], *args: Any) -> bool:
        """As `can_act`, for what belongs to no bid: only in this life, and only while it runs."""
        if not self.alive or (life is not None and life != self.life):
            return False
        if self.world.time < self.busy:
            self.world.at(self.busy, again, *args)
            return False
        return True
