"""What is known of a key that is watched: who listens, from which revision, and what the stream was asked."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

from leases.contract import Notify, Slot
from leases.errors import RecordRefused
from leases.record import decode
from leases_backends import _etcd_messages as messages
from leases_backends._etcd_wire import Stream


class Change(NamedTuple):
    """What a write left under a key: its revision, and the bytes, None where it was deleted."""

    revision: int
    body: bytes | None

    def slot(self, name: str) -> Slot:
        """The same as the protocol sees it.

        Raises:
            RecordRefused: the record is not ours.
        """
        if self.body is None:
            return Slot(name, None, None, self.revision, self.revision)
        claim = decode(name, self.body)
        floor = self.revision if claim.token is None else max(self.revision, claim.token)
        return Slot(name, self.revision, claim, self.revision, floor, self.body)


class _Watcher(Protocol):
    def discard(self, watch: Watch) -> None: ...


class Watch:
    """Hints of one name to one listener."""

    def __init__(self, watcher: _Watcher, key: bytes, seen: Slot, notify: Notify, user: object) -> None:
        self.key: Final = key
        self.name: Final = seen.name
        self.user: Final = user
        self.seen = seen.order  # the revision that the listener knows; None where it never looked
        self._notify: Notify | None = notify
        self._watcher = watcher

    def tell(self, change: Change | None) -> None:
        """Pass on what was written, unless it is known; None asks to read."""
        notify = self._notify
        if notify is None or (change is not None and self.seen is not None and change.revision <= self.seen):
            return
        slot = None
        if change is not None:
            self.seen = change.revision
            with suppress(RecordRefused):
                slot = change.slot(self.name)
        notify(slot)

    def close(self) -> None:
        self._notify = None
        self._watcher.discard(self)


class Topic:
    """One key that is watched.

    Attributes:
        id: the watch's number on the stream.
        begin: the revision from which the stream tells; 0 is whatever comes.
        last: the last change that came.
        greet: who is asked to read as soon as the watch stands, because it tells too little.
        refused: how many times in a row etcd refused to watch it.
    """

    __slots__ = ("begin", "greet", "id", "key", "last", "refused", "stands", "watches")

    def __init__(self, key: bytes, number: int, seen: int | None) -> None:
        self.key, self.id = key, number
        self.begin = 0 if seen is None else seen + 1
        self.last: Change | None = None
        self.watches: set[Watch] = set()
        self.greet: list[Watch] = []
        self.refused = 0
        self.stands = False

    def request(self) -> messages.WatchRequest:
        create = messages.WatchCreateRequest(key=self.key, start_revision=self.begin, watch_id=self.id)
        return messages.WatchRequest(create_request=create)


class Session:
    """One stream, from its opening to its end: what is still to be sent, and what has no answer yet."""

    def __init__(self, mutex: threading.Lock) -> None:
        self.outbox: deque[messages.WatchRequest] = deque()
        self.unanswered: deque[Topic] = deque()
        self.changed = threading.Condition(mutex)
        self.ended = False
        self.stream: Stream | None = None

    # With the watcher's mutex held.

    def create(self, topic: Topic) -> None:
        self.unanswered.append(topic)
        self._send(topic.request())

    def cancel(self, topic: Topic) -> None:
        self._send(messages.WatchRequest(cancel_request=messages.WatchCancelRequest(watch_id=topic.id)))

    def end(self) -> Stream | None:
        """Nothing more is sent or heard; the stream is for the caller to cancel, without the mutex."""
        self.ended = True
        self.changed.notify_all()
        return self.stream

    def _send(self, request: messages.WatchRequest) -> None:
        self.outbox.append(request)
        self.changed.notify_all()
