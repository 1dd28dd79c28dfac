"""Every error of the library, in one tree, each also a standard error a caller may already catch.

The message names whose fault it was and ends in the next step; the facts it names are attributes.
"""

from __future__ import annotations

from typing import Final, Literal

LossReason = Literal["expired", "superseded", "broken", "released", "forked", "closed"]

_WHY_LOST: Final[dict[str, str]] = {
    "expired": "no renewal was committed in time; check the store's latency, or use a longer ttl",
    "superseded": "another claim stands in the store; acquire anew",
    "broken": "somebody broke or removed the record in the store; acquire anew",
    "released": "it was released; acquire anew",
    "forked": "it belongs to the parent of this forked process; acquire in the child",
    "closed": "its store was closed; keep the store open as long as the lease is used",
}


class LeasesError(Exception):
    """Base of every error that the library raises on purpose."""


class ConfigurationError(LeasesError, ValueError):
    """A name, an option or a URL that cannot work; nothing was sent to any store."""


class AcquireTimeout(LeasesError, TimeoutError):
    """The lock was not to be had in the time allowed.

    Attributes:
        name: the lock.
        holder: who holds it, as far as was seen; None when nobody could be seen.
        remaining: seconds until its record can expire if its holder is dead; None when unknown.
        timeout: the seconds that were allowed.
    """

    def __init__(
        self, name: str, timeout: float, holder: str | None = None, remaining: float | None = None
    ) -> None:
        self.name, self.timeout, self.holder, self.remaining = name, timeout, holder, remaining
        super().__init__(name, timeout, holder, remaining)

    def __str__(self) -> str:
        if self.holder is None:
            return f'lock "{self.name}" was not acquired within {self.timeout:g} s; try again'
        lasts = "" if self.remaining is None else f" for up to another {self.remaining:.1f} s"
        advice = "pass timeout= to wait" if self.timeout <= 0 else "pass a longer timeout= to wait"
        return f'lock "{self.name}" is held by {self.holder}{lasts}; {advice}'


class LeaseLost(LeasesError):
    """The lease does not stand any more: whatever it guarded must have stopped.

    Attributes:
        name: the lock.
        reason: ``expired``, ``superseded``, ``broken``, ``released``, ``forked`` or ``closed``.
        at: when it was lost, on the holder's clock (seconds of CLOCK_BOOTTIME on Linux).
        token: the fencing token of the tenure that ended.
    """

    def __init__(self, name: str, reason: LossReason, at: float, token: int | None = None) -> None:
        self.name, self.at, self.token = name, at, token
        self.reason: LossReason = reason
        super().__init__(name, reason, at, token)

    def __str__(self) -> str:
        return f'lease on "{self.name}" is lost ({self.reason}): {_WHY_LOST[self.reason]}'


class NotLeader(LeasesError):
    """This process does not lead, so it must not run what only the leader may run.

    Attributes:
        name: what is led.
        holder: who leads, as far as was seen; None where nobody was seen to.
        timeout: the seconds that were waited for; None where nobody waited.
    """

    def __init__(self, name: str, holder: str | None = None, timeout: float | None = None) -> None:
        self.name, self.holder, self.timeout = name, holder, timeout
        super().__init__(name, holder, timeout)

    def __str__(self) -> str:
        within = "" if self.timeout is None else f" within {self.timeout:g} s"
        if self.holder is None:
            return (
                f'this process does not lead "{self.name}"{within}, and nobody was seen to; '
                "see with `leases doctor` whether the store can be reached"
            )
        return f'this process does not lead "{self.name}"{within}, {self.holder} does; let that one run it'


class WrongToken(LeasesError, ValueError):
    """The lock is not held by the token that was named. Nothing was changed.

    Attributes:
        name: the lock.
        given: the token that was named.
        present: the token by which it is held; None where nobody holds it.
        holder: who holds it; None where nobody does.
    """

    def __init__(self, name: str, given: int, present: int | None = None, holder: str | None = None) -> None:
        self.name, self.given, self.present, self.holder = name, given, present, holder
        super().__init__(name, given, present, holder)

    def __str__(self) -> str:
        if self.holder is None:
            return f'lock "{self.name}" is not held by token {self.given}: nobody holds it'
        return (
            f'lock "{self.name}" is not held by token {self.given} but by token {self.present}, '
            f"of {self.holder}; name that one if it is meant"
        )


class TokenRefused(LeasesError):
    """A resource that compares tokens refused this one. Nothing was written.

    Attributes:
        name: the lock by which the resource is guarded.
    """

    name: str


class StaleToken(TokenRefused):
    """A later tenure has been at the resource, or has sealed it.

    Attributes:
        name: the lock.
        given: the token that came.
        highest: the highest token that the resource has seen; None where it could not be told.
    """

    def __init__(self, name: str, given: int, highest: int | None = None) -> None:
        self.name, self.given, self.highest = name, given, highest
        super().__init__(name, given, highest)

    def __str__(self) -> str:
        seen = "a later one" if self.highest is None else f"token {self.highest}"
        return (
            f'token {self.given} of lock "{self.name}" is stale: {seen} has been here; '
            "stop this work, and acquire the lock anew to do it"
        )


class NotCurrent(TokenRefused):
    """The lock's store does not show this holder with this token as the one that holds now.

    Attributes:
        name: the lock.
        given: the token that came.
        why: what the store shows instead.
    """

    def __init__(self, name: str, given: int, why: str) -> None:
        self.name, self.given, self.why = name, given, why
        super().__init__(name, given, why)

    def __str__(self) -> str:
        return (
            f'token {self.given} of lock "{self.name}" is not current: {self.why}; '
            "stop this work, and acquire the lock anew to do it"
        )


class ForeignToken(TokenRefused, ValueError):
    """A token of another lock than the one that guards: their numbers have nothing to do with each other.

    Attributes:
        name: the lock that guards.
        given: the lock of the token that came.
    """

    def __init__(self, name: str, given: str) -> None:
        self.name, self.given = name, given
        super().__init__(name, given)

    def __str__(self) -> str:
        return (
            f'a token of lock "{self.given}" says nothing about lock "{self.name}"; '
            f'pass the token of a lease on "{self.name}"'
        )


class MalformedToken(TokenRefused, ValueError):
    """A text that is no token.

    Attributes:
        text: what came, shortened.
        why: what is wrong with it.
    """

    def __init__(self, text: str, why: str) -> None:
        self.name, self.text, self.why = "", text[:200], why
        super().__init__(self.text, why)

    def __str__(self) -> str:
        return f"{self.text!r} is no fencing token: {self.why}; send str(Token.of(lease)) as it is"


class ResourceBusy(LeasesError, TimeoutError):
    """A write under way at a fenced resource did not end in the time allowed. Nothing was written or sealed.

    Attributes:
        name: the lock.
        timeout: the seconds that were allowed.
    """

    def __init__(self, name: str, timeout: float) -> None:
        self.name, self.timeout = name, timeout
        super().__init__(name, timeout)

    def __str__(self) -> str:
        return (
            f'what lock "{self.name}" guards was busy with another write for {self.timeout:g} s; try again, '
            "or end the process or transaction that keeps it"
        )


class StoreError(LeasesError):
    """The store's fault, or the way to it."""


class StoreUnavailable(StoreError, ConnectionError):
    """The store gave no answer that could be used."""


class WriteUnknown(StoreUnavailable):
    """A write under a key of a lock was sent, and nobody can say whether it was done, or will be.

    Attributes:
        name: the lock.
        key: the key.
        token: the token of the tenure that wrote.
    """

    def __init__(self, name: str, key: str, token: int) -> None:
        self.name, self.key, self.token = name, key, token
        super().__init__(name, key, token)

    def __str__(self) -> str:
        return (
            f'key "{self.key}" of lock "{self.name}" may have been written by token {self.token}, or may be '
            "yet: the store gave no answer; read it, or write it again, which does no harm"
        )


class StoreDenied(StoreError, PermissionError):
    """The store refused this client: credentials, permissions, a read-only file."""


class RecordRefused(StoreError):
    """What stands under the name is foreign, corrupt, absurd or from a newer format. It was left as it is.

    Attributes:
        name: the lock.
        body: the bytes that stand there, whole.
    """

    def __init__(self, name: str, why: str, body: bytes) -> None:
        self.name, self.why, self.body = name, why, body
        super().__init__(name, why, body)

    def __str__(self) -> str:
        shown = self.body[:200].decode("utf-8", "backslashreplace")
        dots = "…" if len(self.body) > 200 else ""
        return (
            f'the record of "{self.name}" is refused: {self.why}; it was not touched and reads '
            f"{shown!r}{dots}; use another name, or remove it with the store's own tool"
        )
