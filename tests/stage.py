"""A stage for scenarios: the simulator's world, nothing left to chance, every fault put there by hand.

    stage = Stage(Kind.ETCD)
    a, b = stage.process("a"), stage.process("b")
    stage.at(0).want(a)
    stage.at(5).pause(a, 30)
    stage.run(60)

A process wants, works, writes and releases only when it is told to. The judge watches as ever: a scenario
that breaks an invariant fails, whatever else it asserts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from leases.contract import Applied, Unknown
from leases.events import Read, Swap
from leases.machine import Machine
from leases.terms import Terms
from leases.testing.bid import Bid, Call
from leases.testing.cells import Kind
from leases.testing.driver import Habits
from leases.testing.network import Conditions
from leases.testing.process import Process
from leases.testing.scene import Scene
from leases.testing.world import NAME, Host, Mark, World

KINDS: Final = tuple(Kind)
# Where the store lives on one host, hosts cannot be told apart: nobody is cut off or put to sleep alone.
NETWORKED: Final = tuple(kind for kind in Kind if not kind.rules.traits.local)
DELAY: Final = 0.01  # seconds, one way, half to one and a half of it
TTL: Final = 10.0
ROUND: Final = 4 * DELAY  # more than one request and its answer take

Fate = Callable[[Call], None]


class Stage:
    """A scene, and the hands that move it."""

    def __init__(
        self, kind: Kind, *, rate: float = 0.1, machine: type[Machine] = Machine, **weather: Any
    ) -> None:
        self.world = World("scenario", watched=True)
        options: dict[str, Any] = {"delay": DELAY, **weather}
        conditions = Conditions(**options)
        self.scene = Scene(self.world, kind, rate=rate, weather=conditions, machine=machine)
        self.network, self.judge, self.resource = self.scene.network, self.scene.judge, self.scene.resource
        self.network.script = self._decide
        self.sent: list[Call] = []
        self._fates: list[tuple[Process, type[Read | Swap], Fate]] = []

    def process(
        self, name: str, *, host: Host | None = None, clock: float = 1.0, ttl: float = TTL, **options: Any
    ) -> Process:
        """Another process, on a host of its own; options are those of `Terms` and of `Habits`."""
        terms = {key: options.pop(key) for key in ("hold", "renew", "attempt", "guard") if key in options}
        habits = Habits(threads=0, think=math.inf, work=math.inf, **options)
        host = host or self.scene.host(f"host of {name}", rate=clock)
        rate = self.judge.rate
        return self.scene.process(name, host, Terms(ttl, rate=rate, **terms), habits)

    def at(self, when: float) -> Moment:
        """What is to happen at an instant."""
        return Moment(self, when)

    def run(self, until: float) -> Stage:
        """Let time pass."""
        self.world.run(until)
        return self

    def acquire(self, process: Process, thread: int = 0) -> Bid:
        """Want the lock here and now, and go on until it is held."""
        process.want(thread)
        return self.until_held(process)

    def until_held(self, process: Process, most: float = 1000.0) -> Bid:
        """Let time pass until a process holds."""
        ends = self.world.time + most
        while self.world.time < ends:
            for bid in process.bids:
                if bid.working and self.holds(bid):
                    return bid
            self.world.run(self.world.time + DELAY / 4)
        raise AssertionError(f"{process.name} does not hold within {most} s")

    def holds(self, bid: Bid) -> bool:
        """Whether the lease stands, asked of its machine by its host's clock."""
        return bid.machine.held(bid.host.instant())

    def holder(self) -> str | None:
        """The process that holds now."""
        bid = self.judge.holding()
        return None if bid is None else bid.label.split("#")[0]

    def record(self) -> Any:
        """The claim in the store; None where there is none."""
        return self.network.cells.peek(NAME).claim

    def freed(self) -> bool:
        """Whether the record keeps nobody out."""
        return not self.network.cells.peek(NAME).held

    def marks(self, process: Process, *what: str) -> list[Mark]:
        """What was seen of a process."""
        return [m for m in self.world.marks or () if m.where == process.name and (not what or m.what in what)]

    def swaps(self, process: Process) -> list[Call]:
        """The swaps that a process has sent so far."""
        return [call for call in self.sent if call.bid.party is process and isinstance(call.request, Swap)]

    # ---- fates of single messages ------------------------------------------------------------------

    def next_swap(self, process: Process, *fates: Fate) -> None:
        """What becomes of the next swaps that a process sends, one after another."""
        self._fates.extend((process, Swap, fate) for fate in fates)

    def next_read(self, process: Process, *fates: Fate) -> None:
        """What becomes of the next reads that a process sends, one after another."""
        self._fates.extend((process, Read, fate) for fate in fates)

    def clear_fates(self) -> None:
        """From here on messages fare as the weather has it."""
        self._fates.clear()

    def _decide(self, call: Call) -> bool:
        self.sent.append(call)
        for i, (process, kind, fate) in enumerate(self._fates):
            if call.bid.party is process and isinstance(call.request, kind):
                del self._fates[i]
                fate(call)
                return True
        return False

    def lost(self, call: Call) -> None:
        """The request never arrives."""
        self.network.silence(call)

    def unanswered(self, call: Call) -> None:
        """The request is carried out, and its answer is lost."""
        self.network.execute(call)
        self.network.silence(call)

    def busy(self, call: Call) -> None:
        """The store turns the request away, and says so."""
        self.network.reply(call, Unknown(void=True))

    def late(self, seconds: float) -> Fate:
        """The request arrives so much later, when nobody waits for its answer any more."""

        def fate(call: Call) -> None:
            self.network.silence(call)
            self.world.after(seconds, self.network.arrive, call)

        return fate

    def arriving(self, when: float) -> Fate:
        """The request arrives at that instant."""
        return lambda call: self.late(when - self.world.time)(call)

    def answered_late(self, seconds: float) -> Fate:
        """The request is carried out at once, and its answer comes so much later."""
        return lambda call: self.network.reply(call, self.network.execute(call), seconds)

    def resent(self, gap: float) -> Fate:
        """The transport loses the first answer and sends the request again."""

        def fate(call: Call) -> None:
            call.doubled = True
            assert isinstance(self.network.execute(call), Applied)
            self.world.after(gap, self.network.arrive, call)

        return fate


class Moment:
    """An instant at which something is to happen; each method plans one thing for it."""

    def __init__(self, stage: Stage, when: float) -> None:
        self._stage, self._when = stage, when

    def do(self, what: Callable[..., object], *args: Any, **options: Any) -> Moment:
        """Anything."""
        self._stage.world.at(self._when, lambda: what(*args, **options))
        return self

    def _each(self, process: Process, what: Callable[[Bid], object]) -> Moment:
        def act() -> None:
            for bid in tuple(process.bids):
                what(bid)

        return self.do(act)

    def want(self, process: Process, thread: int = 0) -> Moment:
        """A thread of the process wants the lock."""
        return self.do(process.want, thread)

    def finish(self, process: Process) -> Moment:
        """The work of the lease is done."""
        return self._each(process, process.finish)

    def give_up(self, process: Process) -> Moment:
        """Whoever waits in the process does not want to any longer."""
        return self._each(process, process.give_up)

    def update(self, process: Process) -> Moment:
        """The holder shows other metadata."""
        return self._each(process, process.update)

    def pause(self, process: Process, seconds: float) -> Moment:
        """The process stands still."""
        return self.do(process.pause, seconds)

    def crash(self, process: Process) -> Moment:
        """The process dies."""
        return self.do(process.crash)

    def suspend(self, process: Process, seconds: float) -> Moment:
        """The host of the process sleeps."""
        return self.do(self._stage.scene.suspend, process.host, seconds)

    def partition(self, process: Process, seconds: float) -> Moment:
        """The host of the process is cut off from the store."""
        return self.do(self._stage.scene.partition, process.host, seconds)

    def outage(self, seconds: float) -> Moment:
        """The store answers nobody."""
        return self.do(self._stage.scene.outage, seconds)
