"""What ends the work of one lease: told when it begins, when it is to stop, and when it has stopped."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from leases.clock import Clock
from leases.errors import LeaseLost
from leases.events import Event
from leases.hooks import relay
from leases.keeper import Plan, Timekeeper, drop

EXIT_CODE: Final = 70  # EX_SOFTWARE, as `leases hold` exits after a loss

Start = Callable[[Callable[[], None]], None]


class Ending(Protocol):
    """A lease, as what ends its work sees it."""

    @property
    def name(self) -> str: ...
    @property
    def deadline(self) -> float: ...
    def listen(self, hear: Callable[[Event], object]) -> Callable[[], None]: ...


class Stopper:
    """Stops the work of one lease. This one does no more than to call what is to be called."""

    def begin(self, lease: Ending, clock: Clock, stop_within: float) -> None:
        """The lease was acquired, and nobody was told yet. If it raises, `end` follows.

        Raises:
            ConfigurationError: its work could not be stopped.
        """

    def entered(self) -> None:
        """A body begins under it, in another task maybe than the one that acquired."""

    def stop(self, loss: LeaseLost, call: Callable[[], None] | None, start: Start) -> None:
        """The work is to stop now; called once at most, from any thread, and must not wait.

        Args:
            loss: why.
            call: what is to be called besides.
            start: calls something in a thread of its own.
        """
        if call is not None:
            start(call)

    def left(self, error: BaseException | None) -> LeaseLost | None:
        """A body has ended by this error; the loss to raise instead, where the error came of `stop`."""
        return None

    def end(self) -> None:
        """The work has stopped, and nothing may stop it any more. Harmless when repeated."""


class Exit(Stopper):
    """Ends the process with code 70, whatever its threads do, as long as Python runs any.

    Nothing is unwound: no `finally`, no `atexit`. What is logged and buffered is written out first, if that
    takes no longer than the time between the deadline and the earliest takeover allows.

    Args:
        patience: seconds for that.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._ended = False

    def stop(self, loss: LeaseLost, call: Callable[[], None] | None, start: Start) -> None:
        start(lambda: self._exit(loss, call))

    def _exit(self, loss: LeaseLost, call: Callable[[], None] | None) -> None:
        say_last_words(f"{loss}; the process exits", call, self._patience)
        if not self._ended:
            os._exit(EXIT_CODE)

    def end(self) -> None:
        self._ended = True


def say_last_words(message: str, call: Callable[[], None] | None, patience: float) -> None:
    """Log, call back and write out what is buffered, for so many seconds at most: a pipe may be full."""

    def say() -> None:
        import logging

        if call is not None:
            call()
        relay.flush(patience)
        logging.getLogger("leases").critical(message)
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()

    with suppress(RuntimeError):  # The interpreter is ending.
        thread = threading.Thread(target=say, name="leases-last-words", daemon=True)
        thread.start()
        thread.join(patience)


class Early:
    """The instant before the deadline at which the work is to stop; the keeper looks at it.

    Args:
        left: seconds until then; None when it does not matter any more.
        stop: called then, once.
        keeper: of the store.
    """

    def __init__(
        self, left: Callable[[], float | None], stop: Callable[[], None], keeper: Timekeeper
    ) -> None:
        self._left, self._stop, self._keeper = left, stop, keeper
        self.plan: Plan | None = None

    def tick(self) -> None:
        """Stop the work if it is time, or look again when it may be: renewals move it on."""
        left = self._left()
        if left is None:
            return
        if left > 0:
            self._keeper.keep(self, left)
        else:
            self._stop()

    def end(self) -> None:
        """Look no more."""
        self._left = _of_no_account
        drop(self)


class Afterwards:
    """Looks on at the lock of a lease that has run out, under work that goes on all the same.

    Args:
        over: asks the store, and may wait: whether there is nothing more to look for.
        every: seconds from one look to the next.
        keeper: of the store.
        send: has a function called by a thread that may wait.
    """

    def __init__(
        self,
        over: Callable[[], bool],
        every: float,
        keeper: Timekeeper,
        send: Callable[[Callable[[], object]], object],
    ) -> None:
        self._over, self._every, self._keeper, self._send = over, every, keeper, send
        self._ended = False
        self.plan: Plan | None = None
        keeper.keep(self, every)

    def tick(self) -> None:
        """It is time for a look."""
        if not self._ended:
            self._send(self._look)

    def _look(self) -> None:
        if not self._ended and not self._over():
            self._keeper.keep(self, self._every)

    def end(self) -> None:
        """Look no more."""
        self._ended = True
        drop(self)


def _of_no_account() -> None:
    """Nothing is left that could be stopped."""
