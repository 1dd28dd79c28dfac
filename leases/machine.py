"""The lease protocol: one pure state machine for one claim on one name.

It decides everything and does nothing. `now` goes in with every call; what is to be done comes out of
`Machine.poll`; `Machine.wake` says when to call again. No I/O, no clock, no thread, no random source of
its own: a driver owns those, a simulator can own them too.

THE RULES, AND WHY

A store gives compare-and-swap on one record. Its reads may be stale, its hints may be lost, its own ttls
are not trusted. Clocks are compared only with themselves, and only their rate is bounded, by rho.

  Holding.   A swap that is committed was sent at some instant. From that instant, read *before* sending,
             the holder believes for V seconds of a clock that also counts sleep. Nothing else moves the
             deadline: not the reply, not a second attempt, and never backwards.
  Waiting.   A waiter notes when it first had a version in hand, after the reply. When the same version
             and the same bytes have stood for the ttl that *the record* names, on a clock that does not
             count sleep, it may swap on exactly that version.
  Why that   Let the holder's last committed write be sent at s. The waiter saw it at o, so s <= o. The
  is enough. holder stops by s + V/(1-rho) in real time; the waiter starts at o + ttl/(1+rho) or later.
             `Terms` keeps V <= ttl*(1-rho)/(1+rho), so the first never passes the second. Delays, pauses,
             clock offsets, lost or repeated messages do not appear in the argument. What was sent before the
             deadline and arrives at its goal after it does not appear either: the token is for that.
  Whose      Every send carries 64 fresh random bits, its beat, and the machine keeps (beat, sent) of each.
  write?     Every slot that comes back, by whatever way, is asked in this order. Older than what is known:
             no news. My claim with a beat I sent: that very attempt is committed, and counts from *its own*
             send. My claim and a beat already counted, in a newer version: somebody edited the object; take
             the version, count nothing, renew. My claim with a beat I never sent: a copy of this process, so
             the lease is lost. Anything else: another's; if I held, it is lost now.
  Unknown    is neither yes nor no. It becomes one of them by a committed witness only: a slot that shows
             the beat (yes), or a newer version that is not mine (no more: versions are not reused).
  No more    A lease whose work was told to stop, or shows no progress, is not renewed any more: it
  renewals.  runs out at the deadline it has, and is released if the work stops before that.
  Standing   Who wants any one of several locks seeks them all and claims one: where a lock is seen not to be
  back.      had, and no claim of this machine is under way, it can be told to claim nothing and to go on
             timing what stands there. It is then told when the lock is open, and may be told to go ahead.
  Loss       is for ever, is told once, and waits for nothing. A renewal is never sent past the deadline,
             though the store would take it: the next tenure has a new claim and a new token.
  Leaving.   The work has stopped, then one swap frees the last version known. If a late renewal got there
             first, the conflict shows my own beat, and that version is freed. Another's is never touched.
             A claim that is over but may still have a write under way is chased for one ttl, and freed
             where it is met.
  Heirs.     The next thread of the same process does not wait for a lease whose work has stopped: it
             inherits what was sent (the estate) and swaps its own new claim onto that record. That is
             an acquisition, with a token of its own, counted from its own send.
  Local.     Where the store lives on this host alone, records carry the boot's identity and the instant
             of the boot clock at which they were sent; then a waiter may judge by that, having watched
             nothing. An instant in the future, or of another boot, says nothing.
  Tokens     strictly increase over the acquisitions of a name. Where the store numbers all its writes, the
             token is the number of the acquiring write (null in the record until the first renewal writes
             it in). Elsewhere it is one more than the largest of all that was seen of it.

THE TABLE

  phase      what it means                      goes to
  ---------  ---------------------------------  ------------------------------------------------------------
  IDLE       nothing was asked                  SEEKING (acquire), CHASING or DONE (abandon)
  SEEKING    reading, waiting, swapping         GRANTED (committed), CHASING or DONE (abandon, refused)
  GRANTED    ours, not yet reported             HELD (confirmed), SEEKING (too late), LEAVING, LOST, DONE
  HELD       believed, renewed in time          JEOPARDY (overdue), LOST, LEAVING (release), DONE (heir)
  JEOPARDY   believed, renewal overdue          HELD (renewed after all), LOST, LEAVING, DONE (heir)
  LOST       over; the work is to stop          LEAVING (release: the work has stopped), DONE (heir)
  LEAVING    freeing, the caller waits          CHASING (no answer in time), DONE
  CHASING    over; may have a write under way   DONE (settled, or a ttl has passed, or an heir took over)
  DONE       nothing more will ever happen      -

`Machine._TABLE` is that table, and every change of phase is checked against it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from enum import Enum
from typing import Any, Final, NamedTuple, Protocol

from leases.clock import Instant
from leases.contract import Applied, Conflict, Outcome, Refused, Slot, Traits, Unknown, absent
from leases.errors import LossReason, RecordRefused, StoreError
from leases.events import (
    Blocked,
    Endangered,
    GaveUp,
    Granted,
    Lost,
    Open,
    Output,
    Read,
    Released,
    Renewed,
    Swap,
    WentBack,
)
from leases.record import BEAT_BITS, ID_BITS, Claim, State, check_ttl
from leases.terms import Terms, look_after

HOLD_BACK_MOST: Final = 5.0  # seconds for which a lock that names a successor is left to it
_KEPT_ATTEMPTS: Final = 64
_KEPT_SIGHTINGS: Final = 8


class Entropy(Protocol):
    """The random source: `random.Random` is one, and a simulator's seed makes a run repeatable."""

    def getrandbits(self, k: int, /) -> int: ...
    def random(self) -> float: ...


class Phase(Enum):
    """Where a claim stands; the table is at the head of the module."""

    IDLE = "idle"
    SEEKING = "seeking"
    GRANTED = "granted"
    HELD = "held"
    JEOPARDY = "jeopardy"
    LOST = "lost"
    LEAVING = "leaving"
    CHASING = "chasing"
    DONE = "done"

    __hash__ = object.__hash__  # Enum's own is Python code, and phases are looked up at every step.


class Aim(Enum):
    """What an attempt is for."""

    CLAIM = "claim"
    RENEW = "renew"
    FREE = "free"


class Attempt(NamedTuple):
    """One swap that was sent: what a witness is recognised by, and what it is worth.

    `sent` is on the holder's clock and was read before sending. `mark` is the highest number that the
    store had returned to this process by then. A settled attempt is known to be committed or impossible.
    """

    request: int
    claim: str
    beat: str
    sent: float
    seen: Slot
    aim: Aim
    token: int | None
    mark: int
    edition: int
    settled: bool = False
    credited: bool = False


class Sighting(NamedTuple):
    """When a version was first in hand: `at` is on the waiter's clock."""

    version: Any
    body: bytes
    at: float


class Estate(NamedTuple):
    """What a claim that is over leaves to the next of the same process: its record, writes, sightings."""

    slot: Slot | None = None
    attempts: tuple[Attempt, ...] = ()
    sightings: tuple[Sighting, ...] = ()
    missing: tuple[float, float] | None = None
    newest: int | None = None
    floor: int = 0


_NO_ESTATE: Final = Estate()


class Flight(NamedTuple):
    """The request that is being waited for; `until` is on the waiter's clock."""

    request: int
    until: float


class Ledger:
    """The highest store-wide number that this process's own writes returned, shared by a store's claims."""

    __slots__ = ("highest",)

    def __init__(self) -> None:
        self.highest = 0

    def note(self, number: int) -> None:
        """Remember a number that a committed write of ours got."""
        if number > self.highest:
            self.highest = number


class Whose(Enum):
    """The answer to: whose write is this slot?"""

    OLD = "no news"
    SAME = "my last write, known already"
    MINE = "an attempt of mine, committed"
    EDITED = "my claim, edited by somebody"
    COPY = "my claim, sent by a copy of me"
    KIN = "the record of a claim of this process that is over"
    OTHER = "another claim, a free record, or nothing"


_BELIEVING: Final = (Phase.HELD, Phase.JEOPARDY)
_OURS: Final = (Phase.GRANTED, Phase.HELD, Phase.JEOPARDY)
_NO_FLIGHT: Final = None


class Machine:
    """One claim on one name, from the wish to the end.

    Args:
        name: the lock.
        holder: who claims it, readable.
        terms: the durations.
        traits: what the store promises.
        entropy: the random source of ids, beats and jitter.
        boot: this boot's identity where the store is local and instants may be compared, else None.
        metadata: what observers are to see.
        estate: what the claim before this one in the same process left.
        ledger: the store's ledger, shared by all claims of the process.
    """

    _TABLE: Final[Mapping[Phase, frozenset[Phase]]] = {
        Phase.IDLE: frozenset({Phase.SEEKING, Phase.CHASING, Phase.DONE}),
        Phase.SEEKING: frozenset({Phase.GRANTED, Phase.CHASING, Phase.DONE}),
        Phase.GRANTED: frozenset({Phase.HELD, Phase.SEEKING, Phase.LEAVING, Phase.LOST, Phase.DONE}),
        Phase.HELD: frozenset({Phase.JEOPARDY, Phase.LOST, Phase.LEAVING, Phase.DONE}),
        Phase.JEOPARDY: frozenset({Phase.HELD, Phase.LOST, Phase.LEAVING, Phase.DONE}),
        Phase.LOST: frozenset({Phase.LEAVING, Phase.DONE}),
        Phase.LEAVING: frozenset({Phase.CHASING, Phase.DONE}),
        Phase.CHASING: frozenset({Phase.DONE}),
        Phase.DONE: frozenset(),
    }

    # All that changes is in these, and every value is immutable: a snapshot is a tuple of them.
    _STATE: Final = (
        "phase", "claim_id", "token", "deadline", "lost", "_acquired", "_last", "_attempts", "_flight",
        "_newest", "_floor", "_view", "_sightings", "_missing", "_doubt", "_not_before", "_poll_at",
        "_renew_at", "_overdue_at", "_until", "_tries", "_races", "_requests", "_metadata", "_edition",
        "_farewell", "_renew_until", "_standing_back", "_told_open", "trouble",
    )  # fmt: skip
    __slots__ = (
        *_STATE, "_boot", "_entropy", "_ledger", "_out", "holder", "name", "terms", "traits",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        holder: str,
        terms: Terms,
        traits: Traits,
        entropy: Entropy,
        *,
        boot: str | None = None,
        metadata: Mapping[str, str] | None = None,
        estate: Estate | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self.name, self.holder, self.terms, self.traits = name, holder, terms, traits
        self._entropy, self._ledger = entropy, ledger if ledger is not None else Ledger()
        self._boot = boot if traits.local else None
        self._out: list[Output] = []
        self.phase = Phase.IDLE
        self.claim_id = f"{entropy.getrandbits(ID_BITS):032x}"
        self.token: int | None = None
        self.deadline = 0.0  # hold clock: the instant at which the holder must have stopped
        self.lost: Lost | None = None
        self.trouble: Exception | None = None  # the last thing that went wrong on the way to the store
        estate = estate if estate is not None else _NO_ESTATE
        self._attempts: tuple[Attempt, ...] = estate.attempts
        self._sightings: tuple[Sighting, ...] = estate.sightings
        self._missing = estate.missing  # (ttl, first missing at) of a held record that vanished
        self._newest = estate.newest
        self._floor = estate.floor
        self._view = estate.slot  # what a seeker knows to stand in the store
        self._last: Slot | None = None  # the last known slot of this claim's own record
        self._flight: Flight | None = _NO_FLIGHT
        self._doubt = False  # the next request has to be a read
        self._acquired = 0.0
        # The timers; those of a holder are on the hold clock, all others on the wait clock.
        self._renew_at = 0.0  # hold
        self._overdue_at = 0.0  # hold
        self._renew_until = math.inf  # hold: no renewal is begun from here on
        self._not_before = 0.0
        self._poll_at = 0.0
        self._until = 0.0  # leaving: when the caller is told; chasing: when it ends
        self._tries = 0
        self._races = 0
        self._standing_back = False  # seeking: claim nothing
        self._told_open = False  # and it was told that what is in view is open
        self._requests = max([a.request for a in self._attempts]) if self._attempts else 0
        self._metadata: Mapping[str, str] = metadata or {}
        self._edition = 0
        self._farewell: Claim | None = None

    # ---- what happened (call `poll` after each of these) -----------------------------------------

    def acquire(self, now: Instant, *, hold_back: float = 0.0) -> None:
        """Begin to seek the lock, after `hold_back` seconds."""
        self._not_before = now.wait + hold_back
        self._go(Phase.SEEKING)

    def handle(self, now: Instant, request: int, outcome: Outcome | Slot | Refused) -> None:
        """A request came to an end, be it long after it was given up. `now` is read after the reply."""
        self._expire(now)
        awaited = self._flight is not None and self._flight.request == request
        if awaited:
            self._flight = None
        match outcome:
            case Applied(slot):
                self._applied(now, request, slot)
            case Conflict(slot):
                self._conflicted(now, request, slot, awaited)
            case Slot():
                self._answered(now, outcome, awaited)
            case Unknown(cause, void):
                self._unanswered(now, request, cause, void, awaited)
            case Refused(cause):
                self._refused(now, request, cause, awaited)

    def notice(self, now: Instant, slot: Slot | None = None) -> None:
        """A watch hinted at a change, and may have brought the slot along."""
        self._expire(now)
        if slot is not None:
            self._news(now, slot)
        elif self.phase is Phase.SEEKING or (self.phase in _OURS and not self._renewal_due(now)):
            self._doubt = True  # A renewal that is due tells the same, and no flood of hints may hold it up.

    def confirm(self, now: Instant) -> bool:
        """Report success if it is one: the last look at the clock, after any sealing."""
        self._expire(now)
        if self.phase is not Phase.GRANTED:
            return False
        self._go(Phase.HELD)
        return True

    def update(self, now: Instant, metadata: Mapping[str, str]) -> None:
        """Show other metadata: a renewal at once, or right after the one in flight."""
        self._expire(now)
        self._metadata, self._edition = metadata, self._edition + 1
        self._renew_at = now.hold

    def renew_until(self, now: Instant, until: float) -> None:
        """Begin no renewal at or after an instant of the holder's clock, and let the lease run out then.

        For work that has been told to stop, or shows no progress. A later instant, or infinity, takes it back
        as long as the lease stands.
        """
        self._expire(now)
        self._renew_until = until

    def stand_back(self, now: Instant) -> bool:
        """Claim nothing until told to `go_ahead`, if the lock is seen not to be had; else False.

        False also while a claim may be under way: whoever seeks several locks and wants one of them goes on
        to the next only after that.
        """
        self._expire(now)
        if self.phase is not Phase.SEEKING or self._view is None or self._doubt or self._claiming():
            return False
        if self._open_in(now, self._view) <= 0:
            return False
        self._standing_back, self._told_open = True, False
        return True

    def go_ahead(self, now: Instant) -> None:
        """Claim the lock as soon as it is open."""
        self._expire(now)
        self._standing_back = False

    def release(self, now: Instant, *, linger: float | None = None, successor: str | None = None) -> None:
        """The work has stopped: free the record, or leave it.

        Args:
            now: the instant.
            linger: keep others out for so many seconds more, by a last record with that ttl.
            successor: free it for this holder first; the others hold back for a while.
        """
        self._expire(now)
        if self.phase not in _OURS and self.phase is not Phase.LOST:
            return self.abandon(now)  # Granted too late to be released, it seeks on: nobody wants that now.
        lost = self.phase is Phase.LOST
        self._farewell = None if lost else self._last_words(now, linger, successor)
        self._until = now.wait + self.terms.attempt
        self._not_before, self._doubt, self._flight = now.wait, False, None
        self._go(Phase.LEAVING)

    def abandon(self, now: Instant) -> None:
        """Nobody waits for this claim any more: leave nothing behind."""
        self._expire(now)
        if self.phase is Phase.GRANTED:
            self.release(now)
        elif self.phase in (Phase.IDLE, Phase.SEEKING):
            self._chase(now)

    def bequeath(self, now: Instant) -> Estate:
        """End here, the work being stopped, and leave everything to the next claim of this process."""
        self._expire(now)
        ours = self._last if self._last is not None else self._view
        slot = ours if ours is not None and (self._mine_to_free(ours) or not ours.held) else None
        attempts = tuple(a for a in self._attempts if self._may_land(a, slot) or _wrote(a, slot))
        estate = Estate(slot, attempts, self._sightings, self._missing, self._newest, self._floor)
        if self.phase is not Phase.DONE:
            self._go(Phase.DONE)
        return estate

    def lose(self, now: Instant, reason: LossReason) -> None:
        """The lease ends for a reason outside the store: the process forked, the store was closed."""
        self._expire(now)
        if self.phase in _OURS:
            self._lose(reason, now.hold)

    # ---- what is to be done ----------------------------------------------------------------------

    def poll(self, now: Instant) -> list[Output]:
        """What to do and what to tell, in order. Requests are to be sent at once: `now` is their send."""
        self._expire(now)
        self._step(now)
        out, self._out = self._out, []
        return out

    def wake(self, now: Instant) -> float | None:
        """Seconds until `poll` has something to do by itself; None if nothing before the next event."""
        due = min(self._timers(now), default=None)
        return None if due is None else max(due, 0.0)

    def _timers(self, now: Instant) -> Iterator[float]:
        """Every timer there is, in seconds from now."""
        match self.phase:
            case Phase.SEEKING if self._flight is None:
                yield max(self._next_try_in(now), self._not_before - now.wait)
            case Phase.GRANTED | Phase.HELD | Phase.JEOPARDY:
                yield self.deadline - now.hold
                if self.phase is Phase.HELD:
                    yield self._overdue_at - now.hold
                if self._flight is None:
                    due = max(0.0 if self._doubt else self._renew_at - now.hold, self._not_before - now.wait)
                    if self._doubt or now.hold + due < self._renew_until:
                        yield due
            case Phase.LEAVING | Phase.CHASING:
                yield self._until - now.wait
                if self._flight is None:
                    yield self._not_before - now.wait
            case _:
                pass
        if self._flight is not None:
            yield self._flight.until - now.wait

    # ---- what is so ------------------------------------------------------------------------------

    def held(self, now: Instant) -> bool:
        """Whether the lease stands: asked of the clock, every time."""
        return self.phase in _BELIEVING and now.hold < self.deadline

    def jeopardy(self, now: Instant) -> bool:
        """Whether it stands and a renewal is overdue."""
        return self.held(now) and now.hold >= self._overdue_at

    def late(self, now: Instant) -> float:
        """For how many seconds a timer has been due: more than a moment, and nobody calls `poll`."""
        return max(-min(self._timers(now), default=0.0), 0.0)

    def aim(self, request: int) -> Aim | None:
        """What a swap was sent for, as long as it is remembered; None for a read."""
        attempt = self._sent(request)
        return None if attempt is None else attempt.aim

    @property
    def awaited(self) -> int | None:
        """The number of the request that is still worth carrying out."""
        return None if self._flight is None else self._flight.request

    @property
    def blocker(self) -> Slot | None:
        """The record that kept this claim waiting, as last seen."""
        return self._view

    def blocked_for(self, now: Instant) -> float | None:
        """Seconds until that record can be taken if its holder is dead; None if nobody is seen to hold."""
        if self._view is None or not self._view.held:
            return None
        return max(self._ripe_in(now, self._view), 0.0)

    def open(self, now: Instant) -> bool:
        """Whether this claim stands back and could be sent now, as far as is known."""
        if self.phase is not Phase.SEEKING or not self._standing_back or self._doubt:
            return False
        return self._view is not None and self._open_in(now, self._view) <= 0

    @property
    def record(self) -> Slot | None:
        """The last slot of this claim's own record that is known; None where none of it is known to stand."""
        return self._last

    @property
    def freed(self) -> bool:
        """Whether the last write of this claim is known to be committed; others may have written since."""
        return any(a.aim is Aim.FREE and a.credited for a in self._attempts)

    @property
    def metadata(self) -> Mapping[str, str]:
        """What observers are to see."""
        return self._metadata

    @property
    def updated(self) -> bool:
        """Whether the metadata given last is in our record, as far as is known; False where ours is gone."""
        if self._last is None:
            return False
        return all(a.edition == self._edition for a in self._attempts if _wrote(a, self._last))

    def snapshot(self) -> tuple[Any, ...]:
        """All that changes, as one immutable value."""
        return tuple(getattr(self, name) for name in self._STATE)

    def restore(self, state: tuple[Any, ...]) -> None:
        """Be again as at a snapshot."""
        for name, value in zip(self._STATE, state, strict=True):
            setattr(self, name, value)
        self._out = []

    # ---- the one place where requests are made ---------------------------------------------------

    def _step(self, now: Instant) -> None:
        """Do what is due. Nothing is due while a request is in flight that may still be answered in time."""
        if self._flight is not None:
            if now.wait < self._flight.until:
                return self._note_overdue(now)
            self._flight = None
            self._after_silence(now)
        match self.phase:
            case Phase.SEEKING:
                self._seek(now)
            case Phase.GRANTED | Phase.HELD | Phase.JEOPARDY:
                self._note_overdue(now)
                self._renew(now)
            case Phase.LEAVING:
                self._leave(now)
            case Phase.CHASING:
                self._run_down(now)
            case _:
                pass

    def _seek(self, now: Instant) -> None:
        if now.wait < self._not_before:
            return
        if self._doubt or (self._view is None and not self.traits.release_deletes):
            self._read(now)
        elif self._view is None:  # An optimistic create: one round trip where the lock is free.
            self._claim(now, absent(self.name))
        elif self._open_in(now, self._view) <= 0 and not self._standing_back:
            self._claim(now, self._view)
        elif now.wait >= self._poll_at:
            self._read(now)
        elif self._standing_back and not self._told_open and self._open_in(now, self._view) <= 0:
            self._told_open = True
            self._out.append(Open(self._view))

    def _renew(self, now: Instant) -> None:
        if (now.hold < self._renew_at and not self._doubt) or now.wait < self._not_before:
            return
        assert self._last is not None and self._last.claim is not None
        if self._doubt:
            self._read(now)
        elif now.hold < self._renew_until:
            claim = replace(self._fresh(now, self.token), acquired=self._acquired)
            self._swap(now, self._last, claim, Aim.RENEW, min(self.terms.attempt, self.deadline - now.hold))

    def _renewal_due(self, now: Instant) -> bool:
        return self._renew_at <= now.hold < self._renew_until

    def _leave(self, now: Instant) -> None:
        if now.wait >= self._until:
            self._out.append(Released(clean=False))
            self._chase(now)
            return self._run_down(now)
        self._free_or_read(now, self._until - now.wait)

    def _run_down(self, now: Instant) -> None:
        if now.wait >= self._until:
            self._go(Phase.DONE)
        else:
            self._free_or_read(now, min(self.terms.attempt, self._until - now.wait))

    def _free_or_read(self, now: Instant, timeout: float) -> None:
        """One step towards knowing that no record of ours stands any more."""
        if self._last is None and not self._pending():
            if self.phase is Phase.LEAVING:
                self._out.append(Released(clean=True))
            self._go(Phase.DONE)
        elif now.wait < self._not_before:
            pass
        elif self._last is None or self._doubt:
            self._read(now, timeout)
        else:
            farewell = self._farewell
            if farewell is not None:
                farewell = replace(farewell, beat=self._beat())
            self._swap(now, self._last, farewell, Aim.FREE, timeout)

    def _read(self, now: Instant, timeout: float | None = None) -> None:
        timeout = self.terms.attempt if timeout is None else timeout
        self._doubt = False
        self._poll_at = now.wait + self.terms.attempt
        self._requests += 1
        self._flight = Flight(self._requests, now.wait + timeout)
        self._out.append(Read(self._requests, timeout))

    def _claim(self, now: Instant, seen: Slot) -> None:
        token = None if self.traits.token_from_write else self._next_token(seen)
        self._swap(now, seen, self._fresh(now, token), Aim.CLAIM, self.terms.attempt)

    def _swap(self, now: Instant, seen: Slot, claim: Claim | None, aim: Aim, timeout: float) -> None:
        """Send a swap, and keep what a witness of it is recognised by. `now` was read before the send."""
        self._requests += 1
        beat = "" if claim is None else claim.beat  # A plain release leaves no beat to be seen.
        token = None if claim is None else claim.token
        attempt = Attempt(
            self._requests,
            self.claim_id,
            beat,
            now.hold,
            seen,
            aim,
            token,
            self._ledger.highest,
            self._edition,
        )
        self._attempts = (*self._attempts[-_KEPT_ATTEMPTS:], attempt)
        self._flight = Flight(self._requests, now.wait + timeout)
        self._out.append(Swap(self._requests, seen, claim, timeout))

    # ---- outcomes --------------------------------------------------------------------------------

    def _applied(self, now: Instant, request: int, slot: Slot) -> None:
        attempt = self._sent(request)
        if attempt is None or attempt.credited:
            pass  # It was told before, by another witness.
        elif self._went_back(now, attempt, slot):
            pass  # Asked before its age is: numbers that began again make every answer look old.
        elif self._is_old(slot):
            self._settle(request)  # Committed, but something newer was seen to stand there since.
        elif attempt.claim != self.claim_id:
            self._news(now, slot)  # A claim given up as too late was committed after all.
        else:
            self._learn(slot)
            self._commit(now, attempt, slot)

    def _conflicted(self, now: Instant, request: int, slot: Slot | None, awaited: bool) -> None:
        """Our swap is not committed. What stands there instead may still be another attempt of ours."""
        attempt = self._sent(request)
        self._settle(request)
        if slot is not None:
            self._news(now, slot, request)
        if not awaited or attempt is None:
            return
        standing = self._view if self.phase is Phase.SEEKING else self._last
        if standing is None or standing.version == attempt.seen.version:
            self._doubt = True  # We were not told what stands there.
        if self.phase is Phase.SEEKING:
            self._races += 1
            if attempt.seen.held:  # It never stands again: whoever shows it yet is behind. Time it anew.
                self._sightings = tuple([s for s in self._sightings if s.version != attempt.seen.version])
            if self._view is not None and not self._view.held:
                self._pause(now, min(0.001 * 2 ** min(self._races, 16), 0.1, self.terms.attempt / 4))
        elif self._doubt:
            self._retry(now)

    def _answered(self, now: Instant, slot: Slot, awaited: bool) -> None:
        before = self._newest
        self._news(now, slot)
        if awaited and self.phase is Phase.SEEKING:
            self._tries = 0
            if self._view is None and self._newest == before:
                self._retry(now)  # Older than what is known: a replica that lags has to be waited for.
        elif awaited and self.phase in (Phase.LEAVING, Phase.CHASING) and self._last is None:
            self._retry(now)  # Not landed yet; it still may.

    def _unanswered(
        self, now: Instant, request: int, cause: Exception | None, void: bool, awaited: bool
    ) -> None:
        if cause is not None:
            self.trouble = cause
        if void:
            self._settle(request)
        if awaited:
            self._after_silence(now, void and self._sent(request) is not None)

    def _after_silence(self, now: Instant, void: bool = False) -> None:
        """A request has no answer. Find out by reading; a holder asks by renewing, which tells the same."""
        if self.phase is Phase.SEEKING:
            self._doubt = self._doubt or not void or self._view is None
        elif self.phase in (Phase.LEAVING, Phase.CHASING):
            self._doubt = self._doubt or not void
            if self.phase is Phase.LEAVING:
                self._until = now.wait if not void else self._until
        else:
            self._doubt = False
        self._retry(now)

    def _refused(self, now: Instant, request: int, cause: Exception, awaited: bool) -> None:
        self.trouble = cause
        self._settle(request)
        if not awaited:
            return  # It says what was so when it was asked, and nobody knows what is so now.
        if self.phase in _OURS and isinstance(cause, RecordRefused):
            self._last = None
            self._depose(now, "superseded")  # Whatever it is, it is not my claim any more.
        elif self.phase in _OURS:
            self._retry(now)
        elif self.phase is Phase.SEEKING:
            self._give_up(now, cause)
        else:
            self._last = None if isinstance(cause, RecordRefused) else self._last
            self._retry(now)

    # ---- whose write -----------------------------------------------------------------------------

    def _whose(self, slot: Slot) -> tuple[Whose, Attempt | None]:
        """The question at the heart; the order of the answers matters."""
        if self._is_old(slot):
            return Whose.OLD, None
        claim = slot.claim
        if claim is None or not claim.held or not claim.id:
            return Whose.OTHER, None
        mine = claim.id == self.claim_id
        attempt = next((a for a in self._attempts if a.claim == claim.id and a.beat == claim.beat), None)
        if attempt is None:
            return (Whose.COPY if mine else Whose.OTHER), None
        if not mine:
            return Whose.KIN, attempt
        if not attempt.credited:
            return Whose.MINE, attempt
        if self._last is not None and slot.version == self._last.version:
            return Whose.SAME, attempt
        if slot.order is None and attempt is not self._latest_credited():
            return Whose.OLD, attempt  # Without an order only this tells a late read of my own past.
        return Whose.EDITED, attempt

    def _is_old(self, slot: Slot) -> bool:
        if slot.order is None or self._newest is None:
            return False
        if slot.claim is None and self._last is not None:
            return slot.order <= self._newest  # An absence as old as my own write was seen before it.
        return slot.order < self._newest

    def _news(self, now: Instant, slot: Slot, refusal_of: int | None = None) -> None:
        """Take in a slot that came back, by whatever way; `refusal_of` is the swap it conflicted with."""
        whose, attempt = self._whose(slot)
        if whose is not Whose.OLD:
            self._learn(slot)
        unordered = slot.order is None and whose in (Whose.OTHER, Whose.KIN)
        match whose:
            case Whose.OLD | Whose.SAME:
                pass
            case _ if unordered and not self._is_proof(refusal_of):
                self._suspect(now, slot)
            case Whose.MINE:
                assert attempt is not None
                self._commit(now, attempt, slot)
            case Whose.EDITED:
                self._last, self._renew_at = slot, now.hold
            case _:
                self._meet(now, slot)
                if self.phase in _OURS or self.phase is Phase.LOST:
                    self._last = None
                    self._depose(now, "superseded" if _is_claim(slot) else "broken")

    def _is_proof(self, refusal_of: int | None) -> bool:
        """Whether a slot without an order is newer than my last write: a later swap of mine ran into it."""
        credited = self._latest_credited()
        return refusal_of is not None and (credited is None or credited.request < refusal_of)

    def _suspect(self, now: Instant, slot: Slot) -> None:
        """It may be of the past, and nothing tells: whoever has a record here asks by swapping on it."""
        if self.phase in _OURS:
            self._renew_at = now.hold
        elif self.phase is Phase.SEEKING and (self._view is None or not self._mine_to_free(self._view)):
            self._consider(now, slot)

    def _meet(self, now: Instant, slot: Slot) -> None:
        """Something stands there that is not this claim's; attempts on other versions are over."""
        self._attempts = tuple(
            [a if a.settled or self._may_land(a, slot) else a._replace(settled=True) for a in self._attempts]
        )
        if self.phase in (Phase.LEAVING, Phase.CHASING):
            self._last = slot if self._mine_to_free(slot) else None
        elif self.phase is Phase.SEEKING:
            self._consider(now, slot)

    def _consider(self, now: Instant, slot: Slot) -> None:
        """A seeker's view changes; the first sighting of a version is what it is timed from."""
        fresh = self._view is None or (slot.version, slot.body) != (self._view.version, self._view.body)
        self._view, self._told_open = slot, self._told_open and not fresh
        self._sight(now, slot)
        self._poll_at = now.wait + self._poll_after(slot)
        if slot.held and not self._mine_to_free(slot):
            self._races = 0
        if fresh and self._open_in(now, slot) > 0:
            self._out.append(Blocked(slot))

    def _sight(self, now: Instant, slot: Slot) -> None:
        if slot.claim is None:
            if self._missing is not None and self._missing[1] < 0:
                self._missing = (self._missing[0], now.wait)
            return
        if slot.held:  # Should it vanish: its ttl, and not missing yet.
            self._missing = (slot.claim.ttl, -1.0)
        else:
            self._missing = None
        if all((s.version, s.body) != (slot.version, slot.body) for s in self._sightings):
            sighting = Sighting(slot.version, slot.body, now.wait)
            self._sightings = (*self._sightings[1 - _KEPT_SIGHTINGS :], sighting)

    # ---- when a lock is open ---------------------------------------------------------------------

    def _open_in(self, now: Instant, slot: Slot) -> float:
        """Seconds until this slot may be swapped on; at most 0 where it may be now."""
        claim = slot.claim
        if claim is None:
            return self._vanished_in(now)
        if self._mine_to_free(slot):
            return 0.0
        if claim.held:
            return self._ripe_in(now, slot)
        if claim.successor is None or claim.successor == self.holder:
            return 0.0
        return self._seen_at(now, slot) + min(claim.ttl, HOLD_BACK_MOST) - now.wait

    def _ripe_in(self, now: Instant, slot: Slot) -> float:
        """Seconds until a held record has outlived its own ttl."""
        claim = slot.claim
        assert claim is not None
        ripe = self._seen_at(now, slot) + claim.ttl - now.wait
        if self._boot is None or claim.boot != self._boot or claim.sent is None or claim.sent > now.hold:
            return ripe  # Of another boot, of no known boot, or from the future: it says nothing.
        return min(ripe, claim.sent + claim.ttl - now.hold)

    def _vanished_in(self, now: Instant) -> float:
        """Where release leaves a record, one that vanished was not released: its ttl has to pass first."""
        if self.traits.release_deletes or self._missing is None:
            return 0.0
        ttl, at = self._missing
        return (at if at >= 0 else now.wait) + ttl - now.wait

    def _seen_at(self, now: Instant, slot: Slot) -> float:
        for sighting in self._sightings:
            if sighting.version == slot.version and sighting.body == slot.body:
                return sighting.at
        return now.wait

    def _poll_after(self, slot: Slot) -> float:
        """Hints can be lost: where they come, a read is due when a renewal should have been seen."""
        ttl = self.terms.ttl if slot.claim is None else slot.claim.ttl
        spread = 0.75 + 0.25 * self._entropy.random()
        return spread * look_after(ttl, watches=self.traits.watches)

    def _next_try_in(self, now: Instant) -> float:
        if self._doubt or self._view is None:
            return 0.0
        if self._standing_back and self._told_open:
            return self._poll_at - now.wait
        return min(self._open_in(now, self._view), self._poll_at - now.wait)

    # ---- committed -------------------------------------------------------------------------------

    def _commit(self, now: Instant, attempt: Attempt, slot: Slot) -> None:
        """An attempt is known to be committed: it counts from its own send, and from nothing else."""
        others = [
            a if a.settled or self._may_land(a, slot) else a._replace(settled=True)
            for a in self._attempts
            if a.request != attempt.request
        ]
        self._attempts = (*others, Attempt(*attempt[:-2], settled=True, credited=True))
        if attempt.aim is Aim.FREE:
            self._last, self._view = None, None if slot.held else slot
            return
        self._last = slot
        match self.phase:
            case Phase.SEEKING:
                self._win(now, attempt, slot)
            case Phase.GRANTED | Phase.HELD | Phase.JEOPARDY:
                self._extend(attempt)
            case _:
                self._doubt = False  # It is over: the record is only there to be freed.

    def _win(self, now: Instant, attempt: Attempt, slot: Slot) -> None:
        token = attempt.token if attempt.token is not None else slot.order
        assert token is not None, "a store that numbers its writes shows the number"
        assert slot.claim is not None, "an attempt is known by the record that shows it"
        self.token, self._floor, self._acquired = token, max(self._floor, token), slot.claim.acquired
        self.deadline = 0.0
        self._count(attempt)
        self._view, self._sightings, self._missing = None, (), None
        self._go(Phase.GRANTED)
        if now.hold < self.deadline:
            self._out.append(Granted(token, self.deadline))
        else:
            self._start_over(now)

    def _extend(self, attempt: Attempt) -> None:
        self._count(attempt)
        if self.phase is Phase.JEOPARDY:
            self._go(Phase.HELD)
        self._out.append(Renewed(self.deadline, attempt.sent))

    def _count(self, attempt: Attempt) -> None:
        self.deadline = max(self.deadline, attempt.sent + self.terms.hold)
        self._renew_at = attempt.sent + self.terms.renew
        self._overdue_at = self._renew_at + self.terms.attempt
        self._tries, self._doubt, self._not_before = 0, False, 0.0
        if attempt.edition != self._edition:
            self._renew_at = attempt.sent  # Newer metadata waited for this renewal.

    # ---- the end of a tenure ---------------------------------------------------------------------

    def _expire(self, now: Instant) -> None:
        """The clock speaks before anybody else."""
        if self.phase in _OURS and now.hold >= self.deadline:
            self._depose(now, "expired")

    def _depose(self, now: Instant, reason: LossReason) -> None:
        if self.phase is Phase.GRANTED:
            self._start_over(now)
        elif self.phase in _BELIEVING:
            self._lose(reason, self.deadline if reason == "expired" else now.hold)

    def _lose(self, reason: LossReason, at: float) -> None:
        self.lost = Lost(reason, at)
        self._flight = None
        self._go(Phase.LOST)
        self._out.append(self.lost)

    def _start_over(self, now: Instant) -> None:
        """Granted, but too late to be reported. No work began: seek on, with a new claim and a new token."""
        self.claim_id = f"{self._entropy.getrandbits(ID_BITS):032x}"
        self._view, self._last, self.token = self._last, None, None
        self._doubt = self._doubt or self._view is None
        self._flight = None
        self._go(Phase.SEEKING)

    def _chase(self, now: Instant) -> None:
        """Nobody waits any more: run down what may still be under way, for one ttl at most."""
        if self.phase in (Phase.IDLE, Phase.SEEKING) and self._view is not None:
            self._last = self._view if self._mine_to_free(self._view) else self._last
        self._flight = None
        self._until = now.wait + self.terms.ttl
        self._go(Phase.CHASING)

    def _pending(self) -> bool:
        """Whether a write of ours may still land."""
        return any(not a.settled and a.aim is not Aim.FREE for a in self._attempts)

    def _claiming(self) -> bool:
        """Whether a claim is under way, or an answer to one is being looked for."""
        if self._flight is None:
            return False
        return any(not a.settled and a.claim == self.claim_id for a in self._attempts)

    def _mine_to_free(self, slot: Slot) -> bool:
        """Whether the record was written by a claim of this process that is over, beat and all."""
        claim = slot.claim
        if claim is None or not claim.held:
            return False
        return any(
            a.claim == claim.id and a.beat == claim.beat and a.aim is not Aim.FREE for a in self._attempts
        )

    def _may_land(self, attempt: Attempt, slot: Slot | None) -> bool:
        """Whether an attempt can still be committed where this slot stands.

        Versions are not reused, but a name can be absent again and again: a late create lands then.
        """
        if attempt.settled:
            return False
        return slot is None or attempt.seen.claim is None or attempt.seen.version == slot.version

    # ---- small things ----------------------------------------------------------------------------

    def _go(self, phase: Phase) -> None:
        assert phase in self._TABLE[self.phase], f"{self.phase} cannot become {phase}"
        self.phase = phase

    def _learn(self, slot: Slot) -> None:
        """What every slot teaches: how new the newest is, and what the next token must be above."""
        if slot.order is not None and (self._newest is None or slot.order > self._newest):
            self._newest = slot.order
        token = slot.claim.token if slot.claim is not None else None
        self._floor = max(self._floor, slot.floor, token if token is not None else 0)

    def _next_token(self, seen: Slot) -> int:
        token = seen.claim.token if seen.claim is not None else None
        return max(self._floor, seen.floor, token if token is not None else 0) + 1

    def _went_back(self, now: Instant, attempt: Attempt, slot: Slot) -> bool:
        """Whether a committed write got a number that the store had already passed when it was sent."""
        if not self.traits.token_from_write or slot.order is None:
            return False
        if slot.order > attempt.mark:
            self._ledger.note(slot.order)
            return False
        self._out.append(WentBack(slot.order, attempt.mark))
        self._newest = slot.order
        if self.phase is Phase.SEEKING:
            self._last = slot
            self._settle(attempt.request)
            self._give_up(now, went_back(self.name, slot.order, attempt.mark))
            return True
        if self.phase in _OURS:
            self._lose("broken", now.hold)
        return False

    def _give_up(self, now: Instant, error: Exception) -> None:
        self._out.append(GaveUp(error))
        self._chase(now)

    def _sent(self, request: int) -> Attempt | None:
        """The swap that a request was, as long as it is remembered; None for a read."""
        for attempt in reversed(self._attempts):
            if attempt.request == request:
                return attempt
        return None

    def _settle(self, request: int) -> None:
        self._attempts = tuple(
            a._replace(settled=True) if a.request == request else a for a in self._attempts
        )

    def _latest_credited(self) -> Attempt | None:
        return next((a for a in reversed(self._attempts) if a.credited), None)

    def _note_overdue(self, now: Instant) -> None:
        if self.phase is Phase.HELD and now.hold >= self._overdue_at:
            self._go(Phase.JEOPARDY)
            self._out.append(Endangered(self.deadline))

    def _retry(self, now: Instant) -> None:
        """Back off: half to all of a doubling pause, so that a herd spreads out."""
        self._tries += 1
        most = min(1.0, self.terms.ttl / 4 if self.phase not in _OURS else self.terms.attempt / 2)
        pause = min(0.05 * 2 ** min(self._tries, 16), most)
        self._not_before = now.wait + pause * (0.5 + 0.5 * self._entropy.random())

    def _pause(self, now: Instant, most: float) -> None:
        self._not_before = now.wait + most * self._entropy.random()

    def _beat(self) -> str:
        return f"{self._entropy.getrandbits(BEAT_BITS):016x}"

    def _fresh(self, now: Instant, token: int | None) -> Claim:
        boot = self._boot
        return Claim(
            self.holder, self.claim_id, self._beat(), self.terms.ttl, token, State.HELD, now.wall, now.wall,
            boot, None if boot is None else now.hold, None, self._metadata,
        )  # fmt: skip

    def _last_words(self, now: Instant, linger: float | None, successor: str | None) -> Claim | None:
        """The record to leave behind, or None for a plain release. The claim believes nothing after it."""
        if linger is not None:
            return replace(self._fresh(now, self.token), ttl=check_ttl(linger), acquired=self._acquired)
        if successor is not None:
            return self._fresh(now, self.token).freed(successor=successor)
        return None


def went_back(name: str, number: int, known: int) -> StoreError:
    """The error for a store whose own numbering went back."""
    return StoreError(
        f'the store went back: a write to "{name}" got number {number} after {known}, as after a restored '
        "backup; stop every client, then start them anew"
    )


def _is_claim(slot: Slot) -> bool:
    return slot.claim is not None and slot.claim.held and bool(slot.claim.id)


def _wrote(attempt: Attempt, slot: Slot | None) -> bool:
    """Whether the slot shows this attempt's write."""
    return slot is not None and slot.claim is not None and slot.claim.beat == attempt.beat
