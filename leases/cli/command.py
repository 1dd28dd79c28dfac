"""The command: found before anything else is done, forked before there are threads, let go with the lease.

Its process waits, as a process group of its own, until it is told the token; then it becomes the command.
So whoever has to kill the group knows it before there is anything to kill, and no code runs in a fork
of a process with threads. If the process that holds the lease dies, it ends without having begun.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Mapping
from typing import Final, NoReturn

from leases.cli import exits

_WHOLE: Final = b"\0."  # ends the order, because a pipe ends too when its writer dies in the midst of it
SHELL: Final = "/bin/sh"


class CannotRun(Exception):
    """The command cannot be run.

    Attributes:
        code: the exit code by which shells tell that.
    """

    def __init__(self, text: str, code: int) -> None:
        self.code = code
        super().__init__(text)


def find(file: str) -> str:
    """The path of a command, by the rules of execvp.

    Raises:
        CannotRun: there is none, or none that can be executed.
    """
    if not file:
        raise CannotRun('the command is empty; write one after "--"', exits.NOT_FOUND)
    paths = [file] if "/" in file else [os.path.join(folder, file) for folder in os.get_exec_path()]
    found = [path for path in paths if os.path.exists(path)]
    for path in found:
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    if found:
        raise CannotRun(f'"{found[0]}" is not executable; look at its permissions', exits.CANNOT_RUN)
    where = "" if "/" in file else " in $PATH"
    raise CannotRun(f'"{file}" was not found{where}; check its name, or give its path', exits.NOT_FOUND)


class Command:
    """A process that waits to become the command, and the group that it leads.

    Args:
        words: the command and its arguments.
        stdin: whether it reads what we would read; otherwise nothing.

    Attributes:
        group: the process group, which is the id of its leader too.
        status: what the leader ended with, as `os.waitpid` tells it; None before.

    Raises:
        CannotRun: there is no such command.
    """

    def __init__(self, words: list[str], *, stdin: bool = True) -> None:
        path = find(words[0])
        order, self._order = os.pipe()
        self._report, report = os.pipe()
        self.status: int | None = None
        self.group = os.fork()
        if self.group == 0:
            _stand_by(path, words, stdin, order, report, (self._order, self._report))
        os.close(order)
        os.close(report)
        with contextlib.suppress(OSError):  # Whoever of the two comes first.
            os.setpgid(self.group, self.group)

    def go(self, variables: Mapping[str, str]) -> None:
        """Become the command, with these environment variables besides the inherited ones."""
        order = b"\0".join(os.fsencode(f"{key}={value}") for key, value in variables.items())
        with contextlib.suppress(BrokenPipeError):  # Somebody killed it; its status tells.
            os.write(self._order, order + _WHOLE)
        os.close(self._order)

    def failure(self) -> CannotRun | None:
        """Why it never became the command, once its leader has ended; None if it did."""
        report = os.read(self._report, 32)
        if not report:
            return None
        number = int(report)
        code = exits.NOT_FOUND if number == errno.ENOENT else exits.CANNOT_RUN
        return CannotRun(f"the command cannot be run: {os.strerror(number)}; look at its file", code)

    @property
    def code(self) -> int:
        """The exit code of the leader that has ended: its own, or 128 and the number of the signal."""
        assert self.status is not None
        code = os.waitstatus_to_exitcode(self.status)
        return code if code >= 0 else exits.SIGNALLED - code

    @property
    def killed(self) -> bool:
        """Whether a signal ended the leader."""
        return self.status is not None and os.WIFSIGNALED(self.status)

    def dismiss(self) -> None:
        """End it, if it has not ended: it is not wanted, or nobody could look after it any more."""
        if self.status is None:
            self.signal(signal.SIGKILL)
            _, self.status = os.waitpid(self.group, 0)

    def signal(self, number: int) -> None:
        """Send a signal to the whole group."""
        signal_group(self.group, number)

    def gone(self, *, closely: bool = False) -> bool:
        """Whether nobody of the group lives; asked when its leader has ended. See `group_is_gone`."""
        return group_is_gone(self.group, closely=closely)


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
    return closely and _only_zombies(group)


def _only_zombies(group: int) -> bool:
    """Whether all of a group are zombies, which may stay for long where the first process reaps nobody."""
    try:
        members = [_state(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    except OSError:
        return False  # This system does not tell.
    return all(state in "ZX" for state, of in members if of == group)


def _state(process: str) -> tuple[str, int]:
    """The state of a process and its group; of one that has gone, nothing."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return fields[0].decode(), int(fields[2])
    except (OSError, IndexError, ValueError):
        return "", 0


def _stand_by(
    path: str, words: list[str], stdin: bool, order: int, report: int, others: tuple[int, ...]
) -> NoReturn:
    """In the fork: wait for the order and become the command, or end."""
    try:
        os.setpgid(0, 0)
        for descriptor in others:
            os.close(descriptor)
        _default_signals()
        if not stdin:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        with open(order, "rb") as file:
            text = file.read()
        if text.endswith(_WHOLE):
            entries = (entry.partition(b"=") for entry in text[: -len(_WHOLE)].split(b"\0"))
            _become(path, words, os.environb | {key: value for key, _, value in entries})
    except OSError as error:
        with contextlib.suppress(OSError):
            os.write(report, str(error.errno or 0).encode())
    finally:
        os._exit(exits.CANNOT_RUN)


def _default_signals() -> None:
    """Undo what Python did at its start; a command has no use for it, nor a handler to inherit."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _become(path: str, words: list[str], environment: Mapping[bytes, bytes]) -> NoReturn:
    try:
        os.execve(path, words, environment)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        os.execve(SHELL, ["sh", path, *words[1:]], environment)  # A script without a first line.
