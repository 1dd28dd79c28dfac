"""Who wants to hear of every claim of this process: metrics, traces, and whatever else watches it run.

A listener is for the whole process and hears of each acquisition, in order: `Began`, then `Acquired` or
`NotAcquired`. After `Acquired` it hears any number of `Renewed` and `Endangered`, and at last `Lost` or
`Released`, exactly one of them and once; of `Answered` it hears at any time. It is called where it happens,
which may be in the thread that renews every lease: it must not wait. What may take long is for `relay`.

Where nobody listens all this costs a look at an empty tuple.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from leases.contract import Applied, Conflict, Outcome, Refused, Slot, Unknown
from leases.events import Endangered, Lost, Released, Renewed
from leases.keeper import report

if TYPE_CHECKING:
    from queue import SimpleQueue


class Began(NamedTuple):
    """Somebody wants a lock, in the thread or task that is told this."""


class Acquired(NamedTuple):
    """The lock was acquired, `waited` seconds after it was wanted."""

    waited: float
    token: int


class NotAcquired(NamedTuple):
    """The lock was not acquired, `waited` seconds after it was wanted.

    `outcome` is ``timed out``, ``called off`` (cancelled, interrupted) or ``failed``.
    """

    waited: float
    outcome: str
    error: BaseException


class Answered(NamedTuple):
    """A request to the store came to its end.

    Attributes:
        aim: ``read``, ``acquire``, ``renew`` or ``release``.
        outcome: ``applied``, ``conflict``, ``unknown``, ``refused``; ``answered`` for a read.
        seconds: how long the store took.
        error: what went wrong, where something did.
    """

    aim: str
    outcome: str
    seconds: float
    error: Exception | None = None


Told = Began | Acquired | NotAcquired | Answered | Renewed | Endangered | Lost | Released
Listener = Callable[["Subject", Told], object]


class Subject:
    """One acquisition and the tenure that it leads to: the same object in all that is told of it.

    Attributes:
        name: the lock.
        store: which store, without secrets.
        holder: who wants or has it.
        began: when it was wanted, on the waiter's clock.
        token: the fencing token, once it is acquired.
        acquired: whether it was.
        ended: whether its tenure is over.
    """

    __slots__ = ("__weakref__", "acquired", "began", "ended", "holder", "name", "store", "token")

    def __init__(self, name: str, store: str, holder: str, began: float) -> None:
        self.name, self.store, self.holder, self.began = name, store, holder, began
        self.token: int | None = None
        self.acquired = self.ended = False


class Hooks:
    """The listeners of this process."""

    __slots__ = ("_mutex", "listeners")

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self.listeners: tuple[Listener, ...] = ()

    def listen(self, listener: Listener) -> None:
        """Tell it everything from now on; once, however often it is added."""
        with self._mutex:
            if listener not in self.listeners:
                self.listeners = (*self.listeners, listener)

    def leave(self, listener: Listener) -> None:
        """Tell it nothing more; harmless where it does not listen."""
        with self._mutex:
            self.listeners = tuple([other for other in self.listeners if other != listener])

    def tell(self, subject: Subject, told: Told) -> None:
        """Tell all who listen; of a tenure nothing before its beginning or after its end."""
        match told:
            case Acquired(_, token):
                subject.acquired, subject.token = True, token
            case NotAcquired() if subject.acquired:  # It was, and was undone by an interruption.
                return
            case Lost() | Released():
                if subject.ended or not subject.acquired:
                    return
                subject.ended = True
            case Renewed() | Endangered():
                if subject.ended or not subject.acquired:
                    return
            case _:
                pass
        for listener in self.listeners:
            try:
                listener(subject, told)
            except Exception as error:
                report("a listener failed on %r", told, error)

    def renew_after_fork(self) -> None:
        """In the child of a fork: who listened listens here too, and no thread of the parent's is here."""
        self._mutex = threading.Lock()


def outcome_of(aim: str, outcome: Outcome | Slot | Refused, seconds: float) -> Answered:
    """What is told of an outcome."""
    match outcome:
        case Applied():
            return Answered(aim, "applied", seconds)
        case Conflict():
            return Answered(aim, "conflict", seconds)
        case Unknown(cause):
            return Answered(aim, "unknown", seconds, cause)
        case Refused(cause):
            return Answered(aim, "refused", seconds, cause)
        case Slot():
            return Answered(aim, "answered", seconds)


class Relay:
    """A thread that calls, in order, what the threads of the library must not wait for: logs and exporters.

    It is started by the first call, and is no hindrance to the end of the process, which waits for at most
    `AT_EXIT` seconds for what is left. Beyond `MOST` calls that nobody has carried out, more are dropped.
    """

    MOST: Final = 10_000
    AT_EXIT: Final = 1.0

    __slots__ = ("_calls", "_starting", "_thread")

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._calls: SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]]] | None = None

    def post(self, call: Callable[..., object], *args: Any) -> None:
        """Have it called soon; where no thread can be started, now."""
        calls = self._calls
        if calls is None or self._thread is None:
            calls = self._start()
        if calls is None:
            _attempt(call, args)
        elif calls.qsize() < self.MOST:
            calls.put((call, args))

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until all that was posted is carried out, for at most so many seconds; whether it is."""
        if self._thread is None or self._thread is threading.current_thread():
            return True
        done = threading.Event()
        self.post(done.set)
        return done.wait(timeout)

    def _start(self) -> SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]]] | None:
        import atexit
        from queue import SimpleQueue

        with self._starting:
            if self._thread is not None:
                return self._calls
            calls = self._calls = self._calls or SimpleQueue()
            thread = threading.Thread(target=self._run, args=(calls,), name="leases-relay", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # The interpreter is ending, or the system has no thread to spare.
                return None
            self._thread = thread
            atexit.register(self.flush, self.AT_EXIT)
            return calls

    def _run(self, calls: SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]]]) -> None:
        try:
            while True:
                _attempt(*calls.get())
        finally:  # Should something end it all the same, the next call starts another.
            self._thread = None


def _attempt(call: Callable[..., object], args: tuple[Any, ...]) -> None:
    try:
        call(*args)
    except Exception as error:
        report("a listener failed on %r", call, error)


hooks: Final = Hooks()
relay: Final = Relay()


def _in_the_child() -> None:
    hooks.renew_after_fork()
    relay.__init__()  # type: ignore[misc] # the same object, because others have imported it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_the_child)
