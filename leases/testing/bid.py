"""One claim under way in the simulated world, and one request of it."""

from __future__ import annotations

from typing import Final, Protocol

from leases.contract import Outcome, Refused, Slot
from leases.events import Read, Swap
from leases.machine import Machine
from leases.record import Claim
from leases.testing.world import Host

NEVER: Final = float("inf")


class Party(Protocol):
    """A process, as the network and the judge see it."""

    holder: str
    excused: float  # true time until which it was kept from doing anything

    def answered(self, call: Call, outcome: Outcome | Slot | Refused) -> None: ...
    def hinted(self, bid: Bid, slot: Slot | None) -> None: ...


class Bid:
    """A machine in the world, and what an onlooker who sees the true time knows of it.

    Attributes:
        label: who, for people.
        life: of its process, counted from its first start over every crash.
        timer: the true time at which its driver will look at it by itself.
        dead: its process has crashed; nothing reaches it any more.
        working: somebody does the work that the lease guards.
        stopped: the work is over for good, so its record may be freed or inherited.
        left: it was told to release or to abandon; what it writes from then on is not belief.
        aware: the ttl of another's held record that its machine was shown last; 0 if it was none.
        missed: the true time at which it was first shown that this record had vanished.
        parted: the true time at which it was told to release.
        metadata: what it was given to show last, and the true time of that.
        faltered: it was told once to let its lease run out.
        until: the instant of its host's holding clock from which on it is to be renewed no more.
        tenure: the place of its acquisition among all; None before it was confirmed.
    """

    __slots__ = (
        "aware", "chasing_since", "claim", "dead", "deadline", "faltered", "granted_claim", "host",
        "label", "left", "life", "lost", "machine", "metadata", "missed", "newest", "parted", "party",
        "settled", "stopped", "tenure", "thread", "timer", "until", "watching", "working",
    )  # fmt: skip

    def __init__(
        self, machine: Machine, host: Host, party: Party, life: int, label: str, thread: int
    ) -> None:
        self.machine, self.host, self.party, self.life, self.label = machine, host, party, life, label
        self.thread = thread
        self.timer = NEVER
        self.dead = self.working = self.stopped = self.left = self.watching = False
        self.lost = self.settled = self.faltered = False
        self.aware, self.missed = 0.0, NEVER
        self.newest = -1
        self.tenure: int | None = None
        self.granted_claim = ""
        self.claim, self.deadline = "", -NEVER
        self.parted = self.until = NEVER
        self.metadata: tuple[dict[str, str], float] = ({}, 0.0)
        self.chasing_since: float | None = None

    @property
    def phase(self) -> str:
        """The phase of its machine, by value: a mutant's phases are of another class than the real ones."""
        return self.machine.phase._value_


class Call:
    """One request on its way: to the store, and back.

    Attributes:
        hold: the holder's clock as the machine was told it, before the send.
        asked: the true time of that look at the clock.
        due: the true time at which its driver gives it up.
        until: from when on its bid was to be renewed no more, as it was when this was decided on.
        over: an outcome was handed on.
        parting: it was sent after the claim's end.
        doubled: the network carries it more than once.
    """

    __slots__ = (
        "asked", "aware", "bid", "doubled", "due", "hold", "missed", "over", "parting", "request", "until",
    )  # fmt: skip

    def __init__(self, bid: Bid, request: Read | Swap, hold: float, asked: float) -> None:
        self.bid, self.request, self.hold, self.asked = bid, request, hold, asked
        # As they were when it was decided on.
        self.aware, self.missed, self.until = bid.aware, bid.missed, bid.until
        self.due = NEVER
        self.over = self.doubled = False
        self.parting = bid.left

    @property
    def claim(self) -> Claim | None:
        """What it is to write; None for a read, or to free."""
        return self.request.claim if isinstance(self.request, Swap) else None
