"""Starts clients in processes of their own, and talks with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from select import select
from types import TracebackType
from typing import Any

PATIENCE = 30.0  # seconds after which a client has hung


class Remote:
    """A client process, see `client.py`: calling it gives an order, `hear` is what it tells next.

    Args:
        url, name: where it is to connect, and what it is called.
        program: another program of this folder that talks in the same way.
        words: more arguments of its.
    """

    def __init__(self, url: str, name: str, *words: str, program: str = "client.py") -> None:
        self.name = name
        self._heard = b""
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", str(Path(__file__).with_name(program)), url, name, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def order(self, do: str, **how: object) -> None:
        """Tell it to do something, and do not wait."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **how}).encode() + b"\n")

    def __call__(self, do: str, **how: object) -> dict[str, Any]:
        """Tell it to do something, and hear what it tells next."""
        self.order(do, **how)
        return self.hear()

    def hear(self, timeout: float = PATIENCE) -> dict[str, Any]:
        """What it tells next."""
        assert self._process.stdout is not None
        until = time.monotonic() + timeout
        while b"\n" not in self._heard:
            ready = select([self._process.stdout], [], [], max(until - time.monotonic(), 0.0))[0]
            heard = os.read(self._process.stdout.fileno(), 65536) if ready else b""
            assert heard, f"{self.name} ended or hung before it told the next thing"
            self._heard += heard
        line, _, self._heard = self._heard.partition(b"\n")
        told: dict[str, Any] = json.loads(line)
        assert "failed" not in told, f"{self.name}: {told['failed']}"
        return told

    def kill(self) -> None:
        """End it without a word."""
        self._process.kill()
        self._process.wait(PATIENCE)

    def close(self) -> None:
        """End it whatever it does."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Remote:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
