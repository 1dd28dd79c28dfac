"""Ctrl-C while a real store is being asked: what was half said is never taken for the next answer (S26)."""

from __future__ import annotations

import json
import subprocess
import sys

from stores import Site, every_shared_store

# Enters a body again and again, and is struck within milliseconds each time: as it connects, sends, or waits
# for an answer. Then it tells how it fared, and whether it can still lock, and look, like anybody.
STRUCK = """
import json, random, signal, sys
from leases import Lock, connect

url, seed = sys.argv[1], int(sys.argv[2])
chance = random.Random(seed)
tokens, strikes = [], 0

def strike(number, frame):
    if frame.f_code.co_qualname != "Lock.__exit__":  # No method in Python can guard its first instruction.
        raise KeyboardInterrupt

def enter():
    with Lock("job", store=store, ttl=2.0) as lease:
        tokens.append(lease.token)

signal.signal(signal.SIGALRM, strike)
with connect(url) as store:
    enter()
    for _ in range(150):
        try:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0001, 0.008))
            enter()
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            strikes += 1
    with store.lock("job", ttl=2.0, timeout=20, holder="at last") as lease:
        tokens.append(lease.token)
        seen = store.status("job")
        alike = (seen.holder, seen.token) == ("at last", lease.token)
    free = not store.status("job").held
print(json.dumps({"strikes": strikes, "tokens": tokens, "alike": alike, "free": free}))
"""


@every_shared_store
def test_ctrl_c_while_the_store_is_asked(site: Site) -> None:
    """Struck again and again, a process goes on with answers to its own questions, and with rising tokens."""
    # A socket that is struck between its making and its keeping is closed by Python alone, with a warning.
    warned = ("-W", "error", "-W", "ignore::ResourceWarning")
    done = subprocess.run(
        [sys.executable, *warned, "-c", STRUCK, site.url, "7"],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["strikes"] > 10, "it was hardly ever struck"
    assert told["tokens"] == sorted(set(told["tokens"])) and told["alike"] and told["free"]


# Tells of every Condition that the main thread enters, by who enters it; starting a thread is not meant.
WATCHED = """
import json, sys, threading
from leases import connect

entered = set()

def seen(frame, event, arg):
    if event != "call" or frame.f_code.co_qualname not in ("Condition.__enter__", "Condition.wait"):
        return
    path, above = [], frame.f_back
    while above is not None:
        path.append(above.f_code.co_qualname)
        above = above.f_back
    if "Thread.start" not in path:
        entered.add(" < ".join(path[:4]))

with connect(sys.argv[1]) as store:
    with store.lock("job", ttl=9.0):
        pass
    sys.setprofile(seen)
    with store.lock("job", ttl=9.0) as lease:
        assert store.lock("job", ttl=9.0, timeout=0.3).try_acquire() is None
        store.status("job")
        lease.check()
    list(store.scan())
    sys.setprofile(None)
print(json.dumps(sorted(entered)))
"""


@every_shared_store
def test_the_main_thread_enters_nothing_that_it_could_leave_locked(site: Site) -> None:
    """A Condition struck as it is entered stays locked, and whoever needs it stands still."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, site.url], capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == []
