"""A stream that is written by a thread, so that who has a lease to look after waits for no reader.

A terminal may be stopped by Ctrl-S, and a pipe be full because nobody reads it: both keep a write for ever.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

_PATIENCE: Final = 0.05  # so that mostly what is said stands there before what comes of it
_MOST: Final = 1000  # texts that wait to be written; what comes then is lost


class Voice:
    """Speaks on a stream, without waiting for it for long.

    Args:
        stream: a stream with a descriptor; its buffer is not used.
        on_trouble: called, by the thread, when nothing can be written any more.

    Attributes:
        trouble: why it was not written, after that; what is said later goes nowhere.

    Raises:
        OSError: the stream has no descriptor.
    """

    def __init__(self, stream: TextIO, on_trouble: Callable[[], None] | None = None) -> None:
        self._descriptor = stream.fileno()
        self._encoding = stream.encoding
        self._on_trouble = on_trouble
        self._texts: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self.trouble: OSError | None = None

    def say(self, text: str) -> None:
        """Have this written, after what was said before it."""
        with self._changed:
            behind = bool(self._texts)
            if len(self._texts) < _MOST:
                self._texts.append(text.encode(self._encoding, "backslashreplace"))
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._speak, name="leases-voice", daemon=True)
                self._thread.start()
        if not behind:
            self.finish(_PATIENCE)

    def finish(self, seconds: float) -> bool:
        """Wait until all was written, for so long at most; whether it was."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._texts, seconds)

    def _speak(self) -> None:
        # Else a terminal that keeps the background from writing (tostop) would stop the whole process for it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._texts)
                data = self._texts[0]
            self._write(data)
            with self._changed:
                self._texts.popleft()
                self._changed.notify_all()

    def _write(self, data: bytes) -> None:
        try:
            while data and self.trouble is None:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            self.trouble = error
            if self._on_trouble is not None:
                self._on_trouble()
