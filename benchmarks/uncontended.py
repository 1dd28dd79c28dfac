"""What acquire and release cost when nobody else wants the lock.

The bare pair of a store is what no lock on it can do without: one swap that creates the record, from a claim
made beforehand, and one that deletes it. All above that is ours. The other libraries give the scale: the
operating system frees a file lock when its process dies, so that it needs no lease and no renewal.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator
from statistics import median
from typing import Any

from _measure import Timing, interleaved, micro, quick, ratio, table, timed, times

from leases import Lock, Store, connect
from leases.clock import system_clock
from leases.contract import Applied, absent
from leases.record import Claim

NAME = "benchmark"


def main() -> None:
    rounds, pairs = (2, 5) if quick(__doc__) else (31, 100)
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        runner = stack.enter_context(asyncio.Runner())
        rivals: dict[str, Timing] = {}
        for url in (f"sqlite://{directory}/leases.db", "memory:"):
            rivals |= on_store(stack.enter_context(connect(url)), runner)
        rivals |= file_locks(directory)
        redis, why = redis_locks(stack, directory)
        found = interleaved(rivals | redis, rounds=rounds, times=pairs)
    rows: list[list[str]] = []
    for name, these in found.items():
        bare, ours = found.get(f"{name.split(':')[0]}: bare"), found["sqlite: Lock"]
        by_bare = (None, None) if bare is None else (ratio(these.wall, bare.wall), ratio(these.cpu, bare.cpu))
        row = [
            name,
            micro(median(these.wall)),
            times(by_bare[0]),
            micro(median(these.cpu)),
            times(by_bare[1]),
        ]
        rows.append([*row, times(ratio(these.wall, ours.wall))])
    table(
        f"uncontended: acquire and release by one thread; medians of {rounds} interleaved rounds of {pairs}",
        ("", "us a pair", "by bare", "CPU us", "by bare", "by sqlite: Lock"),
        rows,
        "CPU is that of this process: what a server does is in the wall time alone.",
        *why,
    )


def on_store(store: Store, runner: asyncio.Runner) -> dict[str, Timing]:
    """A store's bare pair of swaps, and our lock on it in both colours."""
    backend, kind = store.hub.backend, store.traits.store
    now = system_clock()
    boot = store.hub.boot
    claim = Claim("host:1", "0" * 32, "0" * 16, 15.0, None, boot=boot, sent=now.hold if boot else None)
    lock = Lock(NAME, store=store)

    def bare(pairs: int) -> None:
        for _ in range(pairs):
            outcome = backend.swap(absent(NAME), claim, 3.0)
            assert isinstance(outcome, Applied), outcome
            backend.swap(outcome.slot, None, 3.0)

    async def awaited(pairs: int) -> None:
        for _ in range(pairs):
            async with lock:
                pass

    return {
        f"{kind}: bare": timed(bare),
        f"{kind}: Lock": timed(entering(lock)),
        f"{kind}: Lock, asyncio": timed(lambda pairs: runner.run(awaited(pairs))),
    }


def entering(lock: contextlib.AbstractContextManager[object]) -> Callable[[int], None]:
    """Enter and leave, so many times."""

    def work(pairs: int) -> None:
        for _ in range(pairs):
            with lock:
                pass

    return work


def file_locks(directory: str) -> dict[str, Timing]:
    """The kinds that filelock has: of the operating system, by a file's existence, and the latter renewed."""
    import filelock

    path = os.path.join(directory, "x.lock")
    kinds: dict[str, Any] = {"FileLock": filelock.FileLock(path), "SoftFileLock": soft_lock(f"{path}.soft")}
    if hasattr(filelock, "SoftFileLease"):
        kinds["SoftFileLease"] = filelock.SoftFileLease(f"{path}.lease", lease_duration=15.0)
    return {f"filelock: {kind}": timed(entering(lock)) for kind, lock in kinds.items()}


def redis_locks(stack: contextlib.ExitStack, directory: str) -> tuple[dict[str, Timing], list[str]]:
    """The bare commands and two libraries' locks on a Redis server of our own, or why they are left out."""
    try:
        import redis
        import redis_lock
    except ImportError as error:
        return {}, [f"redis left out: {error}; install the extra 'bench'."]
    program = shutil.which("redis-server")
    if program is None:
        return {}, ["redis left out: there is no redis-server on PATH."]
    client = redis.StrictRedis(port=stack.enter_context(redis_server(program, directory)))
    renewed = redis_lock.Lock(client, "renewed", expire=15, auto_renewal=True)
    return {
        "redis: bare": timed(lambda pairs: bare_redis(client, pairs)),
        "redis: redis-py Lock": timed(entering(client.lock("plain", timeout=15))),
        "redis: python-redis-lock": timed(entering(redis_lock.Lock(client, "lists", expire=15))),
        "redis: same, renewed": timed(entering(renewed)),
    }, []


def bare_redis(client: Any, pairs: int) -> None:
    for _ in range(pairs):
        client.set("bare", "me", nx=True, px=15000)
        client.delete("bare")


@contextlib.contextmanager
def redis_server(program: str, directory: str) -> Generator[int, None, None]:
    """Run a server on a port of its own that only this host can reach; its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    options = {"port": port, "bind": "127.0.0.1", "dir": directory, "save": "", "appendonly": "no"}
    command = [program, *(word for key, value in options.items() for word in (f"--{key}", str(value)))]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                if server.poll() is not None or time.monotonic() > until:
                    raise
                time.sleep(0.02)
        yield port
    finally:
        server.terminate()
        server.wait()


def soft_lock(path: str) -> Any:
    """A soft lock without the advice, given at every use, to take the lease instead."""
    import warnings

    import filelock

    category = getattr(filelock, "SoftFileLockLifetimeWarning", None)
    if category is not None:
        warnings.simplefilter("ignore", category)
    return filelock.SoftFileLock(path)


if __name__ == "__main__":
    main()
