"""Who leads, as anybody can see it who looks at the store: without a claim, and without belief in the dead.

A record may outlive its holder. So a leader is shown as long as the record can keep others out: the same
version and the same bytes, standing for the record's own ttl since they were first in hand, are nobody's.
What is shown may be stale by the time it is read; only a lease is a promise.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from leases.contract import Slot, Watch
from leases.errors import StoreUnavailable
from leases.keeper import report
from leases.record import RESERVED
from leases.script import Wait
from leases.terms import look_after
from leases.threads import Bell

if TYPE_CHECKING:
    from leases.clock import Instant
    from leases.hub import Hub

PRIORITY: Final = f"{RESERVED}priority"  # the key under which a leader shows its priority

_LOOK_SECONDS: Final = 5.0  # for one look at the store
_NO_TTL: Final = 15.0  # seconds: what is taken for the ttl where no record shows one
_AGAIN_LEAST, _AGAIN_MOST = 0.05, 1.0  # seconds between looks at a store that does not answer


@dataclass(frozen=True, slots=True)
class Leader:
    """One tenure of one leader; two are equal if they are the same tenure, whatever metadata it showed.

    Attributes:
        name: what is led, the name of the lock.
        holder: who leads, readable.
        token: the fencing token of the tenure.
        since: wall time of the election, Unix seconds, by the leader's clock; for people.
        metadata: what the leader shows, as last seen.
        priority: the leader's priority, where it states one.
    """

    name: str
    holder: str
    token: int
    since: float = field(compare=False)
    metadata: Mapping[str, str] = field(default_factory=dict, compare=False)
    priority: int | None = field(default=None, compare=False)


def leader_of(slot: Slot) -> Leader | None:
    """Who holds by this slot, be he dead; None where nobody does, or the lock was broken."""
    claim, token = slot.claim, slot.token
    if claim is None or token is None or not claim.id:
        return None
    return leader_who_shows(claim.metadata, slot.name, claim.holder, token, claim.acquired)


def leader_who_shows(metadata: Mapping[str, str], name: str, holder: str, token: int, since: float) -> Leader:
    """A leader with what of its metadata is its own, and with the priority that it states."""
    shown = {key: text for key, text in metadata.items() if not key.startswith(RESERVED)}
    return Leader(name, holder, token, since, shown, priority_in(metadata))


def priority_in(metadata: Mapping[str, str]) -> int | None:
    """The priority that metadata states, if it is one."""
    try:
        return int(metadata[PRIORITY])
    except (KeyError, ValueError):
        return None


class Sight:
    """What was seen of one name, and since when: judged by the waiter's clock alone.

    Where the store is on this host, the record's own instant tells at the first look.
    """

    def __init__(self, boot: str | None) -> None:
        self._boot = boot
        self._seen: tuple[Slot, Instant] | None = None  # and when it was first in hand
        self.proven = False  # whether somebody was seen to write: what stands there is not only old

    def note(self, slot: Slot, now: Instant) -> None:
        """Take in a slot; `now` was read after the reply. What is older than what is known is no news."""
        seen = self._seen
        if seen is None:
            self._seen = (slot, now)
            return
        known = seen[0]
        if slot.order is not None and known.order is not None and slot.order < known.order:
            return
        if (slot.version, slot.body) != (known.version, known.body):
            self._seen, self.proven = (slot, now), True

    @property
    def slot(self) -> Slot | None:
        """The newest that was seen."""
        return None if self._seen is None else self._seen[0]

    def left(self, now: Instant) -> float:
        """Seconds for which the record can keep others out, if it is not renewed; 0 where there is none."""
        return self._left(self._seen, now)

    def _left(self, seen: tuple[Slot, Instant] | None, now: Instant) -> float:
        if seen is None or not seen[0].held:
            return 0.0
        slot, at = seen
        claim = slot.claim
        assert claim is not None
        left = at.wait + claim.ttl - now.wait
        if self._boot is not None and claim.boot == self._boot and claim.sent is not None:
            left = min(
                left, claim.sent + claim.ttl - now.hold
            )  # From the future it is more, and says nothing.
        return max(left, 0.0)

    def leader(self, now: Instant, *, wary: bool = False) -> Leader | None:
        """Who leads, as far as was seen; None where nobody does, or nobody has been heard of for a ttl.

        Args:
            now: the instant.
            wary: show nobody who was not seen to write, and may have been dead all the time.
        """
        return self.outlook(now, wary=wary)[0]

    def outlook(self, now: Instant, *, wary: bool = False) -> tuple[Leader | None, float]:
        """Who leads, and for how many seconds that can be believed if nothing more is heard.

        Belief runs out by the larger elapsed time: a host that has slept has heard of nobody meanwhile,
        although it must not count that time against the record.
        """
        seen = self._seen  # Read once: another thread may be taking in the next.
        left = self._left(seen, now)
        if seen is None or left <= 0 or (wary and not self.proven):
            return None, 0.0
        slot, at = seen
        assert slot.claim is not None
        left = min(left, at.hold + slot.claim.ttl - now.hold)
        return (leader_of(slot), left) if left > 0 else (None, 0.0)


class Seen(NamedTuple):
    """A step of an observing script: this is shown now."""

    leader: Leader | None


def observing(
    connect: Callable[[], Hub], name: str, ring: Callable[[], object], *, wary: bool = False
) -> Generator[Wait | Seen, None, None]:
    """Look, listen and time, for ever: yields what to wait for, what to call, and every change.

    Args:
        connect: the store; asked before every look, so that a store that was closed is noticed.
        name: the lock.
        ring: wakes who runs this; called from any thread.
        wary: show a leader only once somebody was seen to write.

    Raises:
        StoreError: the store refused, was closed, or shows a record that is not ours. Not when it only gives
            no answer: then nobody is known to lead, once what was known has outlived its ttl.
    """
    return _observing(_Look(connect, name, ring), wary=wary)


def _observing(look: _Look, *, wary: bool) -> Generator[Wait | Seen, None, None]:
    shown: Leader | None = None
    first = True
    try:
        while True:
            if look.due:
                yield look.again
            leader = look.leader(wary=wary)
            if first or leader != shown:
                first, shown = False, leader
                yield Seen(leader)
            else:
                yield look.rest
    finally:
        look.close()


class _Look:
    """A name in a store, under observation."""

    def __init__(self, connect: Callable[[], Hub], name: str, ring: Callable[[], object]) -> None:
        self._connect, self._name, self._ring = connect, name, ring
        self._hub: Hub | None = None
        self._sight = Sight(None)
        self._hints: deque[Slot | None] = deque()
        self._watch: Watch | None = None
        self._due_at = 0.0  # on the waiter's clock
        self._failures = 0
        self._trouble: Exception | None = None  # the last
        self._heard = -math.inf  # on the holder's clock
        self._closed = False

    @property
    def due(self) -> bool:
        """Whether it is time to ask the store; hints are taken in first."""
        if self._hub is None:
            return True
        now = self._hub.clock()
        asked = False
        while self._hints:
            slot = self._hints.popleft()
            if slot is None or slot.order is None:  # Without an order nobody knows how old it is.
                asked = True
            else:
                self._note(slot, now)
        return asked or now.wait >= self._due_at

    def again(self) -> None:
        """Ask the store, and for hints, where none come."""
        hub = self._connected()
        known = self._sight.left(hub.clock())
        try:
            slot = hub.backend.read(self._name, min(_LOOK_SECONDS, known) if known > 0 else _LOOK_SECONDS)
            self._note(slot, hub.clock())
            self._failures = 0
            if self._watch is None and not self._closed:
                self._watch = hub.backend.watch(slot, self._hint)
                if self._closed:
                    self.close()
        except StoreUnavailable as error:
            if hub.closed:
                raise
            self._failures += 1
            self._trouble = error
        self._plan(hub)

    def leader(self, *, wary: bool) -> Leader | None:
        """Who leads, by the clock."""
        assert self._hub is not None
        return self._sight.leader(self._hub.clock(), wary=wary)

    def outlook(self, *, wary: bool) -> Outlook:
        """What can be said at this instant; from any thread."""
        hub = self._hub
        if hub is None:
            return Outlook(None, 0.0, False)
        leader, left = self._sight.outlook(hub.clock(), wary=wary)
        reachable = self._sight.slot is not None and not self._failures
        return Outlook(leader, left, reachable, None if reachable else self._trouble, self._heard)

    @property
    def rest(self) -> float:
        """Seconds until something is to be done, or somebody is not heard of any more."""
        assert self._hub is not None
        now = self._hub.clock()
        left = self._sight.left(now)
        due = max(self._due_at - now.wait, 0.0)
        return min(due, left) if left > 0 else due

    def close(self) -> None:
        """No hints any more."""
        self._closed = True
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()

    def _connected(self) -> Hub:
        hub = self._connect()
        if hub is not self._hub:  # The first time, or the connection was closed and made anew.
            if self._watch is not None:
                self._watch.close()
            self._hub, self._watch, self._sight = hub, None, Sight(hub.boot)
        return hub

    def _hint(self, slot: Slot | None) -> None:
        self._hints.append(slot)
        self._ring()

    def _note(self, slot: Slot, now: Instant) -> None:
        self._sight.note(slot, now)
        self._heard = now.hold
        assert self._hub is not None
        if not self._failures:  # Else it is asked again at its time: hints may come where no answers do.
            self._plan(self._hub)

    def _plan(self, hub: Hub) -> None:
        """When to ask again without a hint: spread out, and soon where there was no answer."""
        if self._failures:
            most = min(_AGAIN_LEAST * 2 ** min(self._failures, 16), _AGAIN_MOST)
        else:
            slot = self._sight.slot
            ttl = slot.claim.ttl if slot is not None and slot.claim is not None else _NO_TTL
            most = look_after(ttl, watches=hub.backend.traits.watches and self._watch is not None)
        self._due_at = hub.clock().wait + most * (0.75 + 0.25 * hub.entropy.random())


# ---- in both colours -----------------------------------------------------------------------------


def observe(connect: Callable[[], Hub], name: str) -> Generator[Leader | None, None, None]:
    """Who leads, now and after every change, until the generator is closed; the errors of `observing`."""
    bell = Bell()
    with closing(observing(connect, name, bell.ring)) as script:
        for step in script:
            if isinstance(step, Seen):
                yield step.leader
            elif callable(step):
                step()
            else:
                bell.wait(step)


async def observe_async(connect: Callable[[], Hub], name: str) -> AsyncGenerator[Leader | None, None]:
    """`observe`, awaited."""
    from leases import aio

    bell = aio.Bell()
    with closing(observing(connect, name, bell.ring)) as script:
        for step in script:
            if isinstance(step, Seen):
                yield step.leader
            elif callable(step):
                await aio.in_thread(step)
            else:
                await bell.wait(step)


class Outlook(NamedTuple):
    """What a lookout can say at one instant.

    Attributes:
        leader: who leads; None where nobody is known to.
        left: seconds for which that can be believed if nothing more is heard.
        reachable: whether the store answered when it was asked last.
        trouble: why not, where that is known.
        heard: when it was heard of last, on the holder's clock.
    """

    leader: Leader | None
    left: float
    reachable: bool
    trouble: Exception | None = None
    heard: float = -math.inf


class Lookout:
    """A thread that tells of every change of leader, until it is closed; what goes wrong is logged.

    Args:
        connect: the store.
        name: the lock.
        tell: called with the leader or None, first with what is so at the beginning.
        wary: as of `observing`.
        looked: called after every look at the store, whatever it said.
    """

    def __init__(
        self,
        connect: Callable[[], Hub],
        name: str,
        tell: Callable[[Leader | None], object],
        *,
        wary: bool = False,
        looked: Callable[[], object] | None = None,
    ) -> None:
        self._connect, self._name, self._tell, self._wary = connect, name, tell, wary
        self._looked = looked
        self._look: _Look | None = None
        self._trouble: Exception | None = None
        self._bell = Bell()
        self._closed = False
        self._told: list[Leader | None] = []  # what was told last, if anything was
        self._complained = False  # since something was seen
        threading.Thread(target=self._run, name=f"leases-lookout-{name}", daemon=True).start()

    def outlook(self) -> Outlook:
        """What is known at this instant, by the clock; from any thread, and it waits for nothing."""
        look = self._look
        if look is None or self._closed:
            return Outlook(None, 0.0, False, self._trouble)
        return look.outlook(wary=self._wary)

    def close(self) -> None:
        """Tell nothing more; a look that is under way ends by itself."""
        self._closed = True
        self._bell.ring()

    def _run(self) -> None:
        while not self._closed:
            try:
                look = _Look(self._connect, self._name, self._bell.ring)
                with closing(_observing(look, wary=self._wary)) as script:
                    self._look = look
                    self._follow(script)
            except BaseException as error:  # Whatever a store does: this thread goes on, or nobody is told.
                self._trouble = error if isinstance(error, Exception) else None
                if not self._closed and not self._complained:
                    report("who leads %r cannot be seen; it is tried again", self._name, error)
                self._complained, self._look = True, None
                self._has_looked()
                self._show(None)
                self._bell.wait(_AGAIN_MOST)

    def _follow(self, script: Generator[Wait | Seen, None, None]) -> None:
        for step in script:
            if self._closed:
                return
            if isinstance(step, Seen):
                self._complained = False
                self._show(step.leader)
            elif callable(step):
                step()
                self._has_looked()
            else:
                self._bell.wait(step)

    def _has_looked(self) -> None:
        if self._looked is not None and not self._closed:
            self._looked()

    def _show(self, leader: Leader | None) -> None:
        if not self._closed and self._told != [leader]:
            self._told = [leader]
            self._tell(leader)
