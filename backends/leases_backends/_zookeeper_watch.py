"""Waking those who wait for a record in ZooKeeper: one watch per name on one session, set again at once.

A watch tells once that something has changed. It is set with a read, so that nothing is missed between two:
the read that sets it again shows what is there now, and the hint carries that. Watches end with a connection;
on the next all are set again, and what has changed meanwhile shows.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import Any, Protocol

from kazoo.exceptions import NoNodeError
from kazoo.protocol.states import EventType

from leases.contract import Notify, Slot
from leases.errors import RecordRefused
from leases_backends._aside import Aside
from leases_backends._watches import Listener, Watchers
from leases_backends._zookeeper_nodes import Node


class _Session(Protocol):
    aside: Aside

    def begin(self) -> None: ...
    def client_now(self) -> Any: ...


class Watch(Listener):
    """Hints of one name to one listener, in a thread of the client's."""

    def __init__(self, watcher: Watcher, path: str, seen: Slot, notify: Notify, user: object) -> None:
        super().__init__(watcher, seen, notify, user, path)
        self._version: Hashable = seen.version

    def tell(self, node: Node | None) -> None:
        """Pass on what stands there, unless it is known."""
        notify, version = self._notify, None if node is None else node.stamp
        if notify is None or version == self._version:
            return
        self._version = version
        slot = None
        if node is not None:
            try:
                slot = node.slot(self.name)
            except RecordRefused:
                slot = None
        notify(slot)


class Watcher(Watchers[Watch]):
    """All who wait in this process for records that one session reaches."""

    def __init__(self, session: _Session) -> None:
        self._session = session
        self.forked()

    def add(self, path: str, seen: Slot, notify: Notify, user: object) -> Watch:
        """Tell of every change to a record since it was seen, until the watch or its user is closed.

        The server's own watch stays until the next change after that, and is not set again.
        """
        watch = Watch(self, path, seen, notify, user)
        with self._mutex:
            self._insert(watch)

        def begin() -> None:
            self._session.begin()
            self._set(path)

        self._session.aside.call(begin)
        return watch

    def connected(self) -> None:
        """There is a connection, which knows of no watch yet."""
        with self._mutex:
            paths = list(self._watches)
        for path in paths:
            self._set(path)

    def forked(self) -> None:
        """In the child of a fork: nobody waits."""
        self._nobody()
        # One function for each path, because kazoo keeps one watch for each function.
        self._heard: dict[str, Any] = {}

    def _set(self, path: str) -> None:
        """Ask what is there, and to be told when that changes. Without a connection: when there is one."""
        client = self._session.client_now()
        if client is not None and path in self._watches:
            client.get_async(path, watch=self._listener(path)).rawlink(partial(self._seen, path))

    def _listener(self, path: str) -> Any:
        with self._mutex:
            if path not in self._heard:
                self._heard[path] = partial(self._changed, path)
            return self._heard[path]

    def _changed(self, path: str, event: Any) -> None:
        if path not in self._watches:
            with self._mutex:
                if path not in self._watches:
                    self._heard.pop(path, None)
        elif event.type != EventType.NONE:  # Else the connection was lost, and the next sets it again.
            self._set(path)

    def _seen(self, path: str, answer: Any) -> None:
        if answer.successful():
            body, stat = answer.value
            self._tell(path, Node.of(body, stat))
        elif isinstance(answer.exception, NoNodeError):
            client = self._session.client_now()
            if client is not None and path in self._watches:
                there = client.exists_async(path, watch=self._listener(path))
                there.rawlink(partial(self._missed, path))

    def _missed(self, path: str, answer: Any) -> None:
        if answer.successful() and answer.value is None:
            self._tell(path, None)
        elif answer.successful():
            self._set(path)  # It came between the two questions.

    def _tell(self, path: str, node: Node | None) -> None:
        for watch in self._waiting(path):
            watch.tell(node)
