"""Two tenures at once: whatever the database does, an earlier one commits nothing after a later one's seal.

On PostgreSQL at every isolation level, on SQLite by every way to begin a transaction, in both journal modes.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any, Final

import psycopg
import pytest

from databases import PATIENCE, Database, database, must_try_again
from leases.fencing import StaleToken, Token

__all__ = ["database"]

LEVELS: Final = {
    "sqlite": ("DEFERRED", "IMMEDIATE", "EXCLUSIVE"),
    "postgres": ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"),
}
STRESS_S: Final = 0.3  # for each level


def _every(levels: Iterable[tuple[str, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("database", "level"), list(levels), indirect=["database"])


ALL: Final = [(kind, level) for kind, levels in LEVELS.items() for level in levels]
every_level: Final = _every(ALL)
# The others keep all writers out from their beginning.
every_level_that_reads_first: Final = _every(one for one in ALL if one[1] not in ("IMMEDIATE", "EXCLUSIVE"))


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


def token(number: int) -> Token:
    return Token("job", number)


def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.005)


def again_and_again(write: Callable[[], None]) -> bool:
    """A transaction as people run it: again, where the database says so; whether it was not refused."""
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends:
        try:
            write()
            return True
        except StaleToken:
            return False
        except Exception as error:
            if not must_try_again(error):
                raise
    raise AssertionError("it never ended")


@every_level
def test_a_transaction_that_passed_ends_before_the_seal(
    database: Database, level: str, pool: ThreadPoolExecutor
) -> None:
    """The seal is not in while it is open, so that what it commits was there when the new holder began."""
    database.guarded_write(1)
    with database.transaction(level) as connection:
        database.fence.check(connection, token(1))
        seal: Future[None] = pool.submit(database.fence.seal, token(2))
        with pytest.raises(TimeoutError):
            seal.result(0.05)
        database.write(connection, 1)
    seal.result(PATIENCE)
    assert database.written() == [1, 1]
    database.refused_write(1, level)


@every_level_that_reads_first
def test_a_transaction_that_began_before_the_seal_is_refused(database: Database, level: str) -> None:
    """Though its snapshot is older than the seal and does not show it."""
    database.guarded_write(1)

    def late() -> None:
        with database.transaction(level) as connection:
            assert len(database.execute(connection, f"SELECT token FROM {database.journal}")) == 1
            database.fence.seal(token(2))
            database.fence.check(connection, token(1))

    with pytest.raises(Exception) as caught:  # noqa: PT011 - which one is asked below
        late()
    if level == "READ COMMITTED":
        assert isinstance(caught.value, StaleToken) and caught.value.highest == 2
    else:
        assert must_try_again(caught.value)
    database.refused_write(1, level)
    assert database.written() == [1]


@every_level
def test_a_first_row_that_two_insert_at_once(
    database: Database, level: str, pool: ThreadPoolExecutor
) -> None:
    """Where no token was seen before, the later tenure's stands, whoever was there first."""
    with database.transaction(level) as connection:
        database.fence.check(connection, token(2))
        early = pool.submit(again_and_again, lambda: database.guarded_write(1, level))
        with pytest.raises(TimeoutError):
            early.result(0.05)
        database.write(connection, 2)
    assert early.result(PATIENCE) is False
    assert database.written() == [2]


@every_level
def test_a_check_that_is_rolled_back_was_none(
    database: Database, level: str, pool: ThreadPoolExecutor
) -> None:
    """Whoever waited for it goes on as if it had not been."""
    database.guarded_write(1)
    connection = database.connect()
    connection.execute(f"BEGIN {level}" if database.kind == "sqlite" else f"BEGIN ISOLATION LEVEL {level}")
    database.fence.check(connection, token(3))
    waits = pool.submit(again_and_again, lambda: database.guarded_write(2, level))
    with pytest.raises(TimeoutError):
        waits.result(0.05)
    connection.rollback()
    connection.close()
    assert waits.result(PATIENCE) is True
    assert database.written() == [1, 2]


@pytest.mark.safety
@pytest.mark.waits
@every_level
@pytest.mark.parametrize("check_first", [True, False], ids=["check first", "write first"])
def test_nothing_of_earlier_tenures_is_committed_after_a_seal(
    database: Database, level: str, pool: ThreadPoolExecutor, check_first: bool
) -> None:
    """Tenure after tenure writes as fast as it can, and goes on when the next has sealed."""
    stop = threading.Event()

    def transaction(number: int) -> None:
        with database.transaction(level) as connection:
            if check_first:
                database.fence.check(connection, token(number))
            database.write(connection, number)
            if not check_first:
                database.fence.check(connection, token(number))

    def work(number: int) -> int:
        done = 0
        while not stop.is_set() and again_and_again(lambda: transaction(number)):
            done += 1
        return done

    ends, at_seal, workers = time.monotonic() + STRESS_S, list[tuple[int, int]](), list[Future[int]]()
    while time.monotonic() < ends or len(workers) < 4:
        number = len(workers) // 2 + 1
        database.fence.seal(token(number))
        earlier = sum(1 for one in database.written() if one < number)
        at_seal.append((number, earlier))
        workers += [pool.submit(work, number) for _ in range(2)]
        time.sleep(0.02)
    stop.set()
    done = [worker.result(PATIENCE) for worker in workers]
    written = database.written()
    assert [(number, sum(1 for one in written if one < number)) for number, _ in at_seal] == at_seal
    assert len(written) == sum(done) > 0


def test_a_seal_is_tried_again_where_the_database_wants_it(postgres: Any, pool: ThreadPoolExecutor) -> None:
    """On connections that are REPEATABLE READ by default, what it waited for makes it fail."""
    database = Database("postgres", postgres.url)
    options, connections = "-c default_transaction_isolation=repeatable\\ read", list[Any]()

    def connect() -> Any:
        connections.append(psycopg.connect(postgres.url, options=options))
        return connections[-1]

    fence = database.fenced(connect=connect)
    database.guarded_write(1)
    with database.transaction() as connection:
        database.fence.check(connection, token(1))
        seal = pool.submit(fence.seal, token(2))
        until(lambda: _waits_for_a_lock(connections))
    seal.result(PATIENCE)
    assert len(connections) == 2 and all(connection.closed for connection in connections)
    database.refused_write(1)


def test_sqlite_with_its_older_journal(tmp_path: Any) -> None:
    """A transaction that has read keeps the seal out, until it ends or the seal gives up."""
    database = Database("sqlite", str(tmp_path / "data.db"))
    with database.transaction() as connection:
        assert database.execute(connection, "PRAGMA journal_mode = DELETE") == [("delete",)]
    database.guarded_write(1)
    with ThreadPoolExecutor(1) as pool, closing(database.connect()) as old:
        old.execute("PRAGMA busy_timeout = 10")
        old.execute("BEGIN DEFERRED")
        database.execute(old, f"SELECT token FROM {database.journal}")
        seal = pool.submit(database.fence.seal, token(2))
        until(lambda: _waits_for_readers(database))
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            database.fence.check(old, token(1))
        old.rollback()
        seal.result(PATIENCE)
    database.refused_write(1)


def _waits_for_a_lock(connections: list[Any]) -> bool:
    """Whether the server says so of the only one there is."""
    if not connections:
        return False
    ask = "SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s"
    with psycopg.connect(connections[0].info.dsn) as probe:
        return probe.execute(ask, (connections[0].info.backend_pid,)).fetchone() == ("Lock",)


def _waits_for_readers(database: Database) -> bool:
    """Whether a writer is about to commit: nobody may begin to read any more."""
    probe = sqlite3.connect(database._where, timeout=0)
    try:
        probe.execute(f"SELECT token FROM {database.journal}").fetchall()
    except sqlite3.OperationalError:
        return True
    finally:
        probe.close()
    return False
