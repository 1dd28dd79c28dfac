"""What SQLite's error codes mean for whoever has to do something about it."""

from __future__ import annotations

import errno
import os
import sqlite3
from typing import Final

from leases.errors import StoreDenied, StoreError, StoreUnavailable

_FILES: Final = 4  # that a connection needs at a time: the database, -wal, -shm, and a directory

# After these a connection is of no more use; the next call opens the file anew.
SPOILT: Final = frozenset(
    {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN}
    | {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_SCHEMA, sqlite3.SQLITE_ERROR}
    | {sqlite3.SQLITE_MISUSE, sqlite3.SQLITE_NOMEM}
)

_UNAVAILABLE: Final = {
    sqlite3.SQLITE_BUSY: "other processes kept it busy for the whole time allowed, allow more",
    sqlite3.SQLITE_LOCKED: "other processes kept it busy for the whole time allowed, allow more",
    sqlite3.SQLITE_FULL: "its disk is full, make room",
    sqlite3.SQLITE_IOERR: "its disk does not work as it should, look at the kernel's log, and at: ulimit -f",
    sqlite3.SQLITE_CORRUPT: "it is damaged, so stop all its clients, remove it, and start them again",
    sqlite3.SQLITE_PROTOCOL: "its locks do not work as they should, so put it on a local disk",
}


def code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; that of a misuse for errors that the Python module raised itself."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE) & 0xFF


def translate(error: sqlite3.Error, path: str) -> StoreError:
    """The error to raise instead: what is wrong with the file, and what to do about it."""
    found = code(error)
    match found:
        case sqlite3.SQLITE_NOTADB:
            return StoreDenied(f"{path} is not a SQLite database; name another file in LEASES_URL")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return StoreDenied(f"{path} cannot be written by {_me()}; {_remedy(path)}")
        case sqlite3.SQLITE_CANTOPEN:
            return cannot_open(path)
        case sqlite3.SQLITE_IOERR if _no_room(path):  # for the memory that processes share
            return StoreUnavailable(f"{path}: SQLite says: {error}; {_UNAVAILABLE[sqlite3.SQLITE_FULL]}")
        case _:
            why = _UNAVAILABLE.get(
                found, "if it stays so, stop all its clients, remove it, and start them again"
            )
            return StoreUnavailable(f"{path}: SQLite says: {error}; {why}")


def cannot_open(path: str, error: OSError | None = None) -> StoreError:
    """Why a file could not be opened or created, as far as the file system tells."""
    directory = os.path.dirname(path)
    if os.path.isdir(path):
        return StoreDenied(f"{path} is a directory; name a file in it in LEASES_URL")
    if not os.path.exists(directory):
        return StoreDenied(
            f"{path} cannot be created, there is no directory {directory}; "
            "create it, or name another file in LEASES_URL"
        )
    if not os.path.isdir(directory):
        return StoreDenied(f"{path} cannot be created, {directory} is not a directory; name another file")
    if error is not None and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreUnavailable(f"{path} cannot be created, the disk is full; make room")
    if _is_full(error):
        return StoreUnavailable(f"{path} cannot be opened, too many files are open; raise ulimit -n")
    because = "" if error is None else f" ({error.strerror})"
    return StoreDenied(f"{path} cannot be opened by {_me()}{because}; {_remedy(path)}")


def _is_full(error: OSError | None) -> bool:
    """Whether too many files are open; SQLite does not tell, so that it has to be tried."""
    opened: list[int] = []
    try:
        while error is None and len(opened) < _FILES:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as found:
        error = found
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return error is not None and error.errno in (errno.EMFILE, errno.ENFILE)


def _no_room(path: str) -> bool:
    try:
        return not os.statvfs(os.path.dirname(path)).f_bavail
    except (AttributeError, OSError):  # There is no such call on Windows.
        return False


def _read_only(directory: str) -> bool:
    try:
        return bool(os.statvfs(directory).f_flag & os.ST_RDONLY)
    except (AttributeError, OSError):
        return False


def _me() -> str:
    return f"uid {os.geteuid()}" if hasattr(os, "geteuid") else "this user"


def _remedy(path: str) -> str:
    directory = os.path.dirname(path)
    if _read_only(directory):
        return f"the file system of {directory} is read-only; name another file in LEASES_URL"
    found = next((place for place in (path, directory) if not os.access(place, os.W_OK)), None)
    if found is None or not os.path.exists(found):
        return f"give it write permission on the file, on {directory}, and on {path}-wal and -shm"
    owner = os.stat(found)
    return (
        f"{found} belongs to uid {owner.st_uid} with mode {owner.st_mode & 0o7777:o}: "
        "give write permission there, or name another file in LEASES_URL"
    )
