"""The clients of this process, one for each set of hosts and credentials, and what forks do to them."""

from __future__ import annotations

import os
import threading
from typing import Final

from leases_backends._etcd_client import Client
from leases_backends._url import Address


def client_at(address: Address, user: object) -> Client:
    """The one `Client` of this process for these hosts and credentials, with one more user."""
    key = (address.scheme, address.user, address.password, address.hosts, *sorted(address.options.items()))
    with _mutex:
        client = _clients.get(key) or _clients.setdefault(key, Client(address))
        client.users.add(user)
        return client


def leave(client: Client, user: object) -> None:
    """A user less; the last one closes it."""
    with _mutex:
        client.users.discard(user)
        if client.users:
            return
        for key in [key for key, other in _clients.items() if other is client]:
            del _clients[key]
    client.close()


_clients: Final[dict[tuple[object, ...], Client]] = {}
_mutex = threading.Lock()


def _before_fork() -> None:
    for client in tuple(_clients.values()):
        client.before_fork()


def _after_fork() -> None:
    for client in tuple(_clients.values()):
        client.after_fork()


def _forked() -> None:
    global _mutex
    _mutex = threading.Lock()
    for client in _clients.values():
        client.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_forked)
