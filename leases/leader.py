"""`leader_only`: a function whose calls run where this process leads, and nowhere else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial, wraps
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Generic,
    Literal,
    Never,
    ParamSpec,
    TypedDict,
    TypeVar,
    Unpack,
    cast,
    overload,
)
from weakref import WeakValueDictionary

from leases import threads
from leases.calls import Call
from leases.errors import ConfigurationError
from leases.leadership import Leadership, Otherwise, resign
from leases.lease import check_timeout
from leases.record import check_name

if TYPE_CHECKING:
    from typing import Protocol, Self

    from leases.elector import Elector
    from leases.lease import Lease, OnLost, Semantics, Timeout, Word
    from leases.lock import Connected, Fence
    from leases.terms import Terms

P = ParamSpec("P")
T = TypeVar("T")
D = TypeVar("D")


if TYPE_CHECKING:
    R_co = TypeVar("R_co", covariant=True)

    class Led(Protocol[P, R_co]):
        """A function under `leader_only`, as type checkers see it; it is a plain function.

        Attributes:
            elector: what campaigns; shared with the other functions of the same name and store.
            is_leader: true while this process leads, by the clock.
        """

        elector: Elector
        is_leader: Leads

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
        @overload
        def __get__(self, instance: None, owner: type, /) -> Self: ...
        @overload
        def __get__(self, instance: object, owner: type | None = None, /) -> Callable[..., R_co]: ...
        def lease(self) -> Lease:
            """The lease under which the call runs that asks, or under which this process leads now.

            Raises:
                NotLeader: there is none.
            """
            ...

        def resign(self, timeout: Timeout = None) -> bool:
            """Tell calls that run to stop, wait for them, release, and take no part until the next call.

            Args:
                timeout: seconds to wait; it goes on in the background after that.

            Returns:
                Whether it is done.
            """
            ...

        async def resign_async(self, timeout: Timeout = None) -> bool: ...


class Leads:
    """Whether this process leads; the clock is read each time its truth is asked for."""

    __slots__ = ("_leadership",)

    def __init__(self, leadership: Leadership) -> None:
        self._leadership = leadership

    def __bool__(self) -> bool:
        return self._leadership.elector.is_leader

    def __repr__(self) -> str:
        return f'<{"leads" if self else "does not lead"} "{self._leadership.name}">'


@overload
def leader_only(
    name: str, *, otherwise: Literal["skip"] = "skip", default: None = None, **options: Unpack[Options]
) -> Decorator[None]: ...
@overload
def leader_only(
    name: str, *, otherwise: Literal["skip"] = "skip", default: D, **options: Unpack[Options]
) -> Decorator[D]: ...
@overload
def leader_only(
    name: str, *, otherwise: Literal["wait"], timeout: Timeout = None, **options: Unpack[Options]
) -> Decorator[Never]: ...
@overload
def leader_only(
    name: str, *, otherwise: Literal["raise"], **options: Unpack[Options]
) -> Decorator[Never]: ...


def leader_only(
    name: str,
    *,
    otherwise: Literal["skip", "wait", "raise"] = "skip",
    default: Any = None,
    timeout: Timeout = None,
    **options: Unpack[Options],
) -> Decorator[Any]:
    """Decorate a function, or a coroutine function, so that calls run only where this process leads.

    The first call makes this process a candidate, in a thread of its own, and waits until somebody is seen to
    lead, for 5 seconds at most. It stays one until it exits or `resign` is called: so it leads when a call
    comes, and when it dies another candidate runs the next one after the ttl. The function runs under the
    lease: if that is lost meanwhile, the end of the call raises `LeaseLost`. Several functions of one name
    share the leadership; calls of one process do not exclude each other.

    The function has these attributes besides: ``lease()`` is the lease of the call that asks, for its token
    and `check()`; ``is_leader`` is true while this process leads; ``resign(timeout=None)`` (and
    ``resign_async``) tells the calls that run to stop, waits for them, releases, and takes no part until the
    next call; ``elector`` is the `Elector`. At a normal exit of the interpreter it resigns by itself, for
    which it takes 1 second at most. A process that ends by a signal or by `os._exit`, as the children of
    `multiprocessing` do after a fork, has to call `resign`, or leaves the others to wait for the ttl. After
    a fork the child is a candidate of its own, from its first call on.

    Args:
        name: what is led; 1 to 256 bytes of printable UTF-8.
        otherwise: what a call does where this process does not lead. ``"skip"`` (default) returns `default`;
            ``"wait"`` waits until it does; ``"raise"`` raises `NotLeader`.
        default: what a skipped call returns; default None.
        timeout: seconds for which a call waits; None (default) waits for ever. Only with ``"wait"``.
        on_lost: what is done to calls that run when the lease is lost, by a word of `Lock`; a function of
            (lease, loss) is called at the loss of each lease, whether a call runs or not.
        **options: `ttl`, `store`, `holder`, `metadata`, `semantics`, `stop_within`, `fences`, `priority` and
            `terms` as of `Elector`; the same for all functions of one name and store.

    Raises:
        ConfigurationError: an option that cannot work, or that differs from another function's of the name.
    """
    if callable(name):
        raise ConfigurationError('leader_only needs a name: write @leader_only("nightly") above the function')
    return Decorator(shared(name, options), _checked(otherwise, default, timeout))


class Options(TypedDict, total=False):
    """What all functions of one name have in common."""

    ttl: float | None
    store: str | Connected | None
    holder: str | None
    metadata: Mapping[str, str] | None
    on_lost: Word | OnLost | tuple[Word, OnLost]
    semantics: Semantics
    stop_within: float
    fences: Sequence[Fence]
    priority: int | None
    terms: Terms | None


def _checked(otherwise: str, default: object, timeout: Timeout) -> Otherwise:
    if otherwise not in ("skip", "wait", "raise"):
        raise ConfigurationError(f'otherwise={otherwise!r} is none of "skip", "wait" and "raise"; pass one')
    if default is not None and otherwise != "skip":
        raise ConfigurationError(f'default={default!r} is what a skipped call returns; pass otherwise="skip"')
    if timeout is not None and otherwise != "wait":
        raise ConfigurationError(f'timeout={timeout!r} is for calls that wait; pass otherwise="wait"')
    return Otherwise(otherwise, default, check_timeout(timeout))


class Decorator(Generic[D]):
    """What `leader_only` returns; it may decorate more than one function."""

    def __init__(self, leadership: Leadership, otherwise: Otherwise) -> None:
        self._leadership, self._otherwise = leadership, otherwise

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, T]], /
    ) -> Led[P, Coroutine[Any, Any, T | D]]: ...
    @overload
    def __call__(self, function: Callable[P, T], /) -> Led[P, T | D]: ...
    def __call__(self, function: Callable[..., Any], /) -> Any:
        """Decorate a function.

        Raises:
            ConfigurationError: what is no function, or one whose body would run after the call.
        """
        leadership = self._leadership
        if not callable(function):
            raise ConfigurationError(
                f"leader_only decorates functions, and {function!r} is none; put @classmethod above it"
            )
        if isgeneratorfunction(function) or isasyncgenfunction(function):
            raise ConfigurationError(
                f'leader_only("{leadership.name}") cannot decorate {function.__qualname__}, a generator '
                "function: its body would run after the call; decorate what loops over it"
            )
        awaited = iscoroutinefunction(function)
        if leadership.manner.word == "cancel":
            leadership.manner.check_here(awaited=awaited)
        guard = _guard_async if awaited else _guard
        led = cast("Any", guard(leadership, function, self._otherwise))
        led.elector, led.is_leader, led.lease = leadership.elector, Leads(leadership), leadership.lease
        led.resign, led.resign_async = partial(resign, leadership), partial(resign_async, leadership)
        return led


def _guard(leadership: Leadership, function: Callable[..., Any], otherwise: Otherwise) -> Callable[..., Any]:
    @wraps(function)
    def led(*args: Any, **kwargs: Any) -> Any:
        call = Call(leadership)
        try:
            bell = threads.Bell()
            for left in leadership.entering(call, otherwise, bell.ring):
                bell.wait(left)
            if call.lease is None:
                return otherwise.default
            try:
                call.begin(awaited=False)
                result = function(*args, **kwargs)
            except BaseException as error:
                call.leave(error)
                raise
            call.leave(None)
            return result
        except BaseException:  # Ctrl-C at any instruction may have kept it from leaving.
            call.abandon()
            raise

    return led


def _guard_async(
    leadership: Leadership, function: Callable[..., Any], otherwise: Otherwise
) -> Callable[..., Any]:
    @wraps(function)
    async def led_async(*args: Any, **kwargs: Any) -> Any:
        from leases import aio

        call = Call(leadership)
        try:
            bell = aio.Bell()
            for left in leadership.entering(call, otherwise, bell.ring):
                await bell.wait(left)
            if call.lease is None:
                return otherwise.default
            try:
                call.begin(awaited=True)
                result = await function(*args, **kwargs)
            except BaseException as error:
                await call.leave_async(error)
                raise
            await call.leave_async(None)
            return result
        except BaseException:
            call.abandon()
            raise

    return led_async


async def resign_async(leadership: Leadership, timeout: Timeout = None) -> bool:
    """Give up leadership, awaited; whether it is done."""
    from leases import aio

    bell, thread = aio.Bell(), leadership.thread
    for left in leadership.resigning(thread, timeout, bell.ring):
        await bell.wait(left)
    return thread is None or leadership.thread is not thread


# ---- one for each name and store ---------------------------------------------------------------------

_shared: WeakValueDictionary[tuple[str, object], Leadership] = WeakValueDictionary()
_shared_mutex = threading.Lock()

_DEFAULTS: Final[Options] = {
    "ttl": None, "store": None, "holder": None, "metadata": None, "on_lost": "raise",
    "semantics": "at-most-once", "stop_within": 0.0, "fences": (), "priority": None, "terms": None,
}  # fmt: skip


def shared(name: str, given: Options) -> Leadership:
    """The leadership of a name in a store, which all functions of this process share.

    Raises:
        ConfigurationError: options that cannot work, or are not those of another function of this name.
    """
    if unknown := sorted(given.keys() - _DEFAULTS.keys()):
        raise TypeError(f"leader_only has no option {unknown[0]!r}")
    options: dict[str, Any] = {**_DEFAULTS, **given}
    store = options["store"]
    key = (check_name(name), store if isinstance(store, str) else id(store))
    with _shared_mutex:
        leadership = _shared.get(key)
        if leadership is None:
            leadership = _shared[key] = Leadership(name, options)
        elif different := sorted(o for o, value in options.items() if leadership.options[o] != value):
            one, other = options[different[0]], leadership.options[different[0]]
            raise ConfigurationError(
                f'another function is leader_only("{name}") with {different[0]}={other!r}, this one with '
                f"{different[0]}={one!r}; give them the same options, or different names"
            )
        return leadership
