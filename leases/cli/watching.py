"""Looking at a store again and again, in a thread of its own: a store that hangs holds up no screen."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from leases.clock import Instant, system_clock
from leases.contract import Slot, names
from leases.errors import LeasesError, StoreUnavailable
from leases.store import connect
from leases.terms import look_after
from leases.threads import Bell

if TYPE_CHECKING:
    from collections.abc import Callable

    from leases.contract import Watch
    from leases.store import Store

_LOOK_SECONDS: Final = 5.0
_SCAN_SECONDS: Final = 10.0
_NO_TTL: Final = 15.0
_AGAIN_LEAST, _AGAIN_MOST = 0.25, 5.0  # seconds between looks at a store that does not answer


class Seen(NamedTuple):
    """What a look has shown.

    Attributes:
        slots: what stands in the store.
        refused: why some of it cannot be shown.
        at: the instant after the reply.
        boot: the boot's identity, where the store is on this host and it is known.
        identity: the store, without secrets.
    """

    slots: list[Slot]
    refused: list[Exception]
    at: Instant
    boot: str | None
    identity: str


class Trouble(NamedTuple):
    """A look that failed.

    Attributes:
        error: why.
        since: wall time, Unix seconds.
    """

    error: LeasesError
    since: float


class Looker(threading.Thread):
    """Looks until it is closed; after trouble less and less often.

    Args:
        url: the store.
        name: one lock, at which it looks after every change; None for all.
        prefix: of all, those whose names begin so.
        every: seconds between two looks at all.
        wake: called when there is news.

    Attributes:
        news: what was seen, oldest first; whoever is woken takes it from there.
    """

    def __init__(
        self, url: str, name: str | None, prefix: str, every: float, wake: Callable[[], object]
    ) -> None:
        super().__init__(name="leases-watch", daemon=True)
        self.news: deque[Seen | Trouble] = deque()
        self._url, self._lock, self._prefix, self._every = url, name, prefix, every
        self._wake, self._bell = wake, Bell()
        self._closed = False
        self._watch: Watch | None = None

    def run(self) -> None:
        failures = 0
        store: Store | None = None
        while not self._closed:
            try:
                if store is None:
                    store = connect(self._url)
                rest, failures = self._look(store), 0
            except LeasesError as error:
                failures += 1
                self._tell(Trouble(error, time.time()))
                rest = min(_AGAIN_LEAST * 2 ** min(failures - 1, 16), _AGAIN_MOST) * random.uniform(0.75, 1)
            except Exception as error:  # A backend is to raise no other; if one does, it is told, too.
                self._tell(Trouble(StoreUnavailable(repr(error)), time.time()))
                rest = _AGAIN_MOST
            self._bell.wait(rest)
        if self._watch is not None:
            self._watch.close()
        if store is not None:
            store.close()

    def look(self) -> None:
        """Look now, or as soon as the look under way is over."""
        self._bell.ring()

    def close(self) -> None:
        """Look no more. What is under way is not waited for: the thread does not keep the process."""
        self._closed = True
        self._bell.ring()

    def _look(self, store: Store) -> float:
        """One look, and how long to rest after it."""
        hub = store.hub
        if self._lock is None:
            found = list(hub.backend.scan(self._prefix, _SCAN_SECONDS))
            refused = [error for error in found if isinstance(error, Exception)]
            slots, rest = list(names(found)), self._every
        else:
            slot = hub.backend.read(self._lock, _LOOK_SECONDS)
            if self._watch is None:
                self._watch = hub.backend.watch(slot, lambda _: self._bell.ring())
            ttl = slot.claim.ttl if slot.claim is not None else _NO_TTL
            slots, refused, rest = [slot], [], look_after(ttl, watches=hub.backend.traits.watches)
        self._tell(Seen(slots, refused, system_clock(), hub.boot, hub.backend.identity))
        return rest

    def _tell(self, news: Seen | Trouble) -> None:
        self.news.append(news)
        self._wake()
