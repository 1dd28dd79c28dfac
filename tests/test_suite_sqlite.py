"""The SQLite store passes the suite."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest

from leases.contract import Backend
from leases.testing.suite import BackendSuite
from leases_backends.sqlite import connect as connect_sqlite


class TestSqlite(BackendSuite):
    """Records are reached past the backend with the module of the standard library."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "suite.db"

    @pytest.fixture
    def connect(self, path: Path) -> Callable[[], Backend]:
        return lambda: connect_sqlite(f"sqlite://{path}")

    @pytest.fixture
    def write_foreign(self, path: Path) -> Callable[[str, bytes], None]:
        def write(name: str, body: bytes) -> None:
            with closing(sqlite3.connect(path)) as db, db:
                db.execute("UPDATE sequence SET last = last + 1")
                db.execute("INSERT OR REPLACE INTO leases SELECT ?, last, ? FROM sequence", (name, body))

        return write

    @pytest.fixture
    def cut_off(self, path: Path) -> Callable[[], AbstractContextManager[object]]:
        @contextlib.contextmanager
        def locked() -> Generator[None]:
            with closing(sqlite3.connect(path, isolation_level=None)) as db:
                db.execute("BEGIN IMMEDIATE")
                yield
                db.execute("ROLLBACK")

        return locked
