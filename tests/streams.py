"""What a process writes, line by line, as it comes."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from typing import Any
from weakref import WeakKeyDictionary

from leases_command import PATIENCE

_unread: WeakKeyDictionary[subprocess.Popen[str], bytes] = WeakKeyDictionary()


def next_line(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line of its stdout, which is JSON. What is read so is not read by `communicate` any more."""
    assert process.stdout is not None
    end = time.monotonic() + PATIENCE
    data = _unread.get(process, b"")
    while b"\n" not in data:
        left = end - time.monotonic()
        assert left > 0 and select.select([process.stdout], [], [], left)[0], f"no line came after {data!r}"
        more = os.read(process.stdout.fileno(), 65536)
        assert more, f"it ended after {data!r}"
        data += more
    line, _, _unread[process] = data.partition(b"\n")
    told: dict[str, Any] = json.loads(line)
    return told


def until_event(process: subprocess.Popen[str], event: str, **facts: Any) -> dict[str, Any]:
    """The next line of its stdout with this event and these facts."""
    while True:
        line = next_line(process)
        if line["event"] == event and all(line[name] == fact for name, fact in facts.items()):
            return line
