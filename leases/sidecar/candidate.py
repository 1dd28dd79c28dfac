"""`Candidate`: an elector that takes part for an application beside it, and knows who leads."""

# pyright: reportPrivateUsage=false
# It tells what its elector knows of its own lease, without a look at the store.

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from leases.clock import system_clock
from leases.elector import Elector
from leases.errors import ConfigurationError
from leases.events import Endangered
from leases.hub import Hub, shared_hub
from leases.identity import default_holder
from leases.keeper import report
from leases.observer import Lookout
from leases.record import check_holder
from leases.registry import scheme_of, store_url
from leases.sidecar.state import State
from leases.terms import Terms
from leases.urls import shown

if TYPE_CHECKING:
    from leases.events import Event
    from leases.health import Health
    from leases.lease import Lease

DRAIN: Final = 0.5  # seconds, or less for a short ttl
RELEASE_SECONDS: Final = 5.0
_STEP: Final = 0.02  # between looks at whether the store has answered


class Mark(Protocol):
    """Something outside that shows whether this candidate leads, such as the label of its pod."""

    def show(self, leading: bool) -> None:
        """Show it from now on; called at every change, in a thread, and must not wait."""
        ...

    def settle(self, timeout: float) -> bool:
        """Wait until it is shown, for so many seconds at most; whether it is."""
        ...


class Candidate:
    """Takes part in an election, from `start` to `stop`, and says at any instant who leads.

    What it says is read from the clock. It leads as long as its own lease stands and it was not asked to
    stop; another leads as long as the record that was seen can keep others out. Its own record counts for
    nothing once its own lease is over, nor does that of a stranger with the same id: `name` is this
    candidate's id only while it leads itself.

    Args:
        name: what is led.
        store: a URL; default ``$LEASES_URL``, else the embedded store.
        ttl: seconds after which another may lead when the leader has died. Default 15.
        holder: who this candidate is. Default ``host:pid``.
        metadata: what observers are to see.
        priority: as of `Elector`.
        drain: seconds between the moment at which it says that it does not lead any more and the release of
            the lease, or its deadline: the time that the application has to stop. Default 0.5, or less for a
            short ttl.
        marks: what shows outside whether it leads.

    Raises:
        ConfigurationError: a name or an option that cannot work.
    """

    def __init__(
        self,
        name: str,
        *,
        store: str | None = None,
        ttl: float = 15.0,
        holder: str | None = None,
        metadata: Mapping[str, str] | None = None,
        priority: int | None = None,
        drain: float | None = None,
        marks: Sequence[Mark] = (),
    ) -> None:
        self.url = store_url(store)
        scheme_of(self.url)
        self.terms = terms = Terms(ttl)
        self.drain = _checked_drain(drain, terms)
        self.id = default_holder() if holder is None else check_holder(holder)
        self.marks = tuple(marks)
        self.elector = Elector(
            name, store=self.url, terms=terms, holder=self.id, metadata=metadata, priority=priority,
            stop_within=self.drain,
        )  # fmt: skip
        self.name = self.elector.name
        self._bells: list[Callable[[], object]] = []
        self._lookout: Lookout | None = None
        self._thread: threading.Thread | None = None
        self._stopping = self._ended = False
        self._silent_since = -math.inf  # when a renewal of its own became overdue, on the holder's clock
        self._error: Exception | None = None

    # ---- what is so ------------------------------------------------------------------------------

    def state(self) -> State:
        """Who leads, at this instant; it waits for nothing."""
        return self._own() or self._others()

    def now(self) -> float:
        """The clock that states go by."""
        return system_clock().hold

    @property
    def begun(self) -> bool:
        """Whether it takes part, or did."""
        return self._thread is not None

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._stopping

    @property
    def error(self) -> Exception | None:
        """What ended its part, where an error did."""
        return self._error

    @property
    def trouble(self) -> Exception | None:
        """Why the store does not answer, where that is known."""
        return None if self._lookout is None else self._lookout.outlook().trouble

    def health(self) -> Health:
        """Whether what renews its lease is alive, as `Elector.health` says it."""
        return self.elector.health()

    def _own(self) -> State | None:
        lease = self.elector.lease
        if lease is None or lease.ending or self._stopping:
            return None
        # From `drain` before the deadline on it says that it does not lead: so long what it says holds.
        until, leader = self.now() + lease.remaining - self.drain, self.elector._own()
        if leader is None:
            return None
        reachable = not lease.jeopardy
        return self._state(self.id, True, leader.token, leader.since, until, reachable)

    def _others(self) -> State:
        if self._lookout is None:
            return self._state("", False, None, None, None, False)
        now = self.now()
        leader, left, reachable, _, heard = self._lookout.outlook()
        reachable = reachable and heard > self._silent_since
        if leader is None or leader.holder == self.id:
            return self._state("", False, None, None, None, reachable)
        return self._state(leader.holder, False, leader.token, leader.since, now + left, reachable)

    def _state(
        self,
        name: str,
        is_leader: bool,
        token: int | None,
        since: float | None,
        until: float | None,
        reachable: bool,
    ) -> State:
        return State(name, is_leader, self.id, token, since, until, self.name, shown(self.url), reachable)

    @contextmanager
    def rings(self, ring: Callable[[], object]) -> Generator[None, None, None]:
        """Ring, from any thread, when the state may have changed; what the clock changes rings nothing."""
        self._bells.append(ring)
        try:
            yield
        finally:
            self._bells.remove(ring)

    def _ring(self, *_: object) -> None:
        for ring in list(self._bells):
            ring()

    # ---- taking part -----------------------------------------------------------------------------

    def start(self) -> None:
        """Take part, in threads of its own, until `stop`; a store that gives no answer is waited for.

        After `stop` it does nothing: a server may be told to end while it begins.
        """
        if self._thread is None and not self._stopping:
            try:
                self._begin()
            except Exception as error:  # Such as a system that has no thread to spare.
                self._error = error
                raise

    async def stop(self, timeout: float | None = None) -> bool:
        """Say that it does not lead any more, let the application stop, release, and take part no more.

        Args:
            timeout: seconds at most. Default: `drain` and 5.

        Returns:
            Whether it has ended and holds nothing, as the store has confirmed; else its lease runs out.
        """
        if self._stopping:
            return self._ended
        self._stopping = True
        self._ring()
        limit = self.drain + RELEASE_SECONDS if timeout is None else timeout
        reign, until = self.elector._reign, self.now() + limit
        ended = await self.elector.stop_async(limit) and (reign is None or reign.done)
        self._ended = ended and await self._settled(until)
        return self._ended

    async def _settled(self, until: float) -> bool:
        """Wait until what was claimed as it was told to stop is freed in the background; whether it is.

        Else the process would end before that, and nobody lead for a whole ttl.
        """
        hub, part = self.elector._lock._hub, self.elector._part
        ticket = None if part is None or part.place is None else part.place.ticket
        while hub is not None and any(member.ticket is ticket for member in hub.members):
            if self.now() >= until:
                return False
            await asyncio.sleep(_STEP)
        return True

    def close(self) -> None:
        """Look at the store no more."""
        if self._lookout is not None:
            self._lookout.close()

    async def resign(self) -> bool:
        """Give up the leadership, and take part again; whether the lock was freed."""
        return await self.elector.resign_async(self.drain + RELEASE_SECONDS)

    async def transfer(self, to: str) -> bool:
        """`resign` in favour of another candidate.

        Raises:
            ConfigurationError: no name of a candidate, or this one's own.
        """
        if check_holder(to) == self.id:
            raise ConfigurationError(f"{to} is this candidate itself; name another")
        return await self.elector.transfer_async(to, self.drain + RELEASE_SECONDS)

    def _begin(self) -> None:
        self._lookout = Lookout(self._connect, self.name, self._ring, looked=self._ring)
        name = f"leases-candidate-{self.name}"
        for mark in self.marks:
            mark.show(False)  # Whatever an earlier process has left there.
        ready = threading.Event()
        self._thread = threading.Thread(target=self._take_part, args=(ready,), name=name, daemon=True)
        self._thread.start()
        ready.wait()  # From then on it can be stopped.

    def _connect(self) -> Hub:
        return shared_hub(self.url, Hub.pin)

    def _take_part(self, ready: threading.Event) -> None:
        try:
            self.elector._take_part(self._lead, ready)
        except Exception as error:
            self._error = error
            report('the candidate of "%s" takes part no more', self.name, error)
        finally:
            ready.set()
            self._ring()

    def _hear(self, event: Event) -> None:
        if isinstance(event, Endangered):
            self._silent_since = self.now()
        self._ring()

    def _lead(self, lease: Lease) -> None:
        """The work of an elector: to say that it leads, and in the end, in good time, that it does not."""
        lease.listen(self._hear)
        self._ring()
        for mark in self.marks:
            mark.show(True)
        lease.ending.wait()
        self._ring()
        for mark in self.marks:
            mark.show(False)
        until = self.now() + min(self.drain, lease.remaining)
        for mark in self.marks:
            mark.settle(max(until - self.now(), 0.0))
        threading.Event().wait(max(until - self.now(), 0.0))


def _checked_drain(given: float | None, terms: Terms) -> float:
    most = terms.hold - terms.renew - terms.attempt
    if given is None:
        return min(DRAIN, most / 2)
    if isinstance(given, bool) or not isinstance(given, int | float) or not given >= 0:
        raise ConfigurationError(f"drain={given!r} is not a number of seconds; pass 0 or more")
    if given >= most:
        raise ConfigurationError(
            f"a drain of {given:g} s does not fit a ttl of {terms.ttl:g} s: choose less than {most:.3g}, or "
            "a longer ttl"
        )
    return float(given)
