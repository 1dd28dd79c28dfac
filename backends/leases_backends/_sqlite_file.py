"""One database file as one process sees it: opening, transactions, and the sequence that numbers writes.

Versions and tokens come from one sequence of the file. Commits do not wait for the disk, so a power cut may
roll the last of them back; a *ceiling*, which does wait, stays at least `MARGIN` above every number handed
out, and the first open under another boot goes on from there.

A process has one connection to a file, under a mutex, and none while it forks: what SQLite believes of the
locks that its process holds would be copied into the child, where it is wrong, and wrong for connections
that the child opens later too. Nothing here opens the file beside SQLite: closing it again would drop all
locks of the process.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, TypeVar

from leases.clock import boot_id
from leases.contract import Slot, is_beside
from leases.errors import StoreDenied, StoreUnavailable
from leases.record import Claim, decode
from leases_backends._paths import make_private
from leases_backends._sqlite_errors import SPOILT, cannot_open, code, translate

T = TypeVar("T")

MARGIN: Final = 1000
SCHEMA: Final = 1
APPLICATION: Final = 0x6C656173  # "leas": file(1) and a careful stranger see whose it is
_FORK_PATIENCE: Final = 1.0  # seconds for which a fork waits for a transaction under way
_LONGEST: Final = 3600.0

_TABLES: Final = f"""
CREATE TABLE leases (name TEXT NOT NULL PRIMARY KEY, version INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE sequence (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    last INTEGER NOT NULL,
    ceiling INTEGER NOT NULL,
    boot TEXT
);
INSERT INTO sequence VALUES (1, 0, 0, NULL);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {SCHEMA}
"""
_WHOSE: Final = (
    "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master)"
    " FROM pragma_application_id, pragma_user_version"
)
_ONE: Final = "SELECT last, ceiling, version, CAST(body AS BLOB) FROM sequence LEFT JOIN leases ON name = ?"
_ALL: Final = "SELECT CAST(name AS BLOB), version, CAST(body AS BLOB) FROM leases WHERE name >= ? ORDER BY 1"


class Row(NamedTuple):
    """What the file shows of one name.

    Attributes:
        last: the number of the last write to the file.
        ceiling: no number above it was ever handed out, not even by a commit that was rolled back.
        version: the number of the last write to the name; None where there is no record.
        body: the record's bytes.
    """

    last: int
    ceiling: int
    version: int | None
    body: bytes

    def slot(self, name: str, claim: Claim | None = None) -> Slot:
        """The same as the protocol sees it; pass the claim where it is known.

        Raises:
            RecordRefused: the record is not ours.
        """
        if self.version is None:
            return Slot(name, None, None, self.last, self.last)
        claim = claim or decode(name, self.body)
        return Slot(name, self.version, claim, self.version, self.version, self.body)


class CommitDoubt(StoreUnavailable):
    """The commit was answered with an error: nobody can say whether it stands."""


class File:
    """One path, for all who use it in this process. Close it when `users` is empty.

    Args:
        path: absolute.
        private: create the file, and its directory, for this user alone.
    """

    def __init__(self, path: str, *, private: bool) -> None:
        self.path: Final = path
        self.users: Final[set[object]] = set()
        self.private = private
        self._parts = (path, f"{path}-wal", f"{path}-shm")
        self._mutex = threading.RLock()  # It knows whose it is where Ctrl-C came before `_owner` was noted.
        self._owner = 0  # the thread whose turn it is
        self._db: sqlite3.Connection | None = None
        self._inodes: tuple[int, ...] = ()
        self._patience = -1  # milliseconds, as SQLite was last told
        self._highest = 0  # of all numbers that this process has seen
        self._replaced = False  # another file is at the path, and not yet numbered on
        self._forker = 0
        self._spent = ""  # why this process can have no other connection

    def read(self, name: str, timeout: float) -> Row:
        """What stands under a name.

        Raises:
            StoreUnavailable: no answer in time, or none that can be used.
            StoreDenied: this process cannot use the file.
        """
        return self.read_many((name,), timeout)[0]

    def read_many(self, names: Iterable[str], timeout: float) -> list[Row]:
        """What stands under each of the names; raises as `read` does."""
        return self._in_turn(timeout, lambda db: [self._look(db, name) for name in names])

    def scan(self, prefix: str, timeout: float) -> list[tuple[str, int, bytes]]:
        """Name, version and bytes of every record whose name begins so, by name; raises as `read` does."""

        def scan(db: sqlite3.Connection) -> list[tuple[str, int, bytes]]:
            found: list[tuple[str, int, bytes]] = []
            for raw, version, body in db.execute(_ALL, (prefix,)):
                name = raw.decode(errors="replace")
                if not name.startswith(prefix):
                    break
                if is_beside(name):
                    continue
                found.append((name, version, body))
            return found

        return self._in_turn(timeout, scan)

    def ask(self, questions: Iterable[str], timeout: float) -> list[str]:
        """The first column of every row that some statements give; raises as `read` does."""
        return self._in_turn(
            timeout, lambda db: [str(row[0]) for question in questions for row in db.execute(question)]
        )

    def swap(self, name: str, version: object, body: bytes | None, timeout: float) -> tuple[bool, Row]:
        """Write a record, or delete it (None), if its version stands there: was it done, and what stands.

        Deleting what is absent is not done.

        Raises:
            CommitDoubt: it may have been done.
            StoreUnavailable: it was not done.
            StoreDenied: it was not done, and this process cannot use the file.
        """

        def swap(db: sqlite3.Connection) -> tuple[bool, Row]:
            row = self._begin(db, name)
            if row.version != version or (version is None and body is None):
                return False, row
            number = row.last + 1
            if body is None:
                db.execute("DELETE FROM leases WHERE name = ?", (name,))
            elif version is None:
                db.execute("INSERT INTO leases VALUES (?, ?, ?)", (name, number, body))
            else:
                db.execute("UPDATE leases SET version = ?, body = ? WHERE name = ?", (number, body, name))
            db.execute("UPDATE sequence SET last = ?", (number,))
            self._commit(db)
            self._highest = number
            return True, Row(number, row.ceiling, None if body is None else number, body or b"")

        return self._in_turn(timeout, swap)

    def write_beside(
        self, name: str, version: object, place: str, body: bytes | None, timeout: float
    ) -> tuple[bool, Row]:
        """Write under another name, or delete there (None), if that version of a record stands; as `swap`.

        It waits for the disk: unlike a lock, what an application keeps is not worthless after a power cut.
        """

        def write(db: sqlite3.Connection) -> tuple[bool, Row]:
            row = self._begin(db, name, durable=True)
            if row.version != version or version is None:
                return False, row
            number = row.last + 1
            if body is None:
                db.execute("DELETE FROM leases WHERE name = ?", (place,))
            else:
                db.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, ?)", (place, number, body))
            db.execute("UPDATE sequence SET last = ?", (number,))
            self._commit(db)
            self._highest = number
            return True, row

        def durably(db: sqlite3.Connection) -> tuple[bool, Row]:
            db.execute("PRAGMA synchronous = FULL")
            try:
                done = write(db)
                self._undo()
                db.execute("PRAGMA synchronous = NORMAL")
            except BaseException:
                self._drop()  # It might go on waiting for the disk with every commit.
                raise
            return done

        return self._in_turn(timeout, durably)

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        with self._mutex:
            self._drop()

    def _in_turn(self, timeout: float, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do something with the connection, one thread at a time; it is rolled back unless it commits."""
        me = threading.get_ident()
        if self._owner == me:
            raise StoreUnavailable(
                f"{self.path}: called in the midst of another call; leave the signal handler"
            )
        try:
            return work(self._enter(timeout, me))
        except sqlite3.Error as error:
            raise self._trouble(error) from error
        finally:
            try:
                if self._owner == me:
                    self._undo()
            finally:  # Ctrl-C comes where a function of ours begins, so here none does before the release.
                if self._owner == me:
                    self._owner = 0
                try:  # noqa: SIM105 - contextlib.suppress is a function of somebody's too
                    self._mutex.release()
                except RuntimeError:  # It never came to our turn.
                    pass

    # The mutex is held in all that follows, once _enter has it.

    def _enter(self, timeout: float, me: int) -> sqlite3.Connection:
        """Take the mutex, and a connection to the file that is at the path now."""
        until = time.monotonic() + timeout
        if not self._mutex.acquire(timeout=min(max(timeout, 0.0), _LONGEST)):
            raise StoreUnavailable(f"{self.path}: other threads kept it busy for {timeout:g} s; try again")
        self._owner = me
        if self._db is not None and (self._inodes_now() != self._inodes or self._db.in_transaction):
            # What we hold open is nobody's lock any more: others use what is at the path. Or a call was cut
            # short before it could roll back.
            self._drop()
        left = until - time.monotonic()
        db = self._db or self._open(left)
        self._wait_at_most(db, left)
        return db

    def _undo(self) -> None:
        """Roll back what is not committed."""
        try:
            if self._db is not None and self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except sqlite3.Error:
            self._drop()

    def _commit(self, db: sqlite3.Connection) -> None:
        try:
            db.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._trouble(error, committing=True) from error

    def _begin(self, db: sqlite3.Connection, name: str, *, durable: bool = False) -> Row:
        """Begin to write: what stands under the name, with room for another number below the ceiling.

        Durable: what is committed next is to wait for the disk, as was set before.
        """
        db.execute("BEGIN IMMEDIATE")
        row = self._row(db, name)
        if row.last < self._highest or row.last + MARGIN >= row.ceiling:
            db.execute("ROLLBACK")
            self._settle(db)
            if durable:
                db.execute("PRAGMA synchronous = FULL")
            db.execute("BEGIN IMMEDIATE")
            row = self._row(db, name)
        self._highest = row.last
        return row

    def _look(self, db: sqlite3.Connection, name: str) -> Row:
        """What stands under the name, by numbers that are not below those that this process has seen."""
        row = self._row(db, name)
        if row.last < self._highest:
            self._settle(db)
            row = self._row(db, name)
        self._highest = row.last
        return row

    def _row(self, db: sqlite3.Connection, name: str) -> Row:
        found = db.execute(_ONE, (name,)).fetchone()
        if found is None:
            raise sqlite3.DatabaseError("the row of the sequence is missing")
        last, ceiling, version, body = found
        return Row(last, ceiling, version, body or b"")

    def _settle(self, db: sqlite3.Connection, *, opening: bool = False) -> None:
        """Bring sequence and ceiling above all that may have been handed out, and wait for the disk.

        Where another file, or an older copy, is in the place of the one that was known, the versions in it
        rise above all that this process has seen, an absence too: it is what counts now, so it must be news.
        """
        try:
            db.execute("PRAGMA synchronous = FULL")
            db.execute("BEGIN IMMEDIATE")
            last, ceiling, boot = self._sequence(db)
            older = self._replaced or last < self._highest
            shift = self._highest + 1 if older else 0
            if shift:
                db.execute("UPDATE leases SET version = version + ?", (shift,))
            # Another process may have been faster to go on after a reboot: once is enough.
            rebooted = opening and (older or boot is None or boot != boot_id())
            start = max(ceiling if rebooted else last, last + shift)
            ceiling = max(ceiling, start + 2 * MARGIN)
            db.execute("UPDATE sequence SET last = ?, ceiling = ?, boot = ?", (start, ceiling, boot_id()))
            db.execute("COMMIT")
            db.execute("PRAGMA synchronous = NORMAL")
        except BaseException:
            self._drop()  # It might go on waiting for the disk with every commit.
            raise
        self._replaced = False

    def _sequence(self, db: sqlite3.Connection) -> tuple[int, int, str | None]:
        found: tuple[int, int, str | None] | None
        found = db.execute("SELECT last, ceiling, boot FROM sequence").fetchone()
        if found is None:
            raise sqlite3.DatabaseError("the row of the sequence is missing")
        return found

    def _open(self, timeout: float) -> sqlite3.Connection:
        if self._spent:
            raise StoreDenied(f"{self.path} {self._spent}")
        self._create()
        try:
            stat = os.stat(self.path)
        except FileNotFoundError as error:
            raise StoreUnavailable(f"{self.path} was removed while it was opened; try again") from error
        except OSError as error:
            raise cannot_open(self.path, error) from error
        self._db = db = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
        self._patience = 0
        try:
            self._wait_at_most(db, timeout)
            self._prepare(db, time.monotonic() + timeout)
            self._inodes = self._inodes_now()
            if self._inodes[:2] != (stat.st_dev, stat.st_ino):
                raise StoreUnavailable(f"{self.path} was replaced while it was opened; try again")
        except BaseException:
            self._drop()
            raise
        return db

    def _prepare(self, db: sqlite3.Connection, until: float) -> None:
        """Make of the file what is needed, if it is empty, and of its sequence, if the host has rebooted."""
        made = self._check(db)
        _use_log(db, self.path, until)
        db.execute("PRAGMA synchronous = FULL")
        if not made:
            db.execute("BEGIN IMMEDIATE")
            if not self._check(db):  # Another process may have been faster.
                for statement in _TABLES.split(";"):  # executescript() would commit first
                    db.execute(statement)
            db.execute("COMMIT")
        last, ceiling, boot = self._sequence(db)
        rebooted = boot is None or boot != boot_id()
        if rebooted or self._replaced or last < self._highest or last + MARGIN >= ceiling:
            self._settle(db, opening=True)
        db.execute("PRAGMA synchronous = NORMAL")

    def _check(self, db: sqlite3.Connection) -> bool:
        """Whether the file is one of ours; False when it is empty."""
        application, schema, tables = db.execute(_WHOSE).fetchone()  # at one instant: others may be at it
        if application == APPLICATION and schema > SCHEMA:
            raise StoreDenied(
                f"{self.path} is of a newer leases (schema {schema}, not {SCHEMA}); upgrade here"
            )
        if application == APPLICATION and schema == SCHEMA:
            return True
        if application or schema or tables:
            raise StoreDenied(f"{self.path} is a database of something else; name another file in LEASES_URL")
        return False

    def _create(self) -> None:
        """Make the file where it is missing, with its mode, which SQLite gives its other files too."""
        try:
            if self.private:
                make_private(os.path.dirname(self.path))
            mode = 0o600 if self.private else 0o666
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode))
        except FileExistsError:
            pass
        except OSError as error:
            raise cannot_open(self.path, error) from error

    def _wait_at_most(self, db: sqlite3.Connection, timeout: float) -> None:
        """Bound SQLite's waiting, rounded down to a power of two: to tell it anew costs a statement."""
        milliseconds = int(timeout * 1000)
        patience = 1 << (milliseconds.bit_length() - 1) if milliseconds > 0 else 0
        if patience != self._patience:
            db.execute(f"PRAGMA busy_timeout = {patience}")
            self._patience = patience

    def _inodes_now(self) -> tuple[int, ...]:
        """Which database, log and index are at the path: device and number, 0 for what is missing."""
        path, log, index = self._parts
        try:
            stat = os.stat(path)
            return stat.st_dev, stat.st_ino, os.stat(log).st_ino, os.stat(index).st_ino
        except OSError:
            return _inodes(path)[:2] + _inodes(log)[1:] + _inodes(index)[1:]

    def _trouble(self, error: sqlite3.Error, *, committing: bool = False) -> Exception:
        if code(error) in SPOILT:
            self._drop()
        if committing:
            return CommitDoubt(f"{self.path}: the commit was answered with: {error}; look what stands there")
        return translate(error, self.path)

    def _drop(self) -> None:
        """Close the connection, unless closing would do harm."""
        (db, self._db), (opened, self._inodes) = (self._db, None), (self._inodes, ())
        if db is None:
            return
        now = self._inodes_now()
        if opened and now[:2] != opened[:2]:
            self._replaced = True  # SQLite sees that too, and leaves the files at the path alone.
        elif opened and now != opened:
            # Here it would not: it would write our old log into the database, and remove the others' new one.
            self._spend(db, "lost its -wal or -shm while it was in use; restart this process")
            return
        with contextlib.suppress(sqlite3.Error):
            db.close()

    def _spend(self, db: sqlite3.Connection, why: str) -> None:
        """Keep a connection from being closed, even when this process ends; it is not used again."""
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(db))
        self._spent = why

    # Around a fork.

    def before_fork(self) -> None:
        """Close the connection, and keep others from opening one until the fork is done."""
        if self._owner == threading.get_ident():  # A signal handler forks in the midst of a call of ours.
            return
        if self._mutex.acquire(timeout=_FORK_PATIENCE):
            self._forker = threading.get_ident()
            self._drop()

    def after_fork(self) -> None:
        """In the parent: go on."""
        if self._forker == threading.get_ident():
            self._forker = 0
            self._mutex.release()

    def forked(self) -> None:
        """In the child: a mutex of its own, and no connection, not even one that could not be closed."""
        self._mutex, self._owner, self._forker = threading.RLock(), 0, 0
        if self._db is not None:
            self._spend(self._db, "was in use while this process was forked; fork when no call is under way")
            self._db = None


def file_at(path: str, *, private: bool) -> File:
    """The one `File` of this process for a path."""
    return _files.setdefault(path, File(path, private=private))


def _use_log(db: sqlite3.Connection, path: str, until: float) -> None:
    """Have the file use a write-ahead log, whose commits do not wait for the disk."""
    while True:
        try:
            mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            break
        except sqlite3.OperationalError as error:
            # SQLite does not always wait here, as it does elsewhere, while others make the same file.
            if code(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
            time.sleep(0.005)
    if mode != "wal":
        raise StoreDenied(f"{path} is where processes cannot share memory; put it on a local disk")


def _inodes(path: str) -> tuple[int, int]:
    try:
        stat = os.stat(path)
    except OSError:
        return 0, 0
    return stat.st_dev, stat.st_ino


_files: Final[dict[str, File]] = {}


def _each(method: str) -> None:
    for file in tuple(_files.values()):
        getattr(file, method)()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _each("before_fork"),
        after_in_parent=lambda: _each("after_fork"),
        after_in_child=lambda: _each("forked"),
    )
atexit.register(_each, "close")
