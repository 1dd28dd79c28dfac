"""The simulator's world: true time, what happens at which instant, and the clocks of the hosts in it.

Nothing in it is concurrent: an event is a function and its arguments, and a heap orders them. All chance
comes from three streams of one seed: `plan`, drawn before anything runs, `dice`, drawn as it runs, and
`entropy`, drawn by the machines; so one seed is one run, to the last bit. Nobody in the world can see
the true time.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from leases.clock import Instant

STEPS_MOST: Final = 100_000  # far above what a run needs: past it, something turns in circles
NAME: Final = "lock"


class Violation(AssertionError):
    """Something happened that the protocol promises never happens.

    Attributes:
        rule: the number of the invariant, 1 to 15.
        why: what was seen.
        seed: of the run; running it again shows the same.
        step: the event at which it was seen, counted from 1.
        at: the true time then, in seconds.
        tail: the last marks of the run, where they were kept.
    """

    def __init__(self, rule: int, why: str, *, seed: object = None, step: int = 0, at: float = 0.0) -> None:
        self.rule, self.why, self.seed, self.step, self.at = rule, why, seed, step, at
        self.tail: tuple[Mark, ...] = ()
        super().__init__(rule, why)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.rule, self.why), self.__dict__)

    def __str__(self) -> str:
        return f"invariant {self.rule}: {self.why} (seed {self.seed}, step {self.step}, {self.at:.6f} s)"


class Mark(NamedTuple):
    """One thing that was seen, for people and for the timeline.

    `where` is a host, a process or the store; `until` ends what lasts, in true time.
    """

    at: float
    where: str
    what: str
    text: str = ""
    until: float | None = None

    def __str__(self) -> str:
        ends = "" if self.until is None else f" until {self.until:.3f}"
        return f"{self.at:10.4f}  {self.where:<8} {self.what:<10} {self.text}{ends}"


class World:
    """True time and everything that is going to happen.

    Args:
        seed: of all chance.
        watched: whether to keep marks; a run with and one without are the same run.
    """

    __slots__ = ("_count", "_heap", "dice", "entropy", "marks", "plan", "seed", "steps", "time")

    def __init__(self, seed: int | str, *, watched: bool = False) -> None:
        self.seed = seed
        self.plan = random.Random(f"plan {seed}")
        self.dice = random.Random(f"dice {seed}")
        self.entropy = random.Random(f"entropy {seed}")
        self.time = 0.0
        self.steps = 0
        self.marks: list[Mark] | None = [] if watched else None
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._count = 0

    def at(self, when: float, do: Callable[..., object], *args: Any) -> None:
        """Let something happen at a true time; what is asked for one instant happens in that order."""
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, do, args))

    def after(self, seconds: float, do: Callable[..., object], *args: Any) -> None:
        """Let something happen so many true seconds from now."""
        self._count += 1
        heapq.heappush(self._heap, (self.time + seconds, self._count, do, args))

    def run(self, until: float, most: int = STEPS_MOST) -> None:
        """Let everything happen that is due up to an instant, or until so many events have happened.

        Raises:
            Violation: of the invariant that was seen broken; or 13, where nothing gets on any more.
        """
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= until:
            if self.steps >= most:
                return
            self.time, _, do, args = pop(heap)
            self.steps += 1
            do(*args)
            if self.steps >= STEPS_MOST:
                self.fail(13, f"{STEPS_MOST} events, and no end: something turns in circles")
        self.time = max(self.time, until)

    def fail(self, rule: int, why: str) -> None:
        """Say that an invariant is broken here and now."""
        violation = Violation(rule, why, seed=self.seed, step=self.steps, at=self.time)
        if self.marks is not None:
            self.mark("world", "violation", why)
            violation.tail = tuple(self.marks[-40:])
        raise violation

    def mark(self, where: str, what: str, text: str = "", until: float | None = None) -> None:
        """Keep what was seen, if anybody wants to know."""
        if self.marks is not None:
            self.marks.append(Mark(self.time, where, what, text, until))

    def digest(self) -> str:
        """The whole run in one word: two runs with equal words were the same."""
        lines = "\n".join(repr(mark) for mark in self.marks or ())
        return hashlib.blake2b(f"{self.steps} {self.time!r}\n{lines}".encode(), digest_size=12).hexdigest()


class Host:
    """A machine in the world, with clocks of its own: they start anywhere, and run at its own rate.

    Attributes:
        name: for people.
        rate: its seconds per true second.
        boot: the identity of this boot.
        wakes: true time until which it sleeps; the past when it is awake.
        deaf: true time until which the store's replies do not reach it.
        mute: true time until which its requests do not reach the store.
        frozen: how much of the store's history its replica knows; None where reads are up to date.
    """

    __slots__ = (
        "_hold", "_since", "_wait", "_wait_rate", "_wall", "boot", "deaf", "frozen", "mute", "name",
        "rate", "wakes", "world",
    )  # fmt: skip

    def __init__(self, world: World, name: str, *, rate: float = 1.0) -> None:
        self.world, self.name, self.rate = world, name, rate
        self.wakes = self.deaf = self.mute = -1.0
        self.frozen: int | None = None
        self._since = 0.0
        self._wait_rate = rate
        self._begin(world.plan)

    def _begin(self, chance: random.Random) -> None:
        self._wait = chance.uniform(10.0, 1000.0)
        self._hold = self._wait + chance.uniform(0.0, 100_000.0)
        self._wall = 1_700_000_000.0 + chance.uniform(-3600.0, 3600.0)
        self.boot = f"{chance.getrandbits(128):032x}"

    def instant(self) -> Instant:
        """A look at its clocks."""
        gone = self.world.time - self._since
        ran = gone * self.rate
        return Instant(self._hold + ran, self._wait + gone * self._wait_rate, self._wall + ran)

    def hold(self) -> float:
        """The holder's clock alone."""
        return self._hold + (self.world.time - self._since) * self.rate

    def real(self, hold: float) -> float:
        """The true time at which the holder's clock will show this, if its rate does not change."""
        return self._since + (hold - self._hold) / self.rate

    def set_rate(self, rate: float) -> None:
        """Run at another rate from now on."""
        self._settle()
        self.rate = rate
        self._wait_rate = 0.0 if self.world.time < self.wakes else rate

    def step_wall(self, seconds: float) -> None:
        """Set the wall clock."""
        self._wall += seconds

    def suspend(self, seconds: float) -> None:
        """Sleep for so many true seconds: the waiter's clock stands still."""
        self._settle()
        self.wakes = max(self.wakes, self.world.time + seconds)
        self._wait_rate = 0.0
        self.world.at(self.wakes, self._wake)

    def reboot(self) -> None:
        """Start anew: another boot, and clocks that begin again."""
        self._settle()
        self._begin(self.world.dice)

    def _wake(self) -> None:
        if self.world.time >= self.wakes:
            self._settle()
            self._wait_rate = self.rate

    def _settle(self) -> None:
        """Begin a new stretch of the clocks' course here and now."""
        self._hold, self._wait, self._wall = self.instant()
        self._since = self.world.time
