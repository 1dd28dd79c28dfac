"""Server processes for the tests: started on loopback with ports of their own, signalled, ended by pid.

A launcher (`servers/etcd.py`, `zookeeper.py`, `consul.py`, `kubernetes.py`) offers a function and a class:

    def start(folder: Path, *, nodes: int = 1, **options) -> EtcdServer   # options, as tls=, are its own
    class EtcdServer(Server): url: str                                    # a leases URL for all its nodes

It takes ports for all its nodes first, because members of a cluster are told of each other, then makes a
`Node` a process, and ends in `Server.up`, which starts the nodes together and waits until each is ready:

    program = get.program("etcd")           # .path, .version; raises get.Missing, which says what to do
    ports = Ports("client", "peer")
    node = Node("etcd-1", [str(program.path), f"--listen-client-urls=http://{ports.at('client')}", ...],
                folder=folder / "etcd-1", ports=ports, image=program.image,
                ready=answers)              # answers(node) -> bool
    return EtcdServer([node], program.version, folder).up()

`Server` is a context manager; `close` ends the processes and removes `folder`. Whatever way the tests end, by
SIGKILL too, `reaper.py` ends the processes that are left and removes their folders.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, Self

from servers.reaper import REAPER

HOST: Final = "127.0.0.1"
LOG_LINES: Final = 25
POLL_S: Final = 0.02


class Unready(Exception):
    """A server ended, or did not answer in time; the message carries the end of its log."""


class Ports(Mapping[str, int]):
    """Free ports on loopback, by what they are for, kept free for these uses until `close`.

    The kernel lets a server listen on a port that somebody else has bound but does not listen on, when both
    set SO_REUSEADDR, and it gives such a port to nobody who asks for any port. So a port stays ours while
    its server is down, and parallel runs cannot take it between the choice and the start.
    """

    def __init__(self, *uses: str) -> None:
        self._held = {use: _bound() for use in uses}
        self._numbers = {use: int(held.getsockname()[1]) for use, held in self._held.items()}

    def __getitem__(self, use: str) -> int:
        return self._numbers[use]

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def at(self, use: str) -> str:
        """`127.0.0.1:PORT`."""
        return f"{HOST}:{self[use]}"

    def close(self) -> None:
        for held in self._held.values():
            held.close()


def _bound() -> socket.socket:
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((HOST, 0))
    return held


class Running(Protocol):
    """A process that was started: one of the system's, or one in a container."""

    @property
    def pid(self) -> int: ...

    def code(self) -> int | None:
        """The exit code, negative for a signal; None while it is there."""
        ...

    def signal(self, number: int) -> None: ...

    def freeze(self) -> None:
        """Return when it stands still."""
        ...

    def thaw(self) -> None: ...

    def wait(self, limit_s: float) -> None:
        """Return when it has ended; TimeoutError."""
        ...


@contextlib.contextmanager
def frozen(nodes: Sequence[Node]) -> Generator[None]:
    """These processes stand still; they go on at the end, whichever of them stood."""
    try:
        for node in nodes:
            node.freeze()
        yield
    finally:
        for node in nodes:
            node.thaw()


class Node:
    """One server process: its command, its folder (current directory, data, `log`), its ports.

    Args:
        ready: asked again and again after the start; True or an answer that is not an OSError means ready.
        limit_s: how long a start may take until the node is ready, and a stop until the process is gone.
        environment: what is added to the environment of the tests.
        image: run the command in a container of this image; see `containers.py`.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        folder: Path,
        ports: Ports,
        ready: Callable[[Node], bool],
        environment: Mapping[str, str] | None = None,
        image: str | None = None,
        limit_s: float = 60.0,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.folder = folder
        self.ports = ports
        self.environment = dict(environment or {})
        self.limit_s = limit_s
        self._ready = ready
        self.image = image
        self._process: Running | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def __repr__(self) -> str:
        return f"<{self.name} {dict(self.ports)} {'pid ' + str(self.pid) if self.running else 'down'}>"

    @property
    def pid(self) -> int:
        """The process id; ValueError while there is no process."""
        return self._process_there().pid

    @property
    def running(self) -> bool:
        """Whether the process is there, frozen or not."""
        if self._process is None:
            return False
        if self._process.code() is not None:
            REAPER.forget(self._process.pid)
            return False
        return True

    def start(self, *, wait: bool = True) -> Self:
        """Start the process, on the data that an earlier one left, and wait until it is ready."""
        if self.running:
            raise ValueError(f"{self.name} is running already; stop() or kill() it first")
        if self.image is None:
            self._process = _Process(self.command, self.folder, self.environment)
        else:
            from servers.containers import Container

            self._process = Container(self.image, self.command, self.folder, self.environment)
        REAPER.watch(self._process.pid)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, limit_s: float | None = None) -> None:
        """Return when `ready` says so.

        Raises:
            Unready: the process ended, or `limit_s` went by; with the end of the log.
        """
        limit_s = self.limit_s if limit_s is None else limit_s
        until = time.monotonic() + limit_s
        said = "it said no"
        while time.monotonic() < until:
            if not self.running:
                raise Unready(f"{self.name} ended at once, with {self._code()}.\n{self._told()}")
            try:
                if self._ready(self):
                    return
            except OSError as error:
                said = f"{type(error).__name__}: {error}"
            time.sleep(POLL_S)
        raise Unready(f"{self.name} was not ready after {limit_s:g} s ({said}).\n{self._told()}")

    def stop(self) -> None:
        """End the process by SIGTERM, and by SIGKILL when it does not end; nothing if it is down."""
        if self.running:
            self.thaw()
            self.signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                self._process_there().wait(min(self.limit_s, 10.0))
        self.kill()

    def kill(self) -> None:
        """End the process by SIGKILL, frozen or not; nothing if it is down."""
        if self._process is None:
            return
        if self.running:
            self.signal(signal.SIGKILL)
        self._process.wait(self.limit_s)
        REAPER.forget(self._process.pid)
        self._process = None

    def freeze(self) -> None:
        """Stop the process where it stands (SIGSTOP); its connections stay open and silent."""
        self._process_there().freeze()

    def thaw(self) -> None:
        """Let a frozen process go on (SIGCONT)."""
        self._process_there().thaw()

    def restart(self) -> None:
        """Stop, start and wait until ready, on the same data and ports."""
        self.stop()
        self.start()

    def signal(self, number: int) -> None:
        """Send the process a signal."""
        self._process_there().signal(number)

    def log(self) -> str:
        """What the process has written, on both outputs and over all its starts."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def close(self) -> None:
        """Stop the process and give the ports back."""
        self.stop()
        self.ports.close()

    def _process_there(self) -> Running:
        if self._process is None:
            raise ValueError(f"{self.name} is not running; start() it first")
        return self._process

    def _code(self) -> str:
        code = self._process.code() if self._process is not None else None
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"

    def _told(self) -> str:
        tail = "\n".join(self.log().splitlines()[-LOG_LINES:])
        return f"Its log ends:\n{tail}" if tail else f"It wrote no log; it was started as {self.command}."


class _Process:
    """A process of the system, which writes its output to `log` in its folder."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        with (folder / "log").open("ab") as log:
            self._popen = subprocess.Popen(
                list(command),
                cwd=folder,
                env=os.environ | dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C ends the tests, and they end their servers
            )
        self.pid = self._popen.pid

    def code(self) -> int | None:
        return self._popen.poll()

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)
        # Stopped is what it is when the kernel says so, not when the signal has been sent.
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def wait(self, limit_s: float) -> None:
        try:
            self._popen.wait(limit_s)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"process {self.pid} is still there after {limit_s:g} s") from error


class Server:
    """One server or a cluster of them, and the folder that goes with it; launchers add `url` and more."""

    def __init__(self, nodes: Sequence[Node], version: str, folder: Path) -> None:
        self.nodes = list(nodes)
        self.version = version
        self.folder = folder
        REAPER.remove_at_end(folder)

    def up(self) -> Self:
        """Start all nodes at once and wait for each; if one fails, all are ended again."""
        try:
            for node in self.nodes:
                node.start(wait=False)
            for node in self.nodes:
                node.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """End all processes and remove the folder."""
        # Killed, not stopped: their data goes with them, and members that say goodbye wait for each other.
        for node in self.nodes:
            node.kill()
            node.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        REAPER.removed(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def listening(host: str, port: int) -> bool:
    """Whether somebody accepts connections there: the weakest form of ready."""
    with contextlib.closing(socket.create_connection((host, port), timeout=1.0)):
        return True
