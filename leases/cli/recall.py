"""What a try that found a lock held remembers for the next one on this host: so it recognises the dead.

A newcomer has to watch a record for its whole ttl before it may take its holder for dead. A command that cron
runs with `-n` never watches for so long. So whoever leaves without the lock writes down what stood there
(version and bytes) and when it had that in hand, and the next one goes on from there.

WHY AN OLD SIGHTING IS AS GOOD AS HAVING WATCHED

The proof of the protocol asks two things of a waiter: an instant, read after the reply, at which it had a
version in hand; and that the swap which takes over names this very version. Between the two it asks nothing,
neither that the record was looked at, nor that it was one process that did both. Versions are not used again,
and every renewal writes a new one, with 64 fresh random bits in its bytes. So where the swap succeeds on the
version and the bytes of the sighting, no renewal came in between, and the holder's last one was sent before
the instant of the sighting. It remains that the ttl is counted by one clock: CLOCK_MONOTONIC is the same in
all processes of one boot of a host, outside of time namespaces, and it stands still while the host sleeps.

A sighting is a fact that stays true. An entry that is old, or was put back, or is read in a copy of this
machine whose clocks were stopped, makes somebody wait for longer and never for less time. What could make
it less is not believed: another boot, an instant in the future, an entry that is damaged or was not written
by this user, a folder that is not in the memory of this very host.

Entries are files in a folder of this user alone, in $XDG_RUNTIME_DIR, /run/user or /dev/shm; one for each
lock, replaced as a whole, and swept after eight days. Stores of this host alone need none: their records
say when they were sent.
"""

from __future__ import annotations

import json
import time
from binascii import crc32  # Cryptography would take longer to import than all of this takes to run.
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from leases.cli import shelf
from leases.clock import boot_id
from leases.machine import Sighting
from leases.record import TTL_MOST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leases.hub import Hub

_FORMAT: Final = 1
_OLD: Final = TTL_MOST + 86400.0  # seconds after which no record can still be waited for


class Memory:
    """What tries of this user on this host remember of some locks of a store.

    Args:
        hub: the store.
        names: the locks.
    """

    def __init__(self, hub: Hub, names: Sequence[str]) -> None:
        self._hub, self._names = hub, names
        self._boot = boot_id()
        self._known: list[str] = []

    def recall(self) -> None:
        """Let the claims to come go on from what earlier tries have seen."""
        if self._boot is None:
            return
        now = self._hub.clock().wait
        for folder in shelf.folders():
            for name in self._names:
                key = self._key(self._boot, name)
                seen = decode(key, shelf.read(folder, key.file), now)
                if seen:
                    self._known.append(name)
                    self._hub.recall(name, seen)

    def remember(self) -> None:
        """Keep for the next try what this one has seen, whose claims have ended.

        Raises:
            CannotKeep: it cannot be kept.
        """
        if self._boot is None:
            raise shelf.CannotKeep(
                "this host does not tell its boots apart, or this is a time namespace of its own"
            )
        with shelf.folder_to_write() as folder:
            for name in self._names:
                seen, key = self._hub.seen(name), self._key(self._boot, name)
                if seen:
                    shelf.write(folder, key.file, encode(key, seen))
            shelf.sweep(folder, _OLD, time.time())

    def forget(self) -> None:
        """Remove what was remembered: whoever has the lock now has written since."""
        if not self._known or self._boot is None:
            return
        for folder in shelf.folders():
            for name in self._known:
                shelf.remove(folder, self._key(self._boot, name).file)

    def _key(self, boot: str, name: str) -> Key:
        return Key(boot, self._hub.backend.identity, name)


# ---- entries -------------------------------------------------------------------------------------


class Key(NamedTuple):
    """What an entry is about."""

    boot: str
    store: str
    name: str

    @property
    def file(self) -> str:
        """What its file is called; the next boot writes over it, and so does whoever is called the same."""
        return f"{crc32(self.store.encode()):08x}{crc32(self.name.encode()):08x}"


class Told:
    """A version that another process has seen: equal to what shows itself in the same words.

    A version is a matter of the store's adapter. Should two show themselves alike, the bytes tell them apart.
    """

    __slots__ = ("_words",)

    def __init__(self, words: str) -> None:
        self._words = words

    def __eq__(self, other: object) -> bool:
        return repr(other) == self._words

    def __hash__(self) -> int:
        return hash(self._words)

    def __repr__(self) -> str:
        return self._words


def encode(key: Key, seen: Sequence[Sighting]) -> bytes:
    """An entry: a line with the checksum of the rest, so that what was damaged is none.

    Where not all of it has room, the newest has.
    """
    shown = [{"version": repr(it.version), "record": it.body.hex(), "at": it.at} for it in seen]
    text = json.dumps({"format": _FORMAT, **key._asdict(), "seen": shown}).encode()
    entry = b"%08x\n" % crc32(text) + text
    return entry if len(entry) <= shelf.BYTES_MOST or not seen else encode(key, seen[1:])


def decode(key: Key, entry: bytes, now: float) -> tuple[Sighting, ...]:
    """What an entry says; nothing where anything is wrong with it.

    Args:
        key: what it has to be about.
        entry: its bytes, of whatever origin.
        now: on the waiter's clock.
    """
    checksum, _, text = entry.partition(b"\n")
    if checksum != b"%08x" % crc32(text):
        return ()
    try:
        found: Any = json.loads(text)
        if found["format"] != _FORMAT or any(found[part] != told for part, told in key._asdict().items()):
            return ()
        seen = tuple(
            Sighting(Told(str(it["version"])), bytes.fromhex(it["record"]), float(it["at"]))
            for it in found["seen"]
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return ()
    return seen if all(0 <= it.at <= now for it in seen) else ()
