"""The databases that `SqlFence` is tested on, and what a test does with one past the fence.

@every_database
def test_something(database: Database) -> None: ...
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
import sqlalchemy

from leases.fencing import SqlFence, StaleToken, Token

_count = itertools.count()
PATIENCE: Final = 40.0


class Database:
    """A database of either kind: a fence's table in it, and a journal of who has written.

    Attributes:
        kind: ``sqlite`` or ``postgres``.
        url: as SQLAlchemy reads it.
        table: that of the fences, which no other test has.
        levels: the isolation levels of a transaction; of SQLite the ways to begin one.
        fence: one that can seal.
    """

    def __init__(self, kind: str, where: str) -> None:
        self.kind, self._where = kind, where
        number = next(_count)
        self.table, self.journal = f"fences_{number}", f"journal_{number}"
        if kind == "sqlite":
            self.url, self.levels = f"sqlite:///{where}", ("DEFERRED", "IMMEDIATE", "EXCLUSIVE")
        else:
            self.url = where.replace("postgresql:", "postgresql+psycopg:")
            self.levels = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
        self.fence = self.fenced()
        with self.transaction() as connection:
            if kind == "sqlite":
                self.execute(connection, "PRAGMA journal_mode = WAL")
            self.fence.create_table(connection)
            self.execute(connection, f"CREATE TABLE {self.journal} (token BIGINT)")

    def fenced(self, name: str = "job", **options: Any) -> SqlFence:
        """One more fence on the same table."""
        own: dict[str, Any] = {"table": self.table, "connect": self.connect, "timeout": PATIENCE}
        return SqlFence(name, **(own | options))

    def connect(self) -> Any:
        """A connection, not in autocommit."""
        if self.kind == "sqlite":
            return sqlite3.connect(self._where, timeout=PATIENCE, check_same_thread=False)
        return psycopg.connect(self._where)

    @contextmanager
    def transaction(self, level: str = "") -> Generator[Any]:
        """A transaction of that level on a connection of its own; it commits if the body ends well."""
        with closing(self.connect()) as connection:
            if level and self.kind == "sqlite":
                connection.execute(f"BEGIN {level}")
            elif level:
                connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
            yield connection
            connection.commit()

    def execute(self, connection: Any, text: str, *values: Any) -> list[Any]:
        """Run a statement whose values are marked by `?`."""
        cursor = connection.execute(text if self.kind == "sqlite" else text.replace("?", "%s"), values)
        return [] if cursor.description is None else list(cursor.fetchall())

    def write(self, connection: Any, token: int) -> None:
        """What the fence guards: a line in the journal."""
        self.execute(connection, f"INSERT INTO {self.journal} VALUES (?)", token)

    def written(self) -> list[int]:
        """Who has written and committed."""
        with self.transaction() as connection:
            rows = self.execute(connection, f"SELECT token FROM {self.journal}")
        return [int(token) for (token,) in rows]

    def guarded_write(self, token: int, level: str = "") -> None:
        """A transaction as it is meant."""
        with self.transaction(level) as connection:
            self.fence.check(connection, Token("job", token))
            self.write(connection, token)

    def refused_write(self, token: int, level: str = "") -> StaleToken:
        """The same, which the fence refuses."""
        with pytest.raises(StaleToken) as caught:
            self.guarded_write(token, level)
        return caught.value

    def engine(self, **options: Any) -> sqlalchemy.Engine:
        """SQLAlchemy's, without a pool, so that nothing stays open."""
        return sqlalchemy.create_engine(self.url, poolclass=sqlalchemy.NullPool, **options)


def must_try_again(error: Exception) -> bool:
    """Whether a database ended a transaction because of another, and it is to be run again."""
    if isinstance(error, sqlite3.OperationalError):
        return "locked" in str(error)
    return isinstance(error, psycopg.errors.SerializationFailure | psycopg.errors.DeadlockDetected)


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """A database of the kind that the test was marked for."""
    kind: str = request.param
    url = str(tmp_path / "data.db") if kind == "sqlite" else str(request.getfixturevalue("postgres").url)
    return Database(kind, url)


every_database: Final = pytest.mark.parametrize("database", ["sqlite", "postgres"], indirect=True)
