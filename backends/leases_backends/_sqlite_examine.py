"""What can be found out about a database file: where it is, who may use it, and whether it is whole."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from typing import Final

from leases.contract import Finding, Verdict
from leases.errors import StoreError
from leases_backends._paths import filesystem, read_mounts
from leases_backends._sqlite_errors import cannot_open
from leases_backends._sqlite_file import File

_ROOM: Final = 16 << 20  # bytes that should be free: the log grows to some 4 MiB before it is written back


def examine(file: File, timeout: float) -> Iterator[Finding]:
    """Look at the file, without making it where it is missing: that would give it a wrong owner."""
    if not os.path.exists(file.path):
        yield from _missing(file.path, file.private)
        return
    try:
        mode, *trouble = file.ask(("PRAGMA journal_mode", "PRAGMA quick_check(3)"), timeout)
    except StoreError as error:
        yield Finding("reach", Verdict.BAD, str(error))
        return
    yield Finding("reach", Verdict.GOOD, f"{file.path} can be read")
    yield Finding("version", Verdict.GOOD, f"SQLite {sqlite3.sqlite_version}")
    if mode != "wal":
        text = f"its journal mode is {mode}, so commits wait for the disk and for readers"
        yield Finding("journal", Verdict.BAD, text, "stop all clients; they set it when they open the file")
    else:
        yield Finding("journal", Verdict.GOOD, "a write-ahead log")
    if trouble != ["ok"]:
        advice = "stop all clients, remove the file, start them again"
        yield Finding("health", Verdict.BAD, f"it is damaged: {'; '.join(trouble)}", advice)
    else:
        yield Finding("health", Verdict.GOOD, "whole, by a quick check")
    yield from _of_permissions(file.path)
    yield from _of_place(os.path.dirname(file.path))


def _missing(path: str, private: bool) -> Iterator[Finding]:
    directory = os.path.dirname(path)
    if not private and not os.path.isdir(directory):
        yield Finding("reach", Verdict.BAD, str(cannot_open(path)))
        return
    while not os.path.exists(directory):
        directory = os.path.dirname(directory)
    if not os.access(directory, os.W_OK | os.X_OK):
        yield Finding("permission to create", Verdict.BAD, f"{path} is not there, and {_owner(directory)}")
        return
    advice = "take the first lock as the user who is to own it"
    yield Finding("reach", Verdict.DOUBTFUL, f"{path} is not there yet; the first lock makes it", advice)
    yield from _of_place(directory)


def _of_permissions(path: str) -> Iterator[Finding]:
    places = [path, os.path.dirname(path), *(f"{path}{end}" for end in ("-wal", "-shm"))]
    closed = [place for place in places if os.path.exists(place) and not os.access(place, os.W_OK)]
    if closed:
        advice = "give write permission there, or name another file in LEASES_URL"
        yield Finding("permission to write", Verdict.BAD, "; ".join(map(_owner, closed)), advice)
    else:
        yield Finding("permission to write", Verdict.GOOD, f"in {_owner(path)}")


def _of_place(directory: str) -> Iterator[Finding]:
    kind = filesystem(directory, read_mounts()) or "a file system that the system does not name"
    yield Finding("file system", Verdict.GOOD, f"{kind}, of this host")
    if not hasattr(os, "statvfs"):
        return
    disk = os.statvfs(directory)
    free = disk.f_bavail * disk.f_frsize
    if free < _ROOM:
        text = f"{free >> 20} MiB are free; when the disk is full nothing can be renewed"
        yield Finding("disk", Verdict.DOUBTFUL, text, "make room")
    else:
        yield Finding("disk", Verdict.GOOD, f"{free >> 20} MiB are free")


def _owner(place: str) -> str:
    stat = os.stat(place)
    return f"{place}, which belongs to uid {stat.st_uid} with mode {stat.st_mode & 0o7777:o}"
