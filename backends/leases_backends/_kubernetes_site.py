"""One namespace of one cluster as one process uses it: a connection and a watch for all who connect to it."""

from __future__ import annotations

import os
import re
import threading
from typing import Final

from leases.errors import ConfigurationError
from leases_backends._kubernetes_client import Client
from leases_backends._kubernetes_config import Source
from leases_backends._kubernetes_lease import GROUP
from leases_backends._kubernetes_watch import Watcher

_REMEMBERED: Final = 4096
_SETTLES: Final = 10.0  # seconds in which an API server that has started knows what it allows
_NAMESPACE: Final = re.compile("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class Grants:
    """What has been allowed here.

    An API server that has just started forbids everything until it has read its rules, a moment later. So
    what has been allowed is not taken for forbidden before it has been refused for longer than that.
    """

    def __init__(self) -> None:
        self._refused: dict[tuple[str, str], float | None] = {}  # since when; None while it is allowed

    def allow(self, verb: str, name: str = "") -> None:
        """Note that a request was executed; a Role may allow it for some objects alone."""
        if len(self._refused) >= _REMEMBERED:
            self._refused.clear()
        self._refused[verb, name] = None

    def may_come_back(self, verb: str, name: str, now: float) -> bool:
        """Whether a refusal at this instant may be one of a server that has just started."""
        what = verb, name
        if what not in self._refused:
            return False
        since = self._refused[what]
        if since is None:
            since = self._refused[what] = now
        return now - since < _SETTLES


class Site:
    """A namespace, for all who use it in this process. Close it when `users` is empty.

    Args:
        where: the configuration.
        namespace: None is that of the configuration.
        foreign_wait: how many times its leaseDurationSeconds a claim of another tool is good for.

    Raises:
        ConfigurationError: the configuration, or the namespace, will not do.
    """

    def __init__(self, where: Source, namespace: str | None, foreign_wait: float) -> None:
        self.client = Client(where)
        self.namespace = namespace or self.client.access.namespace
        if not _NAMESPACE.fullmatch(self.namespace):
            raise ConfigurationError(
                f"{self.namespace!r} is no namespace of Kubernetes; write kubernetes://NAMESPACE"
            )
        self.foreign_wait = foreign_wait
        self.path = f"/apis/{GROUP}/v1/namespaces/{self.namespace}/leases"
        self.watcher = Watcher(self.client, self.path, self.namespace, foreign_wait)
        self.users: set[object] = set()
        self.grants = Grants()
        self.seen: set[str] = set()  # the locks that have had an object, as far as this process remembers

    def see(self, name: str) -> None:
        """Note that a lock has an object."""
        if len(self.seen) >= _REMEMBERED:
            self.seen.clear()
        self.seen.add(name)

    def close(self) -> None:
        """End the watch, and let go of the connections."""
        self.watcher.close()
        self.client.close()


_Key = tuple[Source, str | None, float]

_sites: Final[dict[_Key, Site]] = {}
_mutex = threading.Lock()


def join(where: Source, namespace: str | None, foreign_wait: float, user: object) -> Site:
    """The one `Site` of this process for a configuration; raises as `Site` does."""
    key = (where, namespace, foreign_wait)
    with _mutex:
        site = _sites.get(key)
        if site is None:
            site = _sites[key] = Site(*key)
        site.users.add(user)
        return site


def part(site: Site, user: object) -> None:
    """A user needs it no more; the last one closes it. Harmless twice."""
    site.watcher.forget(user)
    with _mutex:
        site.users.discard(user)
        last = not site.users
        for key in [key for key, other in _sites.items() if other is site and last]:
            del _sites[key]
    if last:
        site.close()


def _forked() -> None:
    global _mutex
    _mutex = threading.Lock()
    for site in _sites.values():
        site.client.forked()
        site.watcher.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
