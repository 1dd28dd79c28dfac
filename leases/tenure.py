"""One claim of this process under way: the machine, its mutex, and who carries out what it asks.

While somebody waits for an answer, requests are carried out where they wait (`here`): an acquire and a
release cost one round trip and no change of thread. At all other times the keeper looks at the timers and
couriers carry. Whoever feeds the machine holds the mutex; nobody talks to a store while holding it.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from leases import logs
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
from leases.events import (
    Blocked,
    Endangered,
    Event,
    GaveUp,
    Lost,
    Read,
    Released,
    Renewed,
    Swap,
    WentBack,
)
from leases.hooks import Acquired, Subject, hooks, outcome_of
from leases.hub import Hub, Ticket
from leases.keeper import Plan, drop, remark, report
from leases.machine import Aim, Estate, Machine, Phase, went_back

if TYPE_CHECKING:
    from leases.contract import Backend
    from leases.terms import Terms

_CHASED = (Phase.LEAVING, Phase.CHASING)
_HAD = (Phase.HELD, Phase.JEOPARDY, Phase.LOST)
_REQUESTS = (Swap, Read)
_HEARD = (Renewed, Endangered, Lost, Released)
_AIMS = {None: "read", Aim.CLAIM: "acquire", Aim.RENEW: "renew", Aim.FREE: "release"}


class Watching(Enum):
    """Whether hints come; once they are not wanted any more, they never are again."""

    NOT = "not"
    ASKED = "asked"
    OVER = "over"


class Wish(NamedTuple):
    """What is wanted: everything about a lock but the store and the patience."""

    name: str
    holder: str
    terms: Terms
    metadata: Mapping[str, str]


class Grant(NamedTuple):
    """A claim that was committed and is not reported yet."""

    claim: str
    token: int


class Tenure:
    """A claim, from the turn in this process's queue until nothing of it is under way any more."""

    __slots__ = (
        "_ended_at", "_generation", "_hearing", "_mutex", "_news", "_todo", "_watch", "_watching", "blocked",
        "changed", "dead", "error", "here", "hub", "machine", "name", "on_event", "plan", "released",
        "reported", "subject", "ticket",
    )  # fmt: skip

    def __init__(self, hub: Hub, wish: Wish, ticket: Ticket, *, here: bool) -> None:
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
        self.changed: Callable[[], object] = ticket.call  # called after every event, from any thread
        self.on_event: Callable[[Event], None] | None = None
        self.blocked: Slot | None = None
        self.error: Exception | None = None
        self.released = False  # the store said so
        self.reported = False  # as acquired
        self.subject: Subject | None = None  # what listeners know it by
        self.dead: LossReason | None = None  # it ended for this process at large: a fork, a closed store
        self.here = here
        self.plan: Plan | None = None
        self._mutex = threading.Lock()
        self._hearing = threading.Lock()
        self._todo: deque[Read | Swap] = deque()
        self._news: deque[Event | Acquired] = deque()
        self._watch: Watch | None = None
        self._watching = Watching.NOT
        self._ended_at: float | None = None  # released, on the holder's clock
        self._generation = hub.generation
        ticket.member = self
        hub.join(self)

    # ---- feeding the machine ---------------------------------------------------------------------

    def start(self) -> None:
        """Begin to seek the lock."""
        with self._mutex:
            if self.ticket.closed:  # Since its turn came; then whoever closed it did not find this claim.
                return
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
        """A hint from the watch, in a thread of the backend's."""
        try:
            with self._mutex:
                now = self.hub.clock()
                self.machine.notice(now, slot)
                self._collect(now)
            self._go_on()
        except Exception as error:
            report("a hint failed on %r", slot, error)

    def tick(self) -> None:
        """Look at the timers."""
        with self._mutex:
            self._collect(self.hub.clock())
        self._go_on()

    def granted(self) -> Grant | None:
        """What was committed and waits to be confirmed; None where nothing is."""
        with self._mutex:
            machine = self.machine
            if machine.phase is not Phase.GRANTED or machine.token is None:
                return None
            return Grant(machine.claim_id, machine.token)

    def confirm(self, claim: str | None = None) -> bool:
        """The last look at the clock: True makes it a success, False means to seek on.

        Args:
            claim: whose token fences were shown, if there are any. Should it have ended meanwhile, another of
                ours may have followed it, which they have not seen.

        Raises:
            RuntimeError: no thread can be started to renew it.
        """
        with self._mutex:
            now = self.hub.clock()
            confirmed = kept = claim in (None, self.machine.claim_id) and self.machine.confirm(now)
            if confirmed:
                self.here, self.reported = False, True
                kept = self.hub.keeper.keep(self, self.machine.wake(now))
                if self.subject is not None:  # In its place among the news, whoever comes to tell them.
                    self._news.append(self._acquired(now, self.subject))
            else:
                self._collect(now)
        if not confirmed:
            self._go_on()
            return False
        if not kept:
            raise RuntimeError(
                f'lock "{self.name}" cannot be held: no thread can be started to renew it; '
                "acquire before the main thread ends"
            )
        self.changed = nothing
        self._unwatch()
        if self._news:
            self._tell()
        if self._todo:  # A hint came in between: nobody waits here any more to carry out what it asks.
            self._go_on()
        return True

    def release(
        self, *, linger: float | None = None, successor: str | None = None, here: bool = False
    ) -> None:
        """The work has stopped: begin to free the record, `here` if somebody waits and works it off."""
        with self._mutex:
            self.here = here
            now = self.hub.clock()
            self._end(now)
            self.machine.release(now, linger=linger, successor=successor)
            self._collect(now)
        self._go_on()

    def abandon(self) -> None:
        """Nobody waits for it and no work goes on under it, however far it got; harmless when it is over.

        What may still be under way is chased in the background.
        """
        try:
            self._unwatch()
            if self._cut_off:
                self.hub.part(self)
                return
            with self._mutex:
                self.here = False
                now = self.hub.clock()
                self._end(now)
                if self.machine.phase in _HAD:
                    self.machine.release(now)
                else:
                    self.machine.abandon(now)
                self._collect(now)
            self._go_on()
        finally:
            self.end_turn()

    def _end(self, now: Instant) -> None:
        if self._ended_at is None:
            self._ended_at = now.hold

    def update(self, metadata: Mapping[str, str]) -> None:
        """Show other metadata, by the next renewal, which is sent at once."""
        with self._mutex:
            now = self.hub.clock()
            self.machine.update(now, metadata)
            self._collect(now)
        self._go_on()

    def renew_until(self, until: float) -> None:
        """Begin no renewal at or after an instant of the holder's clock; infinity takes it back."""
        with self._mutex:
            now = self.hub.clock()
            self.machine.renew_until(now, until)
            self._collect(now)
        self._go_on()

    def stand_back(self) -> bool:
        """Claim nothing until told to `go_ahead`, and look on in the background; False: see the machine's."""
        with self._mutex:
            now = self.hub.clock()
            if not self.machine.stand_back(now):
                return False
            self.here = False
            self._collect(now)
        self._go_on()
        return True

    def go_ahead(self) -> None:
        """Claim it as soon as it is open."""
        with self._mutex:
            now = self.hub.clock()
            self.machine.go_ahead(now)
            self._collect(now)
        self._go_on()

    def bequeath(self) -> Estate:
        """End here and leave everything to the next of this process. The work has stopped."""
        with self._mutex:
            now = self.hub.clock()
            self._end(now)
            estate = self.machine.bequeath(now)
        if hooks.listeners:
            hooks.tell(self._known(), Released(clean=True))
        return estate

    def _collect(self, now: Instant) -> None:
        for output in self.machine.poll(now):
            if isinstance(output, _REQUESTS):
                self._todo.append(output)
            else:
                self._news.append(output)
        if not self.here:
            self.hub.keeper.keep(self, self.machine.wake(now))

    # ---- carrying out ----------------------------------------------------------------------------

    def work_off(self, until: float | None = None) -> None:
        """Carry out here what the machine asks, until it asks nothing more for now.

        Args:
            until: on the waiter's clock; nothing is begun after it, and no request may last longer.
        """
        while self.here and self._todo:
            left = None if until is None else until - self.hub.clock().wait
            if left is not None and left <= 0:
                return
            request = self._todo.popleft()
            self.answer(request, self._perform(request, left))

    def run_in_background(self) -> None:
        """From here on the keeper and the couriers go on with it."""
        if not self.here:
            return
        with self._mutex:
            self.here = False
            self._collect(self.hub.clock())
        self._go_on()

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
                self.hub.couriers.send(partial(self._carry, request), request.timeout)
        elif self._todo:
            self.changed()
        if self.machine.phase is Phase.DONE:
            self._settled()

    def _carry(self, request: Read | Swap) -> None:
        if self.machine.awaited != request.request:  # It was given up while it lay in the queue.
            self.answer(request, Unknown(void=True))
            return
        try:
            outcome = self._perform(request, None)
        except BaseException as error:  # Whatever it was meant for, it was not this thread.
            report("the backend failed on %r", request, error)
            outcome = Unknown()
        self.answer(request, outcome)

    def _perform(self, request: Read | Swap, limit: float | None) -> Outcome | Slot | Refused:
        timeout = request.timeout if limit is None else min(request.timeout, limit)
        if hooks.listeners:
            aim = _AIMS[self.machine.aim(request.request)]
            began = time.perf_counter()
            outcome = perform(self.hub.backend, self.name, request, timeout)
            hooks.tell(self._known(), outcome_of(aim, outcome, time.perf_counter() - began))
        else:
            outcome = perform(self.hub.backend, self.name, request, timeout)
        if not isinstance(outcome, Unknown):
            self.hub.answered()
        elif timeout == request.timeout and not self.hub.closed:  # Else it was us who were in a hurry.
            self.hub.silence(outcome.cause)
        return outcome

    # ---- telling ---------------------------------------------------------------------------------

    def _tell(self) -> None:
        """Tell what happened, in order, one thread at a time."""
        with self._hearing:
            while self._news:
                self._hear(self._news.popleft())
        self.changed()

    def _hear(self, event: Event | Acquired) -> None:
        match event:
            case Blocked(slot):
                self.blocked = slot
            case GaveUp(error):
                self.error = error
            case WentBack(number, known):
                self.hub.refuse(went_back(self.name, number, known))
            case Released(clean):
                self.released = clean
                if not clean:
                    why = self.machine.trouble
                    remark("release of %r: no answer, so it may last for its ttl: %s", self.name, why)
            case Acquired(waited, token):
                hooks.tell(self._known(), event)
                if logs.debugging():
                    logs.acquired(self.name, self.hub.backend.identity, token, waited)
                return
            case Lost():
                self.hub.part(self)  # Closing the store or forking cannot end it any more.
                self.hub.pass_on(self.name, self.ticket, None, None)
            case _:
                pass
        on_event = self.on_event  # Another thread may be about to drop it.
        if on_event is not None:
            on_event(event)
        if self.reported and isinstance(event, _HEARD):
            self._let_know(event)

    def _let_know(self, event: Renewed | Endangered | Lost | Released) -> None:
        """Tell the listeners and the log, last of all: nobody's loss waits for them."""
        if hooks.listeners:
            hooks.tell(self._known(), event)
        store, machine = self.hub.backend.identity, self.machine
        silence = self.hub.clock().hold - (machine.deadline - machine.terms.hold)
        match event:
            case Endangered(deadline):
                left = deadline - self.hub.clock().hold
                logs.endangered(self.name, store, machine.token, silence, left, machine.trouble)
            case Lost(reason, at):
                loss = LeaseLost(self.name, reason, at, machine.token)
                logs.lost(loss, store, silence, machine.trouble)
            case Released(clean) if logs.debugging():
                logs.released(self.name, store, machine.token, clean=clean)
            case _:
                pass

    def _acquired(self, now: Instant, subject: Subject) -> Acquired:
        assert self.machine.token is not None, "it is reported only after its token is known"
        return Acquired(now.wait - subject.began, self.machine.token)

    def _known(self) -> Subject:
        """What listeners know it by; made anew where nobody listened when it began."""
        subject = self.subject
        if subject is None:
            machine = self.machine
            subject = Subject(
                self.name, self.hub.backend.identity, machine.holder, machine.deadline - machine.terms.hold
            )
            subject.token, subject.acquired = machine.token, self.reported
            subject.ended = self.released or machine.lost is not None
            self.subject = subject
        return subject

    def watch(self) -> None:
        """Ask the store for hints, from what was last seen on."""
        with self._mutex:
            slot = self.blocked
            if slot is None or self._watching is not Watching.NOT:
                return
            self._watching = Watching.ASKED
        try:
            watch = self.hub.backend.watch(slot, self.notice)
        except Exception as error:  # Only slower without; asked again when it is blocked by something new.
            self.machine.trouble = error
            if not isinstance(error, StoreError):
                report("the backend failed to watch %r", self.name, error)
            with self._mutex:
                if self._watching is Watching.ASKED:
                    self._watching = Watching.NOT
            return
        with self._mutex:
            wanted = self._watching is Watching.ASKED
            if wanted:
                self._watch = watch
        if not wanted:
            watch.close()

    def ask_for_hints(self) -> bool:
        """See that hints come, if it is blocked and none do; False as long as they do not."""
        if self._watching is Watching.NOT and self.blocked is not None:
            if self.here:
                self.watch()
            else:
                self.hub.couriers.send(self.watch)
        return self._watch is not None or self.blocked is None

    @property
    def has_work(self) -> bool:
        """Whether there is something to carry out here."""
        return self.here and bool(self._todo)

    def _unwatch(self) -> None:
        if self.blocked is None:  # It never came to a watch, and none can come: it stopped seeking.
            self._watching = Watching.OVER
            return
        with self._mutex:
            self._watching = Watching.OVER
            watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()

    # ---- ends ------------------------------------------------------------------------------------

    def end_turn(self) -> None:
        """Let the next of this process have its turn, with what this claim leaves."""
        if self.machine.phase in _CHASED:
            self.hub.pass_on(self.name, self.ticket, None, self)
            if self.machine.phase is Phase.DONE:  # Meanwhile; then it told the hub before it was there.
                self.hub.settled(self.name, self)
        elif self.machine.phase is Phase.DONE:
            self.hub.pass_on(self.name, self.ticket, self._estate(), None)
        else:
            self.hub.pass_on(self.name, self.ticket, None, None)

    def _estate(self) -> Estate | None:
        """What it leaves to the next, who can do without where nothing stands in the store any more."""
        if self.released and self.hub.backend.traits.release_deletes:
            return None
        return self.bequeath()

    def _settled(self) -> None:
        self.done()
        self.hub.settled(self.name, self)

    def done(self) -> None:
        """Nothing of it is under way any more: let go of what holds it, and of what it holds."""
        drop(self)
        self.hub.part(self)  # First: after Ctrl-C in it, this is found by the ticket once more.
        self.on_event = self.ticket.member = None  # Both lead back to this.

    def fork(self) -> None:
        """This process is a child: the lease is the parent's."""
        self.dead, self.plan = "forked", None
        self._mutex, self._hearing = threading.Lock(), threading.Lock()
        self._todo.clear()
        self._watch, self._watching = None, Watching.OVER
        self.changed = nothing
        if self.on_event is not None:
            self.on_event(Lost("forked", self.hub.clock().hold))

    def close(self) -> None:
        """What it came by is being closed: a lease is lost, and its record is left to expire.

        A claim that still seeks is given up, or it would win with nobody there to release it. What it may
        have under way is chased as long as others of this process keep the connection.
        """
        with self._mutex:
            now = self.hub.clock()
            self.dead = "closed"
            self.machine.lose(now, "closed")
            self.machine.abandon(now)
            self._collect(now)
            if self.hub.closed:
                self._todo.clear()
                drop(self)
        self._unwatch()
        self._tell()
        self._go_on()

    # ---- what is so ------------------------------------------------------------------------------

    @property
    def gone(self) -> bool:
        """Whether nothing can be done for it here any more: its store was closed, or it is the parent's."""
        return self.dead is not None or self._cut_off

    @property
    def _cut_off(self) -> bool:
        """Whether the connection is closed, or the parent's: not even what is under way can be chased."""
        return self.hub.closed or self.hub.generation != self._generation

    @property
    def held(self) -> bool:
        """Whether the lease stands, now, by the clock."""
        return self.dead is None and self.machine.held(self.hub.clock())

    def loss(self) -> LeaseLost | None:
        """Why and when it was lost; None while it stands."""
        machine, now = self.machine, self.hub.clock()
        if self.dead is None and machine.held(now):
            return None
        lost, token = machine.lost, machine.token
        if lost is not None:
            return LeaseLost(self.name, lost.reason, lost.at, token)
        if self._ended_at is not None:
            return LeaseLost(self.name, "released", self._ended_at, token)
        if self.dead is not None:
            return LeaseLost(self.name, self.dead, now.hold, token)
        return LeaseLost(self.name, "expired", machine.deadline, token)  # Not told yet.

    def failure(self, timeout: float, *, waited: bool = False) -> LeasesError:
        """Why it was not acquired in the time allowed: another holds it, or the store did not answer.

        Args:
            timeout: the seconds allowed.
            waited: whether the store had all of them to answer.
        """
        machine, now = self.machine, self.hub.clock()
        if self.error is not None:
            return self._as_ours(self.error)
        if machine.phase not in (Phase.IDLE, Phase.SEEKING):  # This one has it, and another of us waits.
            remaining = max(machine.deadline - machine.terms.hold + machine.terms.ttl - now.hold, 0.0)
            return AcquireTimeout(self.name, timeout, machine.holder, remaining)
        slot = machine.blocker
        if self.blocked is not None and slot is not None and slot.held and slot.claim is not None:
            return AcquireTimeout(self.name, timeout, slot.claim.holder, machine.blocked_for(now))
        if machine.trouble is not None:
            return self._as_ours(machine.trouble)
        if waited and slot is None:
            return StoreUnavailable(f"{self.hub.backend.identity} gave no answer in {timeout:g} s; is it up?")
        return AcquireTimeout(self.name, timeout)

    def _as_ours(self, error: Exception) -> LeasesError:
        """An error of our own making for this thread alone: several may wait for the claim that met it."""
        if isinstance(error, LeasesError):
            # Not by its own `__init__`, which may ask for more than it passed on.
            anew = type(error).__new__(type(error), *error.args)
            anew.args = error.args
            anew.__dict__.update(error.__dict__)
        else:
            anew = StoreUnavailable(f"{self.hub.backend.identity} gave no answer: {error}; is it up?")
        anew.__cause__ = error
        return anew


def perform(backend: Backend, name: str, request: Read | Swap, timeout: float) -> Outcome | Slot | Refused:
    """One call to the store, with every way it can fail turned into an outcome."""
    ambient = sys.exception()
    try:
        if isinstance(request, Read):
            return backend.read(name, timeout)
        return backend.swap(request.seen, request.claim, timeout)
    except (StoreDenied, RecordRefused, ConfigurationError) as error:
        return Refused(error)
    except StoreError as error:
        return Unknown(error)
    except Exception as error:  # A fault of the backend: nobody can say what it did.
        interrupt = _hidden(error, ambient)
        if interrupt is not None:
            raise interrupt from None
        report("the backend failed on %r", request, error)
        return Unknown(error)


def _hidden(error: BaseException, ambient: BaseException | None) -> BaseException | None:
    """The Ctrl-C that an error hides, which came of cleaning up after it, as in `threading.Condition.wait`.

    Args:
        error: what a backend raised.
        ambient: what was being handled before the backend was called, and is no part of it.
    """
    found: BaseException | None = error
    while found is not None and found is not ambient:
        if not isinstance(found, Exception):
            return found
        found = found.__context__
    return None


def nothing() -> None:
    """Ring no bell: nobody waits."""
