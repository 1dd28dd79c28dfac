"""Slots, claims and stores of a small world, each kept once and known by a number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, NamedTuple

from leases.contract import Applied, Slot
from leases.record import Claim, State, decode, encode
from leases.testing.cells import Cells, Kind

NAME: Final = "lock"
NOW: Final = 1000.0


class _Cells(Cells):
    """Cells into which a slot can be put as it is."""

    def clone(self) -> _Cells:
        twin = _Cells(self.kind, self.number)
        twin._touched, twin._slots = self._touched, self._slots.copy()
        return twin

    def put(self, slot: Slot) -> None:
        """Let this slot stand there."""
        if slot.claim is not None:
            self._slots[slot.name] = slot


class Shelf(NamedTuple):
    """The store at one instant: its cells, and all that ever stood there, as numbers of slots."""

    cells: _Cells
    past: tuple[int, ...]  # as far back as anybody may look

    @property
    def slot(self) -> int:
        """What stands there now."""
        return self.past[-1]


class Catalog:
    """Slot 0 is an absence that was never read, claim 0 is None, shelf 0 is the empty store.

    Args:
        kind: whose rules the store follows.
        back: how many versions a reader or a watch may look back.
        oldest: instants in records that are older than this make no difference to anybody.
    """

    def __init__(self, kind: Kind, back: int, oldest: float) -> None:
        self._back = back
        self._oldest = oldest
        self.slots: list[Slot] = []
        self.claims: list[Claim | None] = [None]
        self.shelves: list[Shelf] = []
        self.orders: dict[tuple[object, bytes], int] = {}  # by version and body
        self._slots: dict[tuple[object, ...], int] = {}
        self._alive: dict[int, int] = {}  # by the identity of slots that are kept
        self._claims: dict[bytes, int] = {}
        self._shelves: dict[tuple[object, ...], int] = {}
        self._shifts: dict[tuple[int, float], int] = {}
        self.slot(Slot(NAME, None))
        cells = _Cells(kind)
        self._shelf(cells, (self.slot(cells.peek(NAME)),))

    def slot(self, slot: Slot) -> int:
        """The number of a slot."""
        number = self._alive.get(id(slot))
        if number is None:
            key = slot.version, slot.order, slot.floor, slot.body
            number = self._slots.get(key)
            if number is None:
                number = self._slots[key] = len(self.slots)
                self._alive[id(slot)] = number
                self.slots.append(slot)
                self.orders[slot.version, slot.body] = slot.order or 0
        return number

    def claim(self, claim: Claim | None) -> int:
        """The number of a claim."""
        if claim is None:
            return 0
        body = encode(claim)
        number = self._claims.get(body)
        if number is None:
            number = self._claims[body] = len(self.claims)
            self.claims.append(claim)
        return number

    def name(self, number: int) -> str:
        """A slot in words."""
        slot = self.slots[number]
        if slot.claim is None:
            return "nothing" if slot.order is None else f"nothing, at {slot.order}"
        claim = slot.claim
        if not claim.held:
            return f"a free record (version {slot.version})"
        if not claim.id:
            return f"a broken lock (version {slot.version})"
        serial = int(claim.id, 16) & 0xFFFF
        life = int(claim.id, 16) >> 16 & 0xFFFF
        return f"{claim.holder.upper()}'s claim {life}.{serial} (version {slot.version})"

    # ---- the store -------------------------------------------------------------------------------

    def swapped(self, number: int, seen: int, claim: int) -> tuple[int, tuple[str, int]]:
        """A swap is carried out: the store after it, and the reply."""
        shelf = self.shelves[number]
        cells = shelf.cells.clone()
        outcome = cells.swap(self.slots[seen], self.claims[claim])
        if not isinstance(outcome, Applied):
            assert outcome.slot is not None
            return number, ("conflict", self.slot(outcome.slot))
        return self._after(cells, shelf), ("applied", self.slot(outcome.slot))

    def vanished(self, number: int) -> int:
        """A stranger removes the record."""
        cells = self.shelves[number].cells.clone()
        cells.remove(NAME)
        return self._after(cells, self.shelves[number])

    def edited(self, number: int) -> int:
        """A stranger edits the object and leaves the claim in it as it is."""
        return self._rewritten(number, lambda claim: replace(claim, metadata={"edited": "by hand"}))

    def broken(self, number: int) -> int:
        """Somebody breaks the lock: a held record that belongs to no claim, for the same ttl."""

        def break_(claim: Claim) -> Claim:
            return replace(
                claim, holder="nobody", id="", beat=f"{self.shelves[number].cells.number + 1:016x}"
            )

        return self._rewritten(number, break_)

    def _rewritten(self, number: int, change: Callable[[Claim], Claim]) -> int:
        shelf = self.shelves[number]
        cells = shelf.cells.clone()
        claim = self.slots[shelf.slot].claim
        assert claim is not None and claim.state is State.HELD
        cells.write(NAME, encode(change(claim)))
        return self._after(cells, shelf)

    def _after(self, cells: _Cells, before: Shelf) -> int:
        return self._shelf(cells, (*before.past, self.slot(cells.peek(NAME))))

    def _shelf(self, cells: _Cells, past: tuple[int, ...]) -> int:
        past = past[-1 - self._back :]
        key = cells.number, past
        number = self._shelves.get(key)
        if number is None:
            number = self._shelves[key] = len(self.shelves)
            self.shelves.append(Shelf(cells, past))
        return number

    # ---- time on a host that both share ----------------------------------------------------------

    def shifted(self, number: int, by: float) -> int:
        """The slot as it looks when so much time has passed: the instant in its record is older."""
        key = number, by
        if key not in self._shifts:
            slot = self.slots[number]
            claim = self.shift_claim(slot.claim, by)
            if claim is None or claim is slot.claim:
                self._shifts[key] = number
            else:
                self._shifts[key] = self.slot(replace(slot, claim=claim, body=encode(claim)))
        return self._shifts[key]

    def shift(self, slot: Slot | None, by: float) -> Slot | None:
        """As `shifted`, for the slot itself."""
        return None if slot is None else self.slots[self.shifted(self.slot(slot), by)]

    def shift_claim(self, claim: Claim | None, by: float) -> Claim | None:
        """As `shifted`, for a claim."""
        if claim is None or claim.sent is None:
            return claim
        return replace(claim, sent=max(claim.sent - by, self._oldest))

    def shift_body(self, body: bytes, by: float) -> bytes:
        """As `shifted`, for the bytes of a record."""
        claim = self.shift_claim(decode(NAME, body), by)
        assert claim is not None
        return encode(claim)

    def shelf_shifted(self, number: int, by: float) -> int:
        """As `shifted`, for the store."""
        shelf = self.shelves[number]
        cells = shelf.cells.clone()
        past = tuple(self.shifted(slot, by) for slot in shelf.past)
        cells.put(self.slots[past[-1]])
        return self._shelf(cells, past)
