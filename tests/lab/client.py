"""A client in a process of its own: told what to do by lines of JSON on stdin, it tells by lines on stdout.

``python client.py URL NAME``. All its instants are of CLOCK_MONOTONIC, which all processes of a host share,
so that the instants of two processes can be compared.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from leases import AcquireTimeout, Lease, LeaseLost, Store, StoreError, connect
from leases.terms import Terms

LOOK_SECONDS = 0.001
# How long an acquire waits until it looks whether it is to go on: a thousand that come again every second
# would be a load of their own.
PATIENCE = 10.0
END_SECONDS = 5.0  # within which threads end that were told to

_mouth = threading.Lock()


def tell(**facts: object) -> None:
    """Say one thing."""
    with _mouth:
        os.write(1, json.dumps(facts).encode() + b"\n")


class Held:
    """A lease, and everything by which its holder can learn that it has ended.

    Attributes:
        stood: when a look at `held` last gave true, read after the look.
        told: when `on_lost` was called.
        woke: when waiting for the loss ended.
    """

    def __init__(self, store: Store, name: str, holder: str, terms: Terms) -> None:
        self.told = self.woke = 0.0
        self._ended = threading.Event()
        self.lease: Lease = store.lock(name, holder=holder, terms=terms, on_lost=self._hear).acquire()
        self.stood = time.monotonic()
        self.waits = threading.Thread(target=self._wait)
        self.waits.start()

    def _hear(self, lease: Lease, loss: LeaseLost) -> None:
        self.told = time.monotonic()
        self._ended.set()

    def _wait(self) -> None:
        self.lease.lost.wait()
        self.woke = time.monotonic()

    def look(self) -> bool:
        """Whether it stands."""
        if self.lease.held:
            self.stood = time.monotonic()
            return True
        return False

    def end(self) -> dict[str, object]:
        """What was learned of its end, once all of it is."""
        self.waits.join()
        heard = self._ended.wait(5.0)
        reason = self.lease.lost.reason
        return {"stood": self.stood, "told": self.told if heard else None, "woke": self.woke, "why": reason}


class Client:
    """What it can be told to do; each method is a command."""

    def __init__(self, url: str, name: str) -> None:
        self.url, self.name = url, name
        self.store = connect(url)
        self.held: dict[str, Held] = {}
        self.entered: dict[str, Lease] = {}
        self.stop = threading.Event()
        self.crew: list[threading.Thread] = []

    def hold(self, names: list[str], terms: dict[str, float]) -> None:
        """Acquire these and tell it; tell how each ended once all have."""
        self.held = {name: Held(self.store, name, self.name, Terms(**terms)) for name in names}
        tell(holds={name: held.lease.token for name, held in self.held.items()})
        self._begin(self._look)

    def _look(self) -> None:
        standing = list(self.held.values())
        while standing:
            standing = [held for held in standing if held.look()]
            time.sleep(LOOK_SECONDS)
        tell(ended={name: held.end() for name, held in self.held.items()})

    def beat(self) -> None:
        """Tell of every lease that was held or entered whether it stands, and its token."""
        leases = {name: held.lease for name, held in self.held.items()} | self.entered
        tell(stands={name: [lease.held, lease.token] for name, lease in leases.items()})

    def release(self) -> None:
        """The work has stopped: release all that was held or entered."""
        for lease in [*(held.lease for held in self.held.values()), *self.entered.values()]:
            lease.release()
        self._join()
        self.held, self.entered = {}, {}
        tell(released=True)

    def wait(self, names: list[str], terms: dict[str, float]) -> None:
        """Wait for these, each in a thread; tell of each when it is entered."""

        def enter(name: str) -> None:
            lease = self.store.lock(name, holder=self.name, terms=Terms(**terms)).acquire()
            entered = time.monotonic()
            self.entered[name] = lease
            tell(name=name, entered=entered, token=lease.token)

        for name in names:
            self._begin(enter, name)
        tell(waits=names)

    def contend(self, names: list[str], ttl: float, work: float, folder: str, turns: int) -> None:
        """Enter each again and again, each name in a thread; tell when all are through with their turns."""

        def run() -> None:
            crew = [
                threading.Thread(target=self._take_turns, args=(name, ttl, work, folder, turns))
                for name in names
            ]
            for thread in crew:
                thread.start()
            for thread in crew:
                thread.join()
            tell(through=True)

        self._begin(run)

    def _take_turns(self, name: str, ttl: float, work: float, folder: str, turns: int) -> None:
        lock = self.store.lock(name, holder=self.name, ttl=ttl)
        while turns > 0 and not self.stop.is_set():
            try:
                lease = lock.acquire(timeout=PATIENCE)
            except (AcquireTimeout, StoreError):
                continue
            turns -= 1
            visit(lease, self.name, work, folder)
            lease.release()
            self.stop.wait(work)

    def cease(self) -> None:
        """Take no more turns."""
        self.stop.set()
        self._join()
        self.stop.clear()
        tell(ceased=True)

    def sockets(self) -> None:
        """Tell how many TCP connections and how many threads this process has."""
        tell(sockets=sockets(), threads=threading.active_count())

    def read(self, name: str) -> None:
        """Tell what stands under a name."""
        status = self.store.status(name)
        tell(held=status.held, token=status.token, holder=status.holder)

    def close(self) -> None:
        """Let go of the store, and tell what is left then."""
        self.store.close()
        until = time.monotonic() + END_SECONDS
        while (left := _others()) and time.monotonic() < until:
            time.sleep(0.01)
        tell(left=left, sockets=sockets())

    def _begin(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=work, args=args)
        self.crew.append(thread)
        thread.start()

    def _join(self) -> None:
        for thread in self.crew:
            thread.join()
        self.crew = []


def visit(lease: Lease, who: str, work: float, folder: str) -> None:
    """Be inside for a while, if nobody else is: a lock of the kernel's says so, and a log is written.

    Whoever is inside goes when its lease has ended.
    """
    guard = os.open(os.path.join(folder, lease.name.replace("/", "-")), os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except BlockingIOError:
            alone = False
        entered = time.monotonic()
        while lease.held and time.monotonic() < entered + work:
            time.sleep(min(LOOK_SECONDS, work))
        left = time.monotonic()
        note = {"who": who, "name": lease.name, "token": lease.token, "alone": alone}
        line = json.dumps(note | {"entered": entered, "left": left})
        log = os.open(os.path.join(folder, "log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(log, line.encode() + b"\n")
        os.close(log)
    finally:
        os.close(guard)


def _others() -> list[str]:
    """The threads besides this one and the keeper, which serves every store and stays."""
    mine = threading.current_thread()
    of_the_process = ("leases-keeper", "leases-relay")
    return [t.name for t in threading.enumerate() if t is not mine and t.name not in of_the_process]


def sockets() -> int:
    """How many TCP sockets this process has open."""
    inodes = {line.split()[9] for family in ("tcp", "tcp6") for line in _lines(f"/proc/self/net/{family}")}
    found = 0
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:  # The one of the listing itself.
            continue
        found += target.startswith("socket:[") and target[8:-1] in inodes
    return found


def _lines(path: str) -> Iterable[str]:
    with open(path, encoding="ascii") as file:
        return file.read().splitlines()[1:]


def main() -> None:
    """Do what the lines say until they end."""
    client = Client(*sys.argv[1:])
    tell(up=True)
    for line in sys.stdin:
        order: dict[str, Any] = json.loads(line)
        try:
            getattr(client, order.pop("do"))(**order)
        except Exception as error:
            tell(failed=f"{type(error).__name__}: {error}")
    client.store.close()
    warnings.simplefilter("error")
    gc.collect()
    os._exit(0)  # Threads may still wait for locks that are never to be had.


if __name__ == "__main__":
    main()
