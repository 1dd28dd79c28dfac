"""etcd, over gRPC.

The primitive is a transaction that compares a key's `mod_revision` and puts or deletes it, and otherwise
reads it. A token is the revision of the acquiring write; release deletes the key.

  Cut off         A member without a leader says so and another is asked. Without a majority nothing can be
                  written: holders step down at their deadlines, and nobody succeeds them until it is back.
  In doubt        A request that timed out, or whose connection broke, may have been executed: it is found out
                  by reading. It is never sent again.
  Leases          of etcd's own decide nothing. A *janitor* lease removes the records of dead processes, long
                  after anybody believes in them.
  Restored        from a backup, revisions go back, unless it is done with `--bump-revision`: a process that
                  has seen higher ones refuses the store; others cannot know.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
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
    is_beside,
)
from leases.errors import ConfigurationError, RecordRefused, StoreUnavailable
from leases.record import Claim, encode
from leases_backends import _etcd_messages as messages
from leases_backends._etcd_client import Client
from leases_backends._etcd_errors import LeaseGone, NotExecuted
from leases_backends._etcd_shared import client_at, leave
from leases_backends._etcd_topics import Change
from leases_backends._etcd_wire import RANGE, TXN
from leases_backends._url import TLS, Address, address

PORT: Final = 2379
PREFIX: Final = "leases"
PAGE: Final = 500  # records per request of a scan
TRAITS: Final = Traits(
    "etcd",
    release_deletes=True,
    token_from_write=True,
    guards=True,
    least_ttl=1.0,
    token_source="the revision of the acquiring write, of the whole cluster",
    failover="ttl + one round trip; some 1.5 s more if etcd has to elect a leader of its own",
    restore="revisions go back: stop all clients, restore with --bump-revision --mark-compacted, start them",
)

_MOD: Final = messages.Compare.MOD
_FIRST: Final = b" "  # No lock's name begins with a lower byte; what the locks' own keys are called does.


def connect(url: str) -> Etcd:
    """A connection to the cluster that the URL names; the first call talks to it.

    `etcd://h1:2379,h2:2379/prefix`, or `etcds:` with TLS. Without a prefix keys begin with `leases/`.

    Raises:
        ConfigurationError: an unknown parameter, a user without a password, a file that will not do.
    """
    found = address(url, port=PORT, known=(*TLS, "password_file"))
    has_password = bool(found.password) + ("password_file" in found.options)
    if has_password != bool(found.user):
        fault = "a password without a user" if not found.user else "a user without a password"
        fault = "two passwords" if has_password > 1 else fault
        advice = "write user:password@ before the host, or user@ there and password_file=FILE"
        raise ConfigurationError(f"{found.shown}: there is {fault}; {advice}")
    # In any order they are the same cluster, and have one identity.
    hosts = tuple(sorted(set(found.hosts)))
    return Etcd(replace(found, hosts=hosts, path=found.path or PREFIX))


class Etcd(Backend):
    """One user of a cluster; all of a process with the same hosts and credentials share its connections."""

    def __init__(self, address: Address) -> None:
        self.traits = TRAITS
        self.identity = address.shown
        self.prefix = f"{address.path}/".encode()
        self._closed = False
        self._client: Client = client_at(replace(address, path=""), self)
        self.address = address.handed_on

    def read(self, name: str, timeout: float) -> Slot:
        question = messages.RangeRequest(key=self.prefix + name.encode())
        answer = self._open().call(RANGE, question, timeout, who=self.identity)
        return _slot(name, answer)

    def swap(self, seen: Slot, claim: Claim | None, timeout: float) -> Outcome:
        body, client = None if claim is None else encode(claim), self._open()
        if body is None and seen.version is None:
            return Conflict()
        ttl = 0.0 if claim is None else claim.ttl
        lease = client.janitors.lease(ttl)
        done = self._commit(seen, self._write(seen.name, body, lease), timeout)
        if not isinstance(done, int):
            if isinstance(done, Unknown) and isinstance(done.cause, LeaseGone):
                client.janitors.gone(lease)
            return done
        revision = done
        if claim is None or body is None:
            return Applied(Change(revision, None).slot(seen.name))
        client.janitors.replenish(ttl)
        floor = revision if claim.token is None else max(revision, claim.token)
        return Applied(Slot(seen.name, revision, claim, revision, floor, body))

    def write_guarded(self, guard: Slot, key: str, body: bytes | None, timeout: float) -> Outcome:
        if guard.version is None:
            self._open()
            return Conflict()
        # Not in a janitor's lease: what an application keeps outlives its process.
        done = self._commit(guard, self._write(beside(guard.name, key), body, 0), timeout)
        return Applied(guard) if isinstance(done, int) else done

    def read_guarded(self, name: str, key: str, timeout: float) -> bytes | None:
        question = messages.RangeRequest(key=self.prefix + beside(name, key).encode())
        answer = self._open().call(RANGE, question, timeout, who=self.identity)
        return answer.kvs[0].value if answer.kvs else None

    def watch(self, seen: Slot, notify: Notify) -> Watch:
        return self._open().watcher.add(self.prefix + seen.name.encode(), seen, notify, self)

    def scan(self, prefix: str, timeout: float) -> Iterable[Slot | Exception]:
        from time import monotonic

        until = monotonic() + timeout
        begin = self.prefix + prefix.encode()
        end, found = _end_of(begin), list[Slot | Exception]()
        if not prefix:
            begin += _FIRST
        while True:
            question = messages.RangeRequest(key=begin, range_end=end, limit=PAGE)
            answer = self._open().call(RANGE, question, until - monotonic(), who=self.identity)
            for pair in answer.kvs:
                name = pair.key[len(self.prefix) :].decode(errors="replace")
                if is_beside(name):
                    continue
                try:
                    found.append(Change(pair.mod_revision, pair.value).slot(name))
                except RecordRefused as refused:
                    found.append(refused)
            if not answer.more:
                return found
            begin = answer.kvs[-1].key + b"\0"

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._client.watcher.forget(self)
            leave(self._client, self)

    def examine(self, timeout: float) -> Iterator[Finding]:
        from leases_backends._etcd_examine import examine

        self._open()
        yield from examine(self._client, self.prefix, self.identity, timeout)

    def forked(self) -> None:
        """Nothing is left to drop: the connections were closed before the fork, in the parent."""

    def _commit(self, seen: Slot, write: messages.RequestOp, timeout: float) -> int | Conflict | Unknown:
        """Write something if the version that was seen of a record stands there: the revision, or why not."""
        key = self.prefix + seen.name.encode()
        version = seen.version if isinstance(seen.version, int) else 0
        transaction = messages.TxnRequest(
            compare=[messages.Compare(target=_MOD, key=key, mod_revision=version)],
            success=[write],
            failure=[messages.RequestOp(request_range=messages.RangeRequest(key=key))],
        )
        client = self._open()
        try:
            answer = client.call(TXN, transaction, timeout, who=self.identity)
        except StoreUnavailable as error:
            return Unknown(error, void=isinstance(error, NotExecuted))
        if not answer.succeeded:
            return Conflict(_slot(seen.name, answer.responses[0].response_range, answer.header.revision))
        return answer.header.revision

    def _write(self, name: str, body: bytes | None, lease: int) -> messages.RequestOp:
        key = self.prefix + name.encode()
        if body is None:
            return messages.RequestOp(request_delete_range=messages.DeleteRangeRequest(key=key))
        return messages.RequestOp(request_put=messages.PutRequest(key=key, value=body, lease=lease))

    def _open(self) -> Client:
        if self._closed:
            raise StoreUnavailable(f"{self.identity} was closed; connect again")
        return self._client


def _slot(name: str, answer: messages.RangeResponse, revision: int | None = None) -> Slot:
    """What a read of one key shows; the revision of a read within a transaction is the transaction's."""
    if answer.kvs:
        pair = answer.kvs[0]
        return Change(pair.mod_revision, pair.value).slot(name)
    return Change(answer.header.revision if revision is None else revision, None).slot(name)


def _end_of(prefix: bytes) -> bytes:
    """The first key behind all that begin so. The last byte of UTF-8 is never the highest there is."""
    return prefix[:-1] + bytes((prefix[-1] + 1,))
