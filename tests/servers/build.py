"""Builds a server of the table into the cache, once: under a lock, into a new folder that is then renamed.

The modules and jars themselves stay where Go and Maven keep them, so nothing is fetched twice either.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Final

from servers.table import Debian, Go, Maven, Wanted

STAMP: Final = "recipe"
# Where the installers of these tools put them; an environment without PATH must not hide them.
USUAL: Final = (
    "/usr/local/go/bin",
    "/usr/lib/go/bin",
    "/usr/local/bin",
    "/usr/bin",
    "/bin",
    "/opt/homebrew/bin",
    "/usr/lib/postgresql/15/bin",  # where Debian keeps it, outside of every PATH
)


class Missing(Exception):
    """A server that cannot be had here; the message says what is missing and how to get it."""


def cache() -> Path:
    """$LEASES_SERVERS, or `leases/servers` in the user's cache folder."""
    if own := os.environ.get("LEASES_SERVERS"):
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else home() / ".cache") / "leases" / "servers"


def home() -> Path:
    """The user's folder, told by the system's list of users where the environment does not."""
    return Path("~").expanduser()


def tool(name: str) -> str | None:
    """A program on PATH or in the usual places."""
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(USUAL))


def stamp(wanted: Wanted) -> str:
    """What the server is built from, as a digest: the table's line, the recipe's files, the processor."""
    line = f"{wanted.name} {wanted.source} {platform.system()} {platform.machine()}"
    digest = hashlib.sha256(line.encode())
    for name in ("go.mod", "go.sum", "pom.xml"):
        path = wanted.recipe / name
        digest.update(path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()


def built(wanted: Wanted) -> Path | None:
    """The program in the cache, if it is there and built by today's recipe."""
    folder = cache() / wanted.name
    with contextlib.suppress(OSError):
        program = folder / wanted.beneath / wanted.program
        if (folder / STAMP).read_text() == stamp(wanted) and program.exists():
            return program
    return None


def build(wanted: Wanted) -> Path:
    """The program in the cache, built first unless it is there.

    Raises:
        Missing: a tool that builds it is not here, or failed.
    """
    cache().mkdir(parents=True, exist_ok=True)
    with _locked(cache() / f".{wanted.name}.lock"):
        if (there := built(wanted)) is not None:
            return there
        print(f"servers: building {wanted.name} (about {wanted.takes})", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix=f".{wanted.name}.", dir=cache()) as temporary:
            new = Path(temporary) / "new"
            new.mkdir()
            match wanted.source:
                case Go() as source:
                    _by_go(wanted, source, new)
                case Maven():
                    _by_maven(wanted, new)
                case Debian() as source:
                    _by_debian(wanted, source, new)
            (new / STAMP).write_text(stamp(wanted))
            folder = cache() / wanted.name
            shutil.rmtree(folder, ignore_errors=True)
            new.rename(folder)
        return folder / wanted.beneath / wanted.program


@contextlib.contextmanager
def _locked(path: Path) -> Generator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _by_go(wanted: Wanted, source: Go, folder: Path) -> None:
    go = _required("go", wanted, "golang-go", "Go 1.21 or newer, which fetches the Go it needs")
    linker = "-s -w" + (f" -X {source.sets}" if source.sets else "")
    command = [
        go,
        "build",
        "-trimpath",
        f"-ldflags={linker}",
        "-o",
        str(folder / wanted.program),
        source.package,
    ]
    # The recipe decides, not the settings of whoever builds it: a workspace, a vendor folder.
    environment = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false", "GOWORK": "off"}
    _run(command, wanted.name, cwd=wanted.recipe, environment=environment)


def _by_maven(wanted: Wanted, folder: Path) -> None:
    mvn = _required("mvn", wanted, "maven", "a JDK with Maven")
    pom = wanted.recipe / "pom.xml"
    lib = folder / wanted.program
    command = [mvn, "--quiet", "--batch-mode", "--file", str(pom), "dependency:copy-dependencies"]
    _run([*command, f"-DoutputDirectory={lib}", f"-DprojectBuildDirectory={folder}"], wanted.name, cwd=folder)


def _by_debian(wanted: Wanted, source: Debian, folder: Path) -> None:
    apt, dpkg = tool("apt-get"), tool("dpkg")
    if apt is None or dpkg is None:
        raise Missing(f"{wanted.name} is taken from Debian's packages; run this on Debian 12")
    with tempfile.TemporaryDirectory(prefix="leases-debian-") as temporary:
        if os.geteuid() == 0:  # otherwise apt asks a user of its own to write here, and complains
            _run([apt, "-qq", "update"], wanted.name, cwd=Path(temporary))
        _run([apt, "-qq", "download", *source.packages], wanted.name, cwd=Path(temporary))
        for package in Path(temporary).glob("*.deb"):
            _run([dpkg, "-x", str(package), "taken"], wanted.name, cwd=Path(temporary))
        (folder / source.into).mkdir(exist_ok=True)
        for pattern in source.files:
            for path in (Path(temporary) / "taken").glob(pattern):
                if not path.is_symlink():
                    shutil.copy2(path, folder / source.into)
        taken = Path(temporary) / "taken"
        for tree in (found for pattern in source.trees for found in taken.glob(pattern)):
            shutil.copytree(tree, folder / tree.relative_to(taken), symlinks=True)


def installed(name: str, *packages: str) -> str | None:
    """The tool; in CI it is installed from these packages if it can be, as all else is there."""
    apt = tool("apt-get")
    if tool(name) is None and apt is not None and os.environ.get("CI") == "true" and os.geteuid() == 0:
        cache().mkdir(parents=True, exist_ok=True)
        with _locked(cache() / ".packages.lock"):
            if tool(name) is None:
                what = f"Debian's {packages[0]}"
                _run([apt, "-qq", "update"], what, cwd=Path("/"))
                _run([apt, "-qq", "-y", "--no-install-recommends", "install", *packages], what, cwd=Path("/"))
    return tool(name)


def _required(name: str, wanted: Wanted, package: str, what: str) -> str:
    found = installed(name, package)
    if found is None:
        raise Missing(
            f"{wanted.name} is built by '{name}', which is not here; install {what} (Debian: {package})"
        )
    return found


def _run(
    command: Sequence[str], what: str, *, cwd: Path, environment: Mapping[str, str] | None = None
) -> None:
    nice = tool("nice")
    path = os.pathsep.join(filter(None, (os.environ.get("PATH"), *USUAL)))
    done = subprocess.run(
        [nice, *command] if nice else list(command),
        cwd=cwd,
        env=os.environ | {"HOME": str(home()), "PATH": path} | dict(environment or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode:
        told = "\n".join(done.stdout.splitlines()[-15:])
        raise Missing(f"{what} cannot be had: '{' '.join(command[:3])} …' failed with\n{told}")
