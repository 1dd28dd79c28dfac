"""``on_lost="interrupt"``: `LeaseLost` is raised in the main thread, as Ctrl-C raises `KeyboardInterrupt`.

Of all that can be done to a thread only a signal's handler that raises ends its sleeping, its waiting for a
lock and its reading from a socket at once. So for as long as such a lease is held, and because it was asked
for by this word, SIGURG has a handler of ours: it is ignored where nobody has one, so that a signal which
comes late does no harm. Ctrl-C is left alone. Whose handler it was before is called for what is not ours, and
has the signal back when the last such lease has ended.
"""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from leases import threads
from leases.clock import Clock
from leases.contract import Backend
from leases.errors import ConfigurationError, LeaseLost
from leases.events import Event, Lost
from leases.stopper import Ending, Start, Stopper

_SIGNAL: Final = getattr(signal, "SIGURG", None)
_FIRST_WAIT: Final = 0.02  # seconds until the next try, where the first met the end of another body
_LONGEST_WAIT: Final = 1.0
# Where a body of ours ends: an error in there would be no longer the body's, and the next try comes soon.
_ENDS: Final = frozenset({"__exit__", "abandon", "leave", "release", "undo", "withdraw"})
# Where errors of a store are caught, and ours would be taken for one: there, too, the next try comes soon.
# So it does in our own handler, which the next signal may strike while it is about to raise.
_INSIDE: Final = (
    "leases.interrupting",
    "leases.hub", "leases.keeper", "leases.machine", "leases.script", "leases.tenure",
    # Where an elector has no work under way: the next try finds it in the work, or that it has none.
    "leases.campaign", "leases.herald", "leases.progress", "leases.reign", "leases.rivals",
)  # fmt: skip
# What comes out of what these have called when an object is gone, Python only prints.
_DEAF: Final = frozenset({"_weakrefset", "weakref"})
_AROUND_WORK: Final = "leases.contest"  # is on the stack of all the work of electors


def check_platform() -> None:
    """Refuse where a thread cannot be interrupted.

    Raises:
        ConfigurationError: this platform has no such signal.
    """
    if _SIGNAL is None or not hasattr(signal, "pthread_kill"):
        raise ConfigurationError(
            'on_lost="interrupt" needs signals that this platform does not have; pass "exit", or look at '
            "lease.ending between the steps of the work"
        )


def check_here(*, awaited: bool) -> None:
    """Refuse an acquisition whose body could not be interrupted.

    Raises:
        ConfigurationError: not in the main thread of the main interpreter, or by asyncio.
    """
    if awaited:
        raise ConfigurationError(
            'on_lost="interrupt" would raise in the middle of the event loop; pass on_lost="cancel" for tasks'
        )
    if threading.current_thread() is not threading.main_thread():
        raise ConfigurationError(
            'on_lost="interrupt" interrupts the main thread, and this acquisition is of another; acquire in '
            'the main thread, or pass "exit" or "kill"'
        )
    if signal.getsignal(_signal()) is None:
        raise ConfigurationError(
            'on_lost="interrupt" needs SIGURG, which something outside of Python handles; pass "exit"'
        )


class Interrupt(Stopper):
    """Raises the loss in the main thread, once, as long as the body has not begun to end."""

    def __init__(self) -> None:
        self.loss: LeaseLost | None = None  # set when it is to be raised
        self._over = False
        self._bell = threads.Bell()  # An Event could be left locked by Ctrl-C.
        self._unheard: Callable[[], None] = _nothing

    def begin(self, lease: Ending, clock: Clock, stop_within: float) -> None:
        self._unheard = lease.listen(self._hear)
        try:
            _main.add(self)
        except ValueError as error:
            raise ConfigurationError(
                'on_lost="interrupt" works in the main interpreter alone; pass "exit" or "kill"'
            ) from error

    def stop(self, loss: LeaseLost, call: Callable[[], None] | None, start: Start) -> None:
        super().stop(loss, call, start)
        self.loss = loss
        start(self._knock)

    def _knock(self) -> None:
        wait = _FIRST_WAIT
        while not self._over:
            _main.signal()
            self._bell.wait(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    def _hear(self, event: Event) -> None:
        if isinstance(event, Lost) and event.reason == "forked":
            self.end()

    def end(self) -> None:
        self._over = True
        _main.remove(self)
        self._bell.ring()
        self._unheard()


class _Main:
    """The main thread's handler, and whom it serves."""

    def __init__(self) -> None:
        self._served: list[Interrupt] = []
        self._before: Any = signal.SIG_DFL

    def add(self, one: Interrupt) -> None:
        """Serve it. In the main thread.

        Raises:
            ValueError: this is the main thread of another interpreter.
        """
        self._served.append(one)
        if signal.getsignal(_signal()) != self._handle:
            self._before = signal.getsignal(_signal())
            signal.signal(_signal(), self._handle)

    def remove(self, one: Interrupt) -> None:
        """Serve it no more; with the last, the signal is given back."""
        if one in self._served:
            self._served.remove(one)
        if self._served:
            return
        if threading.current_thread() is threading.main_thread():
            self._give_back()
        elif signal.getsignal(_signal()) == self._handle:
            self.signal()  # Only the main thread may; its handler does.

    def signal(self) -> None:
        """Have the main thread call the handler, whatever it waits for."""
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, _signal())

    def _handle(self, number: int, frame: FrameType | None) -> None:
        due = [one for one in self._served if one.loss is not None]
        if due and _may_raise(frame):
            due[0].end()
            assert due[0].loss is not None
            raise due[0].loss
        if not self._served:
            self._give_back()
        if not due and callable(self._before):
            self._before(number, frame)

    def _give_back(self) -> None:
        """What has come of the signal until now is handled in there, before the handler is another."""
        if signal.getsignal(_signal()) == self._handle:
            try:
                signal.signal(_signal(), self._before)
            except BaseException:  # Ctrl-C, which came before.
                signal.signal(_signal(), self._before)
                raise


def _nothing() -> None:
    """Nobody listens yet."""


def _signal() -> int:
    assert _SIGNAL is not None
    return int(_SIGNAL)


def _may_raise(frame: FrameType | None) -> bool:
    """Whether an error from there is the body's: no body of ours ends there, and no store is talked to.

    Nor would it come out of a destructor, of what the garbage collector calls, or of the end of a weak
    reference: Python prints what is raised there. A callback of somebody's own is not known for one.
    """
    collectors = [getattr(callback, "__code__", None) for callback in gc.callbacks]
    if frame is not None and frame.f_globals.get("__name__") == _AROUND_WORK:
        return False
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("leases.") and frame.f_code.co_name in _ENDS:
            return False
        if module in _INSIDE or isinstance(frame.f_locals.get("self"), Backend):
            return False
        if module in _DEAF or frame.f_code.co_name == "__del__" or frame.f_code in collectors:
            return False
        frame = frame.f_back
    return True


_main: Final = _Main()
