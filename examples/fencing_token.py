"""A resource that compares tokens: what a stopped process sent too late is refused.

No lock can call back a message that is already on its way, or stop a process that was stopped between its
look at the clock and its write. The token can: it only ever grows, and a resource that keeps the highest
one refuses what is older, with no assumption about time. Here the resource is a row in a SQL database, and
the token is compared in the transaction that writes it.
"""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from leases import Lease, Lock
from leases.fencing import SqlFence, StaleToken, Token


class Account:
    """One row, guarded by the lock of its name."""

    def __init__(self, name: str, path: Path) -> None:
        self._path = path
        self.fence = SqlFence(name, connect=self._connect)
        with closing(self._connect()) as database, database:
            self.fence.create_table(database)  # once; in production, in a migration
            database.execute("CREATE TABLE account (balance INTEGER)")
            database.execute("INSERT INTO account VALUES (0)")

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path)

    def write(self, balance: int, token: Token) -> bool:
        """Compare and write in one transaction; False if the token is too old."""
        try:
            with closing(self._connect()) as database, database:
                self.fence.check(database, token)
                database.execute("UPDATE account SET balance = ?", (balance,))
        except StaleToken:
            return False
        return True


def main(folder: Path) -> None:
    account = Account("account/42", folder / "account.db")
    # Sealed before an acquisition is reported: all who came before are shut out at once, and not only with
    # the first write of the new holder.
    lock = Lock("account/42", ttl=10, fences=[account.fence])

    with lock as lease:
        first = Token.of(lease)
        print(f"token {first.number}: 100 {verdict(account, 100, lease)}")

    with lock as lease:
        # The first holder was slow: what it sent long ago arrives only now, before the second has written.
        print(f"token {first.number}: 90, late, {verdict(account, 90, first)}")
        print(f"token {lease.token}: 150 {verdict(account, 150, lease)}")


def verdict(account: Account, balance: int, lease: Lease | Token) -> str:
    return "written" if account.write(balance, Token.of(lease)) else "refused"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
