"""Waking those who wait for a record in a database file: one thread per file, only while somebody waits.

On Linux the kernel tells of every write to the write-ahead log. The pages of a commit are in the log before
the commit is published, and publishing it is silent, so the thread looks at once and twice more, a little
later. Elsewhere, and where the kernel has no watch to spare, it looks every 15 ms. One number tells whether
anything was committed at all.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Final, Protocol

from leases.contract import Notify, Slot
from leases.errors import RecordRefused, StoreError
from leases_backends._sqlite_file import File, Row
from leases_backends._watches import Listener, Watchers

SAFETY: Final = 1.0  # seconds between looks while nothing is heard: a hint may be lost, waiting must end
_TICK: Final = 0.015  # the same where nothing can be heard
_SOON: Final = 0.002  # seconds after which a commit that was heard is published, if its process was let run
_LATER: Final = 0.02  # and if it was not
_PATIENCE: Final = 0.5  # seconds for which a look may wait for the file


class Watch(Listener):
    """Hints of one name to one listener, by the thread that looks or by one of ours that writes."""

    def __init__(self, watcher: Watcher, seen: Slot, notify: Notify, user: object) -> None:
        super().__init__(watcher, seen, notify, user)
        self._version = seen.version

    def tell(self, row: Row) -> None:
        """Pass on what stands there, unless it is known."""
        notify = self._notify
        if notify is None or row.version == self._version:
            return
        self._version = row.version
        try:
            slot = row.slot(self.name)
        except RecordRefused:
            slot = None
        notify(slot)


class Watcher(Watchers[Watch]):
    """All who wait in this process for names in one file."""

    def __init__(self, file: File) -> None:
        self._nobody()
        self._file: Final = file
        self._bell: _Bell | None = None
        self._running = False
        self._fresh = False  # somebody came who knows less than the last look
        self._last = -1

    def add(self, seen: Slot, notify: Notify, user: object) -> Watch:
        """Tell of every change to a name since it was seen, until closed, or until the user is forgotten."""
        watch = Watch(self, seen, notify, user)
        with self._mutex:
            self._insert(watch)
            self._fresh = True
            if not self._running:
                threading.Thread(target=self._listen, name="leases-sqlite-watch", daemon=True).start()
                self._running = True
            elif self._bell is not None:
                self._bell.ring()
        return watch

    def forget(self, user: object) -> None:
        """Close all watches of a user; with the last the thread ends at once.

        It stays for a second after the last is closed otherwise: who waits for a lock often comes again.
        """
        super().forget(user)
        with self._mutex:
            if self._bell is not None and not self._watches:
                self._bell.ring()

    def written(self, name: str, row: Row) -> None:
        """Tell those of this process at once of a write by this process."""
        if name in self._watches:
            for watch in self._waiting(name):
                watch.tell(row)

    def forked(self) -> None:
        """In the child of a fork: nobody waits, and no thread runs."""
        if self._bell is not None:
            self._bell.close()
        self._nobody()
        self._bell, self._running, self._fresh, self._last = None, False, False, -1

    def _listen(self) -> None:
        bell, heard = _bell(self._file.path), True
        with self._mutex:
            self._bell = bell
        try:
            while self._look():
                # What rings while we sleep rings once: a burst of commits costs two looks.
                if bell.arm() or heard:
                    time.sleep(_SOON)
                    self._look()
                heard = bell.wait(_LATER if heard else SAFETY)
        finally:
            with self._mutex:
                if self._bell is bell:
                    self._running, self._bell = False, None
            bell.close()

    def _look(self) -> bool:
        """Tell whom it concerns what was committed since the last look; False when nobody is left."""
        with self._mutex:
            names, fresh = list(self._watches), self._fresh
            self._fresh = False
            if not names:
                self._running, self._bell = False, None
                return False
        try:
            rows = [self._file.read(names[0], _PATIENCE)]
            if rows[0].last != self._last or fresh:
                self._last = rows[0].last
                rows += self._file.read_many(names[1:], _PATIENCE)
                for name, row in zip(names, rows, strict=True):
                    self.written(name, row)
        except StoreError:
            self._last = -1  # The next look, a safety interval later at most, asks for everything.
        return True


class _Bell(Protocol):
    """What the thread sleeps on."""

    def arm(self) -> bool:
        """Listen to the file that is there now; whether it is another one than before."""
        ...

    def wait(self, timeout: float) -> bool:
        """Sleep until something is heard; False when the time is over, or nothing can be heard."""
        ...

    def ring(self) -> None: ...

    def close(self) -> None: ...


class _Ticker:
    """For where the kernel does not tell: short sleeps."""

    def __init__(self) -> None:
        self._rung = threading.Event()

    def arm(self) -> bool:
        return False

    def wait(self, timeout: float) -> bool:
        heard = self._rung.wait(min(timeout, _TICK))
        self._rung.clear()
        return heard

    def ring(self) -> None:
        self._rung.set()

    def close(self) -> None:
        pass


def _bell(path: str) -> _Bell:
    if sys.platform == "linux":
        try:
            return _Inotify(path)
        except (OSError, ImportError, AttributeError):
            pass
    return _Ticker()


if sys.platform == "linux":
    import select

    _MODIFY, _ATTRIB, _DELETE_SELF, _MOVE_SELF = 0x2, 0x4, 0x400, 0x800

    # A fork waits for an import in this thread: in the child the module would be locked for ever.
    _loading = threading.Lock()
    os.register_at_fork(
        before=_loading.acquire, after_in_parent=_loading.release, after_in_child=_loading.release
    )

    class _Inotify:
        """Writes to the log, and what happens to the names of log and database."""

        def __init__(self, path: str) -> None:
            with _loading:
                import ctypes

            libc = ctypes.CDLL(None, use_errno=True)
            self._add, self._errno = libc.inotify_add_watch, ctypes.get_errno
            self._parts = (
                (os.fsencode(f"{path}-wal"), _MODIFY | _ATTRIB | _DELETE_SELF | _MOVE_SELF),
                (os.fsencode(path), _ATTRIB | _DELETE_SELF | _MOVE_SELF),
            )
            self._watched: list[int] = []
            self._events: int = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
            if self._events < 0:
                raise OSError(ctypes.get_errno(), "no inotify instance left")
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._poll = select.poll()
            for descriptor in (self._events, self._wake):
                self._poll.register(descriptor, select.POLLIN)
            self._deaf = False

        def arm(self) -> bool:
            watched = [self._add(self._events, path, mask) for path, mask in self._parts]
            self._deaf = -1 in watched
            before, self._watched = self._watched, watched
            return watched != before

        def wait(self, timeout: float) -> bool:
            ready = self._poll.poll(1000 * (min(timeout, _TICK) if self._deaf else timeout))
            for descriptor, _ in ready:
                os.read(descriptor, 65536)
            return bool(ready)

        def ring(self) -> None:
            os.eventfd_write(self._wake, 1)

        def close(self) -> None:
            os.close(self._events)
            os.close(self._wake)


def watcher_of(file: File) -> Watcher:
    """The one `Watcher` of this process for a file."""
    return _watchers.setdefault(file.path, Watcher(file))


_watchers: Final[dict[str, Watcher]] = {}


def _forked() -> None:
    for watcher in _watchers.values():
        watcher.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
