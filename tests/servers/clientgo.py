"""A contender on client-go, built from `tests/clientgo` like the servers: `python -m servers.clientgo`."""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from servers.build import Missing, build, built
from servers.table import Go, Wanted

SOURCES: Final = Path(__file__).parent.parent / "clientgo"


@dataclass(frozen=True)
class _Contender(Wanted):
    """Its recipe is its source, which lies elsewhere, and whose digest is its version."""

    @property
    def recipe(self) -> Path:
        return SOURCES


def _wanted() -> Wanted:
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(SOURCES.iterdir())))
    return _Contender("clientgo", digest.hexdigest()[:12], "elector", Go("."), image="", inside="")


def elector() -> Path:
    """The program, which is built first unless it is there.

    Raises:
        Missing: Go is not here, or cannot build it.
    """
    return built(_wanted()) or build(_wanted())


if __name__ == "__main__":
    try:
        print(f"servers: a contender on client-go: {elector()}", flush=True)
    except Missing as error:
        print(f"servers: {error}", file=sys.stderr, flush=True)
        sys.exit(1 if os.environ.get("CI") == "true" else 0)
