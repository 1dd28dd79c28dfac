"""What the functions of one name share in this process: an elector, whose work is the calls that run.

So what holds for all work holds for the calls: they are told when they are to stop, the lease is released
when the last of them has ended, and where one does not end it runs out.
"""

# pyright: reportPrivateUsage=false
# It waits for the end of a lease, and for the instant at which its work is to stop, whichever comes first.

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakSet

from leases import threads
from leases.calls import Call, current_call
from leases.clock import system_clock
from leases.elector import Elector
from leases.endings import Manner
from leases.errors import ConfigurationError, LeaseLost, NotLeader, StoreUnavailable
from leases.keeper import report
from leases.lease import Lease, Timeout, check_timeout
from leases.registry import store_url
from leases.terms import Terms

if TYPE_CHECKING:
    from leases.campaign import Part
    from leases.observer import Leader

_SETTLE_SECONDS: Final = 5.0  # for which a first call waits until somebody is seen to lead
_EXIT_SECONDS: Final = 1.0  # for which the exit of the process waits for calls that run, and for the store


class Otherwise(NamedTuple):
    """What a call does where this process does not lead."""

    mode: str
    default: Any
    timeout: Timeout


class Leadership:
    """What the functions of one name and store share in this process: an elector, and the calls that run."""

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        self.name, self.options = name, options
        terms = options["terms"]
        if not isinstance(terms, Terms):
            terms = Terms(15.0 if options["ttl"] is None else options["ttl"])
        manner = Manner.checked(options["on_lost"], options["semantics"], options["stop_within"], terms)
        self.manner = manner
        # What ends work by force ends the calls that run, and not a process that only leads.
        on_lost = manner.call if manner.call is not None else "raise"
        self.elector = _Candidate(self, {**options, "on_lost": on_lost, "on_new_leader": self._heard})
        self.forget()
        _all.add(self)

    def forget(self) -> None:
        """Nothing runs and nobody waits: at first, and in the child of a fork."""
        self._mutex = threading.Lock()
        self.thread: threading.Thread | None = None  # while this process takes part
        self._lease: Lease | None = None  # while calls may begin under it
        self._calls: set[Call] = set()
        self._bells: list[Callable[[], object]] = []
        self._leader: Leader | None = None  # as far as was heard
        self._settled = False  # somebody is known to lead, or was since it began
        self._gives_up = False
        self._error: BaseException | None = None  # why it takes part no more
        self._told_error = False

    # ---- calls -----------------------------------------------------------------------------------

    def entering(
        self, call: Call, otherwise: Otherwise, ring: Callable[[], object]
    ) -> Generator[float | None, None, None]:
        """Wait until it is known whether a call may run; then it has a lease, or not.

        Raises:
            NotLeader: it may not, and is not to be skipped.
            LeaseLost: a call around it, which has to end first.
            LeasesError: this process cannot take part.
        """
        waits = otherwise.mode == "wait"
        patience = otherwise.timeout if waits else _SETTLE_SECONDS
        until = None if patience is None else system_clock().wait + patience
        self._bells.append(ring)
        try:
            self._take_part()
            while not self._admit(call) and self.thread is not None:
                self._refuse_to_wait_inside(call, waits)
                left = None if until is None else until - system_clock().wait
                if (left is not None and left <= 0) or (self._settled and not waits):
                    break
                yield left
        finally:
            self._bells.remove(ring)
        if call.lease is None and otherwise.mode != "skip":
            raise self.not_leader(otherwise.timeout if waits else None)

    def _take_part(self) -> None:
        with self._mutex:
            self._raise_error(again=False)
            if self.thread is None and not _exiting:
                self._begin()

    def _raise_error(self, *, again: bool) -> None:
        """Why it takes part no more: for every call that waited for it, or else for the next one."""
        error = self._error
        if error is not None and (again or not self._told_error):
            self._told_error = True
            raise error

    def _admit(self, call: Call) -> bool:
        """Let a call run if this process leads."""
        with self._mutex:
            self._raise_error(again=True)
            lease = self._lease
            if lease is None or lease.ending:
                return False
            self._calls.add(call)
            if lease.nest(call):
                return True
            self._calls.discard(call)
            return False

    def _refuse_to_wait_inside(self, call: Call, waits: bool) -> None:
        """A call inside of one that is to end cannot wait for what comes when that one has ended."""
        around = None if call.outer is None else call.outer.of(self)
        if waits and around is not None and around in self._calls and around.lease is not None:
            around.lease.check()

    def left(self, call: Call) -> None:
        """A call has ended."""
        with self._mutex:
            self._calls.discard(call)
            last = not self._calls
        if last:
            self._ring()

    def lease(self) -> Lease:
        """The lease of the call that asks, or under which this process leads."""
        call = current_call.get()
        mine = None if call is None else call.of(self)
        lease = self.elector.lease if mine is None else mine.lease
        if lease is None:
            raise self.not_leader(None)
        return lease

    def not_leader(self, timeout: Timeout) -> NotLeader:
        """The error for a call that may not run here."""
        leader = self._leader
        holder = None if leader is None else leader.holder
        if holder == self.elector.holder:  # As was seen before it gave up.
            holder = None
        return NotLeader(self.name, holder, timeout)

    # ---- taking part -----------------------------------------------------------------------------

    def _begin(self) -> None:
        self._refuse_a_rival()
        thread = threading.Thread(target=self._run, name=f"leases-leader-{self.name}", daemon=True)
        self._settled, self._gives_up, self._leader, self.thread = False, False, None, thread
        self._error, self._told_error = None, False
        try:
            thread.start()
        except BaseException:
            self.thread = None
            raise
        _mind_the_exit()

    def _refuse_a_rival(self) -> None:
        """Two candidates of one process for one lock: one of them would never lead, in silence."""
        store = self.options["store"]
        for other in list(_all):
            rivals = other is not self and other.name == self.name and other.thread is not None
            if rivals and _is_one_store(store, other.options["store"]):
                raise ConfigurationError(
                    f'two functions are leader_only("{self.name}") in one store that they name differently, '
                    f"store={store!r} and store={other.options['store']!r}; name it alike in both"
                )

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self.elector.run(self._lead)
        except BaseException as raised:
            error = raised
        finally:
            with self._mutex:
                self.thread, self._error = None, error
            if error is not None and not self._bells:
                report(
                    "%r takes part no more; the next call raises this, and the one after it tries anew",
                    self,
                    error,
                )
            self._ring()

    def _lead(self, lease: Lease) -> None:
        """The work of the elector: the calls, until they are to stop and the last of them has ended."""
        bell = threads.Bell()
        lease._bells.append(bell.ring)
        with self._mutex:
            self._lease, self._settled = lease, True
            self._bells.append(bell.ring)
        self._ring()
        try:
            while not (lease.ending or lease.lost):
                bell.wait(min(lease.ending._left(), lease.remaining))
        finally:
            with self._mutex:
                self._lease = None
        while calls := list(self._calls):
            over = lease.ending.reason != "released"  # which it is called as long as it was only asked to end
            for call in calls if over else ():
                call.stop(_loss_of(lease))
            bell.wait(None if over else lease.remaining)
        self._bells.remove(bell.ring)
        lease._bells.remove(bell.ring)

    def _heard(self, leader: Leader | None) -> None:
        with self._mutex:
            self._leader = leader
            if leader is not None and leader.holder != self.elector.holder:
                self._settled = True
        self._ring()

    def _ring(self) -> None:
        for ring in list(self._bells):
            ring()

    # ---- giving up -------------------------------------------------------------------------------

    def resigning(
        self, thread: object, timeout: Timeout, ring: Callable[[], object]
    ) -> Generator[float | None, None, None]:
        """Tell the calls that run to stop, and wait until they have and the lease is released.

        Args:
            thread: in which this process takes part; a call that comes later may begin another.
            timeout: seconds to wait.
            ring: wakes who runs this.

        Raises:
            RuntimeError: in one of these calls, which would wait for itself.
        """
        call = current_call.get()
        if call is not None and call.of(self) in self._calls:
            raise RuntimeError(
                f'resign() waits for the calls that run under "{self.name}", and was called in one of them; '
                "return from it first"
            )
        timeout = check_timeout(timeout)
        until = None if timeout is None else system_clock().wait + timeout
        self._bells.append(ring)
        try:
            self.give_up()
            while thread is not None and self.thread is thread:
                left = None if until is None else until - system_clock().wait
                if left is not None and left <= 0:
                    break
                yield left
        finally:
            self._bells.remove(ring)

    def give_up(self) -> None:
        """Ask the calls that run to stop, and the elector to end; it waits for nothing."""
        self._gives_up = True
        self.elector.stop(0)

    @property
    def gives_up(self) -> bool:
        """Whether it was told to, since it takes part."""
        return self._gives_up

    def __repr__(self) -> str:
        return f'<leader_only "{self.name}">'


class _Candidate(Elector):
    """An elector that can be told to stop before its thread has come to run it."""

    def __init__(self, leadership: Leadership, options: Mapping[str, Any]) -> None:
        super().__init__(leadership.name, **options)
        self._leadership = leadership

    def _begin(self, part: Part) -> None:
        super()._begin(part)
        if self._leadership.gives_up:
            part.stop()


def resign(leadership: Leadership, timeout: Timeout = None) -> bool:
    """Give up leadership, in a thread; whether it is done."""
    bell, thread = threads.Bell(), leadership.thread
    for left in leadership.resigning(thread, timeout, bell.ring):
        bell.wait(left)
    return thread is None or leadership.thread is not thread


def _is_one_store(one: Any, other: Any) -> bool:
    """Whether both lead to one connection: two URLs, two connected stores, or one of each."""
    a, b = _place(one), _place(other)
    if isinstance(a, str) == isinstance(b, str):
        return a is not None and a == b
    url, hub = (a, b) if isinstance(a, str) else (b, a)
    return hub is not None and hub.url == url


def _place(store: Any) -> Any:
    if store is None or isinstance(store, str):
        return store_url(store)
    try:
        return store.hub
    except StoreUnavailable:  # It was closed.
        return None


def _loss_of(lease: Lease) -> LeaseLost:
    end = lease.ending
    return LeaseLost(lease.name, end.reason or "expired", end.at or lease.deadline, lease.token)


# ---- the end of the process, and forks ---------------------------------------------------------------

_all: WeakSet[Leadership] = WeakSet()
_exiting = False
_minds_the_exit = False


def _mind_the_exit() -> None:
    global _minds_the_exit
    if not _minds_the_exit:
        _minds_the_exit = True
        atexit.register(_at_exit)


def _at_exit() -> None:
    """Resign where no call runs, or none for long; where one still runs then, the lease is left to expire."""
    global _exiting
    _exiting = True
    until = system_clock().wait + _EXIT_SECONDS
    them = [leadership for leadership in list(_all) if leadership.thread is not None]
    for leadership in them:
        leadership.give_up()
    for leadership in them:
        resign(leadership, max(until - system_clock().wait, 0.0))


def _in_the_child() -> None:
    for leadership in list(_all):
        leadership.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_the_child)
