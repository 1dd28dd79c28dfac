"""The processes of a command: all that descend from it, whatever group or session they went to.

Whoever looks after a command adopts the orphans among its descendants (`leases.cli.prctl`), so that no
process of it is ever anywhere but below. Numbers of processes are used again: a signal goes to a process that
still is the one that was seen.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import NamedTuple

_PROC = "/proc"


class Member(NamedTuple):
    """A process as it was seen.

    Attributes:
        pid: its number.
        parent: that of its parent.
        group: that of its process group.
        state: one letter, as in ps; Z for one that has ended and was not reaped.
        start: when it began, in ticks since boot: with the number it is that process and no other.
    """

    pid: int
    parent: int
    group: int
    state: str
    start: int

    @property
    def alive(self) -> bool:
        """Whether anything of it runs, or could."""
        return self.state not in ("Z", "X")


def shown() -> bool:
    """Whether /proc is there and numbers processes as we do; not where it is that of another namespace."""
    try:
        return os.readlink(f"{_PROC}/self") == str(os.getpid())
    except OSError:
        return False


def look(pid: int) -> Member | None:
    """A process as it is now; None where there is none, or the system does not tell."""
    try:
        with open(f"{_PROC}/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return Member(pid, int(fields[1]), int(fields[2]), fields[0].decode(), int(fields[19]))
    except (OSError, IndexError, ValueError):
        return None


def members(root: int) -> list[Member]:
    """The descendants of a process, parents first, zombies too; without itself."""
    children = _children if os.path.exists(f"{_PROC}/self/task/{os.getpid()}/children") else _Table().children
    found: list[Member] = []
    seen, parents = {root}, [root]
    while parents:
        fresh = [pid for parent in parents for pid in children(parent) if pid not in seen]
        seen.update(fresh)
        kin = [member for member in map(look, fresh) if member is not None]
        found += kin
        parents = [member.pid for member in kin]
    return found


def send(member: Member, number: int) -> None:
    """Send a signal to a process, if it still is that one. Those of other users may not get it."""
    with contextlib.suppress(OSError):
        try:
            process = os.pidfd_open(member.pid)
        except ProcessLookupError:
            return
        except (AttributeError, OSError):  # Before Linux 5.3, or forbidden as in some sandboxes.
            if _same(member):
                os.kill(member.pid, number)
            return
        try:
            if _same(member):
                signal.pidfd_send_signal(process, number)
        finally:
            os.close(process)


def send_all(root: int, group: int, number: int, *, strays_only: bool = False) -> bool:
    """Send a signal to all that descend from a process; whether there was anybody alive.

    Args:
        root: the process; itself it gets nothing.
        group: the process group that is signalled as one, which nobody leaves by a fork.
        number: the signal.
        strays_only: leave out that group.
    """
    living = [member for member in members(root) if member.alive]
    if not strays_only and any(member.group == group for member in living):
        signal_group(group, number)
    for member in living:
        if member.group != group:
            send(member, number)
    return bool(living)


def signal_group(group: int, number: int) -> None:
    """Send a signal to a process group. Members that belong to other users may not get it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def group_is_gone(group: int, *, closely: bool) -> bool:
    """Whether nobody of a process group lives.

    Args:
        group: the process group.
        closely: look at every process of the host, to tell zombies from the living. They stay for long where
            the first process of a container reaps nobody, and nothing of them runs any more.
    """
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # All who are left belong to other users.
        pass
    if not closely:
        return False
    everybody = _everybody()
    return bool(everybody) and not any(member.alive for member in everybody if member.group == group)


def _same(member: Member) -> bool:
    now = look(member.pid)
    return now is not None and now.start == member.start


def _children(parent: int) -> list[int]:
    """The children of all threads of a process."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"{_PROC}/{parent}/task"):
            with contextlib.suppress(OSError), open(f"{_PROC}/{parent}/task/{task}/children", "rb") as file:
                found += map(int, file.read().split())
    return found


def _everybody() -> list[Member]:
    try:
        numbers = [int(entry) for entry in os.listdir(_PROC) if entry.isdigit()] if shown() else []
    except OSError:  # This system does not tell.
        return []
    return [member for member in map(look, numbers) if member is not None]


class _Table:
    """Who is whose child, for a kernel that was built without lists of children: one look at everybody."""

    def __init__(self) -> None:
        self._of: dict[int, list[int]] = {}
        for member in _everybody():
            self._of.setdefault(member.parent, []).append(member.pid)

    def children(self, parent: int) -> list[int]:
        return self._of.get(parent, [])
