"""`SqlFence`: what is written in a SQL database, guarded inside the transaction that writes it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from time import monotonic, sleep
from typing import Any, Final

from leases.errors import ConfigurationError, MalformedToken, ResourceBusy, StaleToken
from leases.fencing.connections import (
    PARAMSTYLES,
    Script,
    Statement,
    Way,
    connected,
    trouble,
    way,
    way_async,
)
from leases.fencing.level import Level
from leases.fencing.token import Token, check_seconds, of_lock
from leases.lease import Lease
from leases.record import check_name

TABLE: Final = "leases_fences"
PATIENCE: Final = 5.0
_PART: Final = "[A-Za-z_][A-Za-z0-9_]{0,62}"
_BIGINT: Final = 1 << 63
_PAUSE: Final = 0.01  # seconds between two attempts to seal; each of them may wait in the database, too


class SqlFence:
    """Guards whatever is written in a SQL database, by one row for each lock.

    fence = SqlFence("orders", connect=engine)            # once: fence.create_table(connection)

    with engine.begin() as connection:                    # your transaction
        fence.check(connection, lease)                    # refused here, or
        connection.execute(update(...))                   # committed together

    Level: highest token seen; sealed when it is among the ``fences=`` of its lock, for which it needs
    ``connect``. The check is one statement that inserts or raises the row's token and keeps the row locked
    until the transaction ends. So it commits or rolls back with the writes, before or after them alike, and a
    seal waits until an older tenure's transaction that has passed it is over. Transactions of one tenure
    pass it one after the other.

    Known to work on PostgreSQL at every isolation level and on SQLite (3.35 or newer); others need
    ``INSERT … ON CONFLICT … DO UPDATE … WHERE … RETURNING``. At REPEATABLE READ and SERIALIZABLE the check
    can fail with a serialization error (SQLSTATE 40001), and in a SQLite transaction that has read before
    it, with ``database is locked``: roll back and run the transaction again.

    It cannot guard what is written in another transaction, in autocommit (refused where the driver tells),
    or after a rollback to a savepoint that was set before the check. It is as durable as its database: a
    failover that loses commits can lose the seal. A holder that was stopped in the middle of a transaction
    keeps the next one waiting until the database ends that transaction; bound it there
    (``idle_in_transaction_session_timeout``).

    Args:
        name: the lock that guards; tokens of others are refused.
        table: where tokens are kept, as ``TABLE`` or ``SCHEMA.TABLE``; several fences may share it. It must
            be one table for all: name the schema where connections differ in their ``search_path``.
        connect: for `seal`, a function that gives a new connection (which is closed), or a context manager
            of one, as a pool's ``connection`` does; or a SQLAlchemy engine. Not in autocommit.
        paramstyle: of the DB-API, where it cannot be told by the connection.
        timeout: seconds for which `seal` waits for another transaction, and an acquisition with it, over
            and above its own timeout. Default 5.

    Raises:
        ConfigurationError: an option that cannot work.
    """

    def __init__(
        self,
        name: str,
        *,
        table: str = TABLE,
        connect: Callable[[], Any] | Any = None,
        paramstyle: str | None = None,
        timeout: float = PATIENCE,
    ) -> None:
        self.name = check_name(name)
        self.timeout = check_seconds("timeout", timeout)
        self.table = table
        self._quoted = _quote(table)
        self._connect = _check_connect(connect)
        self._style = _check_style(paramstyle)

    @property
    def level(self) -> Level:
        """What it is worth: without ``connect`` it cannot be sealed before the first write."""
        return Level.HIGHEST_SEEN if self._connect is None else Level.SEALED

    # ---- in the caller's transaction -------------------------------------------------------------

    def check(self, where: Any, lease: Lease | Token, /) -> Token:
        """Let this transaction commit only if no later tenure was here; remember the token with it.

        Args:
            where: a connection or cursor of the DB-API, SQLAlchemy's Connection or Session, or Django's
                connection; in the transaction that writes.
            lease: whose token counts.

        Raises:
            StaleToken: a later tenure was here: roll back.
            ForeignToken: a token of another lock.
            MalformedToken: a token that does not fit the column, over 63 bits.
            ConfigurationError: no connection, or one in autocommit.
            Exception: the driver's own.
        """
        found = way(where, self._style)
        return found.run(self._checking(found, of_lock(self.name, lease)))

    async def check_async(self, where: Any, lease: Lease | Token, /) -> Token:
        """`check` on an asynchronous connection, cursor or session: psycopg's or SQLAlchemy's.

        Raises:
            StaleToken, ForeignToken, MalformedToken, ConfigurationError, Exception: as for `check`.
        """
        if hasattr(where, "run_sync"):
            checked: Token = await where.run_sync(self.check, lease)
            return checked
        found = way_async(where, self._style)
        return await found.run_async(self._checking(found, of_lock(self.name, lease)))

    def highest(self, where: Any) -> int | None:
        """The highest token seen, as this transaction sees it; None before the first."""
        return way(where, self._style).run(self._looking())

    # ---- before the work starts ------------------------------------------------------------------

    def seal(self, lease: Lease | Token, /) -> None:
        """Shut out all earlier tenures from now on, in a transaction of its own.

        Raises:
            StaleToken, ForeignToken, MalformedToken: as for `check`.
            ResourceBusy: a transaction of an earlier tenure did not end in time.
            ConfigurationError: the fence has no ``connect``.
            Exception: the driver's own.
        """
        token = of_lock(self.name, lease)
        if self._connect is None:
            raise ConfigurationError(
                f'the fence of "{self.name}" has nothing to seal by; pass connect= to SqlFence'
            )
        ends = monotonic() + self.timeout
        while True:
            try:
                with connected(self._connect) as connection:
                    found = way(connection, self._style)
                    found.run(self._sealing(found, token, max(ends - monotonic(), _PAUSE)))
                return
            except Exception as error:
                again = trouble(error)
                if again is None:
                    raise
                if again == "busy" or monotonic() >= ends:
                    raise ResourceBusy(self.name, self.timeout) from error
            sleep(_PAUSE)

    async def seal_async(self, lease: Lease | Token, /) -> None:
        """`seal`, awaited."""
        import asyncio

        await asyncio.to_thread(self.seal, lease)

    # ---- the table -------------------------------------------------------------------------------

    @property
    def ddl(self) -> str:
        """The statement that makes the table, for your migrations."""
        columns = "name TEXT NOT NULL PRIMARY KEY, token BIGINT NOT NULL"
        return f"CREATE TABLE IF NOT EXISTS {self._quoted} ({columns})"

    def create_table(self, where: Any) -> None:
        """Make the table if it is not there, in the caller's transaction; not by all processes at once."""
        way(where, self._style).run(self._creating())

    async def create_table_async(self, where: Any) -> None:
        """`create_table` on what `check_async` takes."""
        if hasattr(where, "run_sync"):
            await where.run_sync(self.create_table)
        else:
            await way_async(where, self._style).run_async(self._creating())

    # ---- scripts, for both colours ---------------------------------------------------------------

    def _checking(self, found: Way, token: Token) -> Script[Token]:
        yield from self._admitting(token)
        if found.open() is False:
            raise ConfigurationError(
                "the connection is in autocommit, and the check was a transaction of its own; begin one that "
                "holds the check and the write"
            )
        return token

    def _sealing(self, found: Way, token: Token, patience: float) -> Script[None]:
        if found.postgres:
            limit = f"{max(round(patience * 1000), 1)}ms"
            yield Statement("SELECT set_config('lock_timeout', {0}, true)", (("limit", limit),))
            if found.open() is False:
                raise ConfigurationError(
                    "connect= gives a connection in autocommit, where no wait can be bounded; give one that "
                    "begins transactions"
                )
        yield from self._admitting(token)

    def _admitting(self, token: Token) -> Script[None]:
        if token.number >= _BIGINT:
            raise MalformedToken(str(token), "it does not fit into a BIGINT")
        rows = yield Statement(
            f"INSERT INTO {self._quoted} AS known (name, token) VALUES ({{0}}, {{1}}) ON CONFLICT (name) "
            "DO UPDATE SET token = excluded.token WHERE known.token <= excluded.token RETURNING token",
            (("name", self.name), ("token", token.number)),
        )
        if not rows:
            raise StaleToken(self.name, token.number, (yield from self._looking()))

    def _looking(self) -> Script[int | None]:
        rows = yield Statement(f"SELECT token FROM {self._quoted} WHERE name = {{0}}", (("name", self.name),))
        if not rows:
            return None
        return _number(rows[0])

    def _creating(self) -> Script[None]:
        yield Statement(self.ddl)

    def __repr__(self) -> str:
        return f'<SqlFence "{self.name}" in {self.table}>'


def _number(row: Any) -> int:
    """The token in a row, whatever the caller's connection makes of rows."""
    if isinstance(row, Mapping):
        return int(row["token"])
    if hasattr(row, "token"):
        return int(row.token)
    return int(row[0] if hasattr(row, "__getitem__") else row)


def _quote(table: str) -> str:
    """A table's name as it can stand in a statement: no text from anywhere gets into one unseen."""
    if not isinstance(table, str) or not re.fullmatch(rf"{_PART}(\.{_PART})?", table):
        raise ConfigurationError(
            f"table={table!r} is no name of a table; pass TABLE or SCHEMA.TABLE of letters, digits and _"
        )
    return ".".join(f'"{part}"' for part in table.split("."))


def _check_connect(connect: Any) -> Any:
    if hasattr(connect, "sync_engine"):
        raise ConfigurationError(
            "connect= is an asynchronous engine, and a seal runs in a thread of its own; pass a plain engine"
        )
    if connect is None or callable(connect) or (hasattr(connect, "dialect") and hasattr(connect, "begin")):
        return connect
    raise ConfigurationError(
        f"connect={connect!r} is neither a function that gives a connection nor an engine; pass one"
    )


def _check_style(paramstyle: str | None) -> str | None:
    if paramstyle is not None and paramstyle not in PARAMSTYLES:
        raise ConfigurationError(
            f"paramstyle={paramstyle!r} is none of {', '.join(PARAMSTYLES)}; pass the driver's own"
        )
    return paramstyle
