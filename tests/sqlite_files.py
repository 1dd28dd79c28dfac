"""What the tests of the SQLite store share: files, boots, and processes that know nothing yet."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from leases_backends import _sqlite_file, _sqlite_watch
from leases_backends.sqlite import Sqlite, connect

PARTS = ("", "-wal", "-shm")


def open_store(path: Path) -> Sqlite:
    """A connection to the file at a path."""
    return connect(f"sqlite://{path}")


def forget_process() -> None:
    """From here on this process knows as little of any file as one that has just started."""
    for file in _sqlite_file._files.values():
        file.close()
    _sqlite_file._files.clear()
    _sqlite_watch._watchers.clear()


def boot_as(monkeypatch: pytest.MonkeyPatch, boot: str | None) -> None:
    """From here on the host is in another boot; None is one whose identity cannot be read."""
    monkeypatch.setattr(_sqlite_file, "boot_id", lambda: boot)


def take_copy(path: Path, folder: Path) -> Path:
    """What a disk would hold if nothing were written after now: the files, without the shared memory.

    Another process copies them: to open and close them in this one would drop the locks it has on them.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    there = [f"{path}{part}" for part in ("", "-wal") if Path(f"{path}{part}").exists()]
    subprocess.run(["cp", *there, str(folder)], check=True)
    return folder


def put_copy(folder: Path, path: Path) -> None:
    """Make the files what they were when the copy was taken."""
    remove(path)
    for file in folder.iterdir():
        shutil.copy(file, path.parent / file.name)


def remove(path: Path) -> None:
    """Remove the database with all that belongs to it."""
    for part in PARTS:
        Path(f"{path}{part}").unlink(missing_ok=True)


def restore_through_sqlite(backup: Path, path: Path) -> None:
    """Write an old copy over the database in place, as `sqlite3 FILE '.restore …'` does."""
    with closing(sqlite3.connect(backup)) as source, closing(sqlite3.connect(path)) as target:
        source.backup(target)


def back_up(path: Path, backup: Path) -> Path:
    """A consistent copy in one file, as `sqlite3 FILE '.backup …'` makes it."""
    backup.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(backup)) as target:
        source.backup(target)
    return backup
