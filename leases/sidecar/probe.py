"""Whether this container's sidecar is well: `python -m leases.sidecar.probe [HOST:PORT]`; 0 if so, else 1.

It is the health check of an image, where there may be neither a shell nor curl. Without an address it asks
the elector that is process 1, or that process 1 was told to start, where that one was told to listen. A
container that runs another command has nothing to ask, and is well as long as it runs.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from leases.sidecar.port import PORT, Address, address

TIMEOUT_S: Final = 2.0
_FIRST: Final = Path("/proc/1/cmdline")
_EVERYWHERE: Final = ("", "0.0.0.0", "::")  # noqa: S104 # to be asked at, one has to be chosen


def main(words: Sequence[str]) -> int:
    """Ask; 0 if all is well. What is wrong is said on stdout, where an engine keeps it."""
    try:
        where = address(words[0]) if words else told_to_listen(_words_of_the_first())
    except argparse.ArgumentTypeError as error:
        print(error)
        return 1
    if where is None:
        print("no elector runs here; nothing to ask")
        return 0
    text, well = ask(where)
    print(text)
    return 0 if well else 1


def told_to_listen(words: Sequence[str]) -> Address | None:
    """Where an elector with this command line listens; None if it is no elector."""
    # Right behind the program: elsewhere it is the name of a lock, or a word of another command.
    program = next((place for place, word in enumerate(words) if Path(word).name == "leases"), len(words))
    if list(words[program + 1 : program + 2]) != ["elector"]:
        return None
    found = Address("localhost", PORT)
    options = list(words[program + 2 :])
    for option, following in zip(options, [*options[1:], ""], strict=True):
        name, equals, value = option.partition("=")
        if name in ("--http", "-http"):
            found = address(value if equals else following)
    return found


def ask(where: Address) -> tuple[str, bool]:
    """What the sidecar says of its health, and whether that is well."""
    host = "localhost" if where.host in _EVERYWHERE else where.host
    connection = http.client.HTTPConnection(host, where.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/healthz")
        response = connection.getresponse()
        reasons = json.loads(response.read(65536))["reasons"]
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
        return f"{host}:{where.port} gives no answer ({error}); see the container's log", False
    finally:
        connection.close()
    return "; ".join(map(str, reasons)) or "ok", response.status == 200


def _words_of_the_first() -> list[str]:
    try:
        return _FIRST.read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
