"""Electors of client-go and locks of ours keep each other out on one Lease, whatever happens to them.

Who leads holds flock(2) on one file, so that two at once are seen from outside, by neither's own account.
A minute of it is enough to see the mistakes that matter; LEASES_LONG=1 makes it five.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import secrets
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from leases import connect
from leases_command import LEASES
from servers.build import Missing
from servers.clientgo import elector
from servers.kubernetes import KubernetesServer, own
from servers.proxy import BOTH, Proxy

FIGHT_S: Final = 300.0 if os.environ.get("LEASES_LONG") else 40.0
LEASE_S: Final = 3  # what client-go is told, and no ttl of ours is longer

# The work under a lock of ours: it takes the file, and leaves after a while if it is let.
WORKER: Final = """
import fcntl, os, sys, time
arena, journal, seconds = sys.argv[1:]
def tell(word):
    with open(journal, "a") as log:
        log.write(f"{word} {os.environ['LEASES_HOLDER']}\\n")
with open(arena, "a") as file:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        tell("overlap")
        sys.exit(3)
    tell("start")
    time.sleep(float(seconds))
    tell("stop")
"""


class Ring:
    """One Lease, the file that its leader holds, and those who fight for it."""

    def __init__(self, server: KubernetesServer, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.name = f"ring-{secrets.token_hex(3)}"
        self.arena, self.journal = folder / "arena", folder / "journal"
        self._count = 0
        self._started: list[subprocess.Popen[bytes]] = []

    def ours(self, seconds: float) -> subprocess.Popen[bytes]:
        """`leases hold` with work for so many seconds."""
        who = self._who("ours")
        work = [sys.executable, "-S", "-c", WORKER, self.arena, self.journal, str(seconds)]
        options = ["--ttl", str(LEASE_S), "--kill-after", "0.2", "--holder", who]
        options += ["--backend", self.server.url]
        return self._start([*LEASES, "hold", self.name, *options, "--", *work])

    def theirs(self, *options: str, kubeconfig: Path | None = None) -> subprocess.Popen[bytes]:
        """An elector of client-go."""
        settings = {
            "kubeconfig": kubeconfig or self.server.folder / "admin.kubeconfig",
            "name": self.name,
            "identity": self._who("theirs"),
            "arena": self.arena,
            "journal": self.journal,
            "lease": f"{LEASE_S}s",
            "deadline": "2s",
            "retry": "500ms",
        }
        words = [f"--{key}={value}" for key, value in settings.items()]
        return self._start([str(elector()), *words, *options])

    def told(self, word: str, who: str = "") -> list[str]:
        """Who had something told in the journal."""
        lines = self.journal.read_text().split("\n")[:-1] if self.journal.exists() else []
        pairs = [line.split() for line in lines]
        return [name for said, name in pairs if said == word and name.startswith(who)]

    def close(self) -> None:
        """End all who are left."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.send_signal(signal.SIGCONT)
            process.wait()

    def _who(self, whose: str) -> str:
        self._count += 1
        return f"{whose}-{self._count}"

    def _start(self, command: list[Any]) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._started.append(process)
        return process


class History:
    """Every state of one Lease, as the API server's own watch tells it."""

    def __init__(self, server: KubernetesServer, name: str) -> None:
        self.specs: list[dict[str, Any]] = []
        context = ssl.create_default_context(cafile=str(server.authority.ca))
        path = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
        url = f"{server.address}{path}?watch=1&fieldSelector=metadata.name={name}"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {server.admin}"})
        opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=context), urllib.request.ProxyHandler({})
        )
        self._response = opener.open(request, timeout=FIGHT_S + 60.0)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._response:
            self.specs.append(json.loads(line)["object"]["spec"])

    def transitions(self) -> list[tuple[str, int, int]]:
        """Every change of holder: who came, and the number of transitions before and after."""
        found: list[tuple[str, int, int]] = []
        for before, after in zip(self.specs, self.specs[1:], strict=False):
            came = after["holderIdentity"]
            numbers = before.get("leaseTransitions", 0), after.get("leaseTransitions", 0)
            if came and came != before["holderIdentity"]:
                found.append((came, *numbers))
            else:
                assert numbers[0] == numbers[1], (before, after)
        return found


@pytest.fixture
def kubernetes(kubernetes: object) -> KubernetesServer:
    return own(kubernetes)


@pytest.fixture
def ring(kubernetes: KubernetesServer, tmp_path: Path) -> Iterator[Ring]:
    try:
        elector()
    except Missing as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))
    made = Ring(kubernetes, tmp_path)
    yield made
    made.close()


def until(true: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until a function says something true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)


@dataclass
class Fighter:
    """One place in the ring, and what is done to whoever has it."""

    start: Callable[[], subprocess.Popen[bytes]]
    pausable: bool
    process: subprocess.Popen[bytes] | None = None
    thaws_at: float = 0.0

    def live(self, dice: random.Random) -> None:
        """Begin, go on, be killed, or be stopped for longer than a lease lasts."""
        if self.process is None or self.process.poll() is not None:
            self.process = self.start()
        elif self.thaws_at:
            if time.monotonic() > self.thaws_at:
                self.process.send_signal(signal.SIGCONT)
                self.thaws_at = 0.0
        elif dice.random() < 0.008:
            self.process.kill()
        elif self.pausable and dice.random() < 0.01:
            self.process.send_signal(signal.SIGSTOP)
            self.thaws_at = time.monotonic() + LEASE_S * dice.uniform(0.5, 1.8)


def resigning(dice: random.Random, longest: float) -> list[str]:
    """Options of client-go: resign after a while, usually with a release, without which ours wait longest."""
    release = ["--release"] if dice.random() < 0.7 else []
    return [f"--tenure={dice.uniform(0.1, longest):.2f}s", *release]


@pytest.mark.safety
@pytest.mark.timeout(FIGHT_S + 120.0)
def test_an_elector_of_client_go_and_ours_never_lead_at_once(
    kubernetes: KubernetesServer, ring: Ring
) -> None:
    """Two of each, killed and stopped in the midst of it; transitions are counted as client-go does."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    first = ring.ours(0.1)
    assert first.wait(30) == 0
    history = History(kubernetes, ring.name)
    fighters = [
        Fighter(lambda: ring.ours(dice.uniform(0.05, 1.5)), pausable=True),
        Fighter(lambda: ring.ours(dice.uniform(0.05, 6.0)), pausable=True),
        # A client-go that is stopped leads on when it goes on, so that these are only killed.
        Fighter(lambda: ring.theirs(*resigning(dice, 1.5)), pausable=False),
        Fighter(lambda: ring.theirs(*resigning(dice, 6.0)), pausable=False),
    ]
    end = time.monotonic() + FIGHT_S
    while time.monotonic() < end:
        for fighter in fighters:
            fighter.live(dice)
        time.sleep(0.1)
    assert ring.told("overlap") == []
    ours, theirs = len(ring.told("start", "ours")), len(ring.told("start", "theirs"))
    transitions = history.transitions()
    print(f"{ours} tenures of ours, {theirs} of client-go, {len(transitions)} transitions")
    assert ours >= 2 and theirs >= 2
    assert len(transitions) >= ours + theirs - 2
    assert [after for _, _, after in transitions] == [before + 1 for _, before, _ in transitions]


@pytest.mark.safety
def test_an_elector_that_hangs_in_its_release_is_waited_for(kubernetes: KubernetesServer, ring: Ring) -> None:
    """Cut off, with ReleaseOnCancel, it leads on past its own lease; ours wait twice as long."""
    with (
        Proxy(kubernetes.nodes[-1].ports["https"]) as proxy,
        connect(kubernetes.url) as store,
        ring.arena.open("a") as file,
    ):
        far = kubernetes.kubeconfig(
            f"far-{ring.name}", {"token": kubernetes.admin}, cluster={"server": f"https://{proxy.at}"}
        )
        ring.theirs("--release", kubeconfig=far)
        until(lambda: ring.told("start"))
        timer = threading.Timer(2 * LEASE_S / 3, lambda: proxy.silence(*BOTH))
        timer.start()
        with store.lock(ring.name, ttl=LEASE_S, timeout=60.0) as lease:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            assert lease.held and not timer.is_alive()
        timer.join()
        proxy.cut()
        proxy.heal()
    assert ring.told("overlap") == []
