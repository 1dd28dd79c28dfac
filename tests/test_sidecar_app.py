"""An application that is a shell script with curl follows its sidecar, on a real store."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lab.places import REAL, Place, _every
from leases.clock import system_clock
from leases_command import BEATING, PATIENCE, Shop, alive, until
from sidecars import Sidecar
from stores import STORES, Site, sent

SCRIPT = Path(__file__).parent.parent / "examples" / "sidecar_app.sh"
TTL = 2.0
# The others with LEASES_LONG=1: what a sidecar says does not depend on the store.
on_places = _every(tuple(kind for kind in REAL if kind.name == "etcd" or os.environ.get("LEASES_LONG")))

pytestmark = pytest.mark.waits


class Tenure(NamedTuple):
    """Between these two instants a command has certainly worked."""

    entered: float
    left: float


class App:
    """The script beside a sidecar, with a command that writes down when it is alive.

    Args:
        shop: where it runs.
        url: of its sidecar.
        name: of its files.
        habits: those of `BEATING`.
        within: a command that runs the one that beats.
    """

    def __init__(
        self, shop: Shop, url: str, name: str, habits: tuple[str, ...] = (), within: tuple[str, ...] = ()
    ) -> None:
        self.beats_file = shop.folder / f"{name}.beats"
        words = (str(SCRIPT), url, *within, sys.executable, "-c", BEATING, str(self.beats_file), *habits)
        self._log = shop.folder / f"{name}.log"
        with self._log.open("w") as log:
            self.process = shop.start(*words, program=("sh",), stdout=log)

    def close(self) -> None:
        """End it with all that it has started, whatever state it is in."""
        for group in (self.process.pid, *{who for who, _ in self.beats()}):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(os.getpgid(group), signal.SIGKILL)

    def beats(self) -> list[tuple[int, float]]:
        """Process and instant of every beat of the command."""
        if not self.beats_file.exists():
            return []
        lines = self.beats_file.read_text().split("\n")[:-1]
        return [(int(who), float(at)) for who, at in (line.split() for line in lines)]

    def tenures(self) -> list[Tenure]:
        """From the first beat of a process to its last, process by process."""
        instants: dict[int, list[float]] = {}
        for who, at in self.beats():
            instants.setdefault(who, []).append(at)
        return [Tenure(own[0], own[-1]) for own in instants.values()]

    def works(self) -> bool:
        """Whether its command lives."""
        return any(alive(who) for who in {who for who, _ in self.beats()})

    def tokens(self) -> list[int]:
        """By which it has led."""
        lines = self._log.read_text().splitlines()
        return [int(line.rpartition(" ")[2]) for line in lines if line.startswith("leads")]


Apps = Callable[..., App]


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

    def app(*args: Any) -> App:
        made.append(App(*args))
        return made[-1]

    yield app
    for one in made:
        one.close()


@pytest.mark.safety
@on_places
def test_the_application_follows_its_sidecar_through_everything(place: Place, shop: Shop, apps: Apps) -> None:
    """Start, elected, cut off from the store, stepped down before the ttl, healed, resigned."""
    # The drain covers the end of the command, also where forty processes want the two cores.
    ttl = 4.0
    options = ("--ttl", str(ttl), "--drain", "0.9")
    with place.link() as link:
        one = Sidecar(shop, "--id", "one", "--backend", link.url, *options)
        first = apps(shop, one.url, "one")
        until(first.works)
        assert one.leads()
        two = Sidecar(shop, "--id", "two", *options)
        second = apps(shop, two.url, "two")
        until(lambda: two.state()["name"] == "one" and shop.holder() == "one")
        assert not second.beats()

        link.proxy.silence()
        record = shop.slot().claim
        assert record is not None and record.holder == "one"
        until(lambda: not first.works())
        stopped = max(at for _, at in first.beats())
        assert stopped < sent(record) + ttl, "it worked when another could already have had the lock"
        until(lambda: not one.leads())
        assert system_clock().hold < sent(record) + ttl
        assert one.state()["name"] == ""
        until(second.works)
        assert one.state()["name"] == "", "who is cut off cannot know who leads"

        link.proxy.heal()
        until(lambda: one.state()["name"] == "two")
        assert two.ask("/resign", "POST").status == 200
        until(lambda: len(first.tenures()) == 2)
        assert one.leads()
    tenures = sorted([*first.tenures(), *second.tenures()])
    assert all(before.left < after.entered for before, after in pairwise(tenures)), tenures
    assert len(tenures) == 3
    tokens = [*first.tokens()[:1], *second.tokens(), *first.tokens()[1:]]
    assert tokens == sorted(set(tokens)) and len(tokens) == 3
    margin, gap = sent(record) + ttl - stopped, tenures[2].entered - tenures[1].left
    print(f"\n{place.name}: stopped {margin:.2f} s before the ttl was over; {gap:.2f} s from resign to work")


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Shop]:
    """Commands of the test, on a file."""
    made = Shop(tmp_path, Site(STORES[0], "memory:unused"))
    yield made
    made.close()


@pytest.mark.safety
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


# A shell that ends when it is asked to, and leaves a child; and commands that do not listen.
SHELL = ("sh", "-c", '"$@" & wait', "shell")
on_commands = pytest.mark.parametrize(
    ("habits", "within", "processes"),
    [
        ((), SHELL, 1),
        (("stubborn",), (), 1),
        (("stubborn", "forking"), SHELL, 2),
    ],
    ids=["child", "stubborn", "stubborn children"],
)


@pytest.mark.safety
@on_commands
def test_nothing_of_the_command_works_beside_its_successor(
    here: Shop, apps: Apps, habits: tuple[str, ...], within: tuple[str, ...], processes: int
) -> None:
    """Not its children, and not what does not end when it is asked to."""
    options = ("--ttl", "6", "--drain", "1")
    one = Sidecar(here, "--id", "one", *options)
    first = apps(here, one.url, "one", habits, within)
    until(lambda: len({who for who, _ in first.beats()}) == processes)
    two = Sidecar(here, "--id", "two", *options)
    second = apps(here, two.url, "two")
    until(lambda: two.state()["name"] == "one")
    assert one.ask("/transfer?to=two", "POST").status == 200
    until(second.works)
    assert not first.works()
    assert max(at for _, at in first.beats()) < min(at for _, at in second.beats())


@on_commands
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_script_ends_with_all_of_the_command(
    here: Shop, apps: Apps, number: int, habits: tuple[str, ...], within: tuple[str, ...], processes: int
) -> None:
    """Whoever stops it, and not its group, need not look for the rest."""
    one = Sidecar(here)
    app = apps(here, one.url, "one", habits, within)
    until(lambda: len({who for who, _ in app.beats()}) == processes)
    app.process.send_signal(number)
    assert app.process.wait(PATIENCE) == 0
    assert not app.works()


def test_an_answer_counts_from_before_it_was_asked_for(here: Shop, apps: Apps) -> None:
    """One that has been on its way for long is not believed for longer."""
    delay, expires_in = 1.0, 2.0
    answered: list[float] = []
    over = threading.Event()

    class Late(BaseHTTPRequestHandler):
        """A sidecar that says once, and late, that it leads, and then nothing any more."""

        def do_GET(self) -> None:
            if answered:
                over.wait(PATIENCE)
                return
            over.wait(delay)
            answered.append(system_clock().hold)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"is_leader":true,"token":5,"expires_in":%.1f}' % expires_in)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the base class
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Late) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        app = apps(here, f"http://127.0.0.1:{server.server_port}", "one")
        until(app.works)
        until(lambda: not app.works())
        server.shutdown()
        app.close()
        over.set()
    assert max(at for _, at in app.beats()) < answered[0] + expires_in - delay / 4


def test_a_tool_that_is_missing_is_named(here: Shop, tmp_path: Path) -> None:
    """Before anything is run."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "curl", "awk"):
        (tools / name).symlink_to(shutil.which(name) or name)
    words = (str(SCRIPT), "http://localhost:1", "true")
    ended = here.run(*words, program=(str(tools / "sh"),), env={"PATH": str(tools)})
    assert (ended.returncode, ended.stderr) == (69, "sidecar_app.sh needs setsid; install it\n")
