"""`Validator`: asks the lock's store whether a caller holds the lock now."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from leases import threads
from leases.errors import ConfigurationError, MalformedToken, NotCurrent, StaleToken, StoreError
from leases.fencing.level import Level
from leases.fencing.token import Token, check_seconds, of_lock
from leases.hub import Countdown, Hub, shared_hub
from leases.lease import Lease
from leases.lock import Connected
from leases.record import check_name
from leases.registry import scheme_of, store_url

if TYPE_CHECKING:
    from leases.contract import Slot

TIMEOUT: Final = 5.0


class Validator:
    """Asks the lock's store whether a caller's holder *and* token are those of the record, as they stand.

    For a worker that obeys the leader and keeps no token of its own, as in figure 10-2 of Burns, "Designing
    Distributed Systems":

        validator = Validator("etcd://h1,h2/app", "shards/7")
        validator.check(Token.parse(request.headers["Fencing-Token"]))

    A name alone would not do: a holder that lost the lock and got it back is the same holder, and what it
    sent in its earlier tenure is late all the same. When in doubt it refuses: a store that cannot be
    asked raises, it never passes.

    Level: asked. It does not promise that the caller still holds when the worker acts: between the answer and
    the act anything can stop for any time. A resource that keeps tokens itself is better guarded by a
    fence. What it can say of time:

    - A caller whose lock was taken by another passes for at most ``cache`` seconds, counted from before the
      store was asked, and one request more.
    - A store may answer from the past: a ZooKeeper server until it has heard of the change, a Consul leader
      just voted out; etcd, Kubernetes, SQLite and memory answer with what is committed. No answer older than
      one that was seen counts, so that whoever was once seen to be over stays over.
    - A record that its holder stopped renewing stands until somebody takes it. On a store of one host it is
      refused from the end of its ttl. Elsewhere no instants can be compared, and it is refused once this
      very object has seen the same version for its ttl; asked for the first time, it passes.
    - After a restore of the store that took tokens back, it refuses everybody: make a new one.

    Args:
        store: a URL or a connected store; None for ``$LEASES_URL``, else the embedded store.
        name: the lock.
        cache: seconds for which a yes may be used again. Default 0: every call asks. A no is never kept.
        timeout: seconds for the store's answer. Default 5.

    Raises:
        ConfigurationError: an option that cannot work.
    """

    level: Final = Level.ASKED

    def __init__(
        self,
        store: str | Connected | None,
        name: str,
        *,
        cache: float = 0.0,
        timeout: float = TIMEOUT,
    ) -> None:
        self.name = check_name(name)
        self.cache = check_seconds("cache", cache)
        self.timeout = check_seconds("timeout", timeout, least=0.001)
        self._store = store
        self._hub: Hub | None = None
        self._mutex, self._process = threading.Lock(), os.getpid()
        self._highest = -1
        self._newest: _Sighting | None = None
        self._yes: _Yes | None = None
        if isinstance(store, str):
            scheme_of(store)
        elif store is not None and not isinstance(getattr(store, "hub", None), Hub):
            raise ConfigurationError(f"store={store!r} is neither a URL nor a connected store; pass one")

    def valid(self, holder: str, token: int) -> bool:
        """Whether this holder holds the lock by this token, as the store shows it.

        Raises:
            StoreError: the store refused or could not be asked, so nobody knows: do not act.
            ConfigurationError: a holder or token that no lease has.
        """
        try:
            self.check(Token(self.name, token, holder))
        except (StaleToken, NotCurrent):
            return False
        return True

    async def valid_async(self, holder: str, token: int) -> bool:
        """`valid`, awaited."""
        try:
            await self.check_async(Token(self.name, token, holder))
        except (StaleToken, NotCurrent):
            return False
        return True

    def check(self, lease: Lease | Token, /) -> Token:
        """Return if the token is that of the present tenure, as the store shows it.

        Raises:
            StaleToken: a later tenure was seen.
            NotCurrent: something else stands in the store.
            ForeignToken: a token of another lock.
            MalformedToken: the token does not say who holds.
            StoreError: the store refused or could not be asked, so nobody knows: do not act.
        """
        token = self._named(lease)
        if not self._known(token):
            self._ask(token, Countdown(self.timeout))
        return token

    async def check_async(self, lease: Lease | Token, /) -> Token:
        """`check`, awaited."""
        token = self._named(lease)
        if not self._known(token):
            import asyncio

            from leases import aio

            countdown = Countdown(self.timeout)
            if (url := self._to_connect()) is not None:
                await aio.connect(url, countdown)
            await asyncio.to_thread(self._ask, token, countdown)
        return token

    # ---- inside ----------------------------------------------------------------------------------

    def _named(self, lease: Lease | Token) -> Token:
        token = of_lock(self.name, lease)
        if token.holder is None:
            raise MalformedToken(str(token), "it does not say who holds")
        return token

    def _known(self, token: Token) -> bool:
        """Whether a yes to the same question may be used again."""
        with self._guard():
            if token.number < self._highest:
                raise StaleToken(self.name, token.number, self._highest)
            yes = self._yes
        if yes is None or self._hub is None or (yes.holder, yes.token) != (token.holder, token.number):
            return False
        return self._connect().clock().hold < yes.until

    def _ask(self, token: Token, countdown: Countdown) -> None:
        if (url := self._to_connect()) is not None:
            threads.connect(url, countdown)
        hub = self._connect()
        asked = hub.clock().hold
        slot = hub.backend.read(self.name, self.timeout - countdown.spent)
        now = hub.clock().hold
        with self._guard():
            newest = self._newest = _newer(self._newest, slot, now)
            self._highest = max(self._highest, newest.slot.token or 0)
            ends = newest.ends(hub)
            why = _objection(newest.slot, token, now >= ends)
            if why is None and token.number < self._highest:  # Without an order, an old answer may come last.
                raise StaleToken(self.name, token.number, self._highest)
            if self._yes is not None and newest.slot.token != self._yes.token:
                self._yes = None
            if why is None:
                self._yes = _Yes(token.holder, token.number, min(asked + self.cache, ends))
        if why is not None:
            raise NotCurrent(self.name, token.number, why)

    def _to_connect(self) -> str | None:
        """The URL whose store is to be connected first."""
        if (self._hub is not None and not self._hub.closed) or not isinstance(self._store, str | None):
            return None
        return store_url(self._store)

    def _connect(self) -> Hub:
        if self._store is not None and not isinstance(self._store, str):
            hub = self._store.hub
        else:
            if self._hub is None or self._hub.closed:
                self._hub = shared_hub(store_url(self._store), Hub.pin)
            hub = self._hub
        if hub.refusal is not None:  # It went back, as after a restore.
            raise StoreError(str(hub.refusal)) from hub.refusal
        self._hub = hub
        return hub

    def _guard(self) -> threading.Lock:
        if self._process != os.getpid():  # Another thread of the parent may have had it.
            self._mutex, self._process = threading.Lock(), os.getpid()
        return self._mutex

    def __repr__(self) -> str:
        return f'<Validator "{self.name}" cache={self.cache:g}>'


@dataclass(frozen=True, slots=True)
class _Yes:
    """An answer that may be used again until an instant of the holder's clock."""

    holder: str | None
    token: int
    until: float


@dataclass(frozen=True, slots=True)
class _Sighting:
    """What was seen, and when it was first in hand, on the holder's clock, which never counts too little."""

    slot: Slot
    since: float

    def ends(self, hub: Hub) -> float:
        """From when on its holder cannot believe in it any more, whatever else is true."""
        claim = self.slot.claim
        if claim is None:
            return self.since
        sent = claim.sent_here(hub.boot)
        return (self.since if sent is None else min(sent, self.since)) + claim.ttl


def _newer(known: _Sighting | None, slot: Slot, now: float) -> _Sighting:
    """The sighting that counts after a slot was read: old news is none, and the first sight of it stands."""
    if known is not None:
        before = known.slot
        if before.order is not None and slot.order is not None and slot.order < before.order:
            return known
        if (slot.version, slot.body) == (before.version, before.body):
            return known
    return _Sighting(slot, now)


def _objection(slot: Slot, token: Token, over: bool) -> str | None:
    """Why the token is not that of the present tenure; None if it is."""
    claim = slot.claim
    if claim is None or not claim.held:
        return "nobody holds it"
    if not claim.id:
        return "it was broken"
    if slot.token != token.number:
        return f"it is held by token {slot.token}, of {claim.holder}"
    if claim.holder != token.holder:
        return f"it is held by {claim.holder}"
    return "its record has not been renewed for its ttl" if over else None
