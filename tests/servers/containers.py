"""A server's process in a container of its official image, started through testcontainers.

The container shares the host's network and the tests' temporary folders, under the same names and as the same
user, so a launcher's command is the same as for a process: clusters, certificates and signals work alike.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

SOCKET: Final = "/var/run/docker.sock"
ANSWER_S: Final = 60.0
POLL_S: Final = 0.02


class Container:
    """A running container; `log` in its folder gets what it wrote when it has ended."""

    def __init__(
        self, image: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> None:
        from testcontainers.core.container import DockerContainer

        program, *arguments = command
        made: Any = DockerContainer(image).with_envs(**environment).with_command(arguments)
        for shared in {str(folder), tempfile.gettempdir()}:
            made.with_volume_mapping(shared, shared, "rw")
        made.with_kwargs(
            entrypoint=[program],
            network_mode="host",
            working_dir=str(folder),
            user=f"{os.getuid()}:{os.getgid()}",
        )
        self._log = folder / "log"
        self._made: Any = made.start()
        self._inside: Any = made.get_wrapped_container()
        self._inside.reload()
        self.pid = int(self._inside.attrs["State"]["Pid"])
        self._code: int | None = None

    def code(self) -> int | None:
        if self._code is None:
            self._inside.reload()
            state = self._inside.attrs["State"]
            if state["Status"] in ("exited", "dead"):
                self._code = int(state["ExitCode"])
                with self._log.open("ab") as log:
                    log.write(self._inside.logs())
                self._made.stop()
        return self._code

    def signal(self, number: int) -> None:
        self._inside.kill(signal=int(number))

    def freeze(self) -> None:
        self._inside.pause()

    def thaw(self) -> None:
        self._inside.reload()
        if self._inside.status == "paused":
            self._inside.unpause()

    def wait(self, limit_s: float) -> None:
        until = time.monotonic() + limit_s
        while self.code() is None:
            if time.monotonic() > until:
                raise TimeoutError(f"the container is still there after {limit_s:g} s")
            time.sleep(POLL_S)


@functools.cache
def engine() -> Any:
    """A client of the Docker engine, or None where none answers, or none whose host is this one."""
    if sys.platform != "linux" or not listens(os.environ.get("DOCKER_HOST") or f"unix://{SOCKET}"):
        return None
    import docker
    import docker.errors

    try:
        client: Any = docker.from_env(timeout=int(ANSWER_S))
    except (docker.errors.DockerException, OSError):
        return None
    _without_its_own_reaper(client)
    return client


def listens(host: str) -> bool:
    """Whether anybody accepts connections at an engine's address.

    Asked first, because a client that fails leaves its socket open, which in tests is an error.
    """
    parts = urlsplit(host)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as local, contextlib.suppress(OSError, ValueError):
        match parts.scheme:
            case "unix":
                local.connect(parts.path)
            case "tcp":
                socket.create_connection((parts.hostname or "", parts.port or 2375), timeout=5.0).close()
            case _:
                pass
        return True
    return False


@functools.cache
def has(image: str) -> bool:
    """Whether the engine has the image, or could pull it just now."""
    import docker.errors

    client = engine()
    if client is None:
        return False
    try:
        client.images.get(image)
    except docker.errors.ImageNotFound:
        try:
            client.images.pull(image)
        except (docker.errors.DockerException, OSError):
            return False
    return True


def _without_its_own_reaper(client: Any) -> None:
    """Where its image is not there, our own ends containers that are left behind, by their pids."""
    import docker.errors
    from testcontainers.core.config import testcontainers_config

    try:
        client.images.get(testcontainers_config.ryuk_image)
    except docker.errors.DockerException:
        testcontainers_config.ryuk_disabled = True
