"""`Lock`: what people type, in both colours."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar, cast

from leases import threads
from leases.acquirable import DEFAULT, Acquirable, Default, this_task
from leases.errors import ConfigurationError
from leases.hub import Countdown, Hub, Ticket, check_least_ttl, shared_hub
from leases.identity import default_holder
from leases.lease import Grip, Lease, OnLost, Semantics, Timeout, Word, check_manner, check_timeout
from leases.record import check_holder, check_metadata, check_name, check_ttl
from leases.registry import scheme_of, store_url
from leases.script import Seal, Wait, acquiring
from leases.tenure import Tenure, Wish
from leases.terms import Terms

if TYPE_CHECKING:
    from types import TracebackType

    from leases import aio

F = TypeVar("F", bound=Callable[..., Any])


class Connected(Protocol):
    """A connected store, as a lock needs it: `leases.connect` returns one."""

    @property
    def hub(self) -> Hub: ...


class Fence(Protocol):
    """What guards a resource by the token: told of a new tenure before its work starts."""

    def seal(self, lease: Lease, /) -> None: ...


class Ringing(Protocol):
    """A bell of either colour."""

    def ring(self) -> object: ...


class Place(Grip):
    """One acquisition by way of a lock, which can be undone as a whole wherever it was interrupted."""

    __slots__ = ("hub", "me", "name", "ticket")

    def __init__(self, name: str, ticket: Ticket) -> None:
        super().__init__()
        self.name, self.ticket, self.me = name, ticket, ticket.me
        self.hub: Hub | None = None

    def undo(self) -> None:
        """Leave nothing behind."""
        if self.lease is not None:
            self.lease.abandon(self)
        elif self.hub is not None:
            self.hub.withdraw(self.name, self.ticket)


class Lock(Acquirable[Lease]):
    """A lock that one process of a fleet holds at a time, on a lease that is renewed in the background.

    It feels like `threading.Lock`: ``with lock:``, ``async with lock:``, `acquire`, `release`, or as a
    decorator of a function or a coroutine function. Threads and tasks of one process queue first come, first
    served. The `with` body never runs without the lock, and raises `LeaseLost` at its end if the
    lease was lost while it ran.

    Args:
        name: what is locked; 1 to 256 bytes of printable UTF-8.
        ttl: seconds after which others may take the lock of a holder that died. Default 15.
        timeout: seconds to wait in all, connecting and a store that cannot be reached included; None
            (default) waits for ever, 0 for no other holder, though for the store to be connected.
        store: a URL or a connected store; default ``$LEASES_URL``, else the embedded store.
        holder: who holds it, for people; default ``host:pid``.
        metadata: what observers are to see; text to text.
        on_lost: what ends the work when the lease is lost; the body raises `LeaseLost` at its end in any
            case. ``"raise"`` (default) does no more than that. ``"cancel"`` cancels the task (asyncio),
            ``"interrupt"`` raises `LeaseLost` in the main thread, ``"exit"`` and ``"kill"`` end the process;
            `leases.endings` says how. A function of (lease, loss) is called once, from a thread of its own;
            ``(word, function)`` does both.
        semantics: ``"at-most-once"`` (default): in doubt the work stops. ``"at-least-once"``: silence of the
            store stops nothing, `Lease.check` refuses only what was seen to be over, and a lease that ran
            out is a warning in the log: for work that may be done twice, and not left undone. When another
            is seen to have the lock since, it is told to stop: the store is asked at the times of renewals.
        stop_within: seconds before the deadline at which the work is told to stop, so that it has stopped
            by then; default 0.
        reentrant: whether the thread or task that holds it may acquire it again.
        fences: what to seal with the token before an acquisition is reported.
        terms: all durations together, instead of `ttl` alone.

    Raises:
        ConfigurationError: a name or an option that cannot work.
    """

    def __init__(
        self,
        name: str,
        *,
        ttl: float | None = None,
        timeout: Timeout = None,
        store: str | Connected | None = None,
        holder: str | None = None,
        metadata: Mapping[str, str] | None = None,
        on_lost: Word | OnLost | tuple[Word, OnLost] = "raise",
        semantics: Semantics = "at-most-once",
        stop_within: float = 0.0,
        reentrant: bool = False,
        fences: Sequence[Fence] = (),
        terms: Terms | None = None,
    ) -> None:
        if terms is not None and not isinstance(terms, Terms):
            raise ConfigurationError(f"terms={terms!r} are none; pass Terms(ttl, …), or ttl= alone")
        if terms is not None and ttl is not None and terms.ttl != check_ttl(ttl):
            raise ConfigurationError(f"ttl={ttl:g} and terms of ttl {terms.ttl:g} differ; pass one of them")
        self.name = check_name(name)
        self.terms = terms if terms is not None else Terms(15.0 if ttl is None else ttl)
        self.timeout = check_timeout(timeout)
        self._holder = None if holder is None else check_holder(holder)
        self._metadata = check_metadata(metadata)
        self._manner = check_manner(on_lost, semantics, stop_within, self.terms)
        self._reentrant = reentrant
        self._fences = check_fences(fences)
        self._store = store
        self._hub: Hub | None = None
        self._held: dict[Lease, object] = {}  # and the thread or task that acquired it; until released
        self._bodies: dict[Place, Lease] = {}  # until the body ends
        if isinstance(store, str):
            scheme_of(store)
        elif store is not None:
            if not isinstance(getattr(store, "hub", None), Hub):
                raise ConfigurationError(f"store={store!r} is neither a URL nor a connected store; pass one")
            self._hub = store.hub
            check_least_ttl(self._hub, self.terms.ttl)

    # ---- acquire and release ---------------------------------------------------------------------

    def acquire(self, timeout: Timeout | Default = DEFAULT) -> Lease:
        """Wait for the lock and return its lease. Release it with `release`, or by the lease itself.

        Args:
            timeout: seconds to wait in all; default the lock's own, None for ever, 0 not at all.

        Raises:
            AcquireTimeout: another holds it; the error says who, and for how long at least.
            StoreError: the store refused, or gave no answer in the time allowed.
            ConfigurationError: a URL or ttl that the store cannot take, or a wait for this very thread; or
                the work could not be stopped from here as `on_lost` wants it.
            LeaseLost: it was granted with no more than `stop_within` left to work in.
        """
        place = self._place(bell := threads.Bell(), threading.get_ident())
        try:
            return self._acquire(place, bell, timeout)
        except BaseException:  # An error, or Ctrl-C at any instruction.
            place.undo()
            raise

    async def acquire_async(self, timeout: Timeout | Default = DEFAULT) -> Lease:
        """`acquire`, awaited. Cancelled, it leaves nothing behind."""
        from leases import aio

        place = self._place(bell := aio.Bell(), this_task())
        try:
            return await self._acquire_async(place, bell, timeout)
        except BaseException:
            place.undo()
            raise

    # ---- as a context manager and a decorator ----------------------------------------------------

    def __enter__(self) -> Lease:
        # This repeats `acquire`, because Ctrl-C may come between a call and its return to the caller.
        place = self._place(bell := threads.Bell(), threading.get_ident())
        try:
            lease = self._acquire(place, bell, DEFAULT)
            self._bodies[place] = lease
            place.ticket.body = place.me
            return lease
        except BaseException:
            self._bodies.pop(place, None)
            place.undo()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        place: Place | None = None
        try:
            place = self._body(threading.get_ident())
            self._bodies[place].leave(place, error)
            del self._bodies[place]
        except BaseException:
            self._cut_off(place or self._body(threading.get_ident()))
            raise

    async def __aenter__(self) -> Lease:
        from leases import aio

        place = self._place(bell := aio.Bell(), this_task())
        try:
            lease = await self._acquire_async(place, bell, DEFAULT)
            self._bodies[place] = lease
            place.ticket.body = place.me
            return lease
        except BaseException:
            self._bodies.pop(place, None)
            place.undo()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        place: Place | None = None
        try:
            place = self._body(this_task())
            await self._bodies[place].leave_async(place, error)
            del self._bodies[place]
        except BaseException:
            self._cut_off(place or self._body(this_task()))
            raise

    def __call__(self, function: F, /) -> F:
        """Decorate a function or a coroutine function: each call runs under the lock.

        Raises:
            ConfigurationError: a generator function, whose body would run after the call, without the lock.
        """
        return under(self, f'lock "{self.name}"', function)

    # ---- inside ----------------------------------------------------------------------------------

    @property
    def _called(self) -> str:
        return f'lock "{self.name}" is'

    @property
    def _connected(self) -> bool:
        """Whether `_connect` has nothing to do that could take its time."""
        return self._hub is not None and not self._hub.closed

    def _connect(self) -> Hub:
        """The store as this process uses it, connected now if it was not yet.

        Raises:
            ConfigurationError: a ttl that is too short for the store.
            StoreError: it refused, could not be reached, or was closed.
        """
        if self._store is not None and not isinstance(self._store, str):
            return self._store.hub
        if self._hub is None or self._hub.closed:
            hub = shared_hub(store_url(self._store), Hub.pin)
            check_least_ttl(hub, self.terms.ttl)
            self._hub = hub
        return self._hub

    def _connect_in_time(self, countdown: Countdown) -> None:
        """`_connect`, for no longer than there is time; then it goes on, and the next one has the store."""
        if countdown.left is not None and (self._store is None or isinstance(self._store, str)):
            threads.connect(store_url(self._store), countdown)
        self._connect()

    async def _connect_in_time_async(self, countdown: Countdown) -> None:
        """The same, awaited."""
        from leases import aio

        if self._store is None or isinstance(self._store, str):
            await aio.connect(store_url(self._store), countdown)
        self._connect()

    def _place(self, bell: Ringing, me: object) -> Place:
        """Where an acquisition of a thread or task begins; the bell wakes it."""
        handle = None if isinstance(self._store, str) else self._store
        return Place(self.name, Ticket(bell.ring, handle, me))

    def _acquire(self, place: Place, bell: threads.Bell, timeout: Timeout | Default) -> Lease:
        if self._manner is not None:
            self._manner.check_here(awaited=False)
        again = self._again(place)
        if again is not None:
            return again
        allowed, spent = self._allowed(timeout), 0.0
        if not self._connected:
            self._connect_in_time(countdown := Countdown(allowed))
            spent = countdown.spent
        hub, wish = self._plan(place)
        return self._begin(
            place, threads.acquire(hub, wish, allowed, place.ticket, bell, self._seals(), spent)
        )

    def _acquiring(self, place: Place, *, awaited: bool) -> Generator[Wait, None, Lease]:
        """`acquire` as a script of either colour, which waits as long as it takes and can be called off."""
        if self._manner is not None:
            self._manner.check_here(awaited=awaited)
        if not self._connected:
            yield self._connect
        hub, wish = self._plan(place)
        tenure = yield from acquiring(hub, wish, None, place.ticket, here=False, fences=self._seals())
        return self._begin(place, tenure)

    async def _acquire_async(self, place: Place, bell: aio.Bell, timeout: Timeout | Default) -> Lease:
        from leases import aio

        if self._manner is not None:
            self._manner.check_here(awaited=True)
        again = self._again(place)
        if again is not None:
            return again
        allowed, spent = self._allowed(timeout), 0.0
        if not self._connected:
            await self._connect_in_time_async(countdown := Countdown(allowed))
            spent = countdown.spent
        hub, wish = self._plan(place)
        tenure = await aio.acquire(hub, wish, allowed, place.ticket, bell, self._seals(), spent)
        return self._begin(place, tenure)

    def _allowed(self, timeout: Timeout | Default) -> Timeout:
        return self.timeout if isinstance(timeout, Default) else check_timeout(timeout)

    def _plan(self, place: Place) -> tuple[Hub, Wish]:
        holder = self._holder if self._holder is not None else default_holder()
        hub = place.hub = self._connect()
        return hub, Wish(self.name, holder, self.terms, self._metadata)

    def _seals(self) -> tuple[Seal, ...]:
        return tuple(sealer(fence) for fence in self._fences) if self._fences else ()

    def _begin(self, place: Place, tenure: Tenure) -> Lease:
        lease = place.lease = Lease(tenure, self._manner, self._drop)
        self._held[lease] = place.me
        return lease

    def _drop(self, lease: Lease) -> None:
        self._held.pop(lease, None)

    def _again(self, place: Place) -> Lease | None:
        """The lease that this thread or task holds already, if it may have it again."""
        if self._reentrant:
            for lease, who in list(self._held.items()):
                if who == place.me and lease.nest(place):
                    return lease
        return None

    def _body(self, me: object) -> Place:
        """The body that ends: the innermost of this thread or task, or the only one there is.

        Frameworks enter and leave generators in different threads or tasks.
        """
        bodies = list(self._bodies)
        mine = [body for body in bodies if body.me == me] or bodies
        if not mine or (len(mine) > 1 and mine[-1].me != me):
            raise RuntimeError(
                f'of the {len(mine)} bodies of lock "{self.name}" none began in this thread or task; '
                "write `with lock.acquire():` to leave it elsewhere"
            )
        return mine[-1]

    def _cut_off(self, place: Place) -> None:
        """A body has ended, and its end did not."""
        self._bodies[place].abandon(place)
        del self._bodies[place]

    def __repr__(self) -> str:
        where = self._hub.backend.identity if self._hub is not None else "not connected yet"
        return f'<Lock "{self.name}" ttl={self.terms.ttl:g} {where}>'

    def __reduce__(self) -> NoReturn:
        raise TypeError(f'a lock belongs to this process; make Lock("{self.name}") anew in the other one')


def under(lock: Any, what: str, function: F) -> F:
    """The function, or coroutine function, each call of which is a body of a context manager of both colours.

    Raises:
        ConfigurationError: a generator function.
    """
    from functools import wraps
    from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction

    if isgeneratorfunction(function) or isasyncgenfunction(function):
        raise ConfigurationError(
            f"{what} cannot decorate {function.__qualname__}, a generator function: its body "
            "would run without the lock; put `with lock:` into the body"
        )

    if iscoroutinefunction(function):

        @wraps(function)
        async def locked_async(*args: Any, **kwargs: Any) -> Any:
            async with lock:
                return await function(*args, **kwargs)

        return cast(F, locked_async)

    @wraps(function)
    def locked(*args: Any, **kwargs: Any) -> Any:
        with lock:
            return function(*args, **kwargs)

    return cast(F, locked)


def check_fences(fences: Sequence[Fence]) -> tuple[Fence, ...]:
    """Return what is to be sealed.

    Raises:
        ConfigurationError: no sequence, or something in it that cannot be sealed.
    """
    if not isinstance(fences, Iterable):
        raise ConfigurationError(f"fences={fences!r} is not a sequence; pass a list of fences")
    found = tuple(fences)
    for fence in found:
        if not callable(getattr(fence, "seal", None)):
            raise ConfigurationError(f"{fence!r} among the fences has no seal(lease); pass what has one")
    return found


class _Granted(Lease):
    """A claim that is not reported yet, as fences see it: whatever becomes of it, its token stays."""

    __slots__ = ("_number",)

    def __init__(self, tenure: Tenure, number: int) -> None:
        self._number = number
        super().__init__(tenure)

    @property
    def token(self) -> int:
        return self._number


def sealer(fence: Fence) -> Seal:
    """What seals a fence for a claim that is about to be reported."""
    return lambda tenure, token: fence.seal(_Granted(tenure, token))
