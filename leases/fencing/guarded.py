"""`GuardedKey`: a value in the lock's own store, written only while the tenure that writes it holds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

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
from leases.fencing.token import Token, of_lock
from leases.hub import Hub, shared_hub
from leases.lease import Lease, check_timeout
from leases.record import check_key, check_name
from leases.registry import scheme_of, store_url

if TYPE_CHECKING:
    from leases.contract import Backend
    from leases.lock import Connected

FORMAT: Final = 1
VALUE_BYTES: Final = 65_536
PATIENCE: Final = 5.0
_AGAIN_SECONDS: Final = 0.05

Guard = Callable[[Slot | None, float], Slot]


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
        timeout: seconds for each call, all attempts included. Default 5.

    Raises:
        ConfigurationError: an option that cannot work, or a store that has no such transaction.
    """

    level: Final = Level.GUARDED

    def __init__(
        self, name: str, key: str, *, store: str | Connected | None = None, timeout: float = PATIENCE
    ) -> None:
        self.name, self.key = check_name(name), check_key(key)
        self.timeout = check_timeout(timeout) or PATIENCE
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
            ConfigurationError: a value that is too large, or a lease in another store.
        """
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
        body = self._connect().backend.read_guarded(self.name, self.key, self.timeout)
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

    def _put(self, lease: Lease | Token, data: bytes | None) -> None:
        token, hub = of_lock(self.name, lease), self._connect()
        body = None if data is None else self._encode(token, data, hub.clock().wall)
        if isinstance(lease, Lease):
            guard = self._guard_of_lease(hub, lease, token)
        else:
            guard = self._guard_of_token(hub.backend, token)
        self._send(hub, guard, token, body)

    def _send(self, hub: Hub, guard: Guard, token: Token, body: bytes | None) -> None:
        """Write as soon as the guard is the record that stands there; whose it is the guard tells."""
        clock, backend = hub.clock, hub.backend
        until = clock().wait + self.timeout
        record, why = guard(None, self.timeout), "its holder renews it again and again"
        while (left := until - clock().wait) > 0:
            match backend.write_guarded(record, self.key, body, left):
                case Applied():
                    return
                case Conflict(slot):
                    left = max(until - clock().wait, 0.0)
                    before, record = record, guard(slot or backend.read(self.name, left), left)
                    if record.version == before.version:
                        time.sleep(_AGAIN_SECONDS)  # It was shown what stood there long ago.
                case Unknown(cause, void):
                    if not void:
                        raise WriteUnknown(self.name, self.key, token.number) from cause
                    why = str(cause)
                    time.sleep(_AGAIN_SECONDS)
        raise StoreUnavailable(
            f'key "{self.key}" of lock "{self.name}" was not written in {self.timeout:g} s: {why}; try again'
        )

    def _guard_of_lease(self, hub: Hub, lease: Lease, token: Token) -> Guard:
        if lease.store != hub.backend.identity:
            raise ConfigurationError(
                f'the lease on "{self.name}" is in {lease.store}, and the key in {hub.backend.identity}; '
                "pass the same store= to both"
            )

        def guard(seen: Slot | None, left: float) -> Slot:
            try:
                return lease.guard(seen)
            except LeaseLost as loss:
                why = f"its lease is lost ({loss.reason})"
                raise NotCurrent(self.name, token.number, why) from loss

        return guard

    def _guard_of_token(self, backend: Backend, token: Token) -> Guard:
        def guard(seen: Slot | None, left: float) -> Slot:
            slot = backend.read(self.name, left) if seen is None else seen
            why = _objection(slot, token)
            if why:
                raise NotCurrent(self.name, token.number, why)
            return slot

        return guard

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
