"""Clusters of three while twenty clients contend: a member dies, then the leader, then all restart in turn.

Each client is a process. Inside a lock it takes a lock of the kernel's that must be free, and writes into
a log that all share. Another client holds a lock all the time and must not lose it.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab.clients import Remote
from lab.entries import entries, faults, turns
from servers.fixtures import launched
from servers.process import Node

LONG = bool(os.environ.get("LEASES_LONG"))
ROUNDS = 3 if LONG else 1
CLIENTS = 20
NAMES = [f"contended/{number}" for number in range(4)]
TTL = 3.0
KEPT = "kept"
KEPT_TTL = 15.0
RECOVERY_SECONDS = 60.0

CLUSTERS = [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("etcd", "zookeeper", "consul")]

pytestmark = pytest.mark.timeout(900 if LONG else 180)


class Contest:
    """The clients, and what they write down."""

    def __init__(self, url: str, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.keeper = stack.enter_context(Remote(url, "keeper"))
        self.clients = [stack.enter_context(Remote(url, f"client-{number}")) for number in range(CLIENTS)]
        for client in (self.keeper, *self.clients):
            client.hear()
        self.token: int = self.keeper("hold", names=[KEPT], terms={"ttl": KEPT_TTL})["holds"][KEPT]
        for number, client in enumerate(self.clients):
            name = NAMES[number % len(NAMES)]
            client.order("contend", names=[name], ttl=TTL, work=0.01, folder=str(folder), turns=1_000_000)

    def everybody_goes_on(self) -> float:
        """Wait until each client was inside once more, none with another; the seconds it took."""
        began = time.monotonic()
        missing = {client.name for client in self.clients}
        while missing:
            assert time.monotonic() < began + RECOVERY_SECONDS, f"{sorted(missing)} do not go on"
            time.sleep(0.1)
            missing -= {entry.who for entry in entries(self.folder) if entry.entered > began}
        assert faults(entries(self.folder)) == []
        return time.monotonic() - began

    def end(self) -> None:
        """All leave, and leave nothing behind: no thread and no connection."""
        for client in self.clients:
            client.order("cease")
            client.order("close")
        for client in self.clients:
            while "left" not in (told := client.hear()):
                pass
            assert told == {"left": [], "sockets": 0}, client.name

    def kept(self) -> None:
        """The lock that is held all the time is held, in the same tenure."""
        assert self.keeper("beat") == {"stands": {KEPT: [True, self.token]}}


@pytest.mark.safety
@pytest.mark.slow
@pytest.mark.parametrize("store", CLUSTERS)
def test_members_die_and_restart_under_twenty_clients(store: str, tmp_path: Path) -> None:
    """No overlap, tokens rise, a holder keeps its lease while the store comes back in time, all go on."""
    took: dict[str, float] = {}
    with ExitStack() as stack:
        cluster = stack.enter_context(launched(store, nodes=3))
        contest = Contest(cluster.url, tmp_path, stack)
        took["the start"] = contest.everybody_goes_on()
        for what in ("member", "leader") * ROUNDS:
            leader = cluster.leader()
            dying = leader if what == "leader" else next(node for node in cluster.nodes if node is not leader)
            dying.kill()
            took[f"a {what} killed"] = contest.everybody_goes_on()
            contest.kept()
            dying.start()
        for node in cluster.nodes * ROUNDS:
            node.restart()
            took[f"{node.name} restarted"] = contest.everybody_goes_on()
            contest.kept()
        contest.end()
    found = entries(tmp_path)
    assert faults(found) == []
    print(f"\n{store}: {len(found)} entries by {len(turns(found))} clients; seconds until all went on:")
    print("  after " + ", ".join(f"{what} {seconds:.1f}" for what, seconds in took.items()))


def thaw_all(nodes: list[Node]) -> None:
    for node in nodes:
        node.thaw()


@pytest.mark.safety
@pytest.mark.waits
@pytest.mark.parametrize("store", CLUSTERS)
def test_member_without_a_quorum_keeps_nobody_in_office(store: str) -> None:
    """S28, S34: the holder's member lives and both others stand still: lost is told before another enters."""
    with ExitStack() as stack:
        cluster = stack.enter_context(launched(store, nodes=3))
        mine, *others = sorted(cluster.nodes, key=lambda node: node is cluster.leader())
        holder = stack.enter_context(Remote(cluster.url_of(mine), "holder"))
        waiter = stack.enter_context(Remote(cluster.url_of(*others), "waiter"))
        for client in (holder, waiter):
            client.hear()
        token = holder("hold", names=["office"], terms={"ttl": TTL})["holds"]["office"]
        waiter("wait", names=["office"], terms={"ttl": TTL})
        time.sleep(TTL / 6)
        for node in others:
            node.freeze()
        thaw = threading.Timer(TTL, thaw_all, (others,))
        thaw.start()
        try:
            ended, entered = holder.hear()["ended"]["office"], waiter.hear()
        finally:
            thaw.join()
    assert ended["why"] == "expired"
    assert max(ended["stood"], ended["told"], ended["woke"]) < entered["entered"]
    assert token < entered["token"]
