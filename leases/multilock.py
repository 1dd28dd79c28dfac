"""`MultiLock`: several locks at once, all or nothing, in one order that everybody keeps to.

Who takes several locks one after another can meet another who takes them the other way round, and both wait
for ever. Here they are always taken in the order of (store, name), so that a circle of waiters cannot close.
"""

# pyright: reportPrivateUsage=false
# Several locks are acquired by what one lock does inside.

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from leases import threads
from leases.acquirable import DEFAULT, Acquirable, Default, this_task
from leases.errors import AcquireTimeout, ConfigurationError, LeaseLost
from leases.hub import Countdown
from leases.lease import Lease, Timeout, Word, check_manner, check_timeout
from leases.lock import Connected, Lock, under
from leases.multilease import MultiLease
from leases.registry import store_url
from leases.terms import Terms

if TYPE_CHECKING:
    from types import TracebackType

    from leases.lock import Place, Ringing

F = TypeVar("F", bound=Callable[..., Any])
OnLost = Callable[[MultiLease, LeaseLost], object]
Step = tuple[Lock, "Place", Timeout]


class MultiLock(Acquirable[MultiLease]):
    """Several locks, all or none of which are held; also of different stores.

    It feels like a `Lock`: ``with``, ``async with``, `acquire`, `release`, or as a decorator. Whatever the
    order in which they are given, they are acquired in that of (store, name). While it waits for one, those
    before it are held. If one is not to be had in time, those before it are released again.

    Where a body may end in another thread or task than it began in, write ``with lock.acquire() as lease:``.
    A `MultiLock` of semaphores may have several bodies at once; how they are told apart, `Semaphore` says.

    Args:
        locks: names, or locks with options of their own: two at least, and none twice.
        timeout: seconds to wait for all together; None (default) waits for ever, 0 does not wait.
        on_lost: as for `Lock`, once, when the first of them is lost; a function is called with the
            `MultiLease`.
        ttl, store, holder, metadata, terms: for the locks that are given by name; see `Lock`.

    Raises:
        ConfigurationError: a name or an option that cannot work, or one lock twice.
    """

    def __init__(
        self,
        *locks: str | Lock,
        ttl: float | None = None,
        timeout: Timeout = None,
        store: str | Connected | None = None,
        holder: str | None = None,
        metadata: Mapping[str, str] | None = None,
        on_lost: Word | OnLost | tuple[Word, OnLost] = "raise",
        terms: Terms | None = None,
    ) -> None:
        options: dict[str, Any] = {
            "ttl": ttl, "store": store, "holder": holder, "metadata": metadata, "terms": terms,
        }  # fmt: skip
        self.locks = tuple([lock if isinstance(lock, Lock) else Lock(lock, **options) for lock in locks])
        self.timeout = check_timeout(timeout)
        if len(self.locks) < 2:
            raise ConfigurationError(f"{len(locks)} lock is no several; pass two or more, or use Lock")
        if not any(isinstance(lock, str) for lock in locks):
            given = [name for name, value in options.items() if value is not None]
            if given:
                raise ConfigurationError(
                    f"{given[0]}= has no lock to apply to: all were given with their own; leave it out"
                )
        _refuse_twice([(_store_of(lock), lock.name) for lock in self.locks])
        _refuse_tolerance(self.locks)
        shortest = min((lock.terms for lock in self.locks), key=lambda terms: terms.hold)
        self._manner = check_manner(on_lost, "at-most-once", 0.0, shortest)
        self._held: dict[MultiLease, object] = {}  # and who acquired it; until released
        self._bodies: dict[_Attempt, object] = {}  # and who began it; until the body ends

    @property
    def name(self) -> str:
        """All the locks, for people."""
        return ", ".join(lock.name for lock in self.locks)

    # ---- acquire and release ---------------------------------------------------------------------

    def acquire(self, timeout: Timeout | Default = DEFAULT) -> MultiLease:
        """Wait for all, and return their leases as one.

        Args:
            timeout: seconds to wait in all; default the lock's own, None for ever, 0 not at all.

        Raises:
            AcquireTimeout: another holds one of them; the error says which and who.
            StoreError: a store refused, or gave no answer in the time allowed.
            ConfigurationError: a URL or ttl that a store cannot take, or one lock twice by different URLs.
        """
        attempt = _Attempt(self, threading.get_ident())
        try:
            return self._acquire(attempt, timeout)
        except BaseException:  # An error, or Ctrl-C at any instruction.
            attempt.undo()
            raise

    async def acquire_async(self, timeout: Timeout | Default = DEFAULT) -> MultiLease:
        """`acquire`, awaited. Cancelled, it leaves nothing behind."""
        attempt = _Attempt(self, this_task())
        try:
            return await self._acquire_async(attempt, timeout)
        except BaseException:
            attempt.undo()
            raise

    # ---- as a context manager and a decorator ----------------------------------------------------

    def __enter__(self) -> MultiLease:
        attempt = _Attempt(self, threading.get_ident())
        try:
            lease = self._acquire(attempt, DEFAULT)
            self._bodies[attempt] = attempt.me
            attempt.enter()
            return lease
        except BaseException:
            self._bodies.pop(attempt, None)
            attempt.undo()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        attempt: _Attempt | None = None
        try:
            attempt = self._body(threading.get_ident())
            attempt.won.leave(error)
            del self._bodies[attempt]
        except BaseException:
            self._cut_off(attempt or self._body(threading.get_ident()))
            raise

    async def __aenter__(self) -> MultiLease:
        attempt = _Attempt(self, this_task())
        try:
            lease = await self._acquire_async(attempt, DEFAULT)
            self._bodies[attempt] = attempt.me
            attempt.enter()
            return lease
        except BaseException:
            self._bodies.pop(attempt, None)
            attempt.undo()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        attempt: _Attempt | None = None
        try:
            attempt = self._body(this_task())
            await attempt.won.leave_async(error)
            del self._bodies[attempt]
        except BaseException:
            self._cut_off(attempt or self._body(this_task()))
            raise

    def __call__(self, function: F, /) -> F:
        """Decorate a function or a coroutine function: each call runs under all the locks.

        Raises:
            ConfigurationError: a generator function, whose body would run after the call, without them.
        """
        return under(self, f"the lock of {self.name}", function)

    # ---- inside ----------------------------------------------------------------------------------

    @property
    def _called(self) -> str:
        return f"the locks {self.name} are"

    def _acquire(self, attempt: _Attempt, timeout: Timeout | Default) -> MultiLease:
        if self._manner is not None:
            self._manner.check_here(awaited=False)
        try:
            for lock, countdown in attempt.connecting(timeout):
                lock._connect_in_time(countdown)
            bell = threads.Bell()
            for lock, place, left in attempt.steps(bell):
                lock._acquire(place, bell, left)
            return attempt.won
        except Exception as error:
            for place, lease in attempt.taken[::-1]:
                with suppress(Exception):  # What went wrong first is what is told.
                    lease._release(place)
            attempt.tell(error)
            raise

    async def _acquire_async(self, attempt: _Attempt, timeout: Timeout | Default) -> MultiLease:
        from leases import aio

        if self._manner is not None:
            self._manner.check_here(awaited=True)
        try:
            for lock, countdown in attempt.connecting(timeout):
                await lock._connect_in_time_async(countdown)
            bell = aio.Bell()
            for lock, place, left in attempt.steps(bell):
                await lock._acquire_async(place, bell, left)
            return attempt.won
        except Exception as error:
            for place, lease in attempt.taken[::-1]:
                with suppress(Exception):
                    await lease._release_async(place)
            attempt.tell(error)
            raise

    def _ordered(self) -> list[Lock]:
        """The order in which everybody acquires."""
        keys = [(lock._connect().backend.identity, lock.name) for lock in self.locks]
        _refuse_twice(keys)
        return [lock for _, lock in sorted(zip(keys, self.locks, strict=True), key=lambda pair: pair[0])]

    def _body(self, me: object) -> _Attempt:
        """The body that ends: the innermost of this thread or task, or the only one there is."""
        bodies = list(self._bodies)
        mine = [body for body in bodies if body.me == me] or (bodies if len(bodies) == 1 else [])
        if not mine:
            raise RuntimeError(
                f"of the {len(bodies)} bodies of {self.name} none began in this thread or task; "
                "write `with lock.acquire():` to leave it elsewhere"
            )
        return mine[-1]

    def _cut_off(self, attempt: _Attempt) -> None:
        """A body has ended, and its end did not."""
        attempt.undo()
        del self._bodies[attempt]

    def __repr__(self) -> str:
        return f"<MultiLock {self.name}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("locks belong to this process; make the MultiLock anew in the other one")


class _Attempt:
    """One acquisition of all, which can be undone as a whole wherever it was interrupted."""

    def __init__(self, lock: MultiLock, me: object) -> None:
        self.lock, self.me = lock, me
        self.places: dict[Lock, Place] = {}
        self.timeout: Timeout = None
        self.spent = 0.0  # seconds of it, for connecting
        self.lease: MultiLease | None = None

    @property
    def won(self) -> MultiLease:
        """All of them."""
        assert self.lease is not None
        return self.lease

    @property
    def taken(self) -> list[tuple[Place, Lease]]:
        """What was acquired so far."""
        return [(place, place.lease) for place in self.places.values() if place.lease is not None]

    def tell(self, error: Exception) -> None:
        """Raise an error of one of them as one of all, with the seconds that all had together."""
        if isinstance(error, AcquireTimeout) and self.timeout is not None:
            raise AcquireTimeout(error.name, self.timeout, error.holder, error.remaining) from error

    def connecting(self, timeout: Timeout | Default) -> Generator[tuple[Lock, Countdown], None, None]:
        """What to connect first, and in how many seconds."""
        self.timeout = self.lock.timeout if isinstance(timeout, Default) else check_timeout(timeout)
        countdown = Countdown(self.timeout)
        for lock in self.lock.locks:
            if not lock._connected:
                yield lock, countdown
                self.spent = countdown.spent

    def steps(self, bell: Ringing) -> Generator[Step, None, None]:
        """What to acquire next, by which place, and in how many seconds; until all are held at once."""
        timeout, order = self.timeout, self.lock._ordered()
        clock = order[0]._connect().clock
        until = None if timeout is None else clock().wait + timeout - self.spent
        while True:
            for lock in order:
                place = self.places[lock] = lock._place(bell, self.me)
                yield lock, place, None if until is None else max(until - clock().wait, 0.0)
            if all(lease.held for _, lease in self.taken):
                self.lease = MultiLease(self.places, self.lock._manner, self._drop)
                self.lock._held[self.lease] = self.me
                return
            self.undo()  # One was lost while others were waited for: no work began, so all are sought anew.

    def enter(self) -> None:
        """A body begins: who waits for one of the locks in it waits for himself."""
        for place in self.places.values():
            place.ticket.body = self.me
        self.won.entered()

    def undo(self) -> None:
        """Leave nothing behind."""
        if self.lease is not None:
            self.lease.abandon()
        for place in self.places.values():
            place.undo()
        self.places.clear()

    def _drop(self, lease: MultiLease) -> None:
        self.lock._held.pop(lease, None)


def _store_of(lock: Lock) -> object:
    """The store, as far as it is known without connecting to it."""
    hub = lock._hub
    if hub is not None:
        return hub.backend.identity
    return store_url(lock._store if isinstance(lock._store, str) else None)


def _refuse_tolerance(locks: Sequence[Lock]) -> None:
    for lock in locks:
        if lock._manner is not None and lock._manner.tolerant:
            raise ConfigurationError(
                f'lock "{lock.name}" has semantics="at-least-once", and several locks stand or fall '
                "together, whatever is lost of them; leave it out"
            )


def _refuse_twice(keys: list[tuple[Any, str]]) -> None:
    for (_, name), times in Counter(keys).items():
        if times > 1:
            raise ConfigurationError(f'lock "{name}" is there {times} times; pass it once')
