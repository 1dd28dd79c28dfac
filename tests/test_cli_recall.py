"""What a try that met a holder remembers for the next one on that host, and what is not believed (S76)."""

from __future__ import annotations

import errno
import json
import os
import tempfile
import time
from binascii import crc32
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from leases.cli import recall, shelf, waiting
from leases.cli.recall import Key, decode, encode
from leases.cli.search import Want
from leases.cli.shelf import Place
from leases.cli.waiting import Attempt
from leases.clock import boot_id
from leases.errors import AcquireTimeout
from leases.hub import Hub
from leases.machine import Sighting
from leases.registry import open_backend
from leases.terms import Terms
from leases.testing.clock import ManualClock
from stubborn import fresh_url

SHM: Final = Path("/dev/shm")  # noqa: S108 - where the memory of a host is a folder
TTL: Final = 10.0
KINDS: Final = ("etcd", "zookeeper", "consul", "kubernetes")

pytestmark = pytest.mark.skipif(
    boot_id() is None or not os.access(SHM, os.W_OK), reason="nothing can be remembered on this host"
)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in the memory of this host."""
    with tempfile.TemporaryDirectory(dir=SHM, prefix="leases-test-") as folder:
        yield Path(folder)


def whole(text: bytes) -> bytes:
    """An entry that is not damaged, whatever it says."""
    return b"%08x\n" % crc32(text) + text


class Wakes:
    """Stands in for the signals of a process."""

    def wake(self) -> None: ...


class Host:
    """A host on which one short command after the other seeks a lock, and whose time is moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, kind: str = "etcd") -> None:
        self.url, self.clock, self.folder = fresh_url(kind), ManualClock(), folder / "leases"
        monkeypatch.setattr(shelf, "places", lambda: [Place(str(folder), "leases")])
        monkeypatch.setattr(waiting, "shared_hub", lambda url, use: self.hub())
        self._hubs: list[Hub] = []

    def hub(self) -> Hub:
        """The store, as another process has it."""
        hub = Hub(open_backend(self.url), self.url, clock=self.clock)
        self._hubs.append(hub)
        return hub

    def close(self) -> None:
        """Let go of the store everywhere."""
        for hub in self._hubs:
            hub.close()

    def seek(self, holder: str, slots: int | None = None, name: str = "job") -> Attempt:
        """A command that does not wait."""
        terms, signals = Terms(TTL), Wakes()
        attempt = Attempt(Want(self.url, name, holder, terms, {}, 0.0, slots), signals)  # type: ignore[arg-type]
        attempt.run()
        return attempt

    def dies_holding(self, slots: int | None = None) -> None:
        """A command acquires, and its host dies."""
        holding = self.seek("dead", slots).holding()
        assert holding is not None
        self._hubs[-1].close()

    def acquires(self) -> bool:
        """Whether a command that does not wait gets the lock."""
        attempt = self.seek("trier")
        assert attempt.error is None or isinstance(attempt.error, AcquireTimeout)
        return attempt.tenure is not None

    def remaining(self) -> float:
        """How long one that does not get it is told that the holder may yet be alive."""
        error = self.seek("trier").error
        assert isinstance(error, AcquireTimeout) and error.remaining is not None
        return error.remaining

    @property
    def entry(self) -> Path:
        """The one entry that there is."""
        (entry,) = self.folder.iterdir()
        return entry

    def rewrite(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Forge the entry, digest and all."""
        told = json.loads(self.entry.read_bytes().partition(b"\n")[2])
        change(told)
        text = json.dumps(told).encode()
        self.entry.write_bytes(whole(text))


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, memory: Path, request: pytest.FixtureRequest) -> Iterator[Host]:
    host = Host(monkeypatch, memory, getattr(request, "param", "etcd"))
    yield host
    host.close()


every_kind = pytest.mark.parametrize("host", KINDS, indirect=True)


# ---- what it is good for -------------------------------------------------------------------------


@every_kind
def test_the_dead_are_recognised_by_the_next_try(host: Host) -> None:
    """A holder of whom a try saw the record is dead for a try that sees the same record a ttl later."""
    host.dies_holding()
    assert host.remaining() == TTL
    host.clock.advance(TTL - 0.01)
    assert host.remaining() == pytest.approx(0.01)
    host.clock.advance(0.01)
    assert host.acquires()


@every_kind
def test_the_living_are_left_alone(host: Host) -> None:
    """A holder who has renewed since is timed anew, however long ago he was first seen."""
    holding = host.seek("alive").holding()
    assert holding is not None
    for _ in range(4):
        assert host.remaining() == TTL
        host.clock.advance(TTL / 3)
        before = holding.lease.deadline
        holding.lease.update({})
        assert holding.lease.deadline > before
    host.clock.advance(TTL * 0.7)
    assert not host.acquires() and holding.lease.held


def test_the_first_sighting_counts(host: Host) -> None:
    """Who looks again and again makes nobody wait for longer."""
    host.dies_holding()
    for _ in range(10):
        assert not host.acquires()
        host.clock.advance(TTL / 10)
    assert host.acquires()


def test_the_sleep_of_the_host_does_not_count(host: Host) -> None:
    """While the host slept nobody could have seen a renewal."""
    host.dies_holding()
    assert not host.acquires()
    host.clock.suspend(10 * TTL)
    assert host.remaining() == TTL


def test_slots_are_remembered_too(host: Host) -> None:
    """Each slot of a semaphore is recognised by itself."""
    host.dies_holding(slots=2)
    alive = host.seek("alive", slots=2).holding()
    assert alive is not None
    assert host.seek("trier", slots=2).tenure is None
    host.clock.advance(TTL / 3)
    alive.lease.update({})
    host.clock.advance(TTL * 2 / 3)
    taken = host.seek("trier", slots=2).holding()
    assert taken is not None and taken.lease.name != alive.lease.name


def test_what_was_acquired_is_forgotten(host: Host) -> None:
    """Whoever acquires removes what was remembered, because it will never stand there again."""
    host.dies_holding()
    assert not host.acquires()
    assert host.entry.stat().st_mode & 0o777 == 0o600
    assert host.folder.stat().st_mode & 0o777 == 0o700
    host.clock.advance(TTL)
    assert host.acquires()
    assert list(host.folder.iterdir()) == []


def test_who_gets_the_lock_at_once_leaves_nothing(host: Host, memory: Path) -> None:
    """Without a holder in the way nothing is written."""
    assert host.acquires()
    assert list(memory.iterdir()) == []


def test_a_store_of_one_host_needs_no_memory(monkeypatch: pytest.MonkeyPatch, memory: Path) -> None:
    """Where records say when they were sent, nothing is remembered."""
    host = Host(monkeypatch, memory, "memory")
    host.dies_holding()
    assert not host.acquires()
    assert list(memory.iterdir()) == []
    host.close()


# ---- what is not believed ------------------------------------------------------------------------


def _at(change: Callable[[float], float]) -> Callable[[Host], None]:
    return lambda host: host.rewrite(lambda told: [it.update(at=change(it["at"])) for it in told["seen"]])


def _in(part: str, value: Any) -> Callable[[Host], None]:
    return lambda host: host.rewrite(lambda told: told.update({part: value}))


def _of(part: str, value: Any) -> Callable[[Host], None]:
    return lambda host: host.rewrite(lambda told: [it.update({part: value}) for it in told["seen"]])


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[Host], None]:
    return lambda host: _void(host.entry.write_bytes(change(host.entry.read_bytes())))


def _void(_: object) -> None: ...


def _earlier(entry: bytes) -> bytes:
    """The point stands elsewhere in the instant."""
    assert entry.count(b'"at": 1000.0') == 1
    return entry.replace(b'"at": 1000.0', b'"at": 100.00')


def _link(host: Host) -> None:
    elsewhere = host.entry.rename(host.folder.parent / "elsewhere")
    (host.folder / Key("", host._hubs[0].backend.identity, "job").file).symlink_to(elsewhere)


def _instead(make: Callable[[Path], object]) -> Callable[[Host], None]:
    def change(host: Host) -> None:
        entry = host.entry
        entry.unlink()
        make(entry)

    return change


def _linked_folder(host: Host) -> None:
    host.folder.rename(host.folder.parent / "real")
    host.folder.symlink_to("real")


FORGED: Final[dict[str, Callable[[Host], None]]] = {
    "another boot": _in("boot", "00000000-0000-0000-0000-000000000000"),
    "no boot": _in("boot", None),
    "another store": _in("store", "etcd://elsewhere"),
    "another lock": _in("name", "another"),
    "another format": _in("format", 2),
    "the future": _at(lambda at: at + 1000 * TTL),
    "before the boot": _at(lambda at: -1.0),
    "no instant": _at(lambda at: float("nan")),
    "an endless instant": _of("at", 10**400),
    "another version": _of("version", "1000000"),
    "other bytes": _of("record", b"{}".hex()),
    "no bytes": _of("record", "xyz"),
    "no list": _in("seen", 7),
    "half written": _bytes(lambda entry: entry[: len(entry) // 2]),
    "damaged": _bytes(_earlier),
    "empty": _bytes(lambda entry: b""),
    "no JSON": _bytes(lambda entry: whole(b"[" * 9)),
    "deep": _bytes(lambda entry: whole(b"[" * 99999)),
    "too large": _bytes(lambda entry: whole(entry.partition(b"\n")[2] + b" " * 2**20)),
    "a link": _link,
    "a pipe": _instead(lambda path: os.mkfifo(path, 0o600)),
    "a folder": _instead(lambda path: path.mkdir()),
    "readable by others": lambda host: host.entry.chmod(0o640),
    "a folder open to others": lambda host: host.folder.chmod(0o750),
    "a folder by a link": _linked_folder,
}


@pytest.mark.parametrize("what", FORGED)
def test_what_is_not_believed(host: Host, what: str) -> None:
    """S76: an entry that was forged, damaged, or is of elsewhere is as none: the holder is watched anew."""
    host.dies_holding()
    assert not host.acquires()
    host.clock.advance(TTL)
    FORGED[what](host)
    assert host.remaining() == TTL


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("whose", ["entry", "folder"])
def test_what_belongs_to_another_user(host: Host, whose: str) -> None:
    """S76: what another user has written there, or the folder that another has made, is not looked at."""
    host.dies_holding()
    assert not host.acquires()
    host.clock.advance(TTL)
    os.chown(getattr(host, whose), 65534, 65534)
    assert host.remaining() == TTL


def test_another_host(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """S76: the copy of a folder on a host of another boot says nothing there."""
    host.dies_holding()
    assert not host.acquires()
    host.clock.advance(TTL)
    monkeypatch.setattr(recall, "boot_id", lambda: "00000000-0000-0000-0000-000000000000")
    assert host.remaining() == TTL


def test_what_is_on_a_disk(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """S76: a folder that is not in memory, and so may be another host's too, is not looked at."""
    host.dies_holding()
    assert not host.acquires()
    host.clock.advance(TTL)
    monkeypatch.setattr(shelf, "_IN_MEMORY", ())
    error = host.seek("trier").error
    assert isinstance(error, AcquireTimeout) and error.remaining == TTL
    assert "is not in memory" in str(error.__notes__)


def test_no_folder_is_made_on_a_disk(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no memory, nothing is made, and that is said."""
    host.dies_holding()
    monkeypatch.setattr(shelf, "_IN_MEMORY", ())
    error = host.seek("trier").error
    assert isinstance(error, AcquireTimeout) and "is not in memory" in str(error.__notes__)
    assert not host.folder.exists()


def test_a_clone_waits_for_longer(host: Host) -> None:
    """S76: in a copy of the host whose clocks stood still, the holder is only left alone for longer."""
    host.dies_holding()
    assert not host.acquires()  # Then both are copied, and the copy is started an hour later.
    host.clock.step_wall(3600)
    assert host.remaining() == TTL


def test_an_entry_says_what_was_seen() -> None:
    """What is written can be read, but for versions, which are known again by how they show themselves."""
    key = Key("boot", "etcd://host", "job/é")
    seen = (Sighting((7, 2), b"\x00record\xff", 12.25), Sighting("uid", b"", 0.1 + 0.2))
    found = decode(key, encode(key, seen), now=12.25)
    assert [(it.body, it.at) for it in found] == [(it.body, it.at) for it in seen]
    assert found[0].version == (7, 2) and found[0].version != (7, 3)
    assert encode(key, found) == encode(key, seen)
    assert decode(key, encode(key, seen), now=12.24) == ()


def test_an_entry_has_room_for_the_newest() -> None:
    """What is too much for one file is left out, the oldest first."""
    key = Key("boot", "etcd://host", "job")
    seen = [Sighting(n, bytes(40_000), float(n)) for n in range(8)]
    found = decode(key, encode(key, seen), now=100.0)
    assert [it.at for it in found] == [5.0, 6.0, 7.0]


# ---- where nothing can be kept -------------------------------------------------------------------


def test_a_time_namespace_of_its_own(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the clock is not that of the host, nothing is remembered, and that is said."""
    host.dies_holding()
    monkeypatch.setattr(recall, "boot_id", lambda: None)
    error = host.seek("trier").error
    assert isinstance(error, AcquireTimeout) and "time namespace" in str(error.__notes__)
    assert not host.folder.exists()


def test_no_room(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written whole leaves nothing behind, and the conflict is told all the same."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    host.dies_holding()
    monkeypatch.setattr(os, "rename", full)
    error = host.seek("trier").error
    assert isinstance(error, AcquireTimeout) and "No space left" in str(error.__notes__)
    assert list(host.folder.iterdir()) == []


def test_the_first_place_that_can_be_used(monkeypatch: pytest.MonkeyPatch, host: Host, memory: Path) -> None:
    """What cannot be used is passed over, and what was kept elsewhere is found."""
    host.dies_holding()
    assert not host.acquires()
    host.clock.advance(TTL)
    (memory / "file").touch()
    first = [Place(str(memory / "none"), "leases"), Place(str(memory / "file"), "leases")]
    monkeypatch.setattr(
        shelf, "places", lambda: [*first, Place(str(memory), "new"), Place(str(memory), "leases")]
    )
    assert host.acquires()
    host.clock.advance(TTL)
    assert not host.acquires()
    assert len(list((memory / "new").iterdir())) == 1


def test_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """The session's folder comes first, if there is one; a relative one is none."""
    user = os.geteuid()
    rest = [f"/run/user/{user}/leases", f"{SHM}/leases-{user}"]
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/mine")
    assert [str(place) for place in shelf.places()] == ["/run/mine/leases", *rest]
    for value in ("relative", ""):
        monkeypatch.setenv("XDG_RUNTIME_DIR", value)
        assert [str(place) for place in shelf.places()] == rest


def test_old_entries_are_swept(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries of last week, drafts of a minute ago, and all beyond a number are removed; the newest stay."""
    now = time.time()
    ages = {
        "new": 0.0,
        "old": 9 * 86400.0,
        "later": -9 * 86400.0,
        ".new": 1.0,
        ".old": 61.0,
        "b": 3.0,
        "c": 4.0,
    }
    for name, age in ages.items():
        (memory / name).touch()
        os.utime(memory / name, (now - age, now - age))
    folder = os.open(memory, os.O_RDONLY)
    for most, left in ((100, [".new", "b", "c", "new"]), (3, [".new", "b", "new"])):
        monkeypatch.setattr(shelf, "FILES_MOST", most)
        shelf.sweep(folder, 8 * 86400.0, now)
        assert sorted(path.name for path in memory.iterdir()) == left
    os.close(folder)
