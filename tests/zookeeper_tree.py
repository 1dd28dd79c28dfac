"""ZooKeeper's nodes as any other client sees and writes them, past the backend."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from kazoo.client import KazooClient

from leases_backends._zookeeper_nodes import node_of
from leases_backends.zookeeper import Zookeeper


class Tree:
    """The records under one parent, and a client of its own to reach them by."""

    def __init__(self, client: Any, parent: str) -> None:
        self.client = client
        self.parent = parent

    def path(self, name: str) -> str:
        """Where a lock's record stands."""
        return f"{self.parent}/{node_of(name)}"

    def write(self, name: str, body: bytes) -> None:
        """Write any bytes, whatever stands there."""
        if self.client.exists(self.path(name)):
            self.client.set(self.path(name), body)
        else:
            self.client.create(self.path(name), body, makepath=True)

    def delete(self, name: str) -> None:
        """Delete a record with all below it, as `deleteall` in zkCli does."""
        self.client.delete(self.path(name), recursive=True)

    def version(self, name: str) -> int:
        """How often a record was written since it was created."""
        return int(self.client.exists(self.path(name)).version)


@contextmanager
def tree_of(url: str, **options: Any) -> Generator[Tree]:
    """The records that a URL in the clear, without credentials, reaches."""
    parts = urlsplit(url)
    client: Any = KazooClient(hosts=parts.netloc.rpartition("@")[2], **options)
    client.start(timeout=20)
    try:
        yield Tree(client, parts.path.rstrip("/") or "/leases")
    finally:
        client.stop()
        client.close()


def end_session(backend: Zookeeper) -> int:
    """End the session of a backend at the server, as expiry does, and return its number."""
    number, password = session_number(backend), backend._session.client_now().client_id[1]
    hosts = ",".join(backend._session.target.endpoints)
    twin: Any = KazooClient(hosts=hosts, client_id=(number, password))
    twin.start(timeout=20)
    twin.stop()
    twin.close()
    return number


def session_number(backend: Zookeeper) -> int:
    """Which session a backend has now."""
    return int(backend._session.client_now().client_id[0])
