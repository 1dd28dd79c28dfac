"""The server that serves us, where it is uvicorn: it tells an application of its end when that is over.

It waits for its connections before it ends the lifespan, and a stream is open for as long as somebody reads:
who leads would lead on, behind a port that is closed. No handler of signals is installed for that. The one
that uvicorn has is a method of its server, which knows whether it was told to end.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import Any, Final

LOOK_SECONDS: Final = 0.1  # as often as uvicorn looks itself


async def told_to_end() -> bool:
    """Wait until a signal has told the server in this thread to end; False at once, where that is hidden."""
    server: Any = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    if threading.current_thread() is not threading.main_thread() or not hasattr(server, "should_exit"):
        return False
    while not server.should_exit:
        await asyncio.sleep(LOOK_SECONDS)
    return True
