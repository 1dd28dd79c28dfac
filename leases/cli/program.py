"""`leases` as a process of its own, which starts and ends as fast as Python lets it."""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
from contextlib import suppress
from typing import Final, NoReturn

from leases.cli import main

# Nothing that a start makes is garbage, and looking for it among all that was just loaded takes a tenth of
# the time. What a holder of days leaves behind is still found.
_OBJECTS: Final = 50_000


def program() -> NoReturn:
    """Run what the arguments of the process ask for, and end with its exit code."""
    gc.set_threshold(_OBJECTS)
    _end(main())


def _end(code: int) -> NoReturn:
    """End without taking the interpreter apart, which frees nothing that the system would not.

    What was registered for the end is done, and who still has a thread that the end would wait for gets that.
    """
    others = set(threading.enumerate()) - {threading.current_thread()}
    if not all(thread.daemon for thread in others):
        sys.exit(code)
    with suppress(Exception):  # Told on stderr by then, as at any other end.
        atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage] # nothing else runs them before os._exit
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError, ValueError):  # Whoever wrote has been told by flush() before.
                stream.flush()
    os._exit(code)
