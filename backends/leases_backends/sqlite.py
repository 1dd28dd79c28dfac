"""A database file on this host's disk: the store that is used when none is configured.

The primitive is a transaction that reads and writes one row (BEGIN IMMEDIATE, write-ahead log). Versions and
tokens come from one sequence of the file; a token is the number of the acquiring write.

  Cut off         There is no network. A process that is stopped in the midst of a write blocks the others
                  until it goes on or dies; then nothing of what it was about to write is there.
  Power cut       The last commits may be gone, and with them acquisitions. Numbers go on above all that was
                  handed out, because a ceiling for them is on the disk before they are (see _sqlite_file).
  File replaced   Every call looks which file is at the path. A removed, replaced or restored one is opened
                  anew, and numbered on above all that this process has seen: a holder finds its record gone
                  or changed at its next renewal. A process that has seen nothing starts where the file does.
  Snapshot        A virtual machine that is rolled back takes file and processes with it, and hands out the
                  same tokens again; what they fence outside of it has seen them before.

Only processes under one kernel are kept apart: network file systems, and those shared with a virtual
machine's host, are refused.
"""

from __future__ import annotations

import os
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
from leases.errors import ConfigurationError, RecordRefused, StoreUnavailable
from leases.record import Claim, encode
from leases.urls import shown
from leases_backends._parameters import quoted, split
from leases_backends._paths import check_filesystem, read_mounts, state_directory
from leases_backends._sqlite_file import CommitDoubt, File, Row, file_at
from leases_backends._sqlite_watch import watcher_of

TRAITS: Final = Traits(
    "sqlite",
    release_deletes=True,
    token_from_write=True,
    local=True,
    guards=True,
    least_ttl=0.1,
    token_source="the number of the acquiring write, from one sequence of the file",
    failover="ttl, to the millisecond; a release wakes the next within some 20 ms",
    restore="numbers go back for processes that start afterwards: stop all clients, restore, start them",
)


def connect(url: str = "sqlite:") -> Sqlite:
    """A connection to the file that the URL names; the file is made and opened at the first call.

    `sqlite:` is `leases.db` in the user's state directory, for this user alone. `sqlite:///var/lib/x.db` is
    absolute, `sqlite:x.db` relative to the working directory; the directory must exist, and the umask
    decides who may use the file.

    Raises:
        ConfigurationError: an unknown parameter, no path, what is no file, or a file system that will not do.
    """
    rest, _ = split(url)
    path = _path(url, rest) if rest else os.path.join(state_directory(), "leases.db")
    if os.path.isdir(path):
        raise ConfigurationError(f"{shown(url)}: {path} is a directory; name a file in it")
    if os.path.exists(path) and not os.path.isfile(path):
        raise ConfigurationError(f"{shown(url)}: {path} is a device or a pipe; name a file")
    check_filesystem(path, read_mounts())
    file = file_at(path, private=not rest)
    return Sqlite(file, f"sqlite://{os.path.realpath(path)}", f"sqlite://{quoted(path)}")


def _path(url: str, rest: str) -> str:
    if rest == ":memory:":
        raise ConfigurationError(
            f"{shown(url)} would lock nobody out; use memory: for a store inside this process"
        )
    if rest.startswith("//"):
        rest = rest[2:]
        if not rest.startswith("/"):
            raise ConfigurationError(
                f"{shown(url)} names a host; use sqlite:///absolute/path or sqlite:a/path"
            )
        rest = "/" + rest.lstrip("/")
        if os.name == "nt" and rest[2:3] == ":":
            rest = rest[1:]
    if "\0" in rest:
        raise ConfigurationError(f"{shown(url)} names a file that no system can have; name another")
    if rest.endswith(("/", os.sep)):
        raise ConfigurationError(f"{shown(url)} names a directory; name a file in it")
    try:
        return os.path.abspath(os.path.expanduser(rest))
    except FileNotFoundError:
        raise ConfigurationError(
            f"{shown(url)} names a file in the current directory, which is gone; name an absolute path"
        ) from None


class Sqlite(Backend):
    """One user of a database file; all of a process share one connection to it."""

    def __init__(self, file: File, identity: str, address: str) -> None:
        self.traits = TRAITS
        self.identity, self.address = identity, address
        self._file = file
        self._watcher = watcher_of(file)
        self._closed = False
        file.users.add(self)

    def read(self, name: str, timeout: float) -> Slot:
        return self._open().read(name, timeout).slot(name)

    def swap(self, seen: Slot, claim: Claim | None, timeout: float) -> Outcome:
        body, file = None if claim is None else encode(claim), self._open()
        try:
            done, row = file.swap(seen.name, seen.version, body, timeout)
        except CommitDoubt as error:
            return Unknown(error)
        except StoreUnavailable as error:
            return Unknown(error, void=True)
        if not done:
            return Conflict(row.slot(seen.name))
        self._watcher.written(seen.name, row)
        return Applied(row.slot(seen.name, claim))

    def write_guarded(self, guard: Slot, key: str, body: bytes | None, timeout: float) -> Outcome:
        place, file = beside(guard.name, key), self._open()
        try:
            done, row = file.write_beside(guard.name, guard.version, place, body, timeout)
        except CommitDoubt as error:
            return Unknown(error)
        except StoreUnavailable as error:
            return Unknown(error, void=True)
        return Applied(guard) if done else Conflict(row.slot(guard.name))

    def read_guarded(self, name: str, key: str, timeout: float) -> bytes | None:
        row = self._open().read(beside(name, key), timeout)
        return None if row.version is None else row.body

    def watch(self, seen: Slot, notify: Notify) -> Watch:
        self._open()
        return self._watcher.add(seen, notify, self)

    def scan(self, prefix: str, timeout: float) -> Iterable[Slot | Exception]:
        found: list[Slot | Exception] = []
        for name, version, body in self._open().scan(prefix, timeout):
            try:
                found.append(Row(version, 0, version, body).slot(name))
            except RecordRefused as refused:
                found.append(refused)
        return found

    def examine(self, timeout: float) -> Iterator[Finding]:
        from leases_backends._sqlite_examine import examine

        return examine(self._open(), timeout)

    def close(self) -> None:
        self._closed = True
        self._file.users.discard(self)
        self._watcher.forget(self)
        if not self._file.users:
            self._file.close()

    def forked(self) -> None:
        """Nothing is left to drop: the file closed its connection before the fork, in the parent."""

    def _open(self) -> File:
        if self._closed:
            raise StoreUnavailable(f"{self.identity} was closed; connect again")
        return self._file
