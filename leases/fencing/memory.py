"""`MemoryFence`: what one process keeps in memory, guarded by the highest token it has seen."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from time import monotonic
from typing import Final

from leases import threads
from leases.errors import ResourceBusy
from leases.fencing.level import Level
from leases.fencing.token import Token, admitted, check_seconds, of_lock
from leases.lease import Lease
from leases.record import check_name

PATIENCE: Final = 10.0


class MemoryFence:
    """Guards what this process keeps in memory: a cache, a connection to a device, a worker's state.

    with fence.admitted(token):
        state[key] = value

    Level: highest token seen; sealed when it is among the ``fences=`` of its lock. The check and the write
    are one step, because nobody else is admitted, and nobody seals, until the body has ended.

    It cannot guard what other processes write too, and it forgets with its process: a fresh one admits any
    token first. What a body has sent elsewhere is on its way, and out of its reach.

    Args:
        name: the lock that guards; tokens of others are refused.
        timeout: seconds to wait for a body that is under way; in a seal over and above the timeout of the
            acquisition. Default 10.

    Raises:
        ConfigurationError: a name or a timeout that cannot work.
    """

    level: Final = Level.SEALED

    def __init__(self, name: str, *, timeout: float = PATIENCE) -> None:
        self.name = check_name(name)
        self.timeout = check_seconds("timeout", timeout)
        self._highest: int | None = None
        self._turns = _Turns()

    @property
    def highest(self) -> int | None:
        """The highest token seen; None before the first."""
        return self._highest

    @contextmanager
    def admitted(self, lease: Lease | Token, /) -> Generator[Token]:
        """Run a body as one step with the check of its token. One body at a time; it cannot be nested.

        Raises:
            StaleToken: a later tenure was here; the body does not run.
            ForeignToken: a token of another lock.
            ResourceBusy: another body did not end in time.
        """
        token = of_lock(self.name, lease)
        bell = threads.Bell()
        ends = monotonic() + self.timeout
        try:
            while not self._turns.mine(bell.ring):
                if (left := ends - monotonic()) <= 0:
                    raise ResourceBusy(self.name, self.timeout)
                bell.wait(left)
            self._highest = admitted(token, self._highest)
            yield token
        finally:
            self._turns.end(bell.ring)

    @asynccontextmanager
    async def admitted_async(self, lease: Lease | Token, /) -> AsyncGenerator[Token]:
        """`admitted` for ``async with``: the body may await, and threads wait for it too."""
        from leases import aio

        token = of_lock(self.name, lease)
        bell = aio.Bell()
        ends = monotonic() + self.timeout
        try:
            while not self._turns.mine(bell.ring):
                if (left := ends - monotonic()) <= 0:
                    raise ResourceBusy(self.name, self.timeout)
                await bell.wait(left)
            self._highest = admitted(token, self._highest)
            yield token
        finally:
            self._turns.end(bell.ring)

    def check(self, lease: Lease | Token, /) -> Token:
        """Compare a token with the highest seen, and remember it. What follows is not one step with that.

        Raises:
            StaleToken, ForeignToken, ResourceBusy: as for `admitted`.
        """
        with self.admitted(lease) as token:
            return token

    async def check_async(self, lease: Lease | Token, /) -> Token:
        """`check`, awaited."""
        async with self.admitted_async(lease) as token:
            return token

    def seal(self, lease: Lease | Token, /) -> None:
        """Shut out all earlier tenures from now on; a body under way ends first.

        Raises:
            StaleToken, ForeignToken, ResourceBusy: as for `admitted`.
        """
        self.check(lease)

    async def seal_async(self, lease: Lease | Token, /) -> None:
        """`seal`, awaited."""
        await self.check_async(lease)

    def __repr__(self) -> str:
        return f'<MemoryFence "{self.name}" highest={self._highest}>'


class _Turns:
    """One at a time, in the order in which they came; who waits is told by a ring, in either colour."""

    def __init__(self) -> None:
        self._mutex, self._process = threading.Lock(), os.getpid()
        self._queue: deque[Callable[[], object]] = deque()  # first: whose turn it is

    def mine(self, ring: Callable[[], object]) -> bool:
        """Whether it is the turn of who has this ring; it gets in line if it is not there yet."""
        self._leave_parent()
        with self._mutex:
            if ring not in self._queue:
                self._queue.append(ring)
            return self._queue[0] == ring

    def end(self, ring: Callable[[], object]) -> None:
        """Leave the line wherever one stands in it; harmless for who never came."""
        self._leave_parent()
        with self._mutex:
            if ring in self._queue:
                self._queue.remove(ring)
            # One that cannot be told has lost its event loop, and will never come.
            while self._queue and self._queue[0]() is False:
                self._queue.popleft()

    def _leave_parent(self) -> None:
        """In the child of a fork: threads of the parent end no body here, and let no mutex go."""
        if self._process != os.getpid():
            self._mutex, self._process, self._queue = threading.Lock(), os.getpid(), deque()
