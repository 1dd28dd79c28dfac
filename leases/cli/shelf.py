"""Small files that the commands of one user on one host leave for one another, in the memory of that host.

They are in a folder of that user alone. What another user could have written, what another host may see, and
what a later boot would find is not looked at.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

BYTES_MOST: Final = 256 * 1024  # of a file
FILES_MOST: Final = 4096
_DRAFT_LASTS: Final = 60.0
_IN_MEMORY: Final = ("tmpfs", "ramfs")


class CannotKeep(Exception):
    """Nothing can be kept here; the message says why."""


class Place(NamedTuple):
    """A folder in the memory of this host, and what ours in it is called."""

    base: str
    name: str

    def __str__(self) -> str:
        return os.path.join(*self)


def places() -> list[Place]:
    """Where such folders may be. All are read, and the first that can be used is written."""
    user = os.geteuid()
    session = os.environ.get("XDG_RUNTIME_DIR", "")
    bases = [session, f"/run/user/{user}"] if os.path.isabs(session) else [f"/run/user/{user}"]
    # Others may write to the last; that what is found there is of this user is checked.
    return [*(Place(base, "leases") for base in bases), Place("/dev/shm", f"leases-{user}")]  # noqa: S108


def folders() -> Iterator[int]:
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
def folder_to_write() -> Generator[int]:
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


def read(folder: int, name: str) -> bytes:
    """A file of this user alone; nothing where there is none. What is too long is cut."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        file = os.open(name, flags, dir_fd=folder)
    except OSError:
        return b""
    try:
        found = os.fstat(file)
        return os.read(file, BYTES_MOST) if stat.S_ISREG(found.st_mode) and _ours(found) else b""
    except OSError:
        return b""
    finally:
        os.close(file)


def write(folder: int, name: str, data: bytes) -> None:
    """Put a file in its place, whole; who is reading the one before it goes on with that.

    Raises:
        OSError: it cannot be done, and nothing was.
    """
    draft = f".{name}-{os.getpid()}-{os.urandom(4).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(draft, flags, 0o600, dir_fd=folder), "wb") as file:
            file.write(data)
        os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        remove(folder, draft)
        raise


def remove(folder: int, name: str) -> None:
    """Remove a file, if it is there and can be removed."""
    with contextlib.suppress(OSError):
        os.unlink(name, dir_fd=folder)


def sweep(folder: int, lifetime: float, now: float) -> None:
    """Remove what nobody needs any more: old files, drafts of who died over them, all beyond a number.

    Args:
        folder: the folder's descriptor.
        lifetime: seconds after which a file is old.
        now: Unix time, because files have no other. Were it wrong, somebody would wait once more.
    """
    ages: list[tuple[float, str]] = []
    with os.scandir(folder) as found:
        for file in found:
            with contextlib.suppress(FileNotFoundError):
                ages.append((now - file.stat(follow_symlinks=False).st_mtime, file.name))
    ages.sort()
    for index, (age, name) in enumerate(ages):
        lasts = _DRAFT_LASTS if name.startswith(".") else lifetime
        if index >= FILES_MOST or not -lifetime < age < lasts:
            remove(folder, name)
