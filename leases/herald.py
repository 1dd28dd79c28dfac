"""Who calls callbacks: one after another, and in nobody's way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from queue import SimpleQueue
from typing import Final

from leases.keeper import report

_LAST_CALLS: Final = 2.0  # seconds at most for what is still to be called at the end


class Herald:
    """Calls nobody.

    Attributes:
        thread: the identity of the thread that calls, if it is one of its own.
        task: the task that calls, if it is one.
    """

    thread: int | None = None
    task: asyncio.Task[None] | None = None

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
        self.thread = self._thread.ident

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
            self._thread.join(_LAST_CALLS)

    def _run(self) -> None:
        while (call := self._queue.get()) is not None:
            try:
                call()
            except BaseException as error:  # Not even SystemExit may keep the next from being called.
                report("a callback of an elector failed: %r", call, error)


class TaskHerald(Herald):
    """Calls on the running event loop, and awaits what a coroutine function gives."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Callable[[], object] | None] = asyncio.Queue()
        self.task = self._loop.create_task(self._run(), name=f"leases-herald-{name}")

    def tell(self, call: Callable[..., object], *args: object) -> None:
        self._put(partial(call, *args))

    def flush(self, timeout: float) -> None:
        told = threading.Event()
        self._put(told.set)
        told.wait(timeout)

    async def close(self) -> None:
        """Wait until all was called that was told, unless that takes too long; then the task ends."""
        self._put(None)
        assert self.task is not None
        _, late = await asyncio.wait({self.task}, timeout=_LAST_CALLS)
        for task in late:
            task.cancel()

    def _put(self, call: Callable[[], object] | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, call)
        except RuntimeError:  # The loop is closed, and nobody can be told.
            return

    async def _run(self) -> None:
        while (call := await self._queue.get()) is not None:
            try:
                result = call()
                if isinstance(result, Awaitable):
                    await result
            except Exception as error:
                report("a callback of an elector failed: %r", call, error)
