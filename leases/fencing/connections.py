"""How a statement gets into somebody else's transaction, whatever that somebody passed.

A connection or a cursor of the DB-API, threaded or asynchronous, a Connection or a Session of SQLAlchemy, or
Django's connection: each is known by what it can do, and no library is imported for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any, Final, NamedTuple, TypeVar

from leases.errors import ConfigurationError

T = TypeVar("T")
Rows = Sequence[Any]

# What stands for the value of that index and name, by the names of the DB-API, and one of SQLAlchemy's.
PARAMSTYLES: Final[Mapping[str, Callable[[int, str], str]]] = {
    "qmark": lambda index, name: "?",
    "format": lambda index, name: "%s",
    "pyformat": lambda index, name: "%s",
    "numeric": lambda index, name: f":{index + 1}",
    "numeric_dollar": lambda index, name: f"${index + 1}",
    "named": lambda index, name: f":{name}",
}
_POSTGRES: Final = frozenset({"psycopg", "psycopg2", "pg8000"})
_AGAIN: Final = frozenset({"40001", "40P01"})  # SQLSTATE: serialization failure, deadlock
_BUSY: Final = frozenset({"55P03"})  # SQLSTATE: lock not available
_SQLITE_BUSY: Final = (5, 6)  # SQLITE_BUSY, SQLITE_LOCKED


class Statement(NamedTuple):
    """A statement with ``{0}``, ``{1}``… for its values."""

    text: str
    values: tuple[tuple[str, Any], ...] = ()


Script = Generator[Statement, Rows, T]


@dataclass(frozen=True)
class Way:
    """How statements reach a database in the transaction of whoever passed it.

    Attributes:
        execute: runs a text with its values; gives the rows, or in the asynchronous colour awaits them.
        style: the paramstyle.
        postgres: whether the database is known to be PostgreSQL.
        open: whether a transaction is open; None where it cannot be known.
    """

    execute: Callable[[str, Any], Any]
    style: str
    postgres: bool
    open: Callable[[], bool | None]

    def run(self, script: Script[T]) -> T:
        """Run a script whose statements are answered at once."""
        rows: Rows = ()
        try:
            statement = next(script)
            while True:
                rows = self.execute(*_rendered(self.style, statement))
                statement = script.send(rows)
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def run_async(self, script: Script[T]) -> T:
        """Run a script whose statements are awaited."""
        try:
            statement = next(script)
            while True:
                rows = await self.execute(*_rendered(self.style, statement))
                statement = script.send(rows)
        except StopIteration as stop:
            result: T = stop.value
            return result


def way(where: Any, paramstyle: str | None) -> Way:
    """How to use a threaded connection, cursor, SQLAlchemy Connection or Session.

    Raises:
        ConfigurationError: it is none of these, or its paramstyle cannot be told.
    """
    _refuse_colour(where, wanted=False)
    if callable(getattr(where, "get_bind", None)) and callable(getattr(where, "connection", None)):
        where = where.connection()  # a Session's
    if callable(getattr(where, "exec_driver_sql", None)):
        return _of_sqlalchemy(where)
    connection = dbapi_connection(where)
    _refuse_colour(connection, wanted=False)

    def execute(text: str, values: Any) -> Rows:
        cursor = connection.cursor()
        try:
            cursor.execute(text, values)
            return () if cursor.description is None else cursor.fetchall()
        finally:
            cursor.close()

    return _of_dbapi(connection, execute, paramstyle)


def way_async(where: Any, paramstyle: str | None) -> Way:
    """How to use an asynchronous connection or cursor.

    Raises:
        ConfigurationError: as for `way`.
    """
    connection = dbapi_connection(where)
    _refuse_colour(connection, wanted=True)

    async def execute(text: str, values: Any) -> Rows:
        cursor = connection.cursor()
        try:
            await cursor.execute(text, values)
            return () if cursor.description is None else await cursor.fetchall()
        finally:
            await cursor.close()

    return _of_dbapi(connection, execute, paramstyle)


def _refuse_colour(where: Any, *, wanted: bool) -> None:
    """A call of the wrong colour would be sent and never awaited, or awaited when it is over."""
    asynchronous = hasattr(where, "run_sync") or iscoroutinefunction(getattr(where, "commit", None))
    if asynchronous is not wanted:
        advice = "is not asynchronous; call" if wanted else "is asynchronous; await"
        raise ConfigurationError(
            f"{where!r} {advice} the method of the fence {'without' if wanted else 'with'} _async in its name"
        )


def dbapi_connection(where: Any) -> Any:
    """The connection that was passed, itself or by its cursor."""
    for found in (where, getattr(where, "connection", None)):
        if callable(getattr(found, "cursor", None)):
            return found
    raise ConfigurationError(
        f"{where!r} is no database connection, cursor or session; pass the one whose transaction writes"
    )


def _of_sqlalchemy(connection: Any) -> Way:
    def execute(text: str, values: Any) -> Rows:
        result = connection.exec_driver_sql(text, values)
        rows: Rows = result.fetchall() if result.returns_rows else ()
        return rows

    def is_open() -> bool | None:
        return in_transaction(connection.connection.driver_connection)

    dialect = connection.dialect
    return Way(execute, dialect.paramstyle, dialect.name == "postgresql", is_open)


def _of_dbapi(connection: Any, execute: Callable[[str, Any], Any], paramstyle: str | None) -> Way:
    packages = [kind.__module__.partition(".")[0] for kind in type(connection).__mro__]
    postgres = bool(_POSTGRES.intersection(packages)) or getattr(connection, "vendor", "") == "postgresql"
    style = paramstyle or _style_of(connection, packages)
    return Way(execute, style, postgres, lambda: in_transaction(connection))


def _style_of(connection: Any, packages: Sequence[str]) -> str:
    for package in packages:
        if package == "django":  # It translates for all its drivers.
            return "format"
        style = getattr(sys.modules.get(package), "paramstyle", None)
        if style in PARAMSTYLES:
            return str(style)
    raise ConfigurationError(
        f"how {type(connection).__qualname__} marks parameters cannot be told; pass paramstyle= to the "
        f"fence, one of {', '.join(PARAMSTYLES)}"
    )


def in_transaction(connection: Any) -> bool | None:
    """Whether a driver's connection is in a transaction; None where it does not say."""
    for name in ("in_atomic_block", "in_transaction"):  # Django; sqlite3
        found = getattr(connection, name, None)
        if isinstance(found, bool):
            return found
    status = getattr(getattr(connection, "info", None), "transaction_status", None)  # psycopg 2 and 3
    if isinstance(status, int):
        return status != 0
    return False if getattr(connection, "autocommit", None) is True else None


@contextmanager
def connected(connect: Any) -> Generator[Any]:
    """A connection of our own, by a factory, a pool's method or an engine; committed if all goes well."""
    made = connect.begin() if hasattr(connect, "dialect") else connect()
    if callable(getattr(made, "cursor", None)):
        try:
            yield made
            made.commit()
        finally:
            made.close()
        return
    with made as connection:
        yield connection
        if hasattr(connection, "commit") and not hasattr(connect, "dialect"):
            connection.commit()


def trouble(error: Exception) -> str | None:
    """What a driver's error means: ``again`` may help, ``busy`` was waited for; None for all others."""
    inner: Any = getattr(error, "orig", None) or error  # SQLAlchemy wraps
    state = getattr(inner, "sqlstate", None) or getattr(inner, "pgcode", None)
    code = getattr(inner, "sqlite_errorcode", None)
    if state in _AGAIN or (isinstance(code, int) and code & 0xFF in _SQLITE_BUSY):
        return "again"
    return "busy" if state in _BUSY else None


def _rendered(style: str, statement: Statement) -> tuple[str, Any]:
    mark = PARAMSTYLES[style]
    marks = [mark(index, name) for index, (name, _) in enumerate(statement.values)]
    text = statement.text.format(*marks)
    return text, dict(statement.values) if style == "named" else tuple(value for _, value in statement.values)
