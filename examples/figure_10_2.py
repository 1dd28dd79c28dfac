"""A request that comes too late, and what each way to check it is worth.

    python examples/figure_10_2.py

It is figure 10-2 of Burns, "Designing Distributed Systems": two shards take turns at one lock and send
requests to a worker. shard-1 sends R1, which is slow on its way, and stops for too long. shard-2 takes over
and crashes. shard-1 wakes and has the lock again: the same name, in another tenure. Then R1 arrives. The
worker checks every request in five ways, side by side.

All are processes with real signals and real delays, on a store of this host; it takes some seconds. The
program checks what it tells, and exits with 1 and a sentence if anything is not so.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from multiprocessing import get_context
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

from leases import Lease, Lock, Store, connect
from leases.fencing import GuardedKey, MemoryFence, NotCurrent, Token, TokenRefused, Validator

TTL = 1.0  # seconds
PATIENCE = 20.0  # seconds after which what did not come will not come, however slow the machine

OWNER, HIGHEST, SEALED, ASKED, GUARDED = CHECKS = (
    "the owner's name",
    "highest token seen",
    "the same, sealed",
    "asking the store",
    "the lock's own record",
)


class Failed(Exception):
    """Something is not as told."""


# ---- the worker, which cannot know how long a request was on its way ---------------------------------


class Worker:
    """Carries out requests, if their check lets them; each check decides for a book of its own."""

    def __init__(self, store: Store, lock: str) -> None:
        self.store, self.lock = store, lock
        self.books: dict[str, list[str]] = {check: [] for check in CHECKS}
        self.highest, self.sealed = MemoryFence(lock), MemoryFence(lock)
        self.validator = Validator(store, lock)
        self.key = GuardedKey(lock, "last request", store=store)

    def serve(self, seals: bool, token: Token, request: str) -> dict[str, str]:
        """What became of a request, by check: empty where it was carried out, else why not."""
        if seals:
            self.sealed.seal(token)
            return {}
        ways: tuple[Callable[[Token, str], object], ...] = (
            self.by_owner, self.by_highest, self.by_seal, self.by_asking, self.by_record,
        )  # fmt: skip
        return {check: self.refusal(way, token, request) for check, way in zip(CHECKS, ways, strict=True)}

    def refusal(self, way: Callable[[Token, str], object], token: Token, request: str) -> str:
        try:
            way(token, request)
        except TokenRefused as refused:
            return str(refused).split(";")[0].replace(f' of lock "{self.lock}"', "")
        return ""

    def by_owner(self, token: Token, request: str) -> None:
        owner = self.store.status(self.lock).holder
        if owner != token.holder:
            raise NotCurrent(self.lock, token.number, f"{owner} holds it")
        self.books[OWNER].append(request)

    def by_highest(self, token: Token, request: str) -> None:
        with self.highest.admitted(token):
            self.books[HIGHEST].append(request)

    def by_seal(self, token: Token, request: str) -> None:
        with self.sealed.admitted(token):
            self.books[SEALED].append(request)

    def by_asking(self, token: Token, request: str) -> None:
        self.validator.check(token)
        self.books[ASKED].append(request)  # A pause right here would let through what is late by then.

    def by_record(self, token: Token, request: str) -> None:
        self.key.write(token, request)


def work(url: str, lock: str, address: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the play, which ends its cast
    with connect(url) as store, Listener(address) as listener:
        worker = Worker(store, lock)
        while True:
            with listener.accept() as caller:
                seals, token, request = caller.recv()
                caller.send(worker.serve(seals, Token.parse(token), request))


def send(address: str, seals: bool, token: Token, request: str = "") -> Any:
    with Client(address) as line:
        line.send((seals, str(token), request))
        return line.recv()


# ---- the shards, which do what the play tells them ---------------------------------------------------


class Seal:
    """Shows the worker the token of a new tenure, before the acquisition is reported."""

    def __init__(self, worker: str) -> None:
        self.worker = worker

    def seal(self, lease: Lease) -> None:
        send(self.worker, True, Token.of(lease))


def shard(name: str, url: str, lock_name: str, worker: str, play: Connection[Any, Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("leases").setLevel(logging.ERROR)  # A loss is part of the play, which tells of it.
    lock = Lock(lock_name, ttl=TTL, holder=name, store=url, fences=[Seal(worker)])
    lease = None
    while True:
        match play.recv():
            case "acquire":
                lease = lock.acquire()
                play.send(lease.token)
            case "look" if lease is not None:
                play.send((lease.held, lease.lost.reason))
            case address, request if lease is not None:
                play.send(send(address, False, Token.of(lease), request))
            case order:
                raise Failed(f"{name} cannot {order} now")


class Network:
    """Takes a request at once, and delivers it when it is told to."""

    def __init__(self, address: str) -> None:
        self._listener = Listener(address)
        self._took = threading.Event()
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        with self._listener, self._listener.accept() as caller:
            self._request = caller.recv()
            caller.send(None)
            self.since = time.monotonic()
            self._took.set()

    def deliver(self, worker: str) -> dict[str, str]:
        assert self._took.wait(PATIENCE)
        seals, token, request = self._request
        verdicts: dict[str, str] = send(worker, seals, Token.parse(token), request)
        return verdicts


# ---- the play ----------------------------------------------------------------------------------------


class Play:
    """One performance, with a cast of its own."""

    def __init__(self, url: str, folder: str, lock: str) -> None:
        self.worker, self.began = os.path.join(folder, f"{lock}.worker"), time.monotonic()
        self.network = Network(network := os.path.join(folder, f"{lock}.network"))
        self.slowly, self._lines, self._cast = network, dict[str, Any](), dict[str, Any]()
        processes = get_context("spawn")
        self._cast["worker"] = processes.Process(target=work, args=(url, lock, self.worker), daemon=True)
        for name in ("shard-1", "shard-2"):
            self._lines[name], other = processes.Pipe()
            self._cast[name] = processes.Process(
                target=shard, args=(name, url, lock, self.worker, other), daemon=True
            )
        for actor in self._cast.values():
            actor.start()
        self._wait_for(lambda: os.path.exists(self.worker))

    def _wait_for(self, fact: Callable[[], bool]) -> None:
        ends = time.monotonic() + PATIENCE
        while not fact():
            if time.monotonic() > ends:
                raise Failed("the worker has not opened")
            time.sleep(0.01)

    def tell(self, who: str, what: str) -> None:
        print(f"{time.monotonic() - self.began:6.2f} s  {who:<8} {what}", flush=True)

    def ask(self, name: str, order: object) -> Any:
        """Have a shard do something, and wait for what came of it."""
        self._lines[name].send(order)
        if not self._lines[name].poll(PATIENCE):
            raise Failed(f"{name} did not answer to {order}")
        return self._lines[name].recv()

    def strike(self, name: str, number: signal.Signals) -> None:
        os.kill(self._cast[name].pid, number)

    def close(self) -> None:
        for actor in self._cast.values():
            actor.kill()
            actor.join()
        for line in self._lines.values():
            line.close()


def perform(play: Play, *, middle_writes: bool) -> dict[str, str]:
    """The sequence of the figure; the worker's verdicts on R1."""
    first = play.ask("shard-1", "acquire")
    play.began = time.monotonic()
    play.ask("shard-1", (play.slowly, "R1"))
    play.tell("shard-1", f"holds the lock with token {first}, and sends R1, which is slow on its way")
    play.strike("shard-1", signal.SIGSTOP)
    play.tell("shard-1", "is stopped (SIGSTOP)")
    second = play.ask("shard-2", "acquire")
    play.tell("shard-2", f"has taken over with token {second}")
    if middle_writes:
        refused = play.ask("shard-2", (play.worker, "R2"))
        play.tell("shard-2", f"sends R2: {told(refused)}")
    play.strike("shard-2", signal.SIGKILL)
    play.tell("shard-2", f"is killed (SIGKILL){'' if middle_writes else ', and has sent nothing'}")
    play.strike("shard-1", signal.SIGCONT)
    held, reason = play.ask("shard-1", "look")
    play.tell("shard-1", f"goes on: held is {held} ({reason})")
    third = play.ask("shard-1", "acquire")
    play.tell("shard-1", f"holds the lock again, with token {third}")
    verdicts = play.network.deliver(play.worker)
    ago = time.monotonic() - play.network.since
    play.tell("network", f"delivers R1, sent {ago:.1f} s ago with token {first}")
    for check in CHECKS:
        print(f"{'':20}{check:<23}{'refused: ' + verdicts[check] if verdicts[check] else 'CARRIED OUT'}")
    refused = play.ask("shard-1", (play.worker, "R3"))
    play.tell("shard-1", f"sends R3: {told(refused)}")
    if held or not first < second < third or any(refused.values()):
        raise Failed(f"held is {held}, tokens are {first}, {second}, {third}, and R3 is {told(refused)}")
    return verdicts


def told(refused: dict[str, str]) -> str:
    by = [check for check in CHECKS if refused[check]]
    return f"refused by {', '.join(by)}" if by else "carried out, by every check"


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:{os.path.join(folder, 'leases.db')}"
        try:
            print(f"The ttl is {TTL:g} s.\n\nshard-2 writes before it crashes:", flush=True)
            with closing(Play(url, folder, "wrote")) as play:
                wrote = perform(play, middle_writes=True)
            print("\nshard-2 crashes before it writes anything:", flush=True)
            with closing(Play(url, folder, "silent")) as play:
                silent = perform(play, middle_writes=False)
            return judge(wrote, silent)
        except Failed as failed:
            print(f"Not as told: {failed}")
            return 1


def judge(wrote: dict[str, str], silent: dict[str, str]) -> int:
    """R1 is of an earlier tenure. Who lets it through is fooled, and who that is is no matter of chance."""
    fooled = [[check for check in CHECKS if not verdicts[check]] for verdicts in (wrote, silent)]
    print(f"\nFooled: {', '.join(fooled[0])}; where shard-2 wrote nothing: {', '.join(fooled[1])}.")
    if fooled != [[OWNER], [OWNER, HIGHEST]]:
        raise Failed("R1 was refused by others than these")
    print("All as told.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
