"""A stand-in for your application in any language: it asks its sidecar before it does a leader's work."""

from __future__ import annotations

import http.server
import json
import os
import signal
import sys
import urllib.request
from typing import Any

ELECTOR = os.environ.get("ELECTOR", "http://localhost:4040")
DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy there is


def leader() -> dict[str, Any]:
    """What the sidecar says. Who gets no answer does not lead."""
    try:
        with DIRECTLY.open(f"{ELECTOR}/", timeout=2) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except (OSError, ValueError):
        return {"name": "", "is_leader": False, "token": None}


class Handler(http.server.BaseHTTPRequestHandler):
    """`/ready`: whether it runs; anything else is the leader's work."""

    def do_GET(self) -> None:
        if self.path == "/ready":
            return self.answer(200, "ready")
        # Asked for each request: a label, and so a Service, may lag behind. What is written elsewhere carries
        # the token, so that a write that comes late can be refused there.
        found = leader()
        status = 200 if found["is_leader"] else 503
        return self.answer(status, f"led by {found['name'] or 'nobody'}, token {found['token']}")

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(f"{text}\n".encode())


def end(number: int, frame: object) -> None:
    """Process 1 has no default for a signal."""
    sys.exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    port = int(os.environ.get("PORT", "8080"))
    http.server.ThreadingHTTPServer(("", port), Handler).serve_forever()
