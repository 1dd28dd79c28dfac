"""Waking those who wait for Lease objects: one stream of events for all names of a process, while it lasts.

One name is watched alone; as soon as there are more, the whole namespace is, so that connections do not
grow with names. Where only named objects may be watched, each name has a stream of its own, up to `MOST`; who
waits for another name is not woken, and finds out by reading. A stream stays for a while when nobody waits
any more, because who waits for a lock often comes again.

A stream begins where the oldest of its watches has read, goes on after a break where it ended, and when the
API server has forgotten that far, everybody is asked to read.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlencode

import urllib3

from leases.contract import Notify, Slot
from leases.errors import RecordRefused
from leases_backends._kubernetes_answers import lacks, trouble
from leases_backends._kubernetes_client import Answer, Client, parsed
from leases_backends._kubernetes_lease import NAME, missing, order_of, slot_of
from leases_backends._kubernetes_names import lock_name, object_name
from leases_backends._watches import Listener, Watchers

MOST: Final = 16
_PATIENCE: Final = 10.0  # seconds for the head of an answer
_LASTS: Final = 300.0  # seconds after which the server is to end a stream, at most; half of it at least
_LINGER: Final = 5.0  # seconds for which a stream that nobody needs waits for the next
_PAUSES: Final = (0.05, 10.0)  # seconds between attempts: the first and the longest, doubling
_GONE: Final = 410


class Watch(Listener):
    """Hints of one name to one listener."""

    def __init__(self, watcher: Watcher, seen: Slot, notify: Notify, user: object) -> None:
        super().__init__(watcher, seen, notify, user)
        self.order = seen.order
        self._version: object = seen.version

    def tell(self, slot: Slot | None, order: int | None) -> None:
        """Pass on what stands there, or that somebody should look, unless it is known or older."""
        notify = self._notify
        if notify is None or (order is not None and self.order is not None and order <= self.order):
            return
        if slot is not None and order is None and slot.version == self._version:
            return
        self.order = order if order is not None else self.order
        self._version = slot.version if slot is not None else self  # which equals no version
        notify(slot)


class Watcher(Watchers[Watch]):
    """All who wait in this process for names in one namespace.

    Args:
        client: the API server.
        path: of the collection of Leases.
        foreign_wait: as for `slot_of`.
    """

    def __init__(self, client: Client, path: str, namespace: str, foreign_wait: float) -> None:
        self._nobody()
        self.client, self.path, self.namespace, self.foreign_wait = client, path, namespace, foreign_wait
        self._streams: dict[str | None, Stream] = {}  # by name; the one of all names is None's
        self._warned = False
        self._narrow = False  # only named objects may be watched
        self.wide = False  # the whole namespace was watched once, so that we may
        self._empty_since = 0.0

    def add(self, seen: Slot, notify: Notify, user: object) -> Watch:
        """Tell of every change to a name since it was seen, until closed, or until the user is forgotten."""
        watch = Watch(self, seen, notify, user)
        with self._mutex:
            self._insert(watch)
            self._arrange()
            stream = self._streams.get(seen.name) or self._streams.get(None)
            missed = stream is not None and not stream.covers(seen.name, seen.order)
        if missed:
            watch.tell(None, None)
        return watch

    def discard(self, watch: Listener) -> None:
        """Tell it nothing more."""
        with self._mutex:
            self._remove(watch)
            if not self._watches:
                self._empty_since = time.monotonic()
            elif self._narrow:
                self._arrange()

    def close(self) -> None:
        """End all streams, and wait for their threads."""
        with self._mutex:
            streams, self._streams, self._watches = list(self._streams.values()), {}, {}
            for stream in streams:
                stream.stop()
        for stream in streams:
            stream.join()

    def forked(self) -> None:
        """In the child of a fork: nobody waits, and no thread runs."""
        self._nobody()
        self._streams = {}

    # For the streams.

    def begin(self, stream: Stream) -> bool:
        """Have a stream begin where the oldest of its watches has read; False where nobody can tell."""
        with self._mutex:
            orders = [watch.order for watch in self._served(stream)]
            known = [order for order in orders if order is not None]
            if not known or len(known) < len(orders):
                return False
            stream.begin(str(min(known)))
            return True

    def still_wanted(self, stream: Stream, *, again: bool = False) -> bool:
        """Whether a stream is to go on; it is not if nobody has waited for a while.

        Args:
            stream: it asks.
            again: it has ended, so that another kind of stream could take its place.
        """
        with self._mutex:
            if self._streams.get(stream.name) is not stream:
                return False
            if not self._watches and time.monotonic() - self._empty_since > _LINGER:
                del self._streams[stream.name]
                return False
            if again and self._watches:
                self._arrange(leaving=stream)
            return self._streams.get(stream.name) is stream

    def warn(self, error: Exception) -> None:
        """Log, once, that nobody here can be woken: locks work all the same, and change hands later."""
        with self._mutex:
            first, self._warned = not self._warned, True
        if first:
            logging.getLogger("leases").warning("who waits is not woken, but looks now and then: %s", error)

    def narrow(self) -> None:
        """The whole namespace may not be watched: one stream for each name, then."""
        with self._mutex:
            self._narrow = True
            self._arrange()

    def tell(self, stream: Stream, name: str | None, slot: Slot | None, order: int | None) -> None:
        """Tell whom it concerns of a change to a name, or all that a stream serves (None)."""
        with self._mutex:
            watches = tuple(self._served(stream) if name is None else self._watches.get(name, ()))
        for watch in watches:
            watch.tell(slot, order)

    def _served(self, stream: Stream) -> Iterator[Watch]:
        for name, group in self._watches.items():
            if stream.name is None or stream.name == name:
                yield from group

    def _arrange(self, leaving: Stream | None = None) -> None:
        """Have the streams that those who wait need; to be called with the mutex held."""
        names = list(self._watches)
        wide = None in self._streams and (leaving is None or leaving.name is not None)
        wanted: set[str | None]
        if self._narrow:
            served = [name for name in names if name in self._streams]
            wanted = {*(served + [name for name in names if name not in self._streams])[:MOST]}
        elif len(names) == 1 and not wide:
            wanted = {names[0]}
        else:
            wanted = {None}
        for name in self._streams.keys() - wanted:
            self._streams.pop(name).stop()
        for name in wanted - self._streams.keys():
            self._streams[name] = Stream(self, name)


class Stream:
    """A thread that reads the events of one name, or of the namespace (None)."""

    def __init__(self, watcher: Watcher, name: str | None) -> None:
        self.name: Final = name
        self._watcher = watcher
        self._over = threading.Event()
        self._mutex = threading.Lock()
        self._response: urllib3.BaseHTTPResponse | None = None
        self._started = self._lost = False
        self._since: int | None = None  # all changes after it are told
        self._position = ""  # the resourceVersion after which to go on
        self._orders: dict[str, int] = {}  # of the last change to each name
        self._thread = threading.Thread(target=self._run, name="leases-kubernetes-watch", daemon=True)
        with contextlib.suppress(RuntimeError):  # The interpreter is ending: nobody is woken any more.
            self._thread.start()

    def begin(self, number: str) -> None:
        """From now on, changes after a resourceVersion are told."""
        self._position, self._since, self._started = number, order_of(number), True

    def covers(self, name: str, order: int | None) -> bool:
        """Whether a watch that has seen a name at `order` will be told of whatever came after it."""
        if not self._started:
            return True  # It will begin early enough, or tell everybody to read.
        if order is None or self._since is None or order < self._since:
            return False
        return self._orders.get(name, 0) <= order

    def stop(self) -> None:
        """End it without waiting."""
        self._over.set()
        with self._mutex:
            if self._response is not None:
                _shut(self._response)

    def join(self) -> None:
        """Wait for the thread, unless this is it."""
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(1.0)

    def _run(self) -> None:
        pause, longest = _PAUSES
        while self._watcher.still_wanted(self, again=self._started):
            began = time.monotonic()
            with contextlib.suppress(Exception):  # A hint may be lost; nothing may end the hints for good.
                self._follow()
            if self._over.is_set():
                return
            if time.monotonic() - began > 1.0:
                pause = _PAUSES[0]
                continue
            self._over.wait(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, longest)

    def _follow(self) -> None:
        """One request: tell of its events until it ends."""
        if self._lost or not (self._started or self._watcher.begin(self)):
            self._begin_anew()
        response = self._watcher.client.stream(f"{self._watcher.path}?{self._query()}", _PATIENCE)
        try:
            with self._mutex:
                if self._over.is_set():
                    return
                self._response = response
            if response.status != 200:
                self._refused(Answer(response.status, parsed(response.data), {}))
            self._watcher.wide = self._watcher.wide or self.name is None
            for event in _events(response):
                self._take(event)
                if not self._watcher.still_wanted(self):
                    return
        finally:
            with self._mutex:
                self._response = None
            response.close()

    def _begin_anew(self) -> None:
        """Begin where the server is now. What came before is for everybody to read."""
        query = urlencode({"limit": "1"} | self._selector())
        answer = self._watcher.client.call("GET", f"{self._watcher.path}?{query}", _PATIENCE)
        if answer.status != 200:
            self._refused(answer)
        self.begin(str(answer.body["metadata"]["resourceVersion"]))
        self._lost = False
        self._watcher.tell(self, None, None, None)

    def _query(self) -> str:
        seconds = int(_LASTS * random.uniform(0.5, 1.0))
        return urlencode(
            {"watch": "1", "allowWatchBookmarks": "true", "resourceVersion": self._position}
            | {"timeoutSeconds": str(seconds)}
            | self._selector()
        )

    def _selector(self) -> dict[str, str]:
        return {} if self.name is None else {"fieldSelector": f"metadata.name={object_name(self.name)}"}

    def _take(self, event: Mapping[str, Any]) -> None:
        whole, kind = event["object"], event["type"]
        if kind == "ERROR":
            self._refused(Answer(int(whole.get("code", 500)), whole, {}))
        metadata = whole["metadata"]
        number = str(metadata["resourceVersion"])
        self._position = number
        if kind == "BOOKMARK":
            return
        name = self.name if self.name is not None else lock_name(metadata["name"], _note(metadata))
        if name is None:
            return
        order = order_of(number)
        if order is not None:
            self._orders[name] = max(order, self._orders.get(name, 0))
        slot: Slot | None
        try:
            removed = kind == "DELETED"
            slot = missing(name, number) if removed else slot_of(name, whole, self._watcher.foreign_wait)
        except RecordRefused:
            slot = None
        self._watcher.tell(self, name, slot, order)

    def _refused(self, answer: Answer) -> None:
        """The server will not go on from where we are, or not at all.

        Raises:
            StoreError: always, so that the next attempt comes after a pause.
        """
        watcher = self._watcher
        error = trouble(answer, "watch", watcher.namespace, watcher.client.shown)
        # An API server that has just started refuses everybody, until it has read who may do what.
        if self.name is None and lacks(answer) and not watcher.wide:
            watcher.narrow()
        elif answer.status == 403:
            watcher.warn(error)
        if answer.status == _GONE:
            self._lost = True
        raise error


def _events(response: urllib3.BaseHTTPResponse) -> Iterator[Mapping[str, Any]]:
    """The events of a stream, one JSON object to a line."""
    rest = b""
    for chunk in response.stream(1 << 16, decode_content=False):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield json.loads(line)


def _note(metadata: Mapping[str, Any]) -> str | None:
    return (metadata.get("annotations") or {}).get(NAME)


def _shut(response: urllib3.BaseHTTPResponse) -> None:
    """Wake the thread that reads it."""
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # it has ended meanwhile
        response.shutdown()
