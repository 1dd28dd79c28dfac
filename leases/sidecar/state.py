"""What a candidate says about the leadership, and when it stops being so."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class State:
    """Who leads, as far as one candidate knows; it is good until an instant, whoever reads it later.

    Attributes:
        name: who leads; empty where nobody is known to, or nothing was heard for the ttl of the record.
        is_leader: whether this candidate does.
        id: who this candidate is.
        token: the fencing token of the leader's tenure.
        since: wall time of the election, Unix seconds, by the leader's clock.
        until: the instant of the holder's clock from which on nobody is known to lead; None for nobody.
        lock: what is led.
        backend: the store, without secrets.
        reachable: whether the store answered when it was asked last.
    """

    name: str
    is_leader: bool
    id: str
    token: int | None
    since: float | None
    until: float | None
    lock: str
    backend: str
    reachable: bool

    def at(self, now: float) -> State:
        """What is left of it at an instant of the holder's clock."""
        return self.nobody() if self.until is not None and now >= self.until else self

    def nobody(self) -> State:
        """The same without a leader."""
        return replace(self, name="", is_leader=False, token=None, since=None, until=None)

    @property
    def gist(self) -> tuple[object, ...]:
        """What makes a change when it changes."""
        return self.name, self.is_leader, self.token, self.reachable

    def newer(self, token: int) -> bool:
        """Whether it is news to who knows of this token; 0 stands for nobody.

        A lower token is none: then this candidate is the one that is behind.
        """
        return self.token > token if self.token is not None else token != 0

    def body(self, now: float) -> dict[str, Any]:
        """The JSON object, `name` first; `expires_in` is relative, because clocks are not compared."""
        left = self.at(now)
        return {
            "name": left.name,
            "is_leader": left.is_leader,
            "id": left.id,
            "token": left.token,
            "since": left.since,
            "expires_in": None if left.until is None else round(max(left.until - now, 0.0), 3),
            "lock": left.lock,
            "backend": left.backend,
            "reachable": left.reachable,
        }
