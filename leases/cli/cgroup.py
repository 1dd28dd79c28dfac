"""A control group of its own for a command, where the kernel lets us have one without asking anybody.

It adds to the tree of processes that a kill of all of them is one act of the kernel, which nobody outruns by
forking. It is only had where it changes nothing else: no controller is switched on for the children of our
own group, so that the command's limits and shares stay those it would have had; and our own group has no
limit that programs adapt to, because many of them look for it in their own group and nowhere above. Where it
cannot be had (an old kernel, a read-only file system, a group of somebody else's) nothing is said, and the
tree is walked.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Final

_PREFIX: Final = "leases-"
# By these, programs choose the size of their heaps and pools; they begin with "max" where there is no limit.
_LIMITS: Final = ("memory.max", "memory.high", "cpu.max")


class Cage:
    """A control group, empty until somebody enters.

    Attributes:
        path: its folder.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def enter(self) -> None:
        """Go there, with all that is forked from now on."""
        with contextlib.suppress(OSError):  # Forbidden after all.
            _write(f"{self.path}/cgroup.procs", b"0")

    def kill(self) -> None:
        """Kill all who are in it."""
        try:
            _write(f"{self.path}/cgroup.kill", b"1")
        except OSError:  # Before Linux 5.14.
            with contextlib.suppress(OSError, ValueError), open(f"{self.path}/cgroup.procs", "rb") as file:
                for pid in map(int, file.read().split()):
                    if pid:  # Zero is somebody whom we cannot see from here.
                        os.kill(pid, signal.SIGKILL)

    def remove(self) -> None:
        """Remove it, when nobody is left in it."""
        _remove(self.path)


def make_cage() -> Cage | None:
    """A control group below our own; None where there is none to be had."""
    folder = home()
    if folder is None:
        return None
    try:
        with open(f"{folder}/cgroup.subtree_control", "rb") as file:
            if file.read().strip() or any(_is_limited(f"{folder}/{name}") for name in _LIMITS):
                return None
        path = f"{folder}/{_PREFIX}{os.getpid()}-{os.urandom(4).hex()}"
        os.mkdir(path)
    except OSError:
        return None
    return Cage(path)


def sweep(owner: int | None = None) -> None:
    """Remove the empty groups that were left by the dead.

    Args:
        owner: the process that made them and is dead; otherwise all who do not live.
    """
    for path in _cages(home(), owner):
        _remove(path)


def kill_left(owner: int) -> None:
    """Kill all who are in the groups of a process that is dead."""
    for path in _cages(home(), owner):
        Cage(path).kill()


def _cages(folder: str | None, owner: int | None = None) -> list[str]:
    """The groups in a folder whose maker does not live, or is the one that is known to be dead."""
    found: list[str] = []
    with contextlib.suppress(OSError):
        for entry in os.listdir(folder) if folder is not None else ():
            maker, dash, _ = entry.removeprefix(_PREFIX).partition("-")
            if entry.startswith(_PREFIX) and dash and maker.isdigit() and _is_dead(int(maker), owner):
                found.append(f"{folder}/{entry}")
    return found


def _is_dead(maker: int, owner: int | None) -> bool:
    return maker == owner if owner is not None else not os.path.exists(f"/proc/{maker}")


def _remove(path: str) -> None:
    """Remove a group, and those within it that a `leases` made which was killed in there."""
    with contextlib.suppress(OSError):
        os.rmdir(path)
        return
    for inner in _cages(path):
        _remove(inner)
    with contextlib.suppress(OSError):  # Somebody is still in it.
        os.rmdir(path)


def home() -> str | None:
    """The folder of the control group (version 2) that this process is in; None where we may not write."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            groups = file.read()
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            folder = folder_of(groups, file.read())
    except (OSError, ValueError):
        return None
    return folder if folder is not None and os.access(folder, os.W_OK | os.X_OK) else None


def folder_of(groups: str, mounts: str) -> str | None:
    """The folder of a control group of version 2; None where it is not to be seen.

    Args:
        groups: as of /proc/self/cgroup. Version 2 is the line of number 0.
        mounts: as of /proc/self/mountinfo, where optional fields end with a dash.
    """
    own = next((line[3:] for line in groups.splitlines() if line.startswith("0::/")), None)
    before = (line.partition(" - cgroup2 ")[::2] for line in mounts.splitlines())
    root, point = next((words.split()[3:5] for words, after in before if after), ("", ""))
    if own is None or not root or ".." in own:  # It begins so where a namespace does not show where we are.
        return None
    below = own if root == "/" else own.removeprefix(root)
    if root != "/" and (not own.startswith(root) or not f"{below}/".startswith("/")):
        return None
    return f"{_unescaped(point)}{below}".rstrip("/")


def _is_limited(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return not file.read().startswith(b"max")
    except OSError:  # This controller is not switched on for us.
        return False


def _unescaped(path: str) -> str:
    return path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def _write(path: str, data: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, data)
    finally:
        os.close(file)
