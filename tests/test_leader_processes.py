"""`leader_only` where a process exits, forks, or is to be ended by force: each time in one of its own."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hands import PATIENCE
from leases import Store, connect
from leases.stopper import EXIT_CODE

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="processes that fork and are stopped, as on POSIX"
)

TTL = 1.5

# What every process begins with: a line on stdin lets it go on, a line of JSON on stdout is what it tells.
BEGIN = f"""
import json, os, sys, threading, time
from leases import LeaseLost, leader_only

def tell(**facts):
    os.write(1, json.dumps(facts).encode() + b"\\n")

def told():
    assert sys.stdin.readline()

def led(function, **options):
    options = {{"ttl": {TTL}, **options}}
    return leader_only("job", **options)(function)

def lead(**options):
    ran = led(lambda: True, **options)
    tell(ran=ran())
    return ran
"""


class Process:
    """A process that runs one of these programs."""

    def __init__(self, url: str, program: str) -> None:
        self._heard: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.popen = subprocess.Popen(
            [sys.executable, "-c", BEGIN + program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "LEASES_URL": url},
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self._heard.put(json.loads(line))

    def hear(self) -> dict[str, Any]:
        """What it tells next."""
        return self._heard.get(timeout=PATIENCE)

    def go_on(self) -> None:
        """Let it go on."""
        assert self.popen.stdin is not None
        self.popen.stdin.write("\n")
        self.popen.stdin.flush()

    def end(self) -> int:
        """Wait until it has ended; how."""
        return self.popen.wait(PATIENCE)

    def close(self) -> None:
        with suppress(ProcessLookupError):  # What it has forked may live on where a test has failed.
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait(PATIENCE)
        self._reader.join(PATIENCE)
        for stream in (self.popen.stdin, self.popen.stdout):
            assert stream is not None
            stream.close()


class Shop:
    """A store in a file, and the processes that use it."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:{folder / 'leases.db'}"
        self.store: Store = connect(self.url)
        self._processes: list[Process] = []

    def start(self, program: str) -> Process:
        """Run a program."""
        process = Process(self.url, program)
        self._processes.append(process)
        return process

    @property
    def held(self) -> bool:
        """Whether a record keeps others out."""
        return self.store.status("job").held

    def take_away(self) -> None:
        """Break the lock: the holder learns of it by its next renewal."""
        token = self.store.status("job").token
        assert token is not None
        self.store.break_lock("job", if_token=token)

    def close(self) -> None:
        for process in self._processes:
            process.close()
        self.store.close()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path)
    yield made
    made.close()


# ---- exits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ending", "code"), [("", 0), ("sys.exit(3)", 3), ("raise ZeroDivisionError", 1)])
def test_an_exit_resigns(shop: Shop, ending: str, code: int) -> None:
    """However the interpreter comes to its end: nobody has to wait for the ttl."""
    process = shop.start(f"sys.stderr = None; lead(ttl=600); told(); {ending}")
    assert process.hear() == {"ran": True}
    assert shop.held
    process.go_on()
    assert process.end() == code
    assert not shop.held


def test_an_exit_tells_calls_to_stop(shop: Shop) -> None:
    """A call in a daemon thread that heeds it ends, and then the lock is free."""
    process = shop.start("""
def body():
    tell(began=True)
    running.lease().ending.wait()
    tell(stopped=True)
running = led(body, ttl=600)
threading.Thread(target=running, daemon=True).start()
told()
""")
    assert process.hear() == {"began": True}
    process.go_on()
    assert process.hear() == {"stopped": True}
    assert process.end() == 0 and not shop.held


def test_an_exit_under_a_call_leaves_the_lease(shop: Shop) -> None:
    """One that does not end may be at work until the very end: the exit comes, and the lease expires."""
    process = shop.start("""
def body():
    tell(began=True)
    time.sleep(3600)
threading.Thread(target=led(body, ttl=600), daemon=True).start()
told()
""")
    assert process.hear() == {"began": True}
    process.go_on()
    assert process.end() == 0 and shop.held


def test_one_that_hangs_holds_up_no_other(shop: Shop) -> None:
    """All that this process leads is given up at once, and only one is left to expire."""
    process = shop.start("""
def body():
    tell(began=True)
    time.sleep(3600)
others = [leader_only(f"other-{n}", ttl=600)(lambda: True) for n in range(4)]
assert all(other() for other in others)
threading.Thread(target=led(body, ttl=600), daemon=True).start()
told()
""")
    assert process.hear() == {"began": True}
    process.go_on()
    assert process.end() == 0
    assert [status.name for status in shop.store.list() if status.held] == ["job"]


def test_no_call_begins_in_an_exit(shop: Shop) -> None:
    """A thread that calls again and again does not take the lead back, however long the exit takes."""
    process = shop.start("""
import atexit
atexit.register(time.sleep, 0.3)  # what was registered first is called last
def again_and_again():
    while True:
        ran()
ran = lead(ttl=600)
threading.Thread(target=again_and_again, daemon=True).start()
told()
""")
    assert process.hear() == {"ran": True}
    process.go_on()
    assert process.end() == 0 and not shop.held


# ---- forks -------------------------------------------------------------------------------------------


def test_a_fork_before_the_first_call(shop: Shop) -> None:
    """Decorated before it, as where an application is loaded first: parent and child are two candidates."""
    process = shop.start("""
ran = led(os.getpid)
told_child, tell_child = os.pipe()
child = os.fork()
if child == 0:
    os.read(told_child, 1)
    tell(child=ran())
    os._exit(0)
tell(parent=ran() == os.getpid())
os.write(tell_child, b".")
os.waitpid(child, 0)
""")
    assert process.hear() == {"parent": True}
    assert process.hear() == {"child": None}
    assert process.end() == 0


def test_a_fork_of_one_that_leads(shop: Shop) -> None:
    """The child leads nothing; it campaigns for itself, and leads when the parent has gone."""
    process = shop.start("""
ran, waits = lead(ttl=600), led(lambda: "heir", ttl=600, otherwise="wait")
child = os.fork()
if child == 0:
    tell(leads=bool(ran.is_leader), ran=ran())
    tell(waited=waits(), leads=bool(ran.is_leader))
    os._exit(0)
told()
tell(leads=bool(ran.is_leader), ran=ran())
ran.resign()
_, status = os.waitpid(child, 0)
tell(status=status)
""")
    assert process.hear() == {"ran": True}
    assert process.hear() == {"leads": False, "ran": None}
    process.go_on()
    assert process.hear() == {"leads": True, "ran": True}
    assert process.hear() == {"waited": "heir", "leads": True}
    assert process.hear() == {"status": 0}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is imported in that thread")
def test_a_fork_waits_for_an_import_in_a_thread_of_ours(shop: Shop) -> None:
    """The thread that waits for the store has something to import; in a child it could never be again."""
    process = shop.start("""
from leases_backends._sqlite_watch import _loading
imported = []
def end_import():
    imported.append(True)
    _loading.release()
_loading.acquire()
threading.Timer(0.1, end_import).start()
child = os.fork()
if child == 0:
    tell(imported=imported, free=_loading.acquire(timeout=5))
    os._exit(0)
os.waitpid(child, 0)
tell(free=_loading.acquire(timeout=5))
""")
    assert process.hear() == {"imported": [True], "free": True}
    assert process.hear() == {"free": True}


def test_a_fork_within_a_call(shop: Shop) -> None:
    """In the child the lease of the call is lost; in the parent it stands."""
    process = shop.start("""
def body():
    child = os.fork()
    if child == 0:
        try:
            forking.lease().check()
        except LeaseLost as loss:
            tell(reason=loss.reason)
        os._exit(0)
    os.waitpid(child, 0)
    forking.lease().check()
    return "ran"
forking = led(body, ttl=600)
tell(parent=forking())
""")
    assert process.hear() == {"reason": "forked"}
    assert process.hear() == {"parent": "ran"}
    assert process.end() == 0 and not shop.held


# ---- what ends a call by force -----------------------------------------------------------------------

CALL = """
def body():
    tell(began=True)
    time.sleep(3600)
led(body, on_lost={word!r})()
"""

IDLE = """
ran = lead(on_lost={word!r})
told()
while ran.is_leader:
    time.sleep(0.01)
tell(lost=True)
while not ran():
    time.sleep(0.05)
tell(again=True)
"""


@pytest.mark.parametrize(("word", "code"), [("exit", EXIT_CODE), ("kill", -signal.SIGKILL)])
def test_a_word_ends_the_process_under_a_call(shop: Shop, word: str, code: int) -> None:
    """The lock was broken: the process ends although the call hangs."""
    process = shop.start(CALL.format(word=word))
    assert process.hear() == {"began": True}
    shop.take_away()
    assert process.end() == code


def test_kill_ends_a_stopped_process_under_a_call(shop: Shop) -> None:
    """By the kernel, at the deadline."""
    process = shop.start(CALL.format(word="kill"))
    assert process.hear() == {"began": True}
    process.popen.send_signal(signal.SIGSTOP)
    assert process.end() == -signal.SIGKILL


@pytest.mark.waits
@pytest.mark.parametrize("word", ["exit", "kill"])
def test_a_word_spares_a_process_that_only_leads(shop: Shop, word: str) -> None:
    """Without a call there is nothing to end: it loses the lead, takes part on, and leads again."""
    process = shop.start(IDLE.format(word=word))
    assert process.hear() == {"ran": True}
    shop.take_away()
    process.go_on()
    assert process.hear() == {"lost": True}
    assert process.hear() == {"again": True}
    assert process.end() == 0


def test_interrupt_ends_a_call_in_the_main_thread(shop: Shop) -> None:
    """The call raises LeaseLost out of its sleep; one in another thread is refused."""
    process = shop.start("""
def body():
    tell(began=True)
    time.sleep(3600)
interrupted = led(body, on_lost="interrupt")
def elsewhere():
    try:
        interrupted()
    except ValueError as error:
        tell(refused=str(error))
thread = threading.Thread(target=elsewhere)
thread.start()
thread.join()
try:
    interrupted()
except LeaseLost as loss:
    tell(reason=loss.reason)
""")
    assert "interrupts the main thread" in process.hear()["refused"]
    assert process.hear() == {"began": True}
    shop.take_away()
    assert process.hear() == {"reason": "broken"}
    assert process.end() == 0
