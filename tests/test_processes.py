"""Real processes on one store: killed, stopped, starved, restarted, alike in name, forked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from select import select
from typing import Any

import pytest

from hands import PATIENCE
from leases import Store, connect
from leases.clock import boot_id
from leases.record import Claim
from stores import Site, every_shared_store, sent

TTL = 2.0

pytestmark = [
    pytest.mark.waits,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="these processes are stopped and forked as on POSIX"),
    every_shared_store,
    pytest.mark.skipif(boot_id() is None, reason="no clock here whose instants processes may compare"),
]

# What every worker begins with; a line on stdin lets it go on, a line of JSON on stdout is what it tells.
BEGIN = f"""
import ctypes, json, os, sys, time
from leases import Lock
from leases.clock import system_clock

url, name = sys.argv[1:]
lock = Lock("job", ttl={TTL}, store=url, holder=name)

def now():
    return system_clock().hold

def tell(**facts):
    os.write(1, json.dumps(facts).encode() + b"\\n")

def acquire():
    lease = lock.acquire()
    tell(token=lease.token, sent=lease.deadline - lock.terms.hold)
    return lease
"""

# Holds until told to release.
HOLD = """
lease = acquire()
sys.stdin.readline()
held = lease.held
lease.release()
tell(held=held)
"""

# Looks at `held` until it does not stand, and releases all the same.
LOOK = """
lease = acquire()
stood = None
while True:
    began = now()
    if not lease.held:
        break
    stood = began
    time.sleep(0.01)
tell(stood=stood, reason=lease.lost.reason)
lease.release()
tell(released=True)
"""

# Lets no other thread of its process run for two ttls: a call through PyDLL keeps the GIL.
STARVE = f"""
sleep = ctypes.PyDLL(None).sleep
lease = acquire()
sys.stdin.readline()
tell(starves=True)
began = now()
sleep({int(2 * TTL)})
held, ended = lease.held, now()
tell(held=held, starved=ended - began, reason=lease.lost.reason)
lease.release()
tell(released=True)
"""

# Says whether the lock is to be had at once, then waits for it like anybody.
TRY = """
tell(got=lock.try_acquire() is not None)
""" + HOLD.strip()

TURNS = """
sys.stdin.readline()
for _ in range(5):
    with lock as lease:
        began = now()
        time.sleep(0.01)
        tell(token=lease.token, began=began, ended=now())
"""

FORK = """
lease = acquire()
child = os.fork()
if child == 0:
    held, lost = lease.held, lease.lost
    other = Lock("other", ttl=lock.terms.ttl, store=url, holder="child").acquire()
    tell(held=held, lost=bool(lost), reason=lost.reason, other=other.held)
    lease.release()
    other.release()
    os._exit(0)
_, status = os.waitpid(child, 0)
tell(status=status, held=lease.held)
sys.stdin.readline()
held = lease.held
lease.release()
tell(held=held)
"""


class Worker:
    """A process that runs one of these programs."""

    def __init__(self, url: str, name: str, program: str) -> None:
        self._heard = b""
        self.process = subprocess.Popen(
            [sys.executable, "-c", BEGIN + program, url, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    def hear(self) -> dict[str, Any]:
        """What it tells next."""
        assert self.process.stdout is not None
        until = time.monotonic() + PATIENCE
        while b"\n" not in self._heard:
            ready = select([self.process.stdout], [], [], max(until - time.monotonic(), 0.0))[0]
            heard = os.read(self.process.stdout.fileno(), 4096) if ready else b""
            assert heard, "the process ended or hung before it told the next thing"
            self._heard += heard
        line, _, self._heard = self._heard.partition(b"\n")
        told: dict[str, Any] = json.loads(line)
        return told

    def nudge(self) -> None:
        """Let it go on."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)  # returns when it has stopped

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


class Shop:
    """A store in a file, and the processes that use it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.store: Store = connect(url)
        self.workers: list[Worker] = []

    def start(self, name: str, program: str) -> Worker:
        worker = Worker(self.url, name, program)
        self.workers.append(worker)
        return worker

    def record(self) -> Claim:
        claim = self.store.hub.backend.read("job", PATIENCE).claim
        assert claim is not None
        return claim

    def end(self) -> float:
        """When the record that stands now ends unless it is renewed, by the clock that all here share."""
        claim = self.record()
        assert claim.held
        return sent(claim) + claim.ttl

    def await_renewal(self) -> None:
        """Return just after a renewal, so that the next blow does not fall in the midst of a write."""
        first, until = self.record().beat, time.monotonic() + PATIENCE
        while self.record().beat == first:
            assert time.monotonic() < until, "the holder does not renew"
            time.sleep(0.01)
        time.sleep(TTL / 8)

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        self.store.close()


@pytest.fixture
def shop(site: Site) -> Iterator[Shop]:
    made = Shop(site.url)
    made.store.status("job")  # makes the file
    yield made
    made.close()


def stands(shop: Shop, heir: Worker, before: Claim) -> None:
    """The heir's record is still its own, and so it believes, until it releases."""
    after = shop.record()
    assert after.held and (after.id, after.holder) == (before.id, before.holder)
    heir.nudge()
    assert heir.hear() == {"held": True}
    assert not shop.store.status("job").held


# ---- the holder dies, stops, starves -----------------------------------------------------------------


@pytest.mark.safety
def test_killed_holder_is_succeeded_when_its_record_ends(shop: Shop) -> None:
    """After kill -9 the next takes over once the last record has had its ttl, with a higher token."""
    holder = shop.start("first", HOLD)
    token = holder.hear()["token"]
    heir = shop.start("second", HOLD)
    shop.await_renewal()
    holder.kill()
    end = shop.end()
    assert shop.record().holder == "first"
    taken = heir.hear()
    assert taken["sent"] >= end and taken["token"] > token
    stands(shop, heir, shop.record())


@pytest.mark.safety
def test_stopped_holder_believes_nothing_when_it_wakes(shop: Shop) -> None:
    """S6, S1: no look after SIGCONT says held, and the late release leaves the successor's record alone."""
    holder = shop.start("first", LOOK)
    token = holder.hear()["token"]
    heir = shop.start("second", HOLD)
    shop.await_renewal()
    holder.stop()
    end = shop.end()
    taken = heir.hear()
    assert taken["sent"] >= end and taken["token"] > token
    before, woken = shop.record(), shop.store.hub.clock().hold
    holder.process.send_signal(signal.SIGCONT)
    told = holder.hear()
    assert told["stood"] < woken and told["reason"] == "expired"
    assert holder.hear() == {"released": True}
    stands(shop, heir, before)


@pytest.mark.safety
def test_starved_holder_believes_nothing_afterwards(shop: Shop) -> None:
    """S6: a thread that keeps the GIL past the ttl stops the renewals: held is False, and a successor came
    only after the ttl."""
    holder = shop.start("first", STARVE)
    token = holder.hear()["token"]
    heir = shop.start("second", HOLD)
    shop.await_renewal()
    holder.nudge()
    assert holder.hear() == {"starves": True}
    end = shop.end()
    taken = heir.hear()
    assert taken["sent"] >= end and taken["token"] > token
    before = shop.record()
    told = holder.hear()
    assert told["starved"] > TTL and told["held"] is False and told["reason"] in ("expired", "superseded")
    assert holder.hear() == {"released": True}
    stands(shop, heir, before)


# ---- names -------------------------------------------------------------------------------------------


def test_restart_under_the_same_name_does_not_inherit(shop: Shop) -> None:
    """S44: who starts anew with the name of the dead holder waits for the end of the record like anybody."""
    holder = shop.start("me", HOLD)
    token = holder.hear()["token"]
    shop.await_renewal()
    holder.kill()
    before, end = shop.record(), shop.end()
    taken = shop.start("me", HOLD).hear()
    assert taken["sent"] >= end and taken["token"] > token
    after = shop.record()
    assert after.holder == before.holder == "me" and after.id != before.id


def test_same_name_does_not_share_the_lock(shop: Shop) -> None:
    """S43, S60: a process does not get the lock that another of the same holder name has."""
    first = shop.start("me", HOLD)
    token = first.hear()["token"]
    second = shop.start("me", TRY)
    assert second.hear() == {"got": False}
    first.nudge()
    assert first.hear() == {"held": True}
    assert second.hear()["token"] > token


@pytest.mark.safety
def test_same_name_takes_turns(shop: Shop) -> None:
    """S43, S60: two processes of the same holder name are never in at once, and every turn has its token."""
    pair = [shop.start("me", TURNS) for _ in range(2)]
    for worker in pair:
        worker.nudge()
    turns = [worker.hear() for worker in pair for _ in range(5)]
    turns.sort(key=lambda turn: int(turn["token"]))
    assert len({turn["token"] for turn in turns}) == len(turns)
    for turn, following in pairwise(turns):
        assert turn["ended"] <= following["began"]


# ---- fork --------------------------------------------------------------------------------------------


def test_fork_leaves_the_lease_with_the_parent(shop: Shop) -> None:
    """S45: in the child the handle is lost (forked) at once, its release does nothing, another lock is to be
    had; the parent holds on."""
    parent = shop.start("parent", FORK)
    parent.hear()
    before = shop.record()
    child = parent.hear()
    assert child == {"held": False, "lost": True, "reason": "forked", "other": True}
    assert parent.hear() == {"status": 0, "held": True}
    shop.await_renewal()
    stands(shop, parent, before)
