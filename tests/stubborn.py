"""A store that can be told to misbehave, in memory or wherever else, and what tests need around it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final

from leases.contract import Applied, Backend, Conflict, Notify, Outcome, Slot, Unknown, Watch
from leases.errors import StoreUnavailable
from leases.hub import Hub
from leases.record import Claim
from leases.store import Store
from leases_backends.memory import Memory, connect

PATIENCE: Final = 10.0  # seconds after which something has hung

_count = itertools.count()


def fresh_url(kind: str = "memory") -> str:
    """A memory store that nobody else has."""
    return f"memory:test-{next(_count)}" + ("" if kind == "memory" else f"?kind={kind}")


def memory(kind: str = "memory") -> Memory:
    """One such store, with ttls as short as a test wants them."""
    backend = connect(fresh_url(kind))
    backend.traits = replace(backend.traits, least_ttl=0.1)
    return backend


class Stubborn(Backend):
    """A store behind switches, by default one in memory.

    Attributes:
        down: calls are answered with `StoreUnavailable`, at once; swaps with `Unknown`.
        silent: nothing is answered: calls return when their time-out is over, as the contract wants it.
        gate: while it is not set, calls wait for it, and what they were told of time-outs is ignored.
        before: called with ("read" | "swap" | "guarded" | "watch", name) before the store is asked.
        after: called with ("read" | "swap" | "guarded", outcome); what it returns is the answer.
        calls: every call, as (kind, name, claim).
        watching: how many watches are open.
    """

    def __init__(self, kind: str = "memory", *, inner: Backend | None = None) -> None:
        self.inner: Backend = memory(kind) if inner is None else inner
        self.traits = self.inner.traits
        self.identity = self.inner.identity
        self.down = self.silent = False
        self.gate = threading.Event()
        self.gate.set()
        self.before: Callable[[str, str], None] = lambda kind, name: None
        self.after: Callable[[str, Any], Any] = lambda kind, outcome: outcome
        self.calls: list[tuple[str, str, Claim | None]] = []
        self.watching = 0
        self.closed = 0

    def read(self, name: str, timeout: float) -> Slot:
        self._pass("read", name, timeout)
        slot: Slot = self.after("read", self.inner.read(name, timeout))
        return slot

    def swap(self, seen: Slot, claim: Claim | None, timeout: float) -> Outcome:
        self.calls.append(("swap", seen.name, claim))
        down = self.down  # It may be up again in the next instant.
        if down or self.silent:
            time.sleep(0 if down else timeout)
            return Unknown(StoreUnavailable("it is down; wait"), void=down)
        self.gate.wait()
        self.before("swap", seen.name)
        outcome: Outcome = self.after("swap", self.inner.swap(seen, claim, timeout))
        return outcome

    def write_guarded(self, guard: Slot, key: str, body: bytes | None, timeout: float) -> Outcome:
        self.calls.append(("guarded", guard.name, None))
        down = self.down  # It may be up again in the next instant.
        if down or self.silent:
            time.sleep(0 if down else timeout)
            return Unknown(StoreUnavailable("it is down; wait"), void=down)
        self.gate.wait()
        self.before("guarded", guard.name)
        outcome: Outcome = self.after("guarded", self.inner.write_guarded(guard, key, body, timeout))
        return outcome

    def read_guarded(self, name: str, key: str, timeout: float) -> bytes | None:
        self._pass("read_guarded", name, timeout)
        return self.inner.read_guarded(name, key, timeout)

    def watch(self, seen: Slot, notify: Notify) -> Watch:
        self._pass("watch", seen.name)
        self.watching += 1
        return _Counted(self, self.inner.watch(seen, notify))

    def scan(self, prefix: str, timeout: float) -> Iterable[Slot | Exception]:
        self._pass("scan", prefix, timeout)
        return self.inner.scan(prefix, timeout)

    def close(self) -> None:
        self.closed += 1
        self.inner.close()

    def _pass(self, kind: str, name: str, timeout: float = 0.0) -> None:
        self.calls.append((kind, name, None))
        if self.down or self.silent:
            time.sleep(timeout if self.silent else 0)
            raise StoreUnavailable("it is down; wait")
        self.gate.wait()
        self.before(kind, name)


class _Counted:
    def __init__(self, backend: Stubborn, watch: Watch) -> None:
        self._backend, self._watch, self._open = backend, watch, True

    def close(self) -> None:
        if self._open:
            self._open = False
            self._backend.watching -= 1
        self._watch.close()


def store_on(backend: Backend | None = None, **options: Any) -> Store:
    """A connected store on a backend; by default one in memory that nobody else has."""
    return Store(Hub(backend if backend is not None else memory(), **options))


def another_process(store: Store) -> Store:
    """The same memory store as another process would see it: a hub of its own, with queues of its own."""
    backend = connect(inner(store).identity)
    backend.traits = inner(store).traits
    return Store(Hub(backend, clock=store.hub.clock))


def until(fact: Callable[[], object], patience: float = PATIENCE) -> None:
    """Wait until something is so; for what no event tells."""
    end = time.monotonic() + patience
    while not fact():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.002)


def look(store: Store) -> None:
    """Look at all timers now, as the keeper does; it knows nothing of a clock that is moved by hand."""
    hub: Any = store.hub
    for member in list(hub._members):
        member.tick()


def inner(store: Store) -> Memory:
    """The memory store itself, past all switches."""
    backend = store.hub.backend
    found = backend.inner if isinstance(backend, Stubborn) else backend
    assert isinstance(found, Memory)
    return found


def intrude(store: Store, name: str) -> None:
    """Somebody else's claim stands there suddenly, as if the protocol had been broken."""
    _overwrite(store, name, lambda claim: replace(claim, id=f"{int(claim.id, 16) ^ 1:032x}"))


def lose(store: Store, name: str) -> None:
    """Somebody else's claim stands there, and those of this process who hold the lock get a hint of it."""
    intrude(store, name)
    hint(store, name)


def hint(store: Store, name: str) -> None:
    """Those of this process who want the lock, or hold it, are told that something has changed."""
    hub: Any = store.hub
    for member in list(hub._members):
        if member.name == name:
            member.notice(None)


def break_(store: Store, name: str, *, now: bool = False) -> None:
    """Somebody breaks the lock: a held record of no claim, or none at all."""
    _overwrite(store, name, lambda claim: None if now else replace(claim, id="", holder="operator"))


def _overwrite(store: Store, name: str, other: Callable[[Claim], Claim | None]) -> None:
    """Swap something else in for the record that stands there, past all switches."""
    backend = store.hub.backend
    backend = backend.inner if isinstance(backend, Stubborn) else backend
    while True:
        slot = backend.read(name, PATIENCE)
        assert slot.claim is not None
        if isinstance(backend.swap(slot, other(slot.claim), PATIENCE), Applied):
            return


def conflict_untold(kind: str, outcome: Any) -> Any:
    """For `Stubborn.after`: conflicts do not show what stands there."""
    return Conflict() if isinstance(outcome, Conflict) else outcome


def leftovers(store: Store) -> list[str]:
    """What a hub still keeps of claims; nothing, once all is over."""
    hub: Any = store._hub
    found = [f"queue of {name!r}" for name in hub._queues]
    return found + [f"member {member.name!r} {member.machine.phase}" for member in hub._members]


SHORT: Final = 0.4  # a ttl, in seconds, for what has to happen in real time
