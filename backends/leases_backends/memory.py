"""A store inside this process, for threads and tasks, for tests, and for trying things out.

The primitive is a dictionary under a mutex. A token is the number of the acquiring write, unless the URL
asks for the rules of another store. Nothing can cut it off, and nothing survives the process; the child
of a fork goes on with a copy of its own, which keeps nobody out but itself.

`memory:` is one store for the whole process and `memory:other` is another; `memory:?kind=zookeeper`
numbers writes and leaves records behind as ZooKeeper would, and promises no more than that.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from leases.contract import Applied, Backend, Notify, Outcome, Slot, Watch, cannot_guard
from leases.errors import ConfigurationError, StoreUnavailable
from leases.record import Claim
from leases.testing.cells import Cells, Kind
from leases.urls import shown
from leases_backends._parameters import split


def connect(url: str = "memory:") -> Memory:
    """A connection to the store of this process that the URL names; equal URLs share one.

    Raises:
        ConfigurationError: an unknown kind or parameter.
    """
    path, options = split(url, ("kind",))
    try:
        kind = Kind(options.get("kind", "memory"))
    except ValueError:
        kinds = ", ".join(kind.value for kind in Kind)
        raise ConfigurationError(f"{shown(url)}: the kind is unknown; known: {kinds}") from None
    with _stores_mutex:
        store = _stores.setdefault((path, kind), _Store(kind))
    query = "" if kind is Kind.MEMORY else f"?kind={kind.value}"
    return Memory(store, f"memory:{path}{query}")


class Memory(Backend):
    """One connection to a store in this process."""

    def __init__(self, store: _Store, identity: str) -> None:
        traits = store.cells.rules.traits
        borrowed = "" if store.cells.kind is Kind.MEMORY else f", by the rules of {traits.store}"
        self.traits = replace(
            traits,
            store=f"memory{borrowed}",
            failover="ttl",
            restore="nothing is kept, so there is nothing to restore",
        )
        self.identity = identity
        self._store = store
        self._watches: set[_Watch] = set()
        self._closed = False

    def read(self, name: str, timeout: float) -> Slot:
        with self._open().mutex:
            return self._store.cells.read(name)

    def swap(self, seen: Slot, claim: Claim | None, timeout: float) -> Outcome:
        return self._change(seen, lambda cells: cells.swap(seen, claim))

    def remove(self, seen: Slot, timeout: float) -> Outcome:
        return self._change(seen, lambda cells: cells.erase(seen))

    def write_guarded(self, guard: Slot, key: str, body: bytes | None, timeout: float) -> Outcome:
        with self._able().mutex:
            return self._store.cells.write_guarded(guard, key, body)

    def read_guarded(self, name: str, key: str, timeout: float) -> bytes | None:
        with self._able().mutex:
            return self._store.cells.read_guarded(name, key)

    def _able(self) -> _Store:
        if not self.traits.guards:
            raise cannot_guard(self.traits)
        return self._open()

    def _change(self, seen: Slot, change: Callable[[Cells], Outcome]) -> Outcome:
        with self._open().mutex:
            outcome = change(self._store.cells)
            watches = self._store.watches_of(seen.name)
        if isinstance(outcome, Applied) and outcome.slot.version != seen.version:
            for watch in watches:
                watch.tell(outcome.slot)
        return outcome

    def scan(self, prefix: str, timeout: float) -> Iterable[Slot | Exception]:
        with self._open().mutex:
            return list(self._store.cells.scan(prefix))

    def watch(self, seen: Slot, notify: Notify) -> Watch:
        watch = _Watch(self, seen.name, notify)
        with self._open().mutex:
            self._watches.add(watch)
            self._store.watches.setdefault(seen.name, set()).add(watch)
            slot = self._store.cells.peek(seen.name)
        if slot.version != seen.version:
            watch.tell(slot)
        return watch

    def close(self) -> None:
        self._closed = True
        for watch in tuple(self._watches):
            watch.close()

    def write_foreign(self, name: str, body: bytes) -> None:
        """Write bytes without asking what stands there, as a stranger to the protocol could; for tests."""
        with self._open().mutex:
            slot = self._store.cells.write(name, body)
            watches = self._store.watches_of(name)
        for watch in watches:
            watch.tell(slot)

    def forget(self, watch: _Watch) -> None:
        """Tell a watch nothing more."""
        with self._store.mutex:
            self._watches.discard(watch)
            others = self._store.watches.get(watch.name, set())
            others.discard(watch)
            if not others:
                self._store.watches.pop(watch.name, None)

    def _open(self) -> _Store:
        if self._closed:
            raise StoreUnavailable(f"{self.identity} was closed; connect again")
        return self._store


class _Store:
    """The cells, the mutex around them, and who wants to hear of which name."""

    def __init__(self, kind: Kind) -> None:
        self.cells: Final = Cells(kind)
        self.forked()

    def forked(self) -> None:
        """A mutex that no thread of the parent holds, and none of its watches."""
        self.mutex = threading.Lock()
        self.watches: dict[str, set[_Watch]] = {}

    def watches_of(self, name: str) -> tuple[_Watch, ...]:
        return tuple(self.watches.get(name, ()))


class _Watch:
    """Hints to one listener, in the thread that made the change, once the mutex is free again."""

    def __init__(self, backend: Memory, name: str, notify: Notify) -> None:
        self.name = name
        self._backend = backend
        self._notify: Notify | None = notify

    def tell(self, slot: Slot) -> None:
        notify, foreign = self._notify, slot.claim is None and slot.version is not None
        if notify is not None:
            notify(None if foreign else slot)

    def close(self) -> None:
        self._notify = None
        self._backend.forget(self)


_stores: Final[dict[tuple[str, Kind], _Store]] = {}
_stores_mutex = threading.Lock()


def _forked() -> None:
    global _stores_mutex
    _stores_mutex = threading.Lock()
    for store in _stores.values():
        store.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
