"""Ctrl-C at some instructions of acquiring and releasing a slot, or several locks: nothing stays for long.

``LEASES_LONG=1`` strikes at every one, and not at every eleventh.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from leases import Lock, MultiLock, Semaphore, Store
from stubborn import another_process, leftovers, memory, store_on, until
from test_interrupts import AMPLE, PATIENCE, TTL, CtrlC, everywhere

# As in the sweep over a lock alone.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

STEP = 1 if os.environ.get("LEASES_LONG") else 11
NAMES = ("pool/slot-0", "pool/slot-1", "a", "b")


def slot(store: Store, ctrl_c: CtrlC) -> None:
    """A body of a semaphore, of which another process has a slot for a while."""
    other = Semaphore("pool", 2, store=another_process(store), ttl=TTL).acquire()
    pool = Semaphore("pool", 2, store=store, ttl=TTL)
    with ctrl_c.struck(), pool:
        pass
    other.release()


def freed_slot(store: Store, ctrl_c: CtrlC) -> None:
    """A body of a semaphore whose slots are all taken when it is wanted."""
    theirs = another_process(store)
    others = [Semaphore("pool", 2, store=theirs, ttl=AMPLE).acquire() for _ in range(2)]

    def release() -> None:
        until(lambda: len(_members(store)) == 2 or ctrl_c.where)
        others[1].release()

    with ThreadPoolExecutor(1) as crew:
        done = crew.submit(release)
        with ctrl_c.struck(), Semaphore("pool", 2, store=store, ttl=TTL):
            pass
        done.result()
    others[0].release()


def two_locks(store: Store, ctrl_c: CtrlC) -> None:
    """A body of two locks."""
    lock = MultiLock("b", "a", store=store, ttl=TTL)
    with ctrl_c.struck(), lock:
        pass


def _members(store: Store) -> list[object]:
    return list(store.hub.members)


SCENES = [slot, freed_slot, two_locks]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_ctrl_c_at_some_instructions(scene: Callable[[Store, CtrlC], None]) -> None:
    """Wherever it comes, all is to be had within a ttl, and the hub forgets everything."""
    assert sweep(scene, STEP) > 20


def sweep(scene: Callable[[Store, CtrlC], None], step: int) -> int:
    """Run a scene until there is no place left to strike."""

    def run(place: int) -> bool:
        with store_on(memory("etcd")) as store:
            ctrl_c = CtrlC(place)
            scene(store, ctrl_c)
            if ctrl_c.where:
                probe(store, ctrl_c)
            return bool(ctrl_c.where)

    return everywhere(run, step)


def probe(store: Store, ctrl_c: CtrlC) -> None:
    """Whatever could be held is to be had."""
    with ThreadPoolExecutor(len(NAMES)) as crew:
        for done in [crew.submit(_acquire, store, name) for name in NAMES]:
            assert done.exception() is None, f"after {ctrl_c.where}: {done.exception()}"
    until(lambda: not leftovers(store))


def _acquire(store: Store, name: str) -> None:
    Lock(name, store=store, ttl=TTL, timeout=PATIENCE).acquire().release()
