"""Where a file that processes share may live: the user's state directory, and which file systems will do."""

from __future__ import annotations

import os
import sys
from typing import Final

from leases.errors import ConfigurationError

# Locks on a file, and memory shared through it, hold where one kernel sees all who use it.
_OF_MANY_KERNELS: Final = """
    9p afs beegfs ceph cifs coda drvfs fuse fuseblk gfs gfs2 gpfs lustre ncp ncpfs nfs nfs4 ocfs2 orangefs
    prl_fs pvfs2 smb2 smb3 smbfs vboxsf virtiofs vmhgfs
"""


def state_directory() -> str:
    """The user's directory for state that outlives a reboot; it may not exist yet.

    `$XDG_STATE_HOME/leases` or `~/.local/state/leases`; `~/Library/Application Support/leases` on macOS,
    `%LOCALAPPDATA%\\leases` on Windows.

    Raises:
        ConfigurationError: the user has no home directory.
    """
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or os.path.expanduser("~\\AppData\\Local")
    elif sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Application Support")
    else:
        base = os.environ.get("XDG_STATE_HOME", "")
        if not os.path.isabs(base):  # the standard has relative values ignored
            base = os.path.expanduser("~/.local/state")
    if not os.path.isabs(base):
        raise ConfigurationError("this user has no home directory; set LEASES_URL=sqlite:///path/to/file")
    return os.path.join(base, "leases")


def make_private(directory: str) -> None:
    """Create a directory and its missing parents, each for this user alone.

    Raises:
        OSError: it cannot be created.
    """
    if os.path.isdir(directory):
        return
    make_private(os.path.dirname(directory))
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        if not os.path.isdir(directory):
            raise


def read_mounts() -> str:
    """The kernel's table of mounts as this process sees it, empty where there is none."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def filesystem(path: str, mounts: str) -> str:
    """The type of the file system that a path is on, by a table of mounts; empty when it does not tell."""
    path, found, kind = os.path.realpath(path), "", ""
    for line in mounts.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if not separator or len(fields) < 5:
            continue
        point = _unescaped(fields[4])
        # The last of several mounts on one point is the one that is seen.
        if len(point) >= len(found) and (path + "/").startswith(point.rstrip("/") + "/"):
            found, kind = point, after.split(" ")[0]
    return kind


def check_filesystem(path: str, mounts: str) -> None:
    """Refuse a path where two machines could hold the same lock.

    Raises:
        ConfigurationError: a network file system, one shared with a host machine, or FUSE.
    """
    kind = filesystem(path, mounts)
    if kind in _OF_MANY_KERNELS.split() or kind.startswith("fuse."):
        raise ConfigurationError(
            f"{path} is on a {kind} file system, where locks between processes cannot be relied on; "
            "set LEASES_URL=sqlite:///… to a path on a local disk, or use a store that is made for a network"
        )


def _unescaped(field: str) -> str:
    for escape, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(escape, character)
    return field
