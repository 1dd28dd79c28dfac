"""One tenure of an elector: who is told of it, who asks it to end, and how long its lease may be renewed."""

# pyright: reportPrivateUsage=false
# A tenure of an elector is a lease, seen from nearer than its user sees it.

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from leases.errors import LeaseLost
from leases.events import Endangered, Event, Lost, Renewed
from leases.herald import Herald
from leases.hooks import relay
from leases.keeper import Plan, drop, report
from leases.machine import Phase
from leases.manifesto import Manifesto

if TYPE_CHECKING:
    from leases.lease import Lease

_STOP = "stop"
_ENDS_PROCESS = ("exit", "kill")
_A_MOMENT = 1.0  # seconds, besides its last words, in which a process comes to its end


class Gate:
    """Opens once; who waits for it brings a bell."""

    def __init__(self) -> None:
        self.is_open = False
        self._bells: list[Callable[[], object]] = []

    @contextmanager
    def rings(self, ring: Callable[[], object]) -> Generator[None, None, None]:
        """Ring when it opens, as long as somebody waits."""
        self._bells.append(ring)
        try:
            yield
        finally:
            self._bells.remove(ring)

    def open(self) -> None:
        """Let everybody through, from now on."""
        self.is_open = True
        for ring in list(self._bells):
            ring()


class Reign:
    """One tenure of an elector, from its election until its lease is released or left.

    Attributes:
        lease: what it leads by.
        working: whether the work goes on.
        successor: for whom the lock is to be freed.
        over: opens when nothing more is done about it.
        done: whether the lock was freed by this tenure, or passed on to another of this process.
    """

    def __init__(self, manifesto: Manifesto, herald: Herald, lease: Lease) -> None:
        self.manifesto, self.herald, self.lease = manifesto, herald, lease
        self.working = True
        self.successor: str | None = None
        self.over = Gate()
        self.done = False
        self.plan: Plan | None = None
        self._telling = threading.Lock()
        self._limiting = threading.Lock()
        self._told_election = self._told_loss = False
        self._called_election = self._called_loss = False  # and when it was their turn
        self._asked_at: float | None = None  # on the holder's clock
        self._limits: dict[str, float] = {}

    # ---- what happens to it ----------------------------------------------------------------------

    def begin(self) -> None:
        """Tell of the election, then of all that happens to the lease."""
        with self._telling:
            self._told_election = True
            self.herald.tell(self._call_election)
        self.lease.listen(self.hear)
        # Before anybody listened: the lease was lost, or its work told to stop in good time.
        if self.lease._told or self.lease._tenure.machine.lost is not None:
            self.tell_loss(self.lease._loss())

    def hear(self, event: Event) -> None:
        """An event of the lease, in some thread that must not wait."""
        if isinstance(event, Lost):  # Which `tell_loss` hears of by way of the lock's own on_lost.
            terms = self.manifesto.lock.terms
            if self.working and not self.manifesto.tolerant:
                self.lease._tenure.hub.keeper.keep(self, terms.ttl - terms.hold)
        elif isinstance(event, Endangered):
            with self._telling:
                if not self._told_loss:
                    self._tell(self.manifesto.calls.jeopardy, self.lease)
        elif isinstance(event, Renewed) and self._asked_at is not None and _STOP not in self._limits:
            # Not from here: whoever tells of an event may not be fed another.
            until = self._asked_at + self.manifesto.patience
            self.lease._tenure.hub.couriers.send(partial(self.limit, _STOP, until))

    def tell_loss(self, loss: LeaseLost | None = None) -> None:
        """Call on_lost, once for every on_elected; the reason is ``released`` where nothing was lost."""
        with self._telling:
            if self._told_loss or not self._told_election:
                return
            self.herald.tell(self._call_loss, self.loss() if loss is None else loss)
            self._told_loss = True

    def tick(self) -> None:
        """The lease is lost, another may lead, and the work goes on: all that can be done is to say so."""
        if self.working:
            relay.post(  # This is the keeper's thread, and a handler of the log may be slow.
                report,
                'the work of the elector of "%s" goes on although its lease is lost, and another may lead; '
                'let it look at lease.ending or call lease.check(), or pass on_lost="exit" or "kill"',
                self.lease.name,
                self.loss(),
            )

    def work_stopped(self) -> None:
        """Nothing goes on under the lease any more."""
        self.working = False
        drop(self)
        self.tell_loss()

    def end(self) -> None:
        """The lease was released, or there was nothing to release."""
        tenure = self.lease._tenure
        freed = tenure.released or tenure.machine.phase is Phase.DONE
        self.done = freed and tenure.machine.lost is None
        self.over.open()

    # ---- what is asked of it ---------------------------------------------------------------------

    def ask(self, successor: str | None = None) -> None:
        """Ask the work to stop; harmless when repeated, and in a signal handler."""
        if successor is not None:
            self.successor = successor
        if self._asked_at is None:
            self._asked_at = self.now()
        self.lease.ask_to_stop()

    def limit(self, why: str, until: float) -> None:
        """Begin no renewal after an instant of the holder's clock; of all reasons the earliest counts."""
        with self._limiting:
            self._limits[why] = until
            self.lease.renew_until(min(self._limits.values(), default=math.inf))

    # ---- what is so ------------------------------------------------------------------------------

    @property
    def asked(self) -> bool:
        """Whether the work was asked to stop."""
        return self._asked_at is not None

    @property
    def lingers(self) -> bool:
        """Whether the work goes on although the lease is lost, and although it may not."""
        lost = self.lease._tenure.loss()
        seen_over = self.lease._overtaken_at is not None
        tolerated = (
            self.manifesto.tolerant and lost is not None and lost.reason == "expired" and not seen_over
        )
        return self.working and lost is not None and not tolerated

    def stalled(self, why: str) -> bool:
        """Whether the lease ran out because for this reason it was not renewed."""
        return self.lease.lost.reason == "expired" and self._limits.get(why, math.inf) < self.lease.deadline

    def loss(self) -> LeaseLost:
        """Why it is over."""
        lease = self.lease
        if lease._overtaken_at is not None:
            return lease._loss()
        return lease._tenure.loss() or LeaseLost(lease.name, "released", self.now(), lease.token)

    def forgives(self, error: BaseException) -> bool:
        """Whether the work only ended as it was to end: by the loss of this very lease."""
        lease = self.lease
        if not (lease.ending or lease.lost):
            return False
        if isinstance(error, BaseExceptionGroup):  # Several tasks, or threads, met it.
            return all(self.forgives(one) for one in error.exceptions)
        return isinstance(error, LeaseLost) and (error.name, error.token) == (lease.name, lease.token)

    def now(self) -> float:
        """The holder's clock."""
        return self.lease._tenure.hub.clock().hold

    def idle(self) -> Generator[float, None, None]:
        """The wait of who leads without work: until the lease ends, or is to end."""
        while not (self.lease.ending or self.lease.lost):
            yield min(self.lease.ending._left(), self.lease.remaining)
        manner, told = self.lease._manner, self.lease.lost or self.lease._out_of_time
        if manner is None or manner.word not in _ENDS_PROCESS or not told:
            return
        # What is done by who only asks `is_leader` may go on: it is not for us to say that it has stopped.
        until = self.now() + manner.last_words + _A_MOMENT
        while (left := until - self.now()) > 0:
            yield left

    # By Ctrl-C at any instruction either may have been told to the herald not at all, or twice.

    def _call_election(self) -> object:
        self._called_election = True
        call = self.manifesto.calls.elected
        return None if call is None else call(self.lease)

    def _call_loss(self, loss: LeaseLost) -> object:
        call = self.manifesto.calls.lost
        if call is None or self._called_loss or not self._called_election:
            return None
        self._called_loss = True
        return call(self.lease, loss)

    def _tell(self, call: Callable[..., object] | None, *args: object) -> None:
        if call is not None:
            self.herald.tell(call, *args)
