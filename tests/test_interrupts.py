"""Ctrl-C at every instruction of acquire and release (S26): the lock is free within a ttl, the queue goes on.

Python runs a signal's handler when a function of ours begins, and when a function in C returns to ours. A
profile function is called at just these places, so a test can raise at each of them in turn.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from leases import Lock, Store
from leases_backends.sqlite import connect as sqlite
from stubborn import leftovers, memory, store_on, until

# A file that is struck between its opening and its `with` is closed by Python, which warns of it.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

TTL = 0.4
AMPLE = 2.4  # seconds, where a lease is to stand until others have come, however busy the machine is
PATIENCE = 20.0  # seconds: what is left behind for ever is told from what a busy machine holds up
AT_ONCE = 8  # runs
STEP = 11 if os.environ.get("LEASES_QUICK") else 1  # every eleventh place will do on another Python

# Where the library's code is, and that of the standard library which it needs while it holds a mutex.
OURS = ("/leases/", "/leases_backends/", threading.__file__)

# Python offers no way to guard the very first instruction of a method that is written in Python.
UNGUARDED = ("Lock.__exit__", "MultiLock.__exit__", "Lease.release")


class CtrlC:
    """Raises KeyboardInterrupt at the n-th place in the library where a signal's handler could run."""

    def __init__(self, place: int) -> None:
        self.place = place
        self.where = ""
        self._count = 0

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        code = frame.f_code
        if event not in ("call", "c_return") or not any(part in code.co_filename for part in OURS):
            return
        if event == "call" and (code.co_qualname in UNGUARDED or code.co_name == "<genexpr>"):
            return  # Closing a generator looks like a call, and what it raises then is swallowed.
        self._count += 1
        if self._count == self.place:
            sys.setprofile(None)
            self.where = f"{event} in {code.co_qualname}, line {frame.f_lineno}"
            raise KeyboardInterrupt

    @contextmanager
    def struck(self) -> Generator[None, None, None]:
        """Let it come while the body runs, if it comes to that."""
        sys.setprofile(self)
        try:
            yield
        except KeyboardInterrupt:
            assert self.where
        finally:
            sys.setprofile(None)


def body(store: Store, ctrl_c: CtrlC) -> None:
    """A whole `with` body."""
    lock = Lock("job", store=store, ttl=TTL)
    with ctrl_c.struck(), lock:
        pass


def release_without_a_body(store: Store, ctrl_c: CtrlC) -> None:
    """The release alone."""
    lease = Lock("job", store=store, ttl=TTL).acquire()
    with ctrl_c.struck():
        lease.release()


def end_of_a_body_that_another_waits_for(store: Store, ctrl_c: CtrlC) -> None:
    """The lock is handed over to another thread."""
    lock, other = Lock("job", store=store, ttl=AMPLE), Lock("job", store=store, ttl=AMPLE)
    with ctrl_c_later(ctrl_c, lock):
        waiter = threading.Thread(target=lambda: other.acquire().release(), daemon=True)
        waiter.start()
        until(lambda: store.hub.waiters("job"))
    waiter.join(PATIENCE)
    assert not waiter.is_alive(), f"the queue stood still after {ctrl_c.where}"


@contextmanager
def ctrl_c_later(ctrl_c: CtrlC, lock: Lock) -> Generator[None, None, None]:
    """The body goes well, its end is struck."""
    lock.__enter__()
    yield
    with ctrl_c.struck():
        lock.__exit__(None, None, None)


def turn_in_the_queue(store: Store, ctrl_c: CtrlC) -> None:
    """Waits behind another thread, and gets its turn; others wait behind."""
    lock, other = Lock("job", store=store, ttl=AMPLE), Lock("job", store=store, ttl=AMPLE)
    lease = other.acquire()
    behind: list[threading.Thread] = []

    def release() -> None:
        until(lambda: store.hub.waiters("job") or ctrl_c.where)
        behind.append(threading.Thread(target=lambda: other.acquire().release(), daemon=True))
        behind[0].start()
        until(lambda: store.hub.waiters("job") == 2 or ctrl_c.where)
        lease.release()

    releaser = threading.Thread(target=release, daemon=True)
    releaser.start()
    with ctrl_c.struck(), lock:
        pass
    releaser.join(PATIENCE)
    behind[0].join(PATIENCE)
    assert not behind[0].is_alive(), f"the queue stood still after {ctrl_c.where}"


SCENES = [body, release_without_a_body, end_of_a_body_that_another_waits_for, turn_in_the_queue]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["memory", "zookeeper", "sqlite"])
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_ctrl_c_at_every_instruction(
    scene: Callable[[Store, CtrlC], None], kind: str, tmp_path: Path
) -> None:
    """Wherever Ctrl-C comes, the next acquires within a ttl, and nothing is left."""
    assert sweep(scene, kind, tmp_path, STEP) > 20


def sweep(scene: Callable[[Store, CtrlC], None], kind: str, folder: Path, step: int) -> int:
    """Run a scene until there is no place left to strike; about how many there are."""

    def run(place: int) -> bool:
        with store_on(sqlite(f"sqlite://{folder}/{place}.db") if kind == "sqlite" else memory(kind)) as store:
            ctrl_c = CtrlC(place)
            scene(store, ctrl_c)
            if ctrl_c.where:
                probe(store, ctrl_c)
            return bool(ctrl_c.where)

    return everywhere(run, step)


def everywhere(run: Callable[[int], bool], step: int) -> int:
    """Strike at every so-manieth place, until one is not there any more; about how many there are.

    Most of each run is spent waiting for a ttl, so many run at a time, each struck in a thread of its own.
    """
    with ThreadPoolExecutor(AT_ONCE) as crew:
        for first in itertools.count(1, step * AT_ONCE):
            struck = list(crew.map(run, range(first, first + step * AT_ONCE, step)))
            if not all(struck):
                return first + step * sum(struck)
    raise AssertionError("there is always a place left")


def probe(store: Store, ctrl_c: CtrlC) -> None:
    """Another thread acquires in time, and the hub forgets everything."""
    outcome: list[BaseException | None] = []

    def acquire() -> None:
        try:
            Lock("job", store=store, ttl=TTL, timeout=PATIENCE).acquire().release()
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=acquire, daemon=True)
    thread.start()
    thread.join(2 * PATIENCE)
    assert outcome == [None], f"after {ctrl_c.where}: {outcome or 'it hangs'}"
    until(lambda: not leftovers(store))
