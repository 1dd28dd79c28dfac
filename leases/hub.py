"""One store as this process uses it: the connection, who waits for which name, and what is remembered.

In one process a name has one remote contender. Threads and tasks queue behind it, first come first served, and
the lock passes from one to the next by a swap on the own record: no release, no wait for a watch. So that
other processes get their turn, a chain of such passes is cut after a while, and the next of us then
holds back for a moment.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from leases.clock import Clock, boot_id, system_clock
from leases.errors import ConfigurationError, StoreError, StoreUnavailable
from leases.keeper import Couriers, renew_after_fork
from leases.machine import Entropy, Estate, Ledger
from leases.registry import open_backend, scheme_of

if TYPE_CHECKING:
    from leases.contract import Backend

_CHAIN_SECONDS: Final = 0.05  # after so long the next of this process steps back once
_REMEMBERED: Final = 1024  # names whose last slot is kept when nobody of this process uses them


class SystemEntropy:
    """The operating system's randomness, which a copy of this process does not share."""

    def getrandbits(self, k: int, /) -> int:
        return int.from_bytes(os.urandom((k + 7) // 8), "big") >> (-k % 8)

    def random(self) -> float:
        return int.from_bytes(os.urandom(7), "big") / (1 << 56)


class Member(Protocol):
    """A claim of this process, as its hub sees it."""

    def bequeath(self) -> Estate: ...
    def fork(self) -> None: ...
    def close(self) -> None: ...


class Ticket:
    """A place in the queue of one name; `call` is called once, from any thread, when its turn has come."""

    __slots__ = ("call", "called", "estate", "hold_back")

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call
        self.called = False
        self.estate: Estate | None = None
        self.hold_back = 0.0


class _Queue:
    """One name in this process: whose turn it is, who waits, and what the last one left."""

    __slots__ = ("busy", "chain_since", "estate", "remains", "waiting")

    def __init__(self) -> None:
        self.busy: Ticket | None = None
        self.waiting: deque[Ticket] = deque()
        self.estate: Estate | None = None
        self.remains: Member | None = None  # a claim that is over, whose writes are still chased
        self.chain_since: float | None = None


class Hub:
    """A store, connected, and the claims of this process on it. Shared by all who name the same URL.

    Attributes:
        url: as given; it may hold secrets, so show `backend.identity` instead.
        backend: the store.
        clock: this host's clocks.
        boot: the boot's identity where the store is local and it is known, else None.
        ledger: the highest number that the store gave to a write of ours.
        couriers: the threads that talk to the store when nobody waits for it.
    """

    def __init__(self, backend: Backend, url: str = "", *, clock: Clock = system_clock) -> None:
        self.url, self.backend, self.clock = url, backend, clock
        self.boot = boot_id() if backend.traits.local else None
        self.entropy: Entropy = SystemEntropy()
        self.ledger = Ledger()
        self.couriers = Couriers(backend.traits.store)
        self.refusal: Exception | None = None  # set when the store went back: nothing it says can be trusted
        self.handles = 0
        self.closed = False
        self._mutex = threading.Lock()
        self._queues: dict[str, _Queue] = {}
        self._remembered: OrderedDict[str, Estate] = OrderedDict()
        self._members: set[Member] = set()
        _hubs.add(self)

    # ---- the queue -------------------------------------------------------------------------------

    def enter(self, name: str, ticket: Ticket) -> bool:
        """Take a place behind the others; True if the turn is there at once.

        Raises:
            StoreError: the store was closed, or refused for good.
        """
        with self._mutex:
            self._usable()
            queue = self._queues.get(name)
            if queue is None:
                queue = self._queues[name] = _Queue()
                queue.estate = self._remembered.pop(name, None)
            if queue.busy is not None:
                queue.waiting.append(ticket)
                return False
            queue.busy, ticket.called = ticket, True
            ticket.estate = self._take_estate(queue)
            return True

    def leave(self, name: str, ticket: Ticket) -> None:
        """Give the place up, or the turn if it has just come."""
        with self._mutex:
            queue = self._queues[name]
            if not ticket.called:
                queue.waiting.remove(ticket)
                return
        self.pass_on(name, ticket, ticket.estate, None)

    def pass_on(self, name: str, ticket: Ticket, estate: Estate | None, remains: Member | None) -> None:
        """End a turn. What is left goes to the next in line, or is kept for whoever comes.

        Args:
            name: the lock.
            ticket: whose turn ends; a turn that has ended before is left alone.
            estate: what its claim left, if it is over.
            remains: the claim itself, if it is over but may still have a write under way.
        """
        with self._mutex:
            queue = self._queues.get(name)
            if queue is None or queue.busy is not ticket:
                return
            queue.busy, queue.estate, queue.remains = None, estate, remains
            following = self._call_next(queue)
            if following is None:
                self._forget(name, queue)
            elif queue.chain_since is None:  # The chain was cut, for the sake of other processes.
                following.hold_back = self._hold_back()
        if following is not None:
            following.call()

    def hand_over(self, name: str, ticket: Ticket, member: Member) -> bool:
        """Give the record as it stands to the next of this process; False if it is to be released instead.

        False when nobody waits here, and when this process has had the lock for long enough at a stretch.
        """
        queue = self._queues.get(name)
        if queue is None or not queue.waiting:  # Unlocked: whoever comes now will find the lock released.
            return False
        with self._mutex:
            if queue.busy is not ticket or not queue.waiting or self._cut_chain(queue):
                return False
            queue.estate = member.bequeath()
            following = self._call_next(queue)
        assert following is not None
        following.call()
        return True

    def _cut_chain(self, queue: _Queue) -> bool:
        now = self.clock().wait
        if queue.chain_since is None:
            queue.chain_since = now
        if now - queue.chain_since < _CHAIN_SECONDS:
            return False
        queue.chain_since = None
        return True

    def _call_next(self, queue: _Queue) -> Ticket | None:
        """The next in line has its turn; whoever holds the mutex calls it when that is let go."""
        if not queue.waiting:
            return None
        following = queue.waiting.popleft()
        queue.busy, following.called = following, True
        following.estate = self._take_estate(queue)
        return following

    def settled(self, name: str, remains: Member) -> None:
        """A claim that was over is now settled: nothing of it is under way any more."""
        with self._mutex:
            queue = self._queues.get(name)
            if queue is not None and queue.remains is remains:
                queue.remains = None
                if queue.busy is None:
                    self._forget(name, queue)

    def waiters(self, name: str) -> int:
        """How many of this process wait for a name behind the one whose turn it is."""
        queue = self._queues.get(name)
        return 0 if queue is None else len(queue.waiting)

    def _take_estate(self, queue: _Queue) -> Estate | None:
        remains, queue.remains = queue.remains, None
        estate, queue.estate = queue.estate, None
        return remains.bequeath() if remains is not None else estate

    def _forget(self, name: str, queue: _Queue) -> None:
        """Nobody uses the name: keep what saves the next a round trip or a wait, for some names."""
        if queue.remains is not None:
            return
        del self._queues[name]
        estate = queue.estate
        if estate is None or (self.backend.traits.release_deletes and not estate.sightings):
            return
        self._remembered[name] = estate
        if len(self._remembered) > _REMEMBERED:
            self._remembered.popitem(last=False)

    def _hold_back(self) -> float:
        """Long enough for a waiter elsewhere to hear of the release and to swap."""
        least = 0.005 if self.backend.traits.local else 0.03
        return least * (1 + self.entropy.random())

    # ---- life and death --------------------------------------------------------------------------

    def join(self, member: Member) -> None:
        """Remember a claim, so that a fork and a close reach it."""
        self._members.add(member)

    def part(self, member: Member) -> None:
        """Forget a claim that is over."""
        self._members.discard(member)

    def refuse(self, error: Exception) -> None:
        """The store cannot be trusted any more: nobody of this process acquires from it again."""
        self.refusal = error

    def close(self) -> None:
        """Lose every lease that is held here, then let go of the store. Records are left to expire."""
        with self._mutex:
            if self.closed:
                return
            self.closed = True
        with _hubs_mutex:
            _hubs.discard(self)
            if _by_url.get(self.url) is self:
                del _by_url[self.url]
        for member in list(self._members):
            member.close()
        self.backend.close()

    def fork(self) -> None:
        """In the child of a fork: nothing that the parent holds is held here."""
        for member in self._members:
            member.fork()
        self._members = set()
        self._mutex = threading.Lock()
        self._queues, self._remembered = {}, OrderedDict()
        self.couriers = Couriers(self.backend.traits.store)
        self.backend.forked()

    def _usable(self) -> None:
        if self.closed:
            raise StoreUnavailable(f"{self.backend.identity} was closed; connect again")
        if self.refusal is not None:
            raise StoreError(str(self.refusal)) from self.refusal


_hubs: set[Hub] = set()
_by_url: dict[str, Hub] = {}
_hubs_mutex = threading.Lock()


def shared_hub(url: str) -> Hub:
    """The hub of a URL, connected now if this process has none yet.

    Raises:
        ConfigurationError: a URL that no backend takes.
        StoreError: the store refused or could not be reached.
    """
    hub = _by_url.get(url)
    if hub is not None:
        return hub
    scheme_of(url)
    with _hubs_mutex:
        hub = _by_url.get(url)
        if hub is None:
            hub = _by_url[url] = Hub(open_backend(url), url)
        return hub


def check_least_ttl(hub: Hub, ttl: float) -> None:
    """Refuse a ttl that is too short for the store.

    Raises:
        ConfigurationError: it is.
    """
    traits = hub.backend.traits
    if ttl < traits.least_ttl:
        raise ConfigurationError(
            f"ttl={ttl:g} s is below the {traits.least_ttl:g} s that {traits.store} can keep; choose a longer one"
        )


def _in_the_child() -> None:
    global _hubs_mutex
    _hubs_mutex = threading.Lock()
    renew_after_fork()
    for hub in _hubs:
        hub.fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_the_child)
