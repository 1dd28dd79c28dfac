"""What was shown last, to whom every change goes, and who has led: the part that runs on the event loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from leases import aio
from leases.keeper import report

if TYPE_CHECKING:
    from leases.sidecar.candidate import Candidate
    from leases.sidecar.state import State

LISTENERS: Final = 100
BACKLOG: Final = 16  # changes that wait for one slow reader before it is dropped
HISTORY: Final = 50
_GRAIN: Final = 0.001  # seconds, so that a wait for an instant ends after it


class Change(NamedTuple):
    """A state, and the how many-th change it was."""

    number: int
    state: State


@dataclass(frozen=True, slots=True)
class Tenure:
    """A leader that was seen here.

    Attributes:
        name: who.
        token: the fencing token.
        since: wall time of its election, Unix seconds, by its own clock.
        seen: when it was first seen here, on the holder's clock.
        over: when it was seen to be over; None while it leads.
        until: the same as wall time.
        own: whether it was this candidate.
    """

    name: str
    token: int | None
    since: float | None
    seen: float
    own: bool
    over: float | None = None
    until: float | None = None


class TooMany(Exception):
    """No more listeners are taken."""


class Listener:
    """One who hears of changes; `None` is the end, because it was too slow or because all is over."""

    def __init__(self) -> None:
        self._changes: asyncio.Queue[Change | None] = asyncio.Queue()
        self.over = False

    def tell(self, change: Change | None) -> None:
        """A change, or the end."""
        if not self.over:
            self.over = change is None or self._changes.qsize() >= BACKLOG
            self._changes.put_nowait(None if self.over else change)

    async def next(self) -> Change | None:
        """The next change, when there is one."""
        return await self._changes.get()


class Board:
    """Follows a candidate, and tells of every change.

    Attributes:
        candidate: whom it follows.
        last: what was told last.
        closed: whether nothing more will be told.
    """

    def __init__(self, candidate: Candidate, *, listeners: int = LISTENERS) -> None:
        self.candidate = candidate
        self.last = Change(0, candidate.state())
        self.closed = False
        self._most = listeners
        self._listeners: set[Listener] = set()
        self._tellers: list[Callable[[State], object]] = []
        self._history: deque[Tenure] = deque(maxlen=HISTORY)
        self._bell: aio.Bell | None = None

    @property
    def listening(self) -> int:
        """How many listen."""
        return len(self._listeners)

    def on_change(self, tell: Callable[[State], object]) -> None:
        """Call it at every change, on the event loop; it must not wait."""
        self._tellers.append(tell)

    def check_room(self) -> None:
        """Return if one more may listen.

        Raises:
            TooMany: there are enough of them.
        """
        if len(self._listeners) >= self._most:
            raise TooMany

    @contextmanager
    def listener(self) -> Generator[Listener, None, None]:
        """One more listener, as long as the body lasts; first it hears what is so.

        Raises:
            TooMany: there are enough of them.
        """
        self.check_room()
        state = self._look()  # What is news is told to all others first, and not to this one twice.
        one = Listener()
        one.tell(Change(self.last.number, state))
        if self.closed:
            one.tell(None)
        self._listeners.add(one)
        try:
            yield one
        finally:
            self._listeners.discard(one)

    def history(self) -> list[dict[str, Any]]:
        """Who has led, newest first; `seen_ago` and `over_ago` are relative to this moment."""
        now = self.candidate.now()
        return [
            {
                "name": one.name,
                "token": one.token,
                "since": one.since,
                "until": one.until,
                "seen_ago": round(now - one.seen, 3),
                "over_ago": None if one.over is None else round(now - one.over, 3),
                "was_here": one.own,
            }
            for one in reversed(self._history)
        ]

    async def follow(self) -> None:
        """Tell of every change until `close`: when the candidate rings, and when the clock ends something."""
        bell = self._bell = aio.Bell()
        with self.candidate.rings(bell.ring):
            while not self.closed:
                until = self._look().until
                await bell.wait(None if until is None else max(until - self.candidate.now(), 0.0) + _GRAIN)

    def close(self) -> None:
        """Tell the last, and then everybody that this was all."""
        if self.closed:
            return
        self._look()
        self.closed = True
        for listener in self._listeners:
            listener.tell(None)
        if self._bell is not None:
            self._bell.ring()

    def _look(self) -> State:
        """What is so; if it is a change, everybody is told."""
        state = self.candidate.state()
        if state.gist != self.last.state.gist and not self.closed:
            self._publish(state)
        return state

    def _publish(self, state: State) -> None:
        self._note(state)
        self.last = Change(self.last.number + 1, state)
        for listener in self._listeners:
            listener.tell(self.last)
        for tell in self._tellers:
            try:
                tell(state)
            except Exception as error:
                report("what was to hear of a change of leader failed: %r", tell, error)

    def _note(self, state: State) -> None:
        now, newest = self.candidate.now(), self._history[-1] if self._history else None
        if newest is not None and newest.until is None:
            if (newest.name, newest.token) == (state.name, state.token):
                return
            self._history[-1] = replace(newest, over=now, until=time.time())
        if state.name:
            self._history.append(Tenure(state.name, state.token, state.since, now, state.is_leader))
