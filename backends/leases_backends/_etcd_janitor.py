"""Janitor leases: they remove the records of processes that died, and decide nothing.

A record goes when the lease that its last write named runs out, so that lease has to outlast whatever anybody
believes of the record. It is granted for ten times the longest ttl in use, a minute at least, and a write
names it for the first half of that, counted from before it was asked for. It is never kept alive, which a
leader that was deposed would acknowledge, and never revoked, which would free locks that were left to expire.

Nobody waits for a grant: until it is there, writes name none. The first renewal names it at the latest.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from leases.clock import Clock, system_clock
from leases_backends import _etcd_messages as messages
from leases_backends._etcd_wire import GRANT, Rpc

LEAST_S: Final = 60.0
TIMES: Final = 10
_PATIENCE_S: Final = 5.0

Q = TypeVar("Q")
A = TypeVar("A")


class Asker(Protocol):
    """What asks in the background."""

    def ask(self, rpc: Rpc[Q, A], question: Q, timeout: float, done: Callable[[A | None], None]) -> None: ...


@dataclass(frozen=True, slots=True)
class _Janitor:
    """A lease: its number, how many seconds it was granted for, and when it was asked for."""

    id: int
    seconds: float
    sent: float


class Janitors:
    """The leases of this process in one cluster."""

    def __init__(self, client: Asker, clock: Clock = system_clock) -> None:
        self._client = client
        self._clock = clock
        self._longest = 0.0
        self._newest: _Janitor | None = None
        self._asked: float | None = None
        self._mutex = threading.Lock()

    def lease(self, ttl: float) -> int:
        """What a write of a record with this ttl is to name; 0 for none."""
        return newest.id if (newest := self._newest) is not None and self._fits(newest, ttl) else 0

    def replenish(self, ttl: float) -> None:
        """Ask for the next one, in the background, if the newest does not do any more for this ttl."""
        newest = self._newest
        if newest is not None and self._fits(newest, ttl):
            return
        with self._mutex:
            now = self._clock().hold
            if self._asked is not None and now - self._asked < 2 * _PATIENCE_S:
                return
            self._asked = now
            self._longest = max(self._longest, ttl)
            seconds = math.ceil(max(TIMES * self._longest, LEAST_S))

        def granted(answer: messages.LeaseGrantResponse | None) -> None:
            if answer is not None and answer.ID:
                self._newest = _Janitor(answer.ID, answer.TTL, now)
                self._asked = None

        self._client.ask(GRANT, messages.LeaseGrantRequest(TTL=seconds), _PATIENCE_S, granted)

    def gone(self, lease: int) -> None:
        """etcd does not know it any more: name it no longer."""
        newest = self._newest
        if newest is not None and newest.id == lease:
            self._newest = None

    def forked(self) -> None:
        """In the child of a fork: leases of its own."""
        self._mutex = threading.Lock()
        self._newest = self._asked = None

    def _fits(self, janitor: _Janitor, ttl: float) -> bool:
        return TIMES * ttl <= janitor.seconds and self._clock().hold - janitor.sent < janitor.seconds / 2
