"""Those who wait for a record in a SQLite file are woken by the write, and cost nothing meanwhile."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from leases.contract import absent
from leases.testing._probes import TIMEOUT, Hints, applied, in_child, put
from leases_backends import _sqlite_file, _sqlite_watch
from leases_backends.sqlite import Sqlite
from sqlite_files import forget_process, open_store, remove

NEVER = 3600.0

needs_inotify = pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells of writes on Linux only")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="another process has to write")


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "store.db"
    forget_process()


@pytest.fixture(params=["by the kernel", "by looking again and again"])
def store(request: pytest.FixtureRequest, path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sqlite]:
    """A store whose waiters are woken in either way, and not by the slow look that ends every wait."""
    monkeypatch.setattr(_sqlite_watch, "SAFETY", NEVER)
    if request.param == "by the kernel":
        if sys.platform != "linux":
            pytest.skip("the kernel tells of writes on Linux only")
    else:
        monkeypatch.setattr(_sqlite_watch, "_bell", lambda _: _sqlite_watch._Ticker())
    with closing(open_store(path)) as store:
        yield store


def elsewhere(path: Path, work: Callable[[Sqlite], object]) -> None:
    """Do something with the store in another process, which knows nothing of this one's."""

    def child() -> None:
        with closing(open_store(path)) as store:
            work(store)

    assert in_child(child) == 0


def test_a_write_by_another_process_wakes(store: Sqlite, path: Path) -> None:
    """Create, renew, release: each is told of, with what stands there then."""
    slot, hints = store.read("x", TIMEOUT), Hints()
    with closing(store.watch(slot, hints)):
        elsewhere(path, lambda other: put(other, other.read("x", TIMEOUT)))
        hints.expect(store.read("x", TIMEOUT))
        elsewhere(path, lambda other: put(other, other.read("x", TIMEOUT)))
        hints.expect(store.read("x", TIMEOUT))
        elsewhere(path, lambda other: applied(other.swap(other.read("x", TIMEOUT), None, TIMEOUT)))
        hints.expect(store.read("x", TIMEOUT))


def test_one_thread_wakes_all(store: Sqlite, path: Path) -> None:
    """However many names are waited for; and nobody is woken for another's name."""
    slots = [store.read(f"{index}", TIMEOUT) for index in range(50)]
    hints, before = [Hints() for _ in slots], set(threading.enumerate())
    watches = [store.watch(slot, hint) for slot, hint in zip(slots, hints, strict=True)]
    assert len(set(threading.enumerate()) - before) == 1
    elsewhere(
        path, lambda other: [put(other, other.read(name, TIMEOUT)) for name in ("3", "41", "unwatched")]
    )
    for index in (3, 41):
        hints[index].expect(store.read(f"{index}", TIMEOUT))
    assert sum(hint.qsize() for hint in hints) == 0
    for watch in watches:
        watch.close()


def test_a_write_of_this_process_wakes_without_the_thread(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads of one process hand over at once: whoever writes tells those who wait beside it."""
    monkeypatch.setattr(_sqlite_watch.Watcher, "_look", lambda _: False)
    with closing(open_store(path)) as store:
        slot, hints = store.read("x", TIMEOUT), Hints()
        store.watch(slot, hints)
        slot = put(store, slot)
        assert hints.get_nowait() == slot


def test_a_replaced_file_wakes(store: Sqlite, path: Path) -> None:
    """Those who waited for a record in a file that was removed are told that it is gone."""
    hints = Hints()
    with closing(store.watch(put(store, absent("x")), hints)):
        remove(path)
        elsewhere(path, lambda other: put(other, other.read("y", TIMEOUT)))
        slot = hints.get(timeout=TIMEOUT)
        assert slot is not None and slot.claim is None


def test_a_hint_that_is_lost_costs_one_slow_look(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing rings, waiting ends all the same."""
    monkeypatch.setattr(_sqlite_watch, "SAFETY", 0.05)
    if hasattr(_sqlite_watch, "_Inotify"):
        monkeypatch.setattr(_sqlite_watch._Inotify, "arm", lambda _: False)
    with closing(open_store(path)) as store:
        slot, hints = store.read("x", TIMEOUT), Hints()
        with closing(store.watch(slot, hints)):
            elsewhere(path, lambda other: put(other, other.read("x", TIMEOUT)))
            hints.expect(store.read("x", TIMEOUT))


def test_the_thread_ends_with_the_store(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing wakes it for the last time, however long it meant to sleep."""
    monkeypatch.setattr(_sqlite_watch, "SAFETY", NEVER)
    others = set(threading.enumerate())
    with closing(open_store(path)) as store:
        store.watch(store.read("x", TIMEOUT), Hints())
        (thread,) = set(threading.enumerate()) - others
    thread.join(TIMEOUT)
    assert not thread.is_alive()


def test_the_thread_ends_when_nobody_waits(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves no thread and no open descriptor, and starts again for the next."""
    monkeypatch.setattr(_sqlite_watch, "SAFETY", 0.01)
    with closing(open_store(path)) as store:
        put(store, absent("x"))
        before = descriptors()
        for _ in range(3):
            others = set(threading.enumerate())
            watch = store.watch(store.read("x", TIMEOUT), Hints())
            (thread,) = set(threading.enumerate()) - others
            watch.close()
            thread.join(TIMEOUT)
            assert not thread.is_alive() and descriptors() == before


@needs_inotify
def test_while_nothing_is_written_nobody_looks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel wakes the thread; between writes it reads nothing at all."""
    waits = note_waits(monkeypatch)
    with closing(open_store(path)) as store, closing(store.watch(store.read("x", TIMEOUT), Hints())):
        until_asleep(waits)
        reads = count_reads(monkeypatch)
        with pytest.raises(queue.Empty):
            waits.get(timeout=0.1)
        assert reads == []


@needs_inotify
def test_a_commit_that_is_heard_before_it_shows_is_looked_for_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log is written first and published later, without a sound: the looks at once may be too early."""
    waits, look = note_waits(monkeypatch), _sqlite_watch.Watcher._look

    def too_early(watcher: _sqlite_watch.Watcher) -> bool:
        published = not waits.empty() and waits.get() == _sqlite_watch._LATER
        return look(watcher) if published else True

    with closing(open_store(path)) as store, a_writer(path) as writer:
        slot, hints = store.read("x", TIMEOUT), Hints()
        assert writer.stdin is not None
        with closing(store.watch(slot, hints)):
            until_asleep(waits)
            monkeypatch.setattr(_sqlite_watch.Watcher, "_look", too_early)
            writer.stdin.write(b"\n")
            writer.stdin.flush()
            shown = hints.get(timeout=TIMEOUT)
            assert shown is not None and shown.held


@contextmanager
def a_writer(path: Path) -> Generator[subprocess.Popen[bytes]]:
    """A process of its own that has the file open, and writes one record for one line."""
    code = """if True:
        import sys
        from leases.contract import absent
        from leases.testing._probes import put
        from leases_backends.sqlite import connect
        store = connect(sys.argv[1])
        store.read("x", 10.0)
        print(flush=True)
        sys.stdin.readline()
        put(store, absent("x"))
        sys.stdin.read()
    """
    roots = os.pathsep.join(str(Path(__file__).parent.parent / part) for part in ("", "backends"))
    with subprocess.Popen(
        [sys.executable, "-c", code, f"sqlite://{path}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": roots},
    ) as writer:
        assert writer.stdout is not None and writer.stdout.readline()
        yield writer


def note_waits(monkeypatch: pytest.MonkeyPatch) -> queue.SimpleQueue[float]:
    """For how long the thread goes to sleep, each time; of itself it wakes never."""
    monkeypatch.setattr(_sqlite_watch, "SAFETY", NEVER)
    waits, wait = queue.SimpleQueue[float](), _sqlite_watch._Inotify.wait

    def noted(bell: _sqlite_watch._Inotify, timeout: float) -> bool:
        waits.put(timeout)
        return wait(bell, timeout)

    monkeypatch.setattr(_sqlite_watch._Inotify, "wait", noted)
    return waits


def until_asleep(waits: queue.SimpleQueue[float]) -> None:
    """Return when the thread has gone to sleep until it is woken."""
    while waits.get(timeout=TIMEOUT) != NEVER:
        pass


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that grows with every look at a name."""
    reads, look = list[str](), _sqlite_file.File._row

    def noted(file: _sqlite_file.File, db: object, name: str) -> _sqlite_file.Row:
        reads.append(name)
        return look(file, db, name)  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr(_sqlite_file.File, "_row", noted)
    return reads


def descriptors() -> int:
    """How many files this process has open; 0 where that cannot be seen."""
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
