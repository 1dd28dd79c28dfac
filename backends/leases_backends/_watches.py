"""Who waits for what in one store: the books that the watchers of all stores keep alike."""

from __future__ import annotations

import threading
from typing import Final, Generic, Protocol, TypeVar, cast

from leases.contract import Notify, Slot


class _Watcher(Protocol):
    def discard(self, watch: Listener) -> None: ...


class Listener:
    """Hints of one name to one listener. How news are told from what is known is its store's affair.

    Attributes:
        name: the lock.
        user: who wants it, and with whom it ends.
        key: what it is kept under: the name, or what the store calls it.
    """

    def __init__(self, watcher: _Watcher, seen: Slot, notify: Notify, user: object, key: str = "") -> None:
        self.name: Final = seen.name
        self.user: Final = user
        self.key: Final = key or seen.name
        self._notify: Notify | None = notify
        self._watcher = watcher

    def close(self) -> None:
        self._notify = None
        self._watcher.discard(self)


L = TypeVar("L", bound=Listener)


class Watchers(Generic[L]):
    """The listeners of one watcher, by key, under its mutex."""

    def discard(self, watch: Listener) -> None:
        """Tell it nothing more."""
        with self._mutex:
            self._remove(watch)

    def forget(self, user: object) -> None:
        """Close all watches of a user."""
        with self._mutex:
            watches = [watch for group in self._watches.values() for watch in group if watch.user is user]
        for watch in watches:
            watch.close()

    def _nobody(self) -> None:
        """At the beginning, and in the child of a fork: nobody waits."""
        self._mutex = threading.Lock()
        self._watches: dict[str, set[L]] = {}

    def _waiting(self, key: str) -> tuple[L, ...]:
        """Who waits for it now."""
        with self._mutex:
            return tuple(self._watches.get(key, ()))

    # The mutex is held in what follows.

    def _insert(self, watch: L) -> None:
        self._watches.setdefault(watch.key, set()).add(watch)

    def _remove(self, watch: Listener) -> bool:
        """One less; whether nobody is left who waits for the same."""
        group = self._watches.get(watch.key, set())
        group.discard(cast(L, watch))
        if group:
            return False
        self._watches.pop(watch.key, None)
        return True
