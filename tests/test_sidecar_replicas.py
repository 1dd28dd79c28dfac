"""Three replicas are restarted one after the other: for how long nobody leads."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import threading
import time

import pytest

import stores
from leases_command import PATIENCE, Shop, until
from sidecars import Sidecar, ask
from stores import SHARED

TTL = 5.0
# The others with LEASES_LONG=1.
on_stores = stores._every(
    tuple(kind for kind in SHARED if kind.name == "etcd" or os.environ.get("LEASES_LONG"))
)

pytestmark = pytest.mark.waits


class Census(threading.Thread):
    """Asks all replicas again and again whether they lead.

    Attributes:
        urls: of the replicas, by name.
        seen: when a leader was seen, and who.
    """

    def __init__(self, urls: dict[str, str]) -> None:
        super().__init__(daemon=True)
        self.urls, self.seen = urls, list[tuple[float, str]]()
        self._over = False

    def run(self) -> None:
        while not self._over:
            for name, url in list(self.urls.items()):
                with contextlib.suppress(OSError, http.client.HTTPException):
                    if ask(url, "/leader").status == 200:
                        self.seen.append((time.monotonic(), name))
            time.sleep(0.005)

    def close(self) -> None:
        """Ask no more."""
        self._over = True
        self.join(PATIENCE)

    def leader(self) -> str:
        """Who led when somebody was asked last."""
        until(lambda: self.seen)
        return self.seen[-1][1]

    def gap_after(self, name: str, since: float) -> float:
        """Seconds from when that one was last seen to lead to the next leader; waits for that."""
        until(lambda: self.seen[-1][0] > since and self.seen[-1][1] != name)
        last = max(at for at, who in self.seen if who == name)
        return min(at for at, _ in self.seen if at > last) - last


@on_stores
def test_a_rolling_restart_leaves_nobody_waiting_for_a_ttl(shop: Shop) -> None:
    """Who gets SIGTERM resigns first; who is killed is waited for."""
    replicas = {name: Sidecar(shop, "--id", name, "--ttl", str(TTL)) for name in "abc"}
    census = Census({name: one.url for name, one in replicas.items()})
    census.start()
    try:
        gaps: list[float] = []
        for _ in range(3):
            leader = census.leader()
            until(lambda who=leader: all(one.state()["name"] == who for one in replicas.values()))
            process, told = replicas[leader].process, time.monotonic()
            process.send_signal(signal.SIGTERM)
            gaps.append(census.gap_after(leader, told))
            assert process.wait(PATIENCE) == 0
            replicas[leader] = Sidecar(shop, "--id", leader, "--ttl", str(TTL))
            census.urls[leader] = replicas[leader].url
        leader = census.leader()
        until(lambda: all(one.state()["name"] == leader for one in replicas.values()))
        killed = time.monotonic()
        replicas[leader].process.kill()
        contrast = census.gap_after(leader, killed)
    finally:
        census.close()
    shown = ", ".join(f"{gap:.2f}" for gap in gaps)
    store, over = shop.url.partition(":")[0], f"{contrast:.2f} s with SIGKILL"
    print(f"\n{store}, ttl {TTL:g} s: without a leader for {shown} s with SIGTERM, {over}")
    assert max(gaps) < TTL / 2
    assert contrast > max(gaps)
