"""One call of a function under `leader_only`: admitted under a lease, run, ended as was agreed, and left."""

# pyright: reportPrivateUsage=false
# What stops a call goes by the clock of its lease.

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Protocol

from leases.lease import Grip

if TYPE_CHECKING:
    from leases.endings import Manner
    from leases.errors import LeaseLost
    from leases.stopper import Stopper

# The innermost call that goes on in a thread or task, or did when a task was made.
current_call: ContextVar[Call | None] = ContextVar("leases-call", default=None)


class Leading(Protocol):
    """Under whose lease calls run."""

    manner: Manner

    def left(self, call: Call, /) -> None:
        """A call has ended."""


class Call(Grip):
    """One call, from the question whether it may run until it has ended."""

    __slots__ = ("_stopped", "_stopper", "_token", "leadership", "outer")

    def __init__(self, leadership: Leading) -> None:
        super().__init__()
        self.leadership = leadership
        self.outer = current_call.get()
        self._token: Token[Call | None] | None = None
        self._stopper: Stopper | None = None
        self._stopped = False

    def begin(self, *, awaited: bool) -> None:
        """The function is called next."""
        assert self.lease is not None, "a call begins under a lease"
        self._token = current_call.set(self)
        manner = self.leadership.manner
        if manner.word != "raise":
            manner.check_here(awaited=awaited)
            self._stopper = manner.stopper()
            self._stopper.begin(self.lease, self.lease._tenure.hub.clock, manner.stop_within)
            self._stopper.entered()
            if (end := self.lease.ending) and end.reason != "released":
                self.lease.check()  # The loss came when there was nothing yet that could stop this call.

    def stop(self, loss: LeaseLost) -> None:
        """The lease is over: end the call as was agreed, once."""
        if self._stopper is not None and not self._stopped:
            self._stopped = True
            self._stopper.stop(loss, None, _start)

    def leave(self, error: BaseException | None) -> None:
        """The function has ended: raise the loss that it ran into, if any."""
        assert self.lease is not None, "a call runs under a lease"
        loss = self._ended(error)
        try:
            self.lease.leave(self, error if loss is None else loss)
        finally:
            self.leadership.left(self)
        if loss is not None:
            raise loss from error

    async def leave_async(self, error: BaseException | None) -> None:
        """`leave`, awaited."""
        assert self.lease is not None, "a call runs under a lease"
        loss = self._ended(error)
        try:
            await self.lease.leave_async(self, error if loss is None else loss)
        finally:
            self.leadership.left(self)
        if loss is not None:
            raise loss from error

    def abandon(self) -> None:
        """Leave nothing behind, wherever it was interrupted; harmless where it has left already."""
        self._ended(None)
        if self.lease is not None and not self.ended:
            self.lease.abandon(self)
        self.leadership.left(self)

    def _ended(self, error: BaseException | None) -> LeaseLost | None:
        token, self._token = self._token, None
        if token is not None:
            with suppress(ValueError):  # A coroutine that is thrown away ends in a context of others.
                current_call.reset(token)
        if self._stopper is None:
            return None
        try:
            return self._stopper.left(error)
        finally:
            self._stopper.end()

    def of(self, leadership: Leading) -> Call | None:
        """The innermost call of a leadership among this one and those around it."""
        call: Call | None = self
        while call is not None and call.leadership is not leadership:
            call = call.outer
        return call


def _start(call: Callable[[], None]) -> None:
    threading.Thread(target=call, name="leases-on-lost", daemon=True).start()
