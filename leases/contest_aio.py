"""Taking part in an election by asyncio: the campaign is the task that asks, the work one of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from leases import aio
from leases.campaign import Freeing, Leading, Part, Step, body, campaigning
from leases.herald import LAST_CALLS, Herald
from leases.keeper import report

if TYPE_CHECKING:
    from leases.lease import Lease
    from leases.reign import Reign

WorkAsync = Callable[["Lease"], Awaitable[object]]


async def take_part_async(part: Part, bell: aio.Bell, work: WorkAsync) -> None:
    """Campaign in this task, and work in tasks of its own; the errors of `campaigning`."""
    script = campaigning(part)
    try:
        part.open()
        step: Step = next(script)
        while True:
            thrown = answer = None
            if isinstance(step, Leading):
                answer = await _worked_async(part, step.reign, work)
            elif isinstance(step, Freeing):
                await step.lease.release_async(to=step.to)
            elif callable(step):
                thrown = await _called_async(step)
            else:
                await bell.wait(step)
            step = script.send(answer) if thrown is None else script.throw(thrown)
    except StopIteration:
        return
    finally:
        try:
            script.close()
        finally:
            part.close()


async def _worked_async(part: Part, reign: Reign, work: WorkAsync) -> BaseException | None:
    """Run the work as a task, and come back when it has stopped, whoever is cancelled meanwhile."""

    async def run() -> None:
        with body(reign.lease, part.me()):
            if not (reign.lease.ending or reign.lease.lost):  # It may have taken a while to get here.
                await work(reign.lease)

    task = asyncio.create_task(run(), name=f"leases-work-{reign.lease.name}")
    part.mine.add(task)
    ending = asyncio.create_task(reign.lease.ending.wait_async())
    told, cut_off = False, None
    while not task.done():
        try:
            await asyncio.wait({task} if told else {task, ending}, return_when=asyncio.FIRST_COMPLETED)
            stop = ending.done() and not told
        except asyncio.CancelledError as error:
            cut_off, stop = error, True
            reign.ask()
        if stop:
            told = True
            task.cancel()
    ending.cancel()
    part.mine.discard(task)
    if task.cancelled():
        return cut_off if told else asyncio.CancelledError()
    failure = task.exception()
    return cut_off if failure is None or reign.forgives(failure) else failure


async def _called_async(step: Callable[[], object]) -> BaseException | None:
    try:
        await aio.in_thread(step)
    except Exception as error:
        return error
    return None


class TaskHerald(Herald):
    """Calls on the running event loop, and awaits what a coroutine function gives."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Callable[[], object] | None] = asyncio.Queue()
        self._late = False
        self.me = self._task = self._loop.create_task(self._run(), name=f"leases-herald-{name}")

    def tell(self, call: Callable[..., object], *args: object) -> None:
        self._put(partial(call, *args))

    def flush(self, timeout: float) -> None:
        told = threading.Event()
        self._put(told.set)
        told.wait(timeout)

    async def close(self) -> None:
        """Wait until all was called that was told, unless that takes too long; then the task ends."""
        self._put(None)
        _, late = await asyncio.wait({self._task}, timeout=LAST_CALLS)
        self._late = bool(late)
        for task in late:
            task.cancel()

    def _put(self, call: Callable[[], object] | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, call)
        except RuntimeError:  # The loop is closed, and nobody can be told.
            return

    async def _run(self) -> None:
        call: Callable[[], object] | None = None
        while True:
            try:
                call = await self._queue.get()
                if call is None:
                    return
                result = call()
                if isinstance(result, Awaitable):
                    await result
            except asyncio.CancelledError as error:
                if self._late:
                    raise
                # Of the callback, or of all tasks there are: what is still to be told is told all the same.
                self._task.uncancel()
                if call is not None:
                    report("a callback of an elector was cancelled: %r", call, error)
            except Exception as error:
                report("a callback of an elector failed: %r", call, error)
            call = None
