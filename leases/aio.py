"""The driver for asyncio: it waits by awaiting; keeper and couriers carry out requests, off the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, TypeVar

from leases.hub import Countdown, Hub, Ticket
from leases.script import Seal, Wait, acquiring, connecting, releasing

if TYPE_CHECKING:
    from leases.tenure import Tenure, Wish

T = TypeVar("T")


class Bell:
    """Wakes the one task that waits for it, from any thread; a ring before the wait is not lost."""

    __slots__ = ("_event", "_loop")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def ring(self) -> bool:
        """Wake the waiter, now or when it comes; False if its loop is closed, and it never comes."""
        try:
            self._loop.call_soon_threadsafe(self._event.set)
        except RuntimeError:
            return False
        return True

    async def wait(self, timeout: float | None) -> None:
        """Wait for a ring, for at most `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            return
        self._event.clear()


async def acquire(
    hub: Hub,
    wish: Wish,
    timeout: float | None,
    ticket: Ticket,
    bell: Bell,
    fences: Sequence[Seal] = (),
    spent: float = 0.0,
) -> Tenure:
    """Acquire; the errors are those of `leases.script.acquiring`. The ticket rings the bell."""
    return await run(acquiring(hub, wish, timeout, ticket, here=False, fences=fences, spent=spent), bell)


async def release(tenure: Tenure, successor: str | None = None) -> None:
    """Release, the work being stopped."""
    bell = Bell()
    await run(releasing(tenure, bell.ring, here=False, successor=successor), bell)


async def in_thread(function: Callable[[], object]) -> None:
    """Call what may block, off the loop."""
    await asyncio.to_thread(function)


async def connect(url: str, countdown: Countdown) -> None:
    """Connect in time; the errors are those of `leases.script.connecting`."""
    bell = Bell()
    await run(connecting(url, bell.ring, countdown), bell)


async def run(script: Generator[Wait, None, T], bell: Bell) -> T:
    """Run a script to its end."""
    try:
        while True:
            try:
                wait = next(script)
            except StopIteration as stop:
                result: T = stop.value
                return result
            if callable(wait):
                await asyncio.to_thread(wait)
            else:
                await bell.wait(wait)
    except BaseException:  # Now, and not when nobody looks at the error any more.
        script.close()
        raise
