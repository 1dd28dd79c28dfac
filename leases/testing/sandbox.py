"""A store of a test's own, in memory, on a clock that is moved by hand; with losses and silences on demand.

    from leases.testing.sandbox import sandbox

    with sandbox() as box:
        with Lock("nightly") as lease:       # whatever names no store uses the sandbox's
            box.advance(60)                  # renewed twelve times, at its times, at once
            box.endanger("nightly")          # no renewal is answered any more
            assert lease.jeopardy
            box.heal()
            box.lose("nightly", "superseded")
            assert not lease.held

Time stands still but for `advance`. So a wait with a time-out does not end by itself: move the clock from
another thread, or let it run with `box.passing()`.
"""

# pyright: reportPrivateUsage=false
# It takes the place of what a process has around a store.

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from leases import hub, logs
from leases.contract import Applied, Backend, Notify, Outcome, Slot, Unknown, Watch
from leases.errors import ConfigurationError, LossReason, StoreUnavailable
from leases.hub import Hub
from leases.lease import Lease
from leases.record import ID_BITS, Claim
from leases.registry import VARIABLE, open_backend
from leases.store import Store
from leases.tenure import Tenure
from leases.testing.steering import CountedCouriers, Steered

_MOMENT: Final = 0.001  # seconds; past a deadline, whatever floats make of a sum
_STOPS: Final = 2.0  # seconds of real time, for electors that still take part at the end

_count = itertools.count(1)


class Sandbox:
    """A store in memory, and the hands that move what is around it; see the module.

    Attributes:
        clock: the time of everything in it, a `leases.clock.Clock`.
        store: the store, as this process uses it.
        url: its URL, by which `$LEASES_URL` names it meanwhile.
    """

    def __init__(self) -> None:
        self.clock = Steered()
        self.url = f"memory:sandbox-{os.getpid()}-{next(_count)}"
        self._links: dict[Hub, _Link] = {}
        self._before: str | None = None
        self.store = self.another()

    def another(self) -> Store:
        """The same store and clock as another process sees them: its leases compete with ours."""
        link = _Link(open_backend(self.url))
        made = Hub(link, self.url, clock=self.clock)
        couriers = CountedCouriers(link.traits)
        made.couriers, made.keeper = couriers, self.clock.keeper
        self.clock.stores.append(couriers)
        self._links[made] = link
        return Store(made)

    # ---- time ------------------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Let time pass: renewals happen and deadlines come, in order, each at its time.

        Raises:
            ValueError: negative seconds.
        """
        self.clock.advance(seconds)

    @contextmanager
    def passing(self, speed: float = 100.0) -> Generator[None, None, None]:
        """Let time run during a body, so many times as fast as it really does; for code that waits.

        Raises:
            ConfigurationError: a speed that is no positive number.
        """
        if isinstance(speed, bool) or not isinstance(speed, int | float) or not speed > 0:
            raise ConfigurationError(f"speed={speed!r} is not a positive number; pass one such as 100")
        over = threading.Event()

        def pass_on() -> None:
            before = time.monotonic()
            while not over.wait(0.001):
                now = time.monotonic()
                self.clock.advance((now - before) * speed)
                before = now

        thread = threading.Thread(target=pass_on, name="leases-sandbox", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def until(self, fact: Callable[[], object], patience: float = 10.0) -> None:
        """Wait, while the clock stands, until other threads have made something so.

        Raises:
            AssertionError: not within so many seconds of real time.
        """
        end = time.monotonic() + patience
        while not fact():
            if time.monotonic() > end:
                raise AssertionError(f"it did not come to be within {patience:g} s")
            time.sleep(0.001)

    # ---- trouble ---------------------------------------------------------------------------------

    def endanger(self, what: Lease | str) -> None:
        """Force jeopardy: renewals get no answer until `heal`, and time passes until one is overdue.

        Args:
            what: a lease, or the name of a lock that is held here.

        Raises:
            LookupError: it is not held in this sandbox.
        """
        tenure = self._held(what)
        self._links[tenure.hub].cut.add(tenure.name)
        self.clock.advance(max(tenure.machine._overdue_at - self.clock().hold, 0.0) + _MOMENT)

    def heal(self) -> None:
        """Everything gets its answers again; leases in jeopardy are renewed at their next attempt, now."""
        for link in self._links.values():
            link.cut.clear()
            link.away = False
        endangered = [tenure for tenure in self._tenures() if tenure.machine.jeopardy(self.clock())]
        for tenure in endangered:
            tenure.update(tenure.machine.metadata)  # which is a renewal at once
            self.clock.advance(min(tenure.machine.terms.attempt, 1.0))

    @contextmanager
    def unreachable(self, *stores: Store) -> Generator[None, None, None]:
        """During a body nobody gets an answer, or those who use these stores do not; `heal` ends it early."""
        for connected, link in self._links.items():
            link.away = not stores or connected in [store.hub for store in stores]
        try:
            yield
        finally:
            self.heal()

    def lose(self, what: Lease | str, reason: LossReason = "expired") -> None:
        """Force a loss, as it would come about: when it returns, the lease is lost for that reason.

        Args:
            what: a lease, or the name of a lock that is held here.
            reason: ``expired``: renewals get no answer until the deadline, to which time passes.
                ``superseded``: another claim stands in the store, and stays for its ttl. ``broken``: somebody
                removed the record. ``closed``, ``forked``: as it is told when that happens.

        Raises:
            LookupError: it is not held in this sandbox.
            ConfigurationError: a reason that cannot be forced; a release is no loss.
        """
        tenure = self._held(what)
        match reason:
            case "expired":
                self._expire(tenure)
            case "superseded":
                self._replace(tenure, _another_claim)
            case "broken":
                self._replace(tenure, lambda claim: None)
            case "closed":
                tenure.close()
            case "forked":
                tenure.fork()
            case _:
                reasons = "expired, superseded, broken, closed or forked"
                raise ConfigurationError(f"reason={reason!r} cannot be forced; pass {reasons}")
        self.clock.everybody()
        loss = tenure.loss()
        assert loss is not None and loss.reason == reason, f"lost for another reason: {loss}"

    def _expire(self, tenure: Tenure) -> None:
        link = self._links[tenure.hub]
        link.cut.add(tenure.name)
        self.clock.advance(max(tenure.machine.deadline - self.clock().hold, 0.0) + _MOMENT)
        link.cut.discard(tenure.name)

    def _replace(self, tenure: Tenure, other: Callable[[Claim], Claim | None]) -> None:
        """Swap something else in for the record, past all cuts, and let a renewal run into it."""
        link = self._links[tenure.hub]
        link.cut.discard(tenure.name)
        while True:
            slot = link.inner.read(tenure.name, 1.0)
            assert slot.claim is not None, "a lease that stands has a record"
            if isinstance(link.inner.swap(slot, other(slot.claim), 1.0), Applied):
                break
        tenure.update(tenure.machine.metadata)
        self.clock.settle()

    def _held(self, what: Lease | str) -> Tenure:
        for tenure in self._tenures():
            if tenure.reported and tenure.held and what in (tenure.name, _lease_of(tenure)):
                return tenure
        raise LookupError(f"{what!r} is not held in this sandbox; acquire it there first")

    def _tenures(self) -> list[Tenure]:
        members: Iterable[Any] = [member for hub in self._links for member in hub.members]
        return [member for member in members if isinstance(member, Tenure)]

    # ---- beginning and end -----------------------------------------------------------------------

    def __enter__(self) -> Sandbox:
        self._before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = self.url
        with hub._hubs_mutex:
            hub._by_url[self.url] = self.store.hub
        self.clock.waits.watch()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._stop_electors()
        finally:
            if self._before is None:
                os.environ.pop(VARIABLE, None)
            else:
                os.environ[VARIABLE] = self._before
            self.clock.waits.unwatch()
            with logs.hushed():
                for connected in self._links:
                    connected.close()

    def _stop_electors(self) -> None:
        """Nobody who takes part may go on: it would look for another store, and find a real one."""
        self.heal()
        for module, them in (("leases.leadership", "_all"), ("leases.elector", "_electors")):
            for one in list(getattr(sys.modules.get(module), them, ())):
                elector: Any = getattr(one, "elector", one)
                if elector._lock._hub in self._links:
                    elector.stop(0)
                    with self.passing():
                        elector.stop(_STOPS * 100)


def sandbox() -> Sandbox:
    """A store of one's own for a body; see the module."""
    return Sandbox()


class _Link(Backend):
    """The way to the store, which can be cut for one lock or for all."""

    def __init__(self, inner: Backend) -> None:
        self.inner, self.traits, self.identity = inner, inner.traits, inner.identity
        self.cut: set[str] = set()
        self.away = False

    def read(self, name: str, timeout: float) -> Slot:
        if self.away or name in self.cut:
            raise self._silent()
        return self.inner.read(name, timeout)

    def swap(self, seen: Slot, claim: Claim | None, timeout: float) -> Outcome:
        if self.away or seen.name in self.cut:
            return Unknown(self._silent())
        return self.inner.swap(seen, claim, timeout)

    def watch(self, seen: Slot, notify: Notify) -> Watch:
        return self.inner.watch(seen, notify)

    def scan(self, prefix: str, timeout: float) -> Iterable[Slot | Exception]:
        if self.away:
            raise self._silent()
        return self.inner.scan(prefix, timeout)

    def remove(self, seen: Slot, timeout: float) -> Outcome:
        if self.away:
            return Unknown(self._silent())
        return self.inner.remove(seen, timeout)

    def write_guarded(self, guard: Slot, key: str, body: bytes | None, timeout: float) -> Outcome:
        if self.away:
            return Unknown(self._silent())
        return self.inner.write_guarded(guard, key, body, timeout)

    def read_guarded(self, name: str, key: str, timeout: float) -> bytes | None:
        if self.away:
            raise self._silent()
        return self.inner.read_guarded(name, key, timeout)

    def close(self) -> None:
        self.inner.close()

    def _silent(self) -> StoreUnavailable:
        return StoreUnavailable(f"{self.identity} gives no answer, as the test has it; call heal()")


def _another_claim(claim: Claim) -> Claim:
    return replace(claim, id=f"{int(claim.id, 16) ^ 1:0{ID_BITS // 4}x}", holder="another")


def _lease_of(tenure: Tenure) -> object:
    """The lease that hears of a tenure."""
    return getattr(tenure.on_event, "__self__", None)
