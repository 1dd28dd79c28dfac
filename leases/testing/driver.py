"""A driver of the simulated world: it does for its machines what the thread driver does.

Look at the clock, tell the machine what happened, send what it asks for, and see when to look at it again.
The process that it runs in can stand still at every point of that: between the look at the clock and the
machine, between the machine and the send, between a reply and the look at the clock.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from leases.clock import Instant
from leases.contract import Outcome, Refused, Slot, Unknown
from leases.events import Event, Output, Read, Swap
from leases.testing.bid import NEVER, Bid, Call
from leases.testing.invariants import Judge
from leases.testing.network import Network
from leases.testing.world import Host, World

_REQUESTS: Final = (Swap, Read)
_GRAIN: Final = 2e-7  # seconds by which a timer rings late at least, as timers do


@dataclass(slots=True)
class Habits:
    """What a process does with its leases. Times are true seconds, shares are of the occasions.

    Attributes:
        threads: how many want the lock.
        think, work: the average time between two wishes, and of the work under one lease.
        writes: writes to the resource under one lease, at most.
        write_delay: how late such a write may arrive.
        seal: how long sealing the resource takes at most.
        react: how long the work goes on after the loss was told, at most.
        tardy: by how much timers ring late, at most.
        slip, slip_most: the share of steps in the midst of which the process stands still, and for how long.
        give_up: the share of wishes that end after `patience` seconds.
        update: the share of leases whose metadata is changed.
        falter: the share of leases that are to run out while their work goes on; some are renewed after all.
        linger, successor: the share of releases that keep others out for longer, or name the next.
        hand_over: the share of ends that pass the lease on within the process, where somebody waits.
        hold_back: for how long a claim that follows another of its process stands back, on average.
        forget: the share of claims that start without what the last one left.
        listen_on: whether a holder listens to hints, too.
    """

    threads: int = 1
    think: float = 1.0
    work: float = 1.0
    writes: int = 0
    write_delay: float = 0.0
    seal: float = 0.0
    react: float = 0.0
    tardy: float = 0.0
    slip: float = 0.0
    slip_most: float = 0.0
    give_up: float = 0.0
    patience: float = 1.0
    update: float = 0.0
    falter: float = 0.0
    linger: float = 0.0
    successor: float = 0.0
    hand_over: float = 1.0
    hold_back: float = 0.0
    forget: float = 0.0
    listen_on: bool = False


class Driver(ABC):
    """What a process has of `leases`.

    Attributes:
        bids: its claims under way.
        busy: true time until which it stands still.
        excused: true time until which it was kept from telling anything.
    """

    def __init__(self, host: Host, name: str, network: Network, judge: Judge, habits: Habits) -> None:
        self.world: World = host.world
        self.host, self.name, self.habits = host, name, habits
        self.network, self.judge = network, judge
        self.bids: dict[Bid, None] = {}
        self.busy = self.excused = -1.0

    @abstractmethod
    def told(self, bid: Bid, event: Event) -> None:
        """A machine told something."""

    @abstractmethod
    def succeeded(self, bid: Bid, now: Instant) -> None:
        """A machine reported success at that look at the clock."""

    @abstractmethod
    def ended(self, bid: Bid, now: Instant) -> None:
        """A machine runs down what it has under way, or is at its end."""

    # ---- standing still ----------------------------------------------------------------------------

    def pause(self, seconds: float) -> None:
        """Stand still, as under SIGSTOP or a long collection of garbage."""
        self._stall(self.world.time + seconds)
        self.world.mark(self.name, "pause", "", self.world.time + seconds)

    def sleep(self) -> None:
        """Its host was suspended."""
        self._stall(self.host.wakes)

    def look_again(self) -> None:
        """Its host's clocks changed their course, so every timer rings at another time."""
        for bid in self.bids:
            bid.timer = self.world.time
            self.world.at(bid.timer, self._ring, bid, bid.timer)

    def _stall(self, until: float) -> None:
        self.busy = self.excused = max(self.busy, until)

    # ---- driving a machine -------------------------------------------------------------------------

    def answered(self, call: Call, outcome: Outcome | Slot | Refused) -> None:
        """The network hands on an outcome."""
        if self.can_act(call.bid, self.answered, call, outcome):
            slot = getattr(outcome, "slot", outcome)
            if isinstance(slot, Slot):
                self.judge.shown(call.bid, slot)
            self.feed(call.bid, call.bid.machine.handle, call.request.request, outcome)

    def hinted(self, bid: Bid, slot: Slot | None) -> None:
        """The network hands on a hint."""
        if self.can_act(bid, self.hinted, bid, slot) and bid in self.network.listeners:
            if slot is not None:
                self.judge.shown(bid, slot)
            self.feed(bid, bid.machine.notice, slot)

    def _ring(self, bid: Bid, due: float) -> None:
        if bid.timer == due and self.can_act(bid, self._ring, bid, due):
            self.feed(bid, None)

    def feed(self, bid: Bid, do: Callable[..., object] | None, *args: Any) -> None:
        """Look at the clock, and go on at once or after standing still."""
        now, slip = self.host.instant(), self.habits.slip
        if slip and self.world.dice.random() < slip:
            self._slip(self._act, bid, now, self.world.time, do, args)
        else:
            self._act(bid, now, self.world.time, do, args)

    def _act(
        self, bid: Bid, now: Instant, asked: float, do: Callable[..., object] | None, args: tuple[Any, ...]
    ) -> None:
        """One step of the driver: tell the machine, do what it says, see when to look at it again."""
        if bid.dead:
            return
        machine = bid.machine
        result = do(now, *args) if do is not None else None
        outputs = machine.poll(now)
        if outputs:
            self._carry_out(bid, outputs, now, asked)
        if result is True:
            self.succeeded(bid, now)
        self.judge.look(bid)
        phase = machine.phase._value_
        if phase == "done" or phase == "chasing":
            self.ended(bid, now)
        self._arm(bid, now, asked)

    def _carry_out(self, bid: Bid, outputs: list[Output], now: Instant, asked: float) -> None:
        calls = [Call(bid, output, now.hold, asked) for output in outputs if isinstance(output, _REQUESTS)]
        if len(calls) < len(outputs) and bid in self.bids:
            for output in outputs:
                if not isinstance(output, _REQUESTS):
                    self.told(bid, output)
        if calls:
            if bid not in self.bids:
                self.world.fail(15, f"{bid.label} is at its end, and asks for {calls[0].request}")
            if self.roll(self.habits.slip):
                self._slip(self._send, calls, True)
            else:
                self._send(calls)

    def _arm(self, bid: Bid, now: Instant, asked: float) -> None:
        wake = bid.machine.wake(now)
        if wake is None:
            bid.timer = NEVER
            return
        world, tardy, due = self.world, self.habits.tardy, asked + wake / self.host.rate
        late = _GRAIN + (tardy * world.dice.random() if tardy else 0.0)
        bid.timer = due = (due if due > world.time else world.time) + late
        world.at(due, self._ring, bid, due)

    def _send(self, calls: list[Call], late: bool = False) -> None:
        for call in calls:
            if call.bid.dead:
                continue
            if late and call.bid.machine.awaited != call.request.request and self.roll(0.5):
                self.network.reply(call, Unknown(void=True))  # Given up before it was sent.
            else:
                self.network.send(call)

    def _slip(self, do: Callable[..., None], *args: Any) -> None:
        """Stand still in the midst of a step."""
        until = self.world.time + self.spread(self.habits.slip_most / 2)
        self._stall(until)
        self.world.mark(self.name, "pause", "in a step", until)
        self.world.at(until, do, *args)

    # ---- small things ------------------------------------------------------------------------------

    def can_act(self, bid: Bid, again: Callable[..., None], *args: Any) -> bool:
        """Whether it runs now; if it stands still, the event waits for it."""
        if bid.dead:
            return False
        if self.world.time < self.busy:
            self.world.at(self.busy, again, *args)
            return False
        return True

    def roll(self, share: float) -> bool:
        return share > 0 and self.world.dice.random() < share

    def spread(self, average: float) -> float:
        """Nought to twice the average."""
        return average * 2 * self.world.dice.random() if average > 0 else 0.0
