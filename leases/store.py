"""`connect`: one store on purpose, shared by all that use it, with a look at what is in it."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from leases.errors import ConfigurationError
from leases.hub import Hub, shared_hub
from leases.lease import Timeout, check_timeout
from leases.lock import Lock
from leases.record import check_name
from leases.registry import store_url
from leases.threads import Bell

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from leases.contract import Slot, Traits

_LOOK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Status:
    """What a store shows of one lock. It may be stale by the time it is read; only a lease is a promise.

    Attributes:
        name: the lock.
        held: whether a held record stands. Its holder may be dead: where `expires_in` is 0, it can be taken.
        holder: who, readable; None where nobody is.
        token: the fencing token of the tenure; None where nobody holds.
        ttl: seconds that the record lasts after its last write.
        acquired: wall time of the acquisition, Unix seconds, by the holder's clock.
        renewed: wall time of the last write, Unix seconds, by the holder's clock.
        expires_in: seconds until the record can be taken if nobody renews it, where the store is on this
            host and that can be known at one look; else None.
        successor: who is to have a freed lock next.
        metadata: what the holder shows.
        claim: the id of the claim.
    """

    name: str
    held: bool
    holder: str | None = None
    token: int | None = None
    ttl: float | None = None
    acquired: float | None = None
    renewed: float | None = None
    expires_in: float | None = None
    successor: str | None = None
    metadata: Mapping[str, str] | None = None
    claim: str | None = None


class Store:
    """A connected store. The process keeps one connection for each URL, however many stores name it.

    Use it as a context manager, or call `close`: leases that came by it and are still held are lost then
    (``closed``), others are not. The connection ends with the last store of its URL, unless a lock
    was made with the URL itself.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._open = True
        hub.attach(self)

    @property
    def hub(self) -> Hub:
        """The connection that locks use.

        Raises:
            StoreUnavailable: this store was closed.
        """
        if not self._open:
            raise self._hub.gone()
        return self._hub

    @property
    def traits(self) -> Traits:
        """What the store promises."""
        return self._hub.backend.traits

    def lock(self, name: str, **options: Any) -> Lock:
        """A `Lock` on this store; the options are those of `Lock`."""
        return Lock(name, store=self, **options)

    def status(self, name: str, *, timeout: Timeout = _LOOK_SECONDS) -> Status:
        """What the store shows of one lock.

        Raises:
            StoreError: it could not be asked, or the record is not ours.
        """
        return self._status(self.hub.backend.read(check_name(name), _seconds("timeout", timeout)))

    def list(self, prefix: str = "", *, timeout: Timeout = _LOOK_SECONDS) -> list[Status]:
        """The locks whose names begin so, by name. Records that are not ours are left out; see `scan`."""
        return [found for found in self.scan(prefix, timeout=timeout) if isinstance(found, Status)]

    def scan(self, prefix: str = "", *, timeout: Timeout = _LOOK_SECONDS) -> Iterator[Status | Exception]:
        """As `list`, with a `RecordRefused` in the place of what is not ours."""
        for found in self.hub.backend.scan(prefix, _seconds("timeout", timeout)):
            yield found if isinstance(found, Exception) else self._status(found)

    def watch(self, name: str, *, poll: float = 5.0) -> Generator[Status, None, None]:
        """What the store shows of one lock, now and after every change, until the generator is closed.

        Args:
            name: the lock.
            poll: seconds after which it looks even without a hint.

        Raises:
            StoreError: it could not be asked, at any look, or the record is not ours.
        """
        bell, poll = Bell(), _seconds("poll", poll)
        backend = self.hub.backend
        slot = backend.read(check_name(name), _LOOK_SECONDS)
        with _watching(self._hub, slot, bell):
            shown: Slot | None = None
            while True:
                if shown is None or (slot.version, slot.body) != (shown.version, shown.body):
                    shown = slot
                    yield self._status(slot)
                bell.wait(poll)
                slot = backend.read(name, _LOOK_SECONDS)

    def close(self) -> None:
        """Let go of the store; closing twice is harmless."""
        if self._open:
            self._open = False
            self._hub.detach(self)

    def _status(self, slot: Slot) -> Status:
        claim = slot.claim
        if claim is None:
            return Status(slot.name, held=False)
        if not claim.held:
            return Status(slot.name, held=False, successor=claim.successor, renewed=claim.renewed)
        return Status(
            slot.name, True, claim.holder, slot.token, claim.ttl, claim.acquired, claim.renewed,
            self._expires_in(slot), None, dict(claim.metadata), claim.id,
        )  # fmt: skip

    def _expires_in(self, slot: Slot) -> float | None:
        claim, boot = slot.claim, self._hub.boot
        if claim is None or boot is None or claim.boot != boot or claim.sent is None:
            return None
        left = claim.sent + claim.ttl - self._hub.clock().hold
        return max(left, 0.0) if left <= claim.ttl else None

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Store:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a connected store belongs to this process; connect anew in the other one")

    def __repr__(self) -> str:
        return f"<Store {self._hub.backend.identity}{'' if self._open else ' closed'}>"


def connect(url: str | None = None) -> Store:
    """Connect to a store, or share the connection that this process has to it.

    Args:
        url: the store; default ``$LEASES_URL``, else the embedded store.

    Raises:
        ConfigurationError: a URL that no backend takes; the message lists the known schemes.
        StoreError: the store refused or could not be reached.
    """
    return shared_hub(store_url(url), Store)


@contextmanager
def _watching(hub: Hub, slot: Slot, bell: Bell) -> Generator[None, None, None]:
    watch = hub.backend.watch(slot, lambda _: bell.ring())
    try:
        yield
    finally:
        watch.close()


def _seconds(what: str, seconds: Timeout) -> float:
    checked = check_timeout(seconds)
    if not checked:
        raise ConfigurationError(f"{what}={seconds!r} is not a positive number of seconds; pass one")
    return checked
