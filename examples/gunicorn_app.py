"""A job that a web application runs in a thread: in one worker of all that there are, on whichever host.

    gunicorn --workers 3 --chdir examples gunicorn_app:app

Every worker imports this module, so every one of them starts the thread: without `leader_only` the job
would run once in each. Where the worker that leads is stopped, another takes over at once; where it is
killed, after the ttl. With ``--preload`` the module is imported once and then forked, and threads do not
come along: start the thread in gunicorn's hook ``post_worker_init`` then.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from leases import leader_only

TTL = float(os.environ.get("TTL", "15"))  # seconds after which another takes over from one that was killed


@leader_only("clean-up", ttl=TTL)
def clean_up() -> None:
    began = time.monotonic()
    time.sleep(0.05)
    print(f"{os.getpid()} cleaned up from {began:.3f} to {time.monotonic():.3f}", flush=True)


def keep_cleaning() -> None:
    while True:
        time.sleep(0.25)
        try:
            clean_up()
        except Exception:  # A lost lease, or a store that refuses: the next round may fare better.
            logging.exception("not cleaned up")


threading.Thread(target=keep_cleaning, daemon=True).start()


def app(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """The application itself, in every worker."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"this worker leads\n" if clean_up.is_leader else b"this worker stands by\n"]
