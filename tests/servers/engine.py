"""Runs a command against servers in containers: `python -m servers.engine -- COMMAND` or `make test-docker`.

Where no Docker engine answers, one is started for the command's time, which takes root on Linux. Where an
official image cannot be pulled, what was built here is imported under its name, and the same tests take the
same way through the engine.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from servers import containers, get
from servers.build import Missing, build, tool
from servers.reaper import REAPER
from servers.table import SERVERS, Wanted

ANSWERS_S: Final = 60.0
ENDS_S: Final = 60.0
# Of a Java: what compiles, what is linked into others, and the sources.
NOT_RUN: Final = re.compile(r"/(jmods|include|man|demo|src\.zip)(/|$)|/lib/(ct\.sym|src\.zip)$")


def main() -> int:
    """Have an engine and its images, then run the command; its exit code."""
    command = sys.argv[2:] if sys.argv[1:2] == ["--"] else []
    if not command:
        print("usage: python -m servers.engine -- COMMAND...", file=sys.stderr)
        return 2
    try:
        with an_engine() as host:
            os.environ |= {"DOCKER_HOST": host, "SERVERS": "docker"}
            for line in get.lines(SERVERS):
                if line.image:
                    _have(line)
            return subprocess.run(command).returncode
    except Missing as missing:
        print(f"servers: {missing}", file=sys.stderr)
        return 1


# An engine for those who only build, and share the host's network: the host's own is left as it is.
WITHOUT_NETWORK: Final = ("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-masq=false")


@contextlib.contextmanager
def an_engine(options: Sequence[str] = (), *, install: bool = True) -> Generator[str]:
    """The address of an engine: the one that answers, or one of our own, with these options.

    By default it makes a bridge, as on any host, and takes the storage that the file system below allows.

    Args:
        install: get the engine's program first, where it is not here.

    Raises:
        Missing: none answers, and none can be started.
    """
    if containers.engine() is not None:
        yield os.environ.get("DOCKER_HOST") or f"unix://{containers.SOCKET}"
        return
    containers.engine.cache_clear()
    dockerd = _dockerd(install=install)
    with tempfile.TemporaryDirectory(prefix="leases-docker-", ignore_cleanup_errors=True) as folder:
        host = f"unix://{folder}/socket"
        places = [f"--data-root={folder}/data", f"--exec-root={folder}/run", f"--pidfile={folder}/pid"]
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(
                [dockerd, *options, f"--host={host}", *places],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        REAPER.watch(process.pid)
        try:
            _answers(process, host, Path(folder) / "log")
            yield host
        finally:
            process.terminate()
            process.wait(ENDS_S)
            REAPER.forget(process.pid)
            _unmount(folder)


def _dockerd(*, install: bool) -> str:
    """The engine's program, installed first where it can be."""
    found, apt = tool("dockerd"), tool("apt-get")
    if os.geteuid() != 0 or not sys.platform.startswith("linux"):
        raise Missing(
            "no Docker engine answers; start one, or run this as root on Linux, which starts its own"
        )
    if install and found is None and apt is not None:
        subprocess.run([apt, "-qq", "update"], check=False)
        subprocess.run([apt, "-qq", "-y", "install", "docker.io", "iptables"], check=False)
        found = tool("dockerd")
    if found is None:
        raise Missing("no Docker engine is here; install one (Debian: docker.io and iptables)")
    return found


def _unmount(folder: str) -> None:
    """Take down what the engine leaves mounted: the host's network, which containers were started in."""
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for place in mounted:
        if place.startswith(f"{folder}/"):
            subprocess.run([tool("umount") or "umount", place], check=False)


def _answers(process: subprocess.Popen[bytes], host: str, log: Path) -> None:
    until = time.monotonic() + ANSWERS_S
    while time.monotonic() < until and process.poll() is None:
        if containers.listens(host):
            return
        time.sleep(0.1)
    told = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
    raise Missing(f"dockerd does not answer; it said\n{told}")


def _have(line: Wanted) -> None:
    """The image is there, is pulled, or is imported."""
    if containers.has(line.image):
        print(f"servers: {line.image}: official", flush=True)
        return
    content = _jars(line) if line.server == "zookeeper" else _program(line)
    name, _, tag = line.image.rpartition(":")
    api: Any = containers.engine().api
    api.import_image_from_data(content, repository=name, tag=tag, changes=[f"ENV PATH={_PATH}"])
    containers.has.cache_clear()
    print(f"servers: {line.image}: imported, {len(content) / 1e6:.0f} MB", flush=True)


_PATH: Final = "/usr/local/bin:/usr/bin:/bin"


def _program(line: Wanted) -> bytes:
    """An image with a static program and a place for temporary files."""
    return tar_of({line.inside: build(line)})


def _jars(line: Wanted) -> bytes:
    """An image with jars, and with this system's Java and the libraries that it is linked to."""
    java = Path(tool("java") or _no_java()).resolve()
    at_home = java.parent.parent
    files = {f"{line.inside}/{jar.name}": jar for jar in build(line).glob("*.jar")}
    files |= {
        str(path): path for path in at_home.rglob("*") if path.is_file() and not NOT_RUN.search(str(path))
    }
    linked = [java, *at_home.rglob("*.so")]
    told = subprocess.run(["ldd", *map(str, linked)], capture_output=True, text=True).stdout
    libraries = map(os.path.normpath, re.findall(r"(?:=> |^\s)(/\S+) \(0x", told, re.MULTILINE))
    files |= {name: Path(name) for name in libraries}
    return tar_of(files, {"/usr/bin/java": str(java)})


def _no_java() -> str:
    raise Missing("the image of ZooKeeper needs 'java', which is not here (Debian: default-jre-headless)")


def tar_of(files: Mapping[str, Path], links: Mapping[str, str] | None = None) -> bytes:
    """A whole file system, of these files under these names."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", dereference=True) as tar:
        place = tarfile.TarInfo("tmp")
        place.type, place.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(place)
        for name, path in sorted(files.items()):
            tar.add(path, name.lstrip("/"))
        for name, target in (links or {}).items():
            link = tarfile.TarInfo(name.lstrip("/"))
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
    return content.getvalue()


if __name__ == "__main__":
    sys.exit(main())
