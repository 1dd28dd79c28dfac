"""One store as this process uses it: the connection, who waits for which name, and what is remembered.

In one process a name has one remote contender. Threads and tasks queue behind it, first come first
served, and the lock passes from one to the next by a swap on the own record: no release, no wait for a
watch. So that other processes get their turn, a chain of such passes is cut after a while, and the next of
us then holds back for a moment.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from leases import logs
from leases.clock import Clock, boot_id, system_clock
from leases.errors import ConfigurationError, LeasesError, StoreError, StoreUnavailable
from leases.keeper import Couriers, Timekeeper, keeper, renew_after_fork
from leases.machine import Entropy, Estate, Ledger, Sighting
from leases.registry import open_backend, scheme_of

if TYPE_CHECKING:
    from leases.contract import Backend

T = TypeVar("T")

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

    @property
    def held(self) -> bool: ...
    @property
    def ticket(self) -> Ticket: ...
    def abandon(self) -> None: ...
    def bequeath(self) -> Estate: ...
    def fork(self) -> None: ...
    def close(self) -> None: ...
    def failure(self, timeout: float) -> LeasesError: ...


class Ticket:
    """One acquisition, from its place in the queue of a name to whatever it leads to.

    Attributes:
        call: rings when the turn has come, and may ring at any other time; from any thread. It gives
            False where nobody can hear it any more.
        called: whether the turn has come.
        closed: whether what it came by was closed meanwhile.
        called_off: whether who acquires was told to stop waiting; set it, then ring `call`.
        handle: the connected store it came by; None for a URL.
        me: the thread or task that acquires.
        body: the thread or task in whose `with` body it is held; None for a plain acquire.
        member: the claim that came of it.
        estate: what the claim before it left.
        hold_back: seconds to wait before the first attempt, for the sake of other processes.
        holder: for whom it is; empty until it waits.
    """

    __slots__ = (
        "body", "call", "called", "called_off", "closed", "estate", "handle", "hold_back", "holder", "me",
        "member",
    )  # fmt: skip

    def __init__(self, call: Callable[[], object], handle: object = None, me: object = None) -> None:
        self.call, self.handle, self.me = call, handle, me
        self.body: object = None
        self.called = self.closed = self.called_off = False
        self.member: Member | None = None
        self.estate: Estate | None = None
        self.hold_back = 0.0
        self.holder = ""


class _Queue:
    """One name in this process: whose turn it is, who waits, and what the last one left."""

    __slots__ = ("busy", "chain_since", "estate", "remains", "waiting")

    def __init__(self) -> None:
        self.busy: Ticket | None = None
        self.waiting: deque[Ticket] = deque()
        self.estate: Estate | None = None
        self.remains: Member | None = None  # a claim that is over, whose writes are still chased
        self.chain_since: float | None = None

    def tickets(self) -> tuple[Ticket, ...]:
        """All who wait, and whose turn it is."""
        return (*self.waiting, self.busy) if self.busy is not None else tuple(self.waiting)


class Hub:
    """A store, connected, and the claims of this process on it. Shared by all who name the same URL.

    Attributes:
        url: as given; it may hold secrets, so show `backend.identity` instead.
        backend: the store.
        clock: this host's clocks.
        boot: the boot's identity where the store is local and it is known, else None.
        ledger: the highest number that the store gave to a write of ours.
        couriers: the threads that talk to the store when nobody waits for it.
        keeper: what looks at the timers of its claims.
        generation: how many forks lie between this process and the one that connected.
    """

    def __init__(self, backend: Backend, url: str = "", *, clock: Clock = system_clock) -> None:
        self.url, self.backend, self.clock = url, backend, clock
        self.boot = boot_id() if backend.traits.local else None
        self.entropy: Entropy = SystemEntropy()
        self.ledger = Ledger()
        self.couriers = Couriers(backend.traits)
        self.keeper: Timekeeper = keeper
        self.refusal: Exception | None = None  # set when the store went back: nothing it says can be trusted
        self.closed = False
        self.generation = 0
        self._mutex = threading.Lock()
        self._queues: dict[str, _Queue] = {}
        self._remembered: OrderedDict[str, Estate] = OrderedDict()
        self._members: set[Member] = set()
        self._settling: threading.Event | None = None  # rings when the last claim is over, where one waits
        self._handles: set[object] = set()
        self._pinned = False
        self._silences = 0  # requests in a row that had no answer, of all claims
        self._silent_since: float | None = None  # said so in the log; on the waiter's clock
        _hubs.add(self)

    # ---- the queue -------------------------------------------------------------------------------

    def enter(self, name: str, ticket: Ticket) -> bool:
        """Take a place behind the others; True if the turn is there at once.

        Raises:
            StoreError: the store was closed, or refused for good.
        """
        with self._mutex:
            self._usable(ticket)
            queue = self._queues.get(name)
            if queue is None:
                queue = self._queues[name] = _Queue()
                queue.estate = self._remembered.pop(name, None)
            queue.waiting.append(ticket)
            if queue.busy is None:
                self._call_next(queue)
            return ticket.called

    def ahead(self, name: str) -> Ticket | None:
        """Whose turn it is."""
        queue = self._queues.get(name)
        return None if queue is None else queue.busy

    def step_out(self, name: str, ticket: Ticket) -> bool:
        """Leave the queue before the turn has come; False where it has."""
        with self._mutex:
            queue = self._queues.get(name)
            if queue is not None and not ticket.called and ticket in queue.waiting:
                queue.waiting.remove(ticket)
            return not ticket.called

    def withdraw(self, name: str, ticket: Ticket) -> None:
        """End an acquisition wherever it stands: waiting, seeking, acquired. Harmless if it was ended.

        It mends what an exception at any instruction, such as Ctrl-C, can leave behind.
        """
        try:
            if ticket.member is not None:
                ticket.member.abandon()
        finally:
            with self._mutex:
                queue = self._queues.get(name)
                if queue is not None and not ticket.called and ticket in queue.waiting:
                    queue.waiting.remove(ticket)
            self.pass_on(name, ticket, ticket.estate, None)
            ticket.estate = None
            following = self.ahead(name)
            if following is not None:  # It may have been given the turn and not been told.
                self._call(name, following)

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
            if queue is None or (queue.busy is not ticket and queue.busy is not None):
                return
            if queue.busy is ticket:
                queue.estate, queue.remains = estate, remains
            following = self._call_next(queue)
            if following is None:
                self._forget(name, queue)
            elif queue.chain_since is None:  # The chain was cut, for the sake of other processes.
                following.hold_back = self._hold_back()
        if following is not None:
            self._call(name, following)

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
        self._call(name, following)
        return True

    def put_first(self, name: str, holder: str) -> bool:
        """Let a holder who waits in this process have the next turn; False if there is no such."""
        with self._mutex:
            queue = self._queues.get(name)
            for ticket in queue.waiting if queue is not None else ():
                if ticket.holder == holder:
                    assert queue is not None
                    queue.waiting.remove(ticket)
                    queue.waiting.appendleft(ticket)
                    return True
        return False

    def _call(self, name: str, ticket: Ticket) -> None:
        if ticket.call() is False:  # Its event loop was closed under it, and nobody will come.
            self.withdraw(name, ticket)

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
            queue.busy = None
            return None
        estate = self._take_estate(queue)
        # Without a call in between, Ctrl-C cannot come in between.
        following = queue.busy = queue.waiting[0]
        following.estate = estate
        following.called = True
        del queue.waiting[0]
        return following

    def settled(self, name: str, remains: Member) -> None:
        """A claim that was over is now settled: nothing of it is under way any more."""
        queue = self._queues.get(name)
        if queue is None or queue.remains is not remains:  # Unlocked: whoever leaves it looks afterwards.
            return
        with self._mutex:
            queue = self._queues.get(name)
            if queue is not None and queue.remains is remains:
                queue.remains = None
                if queue.busy is None:
                    self._forget(name, queue)

    def recall(self, name: str, seen: tuple[Sighting, ...]) -> None:
        """Let the next claim on a name go on from what another process of this host has seen there."""
        with self._mutex:
            if seen and name not in self._queues:
                self._remembered.setdefault(name, Estate(sightings=seen))

    def seen(self, name: str) -> tuple[Sighting, ...]:
        """What the last claim on a name has seen there, once nothing of it is under way any more."""
        estate = self._remembered.get(name)
        return () if estate is None else estate.sightings

    def left_free(self, name: str) -> bool:
        """Whether the last of this process has left the lock free, as far as is remembered."""
        estate = self._remembered.get(name)
        return estate is not None and estate.slot is not None and not estate.slot.held

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
        if self._settling is not None and not self._members:
            self._settling.set()

    def settle(self, timeout: float) -> bool:
        """Wait until nothing is held or under way here any more, for whoever is about to end the process.

        An acquisition that was called off may have been committed, and is freed in the background.

        Args:
            timeout: seconds at most.

        Returns:
            Whether it is so.
        """
        settling = self._settling = threading.Event()  # First: what parts after the look is heard.
        return not self._members or settling.wait(timeout)

    @property
    def members(self) -> list[Member]:
        """The claims that are not over; it waits for no mutex."""
        return list(self._members)

    def silence(self, cause: Exception | None) -> None:
        """A request had no answer. The second in a row is said in the log, once until there is one again."""
        self._silences += 1
        if self._silences < 2 or self._silent_since is not None:
            return
        with self._mutex:
            first = self._silent_since is None
            if first:
                self._silent_since = self.clock().wait
        if first:
            logs.away(self.backend.identity, cause)

    def answered(self) -> None:
        """A request had an answer."""
        self._silences = 0
        if self._silent_since is None:
            return
        with self._mutex:
            since, self._silent_since = self._silent_since, None
        if since is not None:
            logs.back(self.backend.identity, self.clock().wait - since)

    def refuse(self, error: Exception) -> None:
        """The store cannot be trusted any more: nobody of this process acquires from it again."""
        self.refusal = error

    def attach(self, handle: object) -> None:
        """A connected store begins to use it."""
        self._handles.add(handle)

    def pin(self) -> Hub:
        """A lock that was made by URL begins to use it, and nobody will ever say that it has ended."""
        self._pinned = True
        return self

    def detach(self, handle: object) -> None:
        """A connected store is closed: lose what came by it, and close the connection with the last user."""
        with _hubs_mutex:
            self._handles.discard(handle)
            last = not self._handles and not self._pinned
            if last and _by_url.get(self.url) is self:
                del _by_url[self.url]
        if last:
            self.close()
        else:
            self._lose(handle)

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
        self._lose(None)
        self.couriers.close()
        self.backend.close()

    def _lose(self, handle: object | None) -> None:
        """Lose what came by a handle, or everything (None), and turn away who waits for it."""
        with self._mutex:
            tickets = [ticket for queue in self._queues.values() for ticket in queue.tickets()]
            tickets = [ticket for ticket in tickets if handle is None or ticket.handle is handle]
            for ticket in tickets:
                ticket.closed = True
        for member in list(self._members):
            if handle is None or member.ticket.handle is handle:
                member.close()
        for ticket in tickets:
            ticket.call()

    def fork(self) -> None:
        """In the child of a fork: nothing that the parent holds is held here."""
        self.generation += 1
        for member in self._members:
            member.fork()
        self._members = set()
        self._mutex = threading.Lock()
        self._queues, self._remembered = {}, OrderedDict()
        self.couriers = Couriers(self.backend.traits)
        self.backend.forked()

    def _usable(self, ticket: Ticket) -> None:
        if self.closed or (ticket.handle is not None and ticket.handle not in self._handles):
            raise self.gone()
        if self.refusal is not None:
            raise StoreError(str(self.refusal)) from self.refusal

    def gone(self) -> StoreUnavailable:
        """The error for whoever uses it after it was closed."""
        return StoreUnavailable(f"{self.backend.identity} was closed; connect again")


_hubs: set[Hub] = set()
_by_url: dict[str, Hub] = {}
_hubs_mutex = threading.Lock()
_turns: dict[str, threading.Lock] = {}  # of those who would connect to a URL
_openings: dict[str, Opening] = {}


def hubs() -> list[Hub]:
    """Every store that this process is connected to; it waits for no mutex."""
    return list(_hubs)


def is_connected(url: str) -> bool:
    """Whether this process is connected to the store of a URL."""
    with _hubs_mutex:
        return _open_hub(url) is not None


def shared_hub(url: str, use: Callable[[Hub], T]) -> T:
    """What somebody makes of the hub of a URL, which is connected now if this process has none yet.

    Args:
        url: the store.
        use: called with the hub while it cannot be closed, to attach to it or to pin it.

    Raises:
        ConfigurationError: a URL that no backend takes.
        StoreError: the store refused or could not be reached.
    """
    scheme_of(url)
    with _hubs_mutex:
        hub = _open_hub(url)
        if hub is not None:
            return use(hub)
        turn = _turns.setdefault(url, threading.Lock())
    with turn:  # One store that takes its time to connect holds up no other.
        with _hubs_mutex:
            hub = _open_hub(url)
            if hub is not None:
                return use(hub)
        backend = open_backend(url)
        with _hubs_mutex:
            hub = _by_url[url] = Hub(backend, url)
            return use(hub)


def _open_hub(url: str) -> Hub | None:
    """The hub of a URL that is in use; with the mutex of all hubs."""
    hub = _by_url.get(url)
    return None if hub is None or hub.closed else hub


class Opening:
    """Connecting to the store of a URL in a thread of its own, for all who wait for it and may give up.

    Attributes:
        over: whether the store is connected, or cannot be.
        error: why it cannot be.
    """

    def __init__(self, url: str) -> None:
        self.over = False
        self.error: BaseException | None = None
        self._url = url
        self._bells: list[Callable[[], object]] = []

    @classmethod
    def of(cls, url: str, ring: Callable[[], object]) -> Opening:
        """The one that goes on, or else a new one; it rings when it is over."""
        with _hubs_mutex:
            opening = _openings.get(url)
            new = opening is None
            if opening is None:
                opening = _openings[url] = cls(url)
            opening._bells.append(ring)
        if new:
            opening._start()
        return opening

    def _start(self) -> None:
        try:
            threading.Thread(target=self._run, name="leases-connecting", daemon=True).start()
        except RuntimeError:  # The interpreter is ending.
            self._run()
        except BaseException:
            self._end()
            raise

    def _run(self) -> None:
        try:
            shared_hub(self._url, Hub.pin)
        except BaseException as error:
            self.error = error
        self._end()

    def _end(self) -> None:
        self.over = True
        with _hubs_mutex:
            if _openings.get(self._url) is self:
                del _openings[self._url]
        for ring in self._bells:
            ring()


class Countdown:
    """The seconds that somebody is allowed, counted from before the store is connected.

    Attributes:
        allowed: None for as long as it takes, 0 not to wait for others.
    """

    __slots__ = ("_began", "allowed")

    def __init__(self, allowed: float | None) -> None:
        self.allowed = allowed
        self._began = system_clock().wait

    @property
    def spent(self) -> float:
        """How many are over."""
        return system_clock().wait - self._began

    @property
    def left(self) -> float | None:
        """How many are to come; None for as long as it takes."""
        return max(self.allowed - self.spent, 0.0) if self.allowed else None

    def check(self) -> None:
        """Return if the store was connected in time.

        Raises:
            StoreUnavailable: nothing is left of the seconds allowed.
        """
        if self.left == 0:
            raise StoreUnavailable(
                f"connecting to the store took all of the {self.allowed:g} s allowed; "
                "allow more, or connect beforehand"
            )


def check_least_ttl(hub: Hub, ttl: float) -> None:
    """Refuse a ttl that is too short for the store.

    Raises:
        ConfigurationError: it is.
    """
    traits = hub.backend.traits
    if ttl < traits.least_ttl:
        raise ConfigurationError(
            f"ttl={ttl:g} s is below the {traits.least_ttl:g} s that {traits.store} can keep; choose a longer"
        )


def _in_the_child() -> None:
    global _hubs_mutex
    _hubs_mutex = threading.Lock()
    _turns.clear()
    _openings.clear()
    renew_after_fork()
    for hub in _hubs:
        hub.fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_the_child)
