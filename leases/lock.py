"""`Lock`: what people type, in both colours."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, Protocol, TypeVar, cast

from leases import threads
from leases.errors import AcquireTimeout, ConfigurationError
from leases.hub import Hub, check_least_ttl, shared_hub
from leases.identity import default_holder
from leases.lease import Lease, OnLost, check_on_lost
from leases.record import check_holder, check_metadata, check_name
from leases.registry import scheme_of, store_url
from leases.tenure import Tenure, Wish
from leases.terms import Terms

if TYPE_CHECKING:
    from types import TracebackType

F = TypeVar("F", bound=Callable[..., Any])


class _Default:
    def __repr__(self) -> str:
        return "the lock's own timeout"


DEFAULT: Final = _Default()
Timeout = float | None


class Connected(Protocol):
    """A connected store, as a lock needs it: `leases.connect` returns one."""

    @property
    def hub(self) -> Hub: ...


class Fence(Protocol):
    """What guards a resource by the token: told of a new tenure before its work starts."""

    def seal(self, lease: Lease, /) -> None: ...


class Lock:
    """A lock that one process of a fleet holds at a time, on a lease that is renewed in the background.

    It feels like `threading.Lock`: ``with lock:``, ``async with lock:``, `acquire`, `release`, or as a
    decorator of a function or a coroutine function. Threads and tasks of one process queue first come, first
    served. The `with` body never runs without the lock, and raises `LeaseLost` at its end if the
    lease was lost while it ran.

    Args:
        name: what is locked; 1 to 256 bytes of printable UTF-8.
        ttl: seconds after which others may take the lock of a holder that died. Default 15.
        timeout: seconds to wait in all, a store that cannot be reached included; None (default) waits for
            ever, 0 does not wait.
        store: a URL or a connected store; default ``$LEASES_URL``, else the embedded store.
        holder: who holds it, for people; default ``host:pid``.
        metadata: what observers are to see; text to text.
        on_lost: ``"raise"`` (default), or a function of (lease, loss) called once, from a thread of its
            own, when the lease is lost; the body raises at its end all the same.
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
        on_lost: Literal["raise"] | OnLost = "raise",
        reentrant: bool = False,
        fences: Sequence[Fence] = (),
        terms: Terms | None = None,
    ) -> None:
        if terms is not None and ttl is not None and terms.ttl != ttl:
            raise ConfigurationError(f"ttl={ttl:g} and terms of ttl {terms.ttl:g} differ; pass one of them")
        self.name = check_name(name)
        self.terms = terms if terms is not None else Terms(15.0 if ttl is None else ttl)
        self.timeout = check_timeout(timeout)
        self._holder = None if holder is None else check_holder(holder)
        self._metadata = check_metadata(metadata)
        self._on_lost = check_on_lost(on_lost)
        self._reentrant = reentrant
        self._fences = tuple(fences)
        self._store = store
        self._hub: Hub | None = None
        self._held: dict[object, list[Lease]] = {}  # by thread or task, until released
        self._entered: dict[object, list[Lease]] = {}  # by thread or task, until the body ends
        if isinstance(store, str):
            scheme_of(store)
        elif store is not None:
            self._hub = store.hub
            check_least_ttl(self._hub, self.terms.ttl)

    # ---- acquire and release ---------------------------------------------------------------------

    def acquire(self, timeout: Timeout | _Default = DEFAULT) -> Lease:
        """Wait for the lock and return its lease. Release it with `release`, or by the lease itself.

        Args:
            timeout: seconds to wait in all; default the lock's own, None for ever, 0 not at all.

        Raises:
            AcquireTimeout: another holds it; the error says who, and for how long at least.
            StoreError: the store refused, or gave no answer in the time allowed.
            ConfigurationError: a URL or ttl that the store cannot take, or a wait for this very thread.
        """
        nested = self._nested(me := threading.get_ident(), timeout)
        if nested is not None:
            return nested
        return self._begin(me, threads.acquire(*self._plan(timeout)))

    async def acquire_async(self, timeout: Timeout | _Default = DEFAULT) -> Lease:
        """`acquire`, awaited. Cancelled, it leaves nothing behind."""
        from leases import aio

        nested = self._nested(me := _task(), timeout)
        if nested is not None:
            return nested
        if self._hub is None:
            await aio.in_thread(self._connect)
        return self._begin(me, await aio.acquire(*self._plan(timeout)))

    def try_acquire(self) -> Lease | None:
        """The lease if it is to be had now, None if another holds the lock; other failures raise."""
        try:
            return self.acquire(0)
        except AcquireTimeout:
            return None

    async def try_acquire_async(self) -> Lease | None:
        """`try_acquire`, awaited."""
        try:
            return await self.acquire_async(0)
        except AcquireTimeout:
            return None

    def release(self) -> None:
        """Release what this thread acquired last by this lock, or else what any thread did.

        Raises:
            RuntimeError: nothing is held by this lock.
        """
        self._last(threading.get_ident()).release()

    async def release_async(self) -> None:
        """`release`, awaited: what this task acquired last, or else any."""
        await self._last(_task()).release_async()

    @property
    def held(self) -> bool:
        """Whether a lease acquired by this very object stands at this instant."""
        return any(lease.held for leases in list(self._held.values()) for lease in leases)

    # ---- as a context manager and a decorator ----------------------------------------------------

    def __enter__(self) -> Lease:
        lease = self.acquire()
        self._entered.setdefault(threading.get_ident(), []).append(lease)
        return lease

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(threading.get_ident()).__exit__(kind, error, trace)

    async def __aenter__(self) -> Lease:
        lease = await self.acquire_async()
        self._entered.setdefault(_task(), []).append(lease)
        return lease

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave(_task()).__aexit__(kind, error, trace)

    def __call__(self, function: F, /) -> F:
        """Decorate a function or a coroutine function: each call runs under the lock."""
        from functools import wraps

        if iscoroutinefunction(function):

            @wraps(function)
            async def locked_async(*args: Any, **kwargs: Any) -> Any:
                async with self:
                    return await function(*args, **kwargs)

            return cast(F, locked_async)

        @wraps(function)
        def locked(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return cast(F, locked)

    # ---- inside ----------------------------------------------------------------------------------

    def _connect(self) -> Hub:
        if self._hub is None:
            store = self._store
            assert store is None or isinstance(store, str)
            hub = shared_hub(store_url(store))
            check_least_ttl(hub, self.terms.ttl)
            self._hub = hub
        return self._hub

    def _plan(
        self, timeout: Timeout | _Default
    ) -> tuple[Hub, Wish, Timeout, tuple[Callable[[Tenure], None], ...]]:
        allowed = self.timeout if isinstance(timeout, _Default) else check_timeout(timeout)
        holder = self._holder if self._holder is not None else default_holder()
        hub = self._hub if self._hub is not None else self._connect()
        fences = tuple(_sealer(fence) for fence in self._fences) if self._fences else ()
        return hub, Wish(self.name, holder, self.terms, self._metadata), allowed, fences

    def _begin(self, me: object, tenure: Tenure) -> Lease:
        lease = Lease(tenure, self._on_lost, lambda: self._drop(me, lease))
        self._held.setdefault(me, []).append(lease)
        return lease

    def _drop(self, me: object, lease: Lease) -> None:
        leases = self._held.get(me, [])
        if lease in leases:
            leases.remove(lease)
        if not leases:
            self._held.pop(me, None)

    def _nested(self, me: object, timeout: Timeout | _Default) -> Lease | None:
        """The lease that this thread or task holds already, if it may have it again."""
        if self._reentrant:
            return next((lease._nest() for lease in self._held.get(me, ()) if lease.held), None)
        waits_for_ever = (self.timeout if isinstance(timeout, _Default) else timeout) is None
        if waits_for_ever and self._entered and any(lease.held for lease in self._entered.get(me, ())):
            raise ConfigurationError(
                f'lock "{self.name}" would wait for itself: this thread or task is in its body already; '
                "pass reentrant=True to enter again"
            )
        return None

    def _last(self, me: object) -> Lease:
        mine = self._held.get(me) or next(iter(self._held.values()), None)
        if not mine:
            raise RuntimeError(f'lock "{self.name}" is not held by this object; acquire it first')
        return mine[-1]

    def _leave(self, me: object) -> Lease:
        leases = self._entered.get(me)
        if not leases:
            raise RuntimeError(f'the body of lock "{self.name}" ends in another thread or task than it began')
        lease = leases.pop()
        if not leases:
            del self._entered[me]
        return lease

    def __repr__(self) -> str:
        where = self._hub.backend.identity if self._hub is not None else "not connected yet"
        return f'<Lock "{self.name}" ttl={self.terms.ttl:g} {where}>'

    def __reduce__(self) -> NoReturn:
        raise TypeError(f'a lock belongs to this process; make Lock("{self.name}") anew in the other one')


def check_timeout(timeout: Timeout) -> Timeout:
    """Return a timeout in seconds, or None for ever.

    Raises:
        ConfigurationError: negative, not a number, or not finite.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 <= timeout < 1e9:
        raise ConfigurationError(
            f"timeout={timeout!r} is not a number of seconds; pass None to wait for ever"
        )
    return float(timeout)


def _sealer(fence: Fence) -> Callable[[Tenure], None]:
    return lambda tenure: fence.seal(Lease(tenure))


def _task() -> object:
    import asyncio

    return asyncio.current_task()
