"""``on_lost="cancel"``: the task is cancelled, and the end of the body makes `LeaseLost` of that.

It counts like `asyncio.timeout`: a cancellation from elsewhere, before or besides, stays one, and several
locks may be nested, or stand inside and outside of timeouts, task groups and anyio's cancel scopes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from leases.errors import LeaseLost
from leases.stopper import Start, Stopper


class Cancel(Stopper):
    """Cancels the task that entered the body; before a body is entered, the one that acquired."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loss: LeaseLost | None = None
        self._cancelled = self._over = False
        self.entered()

    def entered(self) -> None:
        task: asyncio.Task[Any] | None = asyncio.current_task()
        assert task is not None, "who acquires by asyncio is a task"
        self._task, self._before = task, task.cancelling()

    def stop(self, loss: LeaseLost, call: Callable[[], None] | None, start: Start) -> None:
        super().stop(loss, call, start)
        self._loss = loss
        with suppress(RuntimeError):  # Its loop is closed, and the work with it.
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        """In the loop, so that the body is at an await, or has ended and is let alone."""
        if not self._over and not self._cancelled:
            self._cancelled = self._task.cancel()

    def left(self, error: BaseException | None) -> LeaseLost | None:
        self._over = True
        if not self._cancelled:
            return None
        self._cancelled = False
        others = self._task.uncancel() > self._before
        mine = isinstance(error, asyncio.CancelledError) and asyncio.current_task() is self._task
        return self._loss if mine and not others else None

    def end(self) -> None:
        self._over = True
