"""One claim of this process under way: the machine, its mutex, and who carries out what it asks.

While somebody waits for an answer, requests are carried out where they wait (`here`): an acquire and a
release cost one round trip and no change of thread. At all other times the keeper looks at the timers and
couriers carry. Whoever feeds the machine holds the mutex; nobody talks to a store while holding it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from leases.clock import Instant
from leases.contract import Outcome, Refused, Slot, Unknown, Watch
from leases.errors import (
    AcquireTimeout,
    ConfigurationError,
    LeaseLost,
    LeasesError,
    LossReason,
    RecordRefused,
    StoreDenied,
    StoreError,
    StoreUnavailable,
)
from leases.events import Blocked, Event, GaveUp, Lost, Read, Released, Swap, WentBack
from leases.hub import Hub, Ticket
from leases.keeper import Plan, drop, keeper, report
from leases.machine import Estate, Machine, Phase, went_back

if TYPE_CHECKING:
    from leases.terms import Terms

_CHASED = (Phase.LEAVING, Phase.CHASING)
_REQUESTS = (Swap, Read)


class Sealer(Protocol):
    """A fence: it shuts out every earlier tenure, by the token, before the work starts."""

    def seal(self, lease: object, /) -> None: ...


class Wish(NamedTuple):
    """What is wanted: everything about a lock but the store and the patience."""

    name: str
    holder: str
    terms: Terms
    metadata: Mapping[str, str]


class Tenure:
    """A claim, from the turn in this process's queue until nothing of it is under way any more."""

    __slots__ = (
        "_hearing", "_mutex", "_news", "_todo", "_unwatched", "_watch", "blocked", "changed", "dead", "error",
        "here", "hub", "machine", "name", "on_event", "plan", "released", "ticket",
    )  # fmt: skip

    def __init__(
        self, hub: Hub, wish: Wish, ticket: Ticket, changed: Callable[[], None], *, here: bool
    ) -> None:
        self.hub, self.name, self.ticket = hub, wish.name, ticket
        self.machine = Machine(
            wish.name,
            wish.holder,
            wish.terms,
            hub.backend.traits,
            hub.entropy,
            boot=hub.boot,
            metadata=wish.metadata,
            estate=ticket.estate,
            ledger=hub.ledger,
        )
        self.changed = changed  # called after every event, from any thread
        self.on_event: Callable[[Event], None] | None = None
        self.blocked: Slot | None = None
        self.error: Exception | None = None
        self.released = False
        self.dead: LossReason | None = None  # it ended for this process at large: a fork, a closed store
        self.here = here
        self.plan: Plan | None = None
        self._mutex = threading.Lock()
        self._hearing = threading.Lock()
        self._todo: deque[Read | Swap] = deque()
        self._news: deque[Event] = deque()
        self._watch: Watch | None = None
        self._unwatched = True
        hub.join(self)

    # ---- feeding the machine ---------------------------------------------------------------------

    def start(self) -> None:
        """Begin to seek the lock."""
        with self._mutex:
            now = self.hub.clock()
            self.machine.acquire(now, hold_back=self.ticket.hold_back)
            self._collect(now)
        self._go_on()

    def answer(self, request: Read | Swap, outcome: Outcome | Slot | Refused) -> None:
        """Hand an outcome to the machine."""
        with self._mutex:
            now = self.hub.clock()  # after the reply: an observation may not be timed from before it
            self.machine.handle(now, request.request, outcome)
            self._collect(now)
        self._go_on()

    def notice(self, slot: Slot | None) -> None:
        """A hint from the watch."""
        with self._mutex:
            now = self.hub.clock()
            self.machine.notice(now, slot)
            self._collect(now)
        self._go_on()

    def tick(self) -> None:
        """Look at the timers."""
        with self._mutex:
            self._collect(self.hub.clock())
        self._go_on()

    def confirm(self) -> bool:
        """The last look at the clock: True makes it a success, False means to seek on."""
        with self._mutex:
            now = self.hub.clock()
            confirmed = self.machine.confirm(now)
            if confirmed:
                self.here = False
                keeper.keep(self, self.machine.wake(now))
            else:
                self._collect(now)
        if not confirmed:
            self._go_on()
        elif self._watch is not None:
            self._unwatch()
        return confirmed

    def release(self, *, linger: float | None = None, successor: str | None = None) -> None:
        """The work has stopped: begin to free the record."""
        with self._mutex:
            now = self.hub.clock()
            self.machine.release(now, linger=linger, successor=successor)
            self._collect(now)
        self._go_on()

    def abandon(self) -> None:
        """Nobody waits for it any more. What may still be under way is chased in the background."""
        self._unwatch()
        with self._mutex:
            self.here = False
            now = self.hub.clock()
            self.machine.abandon(now)
            self._collect(now)
        self._go_on()
        self.end_turn()

    def update(self, metadata: Mapping[str, str]) -> None:
        """Show other metadata, by the next renewal, which is sent at once."""
        with self._mutex:
            now = self.hub.clock()
            self.machine.update(now, metadata)
            self._collect(now)
        self._go_on()

    def bequeath(self) -> Estate:
        """End here and leave everything to the next of this process. The work has stopped."""
        with self._mutex:
            return self.machine.bequeath(self.hub.clock())

    def _collect(self, now: Instant) -> None:
        for output in self.machine.poll(now):
            if isinstance(output, _REQUESTS):
                self._todo.append(output)
            else:
                self._news.append(output)
        if not self.here:
            keeper.keep(self, self.machine.wake(now))

    # ---- carrying out ----------------------------------------------------------------------------

    def work_off(self, limit: float | None = None) -> None:
        """Carry out here what the machine asks, until it asks nothing more for now."""
        while self.here and self._todo:
            request = self._todo.popleft()
            self.answer(request, self._perform(request, limit))

    def run_in_background(self) -> None:
        """From here on the keeper and the couriers go on with it."""
        if not self.here:
            return
        with self._mutex:
            self.here = False
            self._collect(self.hub.clock())
        self._go_on()

    def run_here(self) -> None:
        """From here on somebody waits, and carries out requests by `work_off`."""
        with self._mutex:
            self.here = True

    def _go_on(self) -> None:
        """After every change: tell what happened, and see that requests are carried out."""
        if self._news:
            self._tell()
        if not self.here:
            while self._todo:
                try:
                    request = self._todo.popleft()
                except IndexError:  # Another thread was quicker.
                    break
                self.hub.couriers.send(lambda request=request: self._carry(request))  # type: ignore[misc]
        elif self._todo:
            self.changed()
        if self.machine.phase is Phase.DONE:
            self._settled()

    def _carry(self, request: Read | Swap) -> None:
        if self.machine.awaited == request.request:
            self.answer(request, self._perform(request, None))
        else:  # It was given up while it lay in the queue, and surely was not executed.
            self.answer(request, Unknown(void=True))

    def _perform(self, request: Read | Swap, limit: float | None) -> Outcome | Slot | Refused:
        """One call to the store, with every way it can fail turned into an outcome."""
        timeout = request.timeout if limit is None else min(request.timeout, limit)
        backend = self.hub.backend
        try:
            if isinstance(request, Read):
                return backend.read(self.name, timeout)
            return backend.swap(request.seen, request.claim, timeout)
        except (StoreDenied, RecordRefused, ConfigurationError) as error:
            return Refused(error)
        except StoreError as error:
            return Unknown(error)
        except Exception as error:  # A fault of the backend: nobody can say what it did.
            report("the backend failed on %r", request, error)
            return Unknown(error)

    # ---- telling ---------------------------------------------------------------------------------

    def _tell(self) -> None:
        """Tell what happened, in order, one thread at a time."""
        with self._hearing:
            while self._news:
                self._hear(self._news.popleft())
        self.changed()

    def _hear(self, event: Event) -> None:
        match event:
            case Blocked(slot):
                first, self.blocked = self.blocked is None, slot
                if first and not self.here:
                    self.hub.couriers.send(self.watch)
            case GaveUp(error):
                self.error = error
            case WentBack(number, known):
                self.hub.refuse(went_back(self.name, number, known))
            case Released():
                self.released = True
            case Lost():
                self.hub.pass_on(self.name, self.ticket, None, None)
            case _:
                pass
        if self.on_event is not None:
            self.on_event(event)

    def watch(self) -> None:
        """Ask the store for hints, from what was last seen on."""
        slot = self.blocked
        if slot is None or self._watch is not None or self.machine.phase is not Phase.SEEKING:
            return
        self._unwatched = False
        try:
            watch = self.hub.backend.watch(slot, self.notice)
        except StoreError as error:  # Only slower without: the machine reads when hints stay out.
            self.machine.trouble = error
            return
        self._watch = watch
        if self._unwatched:
            watch.close()

    def watch_from_here(self) -> bool:
        """Watch if it is blocked and nobody watches yet; True if that brought work at once."""
        if self.blocked is not None and self._unwatched:
            self.watch()
        return bool(self._todo)

    def _unwatch(self) -> None:
        self._unwatched = True
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()

    # ---- ends ------------------------------------------------------------------------------------

    def end_turn(self) -> None:
        """Let the next of this process have its turn, with what this claim leaves."""
        if self.machine.phase in _CHASED:
            self.hub.pass_on(self.name, self.ticket, None, self)
        elif self.machine.phase is Phase.DONE:
            self.hub.pass_on(self.name, self.ticket, self.bequeath(), None)

    def _settled(self) -> None:
        drop(self)
        self.on_event = None  # It holds the lease, which holds this.
        self.hub.part(self)
        self.hub.settled(self.name, self)

    def fork(self) -> None:
        """This process is a child: the lease is the parent's."""
        self.dead, self.plan = "forked", None
        self._mutex, self._hearing = threading.Lock(), threading.Lock()
        self._todo.clear()
        self._watch = None
        self.changed = _nothing
        if self.on_event is not None:
            self.on_event(Lost("forked", self.hub.clock().hold))

    def close(self) -> None:
        """The store is being closed: the lease is lost, and its record is left to expire."""
        with self._mutex:
            now = self.hub.clock()
            self.dead = "closed"
            self.machine.lose(now, "closed")
            self._collect(now)
            self._todo.clear()
        drop(self)
        if self.machine.phase is Phase.SEEKING:
            self.error = StoreUnavailable(f"{self.hub.backend.identity} was closed; connect again")
        self._unwatch()
        self._tell()

    # ---- what is so ------------------------------------------------------------------------------

    @property
    def held(self) -> bool:
        """Whether the lease stands, now, by the clock."""
        return self.dead is None and self.machine.held(self.hub.clock())

    def loss(self) -> LeaseLost | None:
        """Why and when it was lost; None while it stands."""
        machine, now = self.machine, self.hub.clock()
        if self.dead is None and machine.held(now):
            return None
        if machine.lost is not None and self.dead != "forked":
            return LeaseLost(self.name, machine.lost.reason, machine.lost.at, machine.token)
        if self.dead is not None:
            return LeaseLost(self.name, self.dead, now.hold, machine.token)
        if machine.phase in (Phase.HELD, Phase.JEOPARDY):  # Past the deadline, and not told yet.
            return LeaseLost(self.name, "expired", machine.deadline, machine.token)
        return LeaseLost(self.name, "released", now.hold, machine.token)

    def failure(self, timeout: float) -> LeasesError:
        """Why it was not acquired in the time allowed: another holds it, or the store did not answer."""
        machine = self.machine
        if isinstance(self.error, LeasesError):
            return self.error
        blocker = machine.blocker
        if blocker is None and machine.trouble is not None:
            trouble = machine.trouble
            if isinstance(trouble, LeasesError):
                return trouble
            return StoreUnavailable(f"{self.hub.backend.identity} gave no answer: {trouble}; is it up?")
        holder = blocker.claim.holder if blocker is not None and blocker.claim is not None else None
        return AcquireTimeout(self.name, timeout, holder, machine.blocked_for(self.hub.clock()))


def _nothing() -> None:
    pass
