"""An application that is a shell script with curl follows its sidecar, on a real store."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.places import REAL, Place, _every
from leases.clock import system_clock
from leases_command import BEATING, Shop, alive, until
from sidecars import Sidecar
from stores import STORES, Site, sent

SCRIPT = Path(__file__).parent.parent / "examples" / "sidecar_app.sh"
TTL = 2.0
# The others with LEASES_LONG=1: what a sidecar says does not depend on the store.
on_places = _every(tuple(kind for kind in REAL if kind.name == "etcd" or os.environ.get("LEASES_LONG")))

pytestmark = pytest.mark.waits


class App:
    """The script beside a sidecar, with a command that writes down when it is alive."""

    def __init__(self, shop: Shop, url: str, name: str) -> None:
        self.beats_file = shop.folder / f"{name}.beats"
        words = (str(SCRIPT), url, sys.executable, "-c", BEATING, str(self.beats_file))
        self._log = shop.folder / f"{name}.log"
        with self._log.open("w") as log:
            self.process = shop.start(*words, program=("sh",), stdout=log)

    def close(self) -> None:
        """End it with all that it has started, whatever state it is in."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def beats(self) -> list[tuple[int, float]]:
        """Process and instant of every beat of the command."""
        if not self.beats_file.exists():
            return []
        lines = self.beats_file.read_text().split("\n")[:-1]
        return [(int(who), float(at)) for who, at in (line.split() for line in lines)]

    def works(self) -> bool:
        """Whether its command lives."""
        return any(alive(who) for who in {who for who, _ in self.beats()})

    def tokens(self) -> list[int]:
        """By which it has led."""
        lines = self._log.read_text().splitlines()
        return [int(line.rpartition(" ")[2]) for line in lines if line.startswith("leads")]


Apps = Callable[[Shop, str, str], App]


@pytest.fixture
def shop(place: Place, tmp_path: Path) -> Iterator[Shop]:
    """Commands of the test, at its place."""
    made = Shop(tmp_path, Site(place.kind, place.url, place.server))
    yield made
    made.close()


@pytest.fixture
def apps() -> Iterator[Apps]:
    """Applications that end with the test."""
    made: list[App] = []

    def app(shop: Shop, url: str, name: str) -> App:
        made.append(App(shop, url, name))
        return made[-1]

    yield app
    for one in made:
        one.close()


@on_places
def test_the_application_follows_its_sidecar_through_everything(place: Place, shop: Shop, apps: Apps) -> None:
    """Start, elected, cut off from the store, stepped down before the ttl, healed, resigned."""
    ttl = ("--ttl", str(TTL))
    with place.link() as link:
        one = Sidecar(shop, "--id", "one", "--backend", link.url, *ttl)
        first = apps(shop, one.url, "one")
        until(first.works)
        assert one.leads()
        two = Sidecar(shop, "--id", "two", *ttl)
        second = apps(shop, two.url, "two")
        until(lambda: two.state()["name"] == "one" and shop.holder() == "one")
        assert not second.beats()

        link.proxy.silence()
        record = shop.slot().claim
        assert record is not None and record.holder == "one"
        until(lambda: not first.works())
        stopped = max(at for _, at in first.beats())
        assert stopped < sent(record) + TTL, "it worked when another could already have had the lock"
        until(lambda: not one.leads())
        assert system_clock().hold < sent(record) + TTL
        assert one.state()["name"] == ""
        until(second.works)
        began = min(at for _, at in second.beats())
        assert stopped < began
        assert one.state()["name"] == "", "who is cut off cannot know who leads"

        link.proxy.heal()
        until(lambda: one.state()["name"] == "two")
        assert two.ask("/resign", "POST").status == 200
        until(lambda: not second.works())
        gone = max(at for _, at in second.beats())
        until(first.works)
        returned = min(at for _, at in first.beats() if at > stopped)
        assert gone < returned
        assert one.leads()
    tokens = [*first.tokens()[:1], *second.tokens(), *first.tokens()[1:]]
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 3
    margin, gap = sent(record) + TTL - stopped, returned - gone
    print(f"\n{place.name}: stopped {margin:.2f} s before the ttl was over; {gap:.2f} s from resign to work")


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Shop]:
    """Commands of the test, on a file."""
    made = Shop(tmp_path, Site(STORES[0], "memory:unused"))
    yield made
    made.close()


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_sidecar_that_hangs_or_is_gone_stops_the_application(
    here: Shop, apps: Apps, number: signal.Signals
) -> None:
    """No answer counts for longer than it said that it would."""
    one = Sidecar(here, "--ttl", str(TTL))
    app = apps(here, one.url, "one")
    until(app.works)
    os.kill(one.process.pid, number)
    record = here.slot().claim
    assert record is not None
    until(lambda: not app.works())
    assert max(at for _, at in app.beats()) < sent(record) + TTL
    os.kill(one.process.pid, signal.SIGCONT)


def test_a_sidecar_that_was_stopped_does_not_wake_as_a_leader(here: Shop) -> None:
    """Its first answer is from the clock, and not from what it knew before."""
    one = Sidecar(here, "--id", "one", "--ttl", str(TTL))
    until(one.leads)
    os.kill(one.process.pid, signal.SIGSTOP)
    two = Sidecar(here, "--id", "two", "--ttl", str(TTL))
    until(two.leads)
    first: list[int] = []
    asking = threading.Thread(target=lambda: first.append(one.ask("/leader").status))
    asking.start()
    time.sleep(0.1)  # It is asked while it stands still.
    os.kill(one.process.pid, signal.SIGCONT)
    asking.join(30)
    assert first == [404]
    until(lambda: one.state()["name"] == "two")
