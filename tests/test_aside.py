"""The threads that call client libraries for the main one."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import pytest

from leases_backends._aside import Aside

# Runs in the main thread of a process of its own, and is struck in the midst of a call.
STRUCK = """
import json, os, signal, threading, time
from leases_backends._aside import Aside

aside, gate, told = Aside("test"), threading.Lock(), {}
gate.acquire()

def ctrl_c(number, frame):
    if "struck" not in told:
        told["struck"] = True
        raise KeyboardInterrupt

signal.signal(signal.SIGINT, ctrl_c)

def struck():
    while "struck" not in told:  # Just before the main thread waits, Python does not hear of it.
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
    gate.acquire()
    told["went on"] = True
    gate.release()

def fails():
    raise ValueError("as it was raised")

told["elsewhere"] = aside.call(threading.current_thread) is not threading.main_thread()
told["one thread"] = aside.call(threading.get_ident) == aside.call(threading.get_ident)
try:
    aside.call(struck)
except KeyboardInterrupt:
    told["raised it"] = True
told["another answers"] = aside.call(lambda: "went on" not in told)
try:
    aside.call(fails)
except ValueError as error:
    told["raised"] = str(error)
gate.release()
aside.close()
while threading.active_count() > 1:
    pass
told["closed"] = aside.call(threading.current_thread) is threading.main_thread()
print(json.dumps(told))
"""


def test_the_main_thread_only_waits() -> None:
    """Struck, it leaves the call to end by itself, and has the next one made by another thread."""
    done = subprocess.run([sys.executable, "-c", STRUCK], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    raised = {"raised": "as it was raised"}
    wanted = ("elsewhere", "one thread", "struck", "raised it", "another answers", "went on", "closed")
    assert json.loads(done.stdout) == dict.fromkeys(wanted, True) | raised


def test_any_other_thread_calls_for_itself() -> None:
    """Ctrl-C strikes the main thread alone."""
    aside, seen = Aside("test"), list[threading.Thread]()
    caller = threading.Thread(target=lambda: seen.append(aside.call(threading.current_thread)))
    caller.start()
    caller.join()
    assert seen == [caller]


def test_where_no_thread_can_be_had_the_call_is_made_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the interpreter is ending."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(threading, "main_thread", threading.current_thread)
    assert Aside("test").call(threading.get_ident) == threading.get_ident()
