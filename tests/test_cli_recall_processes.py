"""A holder that was killed is recognised by the second of two tries that do not wait, on every server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from leases.clock import boot_id
from leases_command import LEASES, Shop, until
from stores import SHARED, Site, _every

SHM: Final = Path("/dev/shm")  # noqa: S108 - where the memory of a host is a folder

on_every_server = _every([kind for kind in SHARED if kind.served])
on_etcd = _every([kind for kind in SHARED if kind.name == "etcd"])

pytestmark = pytest.mark.skipif(
    boot_id() is None or not os.access(SHM, os.W_OK), reason="nothing can be remembered on this host"
)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in the memory of this host."""
    with tempfile.TemporaryDirectory(dir=SHM, prefix="leases-test-") as folder:
        yield Path(folder)


def kill(holder: subprocess.Popen[str]) -> None:
    """End a holder as the loss of power does."""
    holder.kill()
    holder.wait()


@pytest.fixture
def shop(site: Site, tmp_path: Path, memory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(memory))
    shop = Shop(tmp_path, site)
    yield shop
    shop.close()


@pytest.mark.waits
@on_every_server
def test_the_living_and_the_dead(shop: Shop) -> None:
    """A living holder keeps its lock, however late others try again; killed, it loses it to the second."""
    ttl = shop.site.short + 0.5
    holder = shop.hold("--ttl", str(ttl), "--", "sleep", "60")
    token = shop.slot().token
    for _ in range(2):
        assert shop.run("hold", "job", "-n", "--", "true").returncode == 75
        time.sleep(ttl)
    kill(holder)
    assert shop.slot().token == token
    done = shop.run("hold", "job", "-n", "--", "true")
    assert done.returncode == 75 and "cannot be" not in done.stderr
    time.sleep(ttl)
    assert shop.run("hold", "job", "-n", "--", "true").returncode == 0


@pytest.mark.waits
@on_etcd
def test_a_short_wait_goes_on_where_the_last_one_ended(shop: Shop) -> None:
    """With -w shorter than the ttl one of the tries has seen enough; no single one has to wait for it."""
    kill(shop.hold("--ttl", "1.5", "--", "sleep", "60"))
    codes = [shop.run("hold", "job", "-w", "0.5", "--", "true").returncode for _ in range(3)]
    assert codes[0] == 75 and codes[-1] == 0


@pytest.mark.waits
@on_etcd
def test_who_gives_up_waiting_remembers_too(shop: Shop) -> None:
    """What a command saw that was interrupted while it waited is not lost."""
    kill(shop.hold("--ttl", "1.5", "--", "sleep", "60"))
    waiter = shop.start("hold", "job", "--verbose", "--", "true")
    assert waiter.stderr is not None and "waiting for" in waiter.stderr.readline()
    since = time.monotonic()
    waiter.terminate()
    assert waiter.wait(30) == 143
    time.sleep(max(since + 1.5 - time.monotonic(), 0.0))
    assert shop.run("hold", "job", "-n", "--", "true").returncode == 0


@pytest.mark.waits
@on_etcd
def test_a_dead_holder_of_a_slot(shop: Shop) -> None:
    """Of two slots, the one whose holder was killed goes to the second try."""
    words = ("job", "--slots", "2", "--ttl", "3")
    first, second = (shop.start("hold", *words, "--", "sleep", "60") for _ in range(2))
    until(lambda: all(shop.holder(f"job/slot-{slot}") for slot in range(2)))
    kill(first)
    assert shop.run("hold", *words, "-n", "--", "true").returncode == 75
    time.sleep(3)
    assert shop.run("hold", *words, "-n", "--", "true").returncode == 0
    assert second.poll() is None


# It has no place to keep anything in.
FORGETFUL: Final = """
import sys
from leases.cli import main, shelf
shelf.places = lambda: [shelf.Place("/no/such/folder", "leases")]
sys.exit(main(sys.argv[1:]))
"""


@on_etcd
def test_what_cannot_be_kept_is_said(shop: Shop) -> None:
    """Where nothing can be remembered, -n says that it cannot recognise the dead; --json has it as a fact."""
    holder = shop.hold("--", "sleep", "60")
    program = (sys.executable, "-c", FORGETFUL)
    done = shop.run("hold", "job", "-n", "--", "true", program=program)
    assert done.returncode == 75 and done.stderr.count("\n") == 1
    assert "a dead holder cannot be recognised here" in done.stderr
    assert "/no/such/folder/leases: No such file or directory" in done.stderr
    for words, remembered in ((program, False), (LEASES, True)):
        done = shop.run("hold", "job", "--skip", "--json", "--", "true", program=words)
        events = [json.loads(line) for line in done.stderr.splitlines()]
        (conflict,) = (event for event in events if event["event"] == "conflict")
        assert done.returncode == 0 and conflict["remembered"] is remembered
    holder.terminate()
    holder.wait()
