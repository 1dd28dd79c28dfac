"""Bad files, full disks, closed streams: one line that ends in the next step, the code, and nothing left."""

from __future__ import annotations

import os
import resource
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from leases_command import LEASES, Shop, until
from mistakes import ASKING, check, check_line, left_in, left_running
from stores import Site

# Those that look, and those that write; one that holds is among both.
LOOKING: Final = ("hold", "status", "list", "validate", "break", "prune")
WRITING: Final = ("hold",)


@pytest.fixture
def shop(site: Site, tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path, site)
    yield shop
    until(lambda: left_running(f"LEASES_URL={shop.url}\0") == [], 10.0)
    shop.close()


# ---- what is there instead of a database -----------------------------------------------------------


def _nothing(path: Path) -> None:
    path.write_text(500 * "This is no database.\n")


def _folder(path: Path) -> None:
    path.mkdir()


def _of_another(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE leases (id INTEGER)")
    db.close()


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _torn(path: Path) -> None:
    _ours(path)
    os.truncate(path, 5000)


def _ours(path: Path) -> None:
    done = subprocess.run(
        [*LEASES, "hold", "job", "--backend", f"sqlite://{path}", "--", "true"],
        capture_output=True,
        check=True,
    )
    assert done.stderr == b""


INSTEAD: Final[dict[str, tuple[Callable[[Path], None], int]]] = {
    "text": (_nothing, 77),
    "a folder": (_folder, 64),
    "another's database": (_of_another, 77),
    "a pipe": (_fifo, 64),
    "a circle of links": (_loop, 77),
    "a torn database": (_torn, 69),
}


@pytest.mark.parametrize("command", LOOKING)
@pytest.mark.parametrize("what", sorted(INSTEAD))
def test_no_database(shop: Shop, what: str, command: str) -> None:
    """It is left as it is."""
    make, code = INSTEAD[what]
    make(shop.path)
    before = left_in(shop.folder)
    check(shop.run(*ASKING[command]), code)
    assert left_in(shop.folder) == before


# ---- no room, no right -----------------------------------------------------------------------------

needs_namespaces: Final = pytest.mark.skipif(
    subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0
    if sys.platform == "linux"
    else True,
    reason="file systems can be mounted by root alone here",
)


def on_a_disk(shop: Shop, mount: str, *words: str, size: str = "16k") -> subprocess.CompletedProcess[str]:
    """Run a command where a file system of its own is mounted, by these words of sh, on the folder "disk"."""
    (shop.folder / "disk").mkdir(exist_ok=True)
    script = f'mount -t tmpfs -o size={size} none disk && {mount} && exec "$@"'
    program = ("unshare", "-rm", "sh", "-c", script, "sh", *LEASES)
    first, *others = words
    process = shop.start(first, "--backend", "sqlite:disk/leases.db", *others, program=program)
    out, err = process.communicate(timeout=30)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


FULL: Final = "{ head -c 16384 /dev/zero > disk/fill; }"
READ_ONLY: Final = "mount -o remount,ro disk"


@needs_namespaces
@pytest.mark.parametrize("command", LOOKING)
@pytest.mark.parametrize(("mount", "code"), [(FULL, 69), (READ_ONLY, 77)], ids=["full", "read-only"])
def test_disk_that_takes_nothing(shop: Shop, command: str, mount: str, code: int) -> None:
    """A full disk does not answer, one that is read-only refuses us; neither runs the command."""
    check(on_a_disk(shop, mount, *ASKING[command]), code)
    assert left_in(shop.folder) == ["disk"]


@needs_namespaces
def test_disk_that_is_full_in_the_midst(shop: Shop) -> None:
    """A database that was made while there was room is refused what it needs; the command does not run."""
    make = shlex.join([*LEASES, "hold", "job", "--backend", "sqlite:disk/leases.db", "-w", "5", "--", "true"])
    fill = "{ cat /dev/zero > disk/fill 2>/dev/null || true; }"
    done = on_a_disk(shop, f"{make} && {fill}", *ASKING["hold"], size="128k")
    check(done, 69)
    assert "make room" in done.stderr and left_in(shop.folder) == ["disk"]


def _little(bytes_: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))


@pytest.mark.parametrize("bytes_", [0, 4096, 8192])
def test_files_that_must_not_grow(shop: Shop, bytes_: int) -> None:
    """A limit on the size of files is no crash, and what was made by then works when the limit is gone."""
    done = shop.run(*ASKING["hold"], preexec_fn=_little(bytes_))
    check(done, 69)
    assert "ran" not in left_in(shop.folder)
    assert shop.run("hold", "job", "--", "touch", "ran").returncode == 0


@pytest.mark.parametrize("command", [*LOOKING, "elect"])
def test_a_current_directory_that_is_gone(shop: Shop, command: str) -> None:
    """A file that is named by its place in there cannot be; any other can."""
    script = 'mkdir gone && cd gone && rmdir ../gone && exec "$@"'
    program = ("sh", "-c", script, "sh", *LEASES)
    for url, code in (("sqlite:leases.db", 64), (f"sqlite://{shop.folder}/leases.db", None)):
        if code is None and command == "elect":
            continue  # It would lead until it is stopped.
        words = [*ASKING.get(command, ("elect", "job"))]
        process = shop.start(words[0], "--backend", url, *words[1:], program=program)
        out, err = process.communicate(timeout=30)
        done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
        if code is None:
            assert "current directory" not in err
        else:
            check(done, code)
            assert err.endswith("which is gone; name an absolute path\n")


def _few(descriptors: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))


@pytest.mark.parametrize("descriptors", range(6, 16))
def test_few_descriptors(shop: Shop, descriptors: int) -> None:
    """Enough of them, or one line that says so; the lock is free then, and nobody's rights are blamed."""
    done = shop.run("hold", "-n", "job", "--", "true", preexec_fn=_few(descriptors))
    assert done.returncode in (0, 69, 126), done.stderr
    if done.returncode:
        check_line(done.stderr)
        assert "ulimit" in done.stderr
    assert shop.holder() is None


@pytest.mark.parametrize("value", ["", "relative"])
def test_a_state_directory_that_is_none(shop: Shop, value: str) -> None:
    """An empty or a relative one is none, and the place is the one below the home directory."""
    env = {"HOME": str(shop.folder), "XDG_STATE_HOME": value, "LEASES_URL": ""}
    done = shop.run("status", "job", env=env)
    assert (done.returncode, done.stdout) == (0, '"job" is free\n')
    assert left_in(shop.folder) == [
        ".local",
        ".local/state",
        ".local/state/leases",
        ".local/state/leases/leases.db",
    ]


# ---- records ---------------------------------------------------------------------------------------


RECORDS: Final = {
    "no JSON": b"\xff{",
    "of another tool": b'{"holder": "me"}',
    "of a newer format": b'{"format": 99}',
    "too long": b"{" + 5000 * b" " + b"}",
    "absurd": b'{"format":1,"holder":"me","claim":"","beat":"","ttl":1e999,"token":null,"state":"held"}',
}


@pytest.mark.parametrize("command", ["hold", "status", "validate", "break"])
@pytest.mark.parametrize("what", sorted(RECORDS))
def test_record_that_is_not_ours(shop: Shop, what: str, command: str) -> None:
    """It is refused, and stays as it is; 77."""
    _ours(shop.path)
    with sqlite3.connect(shop.path) as db:
        db.execute("INSERT INTO leases VALUES ('job', 7, ?)", (RECORDS[what],))
    db.close()
    check(shop.run(*ASKING[command]), 77)
    with sqlite3.connect(shop.path) as db:
        assert db.execute("SELECT * FROM leases").fetchall() == [("job", 7, RECORDS[what])]
    db.close()


# ---- streams ---------------------------------------------------------------------------------------

STREAMS: Final = [
    # how, words, code, whether it is told on stderr
    (">/dev/full", ("status", "job"), 74, True),
    (">/dev/full", ("status", "job", "--json"), 74, True),
    (">/dev/full", ("doctor",), 74, True),
    (">/dev/full", ("hold", "job"), 74, True),
    (">/dev/full", ("elect", "job"), 74, True),
    (">/dev/full", ("completion", "bash"), 74, True),
    (">/dev/full", ("--help",), 74, True),
    (">/dev/full", ("hold", "--help"), 74, True),
    (">/dev/full", ("hold", "job", "--", "true"), 0, False),
    (">&-", ("status", "job"), 0, False),
    (">&-", ("hold", "job", "--", "true"), 0, False),
    (">&- 2>&- <&-", ("hold", "job", "--", "true"), 0, False),
    ("2>&-", ("nonsense",), 64, False),
    ("2>/dev/full", ("nonsense",), 64, False),
    ("2>/dev/full", ("hold", "job", "--verbose", "--", "true"), 0, False),
    ("<&-", ("hold", "job", "--", "cat"), 0, False),
]


@pytest.mark.parametrize(("how", "words", "code", "told"), STREAMS, ids=lambda value: str(value)[:40])
def test_stream_that_takes_nothing(shop: Shop, how: str, words: Sequence[str], code: int, told: bool) -> None:
    """A result that cannot be written is 74; what is said beside it may go nowhere; the lock is free."""
    done = shop.run(*words, program=("sh", "-c", f'exec "$@" {how}', "sh", *LEASES))
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    if told:
        check_line(done.stderr)
    else:
        assert done.stderr == ""
    assert not shop.slot().held


@pytest.mark.parametrize(
    "words", [("hold", "job"), ("elect", "job"), ("list",), ("status", "job"), ("doctor",)]
)
def test_pipe_whose_reader_has_left(shop: Shop, words: Sequence[str]) -> None:
    """As any filter it ends in silence, by the code of SIGPIPE, and the lock is free."""
    shop.run("hold", "other", "--", "true")
    reader, writer = os.pipe()
    os.close(reader)
    done = shop.run(*words, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) in [(141, ""), (0, "")]
    assert done.returncode == 141 or words == ("list",), "an empty list is no result"
    assert not shop.slot().held
