"""Telling of changes: one stream of watches for all names of this process in one cluster.

Each name is watched from the revision after the one that was seen, never from one that is current: etcd
serves a watch that begins there only every 100 ms. After a break the stream is opened anew, and each name
goes on after the last event that came. Where etcd has forgotten that revision, listeners are asked to read.

There is a stream as long as somebody listens, and a moment longer: who waits for a lock often comes again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import count
from time import monotonic
from typing import Final, Protocol

from tenacity import Retrying, retry_if_result, wait_random_exponential

from leases.contract import Notify, Slot
from leases.errors import StoreUnavailable
from leases_backends import _etcd_messages as messages
from leases_backends._etcd_topics import Change, Session, Topic, Watch
from leases_backends._etcd_wire import Failed, Stream

_LINGER: Final = 1.0  # seconds for which an unused stream stays
_STEADY: Final = 1.0  # seconds after which a stream counts as one that worked
_LONGEST: Final = 3.0  # seconds between attempts to open one
_DELETE: Final = messages.Event.DELETE


class Opener(Protocol):
    """What opens streams."""

    def open_watch(self, requests: Iterator[messages.WatchRequest], *, renew: bool) -> tuple[Stream, int]: ...
    def move_on(self, at: int) -> None: ...


class Watcher:
    """All who wait in this process for names in one cluster."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._numbers = count(1)
        self._begin()

    def _begin(self) -> None:
        self._mutex = threading.Lock()
        self._idle = threading.Condition(self._mutex)
        self._topics: dict[bytes, Topic] = {}
        self._by_id: dict[int, Topic] = {}
        self._session: Session | None = None
        self._thread: threading.Thread | None = None
        self._streaming = False  # the thread has a stream in its hands
        self._renew = False  # the token may have expired

    # ---- who listens -----------------------------------------------------------------------------

    def add(self, key: bytes, seen: Slot, notify: Notify, user: object) -> Watch:
        """Tell of every change to a key since it was seen, until closed, or until the user is forgotten."""
        watch = Watch(self, key, seen, notify, user)
        with self._mutex:
            self._start()  # It finds no topic before the mutex is free.
            topic = self._topics.get(key)
            known = topic.last if topic is not None else None
            if topic is None:
                topic = self._topics[key] = self._new_topic(key, seen.order)
                if self._session is not None and not self._session.ended:
                    self._session.create(topic)
            late = not topic.begin or watch.seen is None or watch.seen + 1 < topic.begin
            ask = late and known is None and topic.stands
            if late and known is None and not topic.stands:
                topic.greet.append(watch)
            topic.watches.add(watch)
        if known is not None or ask:
            watch.tell(known)
        return watch

    def discard(self, watch: Watch) -> None:
        """Tell it nothing more."""
        with self._mutex:
            topic = self._topics.get(watch.key)
            if topic is None or watch not in topic.watches:
                return
            topic.watches.discard(watch)
            if topic.watches:
                return
            del self._topics[watch.key]
            self._by_id.pop(topic.id, None)
            self._idle.notify_all()
            if self._session is not None and not self._session.ended:
                self._session.cancel(topic)

    def forget(self, user: object) -> None:
        """Close all watches of a user."""
        with self._mutex:
            watches = [watch for topic in self._topics.values() for watch in topic.watches]
        for watch in watches:
            if watch.user is user:
                watch.close()

    def pause(self, patience: float) -> None:
        """End the stream, and wait until the thread has let go of it; it opens another when it may."""
        with self._mutex:
            stream = self._session.end() if self._session is not None else None
        if stream is not None:
            stream.cancel()
        if self._thread is threading.current_thread():  # A listener forks.
            return
        until = monotonic() + patience
        with self._mutex:
            while self._streaming and self._idle.wait(until - monotonic()):
                pass

    def forked(self) -> None:
        """In the child of a fork: nobody waits, and no thread runs."""
        self._begin()

    def _start(self) -> None:
        """See that the thread runs, with the mutex held."""
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._run, name="leases-etcd-watch", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # The interpreter is ending, or the system has no thread to spare.
            raise StoreUnavailable("no thread can be started to watch; hints do not come") from error
        self._thread = thread

    def _new_topic(self, key: bytes, seen: int | None) -> Topic:
        topic = Topic(key, next(self._numbers), seen)
        self._by_id[topic.id] = topic
        return topic

    # ---- the stream ------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._wanted():
                self._retry()
        finally:
            with self._mutex:
                if self._thread is threading.current_thread():
                    self._thread = None

    def _wanted(self) -> bool:
        with self._mutex:
            if not self._topics:
                self._thread = None
            return bool(self._topics)

    def _retry(self) -> None:
        """Open a stream and follow it; again, ever more slowly, until one has worked or none is wanted."""
        pauses = wait_random_exponential(multiplier=0.05, max=_LONGEST)
        unsteady = retry_if_result(lambda steady: not steady)
        Retrying(retry=unsteady, wait=pauses, sleep=self._sleep)(self._follow)

    def _sleep(self, seconds: float) -> None:
        until = monotonic() + seconds
        with self._mutex:
            while self._topics and self._idle.wait(until - monotonic()):
                pass

    def _follow(self) -> bool:
        """Open a stream and tell what comes, until it ends; False if it ended soon and is still wanted."""
        began = monotonic()
        with self._mutex:
            if not self._topics:
                return True
            session = self._session = Session(self._mutex)
            self._streaming = True
            for topic in self._topics.values():
                topic.stands = False
                session.create(topic)
        try:
            self._listen(session)
        except Failed:
            pass
        finally:
            with self._mutex:
                wanted = not session.ended
                session.end()
                self._session, self._streaming = None, False
                self._idle.notify_all()
        return not wanted or monotonic() - began > _STEADY

    def _listen(self, session: Session) -> None:
        renew, self._renew = self._renew, False
        stream, at = self._opener.open_watch(self._requests(session), renew=renew)
        with self._mutex:
            session.stream = stream
            if session.ended:
                stream.cancel()
        try:
            for answer in stream:
                with self._mutex:
                    told = self._sort(session, answer)
                for watch, change in told:
                    watch.tell(change)
        except Failed:
            if not session.ended and not self._renew:
                self._opener.move_on(at)
            raise

    def _requests(self, session: Session) -> Iterator[messages.WatchRequest]:
        """What is to be sent, as it comes, in a thread of gRPC's; it also ends a stream that nobody needs."""
        while True:
            with self._mutex:
                while not session.outbox and not session.ended:
                    rung = session.changed.wait(None if self._topics else _LINGER)
                    if not rung and not self._topics:
                        session.end()
                request = None if session.ended else session.outbox.popleft()
                stream = session.stream
            if request is None:
                if stream is not None:
                    stream.cancel()
                return
            yield request

    # ---- what comes, with the mutex held: whom to tell, and what -----------------------------------

    def _sort(self, session: Session, answer: messages.WatchResponse) -> list[tuple[Watch, Change | None]]:
        if answer.created:
            created = session.unanswered.popleft()
            if answer.canceled:
                return self._refused(created, answer.cancel_reason)
            return self._stands(created, answer.header.revision)
        topic = self._by_id.get(answer.watch_id)
        if topic is None:
            return []
        if answer.canceled:
            if not answer.compact_revision:
                return self._refused(topic, answer.cancel_reason)
            return self._forgotten(session, topic, answer.compact_revision)
        if not answer.events:
            return []
        event = answer.events[-1]
        revision = event.kv.mod_revision
        change = topic.last = Change(revision, None if event.type == _DELETE else event.kv.value)
        topic.begin = revision + 1
        return [(watch, change) for watch in topic.watches]

    def _stands(self, topic: Topic, revision: int) -> list[tuple[Watch, Change | None]]:
        topic.stands, topic.refused = True, 0
        topic.begin = topic.begin or revision + 1
        greet, topic.greet = topic.greet, []
        return [(watch, topic.last) for watch in greet]

    def _forgotten(self, session: Session, topic: Topic, compacted: int) -> list[tuple[Watch, Change | None]]:
        """The revision to go on from is compacted: go on after that, and have everybody read."""
        self._by_id.pop(topic.id, None)
        topic.id, topic.begin, topic.last, topic.stands = next(self._numbers), compacted + 1, None, False
        self._by_id[topic.id] = topic
        session.create(topic)
        return [(watch, None) for watch in topic.watches]

    def _refused(self, topic: Topic, reason: str) -> list[tuple[Watch, Change | None]]:
        """We may not watch it: try once more with a new token, then let the listeners read, and see why."""
        topic.refused += 1
        if topic.refused == 1:
            self._renew = True
            raise Failed("CANCELLED", reason)
        return [(watch, None) for watch in topic.watches]
