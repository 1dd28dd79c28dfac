"""What a store must be able to do: read a key, write it if nobody wrote since, and hint at changes.

A backend translates this contract to one store and decides nothing: no retry, no sleep, no policy. It is
called from several threads at once. Everything that `leases` promises rests on `Backend.swap` alone;
reads may be stale, hints may be late, doubled or lost, and *we do not know* is an answer like any other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property, lru_cache
from typing import Final, Protocol

from leases.errors import ConfigurationError, StoreError
from leases.record import Claim


@dataclass(frozen=True, slots=True)
class Traits:
    """What a store promises, as far as the protocol or its users must know.

    Attributes:
        store: the store's name, for people.
        release_deletes: releasing deletes the key (versions are never reused, store-wide); otherwise
            a free record stays, and a held record that vanished was removed by a stranger.
        token_from_write: the token is the store-wide revision of the acquiring write; otherwise
            it is counted up in the record from the floor that the store gives.
        ordered: `Slot.order` tells older news from newer.
        local: the store lives on this host alone, so instants of its boot clock may be compared.
        watches: `Backend.watch` tells of a change within milliseconds.
        guards: `Backend.write_guarded` works: a key can be written together with a look at a lock's record.
        least_ttl: the shortest ttl in seconds that makes sense here.
        token_source: where fencing tokens come from, for people.
        failover: the worst time from a holder's death to its successor, as a formula for people.
        restore: what a restore from backup does to versions and tokens, for people.
    """

    store: str
    release_deletes: bool
    token_from_write: bool
    ordered: bool = True
    local: bool = False
    watches: bool = True
    guards: bool = False
    least_ttl: float = 1.0
    token_source: str = "counted up in the record from the store's own numbers"
    failover: str = "ttl + one round trip"
    restore: str = "versions go back: restore with all clients stopped"


@dataclass(frozen=True, slots=True)
class Slot:
    """What a store showed under a name at one instant: a claim or nothing, with a version.

    Attributes:
        name: the lock.
        version: what `Backend.swap` compares. Never reused under a name as long as the store stands.
        claim: the record, held or free; None where there is none.
        order: a number that grows with every write to the name. For an absence: the store's own number
            at the read, at least that of the last write to the name. None where the store has none.
        floor: the token of the next claim must be above this.
        body: the bytes of the record. A lock is timed on version *and* bytes.
    """

    name: str
    version: Hashable
    claim: Claim | None = None
    order: int | None = None
    floor: int = 0
    body: bytes = b""

    @property
    def held(self) -> bool:
        """Whether a record here keeps others out."""
        return self.claim is not None and self.claim.held

    @property
    def token(self) -> int | None:
        """The fencing token of the claim that holds, as observers know it; None where nobody holds."""
        if self.claim is None or not self.claim.held:
            return None
        return self.order if self.claim.token is None else self.claim.token


@lru_cache(1024)  # A slot never changes, and every optimistic create begins with one.
def absent(name: str) -> Slot:
    """The slot of a name that was never read: a swap on it creates, or conflicts."""
    return Slot(name, None)


@dataclass(frozen=True, slots=True)
class Applied:
    """The swap was committed; `slot` is what stands there by it (absent where release deletes)."""

    slot: Slot


@dataclass(frozen=True, slots=True)
class Conflict:
    """The swap was not committed: another version stood there. `slot` is it, or None: not told, read."""

    slot: Slot | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nobody can say whether the swap was committed, or a read gave no answer.

    Attributes:
        cause: the error behind it, for people.
        void: it surely was not executed (busy, throttled, expired credentials): nothing needs finding out.
    """

    cause: Exception | None = None
    void: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """The store or its record refuses us, and trying again will not help: denied, or a foreign record."""

    cause: Exception


Outcome = Applied | Conflict | Unknown


class Verdict(Enum):
    """What a finding means for whoever wants to lock something here."""

    GOOD = "good"
    DOUBTFUL = "doubtful"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that an examination of a store found out.

    Attributes:
        subject: what was looked at, in a word or two: "version", "health", "permission to write".
        verdict: bad means that locks will not work; doubtful, that they may not work as expected.
        text: what was found, for people.
        advice: what to do about it, where something is to be done.
    """

    subject: str
    verdict: Verdict
    text: str
    advice: str = ""


class Watch(Protocol):
    """Hints under way; closing it ends them. Closing twice, or from within a hint, is harmless."""

    def close(self) -> None: ...


Notify = Callable[[Slot | None], None]


class Backend(ABC):
    """One store. Methods may be called from many threads at once.

    `timeout` is in seconds and bounds the call. Where no answer came in time, `read` and `scan` raise
    `StoreUnavailable`, and `swap` returns `Unknown`. A refusal by the store raises `StoreDenied`; a record
    that is not ours raises `RecordRefused`, and a claim that no record has room for `ConfigurationError`. No
    other exception leaves a backend.

    Attributes:
        traits: what the store promises.
        identity: the same text for the same store from every process, without secrets: a URL for people.
    """

    traits: Traits
    identity: str

    @cached_property  # A backend sets it where its URL says more than its identity.
    def address(self) -> str:
        """A URL by which another process of this host connects as this one has, in whatever folder it is.

        It has no secret, but the user's name and the files that hold secrets and certificates.
        """
        return self.identity

    @abstractmethod
    def read(self, name: str, timeout: float) -> Slot:
        """What stands under a name. It may be stale; it is never invented."""

    @abstractmethod
    def swap(self, seen: Slot, claim: Claim | None, timeout: float) -> Outcome:
        """Write the claim, or free the slot (None), if exactly the version of `seen` stands there.

        It is sent once: nothing underneath may send it again. Freeing deletes the record, or writes
        `seen.claim.freed()` where release leaves one. A swap that frees an absent slot conflicts.
        """

    @abstractmethod
    def watch(self, seen: Slot, notify: Notify) -> Watch:
        """Call `notify` after every change to the name since `seen`, from any thread, until closed.

        A hint carries the slot if it is at hand, else None. It must not block, and it is called at once
        if the change has already happened when the watch begins.
        """

    @abstractmethod
    def scan(self, prefix: str, timeout: float) -> Iterable[Slot | Exception]:
        """Every record whose name begins so, by name; a `RecordRefused` stands in for what is not ours."""

    @abstractmethod
    def close(self) -> None:
        """Let go of connections and threads. Records stay. Calls after it raise `StoreUnavailable`."""

    def remove(self, seen: Slot, timeout: float) -> Outcome:
        """Delete the record altogether, if exactly the version of `seen` stands there.

        Where release leaves a record, versions may start anew after it: only with all clients stopped.
        Where release deletes, this is a release.
        """
        return self.swap(seen, None, timeout)

    def write_guarded(self, guard: Slot, key: str, body: bytes | None, timeout: float) -> Outcome:
        """Write bytes under a key of the lock, or delete them (None), if the very version of `guard` stands.

        One transaction of the store looks at the lock's record and writes, and it is sent once. The record
        stays as it is: `Applied` shows it, and so does `Conflict`, if it tells. A guard without a version
        conflicts. Deleting what is not there is applied. The key is of this lock alone (see `beside`), and no
        scan shows it.

        Raises:
            ConfigurationError: the store has no such transaction (`Traits.guards`).
        """
        raise cannot_guard(self.traits)

    def read_guarded(self, name: str, key: str, timeout: float) -> bytes | None:
        """The bytes under a key of a lock; None where there are none. It may be stale, as any read.

        Raises:
            ConfigurationError: the store has no keys beside its locks (`Traits.guards`).
        """
        raise cannot_guard(self.traits)

    def examine(self, timeout: float) -> Iterator[Finding]:
        """What can be found out about the store: its version and health, and what we may do in it.

        It writes nothing that stays. What cannot be reached or is refused is a finding, not an error.
        """
        try:
            self.read("leases-examination", timeout)
        except StoreError as error:
            yield Finding("reach", Verdict.BAD, str(error))
        else:
            yield Finding("reach", Verdict.GOOD, f"{self.identity} answers")

    def forked(self) -> None:  # noqa: B027 - most stores have something to drop, a memory store has not
        """In the child of a fork: drop what was inherited, without a goodbye on the wire."""


def cannot_guard(traits: Traits) -> ConfigurationError:
    """The error for who would write under a key of a lock where the store has no transaction for it."""
    return ConfigurationError(
        f"{traits.store} cannot write a key and check a lock's record in one transaction; keep the lock in a "
        "store that can, or have what is written compare tokens, by another fence"
    )


_APART: Final = "\t"  # No lock's name has one, nor any key: neither can be taken for the other.


def beside(name: str, key: str) -> str:
    """What the key of a lock is called in the store, where records are called by their lock's name."""
    return f"{_APART}{name}{_APART}{key}"


def is_beside(name: str) -> bool:
    """Whether what a store shows under a name is the key of a lock, and no lock's record."""
    return name.startswith(_APART)


def names(slots: Iterable[Slot | Exception]) -> Iterator[Slot]:
    """The records of a scan that could be read."""
    return (slot for slot in slots if isinstance(slot, Slot))
