"""The shells for which there is completion: found here, or installed where the suite runs for CI.

`python -m shells` (part of `make servers`) has them here, if it may: in CI, as root, from Debian's packages.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Final

import pytest

from servers.build import tool

SHELLS: Final = ("bash", "zsh", "fish")


def shell(name: str) -> str:
    """The shell's program; a person who has it not skips the test, CI fails."""
    found = tool(name)
    if found is None:
        missing = f"{name} is not here; install it (Debian: {name})"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return found


def main() -> int:
    """Install what is missing, in CI; say what is."""
    missing = [name for name in SHELLS if tool(name) is None]
    apt = tool("apt-get")
    if missing and apt is not None and os.environ.get("CI") == "true" and os.geteuid() == 0:
        subprocess.run([apt, "-qq", "update"], check=False)
        subprocess.run([apt, "-qq", "-y", "install", *missing], check=False)
        missing = [name for name in SHELLS if tool(name) is None]
    for name in missing:
        print(f"shells: {name} is not here; its completion is not tested (Debian: {name})", file=sys.stderr)
    return 1 if missing and os.environ.get("CI") == "true" else 0


if __name__ == "__main__":
    sys.exit(main())
