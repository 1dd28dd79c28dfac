"""One machine in the hand: its clocks are moved, its requests carried out and its replies told line by line.

store = Cells(Kind.ETCD)
a = Side(store)
a.acquire()
a.passes(3)
[renewal] = a.look()
a.tell(renewal, a.land(renewal))
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any, Final

import leases.machine
from leases.clock import Instant
from leases.contract import Outcome, Refused, Slot, Traits
from leases.events import Event, Read, Request, Swap
from leases.terms import Terms
from leases.testing.cells import Cells

NAME: Final = "lock"
TTL: Final = 8.0
TERMS: Final = Terms(TTL)  # V = 6, renewed at 8/3, an attempt takes at most 1.5

# The module whose machine is tried: the real one, unless somebody put a broken copy here.
machinery: Any = leases.machine


class Side:
    """A machine with clocks of its own.

    Attributes:
        machine: the machine.
        todo: requests that were asked for and not carried out.
        events: all that it told, in order.
    """

    def __init__(
        self,
        store: Cells,
        holder: str = "a",
        terms: Terms = TERMS,
        *,
        traits: Traits | None = None,
        estate: Any = None,
        ledger: Any = None,
        boot: str | None = None,
        at: float = 1000.0,
        seed: int | None = None,
    ) -> None:
        self.store = store
        self.hold = self.wait = at
        self.wall = 1.8e9
        self.todo: list[Request] = []
        self.events: list[Event] = []
        self.machine = machinery.Machine(
            NAME, holder, terms, traits or store.rules.traits, random.Random(seed or holder),
            boot=boot, estate=estate, ledger=ledger,
        )  # fmt: skip

    @property
    def now(self) -> Instant:
        """What its clocks show."""
        return Instant(self.hold, self.wait, self.wall)

    @property
    def held(self) -> bool:
        """Whether it believes."""
        return bool(self.machine.held(self.now))

    @property
    def phase(self) -> str:
        """Where its claim stands."""
        return str(self.machine.phase.value)

    @property
    def told(self) -> list[str]:
        """The names of the events it told."""
        return [type(event).__name__ for event in self.events]

    def passes(self, seconds: float, *, asleep: bool = False) -> None:
        """Let time pass, and nobody look."""
        self.hold += seconds
        self.wall += seconds
        if not asleep:
            self.wait += seconds

    def look(self) -> list[Request]:
        """Let the driver look at the timers: the requests that are asked for now."""
        outputs = self.machine.poll(self.now)
        fresh: list[Request] = [output for output in outputs if isinstance(output, Swap | Read)]
        self.events += [output for output in outputs if not isinstance(output, Swap | Read)]
        self.todo += fresh
        return fresh

    def land(self, request: Request) -> Outcome | Slot:
        """Carry a request out at the store, and tell nobody."""
        if request in self.todo:
            self.todo.remove(request)
        if isinstance(request, Read):
            return self.store.read(NAME)
        return self.store.swap(request.seen, request.claim)

    def tell(self, request: Request, outcome: Outcome | Slot | Refused) -> list[Request]:
        """Tell the machine how a request ended."""
        if request in self.todo:
            self.todo.remove(request)
        self.machine.handle(self.now, request.request, outcome)
        return self.look()

    def hint(self, slot: Slot | None = None) -> list[Request]:
        """A watch hints at a change."""
        self.machine.notice(self.now, slot)
        return self.look()

    def settle(self) -> None:
        """Carry out all that is asked for, at once and without trouble."""
        self.look()
        for _ in range(64):
            if not self.todo:
                return
            request = self.todo[0]
            self.tell(request, self.land(request))
        raise AssertionError("64 requests, and still another: it is busy for nothing")

    def start(self) -> list[Request]:
        """Begin to seek the lock."""
        self.machine.acquire(self.now)
        return self.look()

    def acquire(self) -> int:
        """Acquire without any trouble, and report success: the token."""
        self.start()
        self.settle()
        assert self.confirm(), f"not acquired: {self.phase}"
        return int(self.machine.token)

    def confirm(self) -> bool:
        """Ask whether it may report success."""
        confirmed = bool(self.machine.confirm(self.now))
        self.look()
        return confirmed

    def release(self, *, linger: float | None = None, successor: str | None = None) -> list[Request]:
        """The work has stopped."""
        self.machine.release(self.now, linger=linger, successor=successor)
        return self.look()

    def live(self, seconds: float, others: Iterable[Side] = (), step: float = 0.25) -> None:
        """Let time pass while this side does all that is due, and the others' clocks go on."""
        for _ in range(round(seconds / step)):
            self.passes(step)
            for other in others:
                other.passes(step)
            self.settle()


def only(requests: Iterable[Request]) -> Request:
    """The one request."""
    asked = list(requests)
    assert len(asked) == 1, asked
    return asked[0]


def swap(requests: Iterable[Request]) -> Swap:
    """The one request, which is a swap."""
    request = only(requests)
    assert isinstance(request, Swap), request
    return request


def read(requests: Iterable[Request]) -> Read:
    """The one request, which is a read."""
    request = only(requests)
    assert isinstance(request, Read), request
    return request
