"""Under gevent, whose greenlets stand in for threads once it has patched the standard library."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

_HEAD = """\
from gevent import monkey
monkey.patch_all()
import sys, time
import gevent
from leases import Lock, LeaseLost, connect
store = connect(sys.argv[1])
"""


@pytest.fixture(scope="module", autouse=True)
def _gevent() -> None:
    if find_spec("gevent") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("gevent is not installed, and CI is to run these tests: install leases[suite]")
        pytest.skip("gevent is not installed: pip install gevent")


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store in the process, and one in a file."""
    return "memory:" if request.param == "memory" else f"sqlite://{tmp_path}/leases.db"


def _run(url: str, script: str) -> str:
    path = os.pathsep.join([str(ROOT), str(ROOT / "backends")])
    done = subprocess.run(
        [sys.executable, "-c", _HEAD + script, url],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_lock_is_acquired_and_released(url: str) -> None:
    """A greenlet acquires, holds and releases as a thread does."""
    script = """
with Lock("job", store=store, timeout=10) as lease:
    print(lease.held, store.status("job").held)
print(lease.held, store.status("job").held)
"""
    assert _run(url, script).split() == ["True", "True", "False", "False"]


def test_greenlets_queue(url: str) -> None:
    """Of two greenlets the second waits, without stopping the loop that the first needs to go on."""
    script = """
lock, seen = Lock("job", store=store, timeout=20), []
def work(who):
    with lock as lease:
        seen.append((who, "in", lease.token))
        gevent.sleep(0.1)
        seen.append((who, "out", lease.token))
gevent.joinall([gevent.spawn(work, "first"), gevent.spawn(work, "second")], raise_error=True, timeout=30)
assert [s[:2] for s in seen] == [("first", "in"), ("first", "out"), ("second", "in"), ("second", "out")], seen
assert seen[0][2] < seen[2][2], seen
print("queued")
"""
    assert _run(url, script) == "queued"


@pytest.mark.waits
def test_lease_is_renewed(url: str) -> None:
    """A lease outlasts its ttl while its greenlet sleeps."""
    script = """
with Lock("job", store=store, ttl=1, timeout=10) as lease:
    first = store.status("job").renewed
    gevent.sleep(1.6)
    lease.check()
    assert store.status("job").renewed > first
print("renewed")
"""
    assert _run(url, script) == "renewed"


@pytest.mark.waits
def test_loss_is_noticed(url: str) -> None:
    """A greenlet that waits for the loss wakes when the record is taken away, and the body raises."""
    script = """
heard = []
try:
    with Lock("job", store=store, ttl=1, timeout=10, on_lost=lambda lease, loss: heard.append(loss)) as lease:
        backend = store.hub.backend
        backend.swap(backend.read("job", 5), None, 5)
        assert lease.lost.wait(10), "no loss was noticed"
        assert not lease.held
except LeaseLost as loss:
    print("lost", loss.reason)
until = time.monotonic() + 10
while not heard and time.monotonic() < until:
    gevent.sleep(0.01)
print(len(heard))
"""
    assert _run(url, script).split() == ["lost", "broken", "1"]
