"""Waking those who wait for a key of Consul: questions that the server answers when something has changed.

A question is held open for five minutes and asked again with the index of its answer, so a silent lock
costs a request in five minutes, and a lock under renewal one for each renewal. Each of the first few names
has a question and a connection of its own; all others share one question for the folder that they are in,
which is answered with everything in it: connections do not grow with names, and the pauses between
such answers grow with their cost.

An index is the store's, and may go back when that is restored; then it begins at nothing again.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from typing import Final

from leases.contract import Notify, Slot
from leases.errors import RecordRefused, StoreError, StoreUnavailable
from leases_backends._consul_http import Answer, Line, NotSent
from leases_backends._consul_kv import Entry, Space
from leases_backends._watches import Listener, Watchers

ALONE: Final = 4  # names that have a question of their own
WAIT: Final = 300  # seconds for which the server may keep silent; it adds up to a sixteenth
_SILENCE: Final = WAIT * 17 / 16 + 15.0
_BACK_OFF: Final = (0.05, 5.0)  # seconds after the first failure, and at most
# The same after an answer that was no news, to a question for one name and to the crowd's: what others write
# next to it can cause as many as they please.
_IDLE_TALK: Final = (0.001, 0.1)
_IDLE_CROWD: Final = (0.002, 0.02)
_SHARE: Final = 4.0  # the crowd's question rests for so many times what its answer cost


class Watch(Listener):
    """Hints of one name to one listener."""

    def __init__(self, watcher: Watcher, seen: Slot, notify: Notify, user: object) -> None:
        super().__init__(watcher, seen, notify, user)
        self._seen = seen

    def tell(self, slot: Slot | None) -> None:
        """Pass on what stands there, unless it is known or older; None: what is not ours, or not known."""
        notify = self._notify
        if notify is None:
            return
        if slot is not None:
            if slot.version == self._seen.version or (slot.order or 0) < (self._seen.order or 0):
                return
            self._seen = slot
        notify(slot)


class Watcher(Watchers[Watch]):
    """All who wait in this process for keys of one URL."""

    def __init__(self, space: Space) -> None:
        self._space: Final = space
        self.forked()

    def forked(self) -> None:
        """In the child of a fork, and at the beginning: nobody waits, and no thread runs."""
        self._nobody()
        self._alone: dict[str, _Alone] = {}
        self._crowd: _Crowd | None = None
        self._crowded: set[str] = set()

    def add(self, seen: Slot, notify: Notify, user: object) -> Watch:
        """Tell of every change to a name since it was seen, until closed, or until the user is forgotten.

        Raises:
            StoreUnavailable: no thread can be started to listen.
        """
        watch = Watch(self, seen, notify, user)
        try:
            with self._mutex:
                self._insert(watch)
                known = self._listener(seen).joined(seen)
        except BaseException:
            watch.close()
            raise
        if known is not seen:
            watch.tell(known)
        return watch

    def discard(self, watch: Listener) -> None:
        """Tell it nothing more. The question stays open until it is answered: who waits often comes again."""
        with self._mutex:
            if self._remove(watch):
                self._crowded.discard(watch.name)

    def close(self) -> None:
        """End all questions, once there are no users."""
        with self._mutex:
            listeners: list[_Listener] = [*self._alone.values()]
            listeners += [self._crowd] if self._crowd is not None else []
            self._alone, self._crowd = {}, None
        for listener in listeners:
            listener.end()
        for listener in listeners:
            listener.join()

    def tell(self, name: str, slot: Slot | None) -> None:
        """Tell all who wait for a name what stands there."""
        for watch in self._waiting(name):
            watch.tell(slot)

    # The mutex is held in what follows.

    def _listener(self, seen: Slot) -> _Listener:
        """Whose answers will tell of a name."""
        name = seen.name
        if name in self._alone:
            return self._alone[name]
        if name not in self._crowded and (len(self._alone) < ALONE or self._make_room()):
            alone = _Alone(self, self._space, seen)
            alone.start()  # It comes to the mutex before it does anything.
            self._alone[name] = alone
            return alone
        if self._crowd is None:
            crowd = _Crowd(self, self._space)
            crowd.start()
            self._crowd = crowd
        self._crowded.add(name)
        return self._crowd

    def _make_room(self) -> bool:
        """End a question that nobody waits for any more, if there is one."""
        for name, alone in self._alone.items():
            if name not in self._watches:
                del self._alone[name]
                alone.end()
                return True
        return False

    # Asked by the listeners.

    def still_alone(self, alone: _Alone) -> bool:
        """Whether somebody waits for this one's answers; if not, it is over."""
        with self._mutex:
            mine = self._alone.get(alone.name) is alone
            if mine and alone.name not in self._watches:
                del self._alone[alone.name]
                return False
            return mine

    def ended(self, listener: _Listener) -> None:
        """It will not ask again, for whatever reason: whoever comes next begins another."""
        with self._mutex:
            if self._crowd is listener:
                self._crowd = None
            for name in [name for name, alone in self._alone.items() if alone is listener]:
                del self._alone[name]

    def crowded(self, crowd: _Crowd) -> set[str]:
        """The names that the crowd's question is for; if there are none, it is over."""
        with self._mutex:
            if self._crowd is crowd and not self._crowded:
                self._crowd = None
            return set(self._crowded) if self._crowd is crowd else set()


class _Listener:
    """A thread that asks one question after the other, over a connection of its own."""

    def __init__(self, watcher: Watcher, space: Space) -> None:
        self._watcher, self._space = watcher, space
        self._index = 0
        self._silly = 0  # answers in succession that were no news
        self._anew = False  # the question was cut to be asked in another way
        self._over = threading.Event()
        self._line: Line | None = None
        self._thread = threading.Thread(target=self._run, name="leases-consul-watch", daemon=True)

    def start(self) -> None:
        try:
            self._thread.start()
        except RuntimeError as error:  # The interpreter is ending, or the system has no thread to spare.
            raise StoreUnavailable(f"{self._space.wire.shown} cannot be watched: {error}") from error

    def end(self) -> None:
        """Ask no more, and do not wait for the answer; from any thread."""
        self._over.set()
        self._cut()

    def join(self) -> None:
        """Wait for the end, a moment at most."""
        if self._thread is not threading.current_thread():
            self._thread.join(1.0)

    def joined(self, seen: Slot) -> Slot | None:
        """One more waits for a name: what is known of it that this one may not have seen; None: ask."""
        raise NotImplementedError

    def _listen(self) -> float | None:
        """Ask once, tell what the answer shows, and say for how long to rest; None when it is over."""
        raise NotImplementedError

    def _run(self) -> None:
        failures = 0
        try:
            while not self._over.is_set():
                try:
                    rest = self._listen()
                    failures = 0
                except StoreError:  # Who waits notices by itself, and is told by its own requests why.
                    self._hang_up()
                    if self._anew:
                        self._anew = False
                        continue
                    failures += 1
                    rest = _doubled(_BACK_OFF, failures) * random.uniform(0.5, 1)
                if rest is None:
                    return
                if rest:
                    self._over.wait(rest)
        finally:
            self._hang_up()
            self._watcher.ended(self)

    def _ask(self, key: str, **query: str | int) -> Answer:
        """The answer, as soon as there is one for an index above the last."""
        if self._line is None:
            self._line = self._space.wire.line(patient=True)
            if self._over.is_set():  # Asked after the line is there to be cut.
                raise NotSent("it is over")
        if self._index:
            query |= {"index": self._index, "wait": f"{WAIT}s"}
        target = self._space.target(f"kv/{key}", **query)
        answer = self._space.checked(self._line.ask("GET", target, None, _SILENCE))
        # An index that went back says nothing about what is new: ask for what stands there now.
        self._index = 0 if answer.index < self._index else max(answer.index, 1)
        return answer

    def _cut(self) -> None:
        line = self._line
        if line is not None:
            line.cut()

    def _hang_up(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.close()


class _Alone(_Listener):
    """The question for one name."""

    def __init__(self, watcher: Watcher, space: Space, seen: Slot) -> None:
        super().__init__(watcher, space)
        self.name: Final = seen.name
        self._index = seen.order or 0
        self._known: Slot | None = seen  # as the last answer showed it; None where it was not ours

    def joined(self, seen: Slot) -> Slot | None:
        return self._known

    def _listen(self) -> float | None:
        if not self._watcher.still_alone(self):
            return None
        answer = self._ask(self._space.key(self.name))
        before = self._known
        try:
            self._known = self._space.slot(self.name, answer)
        except RecordRefused:
            self._known = None
        self._watcher.tell(self.name, self._known)
        news = self._known is None or before is None or self._known.version != before.version
        self._silly = 0 if news else self._silly + 1
        return 0.0 if news else _doubled(_IDLE_TALK, self._silly)


class _Crowd(_Listener):
    """The one question for all names that have none of their own."""

    def __init__(self, watcher: Watcher, space: Space) -> None:
        super().__init__(watcher, space)
        self._folder: str | None = None
        self._versions: dict[str, int | None] = {}  # as they were last told

    def joined(self, seen: Slot) -> Slot | None:
        if self._folder is not None and not self._space.key(seen.name).startswith(self._folder):
            self._anew = True  # The question is too narrow.
            self._cut()
        return None

    def _listen(self) -> float | None:
        names = self._watcher.crowded(self)
        if not names:
            return None
        folder = _folder([self._space.key(name) for name in names])
        if self._folder is None or not folder.startswith(self._folder):
            self._folder, self._index = folder, 0
        answer = self._ask(self._folder, recurse="")
        began = time.thread_time()
        self._silly = 0 if self._tell(answer) else self._silly + 1
        cost = time.thread_time() - began
        return max(min(_SHARE * cost, 1.0), _doubled(_IDLE_CROWD, self._silly))

    def _tell(self, answer: Answer) -> bool:
        """Tell what has changed; whether anything has."""
        found: dict[str, Entry] = {entry["Key"]: entry for entry in self._space.entries(answer)}
        versions: dict[str, int | None] = {}
        for name in self._watcher.crowded(self):
            entry = found.get(self._space.key(name))
            versions[name] = entry["ModifyIndex"] if entry is not None else None
            if name not in self._versions or versions[name] != self._versions[name]:
                self._watcher.tell(name, self._slot(name, entry, answer.index))
        before, self._versions = self._versions, versions
        return versions != before

    def _slot(self, name: str, entry: Entry | None, index: int) -> Slot | None:
        if entry is None:
            return Slot(name, None, None, index, index)
        with contextlib.suppress(RecordRefused):
            return self._space.slot_of(name, entry)
        return None


def _folder(keys: list[str]) -> str:
    """The innermost folder that holds them all."""
    low, high = min(keys), max(keys)
    same = next(
        (at for at, (one, other) in enumerate(zip(low, high, strict=False)) if one != other), len(low)
    )
    return low[: low.rfind("/", 0, same) + 1]


def _doubled(limits: tuple[float, float], times: int) -> float:
    first, most = limits
    return min(first * (1 << min(times, 16)), most)
