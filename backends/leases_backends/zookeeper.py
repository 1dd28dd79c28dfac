"""ZooKeeper: a persistent node per lock, written only by transactions that check its version and its birth.

The primitive is a transaction (`multi`) of a check and a `setData` with the node's version. Release writes a
free record; nothing is deleted. A token is counted up in the record, above the number (`mzxid`) of the
transaction that wrote it last, and above its parent's last change (`pzxid`) where there is none yet. Sessions
carry watches and decide nothing: there are no ephemeral nodes, so an expired session costs no lease.

  Version −1      means "whatever stands there" to ZooKeeper. It is never sent, also not where a node's 32-bit
                  version has come around to it.
  Stale reads     A server answers from what it knows, which may be old. Nothing rests on a read but a wait;
                  an absence is read behind a `sync`, because tokens begin with it.
  Partitioned     A server without a quorum closes its connections, and a read-only one is not accepted:
                  reads fail and writes are unknown until another server is found.
  Cut off         A request that was sent and not answered is unknown. It may be executed later: it compares
                  version and birth then, too.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Final

from leases.contract import (
    Applied,
    Backend,
    Conflict,
    Finding,
    Notify,
    Outcome,
    Slot,
    Traits,
    Unknown,
    Watch,
    beside,
)
from leases.errors import StoreDenied, StoreUnavailable
from leases.record import Claim, encode
from leases_backends._zookeeper_client import Session, session_of
from leases_backends._zookeeper_errors import NotDone
from leases_backends._zookeeper_examine import Examination
from leases_backends._zookeeper_place import Place, place_of
from leases_backends._zookeeper_records import Records

TRAITS: Final = Traits(
    "zookeeper",
    release_deletes=False,
    token_from_write=False,
    guards=True,
    least_ttl=1.0,
    token_source="counted up in the record, from the number (zxid) of the transaction that wrote it last",
    failover="ttl after a waiter first saw the holder's last renewal, + 2 round trips;"
    " while the ensemble elects a leader nobody acquires",
    restore="zxids go back, and with them versions and tokens: stop all clients, restore, start them",
)


def connect(url: str) -> Zookeeper:
    """A connection to the ensemble that the URL names; no server is spoken to before the first call.

    `zookeeper://user:password@h1:2181,h2,h3/app/locks?acl=open`: the path is the node under which records
    stand, `/leases` by default. `zookeepers://` is the same over TLS.

    Raises:
        ConfigurationError: a URL, a file or a combination of options that cannot work.
    """
    return Zookeeper(url, place_of(url))


class Zookeeper(Backend):
    """One user of an ensemble; all of a process that name the same URL share one session."""

    def __init__(self, url: str, place: Place) -> None:
        self.traits = TRAITS
        self.identity, self.address = place.target.shown, place.address
        self._place = place
        self._closed = False
        self._session = session_of(url, place.target, self)
        self._records = Records(self._session, place.parent, place.acl)

    def read(self, name: str, timeout: float) -> Slot:
        self._open()
        return self._records.read(name, time.monotonic() + timeout)

    def swap(self, seen: Slot, claim: Claim | None, timeout: float) -> Outcome:
        self._open()
        until = time.monotonic() + timeout
        if claim is None:
            if seen.claim is None:
                return Conflict()
            claim = seen.claim.freed()
        body = encode(claim)
        try:
            if seen.version is None:
                done = self._records.create(seen.name, body, until)
            else:
                done = self._records.write(seen, body, until)
        except NotDone as error:
            return Unknown(error, void=True)
        except StoreUnavailable as error:
            return Unknown(error)
        return Applied(done.slot(seen.name, claim)) if done is not None else self._conflict(seen, until)

    def remove(self, seen: Slot, timeout: float) -> Outcome:
        self._open()
        until = time.monotonic() + timeout
        if seen.version is None:
            return Conflict()
        try:
            gone = self._records.delete(seen, until)
        except NotDone as error:
            return Unknown(error, void=True)
        except StoreUnavailable as error:
            return Unknown(error)
        return Applied(gone) if gone is not None else self._conflict(seen, until)

    def write_guarded(self, guard: Slot, key: str, body: bytes | None, timeout: float) -> Outcome:
        self._open()
        until = time.monotonic() + timeout
        if guard.version is None:
            return Conflict()
        try:
            done = self._records.write_beside(guard, beside(guard.name, key), body, until)
        except NotDone as error:
            return Unknown(error, void=True)
        except StoreUnavailable as error:
            return Unknown(error)
        return Applied(guard) if done else Conflict()

    def read_guarded(self, name: str, key: str, timeout: float) -> bytes | None:
        self._open()
        return self._records.read_bytes(beside(name, key), time.monotonic() + timeout)

    def _conflict(self, seen: Slot, until: float) -> Conflict:
        """What stands there instead. The server that refused the swap has seen it, so this read does too."""
        try:
            slot = self._records.read(seen.name, until)
        except (StoreUnavailable, StoreDenied):
            return Conflict()
        return Conflict(slot if slot.version != seen.version else None)

    def scan(self, prefix: str, timeout: float) -> Iterable[Slot | Exception]:
        self._open()
        return self._records.scan(prefix, time.monotonic() + timeout)

    def watch(self, seen: Slot, notify: Notify) -> Watch:
        return self._open().watcher.add(self._records.path(seen.name), seen, notify, self)

    def examine(self, timeout: float) -> Iterator[Finding]:
        return Examination(self._open(), self._place.parent, self._place.acl, timeout).findings()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._session.release(self)

    def forked(self) -> None:
        """Nothing is left to do: the session has dropped its connection, right after the fork."""

    def _open(self) -> Session:
        if self._closed:
            raise StoreUnavailable(f"{self.identity} was closed; connect again")
        return self._session
