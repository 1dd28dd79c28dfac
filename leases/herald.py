"""Who calls callbacks: one after another, and in nobody's way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Final

from leases.keeper import report

LAST_CALLS: Final = 2.0  # seconds at most for what is still to be called at the end


class Herald:
    """Calls nobody.

    Attributes:
        me: the thread or task that calls.
    """

    me: object = None

    def tell(self, call: Callable[..., object], *args: object) -> None:
        """Call it after all that was told before; it waits for nothing."""

    def flush(self, timeout: float) -> None:
        """Wait until all was called that was told before, for so many seconds at most."""


class ThreadHerald(Herald):
    """Calls in a thread of its own."""

    def __init__(self, name: str) -> None:
        self._queue: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"leases-herald-{name}", daemon=True)
        self._thread.start()
        self.me = self._thread.ident

    def tell(self, call: Callable[..., object], *args: object) -> None:
        self._queue.put(partial(call, *args))

    def flush(self, timeout: float) -> None:
        if threading.current_thread() is not self._thread:
            told = threading.Event()
            self._queue.put(told.set)
            told.wait(timeout)

    def close(self) -> None:
        """Wait until all was called that was told, unless that takes too long; then the thread ends."""
        self._queue.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(LAST_CALLS)

    def _run(self) -> None:
        while (call := self._queue.get()) is not None:
            try:
                call()
            except BaseException as error:  # Not even SystemExit may keep the next from being called.
                report("a callback of an elector failed: %r", call, error)
