"""Calls of the main thread that are made by another, because Ctrl-C strikes the main thread alone.

Python raises `KeyboardInterrupt` between any two instructions of the main thread. A client library that is
struck as it enters a `threading.Condition`, whose methods are written in Python, leaves it locked for ever,
and with it every thread that needs it. Here the main thread only waits, for a lock of Python's C part. What
it wanted goes on when it is struck, and nobody hears the answer.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeAlias, TypeVar

T = TypeVar("T")


_Inbox: TypeAlias = "SimpleQueue[_Errand[Any] | None]"


class Aside:
    """The threads that call for the main one: one, and another for each call that was struck and goes on.

    Args:
        name: what the threads are named after.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._threads: dict[threading.Thread, _Inbox] = {}
        self._idle: list[_Inbox] = []  # its methods are of the C part, too
        self._closed = False

    def call(self, step: Callable[[], T]) -> T:
        """What `step` returns or raises; called right here in another thread, and once all ends."""
        elsewhere = threading.current_thread() is not threading.main_thread()
        if elsewhere or self._closed or sys.is_finalizing():  # Then no other thread runs any more.
            return step()
        errand = _Errand(step)
        try:
            self._idle.pop().put(errand)
        except IndexError:
            if not self._start(errand):
                return step()
        errand.over.acquire()
        return errand.result()

    def close(self) -> None:
        """Let the threads end, each when it has done what it does; who does nothing has ended afterwards."""
        self._closed = True
        for thread, inbox in self._threads.items():
            inbox.put(None)
            if inbox in self._idle:
                thread.join()

    def _start(self, errand: _Errand[Any]) -> bool:
        """One more thread; False where none can be had: the interpreter is ending, or the system is full."""
        inbox: _Inbox = SimpleQueue()
        inbox.put(errand)
        name = f"leases-aside-{self._name}"
        thread = threading.Thread(target=self._run, args=(inbox,), name=name, daemon=True)
        self._threads[thread] = inbox
        try:
            thread.start()
        except RuntimeError:
            return False
        return True

    def _run(self, inbox: _Inbox) -> None:
        while (errand := inbox.get()) is not None:
            errand.run()
            self._idle.append(inbox)
            errand.over.release()
            del errand


class _Errand(Generic[T]):
    """One call, and what came of it."""

    def __init__(self, step: Callable[[], T]) -> None:
        self._step = step
        self._error: BaseException | None = None
        self.over = threading.Lock()
        self.over.acquire()

    def run(self) -> None:
        try:
            self._value = self._step()
        except BaseException as error:
            self._error = error

    def result(self) -> T:
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # Or it would hold its own traceback.
        return self._value
