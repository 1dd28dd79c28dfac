"""`GuardedKey`: a value in the lock's own store, written only while the tenure that writes it holds."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from leases import threads
from leases.contract import Applied, Conflict, Slot, Unknown, cannot_guard
from leases.errors import (
    ConfigurationError,
    LeaseLost,
    NotCurrent,
    RecordRefused,
    StoreUnavailable,
    WriteUnknown,
)
from leases.fencing.level import Level
from leases.fencing.token import Token, check_seconds, of_lock
from leases.hub import Countdown, Hub, shared_hub
from leases.lease import Lease
from leases.record import check_key, check_name
from leases.registry import scheme_of, store_url

if TYPE_CHECKING:
    from leases.contract import Backend
    from leases.lock import Connected

FORMAT: Final = 1
VALUE_BYTES: Final = 65_536
PATIENCE: Final = 5.0
_AGAIN_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Written:
    """What stands under a key of a lock.

    Attributes:
        value: the bytes.
        token: the token of the tenure that wrote them, with its holder.
        at: wall time of the write by the holder's clock, Unix seconds, for people.
    """

    value: bytes
    token: Token
    at: float


class GuardedKey:
    """A small value that a lock guards: a cursor, a checkpoint, who owns what.

    position = GuardedKey("importer", "position")
    with Lock("importer") as lease:
        seen = position.read()
        ...
        position.write(lease, b"4711")

    Level: guarded by the lock's own record. It is written in one transaction of the store with a look at the
    record, and only if that is the record of this very tenure at this very instant. What comes from an
    earlier tenure, of the same holder too, is refused whether or not a later one has ever written, with no
    seal and no assumption about time; and so is what comes after a release, or after the lock was broken. A
    lease that has run out still writes as long as nobody has succeeded it.

    A renewal of our own that comes in between is found out, and the write is sent again. Two writes of one
    tenure that are under way at once may land in either order, and so may one that was given up as unknown
    and one that followed it: wait for each.

    It works where one transaction can do both: in memory, SQLite, etcd, Consul and ZooKeeper; not on
    Kubernetes. The key belongs to this lock alone, lies beside its record in the store, and stays when the
    lock is released. The value stands there as it is, after one line of JSON.

    Args:
        name: the lock that guards.
        key: the key, 1 to 256 bytes of printable UTF-8.
        store: the lock's store, a URL or a connected store; default ``$LEASES_URL``, else the embedded one.
        timeout: seconds for each call, connecting and all attempts included. Default 5.

    Raises:
        ConfigurationError: an option that cannot work, or a store that has no such transaction.
    """

    level: Final = Level.GUARDED

    def __init__(
        self, name: str, key: str, *, store: str | Connected | None = None, timeout: float = PATIENCE
    ) -> None:
        self.name, self.key = check_name(name), check_key(key)
        self.timeout = check_seconds("timeout", timeout, least=0.001)
        self._store = store
        if isinstance(store, str):
            scheme_of(store)
        elif store is not None:
            if not isinstance(getattr(store, "hub", None), Hub):
                raise ConfigurationError(f"store={store!r} is neither a URL nor a connected store; pass one")
            self._connect()

    # ---- write and read --------------------------------------------------------------------------

    def write(self, lease: Lease | Token, /, value: bytes | str) -> None:
        """Write the value; text is written in UTF-8.

        A token serves where another process holds the lease, and sent this one the token with its request. It
        costs a read more; where that is stale (ZooKeeper) a token may be refused too early, never too late.

        Args:
            lease: whose tenure it is.
            value: at most 64 KiB.

        Raises:
            NotCurrent: that tenure is over, or was never seen; nothing was written.
            ForeignToken: it is of another lock.
            WriteUnknown: it may have been written.
            StoreError: the store refused, or could not be asked; nothing was written.
            ConfigurationError: a value that is too large, or none, or a lease in another store.
        """
        if not isinstance(value, str | bytes | bytearray | memoryview):  # bytes(5) would be five zeros.
            raise ConfigurationError(f"value={value!r} is neither text nor bytes; pass str(value)")
        data = value.encode() if isinstance(value, str) else bytes(value)
        if len(data) > VALUE_BYTES:
            raise ConfigurationError(
                f"a value of {len(data)} bytes is over the {VALUE_BYTES} that a key has room for; "
                "keep a reference in it and the rest elsewhere"
            )
        self._put(lease, data)

    def delete(self, lease: Lease | Token, /) -> None:
        """Remove the value; where there is none it is removed all the same.

        Raises:
            NotCurrent, ForeignToken, WriteUnknown, StoreError, ConfigurationError: as for `write`.
        """
        self._put(lease, None)

    def read(self) -> Written | None:
        """What stands there; None where nothing does. As any read it may be stale.

        Raises:
            StoreError: the store refused, or could not be asked.
            RecordRefused: what stands there was not written by `write`.
        """
        countdown = Countdown(self.timeout)
        backend = self._connect_in_time(countdown).backend
        body = backend.read_guarded(self.name, self.key, self.timeout - countdown.spent)
        return None if body is None else self._decode(body)

    async def write_async(self, lease: Lease | Token, /, value: bytes | str) -> None:
        """`write`, awaited. Cancelled, it may still be carried out."""
        import asyncio

        await asyncio.to_thread(self.write, lease, value)

    async def delete_async(self, lease: Lease | Token, /) -> None:
        """`delete`, awaited. Cancelled, it may still be carried out."""
        import asyncio

        await asyncio.to_thread(self.delete, lease)

    async def read_async(self) -> Written | None:
        """`read`, awaited."""
        import asyncio

        return await asyncio.to_thread(self.read)

    # ---- inside ----------------------------------------------------------------------------------

    def _connect(self) -> Hub:
        store = self._store
        if store is None or isinstance(store, str):
            return _able(shared_hub(store_url(store), Hub.pin))
        return _able(store.hub)

    def _connect_in_time(self, countdown: Countdown) -> Hub:
        if self._store is None or isinstance(self._store, str):
            threads.connect(store_url(self._store), countdown)
        return self._connect()

    def _put(self, lease: Lease | Token, data: bytes | None) -> None:
        token, countdown = of_lock(self.name, lease), Countdown(self.timeout)
        hub = self._connect_in_time(countdown)
        body = None if data is None else self._encode(token, data, hub.clock().wall)
        if isinstance(lease, Token):
            guard: _Guard = _GuardOfToken(hub.backend, token)
        elif lease.store == hub.backend.identity:
            guard = _GuardOfLease(lease, hub.backend)
        else:
            raise ConfigurationError(
                f'the lease on "{self.name}" is in {lease.store}, and the key in {hub.backend.identity}; '
                "pass the same store= to both"
            )
        try:
            with ExitStack() as until_written:
                self._send(hub, guard, body, self.timeout - countdown.spent, until_written)
        except _Over as over:
            raise NotCurrent(self.name, token.number, str(over)) from over.__cause__
        except _InDoubt as doubt:
            raise WriteUnknown(self.name, self.key, token.number) from doubt.__cause__

    def _send(
        self, hub: Hub, guard: _Guard, body: bytes | None, seconds: float, until_written: ExitStack
    ) -> None:
        """Write as soon as the record that stands there is the guard's; whether it is, the guard tells."""
        clock, backend = hub.clock, hub.backend
        ends = clock().wait + seconds
        record, why = guard.record(seconds), "its holder renews it again and again"
        while (left := ends - clock().wait) > 0:
            match backend.write_guarded(record, self.key, body, left):
                case Applied():
                    return
                case Unknown(cause, void=False):
                    raise _InDoubt from cause
                case Unknown(cause):
                    why = str(cause or "it did not do it")
                    time.sleep(_AGAIN_SECONDS)
                case Conflict(slot):
                    guard.calm(until_written)
                    before, record = record, guard.next(slot, max(ends - clock().wait, 0.0))
                    if record.version == before.version:
                        time.sleep(_AGAIN_SECONDS)  # It was shown what stood there long ago.
        raise StoreUnavailable(
            f'key "{self.key}" of lock "{self.name}" was not written in {self.timeout:g} s: {why}; try again'
        )

    def _encode(self, token: Token, data: bytes, wall: float) -> bytes:
        head = {"format": FORMAT, "token": token.number, "holder": token.holder, "written": round(wall, 6)}
        return json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode() + b"\n" + data

    def _decode(self, body: bytes) -> Written:
        head, _, value = body.partition(b"\n")
        try:
            fields: dict[str, Any] = json.loads(head)
            if fields["format"] != FORMAT:
                raise ValueError(f"its format {fields['format']!r} is unknown to this version")
            return Written(
                value, Token(self.name, fields["token"], fields["holder"]), float(fields["written"])
            )
        except (ValueError, LookupError, TypeError) as error:
            why = f'key "{self.key}" holds what was not written by a GuardedKey ({error})'
            raise RecordRefused(self.name, why, body) from None

    def __repr__(self) -> str:
        return f'<GuardedKey "{self.key}" of lock "{self.name}">'


def _able(hub: Hub) -> Hub:
    if not hub.backend.traits.guards:
        raise cannot_guard(hub.backend.traits)
    return hub


class _Over(Exception):
    """The tenure is over; the message says why."""


class _InDoubt(Exception):
    """A write has no answer."""


class _Guard(Protocol):
    """What knows the record of one tenure, and whether it is over."""

    def record(self, timeout: float) -> Slot:
        """The record, as far as it is known."""
        ...

    def next(self, seen: Slot | None, timeout: float) -> Slot:
        """The record, after another version was found to stand there: what was seen of it, or None."""
        ...

    def calm(self, until_written: ExitStack) -> None:
        """See that the record changes less, if that is in our hands."""
        ...


class _GuardOfLease:
    """Its machine judges whose write it is that stands there."""

    def __init__(self, lease: Lease, backend: Backend) -> None:
        self._lease, self._backend = lease, backend
        self._known: Slot | None = None

    def record(self, timeout: float) -> Slot:
        return self._ask(None)

    def next(self, seen: Slot | None, timeout: float) -> Slot:
        known = self._known
        slot = self._ask(seen)  # A renewal of ours may have been answered meanwhile.
        if seen is None and known is not None and slot.version == known.version:
            slot = self._ask(self._backend.read(self._lease.name, timeout))
        return slot

    def calm(self, until_written: ExitStack) -> None:
        until_written.enter_context(self._lease.calm())

    def _ask(self, seen: Slot | None) -> Slot:
        try:
            self._known = self._lease.guard(seen)
        except LeaseLost as loss:
            raise _Over(f"its lease is lost ({loss.reason})") from loss
        return self._known


class _GuardOfToken:
    """The record that stands there, as long as it shows the token."""

    def __init__(self, backend: Backend, token: Token) -> None:
        self._backend, self._token = backend, token

    def record(self, timeout: float) -> Slot:
        return self.next(None, timeout)

    def next(self, seen: Slot | None, timeout: float) -> Slot:
        slot = self._backend.read(self._token.name, timeout) if seen is None else seen
        objection = _objection(slot, self._token)
        if objection:
            raise _Over(objection)
        return slot

    def calm(self, until_written: ExitStack) -> None:
        """Another process renews it."""


def _objection(slot: Slot, token: Token) -> str:
    """Why the record is not of the token's tenure; empty where it is."""
    claim = slot.claim
    if claim is None or not claim.held:
        return "nobody holds the lock"
    if not claim.id:
        return f"the lock is held by {claim.holder}"
    if slot.token != token.number or token.holder not in (None, claim.holder):
        return f"{claim.holder} holds the lock with token {slot.token}"
    return ""
