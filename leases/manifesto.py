"""What an elector stands for: everything about it that does not change, checked when it is made."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from inspect import iscoroutinefunction
from typing import Any, Final, NamedTuple, get_args

from leases.errors import ConfigurationError
from leases.lease import Word
from leases.lock import Connected, Lock
from leases.observer import PRIORITY
from leases.record import NAME_BYTES, RESERVED, check_metadata

_BIDS: Final = "/bid"


class Callbacks(NamedTuple):
    """What is called, and when."""

    elected: Callable[..., object] | None = None
    jeopardy: Callable[..., object] | None = None
    lost: Callable[..., object] | None = None
    new_leader: Callable[..., object] | None = None


class Manifesto(NamedTuple):
    """What an elector stands for: everything about it that does not change.

    Attributes:
        lock: what is campaigned for.
        calls: the callbacks.
        patience: seconds for which the lease of work that was asked to stop is still renewed.
        progress: says whether the work gets on; None where nobody asks.
        tolerant: an expiry does not stop the work.
    """

    lock: Lock
    calls: Callbacks
    patience: float
    progress: Callable[[], object] | None = None
    tolerant: bool = False


def word_and_call(on_lost: Any, semantics: object) -> tuple[Any, Callable[..., object] | None]:
    """The two parts of it; what is neither is left whole, for the lock to refuse.

    Raises:
        ConfigurationError: a word that contradicts the semantics, and of which the lock will not hear.
    """
    word, call = _word_and_call(on_lost)
    if word == "cancel" and semantics == "at-least-once":
        raise ConfigurationError(
            'on_lost="cancel" contradicts semantics="at-least-once", under which silence stops nothing; '
            'leave one of them out, or pass "at-most-once"'
        )
    return word, call


def _word_and_call(on_lost: Any) -> tuple[Any, Callable[..., object] | None]:
    match on_lost:
        case (word, call) if word in get_args(Word) and callable(call):
            return word, call
        case _ if callable(on_lost):
            return "raise", on_lost
        case _:
            return on_lost, None


def to_show(metadata: Mapping[str, str] | None, priority: int | None) -> dict[str, str]:
    """What the record shows: what the user wants, and the priority.

    Raises:
        ConfigurationError: a key that is ours, or a priority that is no integer.
    """
    shown = check_metadata(metadata)
    for key in shown:
        if key.startswith(RESERVED):
            raise ConfigurationError(f'metadata {key!r}: "{RESERVED}…" is reserved; choose another key')
    if priority is None:
        return shown
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise ConfigurationError(f"priority={priority!r} is not an integer; pass one such as 10")
    return {**shown, PRIORITY: str(priority)}


def lock_of_bids(
    lock: Lock, store: str | Connected | None, holder: str | None, shown: dict[str, str]
) -> Lock:
    """The lock beside the one that is led, by which candidates of higher priority make themselves known.

    Raises:
        ConfigurationError: there is no room for its name.
    """
    name = lock.name + _BIDS
    if len(name.encode()) > NAME_BYTES:
        raise ConfigurationError(
            f"with priority= a name may have {NAME_BYTES - len(_BIDS)} bytes, because bids are made by "
            f'holding another lock, whose name ends in "{_BIDS}"; shorten it'
        )
    return Lock(name, store=store, holder=holder, metadata=shown, terms=lock.terms)


def check_for_threads(manifesto: Manifesto) -> None:
    """Refuse what only a loop could call.

    Raises:
        ConfigurationError: a callback is a coroutine function.
    """
    for call in (*manifesto.calls, manifesto.progress):
        if iscoroutinefunction(call):
            raise ConfigurationError(f"{call!r} is a coroutine function; await run_async, or pass a function")


def on_the_loop(manifesto: Manifesto) -> Manifesto:
    """The same, with a coroutine function for progress that runs on the running loop."""
    import asyncio

    ask = manifesto.progress
    if not iscoroutinefunction(ask):
        return manifesto
    loop = asyncio.get_running_loop()
    longest = manifesto.lock.terms.ttl  # It is a no by then.

    def ask_there() -> object:
        question: Coroutine[Any, Any, object] = ask()
        try:
            answer = asyncio.run_coroutine_threadsafe(question, loop)
        except RuntimeError:  # The loop is closed.
            question.close()
            raise
        try:
            return answer.result(longest)
        finally:
            answer.cancel()  # A question that hangs is not to wait beside the next for ever.

    return manifesto._replace(progress=ask_there)


def check_callables(*given: object) -> None:
    """Refuse what is given and cannot be called.

    Raises:
        ConfigurationError: something cannot.
    """
    for call in given:
        if call is not None and not callable(call):
            raise ConfigurationError(f"{call!r} cannot be called; pass a function, or leave it out")
