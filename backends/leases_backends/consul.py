"""Consul's key/value store: a transaction with a check-and-set, and no session anywhere.

The primitive is `PUT /v1/txn` with one `cas`: unlike a plain `?cas=` it answers with the new index. Versions
are a key's ModifyIndex, the number of the write in the servers' log, and the token is that of the acquiring
write. To release is to delete, behind a `cas` in one transaction: `delete-cas` calls it a success where
nothing stands, and answers with no index.

  Cut off         Writes need a majority of the servers. Without one they fail or hang, renewals with them,
                  and holders step down at their deadlines.
  Stale reads     A leader that was voted out may answer reads from the past for a moment. Nothing rests on
                  reads: every write names the index that it replaces.
  Sessions        None are used: neither their TTL (kept by the leader alone, at twice its length), nor the
                  lock-delay, nor the health of a node decides anything. A key that a session has locked is
                  somebody else's, and refused.
  Restore         Records come back with the indexes that they had, which running processes take for old news.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Final

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
from leases.errors import ConfigurationError, StoreDenied, StoreUnavailable
from leases.record import Claim, encode
from leases_backends._consul_examine import examine
from leases_backends._consul_http import Answer, NotSent, Wire
from leases_backends._consul_kv import Space
from leases_backends._consul_watch import Watcher
from leases_backends._tls import Tls
from leases_backends._url import TLS, Address, address

PORT: Final = 8500
SECURE_PORT: Final = 8501
FOLDER: Final = "leases"
WHERE: Final[tuple[str, ...]] = ("dc", "ns", "partition")
OPTIONS: Final = frozenset({*WHERE, "token_file", *TLS})

# What a transaction says of an index that is not there any more, by `cas` and by `check-index`.
_STALE: Final = ("index is stale", "failed to check index, key", "current modify index")

TRAITS: Final = Traits(
    "consul",
    release_deletes=True,
    token_from_write=True,
    guards=True,
    least_ttl=1.0,
    token_source="the index in the servers' log of the acquiring write (ModifyIndex)",
    failover="ttl + one round trip; where a server fails too, + its election (up to 10 s as Consul comes)",
    restore="indexes of records go back: stop all clients, restore, start them",
)


def connect(url: str) -> Consul:
    """A user of the servers that the URL names; nothing is sent before the first call.

    `consul://host:8500/folder?dc=…&token_file=…`, and `consuls:` for TLS (port 8501). Without a folder it is
    `leases`. A token stands in a file, before the host as `:TOKEN@`, or where Consul's own tools look for it:
    in `$CONSUL_HTTP_TOKEN`, or in the file named by `$CONSUL_HTTP_TOKEN_FILE`.

    Raises:
        ConfigurationError: a URL, a token's file or a certificate that cannot work.
    """
    secure = url[:8].lower() == "consuls:"
    where = address(url, port=SECURE_PORT if secure else PORT, known=OPTIONS)
    where = replace(where, path=where.path or FOLDER)
    agent = _agent(where, _token(where), Tls.of(where) if secure else None)
    return Consul(agent, where.shown, where.handed_on)


class Agent:
    """What all users of a URL in this process share."""

    def __init__(self, where: Address, token: Callable[[], str], tls: Tls | None) -> None:
        options: dict[str, str] = {key: where.options[key] for key in WHERE if key in where.options}
        self.wire = Wire(where.hosts, tls, token, where.shown)
        self.space = Space(self.wire, where.path, options)
        self.watcher = Watcher(self.space)
        self._process = os.getpid()

    def leave(self, user: object) -> None:
        """One user less; with the last go threads and connections."""
        self.watcher.forget(user)
        self.wire.users.discard(user)
        if not self.wire.users:
            self.watcher.close()
            self.wire.close()

    def forked(self) -> None:
        """In the child of a fork: forget what the parent goes on to use. Once is enough."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self.wire.forked()
            self.watcher.forked()


class Consul(Backend):
    """One user of a URL."""

    def __init__(self, agent: Agent, identity: str, address: str) -> None:
        self.traits = TRAITS
        self.identity, self.address = identity, address
        self._agent = agent
        self._closed = False
        agent.wire.users.add(self)

    def read(self, name: str, timeout: float) -> Slot:
        return self._open().space.read(name, timeout)

    def swap(self, seen: Slot, claim: Claim | None, timeout: float) -> Outcome:
        space = self._open().space
        key, until = space.key(seen.name), time.monotonic() + timeout
        body = b"" if claim is None else encode(claim)
        if claim is None and seen.version is None:
            return self._conflict(seen, until)  # There is nothing to delete, and the store would not mind.
        value = base64.b64encode(body).decode()
        steps: list[dict[str, Any]] = [
            {"Verb": "cas", "Key": key, "Value": value, "Index": 0 if seen.version is None else seen.version},
        ]
        if claim is None:
            steps.append({"Verb": "delete", "Key": key})
        index = self._commit(steps, until)
        if index is None:
            return self._conflict(seen, until)
        if isinstance(index, Unknown):
            return index
        if claim is None:
            return Applied(Slot(seen.name, None, None, index, index))
        return Applied(Slot(seen.name, index, claim, index, index, body))

    def write_guarded(self, guard: Slot, key: str, body: bytes | None, timeout: float) -> Outcome:
        space, until = self._open().space, time.monotonic() + timeout
        if guard.version is None:
            return Conflict()
        place = space.key(beside(guard.name, key))
        write: dict[str, Any] = {"Verb": "delete", "Key": place}
        if body is not None:
            write = {"Verb": "set", "Key": place, "Value": base64.b64encode(body).decode()}
        check = {"Verb": "check-index", "Key": space.key(guard.name), "Index": guard.version}
        done = self._commit([check, write], until)
        return done if isinstance(done, Unknown) else Conflict() if done is None else Applied(guard)

    def read_guarded(self, name: str, key: str, timeout: float) -> bytes | None:
        return self._open().space.read_bytes(beside(name, key), timeout)

    def watch(self, seen: Slot, notify: Notify) -> Watch:
        return self._open().watcher.add(seen, notify, self)

    def scan(self, prefix: str, timeout: float) -> Iterable[Slot | Exception]:
        return self._open().space.scan(prefix, timeout)

    def examine(self, timeout: float) -> Iterator[Finding]:
        return examine(self._open().space, timeout)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._agent.leave(self)

    def forked(self) -> None:
        self._agent.forked()

    def _open(self) -> Agent:
        if self._closed:
            raise StoreUnavailable(f"{self.identity} was closed; connect again")
        return self._agent

    def _commit(self, steps: list[dict[str, Any]], until: float) -> int | Unknown | None:
        """Send a transaction that names a record's version: its index, None where another version stands."""
        space = self._agent.space
        try:
            answer = space.wire.ask("PUT", space.target("txn"), space.write(steps), until - time.monotonic())
            return self._committed(answer)
        except StoreUnavailable as error:
            return Unknown(error, void=isinstance(error, NotSent))

    def _committed(self, answer: Answer) -> int | None:
        """The index of a transaction; None where another version stood there.

        Raises:
            StoreError: it was refused, or nobody can say.
        """
        space = self._agent.space
        if answer.status not in (200, 409):
            raise space.trouble(answer)
        if answer.status == 409:  # Whoever may not write is told so in the same way.
            faults = _faults(answer)
            if faults and all(any(word in fault for word in _STALE) for fault in faults):
                return None
            raise space.trouble(replace(answer, body="; ".join(faults).encode()))
        try:
            index = json.loads(answer.body)["Results"][0]["KV"]["ModifyIndex"]
        except (ValueError, LookupError, TypeError):
            index = None
        if not isinstance(index, int):
            raise StoreUnavailable(f"{self.identity} did not tell an index ({answer.text}); try again")
        return index

    def _conflict(self, seen: Slot, until: float) -> Conflict:
        """What stands there instead. A transaction that failed does not tell, and who asked has to know.

        Raises:
            RecordRefused: what stands there is not ours.
        """
        try:
            slot = self._agent.space.read(seen.name, until - time.monotonic())
        except (StoreDenied, StoreUnavailable):
            return Conflict(None)
        return Conflict(None if slot.version == seen.version and seen.version is not None else slot)


def _faults(answer: Answer) -> list[str]:
    """What a transaction that was rolled back says of it."""
    try:
        return [str(fault["What"]) for fault in json.loads(answer.body)["Errors"]]
    except (ValueError, LookupError, TypeError):
        return []


class _TokenFile:
    """A token in a file, read again when that has changed: tokens are rotated under running processes."""

    def __init__(self, where: Address, option: str) -> None:
        self._where, self._option = where, option
        self._token = _checked(option, where.secret(option))
        self._stat = self._look()

    @property
    def origin(self) -> tuple[str, str]:
        """Which file it is."""
        return self._option, os.path.abspath(self._where.options[self._option])

    def __call__(self) -> str:
        stat = self._look()
        if stat != self._stat:
            try:
                self._token = _checked(self._option, self._where.secret(self._option))
                self._stat = stat
            except ConfigurationError:  # In the midst of being replaced: the old one may stand yet.
                pass
        return self._token

    def _look(self) -> tuple[int, ...]:
        try:
            stat = os.stat(self._where.options[self._option])
        except OSError:
            return ()
        return stat.st_mtime_ns, stat.st_ino, stat.st_size


def _token(where: Address) -> Callable[[], str]:
    """What gives the token of the URL, or of the environment, whenever it is asked."""
    if where.user:
        raise ConfigurationError(
            f"{where.shown}: Consul has tokens and no users; write :TOKEN@ before the host"
        )
    if where.password and "token_file" in where.options:
        raise ConfigurationError(f"{where.shown}: two tokens are given; leave out token_file= or the other")
    if "token_file" in where.options:
        return _TokenFile(where, "token_file")
    if where.password:
        token = _checked("the URL", where.password)
    elif path := os.environ.get("CONSUL_HTTP_TOKEN_FILE"):
        return _TokenFile(replace(where, options={"CONSUL_HTTP_TOKEN_FILE": path}), "CONSUL_HTTP_TOKEN_FILE")
    else:
        token = _checked("CONSUL_HTTP_TOKEN", os.environ.get("CONSUL_HTTP_TOKEN", ""))
    return lambda: token


def _checked(origin: str, token: str) -> str:
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigurationError(
            f"the token of {origin} has characters that no token has; give the token alone"
        )
    return token


def _agent(where: Address, token: Callable[[], str], tls: Tls | None) -> Agent:
    """The one `Agent` of this process for what a URL and the environment say."""
    key = (where.shown, token() if not isinstance(token, _TokenFile) else token.origin, tls)
    return _agents.setdefault(key, Agent(where, token, tls))


_agents: Final[dict[Hashable, Agent]] = {}


def _forked() -> None:
    for agent in _agents.values():
        agent.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
