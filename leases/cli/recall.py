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

import contextlib
import json
import os
import stat
import time
from binascii import crc32  # Cryptography would take longer to import than all of this takes to run.
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from leases.clock import boot_id
from leases.machine import Sighting
from leases.record import TTL_MOST

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from leases.hub import Hub

_FORMAT: Final = 1
_BYTES_MOST: Final = 256 * 1024  # of an entry: eight records, each as large as they come
_ENTRIES_MOST: Final = 4096
_OLD: Final = TTL_MOST + 86400.0  # seconds after which no record can still be waited for
_DRAFT_LASTS: Final = 60.0
_IN_MEMORY: Final = ("tmpfs", "ramfs")


class CannotKeep(Exception):
    """What was seen cannot be kept here; the message says why."""


class Place(NamedTuple):
    """A folder in the memory of this host, and what ours in it is called."""

    base: str
    name: str

    def __str__(self) -> str:
        return os.path.join(*self)


def places() -> list[Place]:
    """Where entries may be. They are read wherever they are, and written in the first that can be used."""
    user = os.geteuid()
    session = os.environ.get("XDG_RUNTIME_DIR", "")
    bases = [session, f"/run/user/{user}"] if os.path.isabs(session) else [f"/run/user/{user}"]
    # Others may write to the last; that what is found there is of this user is checked.
    return [*(Place(base, "leases") for base in bases), Place("/dev/shm", f"leases-{user}")]  # noqa: S108


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
        for folder in _folders():
            for name in self._names:
                seen = _read(folder, self._key(self._boot, name), now)
                if seen:
                    self._known.append(name)
                    self._hub.recall(name, seen)

    def remember(self) -> None:
        """Keep for the next try what this one has seen, whose claims have ended.

        Raises:
            CannotKeep: it cannot be kept.
        """
        if self._boot is None:
            raise CannotKeep(
                "this host does not tell its boots apart, or this is a time namespace of its own"
            )
        with _folder_to_write() as folder:
            for name in self._names:
                seen = self._hub.seen(name)
                if seen:
                    _write(folder, self._key(self._boot, name), seen)
            sweep(folder, time.time())

    def forget(self) -> None:
        """Remove what was remembered: whoever has the lock now has written since."""
        if not self._known or self._boot is None:
            return
        for folder in _folders():
            for name in self._known:
                with contextlib.suppress(OSError):
                    os.unlink(self._key(self._boot, name).file, dir_fd=folder)

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
    """An entry: a line with the checksum of the rest, so that what was damaged is none."""
    shown = [{"version": repr(it.version), "record": it.body.hex(), "at": it.at} for it in seen]
    text = json.dumps({"format": _FORMAT, **key._asdict(), "seen": shown}).encode()
    return b"%08x\n" % crc32(text) + text


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
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()
    return seen if all(0 <= it.at <= now for it in seen) else ()


# ---- files ---------------------------------------------------------------------------------------


def _folders() -> Iterator[int]:
    """Every folder of ours that there is."""
    for place in places():
        try:
            folder = _open(place)
        except (OSError, CannotKeep):
            continue
        try:
            yield folder
        finally:
            os.close(folder)


@contextlib.contextmanager
def _folder_to_write() -> Generator[int]:
    """The first folder that can be used, made if it is not there.

    Raises:
        CannotKeep: there is none, or no room in it.
    """
    why: list[str] = []
    for place in places():
        try:
            _make(place)
            folder = _open(place)
        except OSError as error:
            why.append(f"{place}: {error.strerror}")
        except CannotKeep as error:
            why.append(str(error))
        else:
            break
    else:
        raise CannotKeep("; ".join(why))
    try:
        yield folder
    except OSError as error:
        raise CannotKeep(f"{place}: {error.strerror}") from error
    finally:
        os.close(folder)


def _make(place: Place) -> None:
    if not _in_memory(os.stat(place.base)):
        raise CannotKeep(f"{place.base} is not in memory")
    with contextlib.suppress(FileExistsError):
        os.mkdir(str(place), 0o700)


def _open(place: Place) -> int:
    """A folder of this user alone, in memory.

    Raises:
        OSError: there is none, or a link stands there.
        CannotKeep: it is not one that can be trusted.
    """
    folder = os.open(str(place), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(folder)
        if not _ours(found):
            raise CannotKeep(f"{place} belongs to another user, or is open to others")
        if not _in_memory(found):
            raise CannotKeep(f"{place} is not in memory")
    except BaseException:
        os.close(folder)
        raise
    return folder


def _ours(found: os.stat_result) -> bool:
    """Whether it belongs to this user, and nobody else may come near it."""
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IRWXG | stat.S_IRWXO)


def _in_memory(found: os.stat_result) -> bool:
    """Whether it is on a file system that no other host has, and no later boot."""
    device = f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        mounts = [line.split(" - ", 1) for line in file]
    return any(mount[0].split()[2] == device and mount[-1].split()[0] in _IN_MEMORY for mount in mounts)


def _read(folder: int, key: Key, now: float) -> tuple[Sighting, ...]:
    """What an entry says; nothing where there is none, or none of ours."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        entry = os.open(key.file, flags, dir_fd=folder)
    except OSError:
        return ()
    try:
        found = os.fstat(entry)
        if not stat.S_ISREG(found.st_mode) or not _ours(found):
            return ()
        return decode(key, os.read(entry, _BYTES_MOST), now)  # What is longer is cut, and so damaged.
    except OSError:
        return ()
    finally:
        os.close(entry)


def _write(folder: int, key: Key, seen: Sequence[Sighting]) -> None:
    """Put an entry in its place, whole; what others are reading stays as it is."""
    entry = encode(key, seen)
    while len(entry) > _BYTES_MOST:
        seen = seen[1:]
        entry = encode(key, seen)
    draft = f".{key.file}-{os.getpid()}-{os.urandom(4).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(draft, flags, 0o600, dir_fd=folder), "wb") as file:
            file.write(entry)
        os.rename(draft, key.file, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft, dir_fd=folder)
        raise


def sweep(folder: int, now: float) -> None:
    """Remove what nobody needs any more: old entries, drafts of who died over them, all beyond a number.

    Args:
        folder: the folder's descriptor.
        now: Unix time, because files have no other. Were it wrong, somebody would wait once more.
    """
    ages: list[tuple[float, str]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                ages.append((now - entry.stat(follow_symlinks=False).st_mtime, entry.name))
    ages.sort()
    for index, (age, name) in enumerate(ages):
        lasts = _DRAFT_LASTS if name.startswith(".") else _OLD
        if index >= _ENTRIES_MOST or not -_OLD < age < lasts:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=folder)
