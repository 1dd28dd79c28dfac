"""PostgreSQL for the tests: no store of locks, but what a lock guards. One server, without passwords.

It refuses to run as root, so where the tests are root it is somebody else, who can reach the program and owns
the data.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

import psycopg

from servers import get
from servers.build import tool
from servers.process import HOST, POLL_S, Node, Ports, Server, Unready
from servers.table import wanted

USER: Final = "leases"
NOBODY: Final = 65534
ENDS_S: Final = 5.0

_SETTINGS: Final = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "dynamic_shared_memory_type": "mmap",
    "shared_buffers": "16MB",
    "max_connections": "50",
    "fsync": "off",
    "autovacuum": "off",
    "jit": "off",
}


class PostgresServer(Server):
    """One PostgreSQL server."""

    @property
    def url(self) -> str:
        """As libpq reads it."""
        return _url(self.nodes[0])

    def close(self) -> None:
        """End it at once, but by its own hand: killed, it would leave shared memory behind."""
        for node in self.nodes:
            with contextlib.suppress(ProcessLookupError, ValueError):
                node.thaw()
                node.signal(signal.SIGQUIT)
            until = time.monotonic() + ENDS_S
            while node.running and time.monotonic() < until:
                time.sleep(POLL_S)
        super().close()


def start(folder: Path) -> PostgresServer:
    """Make a database, start its server on a port of its own, and wait until it takes clients.

    Raises:
        servers.get.Missing: there is no PostgreSQL here.
    """
    program = get.program("postgres")
    home = folder / "postgres-1"
    home.mkdir(parents=True)
    postgres, before = _reachable(program.path, folder), _as_somebody(home)
    environment = {"LC_ALL": "C", "LD_LIBRARY_PATH": _libraries(postgres)}
    made = subprocess.run(
        [*before, postgres.with_name("initdb"), "--pgdata=data", f"--username={USER}", "--auth=trust",
         "--encoding=UTF8", "--no-sync", "--no-instructions"],
        cwd=home, env=os.environ | environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    if made.returncode:
        raise Unready(f"initdb ended with exit code {made.returncode}.\n{made.stdout}{made.stderr}")
    ports = Ports("client")
    settings = [f"--{name}={value}" for name, value in (_SETTINGS | {"port": ports["client"]}).items()]
    command = [*before, str(postgres), "-D", "data", *settings]
    node = Node("postgres-1", command, folder=home, ports=ports, ready=_answers, environment=environment)
    return PostgresServer([node], program.version, folder).up()


def _url(node: Node) -> str:
    return f"postgresql://{USER}@{node.ports.at('client')}/postgres"


def _answers(node: Node) -> bool:
    try:
        psycopg.connect(_url(node), connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def _as_somebody(home: Path) -> list[str]:
    """What a command begins with so that it is not root's; the folder is then that user's."""
    if os.geteuid() != 0:
        return []
    setpriv = tool("setpriv")
    if setpriv is None:
        raise get.Missing("PostgreSQL must not be root's, and 'setpriv' is not here; install util-linux")
    home.parent.chmod(0o711)
    os.chown(home, NOBODY, NOBODY)
    return [setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]


def _reachable(program: Path, folder: Path) -> Path:
    """The program where whoever runs it can reach it: a cache of root's is closed to all others."""
    program = program.resolve()
    if os.geteuid() != 0 or all(parent.stat().st_mode & 0o001 for parent in program.parents):
        return program
    above = Path(wanted("postgres").beneath)
    whole = program.parents[len(above.parts)]
    copy = folder / "program"
    shutil.copytree(whole, copy, symlinks=True)
    copy.chmod(0o755)
    return copy / above / program.name


def _libraries(program: Path) -> str:
    """The libraries that came with it, if they came with it: the system's are found without."""
    whole = program.parents[min(len(Path(wanted("postgres").beneath).parts), len(program.parents) - 1)]
    return os.pathsep.join(str(path) for path in whole.glob("usr/lib/*-linux-gnu*") if whole != Path("/"))
