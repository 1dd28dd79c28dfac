"""How work is brought to its end when its lease ends: what `on_lost`, `semantics` and `stop_within` mean.

A lock has one `Manner`, checked when the lock is made, and each of its leases a `Stopper`: told before the
acquisition is reported, at every event, when the work is to stop, and when it has. A plain lock, which only
raises at the end of the body, loads nothing of this.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Final, NamedTuple

from leases.errors import ConfigurationError
from leases.stopper import Afterwards, Early, Exit, Stopper
from leases.terms import Terms

__all__ = ["Afterwards", "Early", "Manner", "Stopper"]

WORDS: Final = ("raise", "cancel", "interrupt", "exit", "kill")
SEMANTICS: Final = ("at-most-once", "at-least-once")
_LAST_WORDS: Final = 0.5  # seconds at most for the log, the callback and what is left in the buffers


class Manner(NamedTuple):
    """How the work under the leases of one lock ends.

    Attributes:
        word: what is done when the work is to stop.
        call: what is called then, if anything.
        tolerant: silence stops nothing: ``semantics="at-least-once"``.
        stop_within: seconds before the deadline at which the work is to stop.
        last_words: seconds that a process which is to end may still take.
    """

    word: str
    call: Callable[..., object] | None
    tolerant: bool
    stop_within: float
    last_words: float

    @classmethod
    def checked(cls, on_lost: object, semantics: object, stop_within: object, terms: Terms) -> Manner:
        """What was asked for, if it can be had here.

        Raises:
            ConfigurationError: no such word; what contradicts itself or does not fit the terms; what this
                platform cannot do.
        """
        word, call = _word_and_call(on_lost)
        if iscoroutinefunction(call):
            raise ConfigurationError(
                f"on_lost={call!r} is a coroutine function, and it is called in a thread; pass a plain "
                "function, which may call loop.call_soon_threadsafe, or await lease.lost in a task"
            )
        if semantics not in SEMANTICS:
            raise ConfigurationError(
                f'semantics={semantics!r} is neither "at-most-once" nor "at-least-once"; pass one of them'
            )
        tolerant = semantics == "at-least-once"
        within = _checked_stop_within(stop_within, terms)
        if tolerant and (word != "raise" or within > 0):
            given = f"stop_within={within:g}" if word == "raise" else f'on_lost="{word}"'
            raise ConfigurationError(
                f'{given} contradicts semantics="at-least-once", under which silence stops nothing; '
                'leave one of them out, or pass "at-most-once"'
            )
        _refuse_what_cannot_be_had(word)
        slack = terms.ttl * (1 - terms.rate) / (1 + terms.rate) - terms.hold
        return cls(word, call, tolerant, within, min(_LAST_WORDS, max(slack, 0.0) / 2))

    def check_here(self, *, awaited: bool) -> None:
        """Refuse an acquisition whose work could not be stopped in this manner; nothing was sent yet.

        Args:
            awaited: whether it is one by asyncio.

        Raises:
            ConfigurationError: the wrong colour, or the wrong thread.
        """
        if self.word == "cancel" and not awaited:
            raise ConfigurationError(
                'on_lost="cancel" cancels a task, and this acquisition is of a thread; use `async with` or '
                'acquire_async, or pass on_lost="interrupt" in the main thread'
            )
        if self.word == "interrupt":
            from leases.interrupting import check_here

            check_here(awaited=awaited)

    def stopper(self) -> Stopper:
        """What stops the work of one lease, acquired here and now."""
        match self.word:
            case "cancel":
                from leases.cancelling import Cancel

                return Cancel()
            case "interrupt":
                from leases.interrupting import Interrupt

                return Interrupt()
            case "exit":
                return Exit(self.last_words)
            case "kill":
                from leases.watchdog import Kill

                return Kill(self.last_words)
            case _:
                return Stopper()


def _word_and_call(on_lost: object) -> tuple[str, Callable[..., object] | None]:
    match on_lost:
        case str() if on_lost in WORDS:
            return on_lost, None
        case (str() as word, call) if word in WORDS and callable(call):
            return word, call
        case _ if callable(on_lost):
            return "raise", on_lost
        case _:
            words = ", ".join(f'"{word}"' for word in WORDS)
            raise ConfigurationError(
                f"on_lost={on_lost!r} is neither one of {words} nor a function of (lease, loss) nor both "
                "together, as (word, function); pass one of these"
            )


def _checked_stop_within(given: object, terms: Terms) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not given >= 0:
        raise ConfigurationError(f"stop_within={given!r} is not a number of seconds; pass 0 or more")
    most = terms.hold - terms.renew - terms.attempt
    if given > 0 and given >= most:
        raise ConfigurationError(
            f"stop_within={given:g} s does not fit ttl={terms.ttl:g} s: work would be stopped under a lease "
            f"that is renewed in time; choose less than {max(most, 0):.3g}, or a longer ttl"
        )
    return float(given)


def _refuse_what_cannot_be_had(word: str) -> None:
    if word == "interrupt":
        from leases.interrupting import check_platform

        check_platform()
    elif word == "kill":
        from leases.watchdog import check_platform

        check_platform()
