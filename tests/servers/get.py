"""Where a server for the tests is had: `python -m servers.get` (or `make servers`) gets all that they want.

Tried in this order: an address in the environment (LEASES_TEST_ETCD=etcd://…); a Docker engine with the
official image (`SERVERS=docker` insists on it); a program of the wanted version on PATH or in the cache;
else it is built. Tests themselves never build: they would wait for minutes inside a time limit of their own.
LEASES_VERSIONS=old asks for the oldest versions that we support.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from servers import containers
from servers.build import Missing, build, built, tool
from servers.table import SERVERS, TABLE, Versions, Wanted, variable, wanted

__all__ = ["Missing", "Program", "address", "java", "program", "versions"]


@dataclass(frozen=True)
class Program:
    """A server that can be started: its program (of ZooKeeper the folder of its jars) and its version.

    With an image it is in there, and runs in a container.
    """

    server: str
    version: str
    path: Path
    image: str | None = None


def versions() -> Versions:
    """Which column of the table is asked for: LEASES_VERSIONS, `new` unless it says `old`."""
    said = os.environ.get("LEASES_VERSIONS", "new")
    for column in TABLE:
        if column == said:
            return column
    raise ValueError(f"LEASES_VERSIONS is {said!r}; set it to new or old")


def address(server: str) -> str | None:
    """The leases URL of a server that somebody runs for the tests, if the environment names one."""
    return os.environ.get(variable(server)) or None


def lines(servers: Collection[str]) -> list[Wanted]:
    """What is wanted of these, the etcd that an API server of any version runs on, and etcd's own client."""
    asked = [wanted(server, versions()) for server in servers]
    beneath = [wanted("etcd")] if "kubernetes" in servers else []
    beneath += [wanted("etcdctl")] if "etcd" in servers else []
    return list({line.name: line for line in (*asked, *beneath)}.values())


def insists_on_docker() -> bool:
    """Whether nothing but containers will do: SERVERS=docker."""
    return os.environ.get("SERVERS") == "docker"


@functools.cache
def program(server: str, of: Versions | None = None) -> Program:
    """A program that is here already: in an image, in the cache or on PATH.

    Raises:
        Missing: it is not here; what gets it.
    """
    line = wanted(server, of or versions())
    if line.image and containers.has(line.image):
        return Program(server, line.version, Path(line.inside), line.image)
    if line.image and insists_on_docker():
        raise _no_image(line)
    path = built(line) or _on_path(line)
    if path is None:
        raise Missing(f"{line.name} is not here; run 'make servers', which gets it")
    return Program(server, line.version, path)


@functools.cache
def java() -> str:
    """The Java that runs ZooKeeper, the image's own where it runs in a container.

    Raises:
        Missing: there is none.
    """
    if program("zookeeper").image is not None:
        return "java"
    found = tool("java")
    if found is None:
        raise Missing(
            "ZooKeeper needs 'java', which is not here; install a JRE (on Debian: default-jre-headless)"
        )
    return found


def _on_path(line: Wanted) -> Path | None:
    """A program of exactly the wanted version; jars have no place on PATH."""
    found = tool(line.program)
    if found is None or not Path(found).is_file():
        return None
    try:
        told = subprocess.run([found, *line.asks], capture_output=True, text=True, timeout=20.0).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    return Path(found) if re.search(rf"\bv?{re.escape(line.version)}\b", told) else None


def _no_image(line: Wanted) -> Missing:
    return Missing(
        f"SERVERS=docker, but no engine answers that has or can pull {line.image}; "
        "run 'make test-docker', or unset SERVERS"
    )


def _get(line: Wanted) -> str:
    """Have one server here; a sentence about how."""
    if address(line.server) is not None:
        return f"the one that {variable(line.server)} names"
    if line.image and containers.has(line.image):
        return f"image {line.image}"
    if line.image and insists_on_docker():
        raise _no_image(line)
    path = built(line) or _on_path(line) or build(line)
    if line.server == "zookeeper":
        java()
    return str(path)


def main() -> int:
    """Get the servers named, or all; what cannot be had is said, and fails in CI or by --insist."""
    parser = argparse.ArgumentParser(prog="python -m servers.get", description="Get servers for the tests.")
    parser.add_argument("server", nargs="*", help=f"of {', '.join(SERVERS)}; all of them by default")
    parser.add_argument("--insist", action="store_true", help="fail if one cannot be had, as in CI")
    options = parser.parse_args()
    asked = options.server or SERVERS
    if unknown := set(asked) - set(SERVERS):
        parser.error(f"no such server: {', '.join(sorted(unknown))}")
    missing = 0
    for line in lines(asked):
        try:
            print(f"servers: {line.name}: {_get(line)}", flush=True)
        except Missing as error:
            missing += 1
            print(f"servers: {error}", file=sys.stderr, flush=True)
    return 1 if missing and (options.insist or os.environ.get("CI") == "true") else 0


if __name__ == "__main__":
    sys.exit(main())
