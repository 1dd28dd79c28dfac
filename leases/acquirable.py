"""What can be acquired, be it one lock or several: all that follows from `acquire`, in both colours."""

from __future__ import annotations

import threading
from typing import Final, Generic, Protocol, TypeVar

from leases.errors import AcquireTimeout
from leases.lease import Timeout


class Default:
    """What stands for a timeout that was not given."""

    def __repr__(self) -> str:
        return "the lock's own timeout"


DEFAULT: Final = Default()


class Releasable(Protocol):
    """What an acquisition gives."""

    @property
    def held(self) -> bool: ...
    def release(self) -> None: ...
    async def release_async(self) -> None: ...


L = TypeVar("L", bound=Releasable)


class Acquirable(Generic[L]):
    """A lock, as far as it does not matter of what it is made.

    Attributes:
        _held: what was acquired by this very object, and by which thread or task; until it is released.
    """

    _held: dict[L, object]

    def acquire(self, timeout: Timeout | Default = DEFAULT) -> L:
        """Wait for the lock and return its lease."""
        raise NotImplementedError

    async def acquire_async(self, timeout: Timeout | Default = DEFAULT) -> L:
        """`acquire`, awaited."""
        raise NotImplementedError

    def try_acquire(self) -> L | None:
        """The lease if it is to be had now, None if another holds the lock; other failures raise."""
        try:
            return self.acquire(0)
        except AcquireTimeout:
            return None

    async def try_acquire_async(self) -> L | None:
        """`try_acquire`, awaited."""
        try:
            return await self.acquire_async(0)
        except AcquireTimeout:
            return None

    def release(self) -> None:
        """Release what this thread acquired last by this object, or else what any thread did.

        Raises:
            RuntimeError: nothing is held by this object.
        """
        self._last(threading.get_ident()).release()

    async def release_async(self) -> None:
        """`release`, awaited: what this task acquired last, or else any."""
        await self._last(this_task()).release_async()

    @property
    def held(self) -> bool:
        """Whether a lease acquired by this very object stands at this instant."""
        return any(lease.held for lease in list(self._held))

    @property
    def _called(self) -> str:
        """What it is, for errors: it is, or they are."""
        raise NotImplementedError

    def _last(self, me: object) -> L:
        held = list(self._held.items())
        mine = [lease for lease, who in held if who == me] or [lease for lease, _ in held]
        if not mine:
            raise RuntimeError(f"{self._called} not held by this object; acquire first")
        return mine[-1]


def this_task() -> object:
    """The task of asyncio that runs."""
    import asyncio

    return asyncio.current_task()
