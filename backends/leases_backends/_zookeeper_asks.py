"""What a session is asked: each sends one request, and returns kazoo's handle for the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Ask = Callable[[Any], Any]


def transaction(fill: Callable[[Any], None]) -> Ask:
    """Several changes that are made together or not at all; `fill` is given what collects them."""

    def send(client: Any) -> Any:
        transaction = client.transaction()
        fill(transaction)
        return transaction.commit_async()

    return send


def get(path: str) -> Ask:
    """A node's bytes and numbers."""
    return lambda client: client.get_async(path)


def exists(path: str) -> Ask:
    """A node's numbers; None where it is not there."""
    return lambda client: client.exists_async(path)


def children(path: str) -> Ask:
    """The names of a node's children, and its numbers."""
    return lambda client: client.get_children_async(path, include_data=True)


def sync(path: str) -> Ask:
    """Nothing, once the server knows all that its leader knew."""
    return lambda client: client.sync_async(path)


def create(path: str, acl: list[Any]) -> Ask:
    """Make an empty node."""
    return lambda client: client.create_async(path, b"", acl)
