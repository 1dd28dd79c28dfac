"""What a seed means: the store, the fleet, its habits, and the faults, all drawn before the run.

Each seed switches every kind of fault on or off by itself, and each that is on has a strength of its own:
a run in which everything goes wrong a little finds less than many runs in which a few things go
very wrong. Durations are drawn in ttls, so that a fault is long or short against what it is to break.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from leases.machine import Machine
from leases.terms import Terms
from leases.testing.bid import NEVER
from leases.testing.cells import Kind
from leases.testing.driver import Habits
from leases.testing.network import Conditions
from leases.testing.scene import Scene
from leases.testing.world import World

# Those of the first line alone must cost nobody a lease.
GENTLE: Final = (
    "drift", "wall", "stale", "hints", "double", "vague", "edit", "metadata", "impatience", "linger",
    "successor", "mixed", "bustle", "forget", "twins", "frozen", "falter",
)  # fmt: skip
ROUGH: Final = (
    "loss", "delay", "error", "busy", "overtime", "partition", "outage", "slow", "pause", "slip", "suspend",
    "crash", "reboot", "break", "delete", "tardy", "seal",
)  # fmt: skip
FAULTS: Final = (*GENTLE, *ROUGH)
_LENGTHS: Final = (2.5, 7.5)  # ttls
STEPS: Final = 800  # events after which a busy fleet's faults end early


@dataclass(slots=True)
class Plan:
    """What a seed means.

    Attributes:
        kind: whose rules the store follows.
        faults: the kinds of fault that are on, for the title.
        ttl: the unit of all durations, in seconds; contenders may differ by a factor of two.
        length: the true time after which everything heals.
        drain: whether the end is that everybody lets go, instead of that somebody holds on.
        rate: rho, the bound on the clocks' rate error that the fleet agreed on.
        scene: the world, set up.
        longest: the longest ttl in the fleet, in seconds.
        patient: whether the end is watched until every lease was renewed, and on.
    """

    kind: Kind
    faults: frozenset[str]
    ttl: float
    length: float
    drain: bool
    rate: float
    scene: Scene
    longest: float
    patient: bool


def prepare(
    seed: int | str,
    *,
    machine: type[Machine] = Machine,
    terms: type[Terms] = Terms,
    kind: Kind | None = None,
    beyond: float = 0.0,
    watched: bool = False,
) -> Plan:
    """Draw the plan of a seed and set its world up, ready to run.

    Args:
        seed: what everything is drawn from.
        machine: the state machine to judge.
        terms: the durations it goes by.
        kind: the store's rules, instead of those that the seed draws.
        beyond: where it is above rho, clocks run wrong by up to so much, and overlap is only measured.
        watched: keep marks.
    """
    drawing = _Drawing(World(seed, watched=watched), machine, terms, kind)
    drawing.stretch = max(beyond, drawing.rate)
    return drawing.plan()


class _Drawing:
    """One plan while it is drawn."""

    def __init__(self, world: World, machine: type[Machine], terms: type[Terms], kind: Kind | None) -> None:
        self.world, self.chance, self.machine, self.terms = world, world.plan, machine, terms
        drawn = self.chance.choice(_KINDS)
        self.kind = kind or drawn
        self.traits = self.kind.rules.traits
        self.on = self._draw_faults()
        self.ttl: float = 2.0 ** self.chance.uniform(-1.0, 5.0)
        self.length = self.ttl * self.chance.uniform(*_LENGTHS)
        self.rate: float = self.chance.choice((0.0, 0.01, 0.1, 0.1, 0.2, 0.33))
        self.stretch = self.rate

    def _draw_faults(self) -> frozenset[str]:
        share = self.chance.choice((0.03, 0.1, 0.2, 0.35, 0.6))
        pool = GENTLE if self.chance.random() < 0.15 else FAULTS
        return frozenset(fault for fault in pool if self.chance.random() < share)

    def _blinding(self) -> bool:
        """Whether a holder may be kept from ever learning the version that its record has now.

        A stranger's edit, or a second copy of its own swap, makes a conflict; where that shows nothing, and
        reads show the past, nobody can tell it.
        """
        moved, hidden = {"edit", "double"} & self.on, {"stale", "frozen"} & self.on
        return bool(moved and hidden) and "vague" in self.on

    def plan(self) -> Plan:
        """The plan, and its scene with everything set up."""
        chance = self.chance
        scene = Scene(
            self.world, self.kind, rate=self.rate, weather=self._weather(), machine=self.machine
        )  # fmt: skip
        self.judge = scene.judge
        scene.judge.lawful = self.stretch <= self.rate
        scene.judge.gentle = self.on <= frozenset(GENTLE) and not self._blinding()
        self._fleet(scene)
        self._disturb(scene)
        longest = max(process.terms.ttl for process in scene.processes)
        drain, patient = chance.random() < 0.15, chance.random() < 0.25
        return Plan(self.kind, self.on, self.ttl, self.length, drain, self.rate, scene, longest, patient)

    # ---- the weather -----------------------------------------------------------------------------

    def _weather(self) -> Conditions:
        chance, ttl = self.chance, self.ttl
        some = self._some
        weather = Conditions(delay=min(ttl * 10 ** chance.uniform(-4.0, -2.0), 1.0))
        weather.hints = chance.random() < 0.6
        weather.hint_bare = chance.choice((0.0, 0.5, 1.0))
        weather.lose = some("loss", 0.01, 0.4)
        if "delay" in self.on:
            weather.tail, weather.tail_most = chance.uniform(0.02, 0.3), ttl * chance.uniform(0.2, 2.5)
        weather.double = some("double", 0.02, 0.3)
        weather.error = some("error", 0.02, 0.3)
        weather.void = some("busy", 0.02, 0.3)
        weather.vague = some("vague", 0.1, 1.0)
        weather.stale = some("stale", 0.05, 0.7)
        weather.overtime = some("overtime", 0.3, 1.0)
        if "hints" in self.on:
            weather.hint_lose, weather.hint_double = chance.uniform(0, 0.9), chance.uniform(0, 0.4)
            weather.hint_old, weather.hint_delay = chance.uniform(0, 0.4), ttl * chance.uniform(0, 1.5)
        return weather

    def _some(self, fault: str, least: float, most: float) -> float:
        drawn = self.chance.uniform(least, most)
        return drawn if fault in self.on else 0.0

    # ---- the fleet -------------------------------------------------------------------------------

    def _fleet(self, scene: Scene) -> None:
        chance = self.chance
        names = [f"p{index}" for index in range(chance.choice((2, 2, 2, 3, 3, 4, 5, 6)))]
        habits = self._habits()
        for name in names:
            host = scene.host(f"host of {name}", rate=self._draw_rate())
            own = replace(habits, threads=chance.choice((1, 1, 1, 2, 3)))
            process = scene.process(name, host, self._terms(), own)
            process.boot_known = chance.random() < 0.9
            process.rivals = (*names, "nobody")
            process.start()
        if "twins" in self.on:  # Two processes may carry one name, and nothing may depend on it.
            scene.processes[1].holder = scene.processes[0].holder
        scene.judge.tardy = habits.tardy

    def _draw_rate(self) -> float:
        if ("drift" not in self.on and self.stretch <= self.rate) or not self.stretch:
            return 1.0
        slow, fast = 1 - self.stretch, 1 + self.stretch
        return self.chance.choice((slow, fast, self.chance.uniform(slow, fast)))

    def _terms(self) -> Terms:
        chance, ttl = self.chance, self.ttl
        if "mixed" in self.on:
            ttl = max(0.2, ttl * chance.choice((0.5, 0.7, 1.0, 1.0)))
        guard = chance.choice((None, 0.0))
        widest = ttl * (1 - self.rate) / (1 + self.rate) - (min(ttl / 100, 0.05) if guard is None else guard)
        hold = chance.choice((None, widest, widest))
        return self.terms(ttl, hold=hold, rate=self.rate, guard=guard)

    def _habits(self) -> Habits:
        chance, ttl, some = self.chance, self.ttl, self._some
        work = ttl * chance.choice((0.05, 0.3, 1.0, 1.0, 4.0))
        habits = Habits(think=ttl * chance.choice((0.01, 0.1, 0.5, 1.0)), work=work)
        habits.writes = chance.choice((0, 0, 1, 2))
        habits.write_delay = ttl * chance.choice((0.01, 1.0))
        habits.react = ttl * chance.choice((0.0, 0.0, 0.1, 0.5))
        habits.hand_over = chance.choice((0.0, 0.8, 1.0))
        habits.listen_on = chance.random() < 0.5
        habits.update = some("metadata", 0.2, 1.0)
        habits.falter = some("falter", 0.1, 0.8)
        habits.give_up, habits.patience = some("impatience", 0.1, 0.8), ttl * chance.uniform(0.02, 1.0)
        habits.linger, habits.successor = some("linger", 0.1, 0.6), some("successor", 0.1, 0.6)
        habits.hold_back = ttl * chance.choice((0.0, 0.0, 0.01, 0.1))
        habits.forget = some("forget", 0.1, 1.0)
        habits.slip, habits.slip_most = some("slip", 0.005, 0.1), ttl * chance.uniform(0.05, 1.5)
        habits.seal = ttl * some("seal", 0.01, 0.6)
        habits.tardy = ttl * some("tardy", 0.0, 0.02)
        return habits

    # ---- what happens to it ----------------------------------------------------------------------

    def _disturb(self, scene: Scene) -> None:
        """Plan every fault that has an instant of its own."""
        plans: dict[str, Callable[[Scene], None]] = {
            "drift": self._drift, "wall": self._wall, "edit": self._edit, "bustle": self._bustle,
            "frozen": self._freeze, "partition": self._partition, "outage": self._outage, "slow": self._slow,
            "pause": self._pause, "suspend": self._suspend, "crash": self._crash, "reboot": self._reboot,
            "break": self._break, "delete": self._delete,
        }  # fmt: skip
        for fault, plan in plans.items():
            if fault in self.on:
                for _ in range(self.chance.randint(1, 4)):
                    plan(scene)

    def _at(self, do: Callable[..., object], *args: Any) -> None:
        self.world.at(self.length * self.chance.random(), self._befall, do, args)

    def _befall(self, do: Callable[..., object], args: tuple[Any, ...]) -> None:
        if self.judge.healed == NEVER:
            do(*args)

    def _while(self, least: float, most: float) -> float:
        return self.ttl * self.chance.uniform(least, most)

    def _drift(self, scene: Scene) -> None:
        self._at(scene.set_rate, self.chance.choice(scene.hosts), self._draw_rate())

    def _wall(self, scene: Scene) -> None:
        far = self.chance.choice((3600.0, 365 * 86400.0)) * self.chance.choice((1, -1))
        self._at(self.chance.choice(scene.hosts).step_wall, far)

    def _edit(self, scene: Scene) -> None:
        self._at(scene.network.edit)

    def _bustle(self, scene: Scene) -> None:
        self._at(scene.network.bustle, self.chance.randint(1, 50))

    def _freeze(self, scene: Scene) -> None:
        self._at(scene.freeze, self.chance.choice(scene.hosts), self._while(0.3, 4.0))

    def _partition(self, scene: Scene) -> None:
        requests, replies = self.chance.choice(((True, True), (True, True), (True, False), (False, True)))
        host, seconds = self.chance.choice(scene.hosts), self._while(0.1, 2.5)
        self._at(partial(scene.partition, requests=requests, replies=replies), host, seconds)

    def _outage(self, scene: Scene) -> None:
        self._at(partial(scene.outage, busy=self.chance.random() < 0.3), self._while(0.1, 2.0))

    def _slow(self, scene: Scene) -> None:
        self._at(scene.slow, self._while(0.3, 2.0), self._while(0.01, 0.5))

    def _pause(self, scene: Scene) -> None:
        self._at(self.chance.choice(scene.processes).pause, self._while(0.1, 2.5))

    def _suspend(self, scene: Scene) -> None:
        self._at(scene.suspend, self.chance.choice(scene.hosts), self._while(0.1, 2.5))

    def _crash(self, scene: Scene) -> None:
        self._at(self.chance.choice(scene.processes).crash, self._while(0.0, 1.5))

    def _reboot(self, scene: Scene) -> None:
        self._at(scene.reboot, self.chance.choice(scene.hosts), self._while(0.1, 1.0))

    def _break(self, scene: Scene) -> None:
        self._at(scene.network.break_)

    def _delete(self, scene: Scene) -> None:
        """Only where release leaves a record, and where something is left that numbers the next token."""
        if not self.traits.release_deletes and self.traits.ordered:
            self._at(scene.network.delete)


_KINDS: Final = tuple(Kind)
