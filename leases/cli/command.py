"""The command: found before anything else is done, forked before its lease is there, let go with it.

Its process waits, as a process group of its own, until it is told the token; then it becomes the command.
So whoever has to kill the group knows it before there is anything to kill. It is the guardian's child
(`leases.cli.guarding`), which has no threads, and so can fork another after a loss. If the guardian dies, the
kernel kills it; and if nobody tells it anything any more, it ends without having begun.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Mapping
from typing import Final, NamedTuple, NoReturn

from leases.cli import exits
from leases.cli.cgroup import Cage, make_cage
from leases.cli.prctl import die_with_parent
from leases.cli.tree import signal_group

_WHOLE: Final = b"\0."  # ends the order, because a pipe ends too when its writer dies in the midst of it
SHELL: Final = "/bin/sh"
_COERCED: Final = (b"C.UTF-8", b"C.utf8", b"UTF-8")


class CannotRun(Exception):
    """The command cannot be run.

    Attributes:
        code: the exit code by which shells tell that.
    """

    def __init__(self, text: str, code: int) -> None:
        self.code = code
        super().__init__(text)


def cannot_run(number: int) -> CannotRun:
    """The error that says why the system refused: this errno."""
    if number in (errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        text = f"the system has no process or descriptor left: {os.strerror(number)}; look at: ulimit -a"
        return CannotRun(text, exits.CANNOT_RUN)
    code = exits.NOT_FOUND if number == errno.ENOENT else exits.CANNOT_RUN
    return CannotRun(f"the command cannot be run: {os.strerror(number)}; look at its file", code)


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


class Recipe(NamedTuple):
    """What a command is made of.

    Attributes:
        path: its file.
        words: its name, and its arguments.
        stdin: whether it reads what we would read; otherwise nothing.
    """

    path: str
    words: list[str]
    stdin: bool


class Inheritance(NamedTuple):
    """What its parent has changed for itself, and a command must find as it was.

    Attributes:
        mask: the signals that were blocked.
        oom: the score by which the kernel chooses whom to kill without memory; None if it was not changed.
    """

    mask: set[int]
    oom: bytes | None


class Command:
    """A process that waits to become the command, and the group that it leads.

    Args:
        recipe: what it becomes.
        inheritance: what it must find as it was.

    Attributes:
        group: the process group, which is the id of its leader too.
        status: what the leader ended with, as `os.waitpid` tells it; None before.

    Raises:
        OSError: the system has no process or descriptor left.
    """

    def __init__(self, recipe: Recipe, inheritance: Inheritance) -> None:
        order, self._order = os.pipe()
        self._report, report = os.pipe()
        self._cage = make_cage()
        self.status: int | None = None
        parent = os.getpid()
        try:
            self.group = os.fork()
            if self.group == 0:
                ends = _Ends(order, report, (self._order, self._report))
                _stand_by(recipe, inheritance, parent, self._cage, ends)
        except OSError:
            self.close()
            raise
        finally:
            os.close(order)
            os.close(report)
        with contextlib.suppress(OSError):  # Whoever of the two comes first.
            os.setpgid(self.group, self.group)

    def go(self, variables: bytes) -> None:
        """Become the command, with these environment variables (see `packed`) besides the inherited ones."""
        with contextlib.suppress(BrokenPipeError):  # Somebody killed it; its status tells.
            os.write(self._order, variables + _WHOLE)
        os.close(self._order)
        self._order = -1

    def failure(self) -> int:
        """The errno for which it never became the command, once its leader has ended; 0 if it did."""
        report = os.read(self._report, 32)
        return int(report) if report else 0

    def signal(self, number: int) -> None:
        """Send a signal to the whole group, which its leader, not yet reaped, keeps from being another's."""
        signal_group(self.group, number)

    def kill_caged(self) -> None:
        """Kill all who are in the control group, if there is one."""
        if self._cage is not None:
            self._cage.kill()

    def close(self) -> None:
        """Let go of everything, when nobody of it lives."""
        for end in (self._order, self._report):
            if end >= 0:
                os.close(end)
        if self._cage is not None:
            self._cage.remove()


def packed(variables: Mapping[str, str]) -> bytes:
    """Environment variables as they are passed to the process that waits."""
    return b"\0".join(os.fsencode(f"{key}={value}") for key, value in variables.items())


class _Ends(NamedTuple):
    """The pipes of a process that waits: its own ends, and those of its parent."""

    order: int
    report: int
    others: tuple[int, int]


def _stand_by(
    recipe: Recipe, inheritance: Inheritance, parent: int, cage: Cage | None, ends: _Ends
) -> NoReturn:
    """In the fork: wait for the order and become the command, or end."""
    try:
        os.setpgid(0, 0)
        die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:  # It was quicker.
            os._exit(exits.CANNOT_RUN)
        for descriptor in ends.others:
            os.close(descriptor)
        _restore(inheritance)
        if cage is not None:
            cage.enter()
        if not recipe.stdin:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        with open(ends.order, "rb") as file:
            text = file.read()
        if text.endswith(_WHOLE):
            entries = (entry.partition(b"=") for entry in text[: -len(_WHOLE)].split(b"\0"))
            _become(recipe, _inherited() | {key: value for key, _, value in entries})
    except OSError as error:
        with contextlib.suppress(OSError):
            os.write(ends.report, str(error.errno or 0).encode())
    finally:
        os._exit(exits.CANNOT_RUN)


def _restore(inheritance: Inheritance) -> None:
    """Undo what Python did at its start and the guardian for itself; a command has no use for it."""
    if inheritance.oom is not None:
        with open("/proc/self/oom_score_adj", "wb") as file:
            file.write(inheritance.oom)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, inheritance.mask)


def _inherited() -> dict[bytes, bytes]:
    """Our environment, without the locale that Python sets for itself where it finds none (PEP 538).

    A command that is started by cron would sort and count by other rules than it does there without us.
    """
    found = dict(os.environb)
    if found.get(b"LC_CTYPE") in _COERCED:
        with contextlib.suppress(OSError), open("/proc/self/environ", "rb") as file:
            first = file.read().split(b"\0")
            given = [entry[9:] for entry in first if entry.startswith(b"LC_CTYPE=")]
            if given:
                found[b"LC_CTYPE"] = given[0]
            else:
                del found[b"LC_CTYPE"]
    return found


def _become(recipe: Recipe, environment: Mapping[bytes, bytes]) -> NoReturn:
    try:
        os.execve(recipe.path, recipe.words, environment)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        os.execve(SHELL, ["sh", recipe.path, *recipe.words[1:]], environment)  # Without a first line.
