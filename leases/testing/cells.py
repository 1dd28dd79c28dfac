"""The rules of each kind of store as a dictionary: no lock, no time, no I/O.

What differs between stores, and matters to the protocol, is how they number writes, what release leaves
behind, whether writing the same bytes again shows, and what is known of a name that is not there. `Cells`
says it once for all of them; the simulator, the memory store and the fakes of the servers run on it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from leases.contract import Applied, Conflict, Slot, Traits
from leases.errors import RecordRefused
from leases.record import Claim, decode, encode


class Kind(Enum):
    """The kinds of store whose rules are known."""

    MEMORY = "memory"
    SQLITE = "sqlite"
    ETCD = "etcd"
    CONSUL = "consul"
    ZOOKEEPER = "zookeeper"
    KUBERNETES = "kubernetes"
    UNORDERED = "unordered"

    @property
    def rules(self) -> Rules:
        """How this kind behaves."""
        return _RULES[self]


@dataclass(frozen=True, slots=True)
class Rules:
    """How one kind of store behaves.

    Attributes:
        traits: what it promises.
        restarts: a record's version is counted per record and starts again when it is created anew;
            only together with the number of its creation is it never reused.
        silent: writing the bytes that stand there is acknowledged and makes no new version. A Kubernetes API
            server does so too, with whole objects; but our backend never writes the same object twice.
        parent: of an absent name it knows the last creation or removal of any, not the last write.
    """

    traits: Traits
    restarts: bool = False
    silent: bool = False
    parent: bool = False


_LOCAL: Final = Traits(
    "memory", release_deletes=True, token_from_write=True, local=True, guards=True, least_ttl=0.1
)
_GLOBAL: Final = Traits("etcd", release_deletes=True, token_from_write=True, guards=True)
_COUNTED: Final = Traits("zookeeper", release_deletes=False, token_from_write=False, guards=True)

_RULES: Final[dict[Kind, Rules]] = {
    Kind.MEMORY: Rules(_LOCAL),
    Kind.SQLITE: Rules(replace(_LOCAL, store="sqlite")),
    Kind.ETCD: Rules(_GLOBAL),
    Kind.CONSUL: Rules(replace(_GLOBAL, store="consul"), silent=True),
    Kind.ZOOKEEPER: Rules(_COUNTED, restarts=True, parent=True),
    Kind.KUBERNETES: Rules(replace(_COUNTED, store="kubernetes", guards=False)),
    Kind.UNORDERED: Rules(replace(_COUNTED, store="unordered", ordered=False), silent=True),
}


class Cells:
    """Names and what stands under them, numbered as one kind of store does it.

    Attributes:
        kind: whose rules.
        rules: those rules.
        number: the store-wide number of the last write; it grows by one with each.
    """

    __slots__ = ("_guarded", "_slots", "_touched", "kind", "number", "rules")

    def __init__(self, kind: Kind, number: int = 0) -> None:
        self.kind = kind
        self.rules = kind.rules
        self.number = number
        self._touched = number  # of the last creation or removal
        self._slots: dict[str, Slot] = {}  # a foreign record is a slot with bytes and no claim
        self._guarded: dict[tuple[str, str], bytes] = {}  # by lock and key

    def clone(self) -> Cells:
        """A copy that goes its own way: a backup, a stale replica, a branch of a search."""
        twin = Cells(self.kind, self.number)
        twin._touched = self._touched
        twin._slots = self._slots.copy()
        twin._guarded = self._guarded.copy()
        return twin

    def peek(self, name: str) -> Slot:
        """What stands under a name; a foreign record shows bytes and no claim."""
        slot = self._slots.get(name)
        return self._absent(name) if slot is None else slot

    def read(self, name: str) -> Slot:
        """What stands under a name.

        Raises:
            RecordRefused: it is not ours.
        """
        return _ours(self.peek(name))

    def scan(self, prefix: str = "") -> Iterator[Slot | Exception]:
        """Every record whose name begins so, by name, with an error in place of what is not ours."""
        for name in sorted(self._slots):
            if name.startswith(prefix):
                try:
                    yield self.read(name)
                except RecordRefused as refused:
                    yield refused

    def swap(self, seen: Slot, claim: Claim | None) -> Applied | Conflict:
        """Write the claim, or free the slot (None), if exactly the version of `seen` stands there.

        Raises:
            RecordRefused: what stands there is not ours; it was left as it is.
        """
        slot = self.read(seen.name)
        if slot.version != seen.version:
            return Conflict(slot)
        if claim is None:
            if slot.claim is None:
                return Conflict(slot)
            if self.rules.traits.release_deletes:
                return Applied(self.remove(seen.name))
            claim = slot.claim.freed()
        return Applied(self.write(seen.name, encode(claim)))

    def erase(self, seen: Slot) -> Applied | Conflict:
        """Remove the record, if exactly the version of `seen` stands there; what is absent conflicts.

        Raises:
            RecordRefused: what stands there is not ours; it was left as it is.
        """
        slot = self.read(seen.name)
        if slot.version != seen.version or slot.claim is None:
            return Conflict(slot)
        return Applied(self.remove(seen.name))

    def write_guarded(self, guard: Slot, key: str, body: bytes | None) -> Applied | Conflict:
        """Write under a key of a lock, or delete it (None), if exactly the version of `guard` stands there.

        Raises:
            RecordRefused: what stands there is not ours; nothing was written.
        """
        slot, place = self.read(guard.name), (guard.name, key)
        if slot.version != guard.version or slot.version is None:
            return Conflict(slot)
        there = place in self._guarded
        if there or body is not None:
            self.number += 1
        if there is (body is None):
            self._touched = self.number
        if body is None:
            self._guarded.pop(place, None)
        else:
            self._guarded[place] = body
        return Applied(slot)

    def read_guarded(self, name: str, key: str) -> bytes | None:
        """What was written under a key of a lock."""
        return self._guarded.get((name, key))

    def write(self, name: str, body: bytes) -> Slot:
        """Write bytes without asking what stands there, as any other client of the store can."""
        old = self._slots.get(name)
        if old is not None and self.rules.silent and old.body == body:
            return old
        self.number += 1
        if old is None:
            self._touched = self.number
        try:
            claim = decode(name, body)
        except RecordRefused:
            claim = None
        version = self._version(None if old is None else old.version)
        order = self.number if self.rules.traits.ordered else None
        token = 0 if claim is None or claim.token is None else claim.token
        floor = max(order or 0, token)
        slot = self._slots[name] = Slot(name, version, claim, order, floor, body)
        return slot

    def remove(self, name: str) -> Slot:
        """Remove what stands under a name without asking, as any other client of the store can."""
        if self._slots.pop(name, None) is not None:
            self.number += 1
            self._touched = self.number
        return self._absent(name)

    def _absent(self, name: str) -> Slot:
        if not self.rules.traits.ordered:
            return Slot(name, None)
        number = self._touched if self.rules.parent else self.number
        return Slot(name, None, order=number, floor=number)

    def _version(self, old: Hashable) -> Hashable:
        if self.rules.restarts:
            return (old[0], old[1] + 1) if isinstance(old, tuple) else (self.number, 0)
        return self.number if self.rules.traits.ordered else f"v{self.number:x}"


def _ours(slot: Slot) -> Slot:
    """The slot, unless it shows a foreign record."""
    if slot.claim is None and slot.version is not None:
        decode(slot.name, slot.body)
    return slot
