"""What is known of the locks of a store while it is watched: what was last seen, and for how long it stands.

Nothing here talks to the store or waits. A held record is known to keep others out for its ttl from when it
was first seen as it is, so where only its holder's host could say when it expires, this says when at the
latest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from leases.contract import Slot, absent
from leases.observer import Sight
from leases.store import Status, status_of

if TYPE_CHECKING:
    from leases.clock import Instant


_MOMENT: Final = 0.001  # seconds: hardly any, and not none


class Sights:
    """Every lock that was seen.

    Args:
        boot: the boot's identity, where the store is on this host and it is known.
        name: the one lock that is watched; None for all that are there.
    """

    def __init__(self, boot: str | None, name: str | None) -> None:
        self._boot, self._name = boot, name
        self._sights: dict[str, Sight] = {}
        self._told: dict[str, object] = {}

    def note(self, slots: Iterable[Slot], now: Instant) -> None:
        """Take in what a look has shown. What it does not show any more is free."""
        seen = {slot.name: slot for slot in slots}
        for name in self._sights.keys() - seen.keys():
            seen[name] = absent(name)
        for name, slot in seen.items():
            self._sights.setdefault(name, Sight(self._boot)).note(slot, now)

    def statuses(self, now: Instant, known: Instant) -> list[Status]:
        """What stands, at this instant. What is not there any more is forgotten, unless it was asked for.

        Args:
            now: what stood before is counted down to this instant.
            known: when it was so; what has expired only since then may have been renewed, and shows no time.
        """
        found: list[Status] = []
        for name in list(self._sights):
            status = self._status(name, now)
            if status.expires_in == 0 and self._sights[name].left(known) > 0:
                status = replace(status, expires_in=_MOMENT)
            if status.held or self._stands(name) or name == self._name:
                found.append(status)
            else:
                del self._sights[name]
                self._told.pop(name, None)
        return found

    def changes(self, now: Instant) -> Iterator[Status]:
        """What is not as it was told last, the first time everything; a renewal changes nothing.

        What is free and gone is told, and then forgotten.
        """
        for name in list(self._sights):
            status = self._status(name, now)
            essence = _essence(status)
            if self._told.get(name) != essence:
                self._told[name] = essence
                yield status
            if not self._stands(name) and name != self._name:
                del self._sights[name], self._told[name]

    def rest(self, now: Instant) -> float | None:
        """Seconds until something changes without anybody's doing: a record expires. None: nothing will."""
        lefts = [left for sight in self._sights.values() if (left := sight.left(now)) > 0]
        return min(lefts, default=None)

    def due(self, since: Instant, now: Instant) -> bool:
        """Whether something has expired between two instants, if it was not renewed."""
        return any(sight.left(since) > 0 >= sight.left(now) for sight in self._sights.values())

    def _status(self, name: str, now: Instant) -> Status:
        sight = self._sights[name]
        assert sight.slot is not None
        return status_of(sight.slot, sight.left(now))

    def _stands(self, name: str) -> bool:
        slot = self._sights[name].slot
        return slot is not None and slot.claim is not None


def _essence(status: Status) -> object:
    """What tells one state of a lock from another, for who is not interested in renewals."""
    metadata = tuple(sorted((status.metadata or {}).items()))
    expired = status.held and not status.expires_in
    return status.held, status.claim, status.token, status.ttl, status.successor, metadata, expired
