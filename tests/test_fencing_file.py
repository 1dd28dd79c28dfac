"""`FileFence`: the old content or the new, and nothing of an earlier tenure after a seal, by any process."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

from leases import ConfigurationError, RecordRefused
from leases.fencing import FileFence, ForeignToken, Level, ResourceBusy, StaleToken, Token
from stores import Site

PATIENCE = 20.0


def token(number: int) -> Token:
    return Token("job", number)


def forked() -> int:
    with warnings.catch_warnings():  # From 3.12 on Python warns where threads are about.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "report.csv"


@pytest.fixture
def fence(path: Path) -> FileFence:
    return FileFence("job", path)


def left(path: Path) -> set[str]:
    return {entry.name for entry in path.parent.iterdir()}


def test_the_highest_token_counts(fence: FileFence, path: Path) -> None:
    """Equal and higher ones write, a lower one leaves all as it was, and the error names both."""
    assert fence.highest is None and fence.level is Level.SEALED
    for number in (3, 3, 1 << 100):
        fence.write(token(number), str(number))
        assert path.read_text() == str(number)
    with pytest.raises(StaleToken) as caught:
        fence.write(token(4), "late")
    assert (caught.value.given, caught.value.highest) == (4, 1 << 100)
    assert path.read_text() == str(1 << 100)
    assert left(path) == {"report.csv", "report.csv.fence", "report.csv.fence.lock"}


def test_a_seal_shuts_out_who_has_not_written_yet(fence: FileFence, path: Path) -> None:
    """For every fence of this file, in this process or another; the file itself is not touched."""
    fence.seal(token(2))
    assert not path.exists()
    other = FileFence("job", str(path))
    assert other.highest == 2
    for refused in (
        lambda: other.write(token(1), b""),
        lambda: other.seal(token(1)),
        lambda: other.check(token(1)),
    ):
        with pytest.raises(StaleToken):
            refused()
    assert not path.exists()


def test_a_token_of_another_lock_says_nothing(fence: FileFence, path: Path) -> None:
    """S56: it is refused, and so is a second lock that thinks it guards the file, too."""
    with pytest.raises(ForeignToken):
        fence.write(Token("other", 9), b"")
    fence.seal(token(1))
    with pytest.raises(RecordRefused, match='lock "job" guards it'):
        FileFence("other", path).write(Token("other", 9), b"")
    assert not path.exists()


def test_what_is_written_piece_by_piece_takes_its_place_at_the_end(fence: FileFence, path: Path) -> None:
    """Until then the old content stands; if the body raises, for good, and nothing is left behind."""
    fence.write(token(1), "old")

    def fails() -> None:
        with fence.writing(token(2)) as file:
            file.write("half")
            file.flush()
            assert path.read_text() == "old"
            raise KeyError("boom")

    with pytest.raises(KeyError):
        fails()
    assert path.read_text() == "old" and fence.highest == 1 and len(left(path)) == 3
    with fence.writing(token(2), "wb") as file:
        file.write(b"new\xff")
    assert path.read_bytes() == b"new\xff" and fence.highest == 2


def test_the_token_counts_at_the_end(fence: FileFence, path: Path) -> None:
    """A body that began before the seal and ended after it changes nothing."""

    def late() -> None:
        with fence.writing(token(1)) as file:
            file.write("late")
            fence.seal(token(2))

    with pytest.raises(StaleToken):
        late()
    assert not path.exists() and len(left(path)) == 2


def test_the_check_is_one_step_with_the_change(
    fence: FileFence, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the comparison and the new content nobody can seal."""
    fence.seal(token(1))
    busy, replace = list[bool](), os.replace

    def seals(source: Any, target: Any) -> None:
        try:
            FileFence("job", path, timeout=0).seal(token(2))
        except ResourceBusy:
            busy.append(True)
        replace(source, target)

    monkeypatch.setattr(os, "replace", seals)
    fence.write(token(1), "one")
    assert busy == [True] and fence.highest == 1 and path.read_text() == "one"


def test_a_body_is_one_step_with_its_check(fence: FileFence, path: Path) -> None:
    """Whoever seals waits for it, and who waits too long is told."""
    path.write_text("one\n")
    sealer = threading.Thread(target=fence.seal, args=(token(2),))
    with fence.admitted(token(1)):
        sealer.start()
        sealer.join(0.05)
        assert sealer.is_alive()
        with pytest.raises(ResourceBusy):
            FileFence("job", path, timeout=0.02).seal(token(2))
        with path.open("a") as file:
            file.write("two\n")
    sealer.join(PATIENCE)
    with pytest.raises(StaleToken), fence.admitted(token(1)):
        raise AssertionError("the body ran")
    assert path.read_text() == "one\ntwo\n" and fence.highest == 2


def test_it_is_awaited_off_the_loop(fence: FileFence, path: Path) -> None:
    """Write and seal."""

    async def main() -> None:
        await fence.write_async(token(1), "one")
        await fence.seal_async(token(2))
        with pytest.raises(StaleToken):
            await fence.write_async(token(1), "late")

    asyncio.run(main())
    assert path.read_text() == "one"


@pytest.mark.parametrize("damage", [b"", b"junk", b"\xff\xfe", b"5;name=", b"5;name=job\n6;name=job\n"])
def test_a_damaged_memory_is_refused_and_not_repaired(fence: FileFence, path: Path, damage: bytes) -> None:
    """The error names the file; nothing is written until somebody has looked."""
    fence.write(token(5), "old")
    memory = path.with_name("report.csv.fence")
    memory.write_bytes(damage)
    with pytest.raises(RecordRefused, match=r"report\.csv\.fence holds no token"):
        fence.write(token(6), "new")
    assert path.read_text() == "old" and memory.read_bytes() == damage


def test_the_token_is_on_the_disk_before_the_content(
    fence: FileFence, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash in between loses the content, and never the seal: nothing earlier gets in."""
    replaced = list[str]()
    replace = os.replace

    def crashes(source: Any, target: Any) -> None:
        if Path(target) == path:
            raise OSError("power is gone")
        replaced.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", crashes)
    with pytest.raises(OSError, match="power"):
        fence.write(token(5), "new")
    monkeypatch.undo()
    assert replaced == ["report.csv.fence"] and not path.exists()
    with pytest.raises(StaleToken):
        fence.write(token(4), "late")


def test_all_is_on_the_disk_when_it_returns(
    fence: FileFence, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file before it takes its place, and the folder afterwards."""
    did = list[str]()
    replace, fsync = os.replace, os.fsync

    def syncs(number: int) -> None:
        did.append("folder" if os.path.isdir(f"/proc/self/fd/{number}") else "file")
        fsync(number)

    monkeypatch.setattr(os, "fsync", syncs)

    def replaces(source: Any, target: Any) -> None:
        did.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "replace", replaces)
    fence.write(token(5), "new")
    assert did == ["file", *("file", "replace", "folder"), *("replace", "folder")]
    did.clear()
    fence.write(token(5), "new")
    assert did == ["file", "replace", "folder"]  # the same tenure has nothing new to remember


def test_permissions_and_links_are_kept(tmp_path: Path, path: Path) -> None:
    """The new content has the old one's permissions; a symbolic link leads to it, and shares its fence."""
    path.write_text("old")
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(path)
    FileFence("job", link).write(token(5), "new")
    assert link.is_symlink() and path.read_text() == "new" and path.stat().st_mode & 0o777 == 0o640
    assert FileFence("job", path).highest == 5


def test_a_new_file_has_the_usual_permissions(path: Path, fence: FileFence) -> None:
    """Those of any file that this process makes."""
    fence.write(token(1), "new")
    (usual := path.with_name("usual")).write_text("")
    assert path.stat().st_mode == usual.stat().st_mode


def test_a_forked_child_keeps_nobody_waiting(fence: FileFence) -> None:
    """It has a copy of the open lock, and may live for ever."""
    reads, writes = os.pipe()
    with fence.admitted(token(1)):
        child = forked()
        if child == 0:  # pragma: no cover
            os.read(reads, 1)
            os._exit(0)
    try:
        FileFence("job", fence.path, timeout=0).seal(token(2))
    finally:
        os.write(writes, b"x")
        os.waitpid(child, 0)
        os.close(reads)
        os.close(writes)


WRITER = """
import sys
from leases.fencing import FileFence, StaleToken, Token
path, number = sys.argv[1], int(sys.argv[2])
fence, done = FileFence("job", path, timeout=60), 0
print("ready", flush=True)
while True:
    try:
        with fence.admitted(Token("job", number)), open(path, "a") as file:
            file.write(f"{number}\\n")
    except StaleToken:
        break
    done += 1
print(done)
"""


def test_processes_that_write_as_fast_as_they_can(path: Path, fence: FileFence) -> None:
    """Once a seal is in, nothing of an earlier tenure comes to the file."""
    writers = list[subprocess.Popen[str]]()
    at_seal = list[tuple[int, int]]()

    def seen(number: int) -> int:
        return sum(1 for line in path.read_text().splitlines() if int(line) < number)

    path.touch()
    for number in (1, 2, 3, 4):
        fence.seal(token(number))
        at_seal.append((number, seen(number)))
        if number < 4:
            writer = subprocess.Popen(
                [sys.executable, "-c", WRITER, path, str(number)], stdout=subprocess.PIPE, text=True
            )
            assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
            writers.append(writer)
            while f"{number}\n" not in path.read_text():
                pass
    counts = [int(writer.communicate()[0]) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert [(number, seen(number)) for number, _ in at_seal] == at_seal
    assert seen(9) == sum(counts) and min(counts) > 0


def test_a_lock_seals_before_it_is_told(site: Site, fence: FileFence, path: Path) -> None:
    """With real leases."""
    with site.store() as store:
        lock = store.lock("job", fences=[fence])
        with lock as first:
            fence.write(first, "first")
        with lock as second, pytest.raises(StaleToken):
            fence.write(first, "late")
        assert fence.highest == second.token and path.read_text() == "first"


def test_what_cannot_work_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is not there, or in the file's place, or a device; no mode to write, another system."""
    for wrong in (tmp_path / "nowhere" / "file", tmp_path, os.devnull):
        with pytest.raises(ConfigurationError, match="make the folder, or name another"):
            FileFence("job", wrong)
    for options in (
        {"name": "", "path": tmp_path / "x"},
        {"name": "job", "path": tmp_path / "x", "timeout": -1},
        {"name": "job", "path": tmp_path / "x", "timeout": None},
    ):
        with pytest.raises(ConfigurationError):
            FileFence(**options)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigurationError, match="writes no new content"):
        FileFence("job", tmp_path / "x").writing(token(1), "a").__enter__()
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ConfigurationError, match="no flock"):
        FileFence("job", tmp_path / "x")


def test_another_programs_lock_is_waited_for(fence: FileFence, path: Path) -> None:
    """`flock report.csv.fence.lock -c …` in a shell keeps fences waiting."""
    with open(path.with_name("report.csv.fence.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ResourceBusy):
            FileFence("job", path, timeout=0).seal(token(1))
    fence.seal(token(1))
