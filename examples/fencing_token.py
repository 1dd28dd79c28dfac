"""A resource that compares tokens: what a stopped process sent too late is refused.

No lock can call back a message that is already on its way, or stop a process that was stopped between its
look at the clock and its write. The token can: it only ever grows, and a resource that keeps the highest
one refuses what is older, with no assumption about time.
"""

from __future__ import annotations

import sqlite3

from leases import Lease, Lock


class Account:
    """One row, and the highest token it has seen. Any store with a conditional write can do the same."""

    def __init__(self) -> None:
        self._database = sqlite3.connect(":memory:", isolation_level=None)
        self._database.execute("CREATE TABLE account (balance INTEGER, token INTEGER)")
        self._database.execute("INSERT INTO account VALUES (0, 0)")

    def seal(self, lease: Lease) -> None:
        """Shut out all who came before, at once, and not only with the first write of the new holder."""
        self._database.execute("UPDATE account SET token = max(token, ?)", (lease.token,))

    def write(self, balance: int, token: int) -> bool:
        """Compare and write in one statement; False if the token is too old."""
        update = "UPDATE account SET balance = ?, token = ? WHERE token <= ?"
        return self._database.execute(update, (balance, token, token)).rowcount == 1


def main() -> None:
    account = Account()
    lock = Lock("account/42", ttl=10, fences=[account])  # sealed before an acquisition is reported

    with lock as first:
        print(f"token {first.token}: 100 {verdict(account.write(100, first.token))}")

    with lock as second:
        # The first holder was slow: what it sent long ago arrives only now, before the second has written.
        print(f"token {first.token}: 90, late, {verdict(account.write(90, first.token))}")
        print(f"token {second.token}: 150 {verdict(account.write(150, second.token))}")


def verdict(written: bool) -> str:
    return "written" if written else "refused"


if __name__ == "__main__":
    main()
