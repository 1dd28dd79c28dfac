"""Where the SQLite file may be, who may use it, and what is said when it cannot be used."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from leases.contract import Unknown, absent
from leases.errors import ConfigurationError, StoreDenied, StoreUnavailable
from leases.testing._probes import TIMEOUT, a_claim, in_child, put
from leases_backends import _paths, _sqlite_file, sqlite
from leases_backends._paths import check_filesystem, filesystem
from leases_backends.sqlite import connect
from sqlite_files import forget_process, open_store

NOBODY = 65534


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    forget_process()


# URLs.


def test_without_a_path_it_is_in_the_user_s_state_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`$XDG_STATE_HOME/leases/leases.db`; folder and files are this user's alone, whatever the umask."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    before = os.umask(0)
    try:
        with closing(connect("sqlite:")) as store:
            put(store, absent("x"))
            folder = tmp_path / "state" / "leases"
            assert store.identity == f"sqlite://{folder}/leases.db"
            assert [mode(tmp_path / "state"), mode(folder)] == [0o700, 0o700]
            assert {file.name: mode(file) for file in folder.iterdir()} == {
                f"leases.db{part}": 0o600 for part in ("", "-wal", "-shm")
            }
    finally:
        os.umask(before)


@pytest.mark.skipif(os.name == "nt", reason="%LOCALAPPDATA% there")
def test_a_relative_state_home_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the standard has it; the default is below the home directory then."""
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _paths.state_directory() == f"{tmp_path}/.local/state/leases"
    monkeypatch.delenv("XDG_STATE_HOME")
    assert _paths.state_directory() == f"{tmp_path}/.local/state/leases"


def test_without_a_home_a_url_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service account may have none; a file in the working directory would be another lock each time."""
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(ConfigurationError, match="LEASES_URL"):
        connect("sqlite:")


def test_a_path_of_one_s_own_follows_the_umask(tmp_path: Path) -> None:
    """A file that several users are to share is made as any other file of theirs."""
    before = os.umask(0o022)
    try:
        with closing(open_store(tmp_path / "shared.db")) as store:
            put(store, absent("x"))
            assert {mode(file) for file in tmp_path.iterdir()} == {0o644}
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:a.db", "{here}/a.db"),
        ("sqlite:./b/../a.db", "{here}/a.db"),
        ("sqlite:{here}/a.db", "{here}/a.db"),
        ("sqlite://{here}/a.db", "{here}/a.db"),
        ("sqlite:///{here}/a.db", "{here}/a.db"),
        ("sqlite://{here}/a%20b%3F.db", "{here}/a b?.db"),
        ("sqlite:~/a.db", "{home}/a.db"),
    ],
)
def test_a_url_names_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, path: str) -> None:
    """Absolute with three slashes, or relative to the working directory; the identity is the same for all."""
    here, home = tmp_path / "here", tmp_path / "home"
    here.mkdir()
    home.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    with closing(connect(url.format(here=here))) as store:
        put(store, absent("x"))
        expected = path.format(here=here, home=home)
        assert store.identity == f"sqlite://{expected}" and os.path.exists(expected)


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("sqlite:x.db?timeout=3", "'timeout' is unknown; known here: none"),
        ("sqlite:?mode=ro", "'mode' is unknown"),
        ("sqlite://host/x.db", "names a host; use sqlite:///"),
        ("sqlite::memory:", "use memory:"),
        ("sqlite:x/", "name a file in it"),
        ("sqlite:///", "name a file in it"),
        ("sqlite:.", "is a directory; name a file in it"),
    ],
)
def test_a_url_that_cannot_work_is_refused_at_once(url: str, advice: str) -> None:
    """Before any file is touched, in a sentence that ends in what to write instead."""
    with pytest.raises(ConfigurationError) as refused:
        connect(url)
    assert advice in str(refused.value)


# File systems.

MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:25 / /run rw,nosuid shared:2 - tmpfs tmpfs rw
40 22 0:40 / /data rw shared:3 master:7 - nfs4 server:/export rw,vers=4.2
41 40 0:41 / /data/local rw - btrfs /dev/vdb rw
50 22 0:50 / /mnt/with\\040space rw - fuse.sshfs user@host: rw
51 22 0:51 / /mnt/host rw - virtiofs myfs rw
52 22 0:52 / /mnt/c rw - 9p C:\\134 rw
60 22 0:60 / /mnt/over rw - ext4 /dev/vdc rw
61 60 0:61 / /mnt/over rw - cifs //server/share rw
a line that is not one
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/x.db", "ext4"),
        ("/run/x.db", "tmpfs"),
        ("/running", "ext4"),
        ("/data/x.db", "nfs4"),
        ("/data/local/deep/x.db", "btrfs"),
        ("/data/localised/x.db", "nfs4"),
        ("/mnt/with space/x.db", "fuse.sshfs"),
        ("/mnt/host/x.db", "virtiofs"),
        ("/mnt/c/x.db", "9p"),
        ("/mnt/over/x.db", "cifs"),
    ],
)
def test_the_mount_that_a_path_is_on_decides(path: str, kind: str) -> None:
    """The longest that holds it, of two on one point the later; those of several kernels are refused."""
    assert filesystem(path, MOUNTS) == kind
    if kind in ("ext4", "tmpfs", "btrfs"):
        check_filesystem(path, MOUNTS)
    else:
        with pytest.raises(ConfigurationError, match=f"{kind} file system.*LEASES_URL"):
            check_filesystem(path, MOUNTS)


def test_where_no_table_of_mounts_is_nothing_is_refused() -> None:
    """Other systems have none; there the advice in the documentation has to do."""
    check_filesystem("/data/x.db", "")


def test_a_store_on_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the file is made."""
    monkeypatch.setattr(sqlite, "read_mounts", lambda: "22 1 0:40 / / rw - nfs server:/ rw\n")
    with pytest.raises(ConfigurationError, match="nfs file system"):
        open_store(tmp_path / "x.db")
    assert list(tmp_path.iterdir()) == []


# Files that cannot be used.


def not_a_database(path: Path) -> None:
    path.write_bytes(b"something else entirely, and long enough to be looked at" * 100)


def somebody_else_s_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE theirs (x)")


def one_of_a_newer_version(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA application_id = {_sqlite_file.APPLICATION}")
        db.execute(f"PRAGMA user_version = {_sqlite_file.SCHEMA + 1}")


def a_directory(path: Path) -> None:
    path.mkdir()


def in_no_folder(path: Path) -> None:
    path.parent.rmdir()


def in_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_bytes(b"")


@pytest.mark.parametrize(
    ("make", "what", "advice"),
    [
        (not_a_database, "not a SQLite database", "LEASES_URL"),
        (somebody_else_s_database, "something else", "LEASES_URL"),
        (one_of_a_newer_version, "newer", "upgrade"),
        (a_directory, "is a directory", "name a file"),
        (in_no_folder, "no directory", "create it"),
        (in_a_file, "not a directory", "another file"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_used_is_refused_and_left(
    tmp_path: Path, make: Callable[[Path], None], what: str, advice: str
) -> None:
    """In a sentence that says what is wrong and ends in what to do; not a byte of it is changed."""
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "x.db"
    store = open_store(path)
    make(path)
    before = contents(tmp_path)
    for call in (
        lambda: store.read("x", TIMEOUT),
        lambda: store.swap(absent("x"), a_claim(store, absent("x")), TIMEOUT),
        lambda: list(store.scan("", TIMEOUT)),
    ):
        with pytest.raises(StoreDenied) as denied:
            call()
        assert what in str(denied.value) and advice in str(denied.value) and str(path) in str(denied.value)
    assert contents(tmp_path) == before


def test_a_damaged_file_is_no_answer(tmp_path: Path) -> None:
    """It is said that it is damaged, and nothing is called done."""
    path = tmp_path / "x.db"
    with closing(open_store(path)) as store:
        for index in range(50):
            put(store, absent(f"{index}"))
    forget_process()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (path.stat().st_size - 4096))
    with closing(open_store(path)) as store:
        with pytest.raises(StoreUnavailable, match=r"malformed.*damaged"):
            store.read("1", TIMEOUT)
        outcome = store.swap(absent("y"), a_claim(store, absent("y")), TIMEOUT)
        assert isinstance(outcome, Unknown) and outcome.void


def test_a_full_disk_is_no_answer(tmp_path: Path) -> None:
    """What has no room is not done, and what stands there goes on being readable."""
    with closing(open_store(tmp_path / "x.db")) as store:
        slot = put(store, absent("x"))
        assert store._file._db is not None
        store._file._db.execute("PRAGMA max_page_count = 1")
        outcomes = [
            store.swap(absent(f"y{index}"), a_claim(store, absent("y"), "h" * 250), TIMEOUT)
            for index in range(99)
        ]
        full = [outcome for outcome in outcomes if isinstance(outcome, Unknown)]
        assert full and all(outcome.void and "make room" in str(outcome.cause) for outcome in full)
        assert store.read("x", TIMEOUT) == slot


def a_file_for_reading(path: Path) -> None:
    with closing(open_store(path)) as store:
        put(store, absent("x"))
    path.chmod(0o444)


def a_folder_for_reading(path: Path) -> None:
    path.parent.chmod(0o555)


def a_closed_folder(path: Path) -> None:
    path.parent.chmod(0o000)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="permissions are of another kind there")
@pytest.mark.parametrize("make", [a_file_for_reading, a_folder_for_reading, a_closed_folder])
def test_without_permission_it_is_said_where_it_is_missing(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    """Which file or folder, whose it is, and who asked; root has to become somebody else to be refused."""
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "x.db"
    make(path)
    forget_process()

    def child() -> None:
        if os.geteuid() == 0:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        store = open_store(path)
        with pytest.raises(StoreDenied, match=f"uid {os.geteuid()}.*permission"):
            store.swap(absent("y"), a_claim(store, absent("y")), TIMEOUT)
        with pytest.raises(PermissionError):
            store.read("y", TIMEOUT)

    for place in (folder, *tmp_path.parents):
        if os.geteuid() == 0 and place != folder and mode(place) & 0o755 == 0o700:
            place.chmod(0o711)  # pytest's own folders are closed to others
    tmp_path.chmod(0o711)
    try:
        assert in_child(child) == 0
    finally:
        folder.chmod(0o755)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, and what is in it."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def mode(path: Path) -> int:
    """The permissions of a file or folder."""
    return stat.S_IMODE(path.stat().st_mode)
