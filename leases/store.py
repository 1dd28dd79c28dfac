"""`connect`: one store on purpose, shared by all that use it, with a look at what is in it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from leases.errors import ConfigurationError
from leases.hub import Hub, shared_hub
from leases.lease import Timeout, check_timeout
from leases.lock import Lock
from leases.record import check_name, check_prefix
from leases.registry import store_url
from leases.threads import Bell

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from leases.contract import Backend, Slot, Traits
    from leases.elector import Elector
    from leases.observer import Leader
    from leases.upkeep import Pruned

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

    def elector(self, name: str, **options: Any) -> Elector:
        """An `Elector` on this store; the options are those of `Elector`."""
        from leases.elector import Elector

        return Elector(name, store=self, **options)

    def observe(self, name: str) -> Generator[Leader | None, None, None]:
        """Who leads, or holds the lock: now, and after every change, until the generator is closed.

        A holder of whom nothing was heard for the ttl of its record is shown as None.

        Raises:
            StoreError: the store refused or was closed, or the record is not ours.
        """
        from leases.observer import observe

        return observe(lambda: self.hub, check_name(name))

    def observe_async(self, name: str) -> AsyncGenerator[Leader | None, None]:
        """`observe`, as an asynchronous generator."""
        from leases.observer import observe_async

        return observe_async(lambda: self.hub, check_name(name))

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
        seconds, backend = _seconds("timeout", timeout), self.hub.backend
        return self._scan(backend.scan(check_prefix(prefix), seconds))

    def _scan(self, slots: Iterable[Slot | Exception]) -> Iterator[Status | Exception]:
        return (found if isinstance(found, Exception) else self._status(found) for found in slots)

    def watch(self, name: str, *, poll: float = 5.0) -> Generator[Status, None, None]:
        """What the store shows of one lock, now and after every change, until the generator is closed.

        Args:
            name: the lock.
            poll: seconds after which it looks even without a hint.

        Raises:
            StoreError: it could not be asked, at any look, or the record is not ours.
        """
        return self._watch(check_name(name), _seconds("poll", poll), self.hub.backend)

    def _watch(self, name: str, poll: float, backend: Backend) -> Generator[Status, None, None]:
        bell, slot = Bell(), backend.read(name, _LOOK_SECONDS)
        with _watching(backend, slot, bell):
            shown: Slot | None = None
            while True:
                if shown is None or (slot.version, slot.body) != (shown.version, shown.body):
                    shown = slot
                    yield self._status(slot)
                bell.wait(poll)
                slot = backend.read(name, _LOOK_SECONDS)

    def break_lock(
        self, name: str, *, if_token: int, now: bool = False, timeout: Timeout = _LOOK_SECONDS
    ) -> Status:
        """Take the lock from its holder, who learns of it by its next renewal; others wait for its ttl.

        Args:
            name: the lock.
            if_token: the token of the tenure to end; no other is touched.
            now: free it at once instead. Its holder may be at work until then: two may hold it.
            timeout: seconds to keep trying.

        Raises:
            WrongToken: nobody holds it, or by another token.
            StoreError: the store refused, or could not be asked; it may be broken all the same.
        """
        from leases.upkeep import break_lock

        check_name(name)
        if isinstance(if_token, bool) or not isinstance(if_token, int):
            raise ConfigurationError(
                f"if_token={if_token!r} is not a token; pass the number that status shows"
            )
        return self._status(
            break_lock(self.hub, name, if_token, now=bool(now), timeout=_seconds("timeout", timeout))
        )

    def prune(
        self,
        prefix: str = "",
        *,
        older_than: float = 3600.0,
        offline: bool = False,
        dry_run: bool = False,
        wait: Timeout = 60.0,
        timeout: Timeout = _LOOK_SECONDS,
    ) -> tuple[Pruned, ...]:
        """Free the locks of dead holders, which it watches for their ttl first, and remove free records.

        Args:
            prefix: only names that begin so.
            older_than: only what was last written so many seconds ago, by its writer's wall clock.
            offline: remove free records also where release leaves them; only when no client runs, because
                versions and tokens of those names may start anew.
            dry_run: change nothing; tell what would be done.
            wait: leave what would have to be watched for longer than so many seconds.
            timeout: seconds for each call to the store.

        Raises:
            StoreError: the store refused, or could not be asked what is there.
        """
        from leases.upkeep import Broom, prune

        if isinstance(older_than, bool) or not isinstance(older_than, int | float) or not older_than >= 0:
            raise ConfigurationError(f"older_than={older_than!r} is not a number of seconds; pass 0 or more")
        broom = Broom(older_than, offline, dry_run, _seconds("wait", wait), _seconds("timeout", timeout))
        return tuple(prune(self.hub, prefix, broom))

    def close(self) -> None:
        """Let go of the store; closing twice is harmless."""
        if self._open:
            self._open = False
            self._hub.detach(self)

    def _status(self, slot: Slot) -> Status:
        return status_of(slot, self._expires_in(slot))

    def _expires_in(self, slot: Slot) -> float | None:
        claim = slot.claim
        sent = None if claim is None else claim.sent_here(self._hub.boot)
        if claim is None or sent is None:
            return None
        left = sent + claim.ttl - self._hub.clock().hold
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


def status_of(slot: Slot, expires_in: float | None) -> Status:
    """What a slot shows; `expires_in` counts where it is held."""
    claim = slot.claim
    if claim is None:
        return Status(slot.name, held=False)
    if not claim.held:
        return Status(slot.name, held=False, successor=claim.successor, renewed=claim.renewed)
    return Status(
        slot.name, True, claim.holder, slot.token, claim.ttl, claim.acquired, claim.renewed,
        expires_in, None, dict(claim.metadata), claim.id,
    )  # fmt: skip


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
def _watching(backend: Backend, slot: Slot, bell: Bell) -> Generator[None, None, None]:
    watch = backend.watch(slot, lambda _: bell.ring())
    try:
        yield
    finally:
        watch.close()


def _seconds(what: str, seconds: Timeout) -> float:
    checked = None if seconds is None else check_timeout(seconds, what)
    if not checked:
        raise ConfigurationError(f"{what}={seconds!r} is not a positive number of seconds; pass one")
    return checked
