"""`SqlFence`: the check is in the caller's transaction, whatever the caller talks to the database by."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import Any

import psycopg
import psycopg.rows
import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from databases import PATIENCE, Database, database, every_database
from leases import ConfigurationError
from leases.fencing import ForeignToken, Level, MalformedToken, ResourceBusy, SqlFence, StaleToken, Token
from stores import Site

__all__ = ["database"]


def token(number: int) -> Token:
    return Token("job", number)


# ---- the check -----------------------------------------------------------------------------------


@every_database
def test_the_check_commits_with_the_write_or_neither_does(database: Database) -> None:
    """After a rollback the token has not been seen."""
    database.guarded_write(5)

    def fails() -> None:
        with database.transaction() as connection:
            database.fence.check(connection, token(7))
            database.write(connection, 7)
            raise KeyError("boom")

    with pytest.raises(KeyError):
        fails()
    database.guarded_write(6)
    assert database.written() == [5, 6]
    with database.transaction() as connection:
        assert database.fence.highest(connection) == 6
    assert database.fence.level is Level.SEALED


@every_database
def test_the_highest_token_counts(database: Database) -> None:
    """Equal and higher ones pass, lower ones do not, and the error names both."""
    for number in (0, 3, 3, (1 << 63) - 1):
        database.guarded_write(number)
    refusal = database.refused_write(4)
    assert (refusal.name, refusal.given, refusal.highest) == ("job", 4, (1 << 63) - 1)
    assert database.written() == [0, 3, 3, (1 << 63) - 1]


@every_database
def test_a_check_after_the_write_is_as_good(database: Database) -> None:
    """What was written before it goes with the transaction."""
    database.fence.seal(token(5))

    def writes() -> None:
        with database.transaction() as connection:
            database.write(connection, 4)
            database.fence.check(connection, token(4))

    with pytest.raises(StaleToken):
        writes()
    assert database.written() == []


@every_database
def test_each_lock_has_a_row_of_its_own(database: Database) -> None:
    """Their tokens have nothing to do with each other, and one of another lock is refused (S56)."""
    other = database.fenced("o'ther; -- {0} %s ?")
    other.seal(Token(other.name, 100))
    database.guarded_write(1)
    with database.transaction() as connection:
        assert database.fence.highest(connection) == 1 and other.highest(connection) == 100
        with pytest.raises(ForeignToken):
            database.fence.check(connection, Token(other.name, 100))
    with pytest.raises(ForeignToken):
        database.fence.seal(Token(other.name, 100))


@every_database
def test_a_token_that_does_not_fit_is_refused(database: Database) -> None:
    """Nothing is rounded or wraps around."""
    with pytest.raises(MalformedToken, match="BIGINT"):
        database.guarded_write(1 << 63)
    with pytest.raises(MalformedToken, match="BIGINT"):
        database.fence.seal(token(1 << 100))
    assert database.written() == []


@every_database
def test_a_seal_shuts_out_who_has_not_written_yet(database: Database) -> None:
    """And a seal of an earlier tenure fails itself."""
    database.guarded_write(1)
    database.fence.seal(token(3))
    database.refused_write(2)
    with pytest.raises(StaleToken):
        database.fence.seal(token(2))
    database.guarded_write(3)


@every_database
def test_a_lock_seals_before_it_is_told(database: Database, site: Site) -> None:
    """With real leases: what the earlier tenure sends late is refused though nobody has written since."""
    with site.store() as store:
        lock = store.lock("job", fences=[database.fence])
        with lock as first:
            database.guarded_write(first.token)
            early = first.token
        with lock as second:
            database.refused_write(early)
            with database.transaction() as connection:
                assert database.fence.check(connection, second) == Token.of(second)


# ---- whatever the caller has ---------------------------------------------------------------------

Ways = Callable[[Database, Callable[[Any], object]], None]


def by_connection(database: Database, use: Callable[[Any], object]) -> None:
    with database.transaction() as connection:
        use(connection)


def by_cursor(database: Database, use: Callable[[Any], object]) -> None:
    with database.transaction() as connection, closing(connection.cursor()) as cursor:
        cursor.execute("SELECT 41")
        use(cursor)
        assert cursor.fetchone()[0] == 41  # its own result is still there


def by_other_rows(database: Database, use: Callable[[Any], object]) -> None:
    with database.transaction() as connection:
        connection.row_factory = sqlite3.Row if database.kind == "sqlite" else psycopg.rows.dict_row
        use(connection)


def by_a_subclass(database: Database, use: Callable[[Any], object]) -> None:
    class Mine(sqlite3.Connection):
        pass

    class MinePsycopg(psycopg.Connection[Any]):
        pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psycopg, "connect", MinePsycopg.connect)
        sqlite_connect = sqlite3.connect
        patch.setattr(sqlite3, "connect", lambda *args, **kw: sqlite_connect(*args, **kw, factory=Mine))
        by_connection(database, use)


def by_sqlalchemy(database: Database, use: Callable[[Any], object]) -> None:
    with database.engine().begin() as connection:
        use(connection)


def by_session(database: Database, use: Callable[[Any], object]) -> None:
    with Session(database.engine()) as session, session.begin():
        use(session)


@every_database
@pytest.mark.parametrize(
    "by", [by_connection, by_cursor, by_other_rows, by_a_subclass, by_sqlalchemy, by_session]
)
def test_it_takes_whatever_runs_the_transaction(database: Database, by: Ways) -> None:
    """A connection or a cursor of the driver, SQLAlchemy's Connection or Session."""
    by(database, lambda where: database.fence.check(where, token(5)))
    with pytest.raises(StaleToken) as caught:
        by(database, lambda where: database.fence.check(where, token(4)))
    assert caught.value.highest == 5

    def fails(where: Any) -> None:
        database.fence.check(where, token(6))
        raise KeyError("boom")

    with pytest.raises(KeyError):
        by(database, fails)
    by(database, lambda where: database.fence.check(where, token(5)))


def test_it_takes_djangos_connection(tmp_path: Any) -> None:
    """In `transaction.atomic`, and nowhere else."""
    django = pytest.importorskip("django")
    from django.conf import settings

    if not settings.configured:
        settings.configure(DATABASES={})
        django.setup()
    from django.db.utils import ConnectionHandler

    handler: Any = ConnectionHandler(
        {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "data.db")}}
    )
    from django.db import transaction

    atomic: Any = transaction.atomic
    connection = handler["default"]
    fence = SqlFence("job")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transaction, "get_connection", lambda using=None: connection)
        with atomic():
            fence.create_table(connection)
            fence.check(connection, token(5))
        with pytest.raises(StaleToken), atomic():
            fence.check(connection, token(4))
        with pytest.raises(ConfigurationError, match="autocommit"):
            fence.check(connection, token(5))
    connection.close()


def test_it_takes_what_is_asynchronous(postgres: Any) -> None:
    """psycopg's AsyncConnection, and SQLAlchemy's AsyncConnection and AsyncSession."""
    database = Database("postgres", postgres.url)

    async def main() -> None:
        engine = create_async_engine(database.url)
        for number, connect in enumerate((lambda: _async_psycopg(postgres.url), engine.begin), 5):
            async with connect() as connection:
                assert await database.fence.check_async(connection, token(number)) == token(number)
            with pytest.raises(StaleToken):
                async with connect() as connection:
                    await database.fence.check_async(connection, token(4))
        async with AsyncSession(engine) as session, session.begin():
            await database.fence.check_async(session, token(7))
        await database.fence.seal_async(token(8))
        async with engine.begin() as connection:
            await SqlFence("job", table=f"{database.table}_async").create_table_async(connection)
        await engine.dispose()

    asyncio.run(main())
    database.refused_write(7)


def _async_psycopg(url: str) -> Any:
    class Connected:
        async def __aenter__(self) -> Any:
            self.connection = await psycopg.AsyncConnection.connect(url)
            return self.connection

        async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
            if error is None:
                await self.connection.commit()
            await self.connection.close()

    return Connected()


def test_the_colours_are_told_apart(postgres: Any) -> None:
    """A coroutine that nobody awaits would be no check, and must not look like one."""
    database = Database("postgres", postgres.url)

    async def main() -> None:
        engine = create_async_engine(database.url)
        async with _async_psycopg(postgres.url) as connection, engine.connect() as alchemy:
            for where in (connection, connection.cursor(), alchemy):
                with pytest.raises(ConfigurationError, match=r"is asynchronous; await .* with _async"):
                    database.fence.check(where, token(1))
        not_it = pytest.raises(ConfigurationError, match=r"is not asynchronous; call .* without _async")
        with database.transaction() as connection, not_it:
            await database.fence.check_async(connection, token(1))
        await engine.dispose()

    asyncio.run(main())


@every_database
@pytest.mark.parametrize("by", ["driver", "sqlalchemy"])
def test_autocommit_is_refused(database: Database, by: str) -> None:
    """There the check would be a transaction of its own, and the write another."""
    if by == "sqlalchemy":
        engine = database.engine(isolation_level="AUTOCOMMIT")
        with engine.connect() as connection, pytest.raises(ConfigurationError, match="autocommit"):
            database.fence.check(connection, token(1))
        return
    with closing(database.connect()) as connection:
        if database.kind == "sqlite":
            connection.isolation_level = None
        else:
            connection.autocommit = True
        with pytest.raises(ConfigurationError, match="autocommit"):
            database.fence.check(connection, token(1))
        connection.execute("BEGIN")  # one that was begun by hand is a transaction like any other
        database.fence.check(connection, token(1))
        connection.execute("COMMIT")


# ---- sealing -------------------------------------------------------------------------------------


def _pool(database: Database) -> Any:
    @contextmanager
    def connection() -> Generator[Any]:
        with database.transaction() as made:
            yield made

    return connection


FACTORIES: dict[str, Callable[[Database], Any]] = {
    "function": lambda database: database.connect,
    "pool": _pool,
    "engine": lambda database: database.engine(),
    "engine.connect": lambda database: database.engine().connect,
    "engine.begin": lambda database: database.engine().begin,
    "sessionmaker": lambda database: sessionmaker(database.engine()),
    "sessionmaker.begin": lambda database: sessionmaker(database.engine()).begin,
}


@every_database
@pytest.mark.parametrize("connect", FACTORIES)
def test_it_seals_by_whatever_connects(database: Database, connect: str) -> None:
    """It commits, and leaves no connection open."""
    fence = database.fenced(connect=FACTORIES[connect](database))
    fence.seal(token(5))
    database.refused_write(4)
    with pytest.raises(StaleToken):
        fence.seal(token(4))
    database.guarded_write(5)


@every_database
def test_a_seal_that_has_to_wait_too_long_says_so(database: Database) -> None:
    """A transaction that passed the check and was stopped keeps its row; the seal is not in."""
    fence = database.fenced(timeout=0.05, connect=lambda: _impatient(database))
    with database.transaction() as connection:
        database.fence.check(connection, token(1))
        with pytest.raises(ResourceBusy, match="end the process or transaction"):
            fence.seal(token(2))
        database.write(connection, 1)
    assert database.written() == [1]
    fence.seal(token(2))


def _impatient(database: Database) -> Any:
    connection = database.connect()
    if database.kind == "sqlite":
        connection.execute("PRAGMA busy_timeout = 10")
    return connection


@every_database
def test_a_seal_waits_for_an_older_transaction(database: Database) -> None:
    """And is in as soon as that has ended."""
    sealing = threading.Thread(target=database.fence.seal, args=(token(2),))
    with database.transaction() as connection:
        database.fence.check(connection, token(1))
        sealing.start()
        sealing.join(0.05)
        assert sealing.is_alive()
        database.write(connection, 1)
    sealing.join(PATIENCE)
    database.refused_write(1)


def test_a_postgres_in_autocommit_seals_nothing(postgres: Any) -> None:
    """No wait could be bounded there."""
    database = Database("postgres", postgres.url)
    fence = database.fenced(connect=lambda: psycopg.connect(postgres.url, autocommit=True))
    with pytest.raises(ConfigurationError, match="autocommit"):
        fence.seal(token(1))


@every_database
def test_the_drivers_own_errors_are_its_own(database: Database) -> None:
    """A table that is not there is told by the database, in a check and in a seal."""
    fence = database.fenced(table="nowhere")
    kinds = (sqlite3.OperationalError, psycopg.errors.UndefinedTable)
    with pytest.raises(kinds, match="nowhere"):
        fence.seal(token(1))
    with pytest.raises(kinds, match="nowhere"), database.transaction() as connection:
        fence.check(connection, token(1))


# ---- what cannot work ----------------------------------------------------------------------------


def test_without_a_way_to_connect_it_does_not_seal() -> None:
    """The error names the argument, and the fence says that it is worth less."""
    assert SqlFence("job").level is Level.HIGHEST_SEEN
    with pytest.raises(ConfigurationError, match="connect="):
        SqlFence("job").seal(token(1))


WRONG: list[dict[str, Any]] = [
    *({"table": table} for table in ("", "a b", "a;--", 'a"b', "1a", "a.b.c", "a.", "ä", "x" * 64, None)),
    *(
        {"connect": connect}
        for connect in (5, "sqlite://", create_async_engine("postgresql+psycopg://nowhere"))
    ),
    *({"paramstyle": style} for style in ("?", "dollar")),
    *({"timeout": timeout} for timeout in (-1, "soon", None)),
    {"name": ""},
]


@pytest.mark.parametrize("options", WRONG, ids=lambda options: "-".join(options))
def test_what_cannot_work_is_refused_at_once(options: dict[str, Any]) -> None:
    """A table's name is an identifier or nothing, so that no text gets into a statement unseen."""
    with pytest.raises(ConfigurationError):
        SqlFence(**(dict[str, Any](name="job") | options))


def test_what_is_no_connection_is_refused() -> None:
    """And one whose parameters nobody knows how to mark, unless the fence is told."""

    class Strange:
        def cursor(self) -> Any:
            raise KeyError("asked")

    with pytest.raises(ConfigurationError, match="no database connection"):
        SqlFence("job").check(object(), token(1))
    with pytest.raises(ConfigurationError, match="pass paramstyle="):
        SqlFence("job").check(Strange(), token(1))
    with pytest.raises(KeyError, match="asked"):
        SqlFence("job", paramstyle="named").check(Strange(), token(1))


def test_rows_are_read_whatever_the_connection_makes_of_them(tmp_path: Any) -> None:
    """A refusal is told as one, with the token that was seen."""
    fence = SqlFence("job")
    with closing(sqlite3.connect(tmp_path / "data.db")) as connection:
        fence.create_table(connection)
        fence.check(connection, token(5))
        made = sqlite3.Row, lambda _, row: row[0], lambda _, row: SimpleNamespace(token=row[0])
        for connection.row_factory in (*made, lambda _, row: {"token": row[0]}):
            with pytest.raises(StaleToken) as caught:
                fence.check(connection, token(4))
            assert caught.value.highest == fence.highest(connection) == 5


@pytest.mark.parametrize(
    ("style", "marks", "values"),
    [
        ("qmark", "?, ?", ("job", 5)),
        ("format", "%s, %s", ("job", 5)),
        ("pyformat", "%s, %s", ("job", 5)),
        ("numeric", ":1, :2", ("job", 5)),
        ("numeric_dollar", "$1, $2", ("job", 5)),
        ("named", ":name, :token", {"name": "job", "token": 5}),
    ],
)
def test_every_style_of_parameters(style: str, marks: str, values: Any) -> None:
    """Values are never part of the text, whatever the driver calls them."""
    asked = list[Any]()

    class Cursor:
        description = ("token",)

        def execute(self, text: str, values: Any) -> None:
            asked.append((text, values))

        def fetchall(self) -> list[Any]:
            return [(5,)]

        def close(self) -> None: ...

    class Strange:
        cursor = Cursor

    SqlFence("job", paramstyle=style).check(Strange(), token(5))
    [(text, given)] = asked
    assert f"VALUES ({marks}) ON CONFLICT" in text and given == values


@pytest.mark.parametrize("style", ["qmark", "named"])
def test_styles_that_sqlite_knows(style: str, tmp_path: Any) -> None:
    """By position and by name."""
    fence = SqlFence("job", paramstyle=style)
    with closing(sqlite3.connect(tmp_path / "data.db")) as connection:
        fence.create_table(connection)
        fence.check(connection, token(5))
        with pytest.raises(StaleToken):
            fence.check(connection, token(4))


def test_a_table_in_a_schema(postgres: Any) -> None:
    """SCHEMA.TABLE is two names, not one."""
    database = Database("postgres", postgres.url)
    fence = database.fenced(table=f"Other{database.table}.fences")
    with database.transaction() as connection:
        connection.execute(f'CREATE SCHEMA "Other{database.table}"')
        fence.create_table(connection)
        fence.create_table(connection)
    fence.seal(token(3))
    with database.transaction() as connection:
        assert fence.highest(connection) == 3
