"""The SQLite file's numbers go up: over restarts, power cuts, replaced files, and killed processes."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from leases.contract import Conflict, Unknown, absent, names
from leases.errors import StoreDenied, StoreUnavailable
from leases.testing._probes import TIMEOUT, a_claim, applied, in_child, number, put
from leases_backends import _sqlite_file
from sqlite_files import (
    PARTS,
    back_up,
    boot_as,
    forget_process,
    open_store,
    put_copy,
    remove,
    restore_through_sqlite,
    take_copy,
)

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "store.db"
    forget_process()


# The file at the path is another one: S63.


def the_file_is_removed(path: Path, _: Path) -> None:
    remove(path)


def the_folder_is_moved_away(path: Path, _: Path) -> None:
    os.rename(path.parent, path.parent.parent / "away")
    path.parent.mkdir()


def a_copy_is_moved_over_it(path: Path, backup: Path) -> None:
    remove(path)
    os.rename(backup, path)


def a_copy_is_restored_into_it(path: Path, backup: Path) -> None:
    restore_through_sqlite(backup, path)


REPLACED = [
    the_file_is_removed,
    the_folder_is_moved_away,
    a_copy_is_moved_over_it,
    a_copy_is_restored_into_it,
]


@pytest.mark.parametrize("replace", REPLACED, ids=lambda replace: replace.__name__)
def test_database_file_removed(tmp_path: Path, replace: Callable[[Path, Path], None]) -> None:
    """S63: a holder's next renewal finds its record gone, and the news is newer than its own write."""
    path = tmp_path / "folder" / "store.db"
    path.parent.mkdir()
    with closing(open_store(path)) as store:
        put(store, absent("elsewhere"))
        backup = back_up(path, tmp_path / "backup.db")
        held = put(store, absent("x"))
        for _ in range(5):
            held = put(store, held)
        replace(path, backup)
        outcome = store.swap(held, a_claim(store, held), TIMEOUT)
        assert isinstance(outcome, Conflict) and outcome.slot is not None
        assert outcome.slot.claim is None and number(outcome.slot.order) > number(held.order)
        assert number(put(store, outcome.slot).token) > number(held.token)
    forget_process()


@pytest.mark.parametrize("replace", REPLACED[2:], ids=lambda replace: replace.__name__)
def test_an_older_record_in_a_restored_file_is_news(
    tmp_path: Path, path: Path, replace: Callable[[Path, Path], None]
) -> None:
    """What the copy says counts from now on, so its versions rise above all that this process has seen."""
    with closing(open_store(path)) as store:
        earlier = put(store, absent("x"), "earlier")
        backup = back_up(path, tmp_path / "backup.db")
        held = put(store, put(store, applied(store.swap(earlier, None, TIMEOUT)), "later"), "later")
        replace(path, backup)
        slot = store.read("x", TIMEOUT)
        assert slot.claim == earlier.claim
        assert number(slot.order) > number(held.order) and slot.version != earlier.version
        assert isinstance(store.swap(earlier, None, TIMEOUT), Conflict)
        assert isinstance(store.swap(held, None, TIMEOUT), Conflict)
        assert number(put(store, slot).token) > number(held.token)


def test_the_numbers_of_another_file_do_not_make_its_records_old(tmp_path: Path, path: Path) -> None:
    """A file that others have used for long stands in its place: whom it names is news all the same."""
    other = tmp_path / "other.db"
    with closing(open_store(other)) as store:
        theirs = put(store, absent("x"), "other")
        for index in range(20):
            put(store, absent(f"x{index}"))
    forget_process()
    with closing(open_store(path)) as store:
        held = put(store, put(store, put(store, absent("x"))))
        remove(path)
        os.rename(other, path)
        slot = store.read("x", TIMEOUT)
        assert slot.claim == theirs.claim and number(slot.order) > number(held.order)


@pytest.mark.parametrize("parts", [("-shm",), ("-wal", "-shm"), PARTS], ids=repr)
def test_removed_files_set_nobody_on_top_of_others(path: Path, parts: tuple[str, ...]) -> None:
    """Others write at the path now: the next call joins them, or says that it cannot, and harms none."""
    with closing(open_store(path)) as store:
        held = put(store, absent("x"))
        for part in parts:
            Path(f"{path}{part}").unlink()
        with a_worker(path) as worker:
            last = won_by(worker)
        if "" in parts:
            outcome = store.swap(held, a_claim(store, held), TIMEOUT)
            assert isinstance(outcome, Conflict)
            assert number(store.read("x", TIMEOUT).order) > max(last, number(held.order))
        else:
            with pytest.raises(StoreDenied, match="restart this process"):
                store.swap(held, a_claim(store, held), TIMEOUT)
        store.close()
        with a_worker(path) as worker:
            assert won_by(worker) > last


def test_a_removed_database_with_its_log_left_is_made_anew(path: Path) -> None:
    """As long as this process has the old one open others have to wait; its next call makes way for them."""
    with closing(open_store(path)) as store:
        held = put(store, absent("x"))
        path.unlink()
        with a_worker(path) as worker:
            outcome = store.swap(held, a_claim(store, held), TIMEOUT)
            assert isinstance(outcome, Conflict)
            first = won_by(worker)
            assert number(store.read("x", TIMEOUT).order) >= first
            assert won_by(worker) > first


def test_two_stores_in_one_process_share_a_connection(path: Path) -> None:
    """SQLite's locks belong to the process: a second connection is a second user, and closes nothing."""
    with closing(open_store(path)) as first, closing(open_store(path)) as second:
        slot = put(first, absent("x"))
        assert first._file is second._file and second.read("x", TIMEOUT) == slot
        first.close()
        assert first._file._db is not None and second.read("x", TIMEOUT) == slot
    assert first._file._db is None


# Power cuts: S64.


@pytest.mark.parametrize("boot", ["boot-2", None], ids=["another boot", "no boot id"])
def test_power_cut_tokens(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch, boot: str | None
) -> None:
    """S64: commits since the last that waited for the disk are gone; tokens go on above all handed out."""
    monkeypatch.setattr(_sqlite_file, "MARGIN", 20)
    boot_as(monkeypatch, "boot-1")
    settle, copy = _sqlite_file.File._settle, tmp_path / "copy"

    def settle_and_copy(file: _sqlite_file.File, db: sqlite3.Connection, *, opening: bool = False) -> None:
        settle(file, db, opening=opening)
        take_copy(path, copy)

    monkeypatch.setattr(_sqlite_file.File, "_settle", settle_and_copy)
    store, dice, highest = open_store(path), random.Random(64), 0
    for cut in range(5):
        boot_as(monkeypatch, boot if cut else "boot-1")
        slot = store.read("x", TIMEOUT)
        for _ in range(dice.randrange(120)):
            slot = put(store, slot)
            assert number(slot.token) > highest
            highest = number(slot.token)
        forget_process()
        put_copy(copy, path)
        store = open_store(path)
        boot_as(monkeypatch, f"{boot}-{cut}" if boot else None)
        assert number(put(store, store.read("y", TIMEOUT)).token) > highest
        highest = number(store.read("y", TIMEOUT).order)


@pytest.mark.parametrize("boot", ["boot-1", None])
def test_the_ceiling_stays_above_every_number(
    path: Path, monkeypatch: pytest.MonkeyPatch, boot: str | None
) -> None:
    """At least 1 000 above, raised by a commit that waits for the disk, once in 1 000 writes."""
    boot_as(monkeypatch, boot)
    with closing(open_store(path)) as store:
        slot, statements, raised = store.read("x", TIMEOUT), list[str](), 0
        assert store._file._db is not None
        store._file._db.set_trace_callback(statements.append)
        for _ in range(2500):
            statements.clear()
            before, slot = slot, put(store, slot)
            assert number(slot.order) == number(before.order) + 1
            row = store._file.read("x", TIMEOUT)
            assert row.ceiling >= row.last + _sqlite_file.MARGIN
            if any("ceiling =" in statement for statement in statements):
                raised += 1
                full = statements.index("PRAGMA synchronous = FULL")
                raising = next(i for i, text in enumerate(statements) if "ceiling =" in text)
                normal = statements.index("PRAGMA synchronous = NORMAL")
                assert full < raising < statements.index("COMMIT") < normal
            else:
                assert "PRAGMA synchronous = FULL" not in statements
        assert 1 <= raised <= 3


def test_the_same_boot_goes_on_where_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restarted process wastes no numbers; only another boot, or one without identity, jumps."""
    numbers = list[int]()
    for boot in ("boot-1", "boot-1", "boot-2", "boot-2", None, None):
        boot_as(monkeypatch, boot)
        with closing(open_store(path)) as store:
            numbers.append(number(put(store, store.read("x", TIMEOUT)).order))
        forget_process()
        with closing(sqlite3.connect(path)) as db:
            last, ceiling = db.execute("SELECT last, ceiling FROM sequence").fetchone()
        assert last == numbers[-1] and ceiling >= last + _sqlite_file.MARGIN
    steps = [after - before for before, after in pairwise(numbers)]
    assert [step > _sqlite_file.MARGIN for step in steps] == [False, True, False, True, True]
    assert steps[0] == steps[2] == 1


# Who crashes, and who forks.

WORKER = """
import secrets, sys
from leases.contract import Applied, Unknown
from leases.errors import StoreUnavailable
from leases.record import Claim
from leases_backends.sqlite import connect
store = connect(sys.argv[1])
while True:
    try:
        seen = store.read("x", 10.0)
    except StoreUnavailable:
        continue
    claim = Claim("worker", secrets.token_hex(16), secrets.token_hex(8), 15.0)
    outcome = store.swap(seen, None if seen.held and secrets.randbelow(3) == 0 else claim, 10.0)
    if isinstance(outcome, Applied):
        print(seen.order, seen.version, outcome.slot.order, outcome.slot.version, flush=True)
    elif isinstance(outcome, Unknown):
        print("unknown", repr(outcome), flush=True)
"""


@contextmanager
def a_worker(path: Path, out: Any = subprocess.PIPE) -> Generator[subprocess.Popen[bytes]]:
    """A process of its own that swaps one name and prints what it won, until it is killed."""
    roots = os.pathsep.join(str(Path(__file__).parent.parent / part) for part in ("", "backends"))
    command = [sys.executable, "-c", WORKER, f"sqlite://{path}"]
    with subprocess.Popen(command, stdout=out, env={**os.environ, "PYTHONPATH": roots}) as worker:
        try:
            yield worker
        finally:
            worker.kill()


def won_by(worker: subprocess.Popen[bytes]) -> int:
    """The number of a write by a worker."""
    assert worker.stdout is not None
    return int(worker.stdout.readline().split()[2])


def test_processes_that_are_killed_leave_one_history(path: Path, tmp_path: Path) -> None:
    """They race on one name and die by SIGKILL at any point: no version has two successors, none is lost."""
    dice, logs = random.Random(9), [tmp_path / f"log-{index}" for index in range(12)]
    with ExitStack() as every:
        running = list[ExitStack]()
        for log in logs:
            running.append(every.enter_context(ExitStack()))
            out = running[-1].enter_context(log.open("wb"))
            running[-1].enter_context(a_worker(path, out))
            if len(running) == 3:
                wait_for_lines(log, dice.randrange(20, 200))
                running.pop(dice.randrange(3)).close()
    lines = [
        line.split() for log in logs for line in log.read_text().splitlines(keepends=True) if "\n" in line
    ]
    assert len(lines) > 200 and not [line for line in lines if line[0] == "unknown"]
    followed = [version for _, version, _, _ in lines if version != "None"]
    assert len(set(followed)) == len(followed)
    orders = [int(after) for _, _, after, _ in lines]
    assert len(set(orders)) == len(orders) and all(int(before) < int(after) for before, _, after, _ in lines)
    with closing(open_store(path)) as store:
        assert number(put(store, store.read("x", TIMEOUT)).order) > max(orders)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def fork() -> int:
    """Fork although there are threads: that there are is the point."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


@contextmanager
def ending_here() -> Generator[None]:
    """End this process with the block: 0 if all went well."""
    try:
        signal.alarm(60)
        yield
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def wait_for_lines(log: Path, count: int) -> None:
    """Wait until a worker has won so many times."""
    until = time.monotonic() + 60
    while log.read_bytes().count(b"\n") < count:
        assert time.monotonic() < until, f"too short: {log.read_text()[-500:]}"
        time.sleep(0.005)


@needs_fork
def test_a_child_holds_locks_of_its_own(path: Path) -> None:
    """Its connection is one the kernel knows of: when the parent leaves, the log stays for the child."""
    to_child, to_parent = os.pipe(), os.pipe()
    with closing(open_store(path)) as store:
        put(store, absent("x"))
        child = fork()
        if not child:
            with ending_here():
                put(store, absent("of the child"))
                os.write(to_parent[1], b".")
                os.read(to_child[0], 1)
                put(store, absent("after the parent left"))
        os.read(to_parent[0], 1)
    forget_process()
    with closing(sqlite3.connect(path)) as stranger:  # The last to leave would remove the log.
        assert stranger.execute("SELECT count(*) FROM leases").fetchone() == (2,)
    os.write(to_child[1], b".")
    assert os.waitpid(child, 0)[1] == 0
    with closing(open_store(path)) as store:
        assert [slot.name for slot in names(store.scan("", TIMEOUT))] == [
            "after the parent left",
            "of the child",
            "x",
        ]
    for end in (*to_child, *to_parent):
        os.close(end)


@needs_fork
def test_a_fork_in_the_midst_of_a_call_leaves_the_child_without(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that cannot be waited for is in the store: the child says so, the parent goes on."""
    monkeypatch.setattr(_sqlite_file, "_FORK_PATIENCE", 0.01)

    def child() -> None:
        with pytest.raises(StoreDenied, match="forked"):
            store.read("x", TIMEOUT)

    with closing(open_store(path)) as store:
        slot = put(store, absent("x"))
        inside, gate = threading.Event(), threading.Event()

        def stay(db: sqlite3.Connection) -> None:
            inside.set()
            gate.wait()

        thread = threading.Thread(target=store._file._in_turn, args=(TIMEOUT, stay))
        thread.start()
        inside.wait()
        assert in_child(child) == 0
        gate.set()
        thread.join()
        assert store.read("x", TIMEOUT) == slot


def test_a_call_in_the_midst_of_another_is_refused(path: Path) -> None:
    """A signal handler that calls the store while its thread is in it is told so, and spoils nothing."""
    with closing(open_store(path)) as store:

        def handler(db: sqlite3.Connection) -> None:
            db.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match="in the midst of another call"):
                store.read("x", TIMEOUT)
            assert db.in_transaction

        store._file._in_turn(TIMEOUT, handler)
        put(store, absent("x"))


class Broken:
    """A connection whose commits are answered with an error, before or after they are done."""

    def __init__(self, db: sqlite3.Connection, *, done: bool) -> None:
        self._db = db
        self._done = done

    def __getattr__(self, name: str) -> object:
        return getattr(self._db, name)

    def execute(self, statement: str, *parameters: Any) -> object:
        if statement != "COMMIT":
            return self._db.execute(statement, *parameters)
        if self._done:
            self._db.execute(statement)
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        raise error


@pytest.mark.parametrize("done", [False, True])
def test_an_error_at_the_commit_is_unknown(path: Path, done: bool) -> None:
    """Nobody can say whether it stands, so it is not called void; the next read finds out."""
    with closing(open_store(path)) as store:
        slot = put(store, absent("x"))
        store._file._db = Broken(store._file._db, done=done)  # type: ignore[arg-type, assignment]  # a stand-in
        outcome = store.swap(slot, a_claim(store, slot), TIMEOUT)
        assert isinstance(outcome, Unknown) and not outcome.void
        assert (store.read("x", TIMEOUT) == slot) is not done


def test_a_file_that_others_are_making_is_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite does not always wait when one process looks into a new file while another prepares it."""
    path.touch()
    with closing(sqlite3.connect(path, isolation_level=None)) as other, closing(open_store(path)) as store:
        other.execute("BEGIN")
        other.execute("SELECT * FROM sqlite_master").fetchall()

        def let_go(_: float) -> None:
            other.execute("ROLLBACK")

        monkeypatch.setattr(_sqlite_file, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=let_go))
        assert store.read("x", 0.01).claim is None and not other.in_transaction


def test_a_file_is_looked_at_as_it_is_at_one_instant(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process makes it between any two looks: whoever took two would find a stranger's tables."""
    connect, texts = sqlite3.connect, list[str]()

    def make_it(text: str) -> None:
        texts.append(text)
        if "sqlite_master" in text and len(texts) < 10:
            texts.extend([""] * 10)
            with closing(connect(path, isolation_level=None)) as other:
                other.executescript(f"BEGIN; {_sqlite_file._TABLES}; COMMIT")

    def traced(*args: Any, **options: Any) -> sqlite3.Connection:
        db: sqlite3.Connection = connect(*args, **options)
        db.set_trace_callback(make_it)
        return db

    monkeypatch.setattr(sqlite3, "connect", traced)
    with closing(open_store(path)) as store:
        assert put(store, absent("x")).held and len(texts) > 10


@needs_fork
def test_many_make_a_file_at_once(path: Path) -> None:
    """Whoever comes first makes it, and all the others use it."""
    children = list[int]()
    read, write = os.pipe()
    for index in range(8):
        children.append(fork())
        if not children[-1]:
            with ending_here(), closing(open_store(path)) as store:
                os.close(write)
                os.read(read, 1)  # until the parent closes its end too
                put(store, absent(f"{index}"))
    os.close(write)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
    os.close(read)
    with closing(open_store(path)) as store:
        assert len(list(store.scan("", TIMEOUT))) == 8
