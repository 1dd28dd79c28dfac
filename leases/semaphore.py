"""`Semaphore`: at most so many of a fleet at a time, by as many locks, of which each holder has one.

The slots of a semaphore are locks of their own, ``<name>/slot-0`` and so on: each has its own record, its own
token and its own renewal, so all that is promised of a lock holds for each slot, and there is nothing else.
No two semaphores share a slot, because a name is all that stands before the last ``/slot-``; a `Lock` that
is given the name of a slot is that slot's lock, as for an operator who breaks one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

from leases import threads
from leases.acquirable import Default
from leases.choice import Choice, acquiring
from leases.errors import ConfigurationError
from leases.hub import Countdown, Ticket
from leases.identity import default_holder
from leases.lease import Lease, OnLost, Semantics, Timeout, Word
from leases.lock import Connected, Fence, Lock, Place, Ringing, check_fences, sealer
from leases.record import NAME_BYTES, RESERVED, check_metadata, check_name
from leases.tenure import Wish
from leases.terms import Terms

if TYPE_CHECKING:
    from leases import aio
    from leases.contract import Slot
    from leases.hub import Hub
    from leases.script import Seal, Wait
    from leases.tenure import Tenure

SLOTS_MOST: Final = 1000
_STATED: Final = f"{RESERVED}slots"  # how many its holder takes the semaphore to have, in every record


class SlotLease(Lease):
    """The lease on one slot of a semaphore. Its name, and that of its token, is the slot's."""

    __slots__ = ()

    @property
    def slot(self) -> int:
        """Which slot, from 0: no two holders have the same at the same time."""
        return _slot_of(self.name)

    if TYPE_CHECKING:

        def __enter__(self) -> SlotLease: ...
        async def __aenter__(self) -> SlotLease: ...


class Semaphore(Lock):
    """What at most `slots` processes, threads or tasks of a fleet hold at a time, each on a lease of its own.

    It is used like a `Lock`, and gives leases that know their `SlotLease.slot`. Whoever waits takes the first
    slot that is freed, or whose holder is dead for its ttl; among processes there is no order. To acquire
    takes one round trip where the slot that this process had last is free, and one or two more for
    each that is met taken. Waiting costs what waiting for one lock costs, once for each slot.

    Everybody has to state the same number. It stands in each record, and whoever meets another refuses to go
    on, as two who do not agree cannot keep either number. It is not always met: first stop those
    who state the old one.

    Where a body may end in another thread or task than it began in, as in generators that a framework runs,
    write ``with semaphore.acquire() as lease:``, which frees its own slot. The end of ``with semaphore:``
    frees the slot that its thread or task entered last. If that is in no body of this object, it frees the
    slot of the only body there is, and of several none: it raises `RuntimeError`. But if it is in one, and
    ends the body of another, its own slot is freed while it works; that cannot be known here.

    Args:
        name: what is shared; 1 to 256 bytes of printable UTF-8 with the ``/slot-…`` of its last slot.
        slots: how many may hold it, 1 to 1000.
        fences: what guards the resource of a slot, asked once for each: it is sealed on acquisition.
        ttl, timeout, store, holder, metadata, on_lost, semantics, stop_within, terms: see `Lock`.

    Raises:
        ConfigurationError: a name, a number or an option that cannot work.
    """

    def __init__(
        self,
        name: str,
        slots: int,
        *,
        ttl: float | None = None,
        timeout: Timeout = None,
        store: str | Connected | None = None,
        holder: str | None = None,
        metadata: Mapping[str, str] | None = None,
        on_lost: Word | OnLost | tuple[Word, OnLost] = "raise",
        semantics: Semantics = "at-most-once",
        stop_within: float = 0.0,
        fences: Callable[[int], Sequence[Fence]] | None = None,
        terms: Terms | None = None,
    ) -> None:
        self.slots = _check_slots(slots)
        _check_longest(name, self.slots)
        super().__init__(
            name, ttl=ttl, timeout=timeout, store=store, holder=holder, metadata=metadata, on_lost=on_lost,
            semantics=semantics, stop_within=stop_within, terms=terms,
        )  # fmt: skip
        self._metadata = check_metadata({**self._metadata, _STATED: str(self.slots)})
        self._fences_of = _check_fences(fences, self.slots)
        self._last_slot: int | None = None

    if TYPE_CHECKING:  # The same as a lock's, and they give the leases of slots.

        def acquire(self, timeout: Timeout | Default = ...) -> SlotLease: ...
        async def acquire_async(self, timeout: Timeout | Default = ...) -> SlotLease: ...
        def try_acquire(self) -> SlotLease | None: ...
        async def try_acquire_async(self) -> SlotLease | None: ...
        def __enter__(self) -> SlotLease: ...
        async def __aenter__(self) -> SlotLease: ...

    def slot_name(self, slot: int) -> str:
        """The name of a slot's lock, as `leases list` shows it.

        Raises:
            ConfigurationError: there is no such slot.
        """
        if isinstance(slot, bool) or not isinstance(slot, int) or not 0 <= slot < self.slots:
            raise ConfigurationError(f"slot {slot!r} is not one of 0 to {self.slots - 1}; name one that is")
        return _name(self.name, slot)

    def choice(self, hub: Hub, ticket: Ticket) -> Choice:
        """One acquisition of a slot, for a driver of its own, which is rung by the ticket."""
        holder = self._holder if self._holder is not None else default_holder()
        wish = Wish(self.name, holder, self.terms, self._metadata)
        wishes = [wish._replace(name=_name(self.name, slot)) for slot in self._order(hub)]
        return Choice(hub, self.name, wishes, ticket, self._refuse)

    # ---- inside: how a lock's acquisition is done here ---------------------------------------------

    def _place(self, bell: Ringing, me: object) -> Place:
        handle = None if isinstance(self._store, str) else self._store
        return _Chosen(self.name, Ticket(bell.ring, handle, me))

    def _acquire(self, place: Place, bell: threads.Bell, timeout: Timeout | Default) -> Lease:
        if self._manner is not None:
            self._manner.check_here(awaited=False)
        allowed, spent = self._allowed(timeout), 0.0
        if not self._connected:
            self._connect_in_time(countdown := Countdown(allowed))
            spent = countdown.spent
        choice = self._choice(place)
        script = acquiring(choice, allowed, here=True, seals=self._seals_of, spent=spent)
        return self._begin(place, threads.run(script, bell))

    async def _acquire_async(self, place: Place, bell: aio.Bell, timeout: Timeout | Default) -> Lease:
        from leases import aio

        if self._manner is not None:
            self._manner.check_here(awaited=True)
        allowed, spent = self._allowed(timeout), 0.0
        if not self._connected:
            await self._connect_in_time_async(countdown := Countdown(allowed))
            spent = countdown.spent
        choice = self._choice(place)
        script = acquiring(choice, allowed, here=False, seals=self._seals_of, spent=spent)
        return self._begin(place, await aio.run(script, bell))

    def _acquiring(self, place: Place, *, awaited: bool) -> Generator[Wait, None, Lease]:
        if self._manner is not None:
            self._manner.check_here(awaited=awaited)
        if not self._connected:
            yield self._connect
        choice = self._choice(place)
        tenure = yield from acquiring(choice, None, here=False, seals=self._seals_of)
        return self._begin(place, tenure)

    def _choice(self, place: Place) -> Choice:
        assert isinstance(place, _Chosen)
        hub, _ = self._plan(place)
        place.choice = self.choice(hub, place.ticket)
        return place.choice

    def _order(self, hub: Hub) -> list[int]:
        """What this process left free comes first; the others in any order, so that a herd spreads out."""

        def rank(slot: int) -> float:
            left_free = slot == self._last_slot or hub.left_free(_name(self.name, slot))
            return hub.entropy.random() - left_free - (slot == self._last_slot)

        return sorted(range(self.slots), key=rank)

    def _refuse(self, met: Slot) -> Exception | None:
        stated = None if met.claim is None else met.claim.metadata.get(_STATED)
        if met.claim is None or stated is None or stated == str(self.slots):
            return None
        return ConfigurationError(
            f'semaphore "{self.name}" has {stated} slots for {met.claim.holder} and {self.slots} here; '
            "state the same number everywhere, and stop those with the old one before it is changed"
        )

    def _seals_of(self, tenure: Tenure) -> list[Seal]:
        return [sealer(fence) for fence in self._fences_of[_slot_of(tenure.name)]]

    def _begin(self, place: Place, tenure: Tenure) -> Lease:
        assert isinstance(place, _Chosen)
        place.ticket = tenure.ticket
        lease = place.lease = SlotLease(tenure, self._manner, self._drop)
        self._held[lease] = place.me
        self._last_slot = lease.slot
        return lease

    def __repr__(self) -> str:
        where = self._hub.backend.identity if self._hub is not None else "not connected yet"
        return f'<Semaphore "{self.name}" slots={self.slots} ttl={self.terms.ttl:g} {where}>'

    def __reduce__(self) -> NoReturn:
        made = f'Semaphore("{self.name}", {self.slots})'
        raise TypeError(f"a semaphore belongs to this process; make {made} anew in the other one")


class _Chosen(Place):
    """One acquisition by way of a semaphore."""

    __slots__ = ("choice",)

    def __init__(self, name: str, ticket: Ticket) -> None:
        super().__init__(name, ticket)
        self.choice: Choice | None = None

    def undo(self) -> None:
        if self.lease is not None:
            self.lease.abandon(self)
        elif self.choice is not None:
            self.choice.leave()


def _name(name: str, slot: int) -> str:
    return f"{name}/slot-{slot}"


def _slot_of(name: str) -> int:
    return int(name.rpartition("-")[2])


def _check_slots(slots: Any) -> int:
    if isinstance(slots, bool) or not isinstance(slots, int) or not 1 <= slots <= SLOTS_MOST:
        raise ConfigurationError(
            f"slots={slots!r} is not a whole number from 1 to {SLOTS_MOST}; pass how many may hold it"
        )
    return slots


def _check_longest(name: str, slots: int) -> None:
    longest = _name(check_name(name), slots - 1)
    if len(longest.encode()) > NAME_BYTES:
        raise ConfigurationError(
            f'a slot of this semaphore would be called "{longest}", which is over {NAME_BYTES} bytes; '
            "shorten the name"
        )


def _check_fences(fences: Callable[[int], Sequence[Fence]] | None, slots: int) -> Sequence[tuple[Fence, ...]]:
    if fences is None:
        return [()] * slots
    if not callable(fences):
        raise ConfigurationError(
            f"fences={fences!r} is not a function of a slot's number: each slot has tokens of its own, and "
            "needs fences of its own; pass what returns those of one"
        )
    return [check_fences(fences(slot)) for slot in range(slots)]
